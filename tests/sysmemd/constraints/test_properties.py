"""Properties of all constraints."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import event, given, settings

from sysmem_protocol.images2 import ColorSpace
from sysmem_protocol.sysmem2 import (
    SYSTEM_RAM_HEAP,
    BufferCollectionConstraints,
    BufferUsage,
    Heap,
    ImageFormatConstraints,
    PixelFormatAndModifier,
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
)
from sysmemd.constraints.aggregate import run
from sysmemd.constraints.entry import traits_of
from sysmemd.explaining import Diagnosis, explain

from .judge import complaints_of_all
from .strategies import (
    ANYTHING,
    PEOPLE,
    PLATFORM,
    QUARRELSOME,
    TIGHTENING,
    agreeable,
    groups,
    plausible,
)
from .support import (
    DEVICE_HEAP,
    SECURE_HEAP,
    C,
    F,
    M,
    agree,
    heap,
    image,
    memory,
    memory_of,
    refused_by,
    size,
    told,
    wants,
)

Outcome = Allocation | Refusal


def outcome(result: Outcome) -> tuple[Any, ...]:
    """Return the part of a result that counts."""
    if isinstance(result, Refusal):
        return ("refused",)
    return (result.settings, result.buffer_count)


def everything_told(result: Outcome) -> str:
    """Return everything that a result reports."""
    if isinstance(result, Refusal):
        assert "\n" not in told(result)
        return Diagnosis(result).report()
    return explain(result).report()


@settings(max_examples=500)
@given(PEOPLE)
def test_a_result_satisfies_each_participant(everybody: list[Participant]) -> None:
    result = aggregate(everybody, PLATFORM)
    event(result.rule.name if isinstance(result, Refusal) else "success")
    if isinstance(result, Allocation):
        constraints = [participant.constraints for participant in everybody]
        assert not complaints_of_all(constraints, result.settings, result.buffer_count)


@given(PEOPLE)
def test_every_field_that_must_be_is_set(everybody: list[Participant]) -> None:
    result = aggregate(everybody, PLATFORM)
    if isinstance(result, Refusal):
        return
    memory = result.settings.buffer_settings
    assert memory is not None
    assert len(list(memory.set_fields())) == len(memory.members)
    image = result.settings.image_format_constraints
    if image is not None:
        unset = {m.name for m in image.members} - {m.name for m, _ in image.set_fields()}
        assert unset - {"is_alpha_present"} == {"pixel_format_and_modifiers"}
        assert len(image.color_spaces or ()) == 1


@given(PEOPLE.flatmap(lambda people: st.tuples(st.just(people), st.permutations(people))))
def test_order_of_participants_does_not_matter(
    orders: tuple[list[Participant], list[Participant]],
) -> None:
    one, other = orders
    assert outcome(aggregate(one, PLATFORM)) == outcome(aggregate(other, PLATFORM))


def test_but_for_the_order_of_permitted_heaps() -> None:
    platform = Platform(heaps=(DEVICE_HEAP, replace(DEVICE_HEAP, id=8)))
    lists = [wants(min_size_bytes=1), wants(min_size_bytes=1)]
    heaps = [heap(DEVICE_HEAP), Heap(heap_type=DEVICE_HEAP.heap_type, id=8)]
    lists[0].buffer_memory_constraints = memory(min_size_bytes=1, permitted_heaps=heaps)
    lists[1].buffer_memory_constraints = memory(permitted_heaps=heaps[::-1])
    assert memory_of(agree(*lists, platform=platform)).heap == heaps[0]
    assert memory_of(agree(*lists[::-1], platform=platform)).heap == heaps[1]


def test_but_for_more_than_512_entries_on_the_way() -> None:
    bits = (0x10, 0x20, 0x40, 0x800, 0x1000, 0x2000)
    afbc = [M.ARM_AFBC_16X16 + sum(some) for n in range(7) for some in combinations(bits, n)]
    afbc += [modifier + 1 for modifier in afbc]
    lists = [afbc[:60], afbc[60:120], [*afbc[120:], M.INTEL_I915_X_TILED, M.LINEAR]]
    any_format = wants(
        *(
            image(
                None,
                pixel_format_and_modifiers=[
                    PixelFormatAndModifier(F.DO_NOT_CARE, modifier) for modifier in chunk
                ],
            )
            for chunk in lists
        )
    )
    rgb = (F.R8G8B8A8, F.R8G8B8X8, F.B8G8R8A8, F.B8G8R8X8)
    any_modifier = wants(*(image(f, pixel_format_modifier=M.DO_NOT_CARE) for f in rgb))
    one = wants(image(F.B8G8R8A8, min_size=size(16, 16)))
    refused_by(Rule.TOO_MANY_FORMATS, any_format, any_modifier, one)
    agree(any_format, one, any_modifier)


COUNT_RULES = {Rule.COUNT_OVER_MAX, Rule.COUNT_OVER_128, Rule.COLLECTION_LIMIT}


@given(PEOPLE, st.data())
def test_a_participant_twice_changes_counts_only(
    everybody: list[Participant], data: st.DataObject
) -> None:
    twice = data.draw(st.sampled_from(everybody))
    copied = Participant(deepcopy(twice.constraints), "again", 99)
    before = aggregate(everybody, PLATFORM)
    after = aggregate([*everybody, copied], PLATFORM)
    assert outcome(aggregate([*everybody, twice], PLATFORM)) == outcome(after)
    if isinstance(before, Refusal):
        assert isinstance(after, Refusal)
    elif isinstance(after, Refusal):
        assert after.rule in COUNT_RULES
    else:
        assert after.settings == before.settings


#: The rules that may refuse a set which agrees after a stricter participant has joined. Each has its test below.
REMEDIED = {
    Rule.COLOR_SPACE_LEFT_OPEN: "it chooses the colour space that all others left open",
    Rule.PAD_MAX_WIDTH_31_BITS: "it lowers the width that padding in height is bound to",
    Rule.NO_PROTECTED_FORMAT: "it refuses the secure heap that nobody required",
    Rule.PADDED_OVER_MAX_BYTES: "it aligns sizes, so that blocks need no padding",
    Rule.PADDING_UNDEFINED: "it aligns sizes, so that blocks need no padding",
    Rule.BUFFER_LIMIT: "it aligns sizes, so that blocks need no padding",
    Rule.COLLECTION_LIMIT: "it aligns sizes, so that blocks need no padding",
    Rule.IMAGE_OVER_MAX_BYTES: "it limits rows, so that the shortest isn't rounded to tiles again",
    Rule.MIN_ROW_OVER_MAX: "it limits rows, so that the shortest isn't rounded to tiles again",
}


@settings(max_examples=400)
@given(PEOPLE, TIGHTENING, st.data())
def test_tightening_never_turns_a_refusal_into_a_success(
    everybody: list[Participant], tightening: BufferCollectionConstraints, data: st.DataObject
) -> None:
    before = aggregate(everybody, PLATFORM)
    position = data.draw(st.integers(0, len(everybody)))
    more = [*everybody[:position], Participant(tightening, "tightening"), *everybody[position:]]
    after = aggregate(more, PLATFORM)
    if isinstance(before, Refusal) and isinstance(after, Allocation):
        # The format that failed is now excluded before it can fail, or another format is cheaper.
        image = after.settings.image_format_constraints
        assert image is not None
        chosen = (image.pixel_format, image.pixel_format_modifier)
        excluded = before.pair is not None and before.pair != chosen
        assert excluded or before.rule in REMEDIED, str(before)


def no_usage(*images: ImageFormatConstraints, **fields: Any) -> BufferCollectionConstraints:
    return wants(*images, usage=BufferUsage(none=1), count=None, **fields)


def anything(spaces: list[ColorSpace] | None = None, **fields: Any) -> ImageFormatConstraints:
    return image(F.DO_NOT_CARE, spaces or [C.DO_NOT_CARE], **fields)


def test_but_it_may_exclude_the_format_whose_check_refuses_everything() -> None:
    both = wants(
        image(F.NV12, [C.REC709], required_max_size=size(100, 100)),
        image(F.B8G8R8A8, [C.SRGB], min_size=size(16, 16)),
    )
    small = wants(image(F.NV12, [C.REC709], max_size=size(50, 50)), image(F.B8G8R8A8, [C.SRGB]))
    refused_by(Rule.REQUIRED_MAX_OVER_MAX, both, small)
    agree(both, small, no_usage(anything([C.SRGB])))


def test_but_it_may_exclude_the_cheapest_format_which_does_not_fit() -> None:
    two = wants(
        image(F.R8G8B8A8, [C.SRGB], required_max_size=size(100, 100)),
        image(F.NV12, [C.REC709], required_max_size=size(100, 100)),
        buffer_memory_constraints=memory(max_size_bytes=20000),
    )
    refused_by(Rule.IMAGE_OVER_MAX_BYTES, two)
    agree(two, no_usage(anything([C.REC709])))


def test_but_it_may_choose_the_color_space_that_was_left_open() -> None:
    still_open = wants(image(F.R8, [C.DO_NOT_CARE], min_size=size(16, 16)))
    refused_by(Rule.COLOR_SPACE_LEFT_OPEN, still_open)
    agree(still_open, no_usage(anything([C.SRGB])))


def test_but_it_may_lower_the_width_that_padding_is_bound_to() -> None:
    padded = wants(
        image(min_size=size(16, 16), max_size=size(0x80000000, 100), pad_for_block_size=size(1, 4))
    )
    refused_by(Rule.PAD_MAX_WIDTH_31_BITS, padded)
    agree(padded, no_usage(anything(max_size=size(1000, 1000))))


def test_but_it_may_refuse_the_secure_heap_that_nobody_required() -> None:
    platform = Platform(heaps=(SECURE_HEAP, DEVICE_HEAP))
    compressed = wants(
        image(F.B8G8R8A8, pixel_format_modifier=M.ARM_LINEAR_TE, min_size=size(16, 16)),
        usage=BufferUsage(display=1),
        buffer_memory_constraints=memory(permitted_heaps=[heap(SECURE_HEAP), heap(DEVICE_HEAP)]),
    )
    refused_by(Rule.NO_PROTECTED_FORMAT, compressed, platform=platform)
    picky = memory(permitted_heaps=[heap(DEVICE_HEAP)])
    agree(compressed, no_usage(buffer_memory_constraints=picky), platform=platform)


def test_but_it_may_align_sizes_so_that_blocks_need_no_padding() -> None:
    padded = wants(
        image(
            F.R8G8B8A8,
            min_size=size(1, 1),
            max_size=size(1800, 5000),
            required_max_size=size(464, 452),
            pad_for_block_size=size(4, 4),
            bytes_per_row_divisor=64,
        ),
        buffer_memory_constraints=memory(max_size_bytes=839000),
    )
    refused_by(Rule.PADDED_OVER_MAX_BYTES, padded)
    agree(padded, no_usage(anything(size_alignment=size(4, 4))))


@pytest.mark.parametrize(
    ("rule", "least", "platform"),
    [
        (Rule.BUFFER_LIMIT, 1 << 28, PLATFORM),
        (
            Rule.COLLECTION_LIMIT,
            1 << 28,
            Platform(max_buffer_bytes=1 << 30, max_collection_bytes=1 << 28),
        ),
    ],
)
def test_but_it_may_align_sizes_so_that_padding_is_within_a_limit(
    rule: Rule, least: int, platform: Platform
) -> None:
    padded = wants(
        image(min_size=size(1, 1), max_size=size(5000, 5000), pad_for_block_size=size(32, 8)),
        min_size_bytes=least,
    )
    refused_by(rule, padded, platform=platform)
    for everybody in orders(padded, no_usage(anything(size_alignment=size(32, 8)))):
        agree(*everybody, platform=platform)


def orders(*constraints: BufferCollectionConstraints) -> list[Any]:
    return list(permutations(constraints))


@pytest.mark.parametrize(
    ("rule", "limit"),
    [
        (Rule.IMAGE_OVER_MAX_BYTES, wants(buffer_memory_constraints=memory(max_size_bytes=40000))),
        (Rule.MIN_ROW_OVER_MAX, wants(anything(max_bytes_per_row=2500))),
    ],
)
def test_but_it_may_limit_rows_so_that_the_shortest_is_not_rounded_to_tiles_again(
    rule: Rule, limit: BufferCollectionConstraints
) -> None:
    """If no row of whole tiles and divisors is within the limit, the minimum row can't be raised to one."""
    tiled = wants(
        image(
            F.B8G8R8A8,
            [C.SRGB],
            pixel_format_modifier=M.INTEL_I915_X_TILED,
            min_size=size(275, 16),
        )
    )
    divisor = wants(anything(bytes_per_row_divisor=640))
    refused_by(rule, tiled, divisor, limit)
    for everybody in orders(tiled, divisor, limit, no_usage(anything(max_bytes_per_row=2000))):
        agree(*everybody)


@settings(max_examples=200)
@given(groups(st.one_of(ANYTHING, plausible()), 4))
def test_nothing_given_is_modified(everybody: list[Participant]) -> None:
    before = deepcopy([participant.constraints for participant in everybody])
    result = aggregate(everybody, PLATFORM)
    if isinstance(result, Refusal):
        Diagnosis(result).report()
    else:
        given_settings = deepcopy(result.settings)
        explain(result).report()
        aggregate_attached(everybody, result, PLATFORM)
        assert result.settings == given_settings
    assert [participant.constraints for participant in everybody] == before


@settings(max_examples=300)
@given(groups(ANYTHING, 3))
def test_anything_the_codec_accepts_gives_a_result(everybody: list[Participant]) -> None:
    result = aggregate(everybody, PLATFORM)
    assert everything_told(result)


@settings(max_examples=300)
@given(st.data())
def test_any_one_field_of_plausible_constraints_gives_a_result(data: st.DataObject) -> None:
    everybody = data.draw(groups(plausible(), 3))
    wild = data.draw(ANYTHING)
    first = everybody[0].constraints
    if wild is not None and first is not None:
        member = data.draw(st.sampled_from(BufferCollectionConstraints.members)).name
        target, source = first, wild
        if member == "image_format_constraints" and wild.image_format_constraints:
            entries = list(first.image_format_constraints or [])
            if entries:
                inner = data.draw(st.sampled_from(ImageFormatConstraints.members)).name
                value = getattr(wild.image_format_constraints[0], inner)
                entries[0] = replace(entries[0], **{inner: value})
                first = replace(target, image_format_constraints=entries)
        else:
            first = replace(target, **{member: getattr(source, member)})
    result = aggregate([Participant(first, "wild"), *everybody[1:]], PLATFORM)
    assert everything_told(result)


@settings(max_examples=300)
@given(QUARRELSOME)
def test_every_outcome_can_be_told(everybody: list[Participant]) -> None:
    result = aggregate(everybody, PLATFORM)
    open_format = isinstance(result, Refusal) and result.pair and traits_of(result.pair) is None
    event("about an open format" if open_format else "other")
    assert everything_told(result)


#: Rules for one of two axes. The last of their fields is a limit or an alignment of that axis.
OF_AN_AXIS = {
    Rule.MIN_SIZE_OVER_MAX,
    Rule.REQUIRED_MIN_UNDER_MIN,
    Rule.REQUIRED_MAX_OVER_MAX,
    Rule.REQUIRED_SIZE_OVER_MAX,
}


def what_it_is_about(refusal: Refusal) -> tuple[Any, ...]:
    """Return the subject of a conflict. All losses of formats are one subject; every other rule is one of its own."""
    if refusal.stage is Stage.FOLD and "heap" not in refusal.rule.value:
        return ("formats",)
    return (refusal.rule, refusal.fields[-1] if refusal.rule in OF_AN_AXIS else "")


@settings(max_examples=200)
@given(QUARRELSOME)
def test_smallest_conflicting_sets_conflict_and_are_minimal(everybody: list[Participant]) -> None:
    result = aggregate(everybody, PLATFORM)
    if isinstance(result, Allocation) or not Diagnosis(result).conflict or result.participant:
        return

    def conflicts(members: list[Participant]) -> bool:
        case = replace(result.case, participants=tuple(members))
        again = run(case, tolerate_absence=True)
        return isinstance(again, Refusal) and what_it_is_about(again) == what_it_is_about(result)

    members = list(Diagnosis(result).conflict)
    assert conflicts(members)
    for left_out in members:
        assert not conflicts([who for who in members if who is not left_out])


@settings(max_examples=300)
@given(QUARRELSOME)
def test_everybody_in_a_smallest_conflicting_set_brought_a_value(
    everybody: list[Participant],
) -> None:
    result = aggregate(everybody, PLATFORM)
    if isinstance(result, Refusal):
        event(result.rule.name)
        named = {
            id(value.participant)
            for value in (*Diagnosis(result).values, *Diagnosis(result).excluding)
        }
        assert {id(who) for who in Diagnosis(result).conflict} <= named, Diagnosis(result).report()


@settings(max_examples=400)
@given(groups(agreeable(), 4))
def test_those_named_for_a_size_make_it_alone(everybody: list[Participant]) -> None:
    result = aggregate(everybody, PLATFORM)
    if isinstance(result, Refusal):
        return
    event("success")
    assert result.case is not None
    (reason,) = [each for each in explain(result).reasons if each.setting == "size_bytes"]
    named = {id(value.participant) for value in reason.values}
    chooser = next(who for who in everybody if chooses_a_format(who))
    alone = [who for who in everybody if who is chooser or id(who) in named]
    again = run(replace(result.case, participants=tuple(alone)), tolerate_absence=True)
    assert isinstance(again, Allocation), str(again)
    assert memory_of(again).size_bytes == memory_of(result).size_bytes, str(reason)


def chooses_a_format(who: Participant) -> bool:
    assert who.constraints is not None
    assert who.constraints.image_format_constraints is not None
    return who.constraints.image_format_constraints[0].pixel_format != F.DO_NOT_CARE


@settings(max_examples=300)
@given(PEOPLE)
def test_what_exists_agrees_with_itself(everybody: list[Participant]) -> None:
    existing = aggregate(everybody, PLATFORM)
    if isinstance(existing, Refusal):
        return
    again = aggregate_attached(everybody, existing, PLATFORM)
    assert outcome(again) == outcome(existing), str(again)
    assert check_constraints(None, existing.settings, PLATFORM) is None
    for who in everybody:
        assert check_constraints(who.constraints, existing.settings, PLATFORM) is None
    like_it = aggregate([*everybody, must_match(existing.settings)], PLATFORM)
    assert outcome(like_it) == outcome(existing)


@given(PEOPLE, plausible())
def test_an_attached_success_is_what_exists(
    everybody: list[Participant], more: BufferCollectionConstraints | None
) -> None:
    existing = aggregate(everybody, PLATFORM)
    if isinstance(existing, Refusal):
        return
    attached = aggregate_attached([*everybody, Participant(more, "new", 7)], existing, PLATFORM)
    if isinstance(attached, Allocation):
        assert outcome(attached) == outcome(existing)
    else:
        assert Diagnosis(attached).report()


def test_a_hostile_list_is_no_quadratic_affair() -> None:
    """64 entries of 64 pairs each: comparing all pairs with each other would take minutes."""
    entries = [
        image(
            None,
            pixel_format_and_modifiers=[
                PixelFormatAndModifier(10000 + 64 * index + i, M.DO_NOT_CARE) for i in range(64)
            ],
        )
        for index in range(64)
    ]
    entries[0].min_size = size(16, 16)
    refused_by(Rule.FORMAT_LEFT_OPEN, wants(*entries))
    refused_by(Rule.TOO_MANY_FORMATS, wants(*entries), wants(*entries))
    refused_by(Rule.TOO_MANY_FORMATS, wants(*entries), wants(anything()))


def test_the_same_object_is_worked_out_once_for_a_platform() -> None:
    who = Participant(wants(min_size_bytes=1), "once")
    assert outcome(aggregate([who], PLATFORM)) == outcome(aggregate([who], PLATFORM))
    other = Platform(heaps=(DEVICE_HEAP,))
    assert isinstance(aggregate([who], other), Allocation)
    assert memory_of(agree(wants(min_size_bytes=1))).heap == SYSTEM_RAM_HEAP
