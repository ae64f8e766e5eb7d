"""Which exceptions are raised when, and what remains usable afterwards (`docs/spec/client-api.md`)."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sysmem
from sysmem import Error, PeerClosedError, SysmemError, blocking
from sysmem.testing import Sysmemd

from .scenario import ENOUGH, begin_wait, buffers, eventually, participants, pool, vmo_of


def raises(error: Error) -> Any:
    return pytest.raises(SysmemError, check=lambda raised: raised.error is error)


def test_errors_carry_the_protocols_member(client: blocking.Allocator) -> None:
    with participants(client, 1) as (gate, (collection,)):
        with raises(Error.PENDING):
            collection.check_all_buffers_allocated()
        collection.set_constraints(buffers())
        with raises(Error.PENDING):
            collection.check_all_buffers_allocated()
        gate.release()
        collection.wait_for_all_buffers_allocated().close()
        collection.check_all_buffers_allocated()


def test_a_timeout_leaves_the_channel_usable(client: blocking.Allocator) -> None:
    with participants(client, 1) as (gate, (collection,)):
        collection.set_constraints(buffers())
        for timeout in (0, 0.01, 0):
            with pytest.raises(TimeoutError):
                collection.wait_for_all_buffers_allocated(timeout=timeout)
        collection.sync()
        gate.release()
        with collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
            assert info.buffers is not None
            assert len(info.buffers) == 1
        collection.sync()


def test_what_a_late_answer_brings_is_closed(client: blocking.Allocator) -> None:
    # The fixture of these tests counts descriptors. So does the lifetime tracking of a buffer.
    with participants(client, 1) as (gate, (collection,)):
        collection.set_constraints(buffers())
        with pytest.raises(TimeoutError):
            collection.wait_for_all_buffers_allocated(timeout=0)
        lifetime = collection.attach_lifetime_tracking()
        gate.release()
        collection.sync()
        collection.release()
        with lifetime:
            assert lifetime.wait_closed(timeout=ENOUGH)


def test_a_timeout_is_not_reached_by_an_answer_in_time(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection(timeout=ENOUGH) as collection:
        collection.sync(timeout=ENOUGH)
        collection.set_name(1, "x", timeout=ENOUGH)
        collection.set_constraints(buffers(), timeout=ENOUGH)
        collection.wait_for_all_buffers_allocated(timeout=ENOUGH).close()


def test_wait_closed_tells_true_from_false(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token:
        other = token.duplicate()
        token.sync()
        assert token.wait_closed(timeout=0) is False
        assert token.wait_closed(0.01) is False
        token.sync()
        other.close()
        assert token.wait_closed(timeout=ENOUGH) is True
        assert token.wait_closed() is True
        assert token.wait_closed(timeout=0) is True


NODE_CALLS: list[tuple[str, Callable[[blocking.BufferCollectionToken], Any]]] = [
    ("sync", lambda token: token.sync()),
    ("release", lambda token: token.release()),
    ("set_name", lambda token: token.set_name(1, "n")),
    ("set_debug_client_info", lambda token: token.set_debug_client_info("n")),
    ("set_debug_timeout_log_deadline", lambda token: token.set_debug_timeout_log_deadline(1)),
    ("set_verbose_logging", lambda token: token.set_verbose_logging()),
    ("get_node_ref", lambda token: token.get_node_ref()),
    ("get_buffer_collection_id", lambda token: token.get_buffer_collection_id()),
    ("set_weak", lambda token: token.set_weak()),
    ("set_weak_ok", lambda token: token.set_weak_ok()),
    ("attach_node_tracking", lambda token: token.attach_node_tracking()),
    ("duplicate", lambda token: token.duplicate()),
    ("duplicate_sync", lambda token: token.duplicate_sync([4])),
    ("set_dispensable", lambda token: token.set_dispensable()),
    ("create_group", lambda token: token.create_buffer_collection_token_group()),
]


@pytest.mark.parametrize("call", [c for _, c in NODE_CALLS], ids=[n for n, _ in NODE_CALLS])
def test_every_call_on_a_closed_channel_is_peer_closed(
    client: blocking.Allocator, call: Callable[[blocking.BufferCollectionToken], Any]
) -> None:
    with client.allocate_shared_collection() as token:
        other = token.duplicate()
        token.sync()
        other.close()
        assert token.wait_closed(timeout=ENOUGH)
        with pytest.raises(PeerClosedError):
            call(token)


@pytest.mark.parametrize("call", [c for _, c in NODE_CALLS], ids=[n for n, _ in NODE_CALLS])
def test_every_call_on_an_end_closed_by_us_is_an_error_at_once(
    client: blocking.Allocator, call: Callable[[blocking.BufferCollectionToken], Any]
) -> None:
    token = client.allocate_shared_collection()
    token.close()
    token.close()
    with pytest.raises(sysmem.HandleClosedError):
        call(token)


def test_a_pending_call_is_peer_closed_when_the_server_closes(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token:
        other = token.duplicate()
        token.sync()
        with client.bind_shared_collection(token) as collection:
            collection.set_constraints(buffers())
            pending = begin_wait(collection)
            closing = pool.submit(collection.wait_closed, timeout=ENOUGH)
            other.close()
            with pytest.raises(PeerClosedError):
                pending.result(ENOUGH)
            assert closing.result(ENOUGH) is True
            with pytest.raises(PeerClosedError):
                collection.wait_for_all_buffers_allocated()
            with pytest.raises(PeerClosedError):
                collection.attach_token()
            with pytest.raises(PeerClosedError):
                collection.attach_lifetime_tracking()
            with pytest.raises(PeerClosedError):
                collection.set_constraints()


def test_a_lone_participant_refused_at_once_sees_peer_closed(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(buffers(0))
        assert collection.wait_closed(timeout=ENOUGH)
        with pytest.raises(PeerClosedError):
            collection.wait_for_all_buffers_allocated(timeout=ENOUGH)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda c: c.wait_for_all_buffers_allocated(timeout=ENOUGH),
        lambda c: (c.set_constraints(buffers(0)), c.set_constraints(buffers())),
    ],
    ids=["wait before constraints", "constraints twice"],
)
def test_a_broken_rule_closes_the_node(
    client: blocking.Allocator, misuse: Callable[[blocking.BufferCollection], Any]
) -> None:
    with participants(client, 2) as (gate, (bad, other)):
        with_misuse: list[BaseException] = []
        try:
            misuse(bad)
        except PeerClosedError as error:
            with_misuse.append(error)
        for node in (bad, other, gate):
            assert node.wait_closed(timeout=ENOUGH)


def test_a_consumed_token_is_closed_and_may_be_closed_again(client: blocking.Allocator) -> None:
    token = client.allocate_shared_collection()
    with client.bind_shared_collection(token) as collection:
        collection.sync()
        token.close()
        token.close()
        collection.sync()
        with pytest.raises(sysmem.HandleClosedError):
            token.sync(timeout=ENOUGH)
        with pytest.raises(sysmem.HandleClosedError):
            client.bind_shared_collection(token)
        with pytest.raises(sysmem.HandleClosedError):
            token.fileno()
        collection.sync()


def test_a_released_node_is_closed(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token:
        child = token.duplicate()
        token.sync()
        child.release()
        child.close()
        with pytest.raises(sysmem.HandleClosedError):
            child.sync(timeout=ENOUGH)
        token.sync()


def test_a_detached_node_lives_on(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token:
        child = token.duplicate()
        token.sync()
        fd = child.detach()
        child.close()
        with pytest.raises(sysmem.HandleClosedError):
            child.fileno()
        with blocking.BufferCollectionToken.from_fd(fd) as again:
            assert again.fileno() == fd
            again.sync()
            again.release()
        token.sync()


def test_closing_an_allocator_leaves_its_nodes(daemon: Sysmemd) -> None:
    with blocking.connect(daemon.runtime_dir) as allocator:
        token = allocator.allocate_shared_collection()
        token.sync()
    allocator.close()
    with token:
        token.sync()
        with pytest.raises(sysmem.HandleClosedError):
            allocator.allocate_shared_collection()


def test_a_daemon_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fuchsia.sysmem2.Allocator"
    with pytest.raises(sysmem.DaemonUnavailableError) as raised:
        blocking.connect(tmp_path)
    assert str(path) in str(raised.value)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
        stale.bind(str(path))
        stale.listen()
    with pytest.raises(sysmem.DaemonUnavailableError) as raised:
        blocking.connect(runtime_dir=tmp_path, name="x", id=1)
    assert str(path) in str(raised.value)
    with pytest.raises(ConnectionError):
        blocking.connect(tmp_path / "nowhere" / "at all")


def test_the_daemons_death_is_peer_closed_everywhere(
    sysmemd: Sysmemd, allocator: blocking.Allocator
) -> None:
    with (
        allocator.allocate_shared_collection() as token,
        allocator.allocate_non_shared_collection() as collection,
    ):
        token.sync()
        collection.set_constraints(buffers())
        info = collection.wait_for_all_buffers_allocated()
        tracking = collection.attach_node_tracking()
        collection.sync()
        sysmemd.faults.kill()
        for node in (token, collection):
            assert node.wait_closed(timeout=ENOUGH)
            with pytest.raises(PeerClosedError):
                node.sync()
        with pytest.raises(PeerClosedError):
            allocator.validate_buffer_collection_token(1)
        with pytest.raises(PeerClosedError):
            allocator.allocate_shared_collection()
        with tracking:
            assert tracking.wait_closed(timeout=ENOUGH)
        with info, vmo_of(info).map() as view:  # the memory stays
            view[0] = 1


def test_sigterm_is_peer_closed_and_a_second_daemon_takes_over(
    sysmemd: Sysmemd, allocator: blocking.Allocator
) -> None:
    with allocator.allocate_shared_collection() as token:
        token.sync()
        sysmemd.faults.stop()
        assert token.wait_closed(timeout=ENOUGH)
        with pytest.raises(PeerClosedError):
            token.duplicate()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
        stale.bind(str(sysmemd.runtime_dir / "fuchsia.sysmem2.Allocator"))
    sysmemd.faults.restart()
    with blocking.connect(sysmemd.runtime_dir) as again:
        again.validate_buffer_collection_token(1)


def drop(held: list[Any]) -> None:
    """Drop the only reference to an object."""
    with pytest.warns(ResourceWarning):
        held.clear()


def test_an_object_dropped_warns_and_closes_its_descriptor(
    client: blocking.Allocator, daemon: Sysmemd
) -> None:
    with client.allocate_shared_collection() as token:
        made: list[Callable[[], Any]] = [
            lambda: blocking.connect(daemon.runtime_dir),
            client.allocate_shared_collection,
            client.allocate_non_shared_collection,
            token.get_node_ref,
            token.attach_node_tracking,
        ]
        for make in made:
            held = [make()]
            fd = held[0].fileno()
            drop(held)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        token.sync()
        held = [token.create_buffer_collection_token_group()]
        held[0].sync()
        drop(held)
        assert token.wait_closed(timeout=ENOUGH)  # the effect is that of any close without Release


def test_buffers_dropped_warn_and_free(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(buffers())
        with collection.attach_lifetime_tracking() as lifetime:
            held = [collection.wait_for_all_buffers_allocated()]
            fd = vmo_of(held[0]).fileno()
            drop(held)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
            collection.release()
            assert lifetime.wait_closed(timeout=ENOUGH)


def test_vmo_info_dropped_warns(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(buffers())
        with collection.wait_for_all_buffers_allocated() as info:
            drop([client.get_vmo_info(vmo_of(info), need_weak=True)])


def test_what_was_closed_does_not_warn(client: blocking.Allocator) -> None:
    token = client.allocate_shared_collection()
    with client.bind_shared_collection(token) as collection:
        collection.set_constraints(buffers())
        info = collection.wait_for_all_buffers_allocated()
        info.close()
        child = collection.attach_token()
        os.close(child.detach())
    del token, collection, info, child
    gc.collect()  # warnings are errors here


def test_a_broken_rule_is_logged_with_who_broke_it(
    client: blocking.Allocator, daemon: Sysmemd
) -> None:
    with participants(client, 2) as (_, (bad, other)):
        bad.set_debug_client_info("the-culprit", 4711)
        bad.set_constraints(buffers())
        bad.set_constraints(buffers())
        assert other.wait_closed(timeout=ENOUGH)

    def told() -> bool:
        return any(
            "the-culprit" in line and "4711" in line and "SetConstraints" in line
            for line in daemon.log.splitlines()
        )

    eventually(told)


def until_full(send: Callable[[int], None]) -> int:
    """Send until a stopped daemon has no room left. Return the number of messages."""
    for number in range(1_000_000):
        try:
            send(number)
        except TimeoutError:
            return number
    raise AssertionError("there is always room")


def test_a_daemon_that_does_not_read_is_a_timeout_and_nothing_is_lost(
    sysmemd: Sysmemd, allocator: blocking.Allocator
) -> None:
    with (
        allocator.allocate_shared_collection() as token,
        allocator.allocate_shared_collection() as other,
    ):
        token.sync()
        other.sync()
        other_id = other.get_buffer_collection_id()
        sysmemd.faults.pause()
        try:
            with pytest.raises(TimeoutError):
                token.sync(timeout=0.05)
            sent = until_full(lambda n: token.set_name(n, f"name{n}", timeout=0.05))
            assert sent > 0
            for call in (
                lambda: token.duplicate(timeout=0),
                lambda: token.duplicate_sync([4], timeout=0.01),
                lambda: token.attach_node_tracking(timeout=0.01),
                lambda: token.create_buffer_collection_token_group(timeout=0),
                lambda: token.get_node_ref(timeout=0),
            ):
                with pytest.raises(TimeoutError):
                    call()
            until_full(lambda n: allocator.set_debug_client_info("again", n, timeout=0.05))
            with pytest.raises(TimeoutError):
                allocator.bind_shared_collection(other, timeout=0)
            with pytest.raises(TimeoutError):
                allocator.allocate_non_shared_collection(timeout=0.01)
        finally:
            sysmemd.faults.resume()
        # No message that timed out was sent, and no token was consumed, so everything continues.
        other.sync(timeout=ENOUGH)
        with allocator.bind_shared_collection(other) as bound:
            assert bound.get_buffer_collection_id(timeout=ENOUGH) == other_id
        with allocator.bind_shared_collection(token) as collection:
            collection.set_constraints(buffers())
            with collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
                shown = os.readlink(f"/proc/self/fd/{vmo_of(info).fileno()}")
                assert f"name{sent - 1}:0" in shown


def test_a_release_that_timed_out_can_be_sent_again(
    sysmemd: Sysmemd, allocator: blocking.Allocator
) -> None:
    with allocator.allocate_shared_collection() as token:
        child = token.duplicate()
        token.sync()
        sysmemd.faults.pause()
        try:
            until_full(lambda n: child.set_name(n, "x", timeout=0.05))
            with pytest.raises(TimeoutError):
                child.release(timeout=0.01)
        finally:
            sysmemd.faults.resume()
        child.release(timeout=ENOUGH)
        token.sync()
        assert token.wait_closed(timeout=0.05) is False
