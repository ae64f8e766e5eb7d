"""`docs/spec/protocol.md`: no message of a client delays another client."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .process import Daemon
from .protocol import SAME_RIGHTS, TOO_MANY_GROUP_CHILD_COMBINATIONS, constraints, only_sizes
from .raw import Allocator, Channel, Descriptor, Wire

#: From asm-generic/socket.h; Python has no name for it.
SO_PEEK_OFF = 42
#: The duration of a slow close: long enough for all else on a busy machine. Other clients must not notice it.
LINGER_SECONDS = 30
#: The number of such closes for which the daemon waits at the same time.
MOST_AT_A_TIME = 32
SIZE = 64 * 1024 * 1024

# Formats that RGB or YUV colour spaces support, each once.
_RGB = (1, 101, 108, 109, 110, 111, 112, 113, 114, 115, 116, 118, 119, 120)
_SIZES = [[side, 2000 - side] for side in range(100, 164)]


def _demanding() -> dict[int, Any]:
    entries = [{1: number, 2: 0, 3: [1], 4: [16, 16], 18: _SIZES} for number in _RGB]
    return constraints(camping=0, size=1, more={8: entries})


def test_a_negotiation_of_many_participants_delays_no_other_client(wire: Wire) -> None:
    allocator, other = wire.connect(), wire.connect()
    root = allocator.shared()
    tokens = [token for _ in range(4) for token in root.duplicate_sync([SAME_RIGHTS] * 64)]
    groups = [root.group() for _ in range(7)]
    children = [group.children_sync([SAME_RIGHTS] * 2) for group in groups]
    top = allocator.bind(root)
    wait = top.request_with(only_sizes(10, 20))
    for group in groups:
        group.all_children_present()
        group.sync()
    *rest, last = tokens + [child for pair in children[1:] for child in pair] + [children[0][1]]
    misfit = allocator.bind(children[0][0])
    misfit.set_constraints(only_sizes(100, 200))
    for token in rest:
        collection = allocator.bind(token)
        collection.set_constraints(_demanding())
        collection.sync()
    final = allocator.bind(last)
    final.sync()
    final.set_constraints(_demanding())
    meanwhile = 0
    while not readable(top):
        other.sync()
        meanwhile += 1
    assert top.answer(wait).body == {2: TOO_MANY_GROUP_CHILD_COMBINATIONS}
    # If an attempt delays other clients, one response may come before it begins, and one is delayed by it.
    assert meanwhile > 10


def test_eager_allocation_of_big_buffers_delays_no_other_client(
    start: Callable[..., Daemon], tmp_path: Path
) -> None:
    config = tmp_path / "eager.toml"
    config.write_text('[memory]\nallocation = "eager"\n')
    daemon = start("--config", str(config))
    with Wire(daemon.runtime_dir) as wire:
        other, collection = wire.connect(), wire.connect().non_shared()
        collection.set_constraints(constraints(camping=2, size=SIZE))
        wait = collection.request_wait()
        meanwhile = 0
        while not readable(collection):
            other.sync()
            meanwhile += 1
        collection.wait_answer(wait)
        # The pages of 128 MiB are allocated in 64 pieces.
        assert meanwhile > 10


@pytest.mark.untraced
def test_freeing_big_buffers_delays_no_other_client(wire: Wire) -> None:
    other, collection = wire.connect(), wire.connect().non_shared()
    # So large that a busy machine, too, has time for responses in between.
    info = collection.allocate(camping=2, size=4 * SIZE)
    event = collection.track_lifetime(0)
    for index in range(2):
        os.posix_fallocate(info.vmo(index).fileno(), 0, 4 * SIZE)
    info.close()
    collection.close()
    meanwhile = 0
    while not event.is_closed():
        other.sync()
        meanwhile += 1
    # If freeing a buffer delays other clients, one response comes before each of them, and one after them.
    assert meanwhile > 4


def lingering(wire: Wire) -> Descriptor:
    """Return the only descriptor of a TCP socket whose close waits for a peer that does not read."""
    listener = socket.create_server(("127.0.0.1", 0))
    sock = socket.create_connection(listener.getsockname())
    peer, _ = listener.accept()
    listener.close()
    wire.own(peer)
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(b"x" * 65536)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_SECONDS))
    return Descriptor(wire, sock.detach())


@contextlib.contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    """Stop a daemon, so that it is the last one to close what it is sent."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


def meanwhile(other: Allocator, end: Callable[[], None]) -> float:
    """Return the longest time that the end took, or that another client waited for a response after it."""
    longest = 0.0
    for step in (end, *[other.sync] * 50):
        before = time.monotonic()
        step()
        longest = max(longest, time.monotonic() - before)
    return longest


@pytest.mark.parametrize(
    "path", ["a handle", "under an unknown field", "unread in a channel", "unread in an event"]
)
def test_a_descriptor_that_takes_long_to_close_delays_no_other_client(
    daemon: Daemon, wire: Wire, path: str
) -> None:
    allocator, other = wire.connect(), wire.connect()
    slow = lingering(wire)
    if path == "a handle":

        def end() -> None:
            allocator.send("Allocator.GetVmoInfo", {1: slow}, txid=1)

    elif path == "under an unknown field":

        def end() -> None:
            allocator.send("Allocator.SetDebugClientInfo", {1: "x", 99: slow})

    elif path == "unread in a channel":
        token = allocator.shared()
        token.sync()
        token.release()

        def end() -> None:
            token.send_bytes(b"", [slow])

    else:
        near, far = socket.socketpair()
        socket.send_fds(near, [b"x"], [slow.fileno()])
        collection = allocator.non_shared()
        event = Descriptor(wire, far.detach())

        def end() -> None:
            collection.send("Node.AttachNodeTracking", {1: event})
            near.close()

    def send_and_forget() -> None:
        with stopped(daemon):
            end()
            slow.close()

    assert meanwhile(other, send_and_forget) < LINGER_SECONDS / 2


def server_end_of_token(wire: Wire) -> tuple[Channel, socket.socket]:
    """Return a new token, and another descriptor of its server end, which the daemon has."""
    allocator = wire.connect()
    client, server = wire.pair()
    kept = socket.socket(fileno=os.dup(server.fileno()))
    wire.own(kept)
    allocator.send("Allocator.AllocateSharedCollection", {1: server})
    allocator.sync()
    return Channel(wire, client), kept


def test_nor_does_one_that_a_look_into_the_channel_would_miss(daemon: Daemon, wire: Wire) -> None:
    other = wire.connect()
    token, server = server_end_of_token(wire)
    server.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 1_000_000)
    server.close()
    slow = lingering(wire)

    def end() -> None:
        with stopped(daemon):
            token.send_bytes(b"no message, and the last one that is read")
            token.send_bytes(b"*", [slow])
            token.close()
            slow.close()

    assert meanwhile(other, end) < LINGER_SECONDS / 2


def test_nor_does_one_for_which_credentials_leave_no_room(daemon: Daemon, wire: Wire) -> None:
    other = wire.connect()
    token, server = server_end_of_token(wire)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    slow, null = lingering(wire), wire.file()

    def end() -> None:
        with stopped(daemon):
            token.send_bytes(b"*", [*[null] * 252, slow])
            slow.close()

    assert meanwhile(other, end) < LINGER_SECONDS / 2


@pytest.mark.parametrize("locks", [1, 200])
def test_nor_does_one_that_locks_hide_in_an_event(daemon: Daemon, wire: Wire, locks: int) -> None:
    """The kernel lists the locks of an end before it reports how many descriptors wait there."""
    other = wire.connect()
    collection = other.non_shared()
    mine, server = wire.eventpair()
    for byte in range(locks):
        lock = struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 2 * byte, 1, 0)
        fcntl.fcntl(server.fileno(), fcntl.F_OFD_SETLK, lock)
    slow = lingering(wire)
    with socket.socket(fileno=os.dup(mine.fileno())) as end_of_mine:
        socket.send_fds(end_of_mine, [b"*"], [slow.fileno()])
    slow.close()
    collection.sync()
    before = len(daemon.descriptors())

    def end() -> None:
        with stopped(daemon):
            collection.send("Node.AttachNodeTracking", {1: server})
        collection.sync()
        while len(daemon.descriptors()) > before + 1:  # a client that examines it still has it
            collection.sync()
        mine.close()

    assert meanwhile(other, end) < LINGER_SECONDS / 2
    collection.sync()


def test_however_many_take_long_other_clients_lose_nothing(start: Callable[..., Daemon]) -> None:
    daemon = start()
    tasks = f"/proc/{daemon.pid}/task"
    before = len(os.listdir(tasks))
    with Wire(daemon.runtime_dir) as wire:
        hostile, other = wire.connect(), wire.connect()
        collection = other.non_shared()
        events = [collection.track_node(), collection.track_lifetime(0)]
        collection.allocate().close()
        with stopped(daemon):
            for _ in range(MOST_AT_A_TIME + 8):
                hostile.send("Allocator.SetDebugClientInfo", {1: "x", 99: lingering(wire)})
        while len(os.listdir(tasks)) < before + MOST_AT_A_TIME:
            hostile.sync()
        begun = time.monotonic()
        held = len(daemon.descriptors())
        collection.close()
        for event in events:
            event.wait_closed()
        for _ in range(50):
            bound = other.bind(other.shared())
            bound.sync()
            bound.close()
        other.sync()
        assert time.monotonic() < begun + LINGER_SECONDS / 2  # so they are still in progress
        assert len(daemon.descriptors()) < held + 25


def readable(channel: Channel) -> bool:
    """Return whether a response has arrived."""
    return bool(select.select([channel], [], [], 0)[0])
