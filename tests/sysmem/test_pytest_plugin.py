"""The fixtures that the package provides for the tests of other projects."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest

from sysmem import blocking
from sysmem.pytest_plugin import Factory
from sysmem.testing import Sysmemd
from sysmem_protocol.sysmem2 import Allocator

pytest_plugins = ["pytester"]


def test_a_daemon_of_its_own(
    sysmemd: Sysmemd, allocator: blocking.Allocator, sysmemd_factory: Factory
) -> None:
    assert sysmemd.runtime_dir.is_dir()
    assert sysmemd.wait_for_log("serving") in sysmemd.log
    with pytest.raises(AssertionError, match="didn't log 'nonsense'"):
        sysmemd.wait_for_log("nonsense", timeout=0.01)
    assert allocator.validate_buffer_collection_token(0, timeout=20) is False
    other = sysmemd_factory(arguments=["--log-format", "json"])
    assert other.runtime_dir != sysmemd.runtime_dir
    with blocking.connect(other.runtime_dir):
        assert '"event": "serving"' in other.wait_for_log("serving")


@pytest.mark.sysmemd(config={"mode": "0660", "limits": {"max_outbox_bytes": 7}, "heap": []})
def test_a_mark_configures_it(sysmemd: Sysmemd) -> None:
    assert (sysmemd.runtime_dir / Allocator.service_name()).stat().st_mode & 0o777 == 0o660


@pytest.mark.sysmemd(config='mode = "0660"', arguments=["--mode", "0640"])
def test_a_mark_may_have_text_and_a_command_line(sysmemd: Sysmemd) -> None:
    assert (sysmemd.runtime_dir / Allocator.service_name()).stat().st_mode & 0o777 == 0o640


def test_a_daemon_that_cannot_start_says_why(sysmemd_factory: Factory) -> None:
    with pytest.raises(AssertionError, match=r"didn't start \(status 1\)\n.*unknown field"):
        sysmemd_factory(config={"no": {"such": ["setting", 1, True]}})


def test_a_long_temporary_directory(
    tmp_path: Path, sysmemd_factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / ("t" * 100)
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    daemon = sysmemd_factory()
    assert directory in daemon.runtime_dir.parents
    with blocking.connect(daemon.runtime_dir) as allocator:
        assert allocator.validate_buffer_collection_token(0, timeout=20) is False


def test_it_tells_what_it_holds_why_and_what_came(
    sysmemd_session: Sysmemd, allocator: blocking.Allocator
) -> None:
    with allocator.allocate_shared_collection() as token:
        token.set_name(1, "video")
        token.sync()
        [collection] = sysmemd_session.snapshot()["collections"]
        assert collection["name"] == "video"
        assert "video" in sysmemd_session.why(collection["id"])
        trace = sysmemd_session.trace()
        assert trace[0]["method"] == "SetDebugClientInfo"
        assert [(each["direction"], each["method"]) for each in trace[-2:]] == [
            ("in", "Sync"),
            ("out", "Sync"),
        ]


pids: list[int] = []


@pytest.mark.parametrize("turn", range(3))
def test_a_daemon_is_shared_by_the_tests_of_a_session(
    sysmemd_session: Sysmemd, allocator: blocking.Allocator, turn: int
) -> None:
    pids.append(sysmemd_session.pid)
    assert allocator.validate_buffer_collection_token(0) is False
    assert len(set(pids)) == 1


def test_what_a_test_leaves_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, signal
        kept = []

        def test_that_is_clean(allocator, sysmemd):
            with allocator.allocate_shared_collection() as token:
                token.sync(timeout=20)

        def test_that_leaves_a_token_open(allocator):
            kept.append(allocator.allocate_shared_collection())
            kept[0].sync(timeout=20)

        def test_that_leaves_a_token_open_in_the_shared_one(sysmemd_session, allocator):
            kept.append(allocator.allocate_shared_collection())
            kept[-1].sync(timeout=20)

        def test_that_is_not_blamed_for_the_one_before(sysmemd_session, allocator):
            pass

        def test_that_failed_and_is_not_blamed_again(allocator):
            kept.append(allocator.allocate_shared_collection())
            assert False

        def test_that_ends_the_daemon_itself(sysmemd):
            os.kill(sysmemd.pid, signal.SIGKILL)
            sysmemd.process.wait()

        def test_that_ends_the_shared_one(sysmemd_session):
            sysmemd_session.process.kill()

        def test_that_has_another_one_then(sysmemd_session, allocator):
            sysmemd_session.faults.refuse_next_allocation()
            assert not allocator.validate_buffer_collection_token(7)
        """
    )
    result = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-W", "ignore::ResourceWarning"
    )
    result.assert_outcomes(passed=7, failed=1, errors=2)
    result.stdout.fnmatch_lines(
        ["*sysmemd still holds 1 descriptors more*", "*token 1 (*) of *, held by *python*"] * 2
    )


def test_a_failed_test_tells_what_the_daemon_knows(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest, sysmem
        from sysmem import testing

        CAMERA = sysmem.constraints("NV12 64x48", cpu="write often", hold=2)
        DISPLAY = sysmem.constraints("B8G8R8A8 64x48", cpu="read", hold=1)

        def test_that_waits(sysmemd, allocator, peer):
            token = allocator.allocate_shared_collection()
            token.set_name(1, "video")
            [other] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
            peer("slow display", token=other, behaviour="never_constrains").wait("turned_in")
            collection = allocator.bind_shared_collection(token)
            collection.set_constraints(CAMERA)
            assert collection.wait_for_all_buffers_allocated(timeout=0.05)

        @pytest.mark.trio
        async def test_that_is_refused():
            async with testing.daemon() as d, d.connect(name="test") as allocator:
                token = await allocator.allocate_shared_collection()
                tokens = await token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 2)
                await token.release()
                both = [await allocator.bind_shared_collection(each) for each in tokens]
                for collection, table in zip(both, (CAMERA, DISPLAY)):
                    await collection.set_constraints(table)
                assert not await both[0].wait_closed()
        """
    )
    result = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-W", "ignore::ResourceWarning"
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*- sysmemd: collections -*",
            "*slow display*",
            "*- sysmemd: who waits for whom -*",
            "*slow display*must*",
            "*- sysmemd: the last messages -*",
            "*slow display*Allocator.BindSharedCollection*",
            "*- sysmemd: the last refusal -*",
            "*no format and modifier is left that everybody takes*",
            "*smallest conflicting set*",
        ]
    )
    told = result.stdout.str().partition("- sysmemd: collections -")[2].splitlines()
    ours = itertools.takewhile(lambda line: not line.startswith("____"), told)
    assert [line for line in ours if len(line) > 80] == []
