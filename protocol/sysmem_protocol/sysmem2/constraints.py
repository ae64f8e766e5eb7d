"""Tables with the constraints of participants (`docs/spec/constraints.md`).

Every field is optional. Each docstring says what an un-set field means, and how the daemon combines the values of
several participants. The result is a range, from which the application picks the size of its images.
"""

from collections.abc import Sequence
from typing import Annotated

from ..images2 import ColorSpace, PixelFormat, PixelFormatModifier
from ..library import (
    BOOL,
    UINT32,
    UINT64,
    Enumeration,
    Field,
    Nested,
    String,
    Struct,
    Table,
    Vector,
    struct,
    table,
)
from .flags import CpuUsage, DisplayUsage, NoneUsage, VideoUsage, VulkanUsage

MAX_HEAP_TYPE_BYTES = 128
#: The maximum number of entries of a list in constraints, and of tokens created by one call.
MAX_LIST_COUNT = 64
MAX_COLOR_SPACE_COUNT = 32


# --- structs ------------------------------------------------------------------------------------------------------


@struct
class SizeU(Struct):
    """A width and a height."""

    width: Annotated[int, Field(1, UINT32)]
    """The horizontal extent, usually in pixels."""
    height: Annotated[int, Field(2, UINT32)]
    """The vertical extent, usually in pixels (rows)."""


@struct
class PixelFormatAndModifier(Struct):
    """A pixel format together with its layout in memory."""

    pixel_format: Annotated[PixelFormat | int, Field(1, Enumeration(PixelFormat))]
    """The pixel format. DO_NOT_CARE accepts any format."""
    pixel_format_modifier: Annotated[
        PixelFormatModifier | int, Field(2, Enumeration(PixelFormatModifier, 64))
    ]
    """The layout of the pixels in memory. DO_NOT_CARE accepts any layout."""


# --- tables -------------------------------------------------------------------------------------------------------


@table
class BufferUsage(Table):
    """How a participant uses the buffers. At least one bit must be set."""

    none: Annotated[NoneUsage | int | None, Field(1, Enumeration(NoneUsage))] = None
    """That the participant does not use the buffers itself. Un-set is 0; several values are combined by "or"."""
    cpu: Annotated[CpuUsage | int | None, Field(2, Enumeration(CpuUsage))] = None
    """How the CPU uses the buffers. Un-set is 0; several values are combined by "or"."""
    vulkan: Annotated[VulkanUsage | int | None, Field(3, Enumeration(VulkanUsage))] = None
    """How Vulkan uses the buffers. Un-set is 0; several values are combined by "or"."""
    display: Annotated[DisplayUsage | int | None, Field(4, Enumeration(DisplayUsage))] = None
    """How a display uses the buffers. Un-set is 0; several values are combined by "or"."""
    video: Annotated[VideoUsage | int | None, Field(5, Enumeration(VideoUsage))] = None
    """How video hardware uses the buffers. Un-set is 0; several values are combined by "or"."""


@table
class Heap(Table):
    """A source of memory. The daemon's configuration lists the heaps."""

    heap_type: Annotated[str | None, Field(1, String(MAX_HEAP_TYPE_BYTES))] = None
    """The kind of the heap, at most 128 bytes of UTF-8. A heap without it is refused."""
    id: Annotated[int | None, Field(2, UINT64)] = None
    """The number of the heap among those of this kind. Un-set is 0."""


@table
class BufferMemoryConstraints(Table):
    """A participant's constraints on the memory of each buffer."""

    min_size_bytes: Annotated[int | None, Field(1, UINT64)] = None
    """The least size of a buffer, in bytes. Un-set is 0. The greatest value of all participants counts."""
    max_size_bytes: Annotated[int | None, Field(2, UINT64)] = None
    """The greatest size of a buffer, padding included, in bytes. Un-set is `2**64 - 1`. The least value of all
    participants counts."""
    physically_contiguous_required: Annotated[bool | None, Field(3, BOOL)] = None
    """Whether a buffer must be one piece of physical memory. Un-set is false. One participant that requires it is
    enough."""
    secure_required: Annotated[bool | None, Field(4, BOOL)] = None
    """Whether the memory must be protected from the CPU. Un-set is false. One participant that requires it is enough;
    it conflicts with every CPU usage."""
    cpu_domain_supported: Annotated[bool | None, Field(5, BOOL)] = None
    """Whether the participant can use the coherency domain CPU. Un-set is true unless `secure_required` is set. All
    participants must support a domain."""
    ram_domain_supported: Annotated[bool | None, Field(6, BOOL)] = None
    """Whether the participant can use the coherency domain RAM. Un-set is true unless `secure_required` is set or the
    CPU uses the buffers. All participants must support a domain."""
    inaccessible_domain_supported: Annotated[bool | None, Field(7, BOOL)] = None
    """Whether the participant can use the coherency domain INACCESSIBLE. Un-set is true unless the CPU uses the
    buffers. All participants must support a domain."""
    permitted_heaps: Annotated[
        Sequence[Heap] | None, Field(8, Vector(Nested(Heap), MAX_LIST_COUNT))
    ] = None
    """The heaps that the memory may come from. Un-set permits any heap; an empty list is refused. The lists of all
    participants are intersected. The system heap is taken if it is left, otherwise the first suitable one in the order
    of the first participant's list."""
    min_physical_base_alignment: Annotated[int | None, Field(9, UINT64)] = None
    """The alignment of a buffer's physical address: a power of 2, in bytes. Un-set is 1. It may only be set together
    with `physically_contiguous_required`. The greatest value of all participants counts."""


@table
class ImageFormatConstraints(Table):
    """A participant's constraints on images in one or more pixel formats.

    A participant lists an entry for each set of formats that it can use in the same way. Entries of different
    participants are combined if they have a format in common. The result has one format, and a range of sizes and rows
    from which the application picks those of its images.
    """

    pixel_format: Annotated[PixelFormat | int | None, Field(1, Enumeration(PixelFormat))] = None
    """A pixel format that the entry is about. DO_NOT_CARE accepts any. It may be un-set if `pixel_format_and_modifiers`
    lists formats. Only formats that all participants list are left."""
    pixel_format_modifier: Annotated[
        PixelFormatModifier | int | None, Field(2, Enumeration(PixelFormatModifier, 64))
    ] = None
    """The layout of `pixel_format` in memory. Un-set is LINEAR; it is DO_NOT_CARE for the format DO_NOT_CARE, and for a
    participant without usage. Only layouts that all participants list are left."""
    color_spaces: Annotated[
        Sequence[ColorSpace | int] | None,
        Field(3, Vector(Enumeration(ColorSpace), MAX_COLOR_SPACE_COUNT)),
    ] = None
    """The colour spaces that the participant can use; the list is required. DO_NOT_CARE must be the only entry. The
    lists of all participants are intersected; the result has the most preferred one of what is left."""
    min_size: Annotated[SizeU | None, Field(4, Nested(SizeU))] = None
    """The least width and height of an image, in pixels. Un-set is 0 × 0, raised to `size_alignment`. The greatest
    width and the greatest height of all participants count."""
    max_size: Annotated[SizeU | None, Field(5, Nested(SizeU))] = None
    """The greatest width and height of an image, in pixels. Un-set is `2**32 - 1` in both. The least width and the
    least height of all participants count."""
    min_bytes_per_row: Annotated[int | None, Field(6, UINT32)] = None
    """The least distance from one row to the next, in bytes. Un-set is 0, raised to what `min_size.width` needs. The
    greatest value of all participants counts."""
    max_bytes_per_row: Annotated[int | None, Field(7, UINT32)] = None
    """The greatest distance from one row to the next, in bytes. Un-set is `2**32 - 1`. The least value of all
    participants counts."""
    max_width_times_height: Annotated[int | None, Field(8, UINT64)] = None
    """The greatest number of pixels of an image, width × height. Un-set is `2**64 - 1`. The least value of all
    participants counts."""
    size_alignment: Annotated[SizeU | None, Field(9, Nested(SizeU))] = None
    """Width and height of an image are multiples of these numbers of pixels, powers of 2. Un-set is 1 × 1, raised to
    what the format needs. The greatest width and the greatest height of all participants count."""
    display_rect_alignment: Annotated[SizeU | None, Field(10, Nested(SizeU))] = None
    """Position and size of the visible part of an image are multiples of these numbers of pixels, powers of 2. Un-set
    is 1 × 1. The greatest width and the greatest height of all participants count."""
    required_min_size: Annotated[SizeU | None, Field(11, Nested(SizeU))] = None
    """A size that images must be allowed to go down to, in pixels: `min_size` of the result may not be larger. Un-set
    requires nothing. The least width and the least height of all participants count."""
    required_max_size: Annotated[SizeU | None, Field(12, Nested(SizeU))] = None
    """A size that images must be allowed to go up to, in pixels, and for which the buffers must have room. Deprecated:
    use `required_max_size_list`. Un-set requires nothing. The greatest width and the greatest height of all
    participants count."""
    bytes_per_row_divisor: Annotated[int | None, Field(13, UINT32)] = None
    """The distance from one row to the next is a multiple of this number of bytes. Un-set is 1, raised to what the
    format needs. The least common multiple of all participants' values counts; a format for which it exceeds 32 bits is
    dropped."""
    start_offset_divisor: Annotated[int | None, Field(14, UINT32)] = None
    """The offset of an image's first byte in the buffer is a multiple of this number of bytes, a power of 2 and at most
    a page. Un-set is 1, raised to what the format needs. The greatest value of all participants counts."""
    pixel_format_and_modifiers: Annotated[
        Sequence[PixelFormatAndModifier] | None,
        Field(15, Vector(Nested(PixelFormatAndModifier), MAX_LIST_COUNT)),
    ] = None
    """Further pairs of a pixel format and a layout that the entry is about, at most 64. It is un-set in a result. Only
    pairs that all participants list are left."""
    require_bytes_per_row_at_pixel_boundary: Annotated[bool | None, Field(16, BOOL)] = None
    """Whether the distance from one row to the next must be a whole number of pixels. Un-set is false. One participant
    that requires it is enough."""
    is_alpha_present: Annotated[bool | None, Field(17, BOOL)] = None
    """Whether the A or X channel of the format is alpha (true) or is ignored (false). Un-set accepts both, and is the
    only possible result for a format without such a channel. A set value wins over an un-set one; a format for which
    participants set different values is dropped."""
    required_max_size_list: Annotated[
        Sequence[SizeU] | None, Field(18, Vector(Nested(SizeU), MAX_LIST_COUNT))
    ] = None
    """Sizes that images must be allowed to have, in pixels, and for which the buffers must have room. Un-set is an
    empty list. The lists of all participants are concatenated; sizes that another one covers are left out of the
    result."""
    pad_for_block_size: Annotated[SizeU | None, Field(19, Nested(SizeU))] = None
    """The participant accesses whole blocks of these numbers of pixels, powers of 2: the VMO gets room for the part of
    them that is beyond an image's edges. Un-set is 1 × 1. More is possible only for linear formats with one plane, and
    a height only with a `max_size`. The greatest width and the greatest height of all participants count."""
    pad_beyond_image_size_bytes: Annotated[int | None, Field(20, UINT64)] = None
    """How many bytes behind the image the participant accesses too: the VMO gets room for them. Un-set is 0. The
    greatest value of all participants counts."""


@table
class BufferCollectionConstraints(Table):
    """One participant's constraints on the buffers of a collection.

    The number of buffers is the sum of what all hold for camping, of the dedicated slack, and of the shared slack; or
    `min_buffer_count` if that is greater.
    """

    usage: Annotated[BufferUsage | None, Field(1, Nested(BufferUsage))] = None
    """How the participant uses the buffers. It may be un-set only in an entirely empty table, which means NONE_USAGE.
    The bits of all participants are combined by "or"."""
    min_buffer_count_for_camping: Annotated[int | None, Field(2, UINT32)] = None
    """How many buffers the participant holds at the same time for an arbitrarily long time. Un-set is 0. The values of
    all participants are summed."""
    min_buffer_count_for_dedicated_slack: Annotated[int | None, Field(3, UINT32)] = None
    """How many more buffers the participant needs for itself to run smoothly. Un-set is 0. The values of all
    participants are summed."""
    min_buffer_count_for_shared_slack: Annotated[int | None, Field(4, UINT32)] = None
    """How many more buffers the participant needs to run smoothly, but can share with the slack of others. Un-set is 0.
    The greatest value of all participants counts."""
    min_buffer_count: Annotated[int | None, Field(5, UINT32)] = None
    """The least number of buffers in the whole collection. Un-set is 0. The greatest value of all participants
    counts."""
    max_buffer_count: Annotated[int | None, Field(6, UINT32)] = None
    """The greatest number of buffers in the whole collection, not 0. Un-set is `2**32 - 1`, though a collection never
    has more than 128. The least value of all participants counts."""
    buffer_memory_constraints: Annotated[
        BufferMemoryConstraints | None, Field(7, Nested(BufferMemoryConstraints))
    ] = None
    """The constraints on the memory. Un-set is a table with no field set. Its fields are combined one by one."""
    image_format_constraints: Annotated[
        Sequence[ImageFormatConstraints] | None,
        Field(8, Vector(Nested(ImageFormatConstraints), MAX_LIST_COUNT)),
    ] = None
    """The image formats that the participant can use, in any order: the daemon picks the cheapest one that all have.
    Un-set or empty does not constrain the format; if all participants leave it out, the buffers are raw."""
