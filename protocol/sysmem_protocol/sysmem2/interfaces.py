"""The interfaces of `fuchsia.sysmem2`: the messages of each kind of channel (`docs/spec/protocol.md`)."""

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
    """The channel that connecting to the service creates. It creates collections.

    Closing it has no effect on the nodes that were created through it. A refused method closes only this channel.
    """

    allocate_non_shared_collection = Method(
        "Create a collection with one participant, as if a root token had been created and turned in at once.",
        AllocatorAllocateNonSharedCollectionRequest,
    )
    allocate_shared_collection = Method(
        "Create a root token, from which the tokens of all participants are created.",
        AllocatorAllocateSharedCollectionRequest,
    )
    bind_shared_collection = Method(
        "Turn in a token: its node becomes a collection, which is served on the new channel. All messages that were "
        "sent on the token before are processed first. If the daemon does not know the token, it closes the new "
        "channel and does nothing else.",
        AllocatorBindSharedCollectionRequest,
    )
    validate_buffer_collection_token = Method(
        "Return whether a token with this server koid is alive and was not turned in. This has no effect on any "
        "token.",
        AllocatorValidateBufferCollectionTokenRequest,
        AllocatorValidateBufferCollectionTokenResponse,
    )
    set_debug_client_info = Method(
        "Name the client of this channel, for the log. The name applies to nodes created through it from now on.",
        SetDebugClientInfoRequest,
    )
    get_vmo_info = Method(
        "Return which buffer of which collection a VMO is, and further information on request. The handles are "
        "consumed. `close_weak_asap` is set if the VMO is a weak handle or `need_weak` asks for one. Errors: "
        "NOT_FOUND for a VMO that is not a buffer of a collection, PROTOCOL_DEVIATION for an invalid request, "
        "NO_MORE_STRONG_VMO_HANDLES for `need_weak` if no strong handle is left.",
        AllocatorGetVmoInfoRequest,
        VmoInfo,
        fallible=True,
    )


class Node(Interface):
    """The common methods of tokens, collections and groups."""

    sync = Method(
        "Respond when all messages that were sent before on this channel have been processed.",
        two_way=True,
    )
    release = Method(
        "Announce that the client end will close without a failure. Any later message fails the node. The daemon "
        "closes its end, and then the client closes its own.",
    )
    set_name = Method(
        "Name the buffers that are allocated later `<name>:<buffer_index>`. The collection's first name wins unless "
        "a later one has a greater priority than every earlier one.",
        NodeSetNameRequest,
    )
    set_debug_client_info = Method(
        "Name the client of this node, for the log. Children created later inherit the name.",
        SetDebugClientInfoRequest,
    )
    set_debug_timeout_log_deadline = Method(
        "Set the time of the first warning that an allocation takes long. By default it is 5 s after the "
        "collection's creation.",
        NodeSetDebugTimeoutLogDeadlineRequest,
    )
    set_verbose_logging = Method(
        "Log, from now on, the collection's constraints as they arrive, its tree before each allocation attempt, and "
        "the combined result.",
    )
    get_node_ref = Method(
        "Return an object that identifies this node, to be passed to IsAlternateFor of another node.",
        response=NodeGetNodeRefResponse,
    )
    is_alternate_for = Method(
        "Return whether the nearest common ancestor of this node and the node of the node_ref is a group, so that "
        "at most one of the two takes part in the allocation. Errors: NOT_FOUND for the node_ref of another "
        "collection or an object that is not a node_ref, PROTOCOL_DEVIATION for an object that is not an event.",
        NodeIsAlternateForRequest,
        NodeIsAlternateForResponse,
        fallible=True,
    )
    get_buffer_collection_id = Method(
        "Return the number of the collection, which is unique until the machine is started again.",
        response=NodeGetBufferCollectionIdResponse,
    )
    set_weak = Method(
        "Make this node, and children created later, weak: they do not keep buffers alive. This must be sent before "
        "a token is turned in or released, before SetConstraints of a collection, and before AllChildrenPresent of "
        "a group.",
    )
    set_weak_ok = Method(
        "Promise to watch `close_weak_asap`; with `for_child_nodes_also` the promise also holds for children created "
        "later and for all nodes below them. On a collection it must be sent before WaitForAllBuffersAllocated.",
        NodeSetWeakOkRequest,
    )
    attach_node_tracking = Method(
        "Close the eventpair when this node and all its children are gone, so that the buffers that were counted for "
        "them are free for others.",
        NodeAttachNodeTrackingRequest,
    )


class BufferCollectionToken(Node):
    """A place in a collection. A participant receives it and turns it in."""

    duplicate_sync = Method(
        "Create one child token for each mask, and return their client ends in the order of the masks.",
        CreateTokensRequest,
        CreateTokensResponse,
    )
    duplicate = Method(
        "Create a child token. Call Sync before passing it to another process.",
        BufferCollectionTokenDuplicateRequest,
    )
    set_dispensable = Method(
        "Stop a failure of this node after the allocation from reaching its parent. This is idempotent.",
    )
    create_buffer_collection_token_group = Method(
        "Create a group as a child: exactly one of the group's own children takes part in an allocation.",
        BufferCollectionTokenCreateBufferCollectionTokenGroupRequest,
    )


class BufferCollection(Node):
    """The view that one participant has of a collection."""

    set_constraints = Method(
        "Set the participant's constraints. A second call fails the node. Un-set constraints are an empty table: "
        "nothing is used or constrained, and no VMOs are delivered. With `must_match_vmo`, the buffers must have the "
        "settings of that VMO.",
        BufferCollectionSetConstraintsRequest,
    )
    wait_for_all_buffers_allocated = Method(
        "Respond with the buffers, or with the reason why there are none, when this node's allocation has finished. "
        "This must be sent after SetConstraints, and on a weak collection after SetWeakOk. There is no response if "
        "the node fails for another reason first.",
        response=BufferCollectionWaitForAllBuffersAllocatedResponse,
        fallible=True,
    )
    check_all_buffers_allocated = Method(
        "Answer at once: success if the allocation succeeded, otherwise the error, which is PENDING before it was "
        "attempted.",
        fallible=True,
    )
    attach_token = Method(
        "Create a child token, before or after the allocation. It takes no part in this node's allocation, and its "
        "failure does not fail this node.",
        BufferCollectionAttachTokenRequest,
    )
    attach_lifetime_tracking = Method(
        "Close the eventpair when at most `buffers_remaining` of the collection's buffers still exist.",
        BufferCollectionAttachLifetimeTrackingRequest,
    )


class BufferCollectionTokenGroup(Node):
    """A choice: exactly one of its children, which are in order of preference, takes part in an allocation."""

    create_child = Method(
        "Create a child token, which is tried after the earlier ones.",
        BufferCollectionTokenGroupCreateChildRequest,
    )
    create_children_sync = Method(
        "Create one child token for each mask, and return their client ends in the order of the masks.",
        CreateTokensRequest,
        CreateTokensResponse,
    )
    all_children_present = Method(
        "Announce that the group has all its children, so that it is ready for allocation. The group must have a "
        "child. This must be sent once, and before Release.",
    )


#: Interfaces that are reached by connecting to a service socket of their name.
DISCOVERABLE: tuple[type[Interface], ...] = (Allocator,)
#: Interfaces of the channels that are nodes of a collection's tree.
NODES: tuple[type[Node], ...] = (
    BufferCollectionToken,
    BufferCollection,
    BufferCollectionTokenGroup,
)
