"""Groups, their selections and the order of selections (`docs/spec/allocation.md`, "Logical allocation")."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from .protocol import (
    CONSTRAINTS_INTERSECTION_EMPTY,
    PENDING,
    SAME_RIGHTS,
    TOO_MANY_GROUP_CHILD_COMBINATIONS,
    constraints,
    only_sizes,
)
from .raw import Collection, Group, Token, Wire, assert_close

FITS, MISFIT = only_sizes(10, 20), only_sizes(100, 200)


def finish(group: Group) -> None:
    group.all_children_present()
    group.release()
    group.assert_closes()
    group.close()


def test_the_first_child_that_fits_is_selected_and_the_others_are_closed(wire: Wire) -> None:
    allocator, root, group, children = wire.group_of(4)
    group.all_children_present()
    top = allocator.bind(root)
    collections = [allocator.bind(child) for child in children]
    top.set_constraints(FITS)
    wants = [MISFIT, FITS, FITS, MISFIT]
    waits: list[int] = []
    for collection, table in zip(collections[:3], wants, strict=False):
        collection.set_constraints(table)
        waits.append(collection.request_wait())
        collection.sync()
    assert top.check() == PENDING
    collections[3].set_constraints(wants[3])
    assert len(top.wait().buffers) == 2
    assert len(collections[1].wait_answer(waits[1]).buffers) == 2
    for index in (0, 2, 3):
        collections[index].assert_closes()
    group.sync()
    collections[1].sync()


def test_hidden_nodes_below_and_hidden_groups_are_closed(wire: Wire) -> None:
    allocator, root = wire.root()
    outer = root.group()
    chosen, hidden = outer.children_sync([SAME_RIGHTS] * 2)
    below = hidden.duplicate_token()
    inner = hidden.group()
    leaf = inner.child()
    hidden.sync()
    leaf.sync()
    inner.all_children_present()
    outer.all_children_present()
    ends = allocator.participants(root, chosen, hidden, below, leaf, table=FITS)
    assert len(ends[0].wait().buffers) == 2
    assert len(ends[1].wait().buffers) == 2
    assert_close(*ends[2:], inner)
    outer.sync()


def test_no_selection_fits(wire: Wire) -> None:
    allocator, root, group, children = wire.group_of(3)
    group.all_children_present()
    group.sync()
    top = allocator.bind(root)
    wait = top.request_with(FITS)
    for child in children:
        collection = allocator.bind(child)
        collection.set_constraints(MISFIT)
    assert top.answer(wait).body == {2: CONSTRAINTS_INTERSECTION_EMPTY}
    assert_close(top, group)


def siblings(wire: Wire, groups: int, misfits: Sequence[int]) -> tuple[Collection, int]:
    """A root with `groups` groups of two, the wait of the root, and all constraints.

    Child 0 of the `misfits` can't be selected.
    """
    allocator, root = wire.root()
    made: list[tuple[Group, list[Token]]] = []
    for _ in range(groups):
        group = root.group()
        made.append((group, group.children_sync([SAME_RIGHTS] * 2)))
    top = allocator.bind(root)
    wait = top.request_with(FITS)
    for index, (group, children) in enumerate(made):
        group.all_children_present()
        for number, child in enumerate(children):
            collection = allocator.bind(child)
            misfit = index in misfits and number == 0
            collection.set_constraints(MISFIT if misfit else only_zero_camping())
    return top, wait


def only_zero_camping() -> dict[int, object]:
    return constraints(camping=0, size=10, memory={2: 20})


def test_sibling_groups_count_like_digits_the_last_lowest(wire: Wire) -> None:
    # with 6 groups of two the last selection is the 64th
    top, wait = siblings(wire, 6, range(6))
    assert len(top.wait_answer(wait).buffers) == 1


def test_a_65th_selection_that_exists_is_too_many(wire: Wire) -> None:
    # the first group must advance: selection 65 of 128
    top, wait = siblings(wire, 7, [0])
    answer = top.answer(wait)
    assert answer.body == {2: TOO_MANY_GROUP_CHILD_COMBINATIONS}
    top.assert_closes()


def test_64_sibling_groups_are_fine_when_the_first_selection_fits(wire: Wire) -> None:
    top, wait = siblings(wire, 64, [])
    assert len(top.wait_answer(wait).buffers) == 1


def test_64_sibling_groups_of_which_one_cannot_be_satisfied_are_too_many(wire: Wire) -> None:
    top, wait = siblings(wire, 64, [0])
    assert top.answer(wait).body == {2: TOO_MANY_GROUP_CHILD_COMBINATIONS}
    top.assert_closes()


def nested(wire: Wire, depth: int, fits_at: int) -> tuple[Collection, int]:
    """Nested groups: each first child is a misfit, and the second contains the next group.

    `depth` groups have depth + 1 selections. Only selection `fits_at` (counted from 1) succeeds, or none if it is 0.
    """
    allocator, root = wire.root()
    group = root.group()
    top_token = root
    leaves: list[Token] = []
    holders: list[Token] = []
    for level in range(depth):
        first, second = group.children_sync([SAME_RIGHTS] * 2)
        leaves.append(first)
        if level == depth - 1:
            leaves.append(second)
            finish(group)
            break
        holders.append(second)
        below = second.group()
        second.sync()
        finish(group)
        group = below
    for holder in holders:
        holder.release_and_close()
    top = allocator.bind(top_token)
    wait = top.request_with(FITS)
    for number, leaf in enumerate(leaves, 1):
        collection = allocator.bind(leaf)
        collection.set_constraints(FITS if number == fits_at else MISFIT)
    return top, wait


def test_63_nested_groups_whose_64th_selection_fits(wire: Wire) -> None:
    top, wait = nested(wire, 63, 64)
    assert len(top.wait_answer(wait).buffers) == 2


def test_63_nested_groups_none_of_whose_64_selections_fits(wire: Wire) -> None:
    top, wait = nested(wire, 63, 0)
    assert top.answer(wait).body == {2: CONSTRAINTS_INTERSECTION_EMPTY}


def test_64_nested_groups_whose_65th_selection_would_fit(wire: Wire) -> None:
    top, wait = nested(wire, 64, 65)
    assert top.answer(wait).body == {2: TOO_MANY_GROUP_CHILD_COMBINATIONS}


def test_an_error_other_than_an_empty_intersection_ends_the_attempt(wire: Wire) -> None:
    """A size over the machine's limit is an empty intersection too, so the next child is tried."""
    allocator, root, group, children = wire.group_of(2)
    finish(group)
    top = allocator.bind(root)
    top.set_constraints(constraints())
    large, small = (allocator.bind(child) for child in children)
    large.set_constraints(constraints(size=(256 << 20) + 1))
    small.set_constraints(constraints())
    assert len(top.wait().buffers) == 2
    large.assert_closes()
    small.wait()


# Rules of the group's own messages


def grouped(wire: Wire) -> tuple[Token, Group]:
    root = wire.connect().shared()
    return root, root.group()


def test_all_children_present_without_a_child_fails_the_group(wire: Wire) -> None:
    root, group = grouped(wire)
    group.all_children_present()
    assert_close(group, root)


def test_a_second_all_children_present_fails_the_group(wire: Wire) -> None:
    root, group = grouped(wire)
    group.child()
    group.all_children_present()
    group.sync()
    group.all_children_present()
    assert_close(group, root)


def test_create_child_after_all_children_present_fails_the_group(wire: Wire) -> None:
    root, group = grouped(wire)
    group.child()
    group.all_children_present()
    late = group.child()
    assert_close(group, root, late)


@pytest.mark.parametrize("masks", [[], [SAME_RIGHTS]])
def test_create_children_sync_after_all_children_present_fails_the_group(
    wire: Wire, masks: list[int]
) -> None:
    root, group = grouped(wire)
    group.child()
    group.all_children_present()
    group.request("BufferCollectionTokenGroup.CreateChildrenSync", {1: masks})
    assert_close(group, root)


def test_create_children_sync_of_no_masks_creates_no_child(wire: Wire) -> None:
    root, group = grouped(wire)
    assert group.children_sync([]) == []
    group.all_children_present()
    root.assert_closes()


def test_release_before_all_children_present_fails_the_group(wire: Wire) -> None:
    root, group = grouped(wire)
    group.child()
    group.release()
    assert_close(group, root)


def test_a_group_that_is_released_keeps_its_children(wire: Wire) -> None:
    allocator, root, group, (one, two) = wire.group_of(2)
    finish(group)
    collections = allocator.participants(root, one, two, table=FITS)
    assert len(collections[0].wait().buffers) == 2
    collections[2].assert_closes()


def test_a_group_closed_without_release_fails(wire: Wire) -> None:
    root, group = grouped(wire)
    group.child()
    group.all_children_present()
    group.close()
    root.assert_closes()


def test_a_group_without_all_children_present_holds_up_allocation(wire: Wire) -> None:
    allocator, root = wire.root()
    group = root.group()
    child = group.child()
    child.sync()
    one, two = allocator.participants(root, child, table=FITS)
    two.sync()
    assert one.check() == PENDING
    group.all_children_present()
    assert len(one.wait().buffers) == 2


def test_a_child_of_a_hidden_group_child_must_be_ready_too(wire: Wire) -> None:
    allocator, root, group, (one, two) = wire.group_of(2)
    finish(group)
    top, first = allocator.participants(root, one, table=FITS)
    first.sync()
    assert top.check() == PENDING
    two.release_and_close()
    assert len(top.wait().buffers) == 2


def test_a_child_whose_tokens_were_all_released_contributes_nothing(wire: Wire) -> None:
    allocator, root, group, (one, two) = wire.group_of(2)
    finish(group)
    one.release_and_close()
    top, second = allocator.participants(root, two, table=FITS)
    assert len(top.wait().buffers) == 1
    second.assert_closes()


def test_a_group_child_that_closes_fails_the_tree(wire: Wire) -> None:
    root, group = grouped(wire)
    one, two = group.children_sync([SAME_RIGHTS] * 2)
    one.close()
    assert_close(root, group, two)


def test_a_group_under_an_attached_node_selects_for_that_subtree(wire: Wire) -> None:
    allocator = wire.connect()
    main = allocator.non_shared()
    assert len(main.allocate(camping=3, size=100).buffers) == 3
    attached = main.attach()
    main.sync()
    group = attached.group()
    children = group.children_sync([SAME_RIGHTS] * 2)
    finish(group)
    holder = allocator.bind(attached)
    large, fits = (allocator.bind(child) for child in children)
    holder.set_constraints(constraints(camping=0, size=None))
    large.set_constraints(constraints(camping=0, size=101))
    fits.set_constraints(constraints(camping=0, size=100))
    assert len(holder.wait().buffers) == 3
    assert len(fits.wait().buffers) == 3
    large.assert_closes()
    main.sync()
