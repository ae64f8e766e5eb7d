"""Reports: plain tables that mark the conflict."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sysmem_protocol.sysmem2 import (
    SYSTEM_RAM_HEAP,
    BufferUsage,
    CpuUsage,
    Heap,
    PixelFormatAndModifier,
)
from sysmemd.constraints import Participant, Refusal, Rule, aggregate
from sysmemd.explain import main
from sysmemd.explaining import Diagnosis
from sysmemd.explaining.report import MAX_COLUMNS, MAX_VERDICTS, render
from sysmemd.explaining.survey import combined_fields, combined_terms

from ..constraints.support import PLATFORM, C, F, M, diagnosed, image, memory, people, size, wants


def test_a_report_is_a_table_that_marks_fields_and_participants_in_conflict() -> None:
    report = diagnosed(
        wants(image(F.R8, min_size=size(99, 1))),
        wants(image(F.R8, [C.SRGB, C.PASSTHROUGH])),
        wants(
            image(F.R8, max_size=size(98, 98)),
            buffer_memory_constraints=memory(cpu_domain_supported=False, ram_domain_supported=True),
        ),
    ).report()
    assert report.splitlines() == [
        "4 aggregate: min_size must be at most max_size, R8 LINEAR (99 > 98); "
        "p0 (0) $.image_format_constraints[0].min_size.width = 99; "
        "p2 (2) $.image_format_constraints[0].max_size.width = 98",
        "smallest conflicting set: p0 (0), p2 (2)",
        "",
        *TABLE.splitlines()[1:],
        "",
        "formats that dropped out:",
        "  R8 LINEAR: min_size must be at most max_size (99 > 98)",
    ]


# Nobody set whether the inaccessible domain is supported, so it has no row.
TABLE = """
field                                            | p0 (0)*       | p1 (1)              | p2 (2)*       | result
-------------------------------------------------+---------------+---------------------+---------------+--------------
  usage.cpu                                      | READ_OFTEN    | READ_OFTEN          | READ_OFTEN    | READ_OFTEN
  min_buffer_count_for_camping                   | 1             | 1                   | 1             | 3
  buffer_memory_constraints.cpu_domain_supported | true          | true                | false         | false
  buffer_memory_constraints.ram_domain_supported | false         | false               | true          | false
  image_format_constraints                       | [R8 LINEAR]   | [R8 LINEAR]         | [R8 LINEAR]   | []
  R8 LINEAR                                      |               |                     |               |
    .color_spaces                                | [PASSTHROUGH] | [SRGB, PASSTHROUGH] | [PASSTHROUGH] | [PASSTHROUGH]
>   .min_size.width                              | 99            |                     |               | 99 > 98
    .min_size.height                             | 1             |                     |               | 1
>   .max_size.width                              |               |                     | 98            | 99 > 98
    .max_size.height                             |               |                     | 98            | 98
"""


def test_a_report_of_one_participants_own_breach() -> None:
    report = diagnosed(wants(usage=None, min_size_bytes=1)).report()
    assert "smallest conflicting set: p0 (0)" in report
    assert "un-set" in report


def test_a_report_of_what_nobody_said() -> None:
    assert "conflicting set" not in diagnosed(None).report()


def test_formats_that_dropped_out_are_told_with_those_who_do_not_take_them() -> None:
    many = [wants(image(F.L8)) for _ in range(9)]
    report = diagnosed(wants(image(F.R8, min_size=size(1, 1))), *many).report()
    assert "R8 LINEAR: not taken by p1 (1), p2 (2), p3 (3), p4 (4), 5 more" in report
    assert "L8 LINEAR: not taken by p0 (0)" in report


def test_formats_that_open_ones_agree_on_are_told_until_the_first_conflict() -> None:
    any_layout = image(F.NV12, pixel_format_modifier=M.DO_NOT_CARE)
    any_format = image(F.DO_NOT_CARE, pixel_format_modifier=M.LINEAR)
    offers = [wants(each, min_size_bytes=1) for each in (any_layout, any_format, image(F.R8))]
    assert "NV12 LINEAR: not taken by p2 (2)" in diagnosed(*offers).report()
    assert "NV12 LINEAR" not in diagnosed(*offers[::2], offers[1]).report()


def test_a_long_list_of_formats_is_cut() -> None:
    bits = (0, 0x10, 0x20, 0x40, 0x800, 0x1000, 0x2000)
    modifiers = {M.ARM_AFBC_16X16 | one | other for one in bits[:3] for other in bits}
    pairs = [
        PixelFormatAndModifier(f, m)
        for f in (F.R8G8B8A8, F.R8G8B8X8, F.B8G8R8A8, F.B8G8R8X8)
        for m in modifiers
    ]
    long = wants(image(None, pixel_format_and_modifiers=pairs, min_size=size(1, 1)))
    report = diagnosed(long, wants(image(F.R8))).report()
    assert len(pairs) > 2 * MAX_VERDICTS
    assert f"… {len(pairs) + 1 - MAX_VERDICTS} more" in report
    assert len(report.splitlines()) < 60


def test_more_formats_than_can_be_named() -> None:
    junk = [PixelFormatAndModifier(5000 + i, M.DO_NOT_CARE) for i in range(64)]
    more = [PixelFormatAndModifier(6000 + i, M.DO_NOT_CARE) for i in range(64)]
    both = wants(
        image(None, pixel_format_and_modifiers=junk, min_size=size(1, 1)),
        image(None, pixel_format_and_modifiers=more),
    )
    refusal = diagnosed(both)
    assert refusal.values[0].value[-1] == "… 64 more"


def test_columns_are_bounded_and_those_in_conflict_come_first() -> None:
    crowd = [wants(image(F.R8)) for _ in range(2 * MAX_COLUMNS + 3)]
    crowd[0] = wants(
        image(F.R8, min_size=size(9, 9)),
        buffer_memory_constraints=memory(ram_domain_supported=True),
    )
    crowd[-1] = wants(image(F.R8, max_size=size(8, 8)))
    report = diagnosed(*crowd).report().splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in report if "|" in line]
    columns = rows[0]
    assert columns[-3:] == [
        f"p{len(crowd) - 1} ({len(crowd) - 1})*",
        f"{MAX_COLUMNS + 3} more",
        "result",
    ]
    assert len(columns) == MAX_COLUMNS + 3
    hidden = {row[0]: row[-2] for row in rows}
    assert hidden["image_format_constraints"] == f"{MAX_COLUMNS + 3} set"
    assert hidden[">   .min_size.width"] == ""
    assert hidden["buffer_memory_constraints.ram_domain_supported"] == ""


def test_equal_participants_are_told_apart() -> None:
    same = wants(count=65, min_size_bytes=1)
    result = aggregate([Participant(same, "a"), Participant(wants(), "a")], PLATFORM)
    assert not isinstance(result, Refusal)
    three = [Participant(same, "same") for _ in range(3)]
    refusal = aggregate(three, PLATFORM)
    assert isinstance(refusal, Refusal)
    assert len(Diagnosis(refusal).conflict) == 2
    assert Diagnosis(refusal).report().count("same (0)*") == 2


def test_heaps_and_domains_in_a_report() -> None:
    heaps = [memory(permitted_heaps=[SYSTEM_RAM_HEAP], min_size_bytes=1)]
    heaps.append(memory(permitted_heaps=[Heap(heap_type="x")]))
    refusal = diagnosed(*(wants(buffer_memory_constraints=each) for each in heaps))
    assert refusal.rule is Rule.NO_COMMON_HEAP
    assert "[x/0]" in refusal.report(width=60)
    total = combined_fields(refusal.refusal.case)
    assert total is not None
    assert total.heaps == ()


def test_a_domain_that_nobody_set_has_a_row_if_it_is_part_of_the_conflict() -> None:
    no_cpu = wants(
        usage=BufferUsage(display=1), buffer_memory_constraints=memory(cpu_domain_supported=False)
    )
    report = diagnosed(wants(min_size_bytes=1), no_cpu).report()
    assert re.findall(r"> .*\.(\w+)_domain_supported +\| (\w+) +\| (\w+)", report) == [
        ("cpu", "true", "false"),
        ("ram", "false", "true"),
        ("inaccessible", "false", "true"),
    ]


def test_nothing_to_combine() -> None:
    case = diagnosed(wants(usage=None, min_size_bytes=1)).refusal.case
    assert combined_fields(case) is None
    assert combined_terms(case, (F.R8, 0)) == (None, None)


def test_a_combination_that_fails_has_no_terms() -> None:
    refusal = diagnosed(
        *(wants(image(F.R8, [space], min_size=size(1, 1))) for space in (C.SRGB, C.REC709))
    )
    terms, breach = combined_terms(refusal.refusal.case, (F.R8, 0))
    assert terms is None
    assert breach is not None
    assert breach.rule is Rule.NO_COMMON_COLOR_SPACE
    assert "—" in refusal.report()


def test_a_report_about_a_format_that_is_still_open() -> None:
    """Values that depend on the format are not known at that point."""
    open_spaces = [wants(image(F.DO_NOT_CARE, [space])) for space in (C.SRGB, C.REC709)]
    report = diagnosed(*open_spaces, wants(min_size_bytes=1)).report()
    assert ">   .color_spaces" in report
    open_modifier = image(F.NV12, [C.REC709], pixel_format_modifier=M.DO_NOT_CARE)
    low, high = replace(open_modifier, min_size=size(64, 64)), replace(open_modifier)
    high.max_size = size(60, 60)
    report = diagnosed(wants(low), wants(high)).report()
    assert ">   .min_size.width" in report
    assert "NV12 DO_NOT_CARE" in report
    assert diagnosed(wants(replace(low, size_alignment=size(3, 1)))).report()


def test_cells_are_cut() -> None:
    table = render([("a", "b", "result"), ("c" * 9, "d" * 9, "e" * 9)], width=5)
    assert table.splitlines()[-1] == "ccccccccc | dddd… | eeeeeeeee"


def test_usage_that_came_as_numbers_is_named() -> None:
    """Combinations from the wire are numbers. Python's own flags would keep every one of them for ever."""
    before = len(CpuUsage._value2member_map_)
    odd = BufferUsage(cpu=0x4000_0011)
    refusal = diagnosed(wants(count=65, min_size_bytes=1, usage=odd), wants(count=64))
    row = next(line for line in refusal.report().splitlines() if "usage.cpu" in line)
    assert [cell.strip() for cell in row.split("|", 1)[1].split(" | ")] == [
        "READ|0x40000010",
        "READ_OFTEN",
        "READ|READ_OFTEN|0x40000010",
    ]
    assert len(CpuUsage._value2member_map_) == before


def test_a_report_on_a_terminal_that_knows_ascii_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = {"participants": [{"name": "Zoë", "constraints": {"usage": {"cpu": 1}}}]}
    file = tmp_path / "case.json"
    file.write_text(json.dumps(case))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main([str(file)]) == 1
    terminal.seek(0)
    assert "Zo\\xeb (0)" in terminal.read()


def test_people_are_numbered() -> None:
    assert [str(who) for who in people(None, None)] == ["p0 (0)", "p1 (1)"]
