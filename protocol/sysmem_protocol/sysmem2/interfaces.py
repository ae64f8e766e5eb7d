"""The interfaces of `fuchsia.sysmem2`: what may be said on each kind of channel (`docs/spec/protocol.md`)."""

from __future__ import annotations

from ..library import Interface, Method
from .messages import (
    AllocatorAllocateNonSharedCollectionRequest,
    AllocatorAllocateSharedCollectionRequest,
    AllocatorBindSharedCollectionRequest,
    AllocatorGetVmoInfoRequest,
    AllocatorValidateBufferCollectionTokenRequest,
    AllocatorValidateBufferCollectionTokenResponse,
    BufferCollectionAttachLifetimeTrackingRequest,
    BufferCollectionAttachTokenRequest,
    BufferCollectionSetConstraintsRequest,
    BufferCollectionTokenCreateBufferCollectionTokenGroupRequest,
    BufferCollectionTokenDuplicateRequest,
    BufferCollectionTokenGroupCreateChildRequest,
    BufferCollectionWaitForAllBuffersAllocatedResponse,
    CreateTokensRequest,
    CreateTokensResponse,
    NodeAttachNodeTrackingRequest,
    NodeGetBufferCollectionIdResponse,
    NodeGetNodeRefResponse,
    NodeIsAlternateForRequest,
    NodeIsAlternateForResponse,
    NodeSetDebugTimeoutLogDeadlineRequest,
    NodeSetNameRequest,
    NodeSetWeakOkRequest,
    SetDebugClientInfoRequest,
)
from .settings import VmoInfo


class Allocator(Interface):
    """The channel that connecting to the service yields, on which collections begin.

    Closing it has no effect on the nodes that were made through it. A refused method closes only this channel.
    """

    allocate_non_shared_collection = Method(
        "Make a collection with one participant, as if a root token had been made and turned in at once.",
        AllocatorAllocateNonSharedCollectionRequest,
    )
    allocate_shared_collection = Method(
        "Make a root token, from which the tokens of all participants are made.",
        AllocatorAllocateSharedCollectionRequest,
    )
    bind_shared_collection = Method(
        "Turn in a token: its node becomes a collection, which is served on the new channel. Everything that was sent "
        "on the token before is processed first. If the daemon does not know the token, it closes the new channel and "
        "does nothing else.",
        AllocatorBindSharedCollectionRequest,
    )
    validate_buffer_collection_token = Method(
        "Ask whether a token with this server koid is alive and was not turned in. This has no effect on any token.",
        AllocatorValidateBufferCollectionTokenRequest,
        AllocatorValidateBufferCollectionTokenResponse,
    )
    set_debug_client_info = Method(
        "Name the client of this channel, for the log. The name applies to nodes made through it from now on.",
        SetDebugClientInfoRequest,
    )
    get_vmo_info = Method(
        "Ask which buffer of which collection a VMO is, and more on request. The handles are consumed. "
        "`close_weak_asap` is set if the VMO is a weak handle or `need_weak` asks for one. Errors: NOT_FOUND for a VMO "
        "that is not a buffer of a collection, PROTOCOL_DEVIATION for a fault of the request, "
        "NO_MORE_STRONG_VMO_HANDLES for `need_weak` when no strong handle is left.",
        AllocatorGetVmoInfoRequest,
        VmoInfo,
        fallible=True,
    )


class Node(Interface):
    """What tokens, collections and groups have in common."""

    sync = Method(
        "Answer when everything that was sent before on this channel has been processed.",
        two_way=True,
    )
    release = Method(
        "Announce that the client end will close without failing anything. Any later message fails the node. The "
        "daemon closes its end, then the client closes its own.",
    )
    set_name = Method(
        "Name the buffers that are allocated later `<name>:<buffer_index>`. The collection's first name wins unless a "
        "later one has a greater priority than every earlier one.",
        NodeSetNameRequest,
    )
    set_debug_client_info = Method(
        "Name the client of this node, for the log. Children made later inherit the name.",
        SetDebugClientInfoRequest,
    )
    set_debug_timeout_log_deadline = Method(
        "Move the first warning that an allocation takes long, by default 5 s after the collection's creation.",
        NodeSetDebugTimeoutLogDeadlineRequest,
    )
    set_verbose_logging = Method(
        "Log, from now on, the collection's constraints as they come, its tree before each attempt to allocate, and "
        "the combined result.",
    )
    get_node_ref = Method(
        "Get an object that stands for this node, to be passed to IsAlternateFor of another node.",
        response=NodeGetNodeRefResponse,
    )
    is_alternate_for = Method(
        "Ask whether the nearest common ancestor of this node and the node of the node_ref is a group, so that at most "
        "one of the two takes part in the allocation. Errors: NOT_FOUND for the node_ref of another collection or for "
        "what is no node_ref, PROTOCOL_DEVIATION for what is not an event.",
        NodeIsAlternateForRequest,
        NodeIsAlternateForResponse,
        fallible=True,
    )
    get_buffer_collection_id = Method(
        "Get the number of the collection, which is unique until the machine is started again.",
        response=NodeGetBufferCollectionIdResponse,
    )
    set_weak = Method(
        "Make this node, and children made later, weak: they do not keep buffers alive. It must come before a token is "
        "turned in or released, before SetConstraints of a collection, and before AllChildrenPresent of a group.",
    )
    set_weak_ok = Method(
        "Promise to watch `close_weak_asap`; with `for_child_nodes_also` the promise also holds for children made "
        "later and for all nodes below them. On a collection it must come before WaitForAllBuffersAllocated.",
        NodeSetWeakOkRequest,
    )
    attach_node_tracking = Method(
        "Have the eventpair closed when this node and all its children are gone, so that the buffers that were counted "
        "for them are free for others.",
        NodeAttachNodeTrackingRequest,
    )


class BufferCollectionToken(Node):
    """A place in a collection, to be given to a participant, who turns it in."""

    duplicate_sync = Method(
        "Make one child token for each mask, and answer with their client ends in the order of the masks.",
        CreateTokensRequest,
        CreateTokensResponse,
    )
    duplicate = Method(
        "Make a child token. Call Sync before giving it to another process.",
        BufferCollectionTokenDuplicateRequest,
    )
    set_dispensable = Method(
        "Let a failure of this node after the allocation not reach its parent. This is idempotent.",
    )
    create_buffer_collection_token_group = Method(
        "Make a group as a child: exactly one of the group's own children takes part in an allocation.",
        BufferCollectionTokenCreateBufferCollectionTokenGroupRequest,
    )


class BufferCollection(Node):
    """The view that one participant has of a collection."""

    set_constraints = Method(
        "State what this participant needs. A second time fails the node. Un-set constraints are an empty table: "
        "nothing is used or constrained, and no VMOs are delivered. With `must_match_vmo`, the buffers must have the "
        "settings of that VMO.",
        BufferCollectionSetConstraintsRequest,
    )
    wait_for_all_buffers_allocated = Method(
        "Answer with the buffers, or with the reason why there are none, when this node's allocation has finished. It "
        "must come after SetConstraints, and on a weak collection after SetWeakOk. There is no answer if the node "
        "fails for another reason first.",
        response=BufferCollectionWaitForAllBuffersAllocatedResponse,
        fallible=True,
    )
    check_all_buffers_allocated = Method(
        "Answer at once: success if the allocation succeeded, otherwise the error, which is PENDING before it was "
        "attempted.",
        fallible=True,
    )
    attach_token = Method(
        "Make a child token, before or after the allocation. It takes no part in this node's allocation and does not "
        "fail it.",
        BufferCollectionAttachTokenRequest,
    )
    attach_lifetime_tracking = Method(
        "Have the eventpair closed when at most `buffers_remaining` of the collection's buffers still exist.",
        BufferCollectionAttachLifetimeTrackingRequest,
    )


class BufferCollectionTokenGroup(Node):
    """A choice: exactly one of its children, which are in order of preference, takes part in an allocation."""

    create_child = Method(
        "Make a child token, which is tried after the earlier ones.",
        BufferCollectionTokenGroupCreateChildRequest,
    )
    create_children_sync = Method(
        "Make one child token for each mask, and answer with their client ends in the order of the masks.",
        CreateTokensRequest,
        CreateTokensResponse,
    )
    all_children_present = Method(
        "Announce that no more children come, so that the group is ready for allocation. The group must have a child. "
        "This must come once, and before Release.",
    )


#: Interfaces whose instances are reached by connecting to a service socket of their name.
DISCOVERABLE: tuple[type[Interface], ...] = (Allocator,)
#: Interfaces of the channels that are nodes of a collection's tree.
NODES: tuple[type[Node], ...] = (
    BufferCollectionToken,
    BufferCollection,
    BufferCollectionTokenGroup,
)
