"""Values as text for people."""

from __future__ import annotations

from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferUsage,
    CpuUsage,
    Heap,
    PixelFormatAndModifier,
    SizeU,
)
from sysmemd.explaining.words import MAX_SHOWN, Bits, listing, show

from ..constraints.support import F, M, image, memory, size


def test_values() -> None:
    assert show(None) == "un-set"
    assert (show(True), show(False)) == ("true", "false")
    assert show(SizeU(3, 4)) == "3×4"
    assert show(F.NV12) == "NV12"
    assert show(PixelFormatAndModifier(F.NV12, M.LINEAR)) == "NV12 LINEAR"
    assert show(Heap(heap_type="x\n")) == r"x\n/0"
    assert show("two\nlines") == r"two\nlines"
    assert show(7) == "7"


def test_lists() -> None:
    assert show([1, 2]) == "[1, 2]"
    assert show(list(range(2 * MAX_SHOWN + 2))).endswith(", … 10 more]")
    assert show(list(range(MAX_SHOWN + 2)), None).endswith(", 8, 9]")


def test_flags() -> None:
    assert show(Bits(CpuUsage, 1 | 4)) == "READ|WRITE"
    assert show(Bits(CpuUsage, 0)) == "0"
    assert show(Bits(CpuUsage, 0x11)) == "READ|0x10"
    assert show(Bits(CpuUsage, 0x10)) == "0x10"
    assert Bits(CpuUsage, 3) == 3


def test_a_table_as_a_listing() -> None:
    table = BufferCollectionConstraints(
        usage=BufferUsage(cpu=3),
        buffer_memory_constraints=memory(permitted_heaps=[Heap(heap_type="a"), Heap(id=2)]),
        image_format_constraints=[
            image(F.NV12, required_max_size_list=[size(i, 1) for i in range(1, 10)])
        ],
    )
    assert listing(table).splitlines() == [
        "$.usage.cpu = READ|READ_OFTEN",
        "$.buffer_memory_constraints.permitted_heaps[0] = a/0",
        "$.buffer_memory_constraints.permitted_heaps[1] = /2",
        "$.image_format_constraints[0].pixel_format = NV12",
        "$.image_format_constraints[0].color_spaces = [PASSTHROUGH]",
        "$.image_format_constraints[0].required_max_size_list = "
        "[1×1, 2×1, 3×1, 4×1, 5×1, 6×1, 7×1, 8×1, 9×1]",
    ]
    assert listing(None) == listing(BufferCollectionConstraints()) == "un-set"
