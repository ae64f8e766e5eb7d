"""Tables with the results of an allocation.

A field that the daemon always sets has no `None` in its type. Programs choose their own classes for VMOs and events:
`VmoBuffer[Vmo, EventPair]`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Generic

from ..handles import Handle
from ..images2 import ColorSpace, PixelFormat, PixelFormatModifier
from ..library import (
    ALWAYS_SET,
    BOOL,
    UINT64,
    Enumeration,
    Field,
    HandleKind,
    HandleType,
    Nested,
    Table,
    Vector,
    table,
)
from .constraints import Heap, ImageFormatConstraints, SizeU
from .flags import CoherencyDomain

#: The maximum number of buffers of one collection.
MAX_BUFFER_COUNT = 128

if TYPE_CHECKING:
    from typing_extensions import TypeVar
else:
    from typing import TypeVar

if TYPE_CHECKING:
    # The defaults are plain handles, as in the daemon. Python's own TypeVar has defaults only from 3.13 on.
    VmoT = TypeVar("VmoT", bound=Handle, default=Handle)
    EventPairT = TypeVar("EventPairT", bound=Handle, default=Handle)
    BufferT = TypeVar("BufferT", bound="VmoBuffer[Any, Any]", default="VmoBuffer")
else:
    VmoT, EventPairT, BufferT = TypeVar("VmoT"), TypeVar("EventPairT"), TypeVar("BufferT")


# --- settings -----------------------------------------------------------------------------------------------------


@table
class AllocatedHeap(Heap):
    """The heap that the memory of a collection came from."""

    heap_type: str = ALWAYS_SET
    """The kind of the heap."""
    id: int = ALWAYS_SET
    """The number of the heap among those of this kind."""


#: The heap that always exists.
SYSTEM_RAM_HEAP = AllocatedHeap(heap_type="fuchsia.sysmem.heap.HEAP_TYPE.SYSTEM_RAM", id=0)


@table
class ImageFormatSettings(ImageFormatConstraints):
    """The settings for the images in the buffers: the constraints of all participants, combined for the chosen format.

    The pixel format, its layout and the colour space are fixed. Size and bytes per row are ranges, from which the
    application picks those of its images; `BufferCollectionInfo.image` is the smallest image.
    """

    pixel_format: PixelFormat | int = ALWAYS_SET
    """The pixel format of every image."""
    pixel_format_modifier: PixelFormatModifier | int = ALWAYS_SET
    """The layout of every image in memory. A layout that has no name is a plain number."""
    color_spaces: Sequence[ColorSpace | int] = ALWAYS_SET
    """The colour space of every image, in a list of one."""
    min_size: SizeU = ALWAYS_SET
    """The least width and height of an image, in pixels, as multiples of `size_alignment`."""
    max_size: SizeU = ALWAYS_SET
    """The greatest width and height of an image, in pixels; `2**32 - 1` is no limit. An image must also fit into
    `size_bytes`."""
    min_bytes_per_row: int = ALWAYS_SET
    """The least distance from one row to the next, in bytes, enough for `min_size.width`."""
    max_bytes_per_row: int = ALWAYS_SET
    """The greatest distance from one row to the next, in bytes; `2**32 - 1` is no limit."""
    max_width_times_height: int = ALWAYS_SET
    """The greatest number of pixels of an image, width × height; `2**64 - 1` is no limit."""
    size_alignment: SizeU = ALWAYS_SET
    """Width and height of an image are multiples of these numbers of pixels."""
    display_rect_alignment: SizeU = ALWAYS_SET
    """Position and size of the visible part of an image are multiples of these numbers of pixels."""
    required_min_size: SizeU = ALWAYS_SET
    """The least size that a participant required images to have, in pixels; `2**32 - 1` if no participant did."""
    required_max_size: SizeU = ALWAYS_SET
    """The greatest of the participants' `required_max_size`, in pixels; 0 × 0 if no participant had one. Deprecated:
    `required_max_size_list` has it too."""
    bytes_per_row_divisor: int = ALWAYS_SET
    """The distance from one row to the next is a multiple of this number of bytes."""
    start_offset_divisor: int = ALWAYS_SET
    """The offset of an image's first byte in the buffer is a multiple of this number of bytes."""
    require_bytes_per_row_at_pixel_boundary: bool = ALWAYS_SET
    """Whether the distance from one row to the next is a whole number of pixels."""
    required_max_size_list: Sequence[SizeU] = ALWAYS_SET
    """Sizes that fit into the buffers, in pixels, sorted, without those that another one covers."""
    pad_for_block_size: SizeU = ALWAYS_SET
    """The VMO has room for whole blocks of these numbers of pixels at the edges of an image; 1 × 1 if no participant
    needs it."""
    pad_beyond_image_size_bytes: int = ALWAYS_SET
    """The VMO has room for this number of bytes behind an image."""


@table
class BufferMemorySettings(Table):
    """The settings for the memory of each buffer."""

    size_bytes: Annotated[int, Field(1, UINT64)] = ALWAYS_SET
    """The size of a buffer in bytes, without padding: an image must fit into it."""
    is_physically_contiguous: Annotated[bool, Field(2, BOOL)] = ALWAYS_SET
    """Whether a participant required a buffer to be one piece of physical memory."""
    is_secure: Annotated[bool, Field(3, BOOL)] = ALWAYS_SET
    """Whether a participant required the memory to be protected from the CPU."""
    coherency_domain: Annotated[CoherencyDomain | int, Field(4, Enumeration(CoherencyDomain))] = (
        ALWAYS_SET
    )
    """How the CPU and devices see each other's writes. It is RAM if a display uses the buffers and all participants
    support that; otherwise the first of CPU, RAM and INACCESSIBLE that all participants support."""
    heap: Annotated[AllocatedHeap, Field(5, Nested(AllocatedHeap))] = ALWAYS_SET
    """The heap that the memory came from."""
    raw_vmo_size: Annotated[int, Field(6, UINT64)] = ALWAYS_SET
    """The size of each VMO in bytes: `size_bytes` with the padding that participants asked for, rounded up to whole
    pages."""


@table
class SingleBufferSettings(Table):
    """The settings for each buffer of a collection."""

    buffer_settings: Annotated[BufferMemorySettings, Field(1, Nested(BufferMemorySettings))] = (
        ALWAYS_SET
    )
    """The settings for the memory."""
    image_format_constraints: Annotated[
        ImageFormatSettings | None, Field(2, Nested(ImageFormatSettings))
    ] = None
    """The settings for each image: every field is set except `pixel_format_and_modifiers` and, if it was left open,
    `is_alpha_present`. Un-set for raw buffers, that is, if no participant asked for an image format."""


# --- buffers ------------------------------------------------------------------------------------------------------


@table
class VmoBuffer(Table, Generic[VmoT, EventPairT]):
    """One buffer as it is delivered to one participant."""

    vmo: Annotated[VmoT | None, Field(1, HandleType(HandleKind.VMO))] = None
    """The buffer's memory. Un-set if the participant's usage is just NONE_USAGE, if its rights lack READ, or for a weak
    participant if no strong handle is left."""
    vmo_usable_start: Annotated[int, Field(2, UINT64)] = ALWAYS_SET
    """The position of the buffer in the VMO, in bytes. It is 0 at present."""
    close_weak_asap: Annotated[EventPairT | None, Field(3, HandleType(HandleKind.EVENTPAIR))] = None
    """For a weak participant, an event that closes when the last strong handle is gone: close the VMO soon after that.
    Un-set for others."""


@table
class BufferCollectionInfo(Table, Generic[BufferT]):
    """The buffers of a collection as they are delivered to one participant."""

    settings: Annotated[SingleBufferSettings, Field(1, Nested(SingleBufferSettings))] = ALWAYS_SET
    """The settings for each of the buffers."""
    buffers: Annotated[list[BufferT], Field(2, Vector(Nested(VmoBuffer), MAX_BUFFER_COUNT))] = (
        ALWAYS_SET
    )
    """The buffers, in the same order for every participant."""
    buffer_collection_id: Annotated[int, Field(3, UINT64)] = ALWAYS_SET
    """The number of the collection. No other collection has it until the machine is started again."""


@table
class VmoInfo(Table, Generic[VmoT, EventPairT]):
    """The daemon's information about a VMO: the response to GetVmoInfo."""

    buffer_collection_id: Annotated[int, Field(1, UINT64)] = ALWAYS_SET
    """The number of the buffer's collection."""
    buffer_index: Annotated[int, Field(2, UINT64)] = ALWAYS_SET
    """The buffer's index in the collection, from 0."""
    close_weak_asap: Annotated[EventPairT | None, Field(3, HandleType(HandleKind.EVENTPAIR))] = None
    """An event that closes when the buffer's last strong handle is gone. Set if the VMO is a weak handle, or if
    `need_weak` asked for one."""
    weak_vmo: Annotated[VmoT | None, Field(4, HandleType(HandleKind.VMO))] = None
    """A weak handle to the same buffer. Set if `need_weak` asked for it."""
    single_buffer_settings: Annotated[
        SingleBufferSettings | None, Field(5, Nested(SingleBufferSettings))
    ] = None
    """The settings for each buffer of the collection. Set if `need_single_buffer_settings` asked for them."""
    constraints_ok: Annotated[bool | None, Field(6, BOOL)] = None
    """Whether the buffer satisfies `constraints_to_check`, without regard to buffer counts. Set if those were
    given."""
    vmo_settings_match: Annotated[bool | None, Field(7, BOOL)] = None
    """Whether the collection of `vmo_settings_to_check` has the same settings. Set if that was given."""
