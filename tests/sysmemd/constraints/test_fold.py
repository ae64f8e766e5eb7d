"""`docs/spec/constraints.md`, section 2: how several participants' fields combine."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem_protocol.formats import traits
from sysmem_protocol.sysmem2 import SYSTEM_RAM_HEAP, BufferUsage, PixelFormatAndModifier
from sysmemd.constraints import Participant, Platform, Rule, Stage, UsageBits
from sysmemd.constraints import fold as fold_module
from sysmemd.constraints.entry import Entry
from sysmemd.constraints.finish import undominated
from sysmemd.constraints.flatten import combine_pairs
from sysmemd.constraints.fold import fold, intersect, intersect_heaps
from sysmemd.constraints.normalise import Needs, normalise
from sysmemd.explaining import Diagnosis

from .support import (
    DEVICE_HEAP,
    PLATFORM,
    SECURE_HEAP,
    U32,
    C,
    F,
    M,
    agree,
    heap,
    image,
    image_of,
    memory,
    memory_of,
    refused_by,
    size,
    wants,
)

DISPLAY = BufferUsage(display=1)


def folded(*constraints: Any) -> Needs:
    return fold([normalise(Participant(each), PLATFORM) for each in constraints])


# --- fields -------------------------------------------------------------------------------------------------------


def test_usage_is_a_bitwise_or() -> None:
    words = ["cpu", "vulkan", "display", "video"]
    total = folded(*(wants(usage=BufferUsage(**{w: b})) for w in words for b in (1, 4)), None)
    assert total.usage == UsageBits(1, 5, 5, 5, 5)


@pytest.mark.parametrize(
    ("field", "name", "values", "result"),
    [
        ("min_buffer_count_for_dedicated_slack", "dedicated_slack", (2, 3), 5),
        ("min_buffer_count_for_shared_slack", "shared_slack", (2, 3), 3),
        ("min_buffer_count", "min_buffer_count", (2, 3), 3),
        ("max_buffer_count", "max_buffer_count", (2, 3), 2),
    ],
)
def test_counts(field: str, name: str, values: tuple[int, int], result: int) -> None:
    fields: list[Any] = [{field: value} for value in values]
    assert getattr(folded(*(wants(**each) for each in fields)), name) == result


def test_camping_is_a_sum() -> None:
    assert folded(wants(count=2), wants(count=3), wants(count=None)).camping == 5


@pytest.mark.parametrize(
    ("name", "values", "result"),
    [
        ("min_size_bytes", (2, 3), 3),
        ("min_size_bytes", (0, 0), 1),
        ("max_size_bytes", (2, 3), 2),
        ("cpu_domain_supported", (True, False), False),
        ("ram_domain_supported", (True, False), False),
        ("inaccessible_domain_supported", (True, False), False),
        ("cpu_domain_supported", (True, True), True),
        ("ram_domain_supported", (True, True), True),
        ("inaccessible_domain_supported", (True, True), True),
        ("physically_contiguous_required", (True, False), True),
    ],
)
def test_memory(name: str, values: tuple[Any, Any], result: Any) -> None:
    own = {
        "physically_contiguous_required": "contiguous",
        "cpu_domain_supported": "cpu_domain",
        "ram_domain_supported": "ram_domain",
        "inaccessible_domain_supported": "inaccessible_domain",
    }
    fields: list[Any] = [memory(**{name: value}) for value in values]
    for order in (fields, fields[::-1]):
        total = folded(*(wants(usage=DISPLAY, buffer_memory_constraints=m) for m in order))
        assert getattr(total, own.get(name, name)) == result


def test_base_alignment_is_the_largest() -> None:
    fields = [
        memory(physically_contiguous_required=True, min_physical_base_alignment=1 << bit)
        for bit in (3, 12)
    ]
    total = folded(*(wants(buffer_memory_constraints=each) for each in fields))
    assert total.min_physical_base_alignment == 4096


def test_permitted_heaps_intersect_in_the_order_of_the_first_list() -> None:
    system, device, other = ("s", 0), ("d", 0), ("o", 0)

    def lists(*each: list[tuple[str, int]] | None) -> Any:
        total = None
        for keys in each:
            total = intersect_heaps(total, None if keys is None else tuple(keys))
        return total

    assert lists(None, [system, device], None) == (system, device)
    assert lists([system, device, other], [other, device]) == (device, other)


def test_no_heap_in_common() -> None:
    refusal = refused_by(
        Rule.NO_COMMON_HEAP,
        wants(min_size_bytes=1),
        wants(buffer_memory_constraints=memory(permitted_heaps=[SYSTEM_RAM_HEAP])),
        wants(buffer_memory_constraints=memory(permitted_heaps=[heap(DEVICE_HEAP)])),
        platform=Platform(heaps=(DEVICE_HEAP,)),
    )
    assert refusal.stage is Stage.FOLD
    assert [str(who) for who in Diagnosis(refusal).conflict] == ["p1 (1)", "p2 (2)"]


def test_a_heap_is_its_type_and_id() -> None:
    lists = [memory(permitted_heaps=[SYSTEM_RAM_HEAP])]
    other_id = heap(SECURE_HEAP)
    other_id.heap_type = SYSTEM_RAM_HEAP.heap_type
    other_id.id = 1
    lists.append(memory(permitted_heaps=[other_id], min_size_bytes=1))
    refused_by(Rule.NO_COMMON_HEAP, *(wants(buffer_memory_constraints=each) for each in lists))


# --- image entries: which formats ---------------------------------------------------------------------------------


def formats(*constraints: Any) -> list[tuple[int, int]]:
    return [entry.pair for entry in folded(*constraints).entries]


def listed(*pairs: tuple[int, int], spaces: Any = (C.PASSTHROUGH,), **fields: Any) -> Any:
    return wants(*(image(f, spaces, pixel_format_modifier=m, **fields) for f, m in pairs))


R8, L8, RGB = (F.R8, M.LINEAR), (F.L8, M.LINEAR), (F.R8G8B8, M.LINEAR)
ANY: tuple[int, int] = (F.DO_NOT_CARE, M.DO_NOT_CARE)


def test_a_participant_without_entries_does_not_constrain() -> None:
    assert formats(wants(), listed(R8, L8), None) == [R8, L8]
    assert folded(wants(), None).entries == []


def test_each_later_list_intersects_in_the_order_of_the_first() -> None:
    assert formats(listed(R8, L8, RGB), listed(RGB, R8)) == [R8, RGB]
    refusal = refused_by(
        Rule.NO_COMMON_FORMAT, wants(min_size_bytes=1), listed(R8, L8), listed(RGB)
    )
    assert refusal.stage is Stage.FOLD


def test_do_not_care_is_filled_in_from_the_other_side() -> None:
    assert formats(listed(ANY), listed(R8, L8)) == [R8, L8]
    assert formats(listed(R8, L8), listed(ANY)) == [R8, L8]
    any_format, any_modifier = (F.DO_NOT_CARE, M.LINEAR), (F.R8, M.DO_NOT_CARE)
    assert formats(listed(any_format), listed(R8, (F.L8, M.ARM_LINEAR_TE))) == [R8]
    assert formats(listed(any_modifier), listed(R8, L8)) == [R8]
    assert formats(listed(any_format), listed(any_modifier)) == [R8]


def test_what_both_leave_open_stays_open() -> None:
    open_modifier = (F.R8, M.DO_NOT_CARE)
    assert formats(listed(ANY), listed(ANY)) == [ANY]
    assert formats(listed(ANY), listed(open_modifier)) == [open_modifier]
    assert formats(listed(open_modifier), listed(ANY)) == [open_modifier]
    assert formats(listed((4711, M.DO_NOT_CARE)), listed(ANY)) == [(4711, M.DO_NOT_CARE)]


def test_filling_in_leads_to_supported_pairs_only() -> None:
    afbc: tuple[int, int] = (F.DO_NOT_CARE, M.ARM_AFBC_16X16)
    both = listed((F.R8, M.DO_NOT_CARE), (F.B8G8R8A8, M.DO_NOT_CARE))
    assert formats(both, listed(afbc)) == [(F.B8G8R8A8, M.ARM_AFBC_16X16)]
    unknown = listed((4711, M.DO_NOT_CARE))
    refused_by(Rule.NO_COMMON_FORMAT, wants(min_size_bytes=1), unknown, listed(afbc))


def test_filling_in_drops_color_spaces_that_the_format_does_not_support() -> None:
    total = folded(listed(ANY, spaces=[C.SRGB, C.REC709, 4711]), listed(R8, spaces=[C.DO_NOT_CARE]))
    assert total.entries[0].terms.color_spaces == frozenset({C.SRGB, C.REC709})
    shared = wants(image(F.DO_NOT_CARE, [C.SRGB, C.REC709]))
    twice = folded(shared, listed(RGB, (F.R5G6B5, M.LINEAR), spaces=[C.SRGB])).entries
    assert [entry.terms.color_spaces for entry in twice] == [frozenset({C.SRGB})] * 2
    rgb = folded(listed(RGB, L8, spaces=[C.DO_NOT_CARE]), listed(ANY, spaces=[C.SRGB, C.REC709]))
    assert [entry.terms.color_spaces for entry in rgb.entries] == [
        frozenset({C.SRGB}),
        frozenset({C.SRGB, C.REC709}),
    ]


def test_a_copy_left_with_no_color_space_is_dropped() -> None:
    yuv = listed(ANY, spaces=[C.REC709])
    assert formats(yuv, listed(RGB, R8, spaces=[C.DO_NOT_CARE])) == [R8]
    refusal = refused_by(
        Rule.NO_COMMON_COLOR_SPACE, yuv, listed(RGB, spaces=[C.DO_NOT_CARE], min_size=size(1, 1))
    )
    assert refusal.pair == RGB


def test_more_than_512_entries() -> None:
    def long(count: int) -> Any:
        entries = []
        pairs = [PixelFormatAndModifier(4000 + i, M.DO_NOT_CARE) for i in range(count)]
        for start in range(0, count, 64):
            part = pairs[start : start + 64]
            entries.append(image(None, pixel_format_and_modifiers=part))
        return wants(*entries)

    assert len(formats(long(512), listed(ANY))) == 512
    assert len(formats(listed(ANY), long(512))) == 512
    for constraints in ((long(513), listed(ANY)), (listed(ANY), long(513))):
        refused_by(Rule.TOO_MANY_FORMATS, wants(min_size_bytes=1), *constraints)


# --- image entries: their fields ----------------------------------------------------------------------------------


def terms(*fields: dict[str, Any], pair: tuple[int, int] = R8) -> Any:
    total = folded(*(listed(pair, **each) for each in fields))
    (entry,) = total.entries
    return entry.terms


def test_color_spaces_intersect() -> None:
    either = [{"spaces": [C.SRGB, C.REC709]}, {"spaces": [C.REC709, C.PASSTHROUGH]}]
    assert terms(*either).color_spaces == frozenset({C.REC709})
    one_open = [{"spaces": [C.DO_NOT_CARE]}, {"spaces": [C.SRGB]}]
    assert terms(*one_open).color_spaces == terms(*one_open[::-1]).color_spaces == {C.SRGB}
    assert terms(one_open[0], one_open[0]).color_spaces is None


def test_no_common_color_space_drops_the_format() -> None:
    srgb: Any = {"spaces": [C.SRGB]}
    yuv: Any = {"spaces": [C.REC709]}
    assert formats(listed(R8, L8), wants(image(F.R8, [C.SRGB]), image(F.L8))) == [L8]
    refusal = refused_by(
        Rule.NO_COMMON_COLOR_SPACE, wants(min_size_bytes=1), listed(R8, **srgb), listed(R8, **yuv)
    )
    assert refusal.pair == R8
    pairs = [PixelFormatAndModifier(*pair) for pair in (R8, L8)]
    both = (
        wants(image(None, spaces, pixel_format_and_modifiers=pairs, min_size=size(5, 5)))
        for spaces in ([C.SRGB], [C.REC709])
    )
    refusal = refused_by(Rule.NO_COMMON_COLOR_SPACE, *both)
    assert refusal.pair == R8, "the first of those that fail alike"


@pytest.mark.parametrize(
    ("field", "values", "names", "result"),
    [
        ("min_size", ((3, 9), (5, 7)), ("min_width", "min_height"), (5, 9)),
        ("max_size", ((30, 90), (50, 70)), ("max_width", "max_height"), (30, 70)),
        ("size_alignment", ((1, 4), (2, 2)), ("align_width", "align_height"), (2, 4)),
        (
            "display_rect_alignment",
            ((1, 4), (2, 2)),
            ("display_align_width", "display_align_height"),
            (2, 4),
        ),
        (
            "required_min_size",
            ((30, 90), (50, 70)),
            ("required_min_width", "required_min_height"),
            (30, 70),
        ),
        (
            "required_max_size",
            ((3, 0), (0, 7)),
            ("required_max_width", "required_max_height"),
            (3, 7),
        ),
    ],
)
def test_sizes_combine_per_component(field: str, values: Any, names: Any, result: Any) -> None:
    for order in (values, values[::-1]):
        total = terms(*({field: size(*value)} for value in order))
        assert tuple(getattr(total, name) for name in names) == result


@pytest.mark.parametrize(
    ("field", "values", "result"),
    [
        ("min_bytes_per_row", (30, 50), 50),
        ("max_bytes_per_row", (30, 50), 30),
        ("max_width_times_height", (30, 50), 30),
        ("bytes_per_row_divisor", (6, 4), 12),
        ("start_offset_divisor", (2, 8), 8),
    ],
)
def test_numbers(field: str, values: tuple[int, int], result: int) -> None:
    for order in (values, values[::-1]):
        assert getattr(terms(*({field: value} for value in order)), field) == result


def test_pixel_boundary_is_an_or() -> None:
    name = "require_bytes_per_row_at_pixel_boundary"
    assert terms({name: False}, {name: True}).at_pixel_boundary
    assert not terms({name: False}, {}).at_pixel_boundary


def test_required_max_size_lists_are_concatenated() -> None:
    lists = [{"required_max_size_list": [size(*s)]} for s in ((3, 9), (5, 7))]
    assert terms(*lists).required_max_sizes == ((3, 9), (5, 7))
    assert terms(lists[0], {}, lists[0]).required_max_sizes == ((3, 9),)


def test_long_required_max_size_lists_are_pruned_on_the_way() -> None:
    lists = [
        {"required_max_size_list": [size(100 + i - step, 200 - i - step) for i in range(64)]}
        for step in range(30)
    ]
    total = terms(*lists)
    assert len(total.required_max_sizes) <= fold_module.MAX_UNPRUNED_SIZES
    assert undominated(total.required_max_sizes) == tuple((100 + i, 200 - i) for i in range(64))


@pytest.mark.parametrize("open_format_first", [True, False])
def test_what_is_supported_with_nothing_is_not_compared_with_each_other(
    monkeypatch: pytest.MonkeyPatch, open_format_first: bool
) -> None:
    """Two lists of maximum length, with unknown numbers."""
    count = 64 * 64
    compared = 0

    def counting(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int] | None:
        nonlocal compared
        compared += 1
        return combine_pairs(a, b)

    monkeypatch.setattr(fold_module, "combine_pairs", counting)
    some = normalise(Participant(wants(image())), PLATFORM).entries[0].terms
    lists = [
        [Entry(F.DO_NOT_CARE, 5 + i, some) for i in range(count)],
        [Entry(10000 + i, M.DO_NOT_CARE, some) for i in range(count)],
    ]
    lists[0].append(Entry(F.DO_NOT_CARE, M.LINEAR, some))
    lists[1].append(Entry(F.R8, M.DO_NOT_CARE, some))
    if not open_format_first:
        lists.reverse()
    assert [entry.pair for entry in intersect(*lists)] == [(F.R8, M.LINEAR)]
    assert compared < 10


def test_is_alpha_present() -> None:
    name = "is_alpha_present"
    assert terms({name: True}, {}).is_alpha_present is True
    assert terms({}, {name: False}).is_alpha_present is False
    assert terms({name: True}, {name: True, "min_bytes_per_row": 4}).is_alpha_present is True
    assert terms({}, {}).is_alpha_present is None


def test_two_different_alphas_drop_the_format() -> None:
    refused_by(
        Rule.ALPHA_CONFLICT,
        wants(min_size_bytes=1),
        listed(R8, is_alpha_present=True),
        listed(R8, is_alpha_present=False),
    )
    two = wants(image(F.R8, is_alpha_present=True), image(F.L8))
    assert formats(two, listed(R8, L8, is_alpha_present=False)) == [L8]


def test_a_divisor_over_32_bits_drops_the_format() -> None:
    huge = [listed(R8, bytes_per_row_divisor=divisor) for divisor in (U32, U32 - 1)]
    refused_by(Rule.DIVISOR_OVER_32_BITS, wants(min_size_bytes=1), *huge)
    also = [
        wants(image(F.R8, bytes_per_row_divisor=divisor), image(F.L8)) for divisor in (U32, U32 - 1)
    ]
    assert formats(*also) == [L8]


def test_block_padding_is_the_largest_and_widens_the_divisor() -> None:
    bgra: tuple[int, int] = (F.B8G8R8A8, M.LINEAR)
    limit: dict[str, Any] = {"max_size": size(64, 64)}
    total = terms(
        {"pad_for_block_size": size(8, 2), **limit},
        {"pad_for_block_size": size(4, 16), "bytes_per_row_divisor": 12, **limit},
        pair=bgra,
    )
    assert (total.pad_width, total.pad_height) == (8, 16)
    assert total.bytes_per_row_divisor == 96
    assert total.bytes_per_row_divisor % (traits(*bgra).stride_bytes * 8) == 0


def test_padding_beyond_is_the_largest() -> None:
    name = "pad_beyond_image_size_bytes"
    assert terms({name: 30}, {name: 50}, {}).pad_beyond == 50


def test_the_same_participant_twice() -> None:
    needs = normalise(Participant(listed(R8, L8)), PLATFORM)
    assert [entry.terms for entry in fold([needs, needs]).entries] == [
        entry.terms for entry in needs.entries
    ]


def test_the_work_grows_linearly(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 participants with 64 formats each, half of them with wildcards."""
    calls = {"combine": 0, "combine_pairs": 0}

    def counted(name: str) -> Any:
        real = getattr(fold_module, name)

        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return real(*arguments)

        return call

    modifiers = [M.ARM_AFBC_16X16 | bits << 4 for bits in range(8)]
    modifiers += [M.ARM_AFBC_32X8 | bits << 4 for bits in range(8)]
    rgb: list[int] = [F.R8G8B8A8, F.R8G8B8X8, F.B8G8R8A8, F.B8G8R8X8]
    specific = [(f, m) for f in rgb for m in modifiers]
    any_modifier = [(f, int(M.DO_NOT_CARE)) for f in rgb]
    crowd = [
        normalise(Participant(listed(*(any_modifier if i % 2 else specific))), PLATFORM)
        for i in range(64)
    ]
    for name in calls:
        monkeypatch.setattr(fold_module, name, counted(name))
    assert len(fold(crowd).entries) == 64
    assert calls["combine"] <= 64 * 64
    assert calls["combine_pairs"] <= 64 * 64


def test_formats_that_share_terms_are_still_told_apart() -> None:
    shared = wants(
        image(
            None,
            min_size=size(5, 5),
            pixel_format_and_modifiers=[
                PixelFormatAndModifier(f, M.LINEAR) for f in (F.B8G8R8A8, F.R8G8B8A8, F.NV12, F.R8)
            ],
        )
    )
    total = folded(shared, listed(ANY, bytes_per_row_divisor=3))
    rows = {entry.pixel_format: entry.terms.bytes_per_row_divisor for entry in total.entries}
    assert rows == {F.B8G8R8A8: 12, F.R8G8B8A8: 12, F.NV12: 6, F.R8: 3}
    mins = {entry.pixel_format: entry.terms.min_width for entry in total.entries}
    assert mins == {F.B8G8R8A8: 5, F.R8G8B8A8: 5, F.NV12: 6, F.R8: 5}
    assert image_of(agree(shared)).pixel_format == F.R8G8B8A8
    assert memory_of(agree(shared)).size_bytes == 100
