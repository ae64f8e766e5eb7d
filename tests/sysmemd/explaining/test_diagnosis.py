"""A refusal is data: stage, rule, path, values and participants; and one line for the log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sysmem_protocol.sysmem2 import BufferUsage, PixelFormatAndModifier
from sysmemd.constraints import (
    Difference,
    FormatCost,
    HeapProperties,
    Participant,
    Platform,
    Refusal,
    Rule,
    Stage,
    aggregate,
    aggregate_attached,
)
from sysmemd.constraints.rules import Breach
from sysmemd.explaining import Diagnosis
from sysmemd.explaining.diagnosis import MAX_LINE_VALUES

from ..constraints.support import (
    PLATFORM,
    C,
    F,
    M,
    agree,
    diagnosed,
    image,
    memory,
    refused,
    size,
    told,
    wants,
)


def test_a_refusal_of_one_participant() -> None:
    good = image(F.NV12, [C.REC709])
    bad = image(F.R8, min_size=size(99, 1), max_size=size(98, 8))
    refusal = diagnosed(wants(min_size_bytes=1), wants(good, bad))
    assert refusal.stage is Stage.PARTICIPANT
    assert refusal.rule is Rule.MIN_SIZE_OVER_MAX
    assert refusal.refusal.pair == (F.R8, M.LINEAR)
    assert refusal.path == "$.image_format_constraints[1].min_size.width"
    assert [(str(v.participant), v.path, v.value) for v in refusal.values] == [
        ("p1 (1)", "$.image_format_constraints[1].min_size.width", 99),
        ("p1 (1)", "$.image_format_constraints[1].max_size.width", 98),
    ]
    assert [str(who) for who in refusal.conflict] == ["p1 (1)"]
    assert str(refusal) == (
        "1 participant: min_size must be at most max_size, R8 LINEAR (99 > 98); "
        "p1 (1) $.image_format_constraints[1].min_size.width = 99; "
        "p1 (1) $.image_format_constraints[1].max_size.width = 98"
    )


def test_a_refusal_of_several_participants() -> None:
    low = wants(image(F.L8), image(F.R8, min_size=size(99, 1)))
    high = wants(image(F.R8, max_size=size(98, 98)), image(F.L8))
    limited = wants(image(F.R8, max_size=size(97, 1000)), image(F.L8))
    refusal = diagnosed(low, high, limited)
    assert refusal.stage is Stage.AGGREGATE
    assert [str(value) for value in refusal.values] == [
        "p0 (0) $.image_format_constraints[1].min_size.width = 99",
        "p2 (2) $.image_format_constraints[0].max_size.width = 97",
    ]
    # Without p2 the number differs, but the conflict is the same.
    assert [str(who) for who in refusal.conflict] == ["p0 (0)", "p2 (2)"]
    assert str(refusal).endswith("conflict: p0 (0) and p2 (2)")
    assert "conflict" not in refusal.line(conflict=False)


def named(*constraints: Any) -> list[str]:
    """Return the names in a refusal about sizes, without the entries' indices."""
    return [
        f"{value.participant.name} {value.path.partition('].')[2]}"
        for value in diagnosed(*constraints).values
    ]


def test_alignments_are_named_when_they_make_the_difference() -> None:
    low = wants(image(min_size=size(70, 1)))
    aligned = wants(image(size_alignment=size(64, 1)))
    high = wants(image(max_size=size(100, 9)))
    assert named(low, aligned, high) == [
        "p0 min_size.width",
        "p1 size_alignment.width",
        "p2 max_size.width",
    ]
    assert "(128 > 64 in steps of 64)" in str(diagnosed(low, aligned, high))
    assert [who.name for who in diagnosed(low, aligned, high).conflict] == ["p0", "p1", "p2"]
    steps = wants(image(size_alignment=size(2, 2)))
    one, narrow = wants(image(min_size=size(1, 2))), wants(image(max_size=size(1, 8)))
    assert "p1 size_alignment.width" in named(one, steps, narrow)
    low, high = wants(image(min_size=size(70, 2))), wants(image(max_size=size(60, 8)))
    assert named(low, steps, high) == ["p0 min_size.width", "p2 max_size.width"]
    assert "steps" not in str(diagnosed(low, steps, high))
    alone = wants(image(min_size=size(70, 1), size_alignment=size(64, 1), max_size=size(100, 9)))
    assert named(alone) == [
        "p0 min_size.width",
        "p0 size_alignment.width",
        "p0 max_size.width",
    ]


def test_alignments_are_named_with_areas() -> None:
    low = wants(image(min_size=size(10, 10)))
    aligned = wants(image(size_alignment=size(16, 1)))
    area = wants(image(max_width_times_height=100))
    assert diagnosed(low, aligned, area).rule is Rule.MIN_AREA_OVER_MAX
    assert named(low, aligned, area) == [
        "p0 min_size.width",
        "p0 min_size.height",
        "p1 size_alignment.width",
        "p2 max_width_times_height",
    ]


def test_blocks_are_named_on_the_axis_that_they_pad() -> None:
    ten = size(10, 10)
    blocks = wants(image(min_size=ten, max_size=ten, pad_for_block_size=size(1, 4)))
    limit = wants(buffer_memory_constraints=memory(max_size_bytes=100))
    assert diagnosed(blocks, limit).rule is Rule.PADDED_OVER_MAX_BYTES
    assert [name for name in named(blocks, limit) if "pad" in name] == [
        "p0 pad_for_block_size.height"
    ]


def test_all_that_rows_have_to_be_a_multiple_of_is_named() -> None:
    prime = wants(image(F.B8G8R8, [C.SRGB], bytes_per_row_divisor=0xFFFF_FFFB, min_size=size(1, 1)))
    pixels = wants(image(F.B8G8R8, [C.SRGB], require_bytes_per_row_at_pixel_boundary=True))
    assert diagnosed(prime, pixels).rule is Rule.DIVISOR_OVER_32_BITS
    assert named(prime, pixels) == [
        "p0 bytes_per_row_divisor",
        "p1 require_bytes_per_row_at_pixel_boundary",
    ]


def test_who_is_in_a_conflict_by_excluding_other_formats_is_named_with_theirs() -> None:
    """Two participants would agree on L8, but the third allows only R8."""
    third = wants(image(F.R8))
    costs = Platform(format_costs=(FormatCost(F.L8, cost=1.0),))
    bytes_limit = wants(
        image(F.R8), image(F.L8), buffer_memory_constraints=memory(max_size_bytes=9)
    )
    big = wants(image(F.R8, min_size=size(10, 1)), image(F.L8, min_size=size(1, 1)))
    refusal = diagnosed(big, bytes_limit, third, platform=costs)
    assert refusal.rule is Rule.IMAGE_OVER_MAX_BYTES
    assert [who.name for who in refusal.conflict] == ["p0", "p1", "p2"]
    assert [str(value) for value in refusal.excluding] == [
        "p2 (2) $.image_format_constraints = [R8 LINEAR]"
    ]
    assert "p2 (2) $.image_format_constraints = [R8 LINEAR]; conflict:" in str(refusal)
    assert "R8 LINEAR]" not in refusal.line(conflict=False)


def test_both_sides_of_an_alpha_conflict_are_named() -> None:
    sides = [wants(image(min_size=size(1, 1), is_alpha_present=value)) for value in (True, False)]
    assert diagnosed(*sides).rule is Rule.ALPHA_CONFLICT
    assert named(*sides) == ["p0 is_alpha_present", "p1 is_alpha_present"]


def test_who_made_a_format_specific_is_named_where_nobody_else_is() -> None:
    sizes = image(
        F.DO_NOT_CARE,
        min_size=size(1, 70),
        required_max_size=size(70, 1),
        max_width_times_height=100,
    )
    refusal = diagnosed(wants(sizes), wants(image(F.R8)), wants(image(F.R8)))
    assert refusal.rule is Rule.REQUIRED_AREA
    assert str(refusal.values[0]) == "p1 (1) $.image_format_constraints[0] = R8 LINEAR"
    assert [who.name for who in refusal.conflict] == ["p0", "p1"]


def test_what_led_to_a_heap_is_named_with_what_it_lacks() -> None:
    secure = memory(secure_required=True, min_size_bytes=1)
    devices = [BufferUsage(display=1)] * 2
    platform = Platform(heaps=(HeapProperties("test.secure", secure=True),))
    refusal = diagnosed(
        wants(usage=devices[0], buffer_memory_constraints=secure),
        wants(
            usage=devices[1], buffer_memory_constraints=memory(inaccessible_domain_supported=False)
        ),
        platform=platform,
    )
    assert [str(value) for value in refusal.values] == [
        "p0 (0) $.buffer_memory_constraints.secure_required = true",
        "p1 (1) $.buffer_memory_constraints.inaccessible_domain_supported = false",
    ]


@pytest.mark.parametrize(
    ("rule", "participants", "brought"),
    [
        (
            Rule.COUNT_OVER_MAX,
            [
                wants(count=2, min_size_bytes=1),
                wants(count=3, max_buffer_count=4),
                wants(count=None, max_buffer_count=5),
            ],
            [
                "p0 (0) $.min_buffer_count_for_camping = 2",
                "p1 (1) $.min_buffer_count_for_camping = 3",
                "p1 (1) $.max_buffer_count = 4",
            ],
        ),
        (
            Rule.CONTIGUOUS_REFUSED,
            [
                wants(min_size_bytes=1),
                wants(buffer_memory_constraints=memory(physically_contiguous_required=True)),
                wants(buffer_memory_constraints=memory(physically_contiguous_required=False)),
            ],
            ["p1 (1) $.buffer_memory_constraints.physically_contiguous_required = true"],
        ),
        (
            Rule.NO_COMMON_DOMAIN,
            [
                wants(min_size_bytes=1),
                wants(
                    usage=BufferUsage(display=1),
                    buffer_memory_constraints=memory(cpu_domain_supported=False),
                ),
            ],
            [
                "p1 (1) $.buffer_memory_constraints.cpu_domain_supported = false",
                "p0 (0) $.buffer_memory_constraints.ram_domain_supported = false",
                "p0 (0) $.buffer_memory_constraints.inaccessible_domain_supported = false",
            ],
        ),
        (
            Rule.NO_COMMON_FORMAT,
            [wants(image(F.R8, min_size=size(1, 1))), wants(image(F.L8)), wants()],
            [
                "p0 (0) $.image_format_constraints = [R8 LINEAR]",
                "p1 (1) $.image_format_constraints = [L8 LINEAR]",
            ],
        ),
        (
            Rule.BUFFER_LIMIT,
            [wants(min_size_bytes=1), wants(min_size_bytes=1 << 40)],
            ["p1 (1) $.buffer_memory_constraints.min_size_bytes = 1099511627776"],
        ),
    ],
)
def test_the_values_are_those_that_decide(
    rule: Rule, participants: list[Any], brought: list[str]
) -> None:
    refusal = diagnosed(*participants, platform=Platform(contiguous="refuse"))
    assert refusal.rule is rule
    assert [str(value) for value in refusal.values] == brought


def test_values_of_a_wildcard_entry_have_a_say() -> None:
    wild = image(F.DO_NOT_CARE, [C.DO_NOT_CARE], max_size=size(5, 5))
    refusal = diagnosed(wants(image(F.R8, min_size=size(9, 9))), wants(wild))
    assert [value.value for value in refusal.values] == [9, 5]


def test_a_line_does_not_grow_with_the_participants() -> None:
    crowd = [wants(count=20, min_size_bytes=1) for _ in range(2 * MAX_LINE_VALUES + 1)]
    refusal = diagnosed(*crowd)
    assert refusal.rule is Rule.COUNT_OVER_128
    assert "and 7 more" in refusal.line(conflict=False)
    assert len(refusal.conflict) == 7


def test_a_line_shows_the_values_that_decide() -> None:
    """This holds however many other participants contribute to the sum."""
    few = [wants(count=1, min_size_bytes=1) for _ in range(MAX_LINE_VALUES)]
    refusal = diagnosed(*few, wants(count=100), wants(count=None, max_buffer_count=50))
    for line in (str(refusal), refusal.line(conflict=False)):
        assert "p6 (6) $.min_buffer_count_for_camping = 100" in line
        assert "and 2 more" in line
    crowd = [wants(image(max_size=size(9, 9)), max_buffer_count=20 + i) for i in range(9)]
    sizes = [wants(image(min_size=size(8, 8))), wants(image(size_alignment=size(16, 1)))]
    refusal = diagnosed(*crowd, *sizes)
    assert str(refusal).endswith("conflict: p8 (8) and p10 (10)")
    assert "p8 (8)" in str(refusal).partition("conflict")[0]
    many = image(
        min_size=size(10, 10),
        max_size=size(999, 999),
        size_alignment=size(16, 16),
        pad_for_block_size=size(64, 64),
        bytes_per_row_divisor=1000,
    )
    limit = wants(buffer_memory_constraints=memory(max_size_bytes=100))
    refusal = diagnosed(wants(many), limit)
    assert refusal.line(conflict=False).endswith(
        "p1 (1) $.buffer_memory_constraints.max_size_bytes = 100; and 1 more"
    )


def test_counts_that_decide_nothing_are_not_named() -> None:
    kept = wants(count=9, min_buffer_count_for_shared_slack=0, min_size_bytes=1)
    least, most = wants(count=None, min_buffer_count=4), wants(count=None, max_buffer_count=5)
    assert [value.value for value in diagnosed(kept, least, most).values] == [9, 5]
    more = wants(count=None, min_buffer_count=10, min_size_bytes=1 << 27)
    assert [value.value for value in diagnosed(kept, more).values] == [1 << 27, 10]
    equal = wants(count=129, min_buffer_count=129, min_size_bytes=1)
    assert [value.value for value in diagnosed(equal).values] == [129, 129]


def test_a_path_where_nothing_was_sent() -> None:
    refusal = diagnosed(wants(image(F.DO_NOT_CARE, [C.DO_NOT_CARE], min_size=size(1, 1))), None)
    assert refusal.rule is Rule.FORMAT_LEFT_OPEN
    assert refusal.path == "$.image_format_constraints"
    nobody = diagnosed(wants(usage=BufferUsage(none=1), min_size_bytes=1))
    assert nobody.path == "$.usage"
    zero = diagnosed(wants(count=None, min_size_bytes=1))
    assert zero.path == "$.min_buffer_count_for_camping"
    unset = diagnosed(wants(image(F.R8, None, min_size=size(1, 1))))
    assert unset.path == "$.image_format_constraints[0].color_spaces"
    assert "un-set" in str(unset)
    nothing = diagnosed(None)
    assert (nothing.rule, nothing.path) == (Rule.NOBODY_ASKS_FOR_A_SIZE, "")


def test_a_path_of_a_combined_image_field_that_nobody_sent() -> None:
    refusal = Refusal(
        Stage.AGGREGATE, Rule.POWER_OF_2, ("min_size",), (F.R8, 0), case=refused(None).case
    )
    assert Diagnosis(refusal).path == "$.image_format_constraints.min_size"
    own = Refusal(Stage.AGGREGATE, Rule.POWER_OF_2, ("min_size",), entry=3, case=refused(None).case)
    assert Diagnosis(own).path == "$.image_format_constraints[3].min_size"


def test_differences_are_told() -> None:
    entry = image(F.B8G8R8A8, min_size=size(10, 10))
    existing = agree(wants(entry, min_size_bytes=10000))
    strict = image(
        F.B8G8R8A8,
        min_size=size(11, 11),
        max_size=size(16, 16),
        size_alignment=size(4, 4),
        display_rect_alignment=size(4, 4),
        start_offset_divisor=16,
        is_alpha_present=True,
        max_width_times_height=300,
        max_bytes_per_row=64,
    )
    result = aggregate_attached(
        [Participant(wants(strict, count=None), "new", 9)], existing, PLATFORM
    )
    assert isinstance(result, Refusal)
    assert len(result.differences) > MAX_LINE_VALUES
    line = told(result)
    assert "$.image_format_constraints.min_size: 10×10 exists, 12×12 wanted" in line
    assert f"and {len(result.differences) - MAX_LINE_VALUES} more" in line
    assert "and 13 more" in told(replace(result, differences=(result.differences[0],) * 19))
    other = replace(result, differences=(Difference("$.x", None, True),))
    assert "; $.x: un-set exists, true wanted" in told(other)


def test_the_same_participants_give_equal_refusals() -> None:
    bad = [wants(count=None, min_size_bytes=1)]
    assert refused(*bad) == refused(*bad)
    assert refused(*bad) != refused(None)


def test_one_who_is_to_blame_alone_is_named_where_no_value_is() -> None:
    refusal = refused(wants(count=129, min_size_bytes=1), wants())
    assert "conflict" not in told(refusal)
    assert told(replace(refusal, fields=())).endswith("; conflict: p0 (0)")


def test_a_breach_again_keeps_what_it_says() -> None:
    breach = Breach(Rule.POWER_OF_2, "min_size", "3")
    breach.pair, breach.entry = (1, 2), 3
    again = breach.again()
    assert again is not breach
    assert (again.rule, again.fields, again.detail) == (Rule.POWER_OF_2, ("min_size",), "3")
    assert (again.pair, again.entry) == ((1, 2), 3)


def test_a_pair_in_a_list_is_named_by_its_index() -> None:
    pairs = [PixelFormatAndModifier(F.R8, 0), PixelFormatAndModifier(F.MJPEG, 0)]
    refusal = diagnosed(
        wants(min_size_bytes=1),
        wants(image(F.L8), image(None, pixel_format_and_modifiers=pairs)),
    )
    assert refusal.path == "$.image_format_constraints[1].pixel_format_and_modifiers[1]"
    assert "= MJPEG LINEAR" in str(refusal)


def test_refused_by_its_own_rules_before_anything_is_combined() -> None:
    result = aggregate([Participant(wants(max_buffer_count=0, min_size_bytes=1))], PLATFORM)
    assert isinstance(result, Refusal)
    assert result.participant is not None
    assert "unnamed client (0) $.max_buffer_count = 0" in told(result)


def test_a_participant_is_told_its_own_values_and_the_rule() -> None:
    refusal = diagnosed(
        wants(image(F.NV12, [C.REC709], min_size=size(64, 1))),
        wants(image(F.NV12, [C.REC709], max_size=size(32, 8))),
    )
    first, second = (value.participant for value in refusal.values)
    assert refusal.line_for([second]) == (
        f"{refusal.stage.value}: {refusal.rule.value}; {refusal.values[1]}"
    )
    assert str(first) not in refusal.line_for([second])
    assert refusal.line_for([]) == f"{refusal.stage.value}: {refusal.rule.value}"
