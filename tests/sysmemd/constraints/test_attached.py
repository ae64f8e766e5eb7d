"""Attached attempts (`docs/spec/allocation.md`), must_match_vmo and GetVmoInfo (`docs/spec/protocol.md`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferUsage,
    ImageFormatConstraints,
    SingleBufferSettings,
)
from sysmemd.constraints import (
    Allocation,
    Participant,
    Platform,
    Refusal,
    Rule,
    Stage,
    aggregate,
    aggregate_attached,
    check_constraints,
    must_match,
    settings_match,
)
from sysmemd.explaining import Diagnosis

from .support import (
    PLATFORM,
    SECURE_HEAP,
    C,
    F,
    M,
    agree,
    image,
    image_of,
    memory,
    memory_of,
    people,
    size,
    told,
    wants,
)

BGRA_ENTRY = image(
    F.B8G8R8A8, [C.SRGB, C.PASSTHROUGH], min_size=size(10, 10), max_size=size(100, 100)
)
FIRST = wants(
    BGRA_ENTRY,
    count=2,
    min_buffer_count_for_shared_slack=1,
    buffer_memory_constraints=memory(max_size_bytes=10000),
)
EXISTING = agree(FIRST)


def attach(*constraints: BufferCollectionConstraints | None) -> Allocation | Refusal:
    everybody = [*people(FIRST), *(Participant(each, "new", 9) for each in constraints)]
    return aggregate_attached(everybody, EXISTING, PLATFORM)


def attached_refusal(*constraints: BufferCollectionConstraints | None) -> Refusal:
    result = attach(*constraints)
    assert isinstance(result, Refusal)
    return result


def nothing_kept(*images: ImageFormatConstraints, **fields: Any) -> BufferCollectionConstraints:
    return wants(*images, count=None, **fields)


BGRA = F.B8G8R8A8


@pytest.mark.parametrize(
    "constraints",
    [
        None,
        nothing_kept(),
        nothing_kept(image(BGRA, [C.SRGB])),
        nothing_kept(image(F.DO_NOT_CARE, [C.DO_NOT_CARE], max_size=size(200, 200))),
        nothing_kept(min_size_bytes=400),
    ],
)
def test_an_attached_success_is_what_exists(
    constraints: BufferCollectionConstraints | None,
) -> None:
    result = attach(constraints)
    assert isinstance(result, Allocation)
    assert result == EXISTING


@pytest.mark.parametrize(
    ("constraints", "path"),
    [
        (nothing_kept(image(BGRA, [C.SRGB], min_size=size(20, 10))), "min_size.width"),
        (nothing_kept(image(BGRA, [C.SRGB], max_size=size(99, 50))), "max_size.height"),
        (nothing_kept(image(BGRA, [C.SRGB], is_alpha_present=True)), "is_alpha_present"),
        (nothing_kept(image(BGRA, [C.SRGB], bytes_per_row_divisor=5)), "bytes_per_row_divisor"),
        (
            nothing_kept(image(BGRA, [C.SRGB], required_max_size_list=[size(10, 10)])),
            "required_max_size_list",
        ),
    ],
)
def test_the_differing_settings_are_named(
    constraints: BufferCollectionConstraints, path: str
) -> None:
    # The existing size has room for the request, but the settings would differ.
    big = agree(wants(BGRA_ENTRY, min_size_bytes=9000))
    result = aggregate_attached([Participant(constraints, "new", 9)], big, PLATFORM)
    assert isinstance(result, Refusal)
    assert (result.stage, result.rule) == (Stage.ATTACHED, Rule.SETTINGS_DIFFER)
    paths = [difference.path for difference in result.differences]
    assert f"$.image_format_constraints.{path.partition('.')[0]}" in paths
    assert result.pair == (BGRA, 0)
    assert f"new (9) $.image_format_constraints[0].{path} = " in told(result)
    assert {value.participant.name for value in Diagnosis(result).values} == {"new"}
    (row,) = [line for line in Diagnosis(result).report().splitlines() if f"  .{path} " in line]
    assert row.startswith(">")
    assert [str(who) for who in Diagnosis(result).conflict] == [
        "new (9)",
        "the existing buffers (0)",
    ]


def test_who_asks_for_more_than_what_exists_is_named_and_nobody_else() -> None:
    first = image(F.B8G8R8, [C.SRGB], min_size=size(4, 4), bytes_per_row_divisor=2)
    existing = agree(wants(first, min_size_bytes=9000))
    pixels = nothing_kept(image(F.B8G8R8, [C.SRGB], require_bytes_per_row_at_pixel_boundary=True))
    result = aggregate_attached(people(wants(first), None, pixels), existing, PLATFORM)
    assert isinstance(result, Refusal)
    assert [str(value) for value in Diagnosis(result).values] == [
        "p2 (2) $.image_format_constraints[0].require_bytes_per_row_at_pixel_boundary = true"
    ]
    contiguous = nothing_kept(buffer_memory_constraints=memory(physically_contiguous_required=True))
    result = aggregate_attached(people(wants(first), contiguous), existing, PLATFORM)
    assert isinstance(result, Refusal)
    assert Diagnosis(result).path == "$.buffer_memory_constraints.physically_contiguous_required"
    assert [value.participant.name for value in Diagnosis(result).values] == ["p1"]


def test_an_image_where_none_exists_is_named() -> None:
    existing = agree(wants(min_size_bytes=9000))
    result = aggregate_attached(people(nothing_kept(image())), existing, PLATFORM)
    assert isinstance(result, Refusal)
    assert result.rule is Rule.SETTINGS_DIFFER
    assert [str(value) for value in Diagnosis(result).values] == [
        "p0 (0) $.image_format_constraints = [R8 LINEAR]"
    ]
    assert Diagnosis(result).report()


def test_one_of_two_who_each_ask_for_something_else_is_enough() -> None:
    existing = agree(wants(BGRA_ENTRY, min_size_bytes=9000))
    wide, high = (
        nothing_kept(image(BGRA, [C.SRGB], min_size=size(*each))) for each in ((20, 1), (1, 20))
    )
    result = aggregate_attached(people(wide, high), existing, PLATFORM)
    assert isinstance(result, Refusal)
    assert [value.participant.name for value in Diagnosis(result).values] == ["p0", "p1"]
    assert len(Diagnosis(result).conflict) == 2


@pytest.mark.parametrize(
    ("constraints", "rule"),
    [
        (nothing_kept(min_size_bytes=401), Rule.MIN_BYTES_OVER_MAX),
        (wants(count=1), Rule.COUNT_OVER_MAX),
        (nothing_kept(max_buffer_count=2), Rule.MIN_COUNT_OVER_MAX),
        (nothing_kept(min_buffer_count=4), Rule.MIN_COUNT_OVER_MAX),
        (nothing_kept(image(F.NV12, [C.REC709])), Rule.NO_COMMON_FORMAT),
        (nothing_kept(image(BGRA, [C.PASSTHROUGH])), Rule.NO_COMMON_COLOR_SPACE),
        (
            nothing_kept(image(BGRA, [C.SRGB], required_max_size=size(20, 20))),
            Rule.IMAGE_OVER_MAX_BYTES,
        ),
        (
            nothing_kept(
                buffer_memory_constraints=memory(
                    cpu_domain_supported=False, ram_domain_supported=True
                )
            ),
            Rule.NO_COMMON_DOMAIN,
        ),
    ],
)
def test_what_exists_is_pinned(constraints: BufferCollectionConstraints, rule: Rule) -> None:
    refusal = attached_refusal(constraints)
    assert refusal.rule is rule, told(refusal)
    assert "the existing buffers (0)" in [str(who) for who in Diagnosis(refusal).conflict]
    assert "the existing buffers" in Diagnosis(refusal).report()


def test_contiguity_and_format_must_be_there_already() -> None:
    contiguous = memory(physically_contiguous_required=True)
    refusal = attached_refusal(nothing_kept(buffer_memory_constraints=contiguous))
    assert [d.path for d in refusal.differences] == ["$.buffer_settings.is_physically_contiguous"]
    raw = agree(wants(min_size_bytes=400))
    asking = Participant(nothing_kept(image(F.R8)), "new", 9)
    refused = aggregate_attached([asking], raw, PLATFORM)
    assert isinstance(refused, Refusal)
    assert [d.path for d in refused.differences] == ["$.image_format_constraints"]


def test_camping_counts_are_served_from_the_existing_buffers() -> None:
    roomy = agree(wants(count=1, min_buffer_count=4, min_size_bytes=1))
    first = people(wants(count=1, min_size_bytes=1))
    three = aggregate_attached([*first, Participant(wants(count=3))], roomy, PLATFORM)
    assert isinstance(three, Allocation)
    four = aggregate_attached([*first, Participant(wants(count=4))], roomy, PLATFORM)
    assert isinstance(four, Refusal)


def test_the_pinned_maximum_does_not_bind_padding() -> None:
    padded = wants(image(min_size=size(100, 100), pad_beyond_image_size_bytes=5000))
    existing = agree(padded)
    again = aggregate_attached(people(padded), existing, PLATFORM)
    assert again == existing
    more = nothing_kept(image(pad_beyond_image_size_bytes=50000))
    refused = aggregate_attached([*people(padded), Participant(more)], existing, PLATFORM)
    assert isinstance(refused, Refusal)
    assert "$.buffer_settings.raw_vmo_size" in [d.path for d in refused.differences]
    bound = wants(buffer_memory_constraints=memory(max_size_bytes=14999), count=None)
    refused = aggregate_attached([*people(padded), Participant(bound)], existing, PLATFORM)
    assert isinstance(refused, Refusal)
    assert refused.rule is Rule.PADDED_OVER_MAX_BYTES


def test_finished_entries_are_not_finished_again() -> None:
    """Rounding rows up to tiles and to the divisor alternately would never end, so delivered values are kept."""
    tiled = wants(
        image(
            BGRA,
            pixel_format_modifier=M.INTEL_I915_X_TILED,
            min_size=size(100, 100),
            bytes_per_row_divisor=20,
        )
    )
    existing = agree(tiled)
    assert aggregate_attached(people(tiled), existing, PLATFORM) == existing
    assert check_constraints(tiled, existing.settings, PLATFORM) is None


# --- must_match_vmo -----------------------------------------------------------------------------------------------


def test_nor_are_those_of_a_format_without_the_channel_that_somebody_spoke_of() -> None:
    """The field is un-set when it is delivered. The newly computed entry still matches the existing one."""
    tiled = wants(
        image(
            F.NV12,
            [C.REC709],
            pixel_format_modifier=M.INTEL_I915_Y_TILED,
            min_size=size(64, 64),
            is_alpha_present=True,
        )
    )
    open_modifier = wants(
        image(F.NV12, [C.REC709], pixel_format_modifier=M.DO_NOT_CARE, bytes_per_row_divisor=5)
    )
    existing = agree(tiled, open_modifier)
    assert image_of(existing).is_alpha_present is None
    assert aggregate_attached(people(tiled, open_modifier), existing, PLATFORM) == existing
    assert check_constraints(tiled, existing.settings, PLATFORM) is None


def test_must_match_pins_the_settings_but_not_the_count() -> None:
    result = aggregate([*people(wants(count=7)), must_match(EXISTING.settings, "m", 1)], PLATFORM)
    assert isinstance(result, Allocation)
    assert result.settings == EXISTING.settings
    assert result.buffer_count == 7


def test_must_match_refuses_what_differs() -> None:
    bigger = people(wants(min_size_bytes=401))
    result = aggregate([*bigger, must_match(EXISTING.settings, "m", 1)], PLATFORM)
    assert isinstance(result, Refusal)
    assert result.rule is Rule.MIN_BYTES_OVER_MAX
    assert [str(who) for who in Diagnosis(result).conflict] == ["p0 (0)", "m (1)"]


def test_two_vmos_that_differ_cannot_both_be_matched() -> None:
    other = agree(wants(min_size_bytes=17))
    both = [*people(wants()), must_match(EXISTING.settings), must_match(other.settings)]
    assert isinstance(aggregate(both, PLATFORM), Refusal)


def test_must_match_a_secure_vmo() -> None:
    platform = Platform(heaps=(SECURE_HEAP,))
    secure = wants(
        usage=BufferUsage(display=1),
        buffer_memory_constraints=memory(secure_required=True, min_size_bytes=9),
    )
    existing = agree(secure, platform=platform)
    user = wants(usage=BufferUsage(display=1))
    result = aggregate([*people(user), must_match(existing.settings)], platform)
    assert isinstance(result, Allocation)
    assert memory_of(result) == memory_of(existing)


# --- GetVmoInfo ---------------------------------------------------------------------------------------------------


def ok(constraints: BufferCollectionConstraints | None) -> bool:
    return check_constraints(constraints, EXISTING.settings, PLATFORM) is None


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        (None, True),
        (BufferCollectionConstraints(), True),
        (FIRST, True),
        (wants(image(BGRA, [C.SRGB], required_max_size=size(10, 10))), False),
        (wants(image(BGRA, [C.SRGB], required_max_size=size(101, 101))), False),
        (wants(min_size_bytes=400), True),
        (wants(min_size_bytes=401), False),
        (wants(image(F.NV12, [C.REC709])), False),
        (wants(image(BGRA, [C.SRGB], min_size=size(50, 50))), False),
    ],
)
def test_constraints_to_check(
    constraints: BufferCollectionConstraints | None, expected: bool
) -> None:
    assert ok(constraints) is expected


def test_constraints_to_check_leave_counts_and_use_out_of_account() -> None:
    assert ok(wants(count=1000, max_buffer_count=1))
    assert ok(wants(min_buffer_count=5, max_buffer_count=4))
    assert ok(wants(max_buffer_count=0))
    assert ok(wants(usage=BufferUsage(none=1)))
    assert ok(wants(usage=None, min_size_bytes=400))
    assert not ok(wants(usage=BufferUsage(none=1, cpu=1)))


def test_vmo_settings_to_check() -> None:
    same = agree(FIRST).settings
    assert settings_match(EXISTING.settings, same, ignore_size=False)
    bigger = replace(
        same, buffer_settings=replace(memory_of(EXISTING), size_bytes=401, raw_vmo_size=8192)
    )
    assert not settings_match(EXISTING.settings, bigger, ignore_size=False)
    assert settings_match(EXISTING.settings, bigger, ignore_size=True)
    other = replace(same, buffer_settings=replace(memory_of(EXISTING), is_secure=True))
    assert not settings_match(EXISTING.settings, other, ignore_size=True)
    raw = replace(same, image_format_constraints=None)
    assert not settings_match(EXISTING.settings, raw, ignore_size=True)
    assert settings_match(SingleBufferSettings(), SingleBufferSettings(), ignore_size=True)


def test_required_sizes_are_compared_as_a_set() -> None:
    one = replace(image_of(EXISTING), required_max_size_list=[size(1, 2), size(2, 1)])
    other = replace(image_of(EXISTING), required_max_size_list=[size(2, 1), size(1, 2)])
    a = replace(EXISTING.settings, image_format_constraints=one)
    b = replace(EXISTING.settings, image_format_constraints=other)
    assert settings_match(a, b, ignore_size=False)
    c = replace(EXISTING.settings, image_format_constraints=image_of(EXISTING))
    assert not settings_match(a, c, ignore_size=False)


def test_a_newcomer_who_makes_rows_longer_is_named() -> None:
    first = people(wants(image(min_size=size(100, 100), max_size=size(200, 200))))
    existing = aggregate(first, PLATFORM)
    assert isinstance(existing, Allocation)
    divisor = wants(image(min_size=size(10, 10), bytes_per_row_divisor=512), count=None)
    result = aggregate_attached([*first, Participant(divisor, "newcomer", 9)], existing, PLATFORM)
    assert isinstance(result, Refusal)
    assert "newcomer (9) $.image_format_constraints[0].bytes_per_row_divisor = 512" in told(result)
    assert "max_size_bytes = 10000" in told(result)
