"""A success explained: which participant determined the number and size of buffers, and what determined the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sysmem_protocol.sysmem2 import BufferUsage, CoherencyDomain, Heap, SingleBufferSettings, SizeU
from sysmemd.constraints import (
    Allocation,
    FormatCost,
    HeapProperties,
    Platform,
    aggregate,
    check_constraints,
    must_match,
)
from sysmemd.constraints.aggregate import run
from sysmemd.constraints.model import Case
from sysmemd.explaining import Because, explain

from ..constraints.support import (
    DEVICE_HEAP,
    PLATFORM,
    SECURE_HEAP,
    C,
    F,
    M,
    agree,
    heap,
    image,
    memory,
    people,
    size,
    wants,
)

DISPLAY = BufferUsage(display=1)


def because(setting: str, *constraints: Any, platform: Platform = PLATFORM) -> Because:
    explanation = explain(agree(*constraints, platform=platform))
    (found,) = [reason for reason in explanation.reasons if reason.setting == setting]
    assert str(found) in str(explanation)
    return found


def who(reason: Because) -> list[str]:
    return [f"{value.participant.name} {value.path.split('.')[-1]}" for value in reason.values]


def test_who_made_the_buffers_this_many() -> None:
    reason = because(
        "buffer_count",
        wants(count=2, min_size_bytes=1),
        wants(count=1, min_buffer_count_for_shared_slack=3),
    )
    assert reason.result == "6"
    assert reason.why == "3 camping + 0 dedicated slack + 3 shared slack"
    assert who(reason) == [
        "p0 min_buffer_count_for_camping",
        "p1 min_buffer_count_for_camping",
        "p1 min_buffer_count_for_shared_slack",
    ]
    least = because("buffer_count", wants(min_size_bytes=1), wants(min_buffer_count=5))
    assert who(least) == ["p1 min_buffer_count"]


def test_counts_left_out_of_account() -> None:
    settled = agree(wants(min_size_bytes=1))
    case = Case(tuple(people(wants(min_size_bytes=1))), PLATFORM, settings_only=True)
    result = run(case)
    assert isinstance(result, Allocation)
    assert "left out of account" in str(explain(result))
    assert check_constraints(None, settled.settings, PLATFORM) is None


def test_who_made_the_buffers_this_big() -> None:
    base = wants(image(min_size=size(2, 2)))
    assert who(because("size_bytes", base, wants(min_size_bytes=99))) == ["p1 min_size_bytes"]
    listed = wants(image(required_max_size_list=[size(9, 9)]))
    assert who(because("size_bytes", base, listed)) == ["p1 required_max_size_list"]
    required = wants(image(required_max_size=size(9, 9)))
    assert who(because("size_bytes", base, required)) == ["p1 required_max_size"]
    parts = [wants(image(required_max_size=SizeU(*each))) for each in ((9, 0), (0, 8))]
    assert who(because("size_bytes", base, *parts)) == ["p1 width", "p2 height"]


def test_who_made_an_image_this_big_axis_by_axis() -> None:
    wide = wants(image(min_size=size(20, 2)))
    high = wants(image(required_max_size=size(9, 9)))
    other = wants(image(required_max_size_list=[size(5, 5)]))
    reason = because("size_bytes", wide, high, other)
    assert "20×9" in reason.why
    assert who(reason) == ["p1 required_max_size", "p0 width"]
    assert reason.values[-1].path.endswith(".min_size.width")
    # A minimum that another one exceeds in both dimensions decides nothing.
    assert who(because("size_bytes", wants(image(min_size=size(20, 10))), high)) == [
        "p0 width",
        "p0 height",
    ]


def test_who_made_a_row_longer() -> None:
    base = wants(image(F.B8G8R8A8, [C.SRGB], min_size=size(3, 1), min_bytes_per_row=17))
    blocks = wants(image(F.B8G8R8A8, [C.SRGB], pad_for_block_size=size(8, 1)))
    assert who(because("size_bytes", base, blocks)) == [
        "p0 width",
        "p0 height",
        "p0 min_bytes_per_row",
        "p1 width",
    ]
    pixels = wants(image(F.B8G8R8, [C.SRGB], require_bytes_per_row_at_pixel_boundary=True))
    odd = wants(image(F.B8G8R8, [C.SRGB], min_size=size(3, 1), min_bytes_per_row=10))
    reason = because("size_bytes", odd, pixels)
    assert who(reason)[2:] == ["p0 min_bytes_per_row", "p1 require_bytes_per_row_at_pixel_boundary"]


def test_who_asked_for_padding() -> None:
    base = wants(image(min_size=size(2, 2), max_size=size(9, 9)))
    padding = wants(image(pad_beyond_image_size_bytes=7))
    reason = because("raw_vmo_size", base, padding)
    assert who(reason) == ["p1 pad_beyond_image_size_bytes"]
    assert "padding" in reason.why
    assert "padding" not in because("raw_vmo_size", base).why
    assert "padding" not in because("raw_vmo_size", wants(min_size_bytes=1)).why


HEAPS = Platform(heaps=(SECURE_HEAP, DEVICE_HEAP))


def test_why_this_heap() -> None:
    base = wants(min_size_bytes=1, usage=DISPLAY)
    assert "everybody permits the system heap" in because("heap", base).why
    picky = wants(
        usage=DISPLAY, buffer_memory_constraints=memory(permitted_heaps=[heap(DEVICE_HEAP)])
    )
    reason = because("heap", base, picky, platform=HEAPS)
    assert (reason.result, who(reason)) == ("test.device/7", ["p1 permitted_heaps"])
    secure = wants(usage=DISPLAY, buffer_memory_constraints=memory(secure_required=True))
    assert who(because("heap", base, secure, platform=HEAPS)) == ["p1 secure_required"]
    assert who(because("is_secure", base, secure, platform=HEAPS)) == ["p1 secure_required"]
    assert because("is_secure", base).why == "nobody requires it"


def test_only_who_requires_contiguous_memory_makes_the_heap_contiguous() -> None:
    blocks = HeapProperties("test.blocks", contiguous=True)
    platform = Platform(heaps=(blocks,))
    listed = wants(
        buffer_memory_constraints=memory(min_size_bytes=1, permitted_heaps=[heap(blocks)])
    )
    picky = because("heap", listed, platform=platform)
    assert picky.why == "the first permitted heap; the system heap is not permitted"
    required = wants(buffer_memory_constraints=memory(physically_contiguous_required=True))
    reason = because("heap", listed, required, platform=platform)
    assert reason.why == "the first permitted heap that is contiguous"
    assert who(reason) == ["p1 physically_contiguous_required"]
    simulated = because("heap", wants(min_size_bytes=1), required)
    assert simulated.why == "everybody permits the system heap"


def test_why_not_an_earlier_heap() -> None:
    other = HeapProperties("a.other", secure=True)
    platform = Platform(heaps=(SECURE_HEAP, other, DEVICE_HEAP))
    unknown = Heap(heap_type="unknown")
    lists = memory(
        min_size_bytes=1, permitted_heaps=[unknown, heap(SECURE_HEAP), heap(DEVICE_HEAP)]
    )
    reason = because("heap", wants(buffer_memory_constraints=lists), wants(), platform=platform)
    assert reason.why == (
        "the first permitted heap that can be used; the system heap is not permitted; "
        "unknown/0 isn't configured; "
        "test.secure/0 has only INACCESSIBLE, which not everybody supports"
    )
    assert who(reason) == [
        "p0 permitted_heaps",
        "p0 inaccessible_domain_supported",
        "p1 inaccessible_domain_supported",
    ]
    secure = memory(min_size_bytes=1, secure_required=True)
    picky = memory(permitted_heaps=[heap(SECURE_HEAP), heap(DEVICE_HEAP)])
    everybody = [wants(usage=DISPLAY, buffer_memory_constraints=each) for each in (secure, picky)]
    reason = because("heap", *everybody, platform=platform)
    assert reason.result == "test.secure/0"
    assert reason.why.endswith("that is permitted; a.other/0 is not permitted")
    assert who(reason) == ["p0 secure_required", "p1 permitted_heaps"]


def test_why_this_domain() -> None:
    base = wants(min_size_bytes=1, usage=BufferUsage(video=1))
    assert because("coherency_domain", base).result == "CPU"
    display = because("coherency_domain", base, wants(usage=DISPLAY))
    assert who(display) == ["p1 display"]
    no_cpu = wants(
        usage=BufferUsage(video=1), buffer_memory_constraints=memory(cpu_domain_supported=False)
    )
    reason = because("coherency_domain", base, no_cpu)
    assert (reason.result, who(reason)) == ("RAM", ["p1 cpu_domain_supported"])
    secure = wants(usage=DISPLAY, buffer_memory_constraints=memory(secure_required=True))
    reason = because("coherency_domain", base, secure, platform=HEAPS)
    assert reason.result == "INACCESSIBLE"
    assert "a display would take RAM, but the heap has none; the heap has no CPU" in reason.why


def test_why_this_format() -> None:
    only = wants(image(F.R8, min_size=size(2, 2)), image(F.NV12))
    reason = because("pixel_format", only, wants(image(F.R8)))
    assert reason.why == "the only format that everybody takes"
    costs = Platform(format_costs=(FormatCost(F.NV12, cost=3.0),))
    cheapest = because("pixel_format", only, platform=costs)
    assert cheapest.result == "NV12 LINEAR"
    assert "R8 LINEAR has no cost given" in cheapest.why
    report = explain(agree(only, wants(image(F.R8)))).report()
    assert "NV12 LINEAR: not taken by p1 (1)" in report


def test_a_format_that_several_made_specific_together_is_one_that_everybody_takes() -> None:
    open_modifier = [
        image(f, [C.REC709], pixel_format_modifier=M.DO_NOT_CARE, min_size=size(2, 2))
        for f in (F.NV12, F.I420)
    ]
    linear = wants(image(F.DO_NOT_CARE, [C.REC709], pixel_format_modifier=M.LINEAR))
    reason = because("pixel_format", wants(*open_modifier), linear)
    assert reason.result == "I420 LINEAR"
    assert "NV12 LINEAR has no cost given" in reason.why
    report = explain(agree(wants(*open_modifier), linear)).report(width=99)
    assert "[I420 LINEAR, NV12 LINEAR]" in report
    allocation = agree(wants(*open_modifier), linear, wants(image(F.NV12, [C.REC709])))
    report = explain(allocation).report()
    assert "I420 LINEAR: not taken by p2 (2)" in report


def test_a_format_whose_color_space_nobody_chose_is_none_that_everybody_takes() -> None:
    two = [image(F.R8, [C.DO_NOT_CARE], min_size=size(2, 2)), image(F.L8, min_size=size(2, 2))]
    costs = Platform(format_costs=(FormatCost(F.R8, cost=3.0),))
    reason = because("pixel_format", wants(*two), platform=costs)
    assert (reason.result, reason.why) == ("L8 LINEAR", "the only format that everybody takes")
    report = explain(agree(wants(*two), platform=costs)).report()
    assert "R8 LINEAR: somebody must choose a specific color space" in report


def test_a_format_that_exists_has_not_dropped_out() -> None:
    """Delivered entries are accepted as they are, although their rows would not pass the checks again."""
    tiled = image(
        F.B8G8R8A8,
        pixel_format_modifier=M.INTEL_I915_X_TILED,
        min_size=size(100, 100),
        max_bytes_per_row=600,
        bytes_per_row_divisor=20,
    )
    existing = agree(wants(tiled))
    result = aggregate([*people(wants(tiled)), must_match(existing.settings)], PLATFORM)
    assert isinstance(result, Allocation)
    assert "dropped out" not in explain(result).report()


def test_a_format_that_cannot_live_in_protected_memory() -> None:
    two = wants(
        image(F.B8G8R8A8, pixel_format_modifier=M.ARM_LINEAR_TE, min_size=size(2, 2)),
        image(F.B8G8R8A8, pixel_format_modifier=M.GOOGLE_GOLDFISH_OPTIMAL, min_size=size(2, 2)),
        usage=DISPLAY,
        buffer_memory_constraints=memory(secure_required=True),
    )
    assert (
        "ARM_LINEAR_TE can't live in protected memory"
        in because("pixel_format", two, platform=HEAPS).why
    )
    two.buffer_memory_constraints = None
    costs = (FormatCost(F.B8G8R8A8, M.GOOGLE_GOLDFISH_OPTIMAL, cost=1.0),)
    why = because("pixel_format", two, platform=Platform(format_costs=costs)).why
    assert why.endswith("; B8G8R8A8 ARM_LINEAR_TE has no cost given")


def test_many_formats_are_cut() -> None:
    bits = (0, 0x10, 0x20, 0x40, 0x800, 0x1000, 0x2000)
    modifiers = {M.ARM_AFBC_16X16 | one | other for one in bits[:3] for other in bits}
    formats = (F.R8G8B8A8, F.R8G8B8X8, F.B8G8R8A8, F.B8G8R8X8)
    many = wants(
        *(
            image(f, pixel_format_modifier=m, min_size=size(2, 2))
            for f in formats
            for m in modifiers
        )
    )
    assert because("pixel_format", many).why.endswith(", 39 more")


def test_why_this_color_space() -> None:
    both = wants(image(F.R8, [C.SRGB, C.REC709, C.PASSTHROUGH], min_size=size(2, 2)))
    assert because("color_space", both).result == "SRGB"
    yuv = wants(image(F.R8, [C.REC709, C.PASSTHROUGH]))
    anything = wants(image(F.DO_NOT_CARE, [C.DO_NOT_CARE]))
    reason = because("color_space", both, yuv, anything)
    assert reason.result == "REC709"
    assert "SRGB is not accepted by p1 (1)" in reason.why


def test_a_report_ends_with_what_came_out() -> None:
    report = explain(agree(wants(min_size_bytes=1), wants())).report(width=80)
    assert "size_bytes" in report
    assert heap_line(report).endswith("fuchsia.sysmem.heap.HEAP_TYPE.SYSTEM_RAM/0")


def heap_line(report: str) -> str:
    return next(line for line in report.splitlines() if line.startswith("  heap "))


def test_a_heap_named_by_a_list_without_the_system_heap() -> None:
    lists = memory(min_size_bytes=1, permitted_heaps=[Heap(heap_type="unknown"), heap(DEVICE_HEAP)])
    reason = because("heap", wants(buffer_memory_constraints=lists), platform=HEAPS)
    assert "the system heap is not permitted" in reason.why


def test_who_made_rows_longer() -> None:
    base = wants(image(min_size=size(100, 100)))
    divisor = wants(image(bytes_per_row_divisor=4096))
    harmless = wants(image(bytes_per_row_divisor=4, size_alignment=size(4, 2)))
    at_least = wants(image(min_bytes_per_row=101))
    parts = ["p0 width", "p0 height"]
    assert who(because("size_bytes", base, harmless)) == parts
    assert who(because("size_bytes", base, harmless, divisor)) == [
        *parts,
        "p2 bytes_per_row_divisor",
    ]
    assert who(because("size_bytes", base, at_least, harmless)) == [
        *parts,
        "p1 min_bytes_per_row",
        "p2 bytes_per_row_divisor",
    ]


def test_who_made_rows_longer_together() -> None:
    """44 is a multiple of 2, but after rounding to a multiple of 3 it no longer is."""
    base = wants(image(min_size=size(44, 1)))
    steps = [wants(image(bytes_per_row_divisor=step)) for step in (2, 4, 1, 3)]
    reason = because("size_bytes", base, *steps)
    assert reason.result == "48"
    assert who(reason)[2:] == [
        "p4 bytes_per_row_divisor",
        "p1 bytes_per_row_divisor",
        "p2 bytes_per_row_divisor",
    ]
    nv12 = [image(F.NV12, [C.REC709], bytes_per_row_divisor=step) for step in (2, 5)]
    nv12[0].min_size = size(134, 2)
    assert who(because("size_bytes", *map(wants, nv12)))[2:] == ["p1 bytes_per_row_divisor"]


def test_who_made_sizes_rounded() -> None:
    aligned = wants(image(size_alignment=size(64, 1)))
    reason = because("size_bytes", wants(image(min_size=size(100, 100))), aligned)
    assert [v.path.split("].")[-1] for v in reason.values] == [
        "min_size.width",
        "min_size.height",
        "size_alignment.width",
    ]


def test_why_a_display_does_not_get_its_domain() -> None:
    base = wants(min_size_bytes=1, usage=DISPLAY)
    no_ram = wants(usage=DISPLAY, buffer_memory_constraints=memory(ram_domain_supported=False))
    reason = because("coherency_domain", base, no_ram)
    assert reason.result == "CPU"
    assert "a display would take RAM, but not everybody supports it" in reason.why
    assert who(reason) == ["p1 ram_domain_supported", "p0 display", "p1 display"]
    no_cpu = memory(min_size_bytes=1, ram_domain_supported=False, cpu_domain_supported=False)
    no_cpu.inaccessible_domain_supported = True
    neither = wants(usage=DISPLAY, buffer_memory_constraints=no_cpu)
    everywhere = wants(
        usage=DISPLAY, buffer_memory_constraints=memory(inaccessible_domain_supported=True)
    )
    secure = wants(usage=DISPLAY, buffer_memory_constraints=memory(secure_required=True))
    reason = because("coherency_domain", base, secure, platform=HEAPS)
    assert "a display would take RAM, but the heap has none" in reason.why
    mixed = HeapProperties(
        "test.mixed", domains=frozenset((CoherencyDomain.RAM, CoherencyDomain.INACCESSIBLE))
    )
    neither.buffer_memory_constraints = replace(no_cpu, permitted_heaps=[heap(mixed)])
    reason = because("coherency_domain", everywhere, neither, platform=Platform(heaps=(mixed,)))
    assert (reason.result, who(reason)[0]) == ("INACCESSIBLE", "p1 ram_domain_supported")
    assert "the heap has no CPU" in reason.why


def test_an_allocation_from_elsewhere_has_no_explanation() -> None:
    with pytest.raises(ValueError, match="can be explained"):
        explain(Allocation(SingleBufferSettings(), 1))
