"""Golden negotiations: the examples have the same results without a daemon and on both faces."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

import sysmem
from sysmem import blocking, testing
from sysmem.pytest_plugin import CompareGolden
from sysmem.testing import Golden, Sysmemd

EXAMPLES = Path(__file__).parents[3] / "examples" / "constraints"
#: Examples that only need the daemon's defaults.
NAMES = ["padding", "size_conflict", "format_conflict", "count_conflict"]


def participants(name: str) -> dict[str, sysmem.BufferCollectionConstraints]:
    data = json.loads((EXAMPLES / f"{name}.json").read_text())
    assert set(data) == {"participants"}
    return {
        each["name"]: sysmem.BufferCollectionConstraints.from_dict(each["constraints"])
        for each in data["participants"]
    }


def report_of(name: str) -> str:
    """Return the result of an example without a daemon."""
    tables = participants(name)
    try:
        return testing.negotiate(tables).explanation
    except sysmem.SysmemError as error:
        return error.report or ""


@pytest.mark.parametrize("name", NAMES)
def test_an_example_without_a_daemon(golden: CompareGolden, name: str) -> None:
    golden(name, report_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_on_the_blocking_face(
    golden: CompareGolden, sysmemd_session: Sysmemd, name: str
) -> None:
    tables = participants(name)
    with contextlib.ExitStack() as stack:
        allocators = [
            stack.enter_context(blocking.connect(sysmemd_session.runtime_dir, name=who))
            for who in tables
        ]
        token = allocators[0].allocate_shared_collection()
        tokens = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * len(tables))
        token.release()
        for allocator, each, table in zip(allocators, tokens, tables.values(), strict=True):
            collection = stack.enter_context(allocator.bind_shared_collection(each))
            collection.set_constraints(table)
        with contextlib.suppress(sysmem.PeerClosedError):
            collection.sync()
        golden(name)


@pytest.mark.trio
@pytest.mark.parametrize("name", NAMES)
async def test_an_example_on_the_async_face(golden: CompareGolden, name: str) -> None:
    tables = participants(name)
    async with testing.daemon() as d:
        with contextlib.ExitStack() as stack:
            allocators = [stack.enter_context(d.connect(name=who)) for who in tables]
            token = await allocators[0].allocate_shared_collection()
            tokens = await token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * len(tables))
            await token.release()
            for allocator, each, table in zip(allocators, tokens, tables.values(), strict=True):
                bound = await allocator.bind_shared_collection(each)
                collection = stack.enter_context(bound)
                await collection.set_constraints(table)
            with contextlib.suppress(sysmem.PeerClosedError):
                await collection.sync()
            golden(name, d)


def test_what_has_changed_is_shown_as_a_difference(tmp_path: Path) -> None:
    before = sysmem.constraints(cpu="read", size_bytes=4096, hold=2)
    after = sysmem.constraints(cpu="read", size_bytes=4096, hold=3)
    golden = Golden(tmp_path / "golden", update=False)
    with pytest.raises(AssertionError, match=r"there is no .*video.txt yet: run pytest with"):
        golden.compare("video", testing.negotiate({"camera": before}))
    Golden(tmp_path / "golden", update=True).compare("video", testing.negotiate({"camera": before}))
    golden.compare("video", testing.negotiate({"camera": before}))
    with pytest.raises(AssertionError, match="--sysmem-update") as failed:
        golden.compare("video", testing.negotiate({"camera": after}))
    assert "-buffer_count = 2" in str(failed.value)
    assert "+buffer_count = 3" in str(failed.value)
