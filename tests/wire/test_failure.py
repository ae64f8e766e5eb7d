"""`docs/spec/allocation.md`, "Failure": how far a failure goes, and what stays."""

from __future__ import annotations

from .process import Daemon
from .protocol import SAME_RIGHTS, constraints
from .raw import Allocator, Node, Token, Wire, assert_close


def test_a_close_without_release_fails_the_whole_tree(wire: Wire) -> None:
    allocator, root = wire.root()
    nodes: list[Node] = [root]
    token = root
    for _ in range(5):
        token = token.duplicate_token()
        nodes.append(token)
    group = root.group()
    *children, last = group.children_sync([SAME_RIGHTS] * 3)
    nodes += [group, *children, allocator.bind(last)]
    nodes[5].close()
    assert_close(*(nodes[:5] + nodes[6:]))


def dispensable_chain(wire: Wire) -> tuple[Allocator, list[Token]]:
    """Return a root token, a dispensable child, and its dispensable child."""
    allocator, root, middle, leaf = wire.chain()
    for token in (middle, leaf):
        token.set_dispensable()
        token.sync()
    return allocator, [root, middle, leaf]


def test_nested_failure_domains_only_the_innermost_fails(wire: Wire) -> None:
    allocator, tokens = dispensable_chain(wire)
    root, middle, leaf = (allocator.bind(token) for token in tokens)
    for collection in (root, middle, leaf):
        collection.set_constraints(constraints())
        collection.sync()
    attached = leaf.attach()
    leaf.sync()
    attached.sync()
    attached.close()
    leaf.sync()
    again = leaf.attach()
    leaf.close()
    again.assert_closes()
    middle.sync()
    middle.close()
    root.sync()
    assert root.check() is None


def test_a_failure_domain_without_connected_clients_fails_and_frees_its_parent(
    wire: Wire,
) -> None:
    """Before the allocation, a dispensable node's failure reaches the parent."""
    _, (root, middle, leaf) = dispensable_chain(wire)
    leaf.release_and_close()
    assert_close(root, middle)


def test_an_attached_domain_whose_clients_are_all_released_leaves_quietly(wire: Wire) -> None:
    allocator = wire.connect()
    main = allocator.non_shared()
    main.allocate(camping=1, more={5: 2})
    token = main.attach()
    main.sync()
    late = allocator.bind(token)
    late.allocate(size=None)
    gone = late.track_node()
    late.release_and_close()
    gone.wait_closed()
    token = main.attach()
    main.sync()
    again = allocator.bind(token)
    assert len(again.allocate(size=None).buffers) == 2


def test_a_dispensable_domain_whose_clients_are_all_released_after_allocation(wire: Wire) -> None:
    allocator, tokens = dispensable_chain(wire)
    root, middle, leaf = allocator.participants(*tokens)
    assert len(root.wait().buffers) == 3
    gone = middle.track_node()
    middle.release_and_close()
    root.sync()
    assert not gone.is_closed()
    leaf.release_and_close()
    gone.wait_closed()
    root.sync()


def test_all_released_before_allocation_fails_the_root_and_is_logged_as_an_error(
    wire: Wire, daemon: Daemon
) -> None:
    _, root = wire.root()
    collection_id = root.collection_id()
    gone = root.track_node()
    root.release_and_close()
    gone.wait_closed()
    daemon.wait_log(
        lambda event: event["level"] == "error" and str(collection_id) in str(event.values())
    )


def test_all_released_after_allocation_is_logged_quietly(wire: Wire, daemon: Daemon) -> None:
    collection = wire.connect().non_shared()
    collection.allocate().close()
    collection_id = collection.collection_id()
    gone = collection.track_lifetime(0)
    collection.release_and_close()
    gone.wait_closed()
    daemon.observer.sync()
    assert not [
        event
        for event in daemon.log()
        if event["level"] in ("warning", "error") and str(collection_id) in str(event.values())
    ]


def test_after_allocation_the_root_failing_closes_every_view(wire: Wire) -> None:
    allocator, root = wire.root()
    tokens = root.duplicate_sync([SAME_RIGHTS] * 3)
    collections = allocator.participants(root, *tokens)
    infos = [collection.wait() for collection in collections]
    collections[2].send_bytes(b"")
    assert_close(*collections)
    assert infos[0].vmo().map()[:1] == b"\0"


def test_an_orphans_children_keep_working(wire: Wire) -> None:
    allocator, root, middle, leaf = wire.chain()
    root.release_and_close()
    middle.release_and_close()
    leaf.sync()
    below = leaf.duplicate_token()
    leaf.sync()
    ends = [allocator.bind(leaf), allocator.bind(below)]
    for collection in ends:
        collection.set_constraints(constraints())
    for collection in ends:
        assert len(collection.wait().buffers) == 2


def test_a_failure_below_an_orphan_still_reaches_the_root(wire: Wire) -> None:
    _, root, middle, leaf = wire.chain()
    middle.release_and_close()
    leaf.sync()
    leaf.close()
    root.assert_closes()


def test_a_node_that_is_released_but_not_closed_still_counts_as_connected(wire: Wire) -> None:
    allocator = wire.connect()
    main = allocator.non_shared()
    attached = main.attach()
    gone = attached.track_node()
    attached.release()
    attached.assert_closes()
    main.sync()
    assert not gone.is_closed()
    attached.close()
    gone.wait_closed()
    main.sync()
