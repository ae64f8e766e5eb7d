"""Requests and responses: the tables of the methods of :mod:`.interfaces`."""

from collections.abc import Sequence
from typing import Annotated

from ..handles import Handle
from ..library import (
    ALWAYS_SET,
    BOOL,
    INT64,
    UINT32,
    UINT64,
    Enumeration,
    Field,
    HandleKind,
    HandleType,
    Nested,
    String,
    Table,
    Vector,
    table,
)
from .constraints import MAX_LIST_COUNT, BufferCollectionConstraints
from .flags import Rights
from .settings import BufferCollectionInfo

#: The maximum length of a client's debug name in bytes: a process's name and a few words fit.
MAX_DEBUG_NAME_BYTES = 256
#: The maximum length of a collection's name in bytes. A memfd's name has room for it and `:<index>`.
MAX_NAME_BYTES = 64

_MASK = Enumeration(Rights)
_TOKEN_CLIENT_END = HandleType(HandleKind.CLIENT_END, "BufferCollectionToken")
_TOKEN_SERVER_END = HandleType(HandleKind.SERVER_END, "BufferCollectionToken")
_COLLECTION_SERVER_END = HandleType(HandleKind.SERVER_END, "BufferCollection")
_GROUP_SERVER_END = HandleType(HandleKind.SERVER_END, "BufferCollectionTokenGroup")
_EVENTPAIR = HandleType(HandleKind.EVENTPAIR)
_EVENT = HandleType(HandleKind.EVENT)
_VMO = HandleType(HandleKind.VMO)


# --- Allocator ----------------------------------------------------------------------------------------------------


@table
class AllocatorAllocateNonSharedCollectionRequest(Table):
    """The new collection's channel."""

    collection_request: Annotated[
        Handle | None, Field(1, _COLLECTION_SERVER_END, required=True)
    ] = None
    """The server end of the new collection's channel."""


@table
class AllocatorAllocateSharedCollectionRequest(Table):
    """The root token's channel."""

    token_request: Annotated[Handle | None, Field(1, _TOKEN_SERVER_END, required=True)] = None
    """The server end of the root token's channel."""


@table
class AllocatorBindSharedCollectionRequest(Table):
    """A token to turn in, and the channel of the new collection."""

    token: Annotated[Handle | None, Field(1, _TOKEN_CLIENT_END, required=True)] = None
    """The client end of the token's channel. The daemon closes it in every case."""
    buffer_collection_request: Annotated[
        Handle | None, Field(2, _COLLECTION_SERVER_END, required=True)
    ] = None
    """The server end of the new collection's channel."""


@table
class AllocatorValidateBufferCollectionTokenRequest(Table):
    """The token to check."""

    token_server_koid: Annotated[int | None, Field(1, UINT64, required=True)] = None
    """The koid of the token's server end."""


@table
class AllocatorValidateBufferCollectionTokenResponse(Table):
    """Whether the token is known."""

    is_known: Annotated[bool, Field(1, BOOL)] = ALWAYS_SET
    """Whether a token with this koid is alive and was not turned in."""


@table
class AllocatorGetVmoInfoRequest(Table):
    """A VMO, and the requested information."""

    vmo: Annotated[Handle | None, Field(1, _VMO, required=True)] = None
    """The VMO: any handle to a buffer."""
    need_weak: Annotated[bool | None, Field(2, BOOL)] = None
    """Whether to return a weak handle to the same buffer. Un-set is false."""
    need_single_buffer_settings: Annotated[bool | None, Field(3, BOOL)] = None
    """Whether to return the collection's settings. Un-set is false."""
    constraints_to_check: Annotated[
        BufferCollectionConstraints | None, Field(4, Nested(BufferCollectionConstraints))
    ] = None
    """Constraints to check the buffer against; the result is in `constraints_ok`. Un-set checks nothing."""
    vmo_settings_to_check: Annotated[Handle | None, Field(5, _VMO)] = None
    """Another VMO, whose collection's settings are compared with this one's; the result is in `vmo_settings_match`.
    Un-set compares nothing."""
    vmo_settings_to_check_ignore_size: Annotated[bool | None, Field(6, BOOL)] = None
    """Whether to ignore `size_bytes` and `raw_vmo_size` in `vmo_settings_match`. Un-set is false."""


# --- Node ---------------------------------------------------------------------------------------------------------


@table
class SetDebugClientInfoRequest(Table):
    """The client of a channel, for the daemon's log."""

    name: Annotated[str | None, Field(1, String(MAX_DEBUG_NAME_BYTES), required=True)] = None
    """The name of the client, at most 256 bytes of UTF-8."""
    id: Annotated[int | None, Field(2, UINT64)] = None
    """A number of the client, usually its process id. Un-set is 0."""


@table
class NodeSetNameRequest(Table):
    """A name for the collection."""

    priority: Annotated[int | None, Field(1, UINT32, required=True)] = None
    """How much the name is preferred. It replaces an earlier name only if this is greater than all earlier
    priorities."""
    name: Annotated[str | None, Field(2, String(MAX_NAME_BYTES), required=True)] = None
    """The name, at most 64 bytes of UTF-8."""


@table
class NodeSetDebugTimeoutLogDeadlineRequest(Table):
    """The time of the warning that an allocation takes long."""

    deadline: Annotated[int | None, Field(1, INT64, required=True)] = None
    """The time of the first warning, in nanoseconds of CLOCK_MONOTONIC."""


@table
class NodeGetNodeRefResponse(Table):
    """Proof of a node."""

    node_ref: Annotated[Handle, Field(1, _EVENT)] = ALWAYS_SET
    """An object that identifies the node, to be passed to IsAlternateFor."""


@table
class NodeIsAlternateForRequest(Table):
    """The other node."""

    node_ref: Annotated[Handle | None, Field(1, _EVENT, required=True)] = None
    """The result of GetNodeRef for the other node."""


@table
class NodeIsAlternateForResponse(Table):
    """Whether two nodes exclude each other."""

    is_alternate: Annotated[bool, Field(1, BOOL)] = ALWAYS_SET
    """Whether the nearest common ancestor of both nodes is a group."""


@table
class NodeGetBufferCollectionIdResponse(Table):
    """The collection's number."""

    buffer_collection_id: Annotated[int, Field(1, UINT64)] = ALWAYS_SET
    """The number of the collection. No other collection has it until the machine is started again."""


@table
class NodeSetWeakOkRequest(Table):
    """The extent of the promise to watch `close_weak_asap`."""

    for_child_nodes_also: Annotated[bool | None, Field(1, BOOL)] = None
    """Whether the promise also holds for children created later, and for all nodes below them. Un-set is false."""


@table
class NodeAttachNodeTrackingRequest(Table):
    """An event for the end of a node."""

    server_end: Annotated[Handle | None, Field(1, _EVENTPAIR, required=True)] = None
    """The end that the daemon closes when the node and all its children are gone."""


# --- tokens, collections and groups -------------------------------------------------------------------------------


@table
class CreateTokensRequest(Table):
    """The rights of new tokens, for DuplicateSync and CreateChildrenSync."""

    rights_attenuation_masks: Annotated[
        Sequence[Rights | int] | None, Field(1, Vector(_MASK, MAX_LIST_COUNT), required=True)
    ] = None
    """For each new token, the rights that it keeps of its parent's."""


@table
class CreateTokensResponse(Table):
    """The new tokens."""

    tokens: Annotated[list[Handle], Field(1, Vector(_TOKEN_CLIENT_END, MAX_LIST_COUNT))] = (
        ALWAYS_SET
    )
    """The client ends of the new tokens' channels, in the order of the masks."""


@table
class BufferCollectionTokenDuplicateRequest(Table):
    """The new token's rights and channel."""

    rights_attenuation_mask: Annotated[Rights | int | None, Field(1, _MASK, required=True)] = None
    """The rights that the new token keeps of its parent's. 0 is deprecated and means SAME_RIGHTS."""
    token_request: Annotated[Handle | None, Field(2, _TOKEN_SERVER_END, required=True)] = None
    """The server end of the new token's channel."""


@table
class BufferCollectionTokenCreateBufferCollectionTokenGroupRequest(Table):
    """The new group's channel."""

    group_request: Annotated[Handle | None, Field(1, _GROUP_SERVER_END, required=True)] = None
    """The server end of the new group's channel."""


@table
class BufferCollectionSetConstraintsRequest(Table):
    """A participant's constraints."""

    constraints: Annotated[
        BufferCollectionConstraints | None, Field(1, Nested(BufferCollectionConstraints))
    ] = None
    """The constraints. Un-set is an empty table: usage NONE_USAGE, nothing constrained."""
    must_match_vmo: Annotated[Handle | None, Field(2, _VMO)] = None
    """A buffer of any collection, whose settings the new buffers must have. Un-set requires nothing."""


@table
class BufferCollectionWaitForAllBuffersAllocatedResponse(Table):
    """The buffers."""

    buffer_collection_info: Annotated[
        BufferCollectionInfo, Field(1, Nested(BufferCollectionInfo))
    ] = ALWAYS_SET
    """The allocated buffers and their settings."""


@table
class BufferCollectionAttachTokenRequest(Table):
    """The new token's rights and channel."""

    rights_attenuation_mask: Annotated[Rights | int | None, Field(1, _MASK, required=True)] = None
    """The rights that the new token keeps of this collection's."""
    token_request: Annotated[Handle | None, Field(2, _TOKEN_SERVER_END, required=True)] = None
    """The server end of the new token's channel."""


@table
class BufferCollectionAttachLifetimeTrackingRequest(Table):
    """An event for the end of buffers."""

    server_end: Annotated[Handle | None, Field(1, _EVENTPAIR, required=True)] = None
    """The end that the daemon closes when at most `buffers_remaining` buffers exist."""
    buffers_remaining: Annotated[int | None, Field(2, UINT32, required=True)] = None
    """The number of buffers that may still exist when the event closes."""


@table
class BufferCollectionTokenGroupCreateChildRequest(Table):
    """The new token's rights and channel."""

    token_request: Annotated[Handle | None, Field(1, _TOKEN_SERVER_END, required=True)] = None
    """The server end of the new token's channel."""
    rights_attenuation_mask: Annotated[Rights | int | None, Field(2, _MASK)] = None
    """The rights that the new token keeps of the group's. Un-set is SAME_RIGHTS."""
