"""The `fuchsia.sysmem2` library: every enum, table and method of `spec/protocol.md`, declared once.

Names are the standard's in Python's spelling; a table's field is `None` when it is un-set.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Annotated

from .handles import Handle
from .images2 import ColorSpace, PixelFormat, PixelFormatModifier
from .library import (
    BOOL,
    INT64,
    UINT32,
    UINT64,
    Enumeration,
    Field,
    HandleKind,
    HandleType,
    Interface,
    Method,
    Nested,
    String,
    Struct,
    Table,
    Vector,
    struct,
    table,
)

# --- limits -------------------------------------------------------------------------------------------------------

#: Bytes of a client's debug name; a process's name and a few words fit.
MAX_DEBUG_NAME_BYTES = 256
#: Bytes of a collection's name; it becomes a memfd's name, with room left for `:<index>`.
MAX_NAME_BYTES = 64
MAX_HEAP_TYPE_BYTES = 128
#: Buffers of one collection.
MAX_BUFFER_COUNT = 128
#: Entries of a list in constraints, and tokens made by one call.
MAX_LIST_COUNT = 64
MAX_COLOR_SPACE_COUNT = 32


# --- enums and flags ----------------------------------------------------------------------------------------------


class Error(enum.IntEnum):
    """Why a call failed. INVALID is never sent."""

    INVALID = 0
    UNSPECIFIED = 1
    PROTOCOL_DEVIATION = 2
    NOT_FOUND = 3
    HANDLE_ACCESS_DENIED = 4
    NO_MEMORY = 5
    CONSTRAINTS_INTERSECTION_EMPTY = 6
    PENDING = 7
    TOO_MANY_GROUP_CHILD_COMBINATIONS = 8
    NO_MORE_STRONG_VMO_HANDLES = 9


class CoherencyDomain(enum.IntEnum):
    """How CPU accesses and device accesses of a buffer see each other."""

    CPU = 0
    RAM = 1
    INACCESSIBLE = 2


class Rights(enum.IntFlag):
    """What a handle may be used for. SAME_RIGHTS as a mask attenuates nothing."""

    DUPLICATE = 0x1
    TRANSFER = 0x2
    READ = 0x4
    WRITE = 0x8
    EXECUTE = 0x10
    MAP = 0x20
    GET_PROPERTY = 0x40
    SET_PROPERTY = 0x80
    WAIT = 0x4000
    INSPECT = 0x8000
    SAME_RIGHTS = 0x80000000


class NoneUsage(enum.IntFlag):
    """A participant that doesn't use the buffers itself."""

    NONE_USAGE = 1
    NONE_USAGE_PERMIT_ALLOCATION = 2


class CpuUsage(enum.IntFlag):
    """How the CPU accesses buffers."""

    READ = 1
    READ_OFTEN = 2
    WRITE = 4
    WRITE_OFTEN = 8


class VulkanUsage(enum.IntFlag):
    """How Vulkan uses images (low half) and buffers (high half)."""

    IMAGE_TRANSFER_SRC = 0x1
    IMAGE_TRANSFER_DST = 0x2
    IMAGE_SAMPLED = 0x4
    IMAGE_STORAGE = 0x8
    IMAGE_COLOR_ATTACHMENT = 0x10
    IMAGE_STENCIL_ATTACHMENT = 0x20
    IMAGE_TRANSIENT_ATTACHMENT = 0x40
    IMAGE_INPUT_ATTACHMENT = 0x80
    BUFFER_TRANSFER_SRC = 0x10000
    BUFFER_TRANSFER_DST = 0x20000
    BUFFER_UNIFORM_TEXEL_BUFFER = 0x40000
    BUFFER_STORAGE_TEXEL_BUFFER = 0x80000
    BUFFER_UNIFORM_BUFFER = 0x100000
    BUFFER_STORAGE_BUFFER = 0x200000
    BUFFER_INDEX_BUFFER = 0x400000
    BUFFER_VERTEX_BUFFER = 0x800000
    BUFFER_INDIRECT_BUFFER = 0x1000000


class DisplayUsage(enum.IntFlag):
    """How a display scans out buffers."""

    LAYER = 1
    CURSOR = 2


class VideoUsage(enum.IntFlag):
    """How video hardware uses buffers."""

    HW_DECODER = 1
    HW_ENCODER = 2
    CAPTURE = 8
    DECRYPTOR_OUTPUT = 16
    HW_DECODER_INTERNAL = 32


# --- structs ------------------------------------------------------------------------------------------------------


@struct
class SizeU(Struct):
    """Width and height in pixels."""

    width: Annotated[int, Field(1, UINT32)]
    height: Annotated[int, Field(2, UINT32)]


@struct
class PixelFormatAndModifier(Struct):
    """A pixel format together with its layout."""

    pixel_format: Annotated[PixelFormat | int, Field(1, Enumeration(PixelFormat))]
    pixel_format_modifier: Annotated[
        PixelFormatModifier | int, Field(2, Enumeration(PixelFormatModifier, 64))
    ]


# --- constraints --------------------------------------------------------------------------------------------------


@table
class BufferUsage(Table):
    """How a participant uses buffers; un-set fields are 0."""

    none: Annotated[NoneUsage | int | None, Field(1, Enumeration(NoneUsage))] = None
    cpu: Annotated[CpuUsage | int | None, Field(2, Enumeration(CpuUsage))] = None
    vulkan: Annotated[VulkanUsage | int | None, Field(3, Enumeration(VulkanUsage))] = None
    display: Annotated[DisplayUsage | int | None, Field(4, Enumeration(DisplayUsage))] = None
    video: Annotated[VideoUsage | int | None, Field(5, Enumeration(VideoUsage))] = None


@table
class Heap(Table):
    """Where memory comes from."""

    heap_type: Annotated[str | None, Field(1, String(MAX_HEAP_TYPE_BYTES))] = None
    id: Annotated[int | None, Field(2, UINT64)] = None


#: The heap that always exists.
SYSTEM_RAM_HEAP = Heap(heap_type="fuchsia.sysmem.heap.HEAP_TYPE.SYSTEM_RAM", id=0)


@table
class BufferMemoryConstraints(Table):
    """What a participant needs of the memory; sizes in bytes."""

    min_size_bytes: Annotated[int | None, Field(1, UINT64)] = None
    max_size_bytes: Annotated[int | None, Field(2, UINT64)] = None
    physically_contiguous_required: Annotated[bool | None, Field(3, BOOL)] = None
    secure_required: Annotated[bool | None, Field(4, BOOL)] = None
    cpu_domain_supported: Annotated[bool | None, Field(5, BOOL)] = None
    ram_domain_supported: Annotated[bool | None, Field(6, BOOL)] = None
    inaccessible_domain_supported: Annotated[bool | None, Field(7, BOOL)] = None
    permitted_heaps: Annotated[
        Sequence[Heap] | None, Field(8, Vector(Nested(Heap), MAX_LIST_COUNT))
    ] = None
    min_physical_base_alignment: Annotated[int | None, Field(9, UINT64)] = None


@table
class ImageFormatConstraints(Table):
    """What a participant needs of images of one or more formats; sizes in pixels, rows in bytes."""

    pixel_format: Annotated[PixelFormat | int | None, Field(1, Enumeration(PixelFormat))] = None
    pixel_format_modifier: Annotated[
        PixelFormatModifier | int | None, Field(2, Enumeration(PixelFormatModifier, 64))
    ] = None
    color_spaces: Annotated[
        Sequence[ColorSpace | int] | None,
        Field(3, Vector(Enumeration(ColorSpace), MAX_COLOR_SPACE_COUNT)),
    ] = None
    min_size: Annotated[SizeU | None, Field(4, Nested(SizeU))] = None
    max_size: Annotated[SizeU | None, Field(5, Nested(SizeU))] = None
    min_bytes_per_row: Annotated[int | None, Field(6, UINT32)] = None
    max_bytes_per_row: Annotated[int | None, Field(7, UINT32)] = None
    max_width_times_height: Annotated[int | None, Field(8, UINT64)] = None
    size_alignment: Annotated[SizeU | None, Field(9, Nested(SizeU))] = None
    display_rect_alignment: Annotated[SizeU | None, Field(10, Nested(SizeU))] = None
    required_min_size: Annotated[SizeU | None, Field(11, Nested(SizeU))] = None
    required_max_size: Annotated[SizeU | None, Field(12, Nested(SizeU))] = None
    bytes_per_row_divisor: Annotated[int | None, Field(13, UINT32)] = None
    start_offset_divisor: Annotated[int | None, Field(14, UINT32)] = None
    pixel_format_and_modifiers: Annotated[
        Sequence[PixelFormatAndModifier] | None,
        Field(15, Vector(Nested(PixelFormatAndModifier), MAX_LIST_COUNT)),
    ] = None
    require_bytes_per_row_at_pixel_boundary: Annotated[bool | None, Field(16, BOOL)] = None
    is_alpha_present: Annotated[bool | None, Field(17, BOOL)] = None
    required_max_size_list: Annotated[
        Sequence[SizeU] | None, Field(18, Vector(Nested(SizeU), MAX_LIST_COUNT))
    ] = None
    pad_for_block_size: Annotated[SizeU | None, Field(19, Nested(SizeU))] = None
    pad_beyond_image_size_bytes: Annotated[int | None, Field(20, UINT64)] = None


@table
class BufferCollectionConstraints(Table):
    """What one participant needs of the buffers of a collection."""

    usage: Annotated[BufferUsage | None, Field(1, Nested(BufferUsage))] = None
    min_buffer_count_for_camping: Annotated[int | None, Field(2, UINT32)] = None
    min_buffer_count_for_dedicated_slack: Annotated[int | None, Field(3, UINT32)] = None
    min_buffer_count_for_shared_slack: Annotated[int | None, Field(4, UINT32)] = None
    min_buffer_count: Annotated[int | None, Field(5, UINT32)] = None
    max_buffer_count: Annotated[int | None, Field(6, UINT32)] = None
    buffer_memory_constraints: Annotated[
        BufferMemoryConstraints | None, Field(7, Nested(BufferMemoryConstraints))
    ] = None
    image_format_constraints: Annotated[
        Sequence[ImageFormatConstraints] | None,
        Field(8, Vector(Nested(ImageFormatConstraints), MAX_LIST_COUNT)),
    ] = None


# --- what comes out -----------------------------------------------------------------------------------------------


@table
class BufferMemorySettings(Table):
    """The memory of every buffer; `raw_vmo_size` is `size_bytes` with padding, rounded up to pages."""

    size_bytes: Annotated[int | None, Field(1, UINT64)] = None
    is_physically_contiguous: Annotated[bool | None, Field(2, BOOL)] = None
    is_secure: Annotated[bool | None, Field(3, BOOL)] = None
    coherency_domain: Annotated[
        CoherencyDomain | int | None, Field(4, Enumeration(CoherencyDomain))
    ] = None
    heap: Annotated[Heap | None, Field(5, Nested(Heap))] = None
    raw_vmo_size: Annotated[int | None, Field(6, UINT64)] = None


@table
class SingleBufferSettings(Table):
    """What holds for each buffer of a collection; without image format constraints the buffers are raw."""

    buffer_settings: Annotated[
        BufferMemorySettings | None, Field(1, Nested(BufferMemorySettings))
    ] = None
    image_format_constraints: Annotated[
        ImageFormatConstraints | None, Field(2, Nested(ImageFormatConstraints))
    ] = None


@table
class VmoBuffer(Table):
    """One buffer as delivered to one participant."""

    vmo: Annotated[Handle | None, Field(1, HandleType(HandleKind.VMO))] = None
    vmo_usable_start: Annotated[int | None, Field(2, UINT64)] = None
    close_weak_asap: Annotated[Handle | None, Field(3, HandleType(HandleKind.EVENTPAIR))] = None


@table
class BufferCollectionInfo(Table):
    """The allocated buffers and what holds for each of them."""

    settings: Annotated[SingleBufferSettings | None, Field(1, Nested(SingleBufferSettings))] = None
    buffers: Annotated[
        list[VmoBuffer] | None, Field(2, Vector(Nested(VmoBuffer), MAX_BUFFER_COUNT))
    ] = None
    buffer_collection_id: Annotated[int | None, Field(3, UINT64)] = None


# --- requests and responses ---------------------------------------------------------------------------------------

_MASK = Enumeration(Rights)
_TOKEN_CLIENT_END = HandleType(HandleKind.CLIENT_END, "BufferCollectionToken")
_TOKEN_SERVER_END = HandleType(HandleKind.SERVER_END, "BufferCollectionToken")
_COLLECTION_SERVER_END = HandleType(HandleKind.SERVER_END, "BufferCollection")
_GROUP_SERVER_END = HandleType(HandleKind.SERVER_END, "BufferCollectionTokenGroup")
_EVENTPAIR = HandleType(HandleKind.EVENTPAIR)
_EVENT = HandleType(HandleKind.EVENT)
_VMO = HandleType(HandleKind.VMO)


@table
class AllocatorAllocateNonSharedCollectionRequest(Table):
    collection_request: Annotated[
        Handle | None, Field(1, _COLLECTION_SERVER_END, required=True)
    ] = None


@table
class AllocatorAllocateSharedCollectionRequest(Table):
    token_request: Annotated[Handle | None, Field(1, _TOKEN_SERVER_END, required=True)] = None


@table
class AllocatorBindSharedCollectionRequest(Table):
    token: Annotated[Handle | None, Field(1, _TOKEN_CLIENT_END, required=True)] = None
    buffer_collection_request: Annotated[
        Handle | None, Field(2, _COLLECTION_SERVER_END, required=True)
    ] = None


@table
class AllocatorValidateBufferCollectionTokenRequest(Table):
    token_server_koid: Annotated[int | None, Field(1, UINT64, required=True)] = None


@table
class AllocatorValidateBufferCollectionTokenResponse(Table):
    is_known: Annotated[bool | None, Field(1, BOOL)] = None


@table
class AllocatorGetVmoInfoRequest(Table):
    vmo: Annotated[Handle | None, Field(1, _VMO, required=True)] = None
    need_weak: Annotated[bool | None, Field(2, BOOL)] = None
    need_single_buffer_settings: Annotated[bool | None, Field(3, BOOL)] = None
    constraints_to_check: Annotated[
        BufferCollectionConstraints | None, Field(4, Nested(BufferCollectionConstraints))
    ] = None
    vmo_settings_to_check: Annotated[Handle | None, Field(5, _VMO)] = None
    vmo_settings_to_check_ignore_size: Annotated[bool | None, Field(6, BOOL)] = None


@table
class VmoInfo(Table):
    """What the server knows of a VMO; the answer to GetVmoInfo."""

    buffer_collection_id: Annotated[int | None, Field(1, UINT64)] = None
    buffer_index: Annotated[int | None, Field(2, UINT64)] = None
    close_weak_asap: Annotated[Handle | None, Field(3, _EVENTPAIR)] = None
    weak_vmo: Annotated[Handle | None, Field(4, _VMO)] = None
    single_buffer_settings: Annotated[
        SingleBufferSettings | None, Field(5, Nested(SingleBufferSettings))
    ] = None
    constraints_ok: Annotated[bool | None, Field(6, BOOL)] = None
    vmo_settings_match: Annotated[bool | None, Field(7, BOOL)] = None


@table
class SetDebugClientInfoRequest(Table):
    name: Annotated[str | None, Field(1, String(MAX_DEBUG_NAME_BYTES), required=True)] = None
    id: Annotated[int | None, Field(2, UINT64)] = None


@table
class NodeSetNameRequest(Table):
    priority: Annotated[int | None, Field(1, UINT32, required=True)] = None
    name: Annotated[str | None, Field(2, String(MAX_NAME_BYTES), required=True)] = None


@table
class NodeSetDebugTimeoutLogDeadlineRequest(Table):
    deadline: Annotated[int | None, Field(1, INT64, required=True)] = None


@table
class NodeGetNodeRefResponse(Table):
    node_ref: Annotated[Handle | None, Field(1, _EVENT)] = None


@table
class NodeIsAlternateForRequest(Table):
    node_ref: Annotated[Handle | None, Field(1, _EVENT, required=True)] = None


@table
class NodeIsAlternateForResponse(Table):
    is_alternate: Annotated[bool | None, Field(1, BOOL)] = None


@table
class NodeGetBufferCollectionIdResponse(Table):
    buffer_collection_id: Annotated[int | None, Field(1, UINT64)] = None


@table
class NodeSetWeakOkRequest(Table):
    for_child_nodes_also: Annotated[bool | None, Field(1, BOOL)] = None


@table
class NodeAttachNodeTrackingRequest(Table):
    server_end: Annotated[Handle | None, Field(1, _EVENTPAIR, required=True)] = None


@table
class CreateTokensRequest(Table):
    """What DuplicateSync and CreateChildrenSync are asked: one token per mask."""

    rights_attenuation_masks: Annotated[
        Sequence[Rights | int] | None, Field(1, Vector(_MASK, MAX_LIST_COUNT), required=True)
    ] = None


@table
class CreateTokensResponse(Table):
    """The new tokens, in the order of the masks."""

    tokens: Annotated[list[Handle] | None, Field(1, Vector(_TOKEN_CLIENT_END, MAX_LIST_COUNT))] = (
        None
    )


@table
class BufferCollectionTokenDuplicateRequest(Table):
    rights_attenuation_mask: Annotated[Rights | int | None, Field(1, _MASK, required=True)] = None
    token_request: Annotated[Handle | None, Field(2, _TOKEN_SERVER_END, required=True)] = None


@table
class BufferCollectionTokenCreateBufferCollectionTokenGroupRequest(Table):
    group_request: Annotated[Handle | None, Field(1, _GROUP_SERVER_END, required=True)] = None


@table
class BufferCollectionSetConstraintsRequest(Table):
    constraints: Annotated[
        BufferCollectionConstraints | None, Field(1, Nested(BufferCollectionConstraints))
    ] = None
    must_match_vmo: Annotated[Handle | None, Field(2, _VMO)] = None


@table
class BufferCollectionWaitForAllBuffersAllocatedResponse(Table):
    buffer_collection_info: Annotated[
        BufferCollectionInfo | None, Field(1, Nested(BufferCollectionInfo))
    ] = None


@table
class BufferCollectionAttachTokenRequest(Table):
    rights_attenuation_mask: Annotated[Rights | int | None, Field(1, _MASK, required=True)] = None
    token_request: Annotated[Handle | None, Field(2, _TOKEN_SERVER_END, required=True)] = None


@table
class BufferCollectionAttachLifetimeTrackingRequest(Table):
    server_end: Annotated[Handle | None, Field(1, _EVENTPAIR, required=True)] = None
    buffers_remaining: Annotated[int | None, Field(2, UINT32, required=True)] = None


@table
class BufferCollectionTokenGroupCreateChildRequest(Table):
    token_request: Annotated[Handle | None, Field(1, _TOKEN_SERVER_END, required=True)] = None
    rights_attenuation_mask: Annotated[Rights | int | None, Field(2, _MASK)] = None


# --- interfaces ---------------------------------------------------------------------------------------------------


class Allocator(Interface):
    """Where everything begins: the channel that connecting to the service yields.

    Closing it has no effect on the nodes made through it; a refused method closes this channel only.
    """

    allocate_non_shared_collection = Method(
        "Make a collection with one participant, as if a root token had been made and bound at once.",
        AllocatorAllocateNonSharedCollectionRequest,
    )
    allocate_shared_collection = Method(
        "Make a root token, from which tokens for all participants come.",
        AllocatorAllocateSharedCollectionRequest,
    )
    bind_shared_collection = Method(
        "Turn in a token: its node becomes a collection, served on the new channel. Everything sent on the token "
        "before is processed first. A token that the server doesn't know closes the new channel and nothing else.",
        AllocatorBindSharedCollectionRequest,
    )
    validate_buffer_collection_token = Method(
        "Ask whether a live, un-bound token has this koid (of its server end). No effect on any token.",
        AllocatorValidateBufferCollectionTokenRequest,
        AllocatorValidateBufferCollectionTokenResponse,
    )
    set_debug_client_info = Method(
        "Say who uses this channel; applies to nodes made by it from now on.",
        SetDebugClientInfoRequest,
    )
    get_vmo_info = Method(
        "Tell which buffer of which collection a VMO is, and more on request. The handles are consumed. "
        "`close_weak_asap` is set when the VMO is a weak one or `need_weak` asks for one. Errors: NOT_FOUND for a VMO "
        "that isn't one of a collection, PROTOCOL_DEVIATION for a fault of the request, NO_MORE_STRONG_VMO_HANDLES for "
        "`need_weak` when no strong handle is left.",
        AllocatorGetVmoInfoRequest,
        VmoInfo,
        fallible=True,
    )


class Node(Interface):
    """What tokens, collections and groups have in common."""

    sync = Method("Answer once everything sent before has been processed.", two_way=True)
    release = Method(
        "Announce that the client end will close without failing anything. Any later message fails the node; the "
        "server closes its end, then the client its own.",
    )
    set_name = Method(
        "Name the buffers `<name>:<buffer_index>`, those that are allocated later. The collection's first name wins "
        "unless a later one has a greater priority than every earlier one.",
        NodeSetNameRequest,
    )
    set_debug_client_info = Method(
        "Say who uses this node; children made later inherit it.", SetDebugClientInfoRequest
    )
    set_debug_timeout_log_deadline = Method(
        "Move the first warning that allocation is taking a while: monotonic clock, nanoseconds.",
        NodeSetDebugTimeoutLogDeadlineRequest,
    )
    set_verbose_logging = Method(
        "From now on log each constraints message of the collection, its tree before each attempt and the combined "
        "result.",
    )
    get_node_ref = Method(
        "Get proof of this node, for IsAlternateFor on another.",
        response=NodeGetNodeRefResponse,
    )
    is_alternate_for = Method(
        "Ask whether the nearest common ancestor of this node and that of the node_ref is a group, so that at most "
        "one of both takes part in the allocation. Errors: NOT_FOUND for a node_ref of another collection or of none, "
        "PROTOCOL_DEVIATION for what isn't an event.",
        NodeIsAlternateForRequest,
        NodeIsAlternateForResponse,
        fallible=True,
    )
    get_buffer_collection_id = Method(
        "Get the id of the collection, unique per boot of the machine.",
        response=NodeGetBufferCollectionIdResponse,
    )
    set_weak = Method(
        "Make this node, and children made later, weak: they don't keep buffers alive. Token: before it is bound or "
        "released; collection: before SetConstraints; group: before AllChildrenPresent.",
    )
    set_weak_ok = Method(
        "Promise to watch `close_weak_asap`; with `for_child_nodes_also` for later children and all below them too. "
        "Collection: before WaitForAllBuffersAllocated.",
        NodeSetWeakOkRequest,
    )
    attach_node_tracking = Method(
        "Have the eventpair closed when this node and all its children are gone and their buffer counts free again.",
        NodeAttachNodeTrackingRequest,
    )


class BufferCollectionToken(Node):
    """Stands for a place in a collection, to be given to a participant who turns it in."""

    duplicate_sync = Method(
        "Make a child token per mask and answer with their client ends, in the order of the masks.",
        CreateTokensRequest,
        CreateTokensResponse,
    )
    duplicate = Method(
        "Make a child token. Sync before giving it to another process.",
        BufferCollectionTokenDuplicateRequest,
    )
    set_dispensable = Method(
        "Let this node fail after allocation without failing its parent. Idempotent.",
    )
    create_buffer_collection_token_group = Method(
        "Make a child group: of its children exactly one takes part in an allocation.",
        BufferCollectionTokenCreateBufferCollectionTokenGroupRequest,
    )


class BufferCollection(Node):
    """One participant's view of a collection."""

    set_constraints = Method(
        "Say what this participant needs, once; a second time fails the node. Un-set constraints are an empty table: "
        "nothing is used or constrained and no VMOs are delivered. `must_match_vmo` asks for buffers like that one.",
        BufferCollectionSetConstraintsRequest,
    )
    wait_for_all_buffers_allocated = Method(
        "Answer with the buffers, or why there are none, when this node's allocation has finished. Only after "
        "SetConstraints; a weak collection needs SetWeakOk too. No answer comes when the node fails for another "
        "reason first.",
        response=BufferCollectionWaitForAllBuffersAllocatedResponse,
        fallible=True,
    )
    check_all_buffers_allocated = Method(
        "Tell at once whether allocation succeeded, failed or is PENDING.", fallible=True
    )
    attach_token = Method(
        "Make a child token that takes no part in this node's allocation and doesn't fail it, at any time.",
        BufferCollectionAttachTokenRequest,
    )
    attach_lifetime_tracking = Method(
        "Have the eventpair closed when at most `buffers_remaining` of the collection's buffers still exist.",
        BufferCollectionAttachLifetimeTrackingRequest,
    )


class BufferCollectionTokenGroup(Node):
    """A choice: its children, in order of preference, of which exactly one takes part in an allocation."""

    create_child = Method(
        "Make a child token, tried after the earlier ones.",
        BufferCollectionTokenGroupCreateChildRequest,
    )
    create_children_sync = Method(
        "Make a child token per mask and answer with their client ends, in the order of the masks.",
        CreateTokensRequest,
        CreateTokensResponse,
    )
    all_children_present = Method(
        "Say that no more children come; the group is then ready for allocation. It needs a child, comes once, and "
        "before Release.",
    )


#: Interfaces whose instances are reached by connecting to a service socket of their name.
DISCOVERABLE: tuple[type[Interface], ...] = (Allocator,)
#: Interfaces of the channels that are nodes of a collection's tree.
NODES: tuple[type[Node], ...] = (
    BufferCollectionToken,
    BufferCollection,
    BufferCollectionTokenGroup,
)
