"""Tokens that travel between processes, and how the kernel shows them (`docs/spec/linux.md`)."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sysmem
from sysmem import PeerClosedError, blocking
from sysmem.pytest_plugin import Factory
from sysmem.testing import Sysmemd

from .other_process import OtherProcess
from .scenario import (
    ENOUGH,
    READ_WRITE,
    begin_wait,
    buffers,
    descriptors,
    eventually,
    participants,
    vmo_of,
)


def test_a_token_is_passed_on_by_its_descriptor(
    client: blocking.Allocator, daemon: Sysmemd
) -> None:
    with client.allocate_shared_collection() as token, OtherProcess() as other:
        child = token.duplicate()
        token.sync()
        number = token.get_buffer_collection_id()
        fd = child.detach()
        with client.bind_shared_collection(token) as collection:
            collection.set_constraints(buffers())
            answer = other.tell(f"participate {daemon.runtime_dir}", fd)
            os.close(fd)
            assert answer == str(number)
            with collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
                assert info.buffers is not None
                assert len(info.buffers) == 2
                with info.buffers[0].map() as view:
                    assert bytes(view[:5]) == b"hello"
            collection.sync()


def test_a_participant_that_is_killed_fails_the_others(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token, OtherProcess() as other:
        child = token.duplicate()
        token.sync()
        fd = child.detach()
        other.tell("keep", fd)
        os.close(fd)
        with client.bind_shared_collection(token) as collection:
            collection.set_constraints(buffers())
            wait = begin_wait(collection)
            other.kill()
            with pytest.raises(PeerClosedError):
                wait.result(ENOUGH)


def test_a_channel_with_two_holders_is_closed_by_the_last(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token, OtherProcess() as other:
        child = token.duplicate()
        token.sync()
        other.tell("keep", child.fileno())
        child.close()
        token.sync()
        assert token.wait_closed(timeout=0) is False
        other.tell("close")
        assert token.wait_closed(timeout=ENOUGH)


def test_a_turned_in_tokens_duplicates_see_peer_closed(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token:
        copy = blocking.BufferCollectionToken.from_fd(os.dup(token.fileno()))
        with client.bind_shared_collection(token) as collection, copy:
            collection.sync()
            assert copy.wait_closed(timeout=ENOUGH)
            with pytest.raises(PeerClosedError):
                copy.sync()
        # its close is not a failure
    with client.allocate_shared_collection() as token:
        copy = blocking.BufferCollectionToken.from_fd(os.dup(token.fileno()))
        with client.bind_shared_collection(token) as collection:
            collection.sync()
            copy.close()
            collection.sync()
            assert collection.wait_closed(timeout=0) is False


def test_koids_are_known_after_a_sync_and_validate(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token:
        token.sync()
        koid = token.server_koid
        assert type(koid) is int
        assert koid > 0
        assert token.server_koid == koid
        assert client.validate_buffer_collection_token(koid) is True
        assert client.validate_buffer_collection_token(koid + 10**9) is False
        assert client.validate_buffer_collection_token(0) is False
        # `docs/spec/linux.md`: the peer's name ends in the koid.
        with socket.socket(fileno=os.dup(token.fileno())) as end:
            assert end.getpeername().endswith(f"/{koid}".encode())
        (child,) = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        assert child.server_koid not in (0, koid)
        assert client.validate_buffer_collection_token(child.server_koid) is True
        assert token.server_koid == koid
        childs = child.server_koid
        with client.bind_shared_collection(child) as bound:
            bound.sync()
            # A connected token that was not turned in; this one was.
            assert client.validate_buffer_collection_token(childs) is False
            assert client.validate_buffer_collection_token(bound.server_koid) is False
            assert bound.server_koid not in (0, koid, childs)
        assert token.wait_closed(timeout=ENOUGH)
        assert client.validate_buffer_collection_token(koid) is False


def test_a_koid_is_zero_until_the_server_has_seen_its_end() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other, blocking.BufferCollectionToken.from_fd(one.detach()) as token:
        assert token.server_koid == 0


def test_an_unknown_token_gets_a_closed_collection_and_nothing_else(
    client: blocking.Allocator,
) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fake = blocking.BufferCollectionToken.from_fd(one.detach())
    with other, client.bind_shared_collection(fake) as collection:
        assert collection.wait_closed(timeout=ENOUGH)
        other.settimeout(ENOUGH)
        assert other.recv(16) == b""  # the descriptor that was passed was closed here
    assert client.validate_buffer_collection_token(1) is False  # the Allocator lives


def test_a_collection_is_no_token(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as collection:
        collection.sync()
        fake = blocking.BufferCollectionToken.from_fd(os.dup(collection.fileno()))
        with client.bind_shared_collection(fake) as bound:
            assert bound.wait_closed(timeout=ENOUGH)
        collection.sync()
        collection.set_constraints(buffers())
        collection.wait_for_all_buffers_allocated(timeout=ENOUGH).close()


def test_binding_a_released_token_fails_the_node(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token:
        child = token.duplicate()
        token.sync()
        copy = blocking.BufferCollectionToken.from_fd(os.dup(child.fileno()))
        child.release()
        with client.bind_shared_collection(copy) as bound:
            assert bound.wait_closed(timeout=ENOUGH)
        assert token.wait_closed(timeout=ENOUGH)


def test_what_was_sent_on_the_token_is_processed_before_the_bind(
    client: blocking.Allocator, daemon: Sysmemd
) -> None:
    # All messages are in the channels' queues at once, each time in the same order.
    for round_ in range(20):
        token = client.allocate_shared_collection()
        token.set_name(1, f"piped{round_}")
        children = [token.duplicate() for _ in range(20)]
        with client.bind_shared_collection(token) as collection:
            for child in children:
                child.release()
            collection.set_constraints(buffers())
            with collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
                assert f"piped{round_}:0" in os.readlink(f"/proc/self/fd/{vmo_of(info).fileno()}")


def test_vmos_are_named_in_proc(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as collection:
        collection.set_name(5, "camera")
        collection.set_name(5, "same priority")
        collection.set_name(4, "less")
        collection.set_constraints(buffers(min_buffer_count=2))
        with collection.wait_for_all_buffers_allocated() as info:
            for index in (0, 1):
                shown = os.readlink(f"/proc/self/fd/{vmo_of(info, index).fileno()}")
                assert f"camera:{index}" in shown
            with vmo_of(info, 1).map():
                maps = Path("/proc/self/maps").read_text()
                assert re.search(r"memfd:camera:1\b", maps)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "sysmem:0"),
        ([(0, "zero")], "zero:0"),
        ([(0, "first"), (0, "second")], "first:0"),
        ([(1, "low"), (7, "high"), (3, "mid")], "high:0"),
        ([(0, "cut\0off")], "cut:0"),
        ([(0, "n" * 64)], "n" * 64 + ":0"),
        ([(0, "ünïcode")], "ünïcode:0"),
        ([(0xFFFFFFFF, "top"), (0xFFFFFFFF, "late")], "top:0"),
    ],
    ids=repr,
)
def test_the_name_with_the_greatest_priority_is_kept(
    client: blocking.Allocator, names: list[tuple[int, str]], expected: str
) -> None:
    with participants(client, 1) as (gate, (collection,)):
        for index, (priority, name) in enumerate(names):
            node: blocking.Node = collection if index % 2 else gate
            node.set_name(priority, name)
            node.sync()
        collection.set_constraints(buffers())
        gate.release()
        with collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
            shown = os.readlink(f"/proc/self/fd/{vmo_of(info).fileno()}")
            assert re.fullmatch(rf"/memfd:{re.escape(expected)}( \(deleted\))?", shown)


def test_a_name_after_allocation_renames_nothing(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(buffers())
        collection.wait_for_all_buffers_allocated().close()
        collection.set_name(1, "late")
        with collection.wait_for_all_buffers_allocated() as info:
            assert "sysmem:0" in os.readlink(f"/proc/self/fd/{vmo_of(info).fileno()}")


def test_collection_ids_are_unique_and_shared_by_all_nodes(client: blocking.Allocator) -> None:
    seen = set()
    for _ in range(50):
        with participants(client, 2) as (gate, (one, two)):
            number = gate.get_buffer_collection_id()
            assert one.get_buffer_collection_id() == two.get_buffer_collection_id() == number
            with one.attach_token() as attached:
                assert attached.get_buffer_collection_id() == number
            assert number > 1
            seen.add(number)
    assert len(seen) == 50


def test_collection_ids_are_unique_among_daemons(sysmemd_factory: Factory) -> None:
    seen = set()
    for _ in range(3):
        with blocking.connect(sysmemd_factory().runtime_dir) as allocator:
            for _ in range(5):
                with allocator.allocate_shared_collection() as token:
                    seen.add(token.get_buffer_collection_id())
    assert len(seen) == 15


def test_buffers_are_zero_and_pages_of_their_own(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(buffers(100_000, min_buffer_count=2))
        with collection.wait_for_all_buffers_allocated() as info:
            for index in (0, 1):
                assert vmo_of(info, index).size == 102_400
                with vmo_of(info, index).map() as view:
                    assert len(view) == 102_400
                    assert bytes(view) == bytes(102_400)
                    view[:] = b"\xff" * 102_400
            with vmo_of(info, 0).map(length=100_000) as view:
                assert len(view) == 100_000


def test_reusing_memory_shows_nobody_elses_contents(client: blocking.Allocator) -> None:
    for _ in range(3):
        with client.allocate_non_shared_collection() as collection:
            collection.set_constraints(buffers(2**20))
            with collection.wait_for_all_buffers_allocated() as info, vmo_of(info).map() as view:
                assert not any(bytes(view))
                view[:] = b"s" * 2**20
            collection.release()


def test_a_client_process_needs_neither_daemon_nor_structlog(daemon: Sysmemd) -> None:
    program = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('sysmemd', 'structlog'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "from sysmem import blocking\n"
        "with blocking.connect(sys.argv[1]) as a, a.allocate_shared_collection() as t:\n"
        "    print(t.get_buffer_collection_id() > 1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(daemon.runtime_dir)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_descriptors_are_not_inherited_by_programs(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token, token.get_node_ref() as node_ref:
        (child,) = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        tracking = token.attach_node_tracking()
        with child, tracking:
            for thing in (client, token, node_ref, child, tracking):
                assert not os.get_inheritable(thing.fileno())
        assert token.wait_closed(timeout=ENOUGH)
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(buffers())
        with collection.wait_for_all_buffers_allocated() as info:
            assert not os.get_inheritable(vmo_of(info).fileno())
            with vmo_of(info).duplicate() as copy:
                assert not os.get_inheritable(copy.fileno())


def test_a_client_that_came_and_went_leaves_nothing(daemon: Sysmemd) -> None:
    program = (
        "import sys, os, signal\n"
        "from sysmem import *\n"
        "from sysmem import blocking\n"
        "a = blocking.connect(sys.argv[1])\n"
        "t = a.allocate_shared_collection()\n"
        "ts = t.duplicate_sync([0x80000000] * 5)\n"
        "c = a.allocate_non_shared_collection()\n"
        "c.set_constraints(BufferCollectionConstraints(usage=BufferUsage(cpu=1),"
        " min_buffer_count=9, buffer_memory_constraints=BufferMemoryConstraints(min_size_bytes=1)))\n"
        "i = c.wait_for_all_buffers_allocated()\n"
        "w = a.get_vmo_info(i.buffers[0].vmo, need_weak=True)\n"
        "e = c.attach_lifetime_tracking(); c.attach_node_tracking(); c.sync()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    before = descriptors(daemon)
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, str(daemon.runtime_dir)], check=False)
    eventually(lambda: descriptors(daemon) <= before)


def test_many_processes_worth_of_participants(client: blocking.Allocator, daemon: Sysmemd) -> None:
    """Twenty connections, each a participant of its own."""

    def participate(fd: int) -> bytes:
        with blocking.connect(daemon.runtime_dir) as mine:
            token = blocking.BufferCollectionToken.from_fd(fd)
            with mine.bind_shared_collection(token) as collection:
                collection.set_constraints(
                    sysmem.BufferCollectionConstraints(
                        usage=sysmem.BufferUsage(cpu=READ_WRITE), min_buffer_count_for_camping=1
                    )
                )
                with collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
                    assert info.buffers is not None
                    assert len(info.buffers) == 20
                    with vmo_of(info, 19).map() as view:
                        seen = bytes(view[:1])
                collection.release()
                return seen

    with client.allocate_shared_collection() as root:
        tokens = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 20)
        with client.bind_shared_collection(root) as collection, ThreadPoolExecutor(20) as threads:
            futures = [threads.submit(participate, token.detach()) for token in tokens]
            collection.set_constraints(
                sysmem.BufferCollectionConstraints(
                    usage=sysmem.BufferUsage(none=1),
                    buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=1),
                )
            )
            assert {future.result(ENOUGH) for future in futures} == {b"\0"}


def test_any_node_can_be_passed_on(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as root:
        group = root.create_buffer_collection_token_group()
        group = blocking.BufferCollectionTokenGroup.from_fd(group.detach())
        (child,) = group.create_children_sync([sysmem.Rights.SAME_RIGHTS])
        group.all_children_present()
        with group, client.bind_shared_collection(child) as one:
            two = client.bind_shared_collection(root)
            two.set_constraints(buffers())
            one.set_constraints(buffers())
            with blocking.BufferCollection.from_fd(two.detach()) as again:
                again.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
                again.sync()
