"""Trees of thousands of nodes: no recursion, and work that grows only with the number of affected nodes.

Work is counted, not timed: calls of functions, including built-in ones.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from sysmemd.constraints import Allocation, Participant, Platform
from sysmemd.tree import Allocated, Node

from .world import SETTINGS, Event, FakeEngine, World, wanting

SIZE = 2000


class Work:
    calls = 0


@contextmanager
def counted() -> Iterator[Work]:
    work = Work()

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        work.calls += event in ("call", "c_call")

    previous = sys.getprofile()
    gc.disable()  # each collection calls hypothesis
    sys.setprofile(count)
    try:
        yield work
    finally:
        sys.setprofile(previous)
        gc.enable()


def chain(world: World, size: int) -> list[Node]:
    nodes = [world.root]
    while len(nodes) < size:
        nodes.append(world.token(nodes[-1]))
    return nodes


def star(world: World, size: int) -> list[Node]:
    return [world.root, *(world.token(world.root) for _ in range(size - 1))]


def dispensable_chain(world: World, size: int) -> list[Node]:
    nodes = chain(world, size)
    for node in nodes:
        node.set_dispensable()
    return nodes


SHAPES = [chain, star, dispensable_chain]
Shape = Callable[[World, int], list[Node]]


@pytest.mark.parametrize("shape", SHAPES)
def test_growing_allocating_and_a_failure_of_2000_nodes(shape: Shape) -> None:
    world = World()
    nodes = shape(world, SIZE)
    events = [Event() for _ in nodes]
    for node, event in zip(nodes, events, strict=True):
        node.attach_node_tracking(event)
    nodes[0].set_verbose_logging()
    world.ready(*nodes, constraints=wanting(0, least=1))
    assert all(isinstance(node.outcome, Allocated) for node in nodes)
    assert len(world.engine.calls) == 1
    world.root.client_closed()
    assert not any(world.is_open(node) for node in nodes)
    assert all(event.closed for event in events)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backwards", [False, True])
def test_2000_nodes_that_leave_one_by_one(shape: Shape, backwards: bool) -> None:
    world = World()
    nodes = shape(world, SIZE)
    world.ready(*nodes, constraints=wanting(0, least=1))
    world.retire(*(reversed(nodes) if backwards else nodes))
    assert world.times_gone() == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backwards", [False, True])
def test_work_grows_with_the_tree_and_not_with_its_square(shape: Shape, backwards: bool) -> None:
    def life(size: int) -> int:
        world = World()
        with counted() as work:
            nodes = shape(world, size)
            if backwards:
                nodes.reverse()
            world.ready(*nodes, constraints=wanting(0, least=1))
            world.retire(*nodes)
        assert world.times_gone() == 1
        return work.calls

    assert life(800) < 5 * life(200)


def test_attached_participants_that_come_and_go_cost_the_same_each_time() -> None:
    world = World()
    world.ready(world.root, constraints=wanting(0, least=1))

    def come_and_go(times: int) -> int:
        with counted() as work:
            for _ in range(times):
                attached = world.attach(world.root)
                world.ready(attached)
                world.retire(attached)
        return work.calls

    once = come_and_go(1)
    assert come_and_go(500) <= 501 * once


def test_attached_participants_who_stay_cost_as_much_as_they_are() -> None:
    def join(times: int) -> int:
        world = World()
        world.bind(world.root)
        attached = [world.attach(world.root) for _ in range(times)]
        world.ready(*attached, constraints=wanting(0))
        with counted() as work:
            world.ready(world.root, constraints=wanting(0, least=1))
        assert all(node.has_allocated for node in attached)
        return work.calls - engine_calls(times)

    def engine_calls(times: int) -> int:
        """The engine of the tests adds up all participants each time."""
        joining = FakeEngine().joining([], Allocation(SETTINGS, 128), Platform())
        people = [Participant(wanting(0)) for _ in range(times)]
        with counted() as work:
            for index in range(times):
                joining.attempt(people[index : index + 1])
                joining.settle(people[index : index + 1])
        return work.calls

    assert join(400) < 5 * join(100)


def test_2000_waiting_attached_tokens_are_all_attempted_in_order() -> None:
    world = World()
    world.bind(world.root)
    attached = [world.attach(world.root) for _ in range(SIZE)]
    world.ready(*reversed(attached), constraints=wanting(1))
    world.engine.calls.clear()
    world.ready(world.root, constraints=wanting(0, least=10))
    assert [isinstance(node.outcome, Allocated) for node in attached] == [True] * 10 + [False] * (
        SIZE - 10
    )


def test_a_message_to_one_node_does_not_walk_the_others() -> None:
    def cost(size: int) -> int:
        world = World()
        nodes = chain(world, size)
        with counted() as work:
            child = world.token(nodes[-1])
            child.set_weak()
            child.attach_node_tracking(Event())
            world.ready(child)
            child.wait_for_all_buffers_allocated()
            world.retire(child)
        return work.calls

    assert cost(1000) == cost(10)


def test_other_collections_are_not_touched() -> None:
    others = [World() for _ in range(50)]
    lines = [len(world.log.entries) for world in others]
    world = World()
    world.ready(world.root)
    world.root.client_closed()
    assert [len(world.log.entries) for world in others] == lines


@pytest.mark.parametrize("where", [0, -1])
def test_is_alternate_for_in_a_deep_tree(where: int) -> None:
    world = World()
    nodes = chain(world, SIZE)
    assert not nodes[-1].is_alternate_for(nodes[where])
