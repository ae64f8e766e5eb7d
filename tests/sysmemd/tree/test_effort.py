"""The estimate of the size of the participants' constraints."""

from __future__ import annotations

from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    Heap,
    ImageFormatConstraints,
    PixelFormatAndModifier,
    SizeU,
)
from sysmemd.constraints import Participant
from sysmemd.tree.effort import effort


def of(constraints: BufferCollectionConstraints | None) -> int:
    return effort([Participant(constraints)])


def image(*entries: ImageFormatConstraints) -> int:
    return of(BufferCollectionConstraints(image_format_constraints=list(entries)))


def test_what_is_listed_counts() -> None:
    nothing = of(None)
    assert nothing == of(BufferCollectionConstraints()) > 0
    memory = BufferMemoryConstraints(permitted_heaps=[Heap(heap_type="a", id=0)] * 60)
    assert of(BufferCollectionConstraints(buffer_memory_constraints=memory)) == nothing + 60
    one = image(ImageFormatConstraints())
    assert nothing < one
    listing = ImageFormatConstraints(required_max_size_list=[SizeU(1, 1)] * 64, color_spaces=[1, 2])
    assert image(listing) == one + 66
    assert image(ImageFormatConstraints(), ImageFormatConstraints()) - one == one - nothing


def test_lists_count_for_each_format_of_their_entry() -> None:
    sizes = [SizeU(1, 1)] * 64
    formats = [PixelFormatAndModifier(1, 0)] * 63
    alone = image(ImageFormatConstraints(required_max_size_list=sizes, color_spaces=[1, 2]))
    together = image(
        ImageFormatConstraints(
            required_max_size_list=sizes, color_spaces=[1, 2], pixel_format_and_modifiers=formats
        )
    )
    nothing = of(None)
    assert together - nothing == 64 * (alone - nothing)
