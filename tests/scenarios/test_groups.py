"""Groups: which child is selected, and the effects on the other children (`docs/spec/allocation.md`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress

import pytest

import sysmem
from sysmem import BufferCollectionConstraints, Error, PeerClosedError, SysmemError, blocking

from .scenario import (
    ENOUGH,
    ask,
    begin_wait,
    buffers,
    image,
    images,
    memory,
)

ONE = memory(min_size_bytes=100, max_size_bytes=100)
TWO = memory(min_size_bytes=200, max_size_bytes=200)
THREE = memory(min_size_bytes=300, max_size_bytes=300)
ANY = buffers(1)
NEVER = buffers(min_buffer_count=200)


class Tree:
    """Tokens, groups and collections below one root. All are closed at the end."""

    def __init__(self, client: blocking.Allocator, stack: ExitStack) -> None:
        self.client = client
        self.stack = stack
        self.root = stack.enter_context(client.allocate_shared_collection())

    def group(
        self, token: blocking.BufferCollectionToken, children: int
    ) -> tuple[blocking.BufferCollectionTokenGroup, list[blocking.BufferCollectionToken]]:
        group = self.stack.enter_context(token.create_buffer_collection_token_group())
        tokens = group.create_children_sync([sysmem.Rights.SAME_RIGHTS] * children)
        group.all_children_present()
        return group, [self.stack.enter_context(child) for child in tokens]

    def bind(
        self, token: blocking.BufferCollectionToken, table: BufferCollectionConstraints | None
    ) -> blocking.BufferCollection:
        token.sync()
        collection = self.stack.enter_context(self.client.bind_shared_collection(token))
        collection.set_constraints(table)
        with suppress(PeerClosedError):  # the last one gets the attempt's outcome at once
            collection.sync()
        return collection

    def choice(
        self, token: blocking.BufferCollectionToken, *tables: BufferCollectionConstraints
    ) -> tuple[blocking.BufferCollectionTokenGroup, list[blocking.BufferCollection]]:
        """Return a group with a bound child for each of the constraints."""
        group, tokens = self.group(token, len(tables))
        return group, [self.bind(t, table) for t, table in zip(tokens, tables, strict=True)]


@pytest.fixture
def tree(client: blocking.Allocator) -> Iterator[Tree]:
    with ExitStack() as stack:
        yield Tree(client, stack)


def size(collection: blocking.BufferCollection) -> int:
    with collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
        assert info.settings is not None
        assert info.settings.buffer_settings is not None
        assert info.settings.buffer_settings.size_bytes is not None
        return info.settings.buffer_settings.size_bytes


def hidden(*nodes: blocking.Node) -> None:
    for node in nodes:
        assert node.wait_closed(timeout=ENOUGH)


def test_the_first_child_that_fits_is_selected(client: blocking.Allocator) -> None:
    for root, expected in ((ANY, 0), (TWO, 1), (THREE, 2)):
        with ExitStack() as stack:
            tree = Tree(client, stack)
            group, children = tree.choice(tree.root, ONE, TWO, THREE)
            parent = tree.bind(tree.root, root)
            assert size(parent) == (expected + 1) * 100
            assert size(children[expected]) == (expected + 1) * 100
            hidden(*[child for index, child in enumerate(children) if index != expected])
            group.sync()
            parent.sync()


def test_a_pending_wait_of_a_hidden_child_gets_no_answer(tree: Tree) -> None:
    _, (chosen, other) = tree.choice(tree.root, ANY, ONE)
    pending = begin_wait(other)
    root = tree.bind(tree.root, ANY)
    with pytest.raises(PeerClosedError):
        pending.result(ENOUGH)
    assert size(chosen) == size(root) == 1


def test_no_child_that_fits_is_empty_for_everybody(tree: Tree) -> None:
    group, children = tree.choice(tree.root, ONE, TWO)
    waits = [begin_wait(child) for child in children]
    root = tree.bind(tree.root, THREE)
    for wait in waits:
        with pytest.raises(SysmemError) as raised:
            wait.result(ENOUGH)
        assert raised.value.error is Error.CONSTRAINTS_INTERSECTION_EMPTY
    hidden(root, group, *children)


def test_the_lowest_ranking_group_advances_first(tree: Tree) -> None:
    # Two groups below the root: (0,0) (0,1) (1,0) (1,1), as in counting. Both (0,1) and (1,0) would succeed.
    _, first = tree.choice(tree.root, ONE, TWO)
    _, second = tree.choice(tree.root, TWO, ONE)
    root = tree.bind(tree.root, ANY)
    assert size(root) == size(first[0]) == size(second[1]) == 100
    hidden(first[1], second[0])


def test_a_group_under_a_hidden_child_is_skipped(tree: Tree) -> None:
    # The outer group's first child has a group of its own; the second child has none.
    outer, (left, right) = tree.group(tree.root, 2)
    inner, under = tree.choice(left, ONE, TWO)
    left_bound = tree.bind(left, ANY)
    right_bound = tree.bind(right, THREE)
    root = tree.bind(tree.root, THREE)
    assert size(root) == size(right_bound) == 300
    hidden(inner, left_bound, *under)
    outer.sync()


def test_parents_rank_before_their_children(tree: Tree) -> None:
    _, (left, right) = tree.group(tree.root, 2)
    _, under = tree.choice(left, ONE, TWO)
    left_bound = tree.bind(left, ANY)
    right_bound = tree.bind(right, TWO)
    root = tree.bind(tree.root, TWO)
    # (left, ONE) fails, and (left, TWO) is tried before (right).
    assert size(root) == size(left_bound) == size(under[1]) == 200
    hidden(right_bound, under[0])


def _binary(
    tree: Tree, groups: int, tables: Sequence[BufferCollectionConstraints]
) -> list[list[blocking.BufferCollection]]:
    return [tree.choice(tree.root, *tables)[1] for _ in range(groups)]


def _outcome(root: blocking.BufferCollectionToken, tree: Tree) -> sysmem.Error | int | None:
    """Use a child to prevent the allocation until the root has asked."""
    gate = root.duplicate()
    root.sync()
    collection = tree.bind(root, ANY)
    ask(collection)
    gate.release()
    try:
        collection.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
    except SysmemError as error:
        return error.error
    return None


def test_64_failed_selections_are_the_most(client: blocking.Allocator) -> None:
    # 2^6 selections, all of which fail: the error is the empty intersection. Of 3 × 64, the 65th is not tried.
    with ExitStack() as stack:
        tree = Tree(client, stack)
        _binary(tree, 6, (NEVER, NEVER))
        assert _outcome(tree.root, tree) is Error.CONSTRAINTS_INTERSECTION_EMPTY
    with ExitStack() as stack:
        tree = Tree(client, stack)
        _, tokens = tree.group(tree.root, 64)
        for token in tokens[:-1]:
            tree.bind(token, NEVER)
        last = tree.bind(tokens[-1], ANY)
        assert _outcome(tree.root, tree) is None
        last.sync()
    with ExitStack() as stack:
        tree = Tree(client, stack)
        group = stack.enter_context(tree.root.create_buffer_collection_token_group())
        tokens = group.create_children_sync([sysmem.Rights.SAME_RIGHTS] * 64)
        tokens += group.create_children_sync([sysmem.Rights.SAME_RIGHTS])
        group.all_children_present()
        for token in tokens:
            tree.bind(token, NEVER)
        assert _outcome(tree.root, tree) is Error.TOO_MANY_GROUP_CHILD_COMBINATIONS


@pytest.mark.sysmemd(config={"limits": {"max_group_selections": 2}})
def test_the_number_of_selections_is_a_setting(allocator: blocking.Allocator) -> None:
    for tables, expected in (
        ((NEVER, ANY, ANY), None),
        ((NEVER, NEVER), Error.CONSTRAINTS_INTERSECTION_EMPTY),
        ((NEVER, NEVER, ANY), Error.TOO_MANY_GROUP_CHILD_COMBINATIONS),
    ):
        with ExitStack() as stack:
            tree = Tree(allocator, stack)
            _binary(tree, 1, tables)
            assert _outcome(tree.root, tree) is expected


def test_selected_formats_decide(tree: Tree) -> None:
    # A decoder that prefers tiles but also supports rows, and a screen that supports rows only.
    tiled = images(
        image(pixel_format_modifier=sysmem.PixelFormatModifier.INTEL_I915_Y_TILED),
        min_buffer_count=3,
    )
    _, (wish, fallback) = tree.choice(tree.root, tiled, images(image()))
    screen = tree.bind(tree.root, images(image()))
    with screen.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
        assert info.buffers is not None
        assert len(info.buffers) == 2  # the minimum of 3 of an unselected child does not count
    fallback.sync()
    hidden(wish)


def test_a_dispensable_child_hidden_does_not_fail_its_parent(tree: Tree) -> None:
    group, (chosen, other) = tree.group(tree.root, 2)
    for token in (chosen, other):
        token.set_dispensable()
    nodes = [tree.bind(token, ANY) for token in (chosen, other)]
    root = tree.bind(tree.root, ANY)
    assert size(root) == size(nodes[0]) == 1
    hidden(nodes[1])
    group.sync()
    nodes[0].close()
    root.sync()
    assert root.wait_closed(timeout=0) is False


def test_a_dispensable_child_that_nobody_holds_fails_its_parent(
    tree: Tree,
) -> None:
    # A failure domain without a client, before allocation.
    group, (first, _) = tree.group(tree.root, 2)
    first.set_dispensable()
    first.release()
    hidden(tree.root, group)
