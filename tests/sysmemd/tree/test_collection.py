"""The tree's root object."""

from __future__ import annotations

from sysmemd.ports import ClientInfo
from sysmemd.tree import Allocated, NodeKind

from .world import World


def test_a_new_collection_is_one_token(  # AllocateSharedCollection
) -> None:
    world = World()
    assert world.root.kind is NodeKind.TOKEN
    assert world.root.client == ClientInfo("initiator", 1)
    assert list(world.collection.nodes()) == [world.root]
    assert repr(world.collection) == "<LogicalBufferCollection 7 ''>"
    assert not world.collection.is_allocated


def test_a_collection_and_its_nodes_know_when_they_were_made() -> None:
    world = World()
    made = world.clock.now()
    world.clock.advance(1)
    later = world.token(world.root)
    assert (world.collection.created, world.root.created) == (made, made)
    assert later.created == world.clock.now() > made


def test_a_collection_for_one_is_a_root_token_bound_at_once_on_the_same_channel() -> None:
    world = World()
    channel = world.channels[world.root]
    world.root.bind(channel, None)
    world.ready(world.root)
    assert isinstance(world.root.outcome, Allocated)
    assert world.collection.is_allocated
    assert not channel.closed
    world.root.client_closed()
    assert channel.closes == 1


def test_nodes_are_numbered_and_walked_breadth_first() -> None:
    world = World()
    one, two = world.token(world.root), world.token(world.root)
    below = world.token(one)
    assert list(world.collection.nodes()) == [world.root, one, two, below]
    assert [node.number for node in (world.root, one, two, below)] == [1, 2, 3, 4]
