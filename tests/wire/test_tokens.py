"""`docs/spec/protocol.md`, "BufferCollectionToken" and "Rights": children, masks, and uses of a delivered VMO."""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Any

import pytest

from .process import Daemon
from .protocol import (
    CONSTRAINTS_INTERSECTION_EMPTY,
    CPU_READ,
    READ,
    SAME_RIGHTS,
    WRITE,
    constraints,
    only_sizes,
)
from .raw import Allocator, Descriptor, Info, Token, Wire, assert_close

PLAIN = constraints(cpu=CPU_READ, camping=0)


def writable(vmo: Descriptor) -> bool:
    mode = fcntl.fcntl(vmo.fileno(), fcntl.F_GETFL) & os.O_ACCMODE
    if mode == os.O_RDWR:
        vmo.map()[:1] = b"w"
        return True
    assert mode == os.O_RDONLY
    with pytest.raises(PermissionError):
        mmap.mmap(vmo.fileno(), 1, mmap.MAP_SHARED, mmap.PROT_WRITE)
    return False


def delivered(wire: Wire, token: Token, root: Token, table: dict[int, Any]) -> Info:
    """Return the delivery to the token's participant, beside a root that asks for one buffer."""
    allocator = wire.connect()
    token.sync()
    one, two = allocator.bind(root), allocator.bind(token)
    one.set_constraints(constraints())
    two.set_constraints(table)
    one.wait()
    return two.wait()


# Duplicate, DuplicateSync


def test_duplicate_sync_answers_in_the_order_of_the_masks(wire: Wire) -> None:
    allocator, root = wire.root()
    tokens = root.duplicate_sync([SAME_RIGHTS, READ, 0xFFFFFFFF])
    for token in tokens:
        assert allocator.validate(token.koid())
    collections = allocator.participants(root, *tokens)
    answers = [writable(collection.wait().vmo()) for collection in collections]
    assert answers == [True, True, False, True]


def test_duplicate_sync_of_an_empty_list_answers_an_empty_list(wire: Wire) -> None:
    root = wire.connect().shared()
    answer = root.call("BufferCollectionToken.DuplicateSync", {1: []})
    assert answer.body == {1: []}


def test_duplicate_sync_of_64_masks(wire: Wire) -> None:
    allocator = wire.connect()
    tokens = allocator.shared().duplicate_sync([SAME_RIGHTS] * 64)
    assert len({token.koid() for token in tokens}) == 64
    assert all(allocator.validate(token.koid()) for token in tokens)


def test_tokens_of_duplicate_sync_have_sysmem_as_their_peer(wire: Wire) -> None:
    root = wire.connect().shared()
    (token,) = root.duplicate_sync([SAME_RIGHTS])
    token.sync()
    token.close()
    root.assert_closes()


@pytest.mark.parametrize("masks", [[0], [SAME_RIGHTS, 0]])
def test_mask_0_in_duplicate_sync_fails_the_node(wire: Wire, masks: list[int]) -> None:
    root = wire.connect().shared()
    root.request("BufferCollectionToken.DuplicateSync", {1: masks})
    root.assert_closes()


def test_mask_0_in_duplicate_is_same_rights_and_logs_an_error(wire: Wire, daemon: Daemon) -> None:
    root = wire.connect().shared()
    root.set_debug_client_info("deprecated mask", 77)
    token = root.duplicate_token(0)
    assert writable(delivered(wire, token, root, constraints()).vmo())
    daemon.wait_log(
        lambda event: event["level"] == "error" and "deprecated mask" in str(event.values())
    )


@pytest.mark.parametrize("method", ["CreateChild", "CreateChildrenSync", "AttachToken"])
def test_mask_0_elsewhere_fails_the_node(wire: Wire, method: str) -> None:
    allocator, root = wire.root()
    if method == "AttachToken":
        root.sync()
        collection = allocator.bind(root)
        collection.attach(0)
        collection.assert_closes()
        return
    group = root.group()
    if method == "CreateChild":
        group.child(0)
    else:
        group.request("BufferCollectionTokenGroup.CreateChildrenSync", {1: [SAME_RIGHTS, 0]})
    assert_close(group, root)


# Rights


@pytest.mark.parametrize(
    ("mask", "delivers", "writes"),
    [
        (SAME_RIGHTS, True, True),
        (0xFFFFFFFF, True, True),
        (READ | WRITE, True, True),
        (READ, True, False),
        (WRITE, False, False),
        (0x1, False, False),
        (0x7FFFFFFF & ~WRITE, True, False),
        (0x7FFFFFFF & ~READ, False, False),
        (SAME_RIGHTS | READ, True, False),
    ],
)
def test_a_mask_is_anded_into_the_rights(
    wire: Wire, mask: int, delivers: bool, writes: bool
) -> None:
    root = wire.connect().shared()
    info = delivered(wire, root.duplicate_token(mask), root, constraints())
    if delivers:
        assert writable(info.vmo()) is writes
    else:
        assert info.buffers == [{2: 0}, {2: 0}]


def test_rights_never_grow_down_the_tree(wire: Wire) -> None:
    root = wire.connect().shared()
    child = root.duplicate_token(READ)
    grandchild = child.duplicate_token(SAME_RIGHTS)
    great = grandchild.duplicate_token(0xFFFFFFFF)
    great.sync()
    for one in (child, grandchild):
        one.release_and_close()
    assert not writable(delivered(wire, great, root, constraints()).vmo())


def test_masks_apply_to_groups_children_and_attached_tokens(wire: Wire) -> None:
    allocator, root = wire.root()
    child = root.duplicate_token(READ)
    group = child.group()
    one = group.child()
    two = group.child(SAME_RIGHTS)
    group.all_children_present()
    for node in (child, two):
        node.sync()
        node.release_and_close()
    first, second = allocator.bind(root), allocator.bind(one)
    first.set_constraints(constraints(camping=2))
    second.set_constraints(constraints())
    attached = second.attach(SAME_RIGHTS)
    second.sync()
    assert not writable(second.wait().vmo())
    third = allocator.bind(attached)
    assert not writable(third.allocate(camping=0).vmo())
    assert writable(first.wait().vmo())


USAGES: dict[str, tuple[dict[int, int], bool]] = {
    "cpu read": ({2: 1}, False),
    "cpu read often": ({2: 2}, False),
    "cpu write": ({2: 4}, True),
    "cpu write often": ({2: 8}, True),
    **{
        f"vulkan {bit:#x}": (
            {3: bit},
            bit in (2, 8, 0x10, 0x20, 0x40, 0x20000, 0x80000, 0x200000),
        )
        for bit in [1 << n for n in range(8)] + [0x10000 << n for n in range(9)]
    },
    "display layer": ({4: 1}, False),
    "display cursor": ({4: 2}, False),
    "display both": ({4: 3}, False),
    **{f"video {bit}": ({5: bit}, True) for bit in (1, 2, 8, 16, 32)},
    "video, a bit without a name": ({5: 4}, False),
    "none, permitted": ({1: 3}, False),
}


@pytest.mark.parametrize("usage", USAGES)
def test_without_a_writing_usage_the_vmo_is_read_only(wire: Wire, usage: str) -> None:
    root = wire.connect().shared()
    uses, writes = USAGES[usage]
    table = {1: uses, 7: {5: True, 6: True, 7: True}}
    if 2 in uses:
        del table[7]
    info = delivered(wire, root.duplicate_token(), root, table)
    assert writable(info.vmo()) is writes


@pytest.mark.parametrize("table", [{}, None, {1: {1: 1}}, {1: {1: 1}, 2: 2}])
def test_a_participant_without_usage_gets_no_vmo(wire: Wire, table: dict[int, Any] | None) -> None:
    _, one, two = wire.two()
    one.set_constraints(constraints())
    two.set_constraints(table)
    info = two.wait()
    assert len(info.buffers) == (3 if table and 2 in table else 1)
    assert all(buffer == {2: 0} for buffer in info.buffers)
    assert info.message.descriptors == []


def test_every_handle_is_its_own_open_file_description(wire: Wire) -> None:
    collection, info = wire.allocated()
    one, two = info.vmo(), collection.wait().vmo()
    os.lseek(one.fileno(), 100, os.SEEK_SET)
    assert os.lseek(two.fileno(), 0, os.SEEK_CUR) == 0


def test_a_vmo_is_sealed_zeroed_and_private_to_its_uid(wire: Wire) -> None:
    _, info = wire.allocated(size=5000)
    vmo = info.vmo()
    assert vmo.size() == info.memory[6] == 8192
    assert info.memory[1] == 5000
    assert bytes(vmo.map()) == bytes(8192)
    for size in (0, 4096, 16384):
        with pytest.raises(PermissionError):
            os.ftruncate(vmo.fileno(), size)
    sealed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    assert fcntl.fcntl(vmo.fileno(), fcntl.F_GET_SEALS) & sealed == sealed
    assert os.fstat(vmo.fileno()).st_mode & 0o777 == 0o600


# SetDispensable


def dispensable_pair(wire: Wire) -> tuple[Allocator, Token, Token]:
    allocator, root, child = wire.root_and_child()
    child.set_dispensable()
    child.set_dispensable()
    child.sync()
    return allocator, root, child


def test_a_dispensable_node_that_fails_before_allocation_fails_its_parent(wire: Wire) -> None:
    _, root, child = dispensable_pair(wire)
    child.close()
    root.assert_closes()


def test_a_dispensable_node_that_fails_after_allocation_fails_alone(wire: Wire) -> None:
    allocator, root, child = dispensable_pair(wire)
    below = child.duplicate_token()
    child.sync()
    one, two, three = allocator.participants(root, child, below)
    assert [len(c.wait().buffers) for c in (one, two, three)] == [3, 3, 3]
    three.close()
    two.assert_closes()
    one.sync()
    assert one.check() is None


def test_the_parents_failure_takes_the_dispensable_node_along(wire: Wire) -> None:
    _, root, child = dispensable_pair(wire)
    root.close()
    child.assert_closes()


def test_a_dispensable_nodes_constraints_count(wire: Wire) -> None:
    allocator, root, child = dispensable_pair(wire)
    one, two = allocator.bind(root), allocator.bind(child)
    wait = one.request_with(only_sizes(1, 10))
    two.set_constraints(only_sizes(20, 30))
    assert one.answer(wait).body == {2: CONSTRAINTS_INTERSECTION_EMPTY}


def test_set_dispensable_on_an_attached_token_never_weakens_its_isolation(wire: Wire) -> None:
    collection = wire.connect().non_shared()
    attached = collection.attach()
    attached.set_dispensable()
    attached.sync()
    attached.close()
    collection.sync()
    collection.allocate()
