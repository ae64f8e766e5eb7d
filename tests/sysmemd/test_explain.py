"""`python -m sysmemd.explain FILE.json`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from sysmem_protocol.sysmem2 import Error
from sysmemd.cases import read_case
from sysmemd.explain import main, work_out
from sysmemd.memory import SYSTEM_RAM, HeapSettings
from sysmemd.negotiation import Negotiation

EXAMPLES = Path(__file__).parents[2] / "examples" / "constraints"

#: Each example: the exit status, and texts that its report must contain.
EXPECTED = {
    "camera_and_viewer": (0, ["pixel_format = NV12 LINEAR", "size_bytes = 3133440"]),
    "count_conflict": (1, ["(8 > 4)", "set: ring buffer (401), archiver (403)"]),
    "format_conflict": (1, ["no color space is left", "set: decoder (201), compositor (202)"]),
    "heap_conflict": (
        1,
        ["no coherency domain", "example.protected", "set: secure decoder (501), screenshot (503)"],
    ),
    "padding": (0, ["size_bytes = 835200", "raw_vmo_size = 839680: padding"]),
    "size_conflict": (1, ["(1920 > 1280)", "set: screen recorder (301), desktop (303)"]),
    "tiled_formats": (0, ["B8G8R8A8 INTEL_I915_Y_TILED: the cheapest, cost 2000"]),
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.json")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, phrases = EXPECTED[name]
    assert main([str(EXAMPLES / f"{name}.json")]) == status
    printed = capsys.readouterr()
    assert printed.out.startswith("refused\n" if status else "agreed\n")
    assert "field" in printed.out
    assert printed.err == ""
    for phrase in phrases:
        assert phrase in printed.out


def test_width(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(EXAMPLES / "padding.json"), "--width", "80"])
    assert "… " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"participants": [{"nmae": "x"}]}', "$.participants[0].nmae: unknown key"),
        ('{"participants": [{"id": "x"}]}', "$.participants[0].id: expected an integer, got text"),
        ("{", "Expecting property name"),
        ("[" * 100_000, ""),
        ("\xff", ""),
    ],
)
def test_a_faulty_file_is_named(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "case.json"
    file.write_bytes(text.encode("latin-1"))
    assert main([str(file)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"{file}: ")
    assert message in printed.err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_as_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "sysmemd.explain")
    monkeypatch.setattr(sys, "argv", ["explain", str(EXAMPLES / "size_conflict.json")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("sysmemd.explain", run_name="__main__")
    assert ended.value.code == 1
    assert capsys.readouterr().out.startswith("refused\n")


def case(*members: object) -> object:
    return {"participants": list(members)}


def wants(name: str, **memory: int) -> dict[str, object]:
    constraints = {"usage": {"cpu": "READ"}, "min_buffer_count": 1}
    return {"name": name, "constraints": {**constraints, "buffer_memory_constraints": memory}}


SMALL = wants("small", min_size_bytes=10, max_size_bytes=100)
LARGE = wants("large", min_size_bytes=200)


def test_a_group_takes_the_first_alternative_with_which_all_agree() -> None:
    result = work_out(case(SMALL, {"group": [[LARGE], [wants("medium", min_size_bytes=50)]]}), 36)
    assert result.agreed
    assert result.data["settings"]["buffer_settings"]["size_bytes"] == 50
    assert [who["name"] for who in result.data["participants"]] == ["small", "medium"]


def test_those_who_attach_cannot_change_what_the_others_have() -> None:
    result = work_out(case(SMALL, {"attached": [LARGE]}), 36)
    assert not result.agreed
    assert result.data == {
        "schema": 1,
        "outcome": "CONSTRAINTS_INTERSECTION_EMPTY",
        "line": result.line,
        "rule": result.data["rule"],
        "conflict": [{"name": "large", "id": 0}, {"name": "the existing buffers", "id": 0}],
    }
    assert "200 > 10" in result.line
    late = [{"attached": [wants(name, min_size_bytes=10)]} for name in ("late", "later", "last")]
    agreed = work_out(case(LARGE, *late), 36)
    assert agreed.agreed
    names = ("large", "late", "later", "last")
    assert agreed.data["participants"] == [{"name": name, "id": 0} for name in names]
    assert (agreed.line, agreed.data["line"], agreed.data["outcome"]) == ("", "", "success")
    assert agreed.data["buffer_count"] == 1


def test_nobody_can_not_agree() -> None:
    with pytest.raises(ValueError, match="needs at least one participant"):
        work_out(case({"group": [[]]}), 36)


def test_those_who_agree_may_want_more_than_a_heap_has() -> None:
    members, platform = read_case(case(LARGE))
    heap = HeapSettings(SYSTEM_RAM.heap_type, max_bytes=4095)
    assert Negotiation(members, platform, heaps=[heap]).attempt.error is Error.NO_MEMORY
    assert Negotiation(members, platform).attempt.error is None
