"""Every call of the blocking face, with a real daemon."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import sysmem
from sysmem import blocking
from sysmem.testing import Sysmemd

WAIT = 120.0
READ_WRITE = sysmem.BufferCollectionConstraints(
    usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ_OFTEN | sysmem.CpuUsage.WRITE_OFTEN),
    min_buffer_count_for_camping=2,
    buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=65536),
)
READ = sysmem.BufferCollectionConstraints(usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ))
ONE = sysmem.BufferCollectionConstraints(usage=READ.usage, min_buffer_count=1)


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    """Closes the objects of a test in reverse order."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def token(allocator: blocking.Allocator) -> Iterator[blocking.BufferCollectionToken]:
    """A root token."""
    with allocator.allocate_shared_collection() as made:
        yield made


@pytest.fixture
def buffers(
    allocator: blocking.Allocator, closing: ExitStack
) -> tuple[blocking.BufferCollection, sysmem.BufferCollectionInfo]:
    """A collection with one participant, and its buffers."""
    collection = closing.enter_context(allocator.allocate_non_shared_collection())
    collection.set_constraints(READ_WRITE)
    info = closing.enter_context(collection.wait_for_all_buffers_allocated(timeout=WAIT))
    return collection, info


def bound(
    closing: ExitStack,
    allocator: blocking.Allocator,
    *tokens: blocking.BufferCollectionToken,
) -> list[blocking.BufferCollection]:
    """A collection for each of the tokens. They are closed after the test."""
    return [closing.enter_context(allocator.bind_shared_collection(token)) for token in tokens]


# --- Allocator ------------------------------------------------------------------------------------------------------


def test_two_participants_share_memory(
    allocator: blocking.Allocator, token: blocking.BufferCollectionToken, closing: ExitStack
) -> None:
    other = token.duplicate(rights_attenuation_mask=sysmem.Rights.SAME_RIGHTS)
    token.sync(timeout=WAIT)
    infos = []
    for each, constraints in ((token, READ_WRITE), (other, READ)):
        collection = closing.enter_context(allocator.bind_shared_collection(each))
        assert each.closed
        each.close()
        collection.set_constraints(constraints)
        infos.append(collection)
    one, two = (
        closing.enter_context(c.wait_for_all_buffers_allocated(timeout=WAIT)) for c in infos
    )
    assert one.settings == two.settings
    assert (
        one.buffer_collection_id == two.buffer_collection_id == infos[0].get_buffer_collection_id()
    )
    assert len(one.buffers) == len(two.buffers) == 2
    assert one.buffers[0].vmo is not None
    assert two.buffers[0].vmo is not None
    assert (one.buffers[0].vmo.writable, two.buffers[0].vmo.writable) == (True, False)
    with one.buffers[1].map() as view, two.buffers[1].map() as same:
        view[:5] = b"hello"
        assert bytes(same[:5]) == b"hello"
    for collection in infos:
        collection.release()


def test_a_bound_token_is_unknown_and_binding_it_again_closes_the_collection(
    allocator: blocking.Allocator, token: blocking.BufferCollectionToken, closing: ExitStack
) -> None:
    token.sync(timeout=WAIT)
    koid = token.server_koid
    assert koid
    assert allocator.validate_buffer_collection_token(koid, timeout=WAIT) is True
    again = blocking.BufferCollectionToken.from_fd(os.dup(token.fileno()))
    first = closing.enter_context(allocator.bind_shared_collection(token))
    first.sync(timeout=WAIT)
    assert allocator.validate_buffer_collection_token(koid, timeout=WAIT) is False
    second = closing.enter_context(allocator.bind_shared_collection(again))
    assert second.wait_closed(WAIT)
    first.sync(timeout=WAIT)


def test_who_we_are_is_said(sysmemd: Sysmemd, allocator: blocking.Allocator) -> None:
    allocator.set_debug_client_info("the camera", 4711)
    with allocator.allocate_shared_collection() as token:
        token.set_debug_client_info("the lens", id=4712)
        token.set_verbose_logging()
        token.set_debug_timeout_log_deadline(time.monotonic_ns())
        token.sync(timeout=WAIT)
        sysmemd.wait_for_log("the lens")


def test_vmo_info(
    allocator: blocking.Allocator,
    buffers: tuple[blocking.BufferCollection, sysmem.BufferCollectionInfo],
    closing: ExitStack,
) -> None:
    _, info = buffers
    vmo = info.buffers[1].vmo
    assert vmo is not None
    assert allocator.get_vmo_info(vmo, timeout=WAIT) == sysmem.VmoInfo(
        buffer_collection_id=info.buffer_collection_id, buffer_index=1
    )
    full = closing.enter_context(
        allocator.get_vmo_info(
            vmo.fileno(),
            need_weak=True,
            need_single_buffer_settings=True,
            constraints_to_check=READ_WRITE,
            vmo_settings_to_check=info.buffers[0].vmo,
            vmo_settings_to_check_ignore_size=True,
            timeout=WAIT,
        )
    )
    assert full.single_buffer_settings == info.settings
    assert (full.constraints_ok, full.vmo_settings_match) == (True, True)
    assert isinstance(full.weak_vmo, sysmem.Vmo)
    assert isinstance(full.close_weak_asap, sysmem.EventPair)
    assert not full.close_weak_asap.is_closed()
    with (
        sysmem.Vmo(os.memfd_create("foreign")) as foreign,
        pytest.raises(sysmem.SysmemError) as caught,
    ):
        allocator.get_vmo_info(foreign)
    assert caught.value.error is sysmem.Error.NOT_FOUND
    assert not vmo.closed


# --- every node -----------------------------------------------------------------------------------------------------


def test_names_and_ids(
    buffers: tuple[blocking.BufferCollection, sysmem.BufferCollectionInfo],
    allocator: blocking.Allocator,
) -> None:
    assert buffers[0].get_buffer_collection_id() == buffers[1].buffer_collection_id
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_name(priority=1, name="frames")
        collection.set_constraints(READ_WRITE)
        with collection.wait_for_all_buffers_allocated(timeout=WAIT) as info:
            vmo = info.buffers[0].vmo
            assert vmo is not None
            assert "frames:0" in os.readlink(f"/proc/self/fd/{vmo.fileno()}")


def test_alternatives(token: blocking.BufferCollectionToken, closing: ExitStack) -> None:
    group = closing.enter_context(token.create_buffer_collection_token_group())
    child = closing.enter_context(group.create_child())
    other, third = group.create_children_sync(
        [sysmem.Rights.SAME_RIGHTS, 0xFFFF_FFFF], timeout=WAIT
    )
    closing.push(other)
    closing.push(third)
    group.all_children_present()
    child.sync(timeout=WAIT)
    with child.get_node_ref(timeout=WAIT) as ref:
        assert isinstance(ref, sysmem.NodeRef)
        assert other.is_alternate_for(ref, timeout=WAIT) is True
        assert third.is_alternate_for(ref.fileno()) is True
        assert token.is_alternate_for(ref) is False
    with (
        sysmem.NodeRef(os.eventfd(0)) as foreign,
        pytest.raises(sysmem.SysmemError, match="NOT_FOUND"),
    ):
        other.is_alternate_for(foreign)


def test_node_tracking(token: blocking.BufferCollectionToken) -> None:
    token.sync(timeout=WAIT)
    with token.duplicate() as child, token.attach_node_tracking() as event:
        token.sync(timeout=WAIT)
        assert event.wait_closed(0) is False
        child.close()
        assert token.wait_closed(WAIT)
        assert event.wait_closed(WAIT)


def test_a_node_that_is_closed_fails_and_one_that_is_released_does_not(
    allocator: blocking.Allocator, token: blocking.BufferCollectionToken, closing: ExitStack
) -> None:
    first, second, third = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 3, timeout=WAIT)
    closing.push(third)
    closing.push(second)
    first.release()
    assert first.closed
    second.sync(timeout=WAIT)
    second.close()
    assert third.wait_closed(WAIT)
    with pytest.raises(sysmem.PeerClosedError):
        third.set_name(1, "too late")
    with pytest.raises(sysmem.PeerClosedError):
        token.sync()


# --- BufferCollection -----------------------------------------------------------------------------------------------


def test_check_and_wait_again(allocator: blocking.Allocator, closing: ExitStack) -> None:
    with allocator.allocate_non_shared_collection() as collection:
        with pytest.raises(sysmem.SysmemError) as caught:
            collection.check_all_buffers_allocated(timeout=WAIT)
        assert caught.value.error is sysmem.Error.PENDING
        collection.set_constraints(READ_WRITE)
        for _ in range(2):
            with collection.wait_for_all_buffers_allocated(timeout=WAIT) as info:
                assert len(info.buffers) == 2
        collection.check_all_buffers_allocated()


def test_an_empty_intersection_is_an_error_and_then_peer_closed(
    allocator: blocking.Allocator, token: blocking.BufferCollectionToken, closing: ExitStack
) -> None:
    other = token.duplicate()
    one, two = bound(closing, allocator, token, other)
    one.set_constraints(READ_WRITE)
    errors: list[object] = []

    def wait() -> None:
        try:
            one.wait_for_all_buffers_allocated(timeout=WAIT)
        except sysmem.SysmemError as error:
            errors.append(error.error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    one.sync(timeout=WAIT)  # answered while the wait is pending
    two.set_constraints(
        sysmem.BufferCollectionConstraints(
            usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ),
            buffer_memory_constraints=sysmem.BufferMemoryConstraints(max_size_bytes=4096),
        )
    )
    waiting.join()
    assert errors == [sysmem.Error.CONSTRAINTS_INTERSECTION_EMPTY]
    assert two.wait_closed(WAIT)
    with pytest.raises(sysmem.PeerClosedError):
        two.wait_for_all_buffers_allocated()


def test_must_match_vmo(
    allocator: blocking.Allocator,
    buffers: tuple[blocking.BufferCollection, sysmem.BufferCollectionInfo],
) -> None:
    vmo = buffers[1].buffers[0].vmo
    assert vmo is not None
    for given in (vmo, vmo.fileno()):
        with allocator.allocate_non_shared_collection() as collection:
            collection.set_constraints(ONE, must_match_vmo=given)
            with collection.wait_for_all_buffers_allocated(timeout=WAIT) as info:
                assert info.settings == buffers[1].settings


def test_an_attached_participant(
    allocator: blocking.Allocator,
    buffers: tuple[blocking.BufferCollection, sysmem.BufferCollectionInfo],
    closing: ExitStack,
) -> None:
    late = buffers[0].attach_token(sysmem.Rights.READ | sysmem.Rights.MAP)
    buffers[0].sync(timeout=WAIT)
    collection = closing.enter_context(allocator.bind_shared_collection(late))
    collection.set_constraints(READ)
    info = closing.enter_context(collection.wait_for_all_buffers_allocated(timeout=WAIT))
    assert info.buffer_collection_id == buffers[1].buffer_collection_id
    assert info.buffers[0].vmo is not None
    assert not info.buffers[0].vmo.writable


def test_lifetime_tracking(allocator: blocking.Allocator) -> None:
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_constraints(READ_WRITE)
        with (
            collection.attach_lifetime_tracking() as all_gone,
            collection.attach_lifetime_tracking(buffers_remaining=1) as one_left,
        ):
            with collection.wait_for_all_buffers_allocated(timeout=WAIT) as info:
                collection.release()
                info.buffers[0].close()
                assert one_left.wait_closed(WAIT)
                with info.buffers[1].map() as view:
                    info.buffers[1].close()
                    assert all_gone.wait_closed(0.01) is False
                    view[0] = 1
            assert all_gone.wait_closed(WAIT)


# --- weak -----------------------------------------------------------------------------------------------------------


def test_a_weak_participant_is_told_when_to_let_go(
    allocator: blocking.Allocator, token: blocking.BufferCollectionToken, closing: ExitStack
) -> None:
    other = token.duplicate()
    other.set_weak()
    other.set_weak_ok()
    strong, weak = bound(closing, allocator, token, other)
    for collection in (strong, weak):
        collection.set_constraints(READ_WRITE)
    mine = closing.enter_context(strong.wait_for_all_buffers_allocated(timeout=WAIT))
    theirs = closing.enter_context(weak.wait_for_all_buffers_allocated(timeout=WAIT))
    assert mine.buffers[0].close_weak_asap is None
    event = theirs.buffers[0].close_weak_asap
    assert isinstance(event, blocking.EventPair)
    assert not event.is_closed()
    strong.release()
    mine.close()
    assert event.wait_closed(WAIT) is True
    theirs.close()


def test_weak_ok_for_children(
    allocator: blocking.Allocator, token: blocking.BufferCollectionToken, closing: ExitStack
) -> None:
    token.set_weak_ok(for_child_nodes_also=True)
    child = token.duplicate()
    child.set_weak()
    strong, weak = bound(closing, allocator, token, child)
    for collection in (strong, weak):
        collection.set_constraints(READ_WRITE)
    closing.enter_context(weak.wait_for_all_buffers_allocated(timeout=WAIT))


# --- other processes ------------------------------------------------------------------------------------------------

CHILD = """
import os, sys
import sysmem
from sysmem import blocking

with blocking.connect(sys.argv[1]) as allocator:
    token = blocking.BufferCollectionToken.from_fd(int(sys.argv[2]))
    with allocator.bind_shared_collection(token) as collection:
        collection.set_constraints(sysmem.BufferCollectionConstraints(
            usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.WRITE),
            buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=100000)))
        with collection.wait_for_all_buffers_allocated(timeout=20) as info:
            with info.buffers[0].map() as view:
                view[:4] = b"ping"
        collection.release()
"""


def test_a_token_for_another_program(
    sysmemd: Sysmemd, allocator: blocking.Allocator, token: blocking.BufferCollectionToken
) -> None:
    other = token.duplicate()
    token.sync(timeout=WAIT)
    fd = other.detach()
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD, sysmemd.runtime_dir, str(fd)], pass_fds=[fd]
    )
    os.close(fd)
    with allocator.bind_shared_collection(token) as collection:
        collection.set_constraints(READ_WRITE)
        with collection.wait_for_all_buffers_allocated(timeout=WAIT) as info:
            assert child.wait(WAIT) == 0
            with info.buffers[0].map() as view:
                assert len(view) >= 100000
                assert bytes(view[:4]) == b"ping"
        collection.release()


def test_a_token_sent_over_a_socket_to_a_fork(
    sysmemd: Sysmemd, token: blocking.BufferCollectionToken
) -> None:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _, ancillary, _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(4))
            fd = array.array("i", ancillary[0][2])[0]
            with blocking.BufferCollectionToken.from_fd(fd) as received:
                received.set_name(1, "from the child")
                received.sync(timeout=WAIT)
                received.release()
            status = 0
        finally:
            os._exit(status)
    with ours, theirs, token.duplicate() as other:
        token.sync(timeout=WAIT)
        fd = other.detach()
        socket.send_fds(ours, [b"x"], [fd])
        os.close(fd)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    token.sync(timeout=WAIT)  # the child released its node, so it did not fail


def test_the_daemon_s_end_is_seen_by_all(sysmemd: Sysmemd, allocator: blocking.Allocator) -> None:
    with allocator.allocate_shared_collection() as token:
        token.sync(timeout=WAIT)
        sysmemd.process.terminate()
        assert token.wait_closed(WAIT)
        with pytest.raises(sysmem.PeerClosedError):
            token.sync()
        assert sysmemd.process.wait(WAIT) == 0
        with pytest.raises(sysmem.DaemonUnavailableError):
            blocking.connect(sysmemd.runtime_dir)


def test_which_locks_of_a_vmo_a_program_may_use(
    buffers: tuple[blocking.BufferCollection, sysmem.BufferCollectionInfo],
) -> None:
    collection, info = buffers
    with collection.wait_for_all_buffers_allocated(timeout=WAIT) as other:
        one, two = info.buffers[0].vmo, other.buffers[0].vmo
        assert one is not None
        assert two is not None
        fcntl.flock(one.fileno(), fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(two.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(one.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        with pytest.raises(BlockingIOError):  # it would wait for ever
            fcntl.lockf(one.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    for said in ("fcntl.flock", "2**62", "waits forever"):
        assert said in str(sysmem.Vmo.fileno.__doc__)
