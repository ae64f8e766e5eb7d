"""Ended objects are freed at once. They leave no reference cycles, whose collection would delay all clients."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from sysmem_protocol import sysmem2
from sysmem_protocol.handles import Handle, eventpair
from sysmem_protocol.sysmem2 import (
    BufferCollection,
    BufferCollectionTokenGroup,
    Node,
)

from .support import Bench, Client, wanting


def released(bench: Bench) -> None:
    client = bench.allocated()
    answer = client.call(BufferCollection.wait_for_all_buffers_allocated)
    for buffer in answer.buffer_collection_info.buffers:
        buffer.vmo.close()
    client.send(Node.release)
    client.close()


def failed_tree(bench: Bench) -> None:
    root = bench.token()
    children = [bench.duplicate(root) for _ in range(3)]
    bind = bench.bind(children.pop())
    bind.send(Node.set_verbose_logging)
    root.close()
    bench.run()
    for client in (*children, bind):
        client.close()


def conflict(bench: Bench) -> None:
    client = bench.collection()
    client.send(BufferCollection.set_constraints, wanting(camping=2, most=1))
    bench.run()
    client.close()


def garbage(bench: Bench) -> None:
    client = bench.collection()
    client.channel.send(b"garbage")
    bench.run()
    client.close()


def group(bench: Bench) -> None:
    root = bench.token()
    client = bench.group(root)
    masks = sysmem2.CreateTokensRequest(rights_attenuation_masks=[0x80000000] * 2)
    tokens = client.call(BufferCollectionTokenGroup.create_children_sync, masks).tokens
    client.send(BufferCollectionTokenGroup.all_children_present)
    bound = [bench.bind(bench.adopt(token)) for token in tokens] + [bench.bind(root)]
    for one in bound:
        one.send(BufferCollection.set_constraints, wanting(camping=1))
    bench.run()
    for one in (client, *bound):
        one.close()


def weak(bench: Bench) -> None:
    root = bench.token()
    child = bench.duplicate(root)
    child.send(Node.set_weak)
    bound = [bench.bind(child), bench.bind(root)]
    for one in bound:
        one.send(BufferCollection.set_constraints, wanting(camping=1))
    answer = bound[0].call(BufferCollection.wait_for_all_buffers_allocated)
    track(bound[0])
    bound[1].close()
    bench.run()
    for buffer in answer.buffer_collection_info.buffers:
        buffer.vmo.close()
        buffer.close_weak_asap.close()
    bound[0].close()


def track(client: Client) -> None:
    for method, request in (
        (Node.attach_node_tracking, sysmem2.NodeAttachNodeTrackingRequest()),
        (
            BufferCollection.attach_lifetime_tracking,
            sysmem2.BufferCollectionAttachLifetimeTrackingRequest(buffers_remaining=0),
        ),
    ):
        near, request.server_end = eventpair()
        client.send(method, request)
        near.close()


def refs(bench: Bench) -> None:
    client = bench.collection()
    answer = client.call(Node.get_node_ref)
    answer.node_ref.close()
    client.close()


def forget(bench: Bench) -> None:
    """Drop the bench's references to closed objects, and read the kernel's reports."""
    bench.run()
    bench.reactor.served = [one for one in bench.reactor.served if not one.closed]
    bench.reactor.closed.clear()
    for client in bench._clients:
        client.close()
    bench._clients.clear()
    bench.run()
    bench.memory.process_events()
    while bench.clock.calls:
        calls, bench.clock.calls = bench.clock.calls, []
        for call in calls:
            for callback in call:
                callback()
    bench.memory.process_events()
    bench.reactor.served = [one for one in bench.reactor.served if not one.closed]
    bench.reactor.closed.clear()
    bench.log.entries.clear()


@pytest.mark.parametrize(
    "use",
    [released, failed_tree, conflict, garbage, group, weak, refs],
    ids=lambda use: use.__name__,
)
def test_nothing_is_left_for_the_garbage_collector(
    bench: Bench, use: Callable[[Bench], None]
) -> None:
    use(bench)  # objects that are created once
    forget(bench)
    gc.collect()
    gc.disable()
    try:
        use(bench)
        forget(bench)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [thing for thing in gc.garbage if type(thing).__module__.startswith("sysmem")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not found
    for handle in [thing for thing in found if isinstance(thing, Handle)]:
        handle.close()
