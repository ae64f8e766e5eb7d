"""`docs/spec/linux.md`: koids, clients that do not read, how a channel ends, and a shortage of descriptors."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..users import as_root, as_user
from .process import Daemon
from .protocol import constraints, header
from .raw import PATIENCE, PeerClosed, Wire, assert_close, until

# Koids


def test_getpeername_of_every_node_ends_in_its_koid(wire: Wire) -> None:
    allocator, root = wire.root()
    group = root.group()
    child = group.child()
    child.sync()
    (other,) = root.duplicate_sync([0x80000000])
    collection = allocator.bind(other)
    attached = collection.attach()
    attached.sync()
    koids = [node.koid() for node in (root, group, child, collection, attached)]
    assert len(set(koids)) == 5
    assert all(0 < koid < 1 << 64 for koid in koids)
    name = bytes(root.socket.getpeername())
    assert name.startswith(b"\0sysmem/")
    assert name.rsplit(b"/", 1)[1] == str(root.koid()).encode()


def test_koids_are_never_reused(wire: Wire) -> None:
    allocator = wire.connect()
    seen = set()
    for _ in range(100):
        root = allocator.shared()
        root.sync()
        assert root.koid() not in seen
        seen.add(root.koid())
        root.close()


# Clients that never read


def test_a_client_that_never_reads_delays_no_other_client(wire: Wire) -> None:
    allocator, other = wire.connect(), wire.connect()
    roots = [allocator.shared() for _ in range(5)]
    for root in roots:
        for txid in range(1, 800):
            root.send("Node.Sync", txid=txid)
    other.sync()
    for root in roots:
        assert [root.receive().txid for _ in range(799)] == list(range(1, 800))


def test_answers_with_descriptors_that_nobody_reads_do_not_pile_up_in_the_daemon(
    wire: Wire, daemon: Daemon
) -> None:
    """1,000 responses of 128 VMOs each: no limit of descriptors allows that many."""
    allocator, other = wire.connect(), wire.connect()
    collection = allocator.non_shared()
    collection.allocate(camping=128).close()
    with contextlib.suppress(PeerClosed):
        for _ in range(1000):
            collection.request_wait()
        allocator.sync()
    other.sync()
    assert len(daemon.descriptors()) < len(daemon.baseline) + 1000
    own = other.non_shared()
    own.allocate()


#: The daemon as another user and with few descriptors. It imports its modules before, where only root may read.
AS_NOBODY = """
import os, resource, sys
import sysmemd.__main__
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
os.setgroups([]), os.setgid(65534), os.setuid(65534)
sys.exit(sysmemd.__main__.main(sys.argv[4:]))
"""


@pytest.fixture
def as_nobody(start: Callable[..., Daemon]) -> Iterator[Daemon]:
    """A daemon to which the kernel's limit applies."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)
        mask = os.umask(0)  # it reports on a socket of the test that it is ready
        try:
            daemon = start(
                "--mode", "0666", directory=directory, prefix=[sys.executable, "-c", AS_NOBODY]
            )
        finally:
            os.umask(mask)
        daemon.runtime_dir.chmod(0o711)
        yield daemon
        daemon.assert_nothing_leaked()
        daemon.stop()


@as_root
def test_descriptors_that_one_client_does_not_receive_keep_no_other_from_theirs(
    as_nobody: Daemon,
) -> None:
    """The kernel refuses more descriptors in flight than one process may have open: 4,096, and 5,120 were requested."""
    with Wire(as_nobody.runtime_dir) as stopped, Wire(as_nobody.runtime_dir) as wire:
        collection = stopped.connect().non_shared()
        collection.set_constraints(constraints(camping=128))
        calls = [collection.request_wait() for _ in range(40)]
        told = as_nobody.wait_log(lambda event: event.get("limit") == "in_flight")
        assert (told["user"], told["level"], told["channel"]) == (0, "warning", "BufferCollection")
        assert told["in_flight"] <= told["value"] / 2

        for uid in (0, 4711):
            with as_user(uid):
                allocator = wire.connect()
            tokens = allocator.shared().duplicate_sync([0x80000000] * 64)
            assert len(tokens) == 64
            other = allocator.non_shared()
            other.set_constraints(constraints(camping=64))
            for _ in range(3):
                assert len(other.wait().buffers) == 64

        for call in calls:
            info = collection.wait_answer(call)
            assert len(info.buffers) == 128
            info.close()
        collection.wait().close()
    said = [str(event) for event in as_nobody.log()]
    assert not [line for line in said if "broke the protocol" in line or "can't be" in line]


@as_root
def test_descriptors_stay_in_flight_when_the_daemon_closes_the_channel(as_nobody: Daemon) -> None:
    """For the kernel they stay in flight, as long as the client keeps its end and does not receive them."""
    with Wire(as_nobody.runtime_dir) as stopped, Wire(as_nobody.runtime_dir) as wire:
        allocator = stopped.connect()
        ends = []
        for _ in range(40):
            collection = allocator.non_shared()
            collection.set_constraints(constraints(camping=100))
            collection.request_wait()
            collection.send_bytes(b"garbage")  # its node fails: the daemon closes its end
            ends.append(collection)
        allocator.sync()
        other = wire.connect().non_shared()
        other.set_constraints(constraints(camping=64))
        for _ in range(3):
            assert len(other.wait().buffers) == 64


# How a channel ended


def test_release_then_close_with_unread_answers_is_a_release(wire: Wire) -> None:
    """The kernel reports ECONNRESET first. The Release is still queued behind it."""
    root = wire.connect().shared()
    for count in (1, 2, 50):
        for _ in range(20):
            child = root.duplicate_token()
            for _ in range(count):
                child.request("Node.Sync")
            # the responses have arrived, and are never read
            select.select([child], [], [], PATIENCE)
            child.release_and_close()
    root.sync()


def test_messages_then_close_with_unread_answers_are_processed(wire: Wire) -> None:
    allocator, root = wire.root()
    child = root.duplicate_token()
    child.request("Node.Sync")
    select.select([child], [], [], PATIENCE)
    child.set_name(9, "late but true")
    grandchild = child.duplicate_token()
    child.release_and_close()
    grandchild.sync()
    grandchild.release_and_close()
    collection = allocator.bind(root)
    assert "late but true:0" in collection.allocate().vmo().target()


def test_release_then_shutdown_is_a_release(wire: Wire) -> None:
    root = wire.connect().shared()
    child = root.duplicate_token()
    child.release()
    child.socket.shutdown(socket.SHUT_WR)
    child.assert_closes()
    child.close()
    root.sync()


def test_shutdown_after_constraints_without_release_fails_the_node(wire: Wire) -> None:
    allocator, root, child = wire.root_and_child()
    collection = allocator.bind(child)
    collection.set_constraints(constraints())
    collection.socket.shutdown(socket.SHUT_WR)
    assert_close(root, collection)


def test_a_connection_that_says_nothing_costs_nothing_but_itself(wire: Wire) -> None:
    silent = [wire.connect() for _ in range(50)]
    wire.connect().sync()
    for one in silent:
        one.close()


def test_a_stream_client_is_refused_by_the_kernel(wire: Wire) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream,
        pytest.raises(OSError, match="wrong type"),
    ):
        stream.connect(os.fspath(wire.path))


# Descriptors in flight, and a shortage of them


def test_descriptors_in_flight_to_a_client_that_never_takes_them(wire: Wire) -> None:
    """Whether ETOOMANYREFS occurs or not, a client that reads is served."""
    allocator = wire.connect()
    hoarders = []
    for _ in range(8):
        collection = allocator.non_shared()
        collection.set_constraints(constraints(camping=128))
        for _ in range(4):
            collection.request_wait()
        hoarders.append(collection)
    allocator.sync()
    for collection in hoarders:
        with contextlib.suppress(PeerClosed):
            collection.receive()


@pytest.fixture
def starved(start: Callable[..., Daemon]) -> Daemon:
    """A daemon that may have few descriptors."""
    return start(prefix=["prlimit", "--nofile=64:64", "--"])


def test_short_of_descriptors_an_allocation_is_no_memory(starved: Daemon) -> None:
    with Wire(starved.runtime_dir) as wire:
        allocator, one, other = wire.two()
        wait = one.request_with(constraints(camping=120))
        other.set_constraints(constraints())
        assert one.answer(wait).body == {2: 5}
        one.assert_closes()
        again = allocator.non_shared()
        again.allocate(camping=4)


def test_short_of_descriptors_a_user_gets_no_more_connections_than_half(starved: Daemon) -> None:
    """A further connection is closed at once. When others are closed, there is room again."""
    with Wire(starved.runtime_dir) as wire:
        many = [wire.connect() for _ in range(100)]
        served = []
        for one in many:
            with contextlib.suppress(PeerClosed):
                one.sync()
                served.append(one)
        assert 10 <= len(served) <= 32
        for one in served[5:]:
            one.close()
        for _ in until():
            with contextlib.suppress(PeerClosed):
                wire.allocated()
                break
    starved.assert_log_is_sound()


def test_short_of_descriptors_requests_fail_and_the_daemon_does_not(starved: Daemon) -> None:
    with Wire(starved.runtime_dir) as wire:
        allocator = wire.connect()
        tokens = [allocator.shared()]
        with contextlib.suppress(PeerClosed):
            for _ in range(100):
                tokens.append(allocator.shared())
                tokens[-1].sync()
        assert len(tokens) > 5
        with contextlib.suppress(PeerClosed):
            tokens[0].duplicate_sync([0x80000000] * 64)
        starved.observer.sync()
        for token in tokens:
            token.close()
        allocator.close()
        for _ in until():
            starved.observer.sync()
            if len(starved.descriptors()) == len(starved.baseline):
                break
        wire.connect().shared().sync()


def test_a_message_with_more_descriptors_than_the_daemon_has_room_for(starved: Daemon) -> None:
    """The kernel drops descriptors that do not fit, and reports truncated control data."""
    with Wire(starved.runtime_dir) as wire:
        root = wire.connect().shared()
        mine, theirs = wire.eventpair()
        root.send_bytes(header(0, 0x5CDE8914608D99B1) + b"\xa1\x01\x61n", [theirs] * 200)
        theirs.close()
        root.assert_closes()
        mine.wait_closed()
        wire.connect().sync()


def test_the_soft_limit_is_raised_to_the_hard_one(start: Callable[..., Daemon]) -> None:
    daemon = start(prefix=["prlimit", "--nofile=100:500", "--"])
    limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3:5] == ["500", "500"]


def test_descriptors_of_the_daemon_are_close_on_exec(wire: Wire, daemon: Daemon) -> None:
    _, info = wire.allocated()
    checked = 0
    for fd in daemon.descriptors():
        if fd > 2:
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                text = Path(f"/proc/{daemon.pid}/fdinfo/{fd}").read_text()
                flags = int(text.split("flags:")[1].split()[0], 8)
                assert flags & os.O_CLOEXEC, fd
                checked += 1
    assert checked >= 5
    for descriptor in info.message.descriptors:
        assert not os.get_inheritable(descriptor.fileno())
