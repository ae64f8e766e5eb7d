"""A fake daemon for tests: the other end of a socketpair, in a thread if it must answer during a call."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

import sysmem
from sysmem import blocking
from sysmem_protocol.channel import Channel
from sysmem_protocol.codec import encode_response
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Method, Table
from sysmem_protocol.message import Message, parse
from sysmem_protocol.sysmem2 import Error

VMO_BYTES = 8192


class Peer:
    """A server end that does what the test says."""

    def __init__(self, fd: int) -> None:
        self.channel = Channel(fd)
        self._threads: list[threading.Thread] = []

    def receive(self) -> Message:
        """Return the next message. Waits for it."""
        while (arrived := self.channel.receive()) is None:
            select.select([self.channel], [], [])
        return parse(*arrived)

    def readable(self, timeout: float) -> bool:
        """Return whether a message arrives within a time."""
        return bool(select.select([self.channel], [], [], timeout)[0])

    def send(self, message: Message) -> None:
        """Send a message and close its descriptors."""
        for data, handles in message.datagrams():
            while not self.channel.send(data, handles):
                select.select([], [self.channel], [])
        message.close()

    def answer(self, request: Message, method: Method, answer: Table | Error | None = None) -> None:
        """Answer a request, and close the descriptors of the answer."""
        assert request.ordinal == method.ordinal
        body, handles = encode_response(method, answer)
        self.send(Message(request.txid, request.ordinal, body, handles))

    def run(self, play: Callable[[], None]) -> None:
        """Play a role in a thread, which ends before the test does."""
        thread = threading.Thread(target=play)
        thread.start()
        self._threads.append(thread)

    def echo(self, count: int) -> None:
        """Answer this many calls without a payload, such as Sync, in a thread."""

        def play() -> None:
            for _ in range(count):
                self.send(self.receive())

        self.run(play)

    def join(self) -> None:
        """Wait until all roles have ended."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """Close the server end."""
        self.channel.close()


@pytest.fixture
def until_asleep() -> Callable[..., None]:
    """Waits until each of the threads sleeps in the kernel or has ended."""

    def wait(*threads: threading.Thread) -> None:
        for thread in threads:
            path = f"/proc/self/task/{thread.native_id}/stat"
            while thread.is_alive():
                with contextlib.suppress(FileNotFoundError), open(path) as stat:
                    if stat.read().rpartition(")")[2].split()[0] == "S":
                        break
                time.sleep(0.001)  # the kernel does not report that a thread falls asleep

    return wait


@pytest.fixture
def ends() -> Iterator[tuple[int, Peer]]:
    """A client end's descriptor, which the test owns, and the peer."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer = Peer(far.detach())
    yield near.detach(), peer
    peer.join()
    peer.close()


@pytest.fixture
def token(ends: tuple[int, Peer]) -> Iterator[blocking.BufferCollectionToken]:
    """A token at whose other end is the peer."""
    with blocking.BufferCollectionToken.from_fd(ends[0]) as made:
        yield made


class Witness:
    """A descriptor to send. It tells whether anybody still has it."""

    def __init__(self) -> None:
        self._end, given = socket.socketpair()
        self.handle = Handle(given.detach())

    def gone(self, timeout: float = 10) -> bool:
        """Return whether all its descriptors are closed within a time."""
        poll = select.poll()
        poll.register(self._end, select.POLLRDHUP)
        return bool(poll.poll(timeout * 1000))

    def close(self) -> None:
        """Close the remaining descriptors."""
        self.handle.close()
        self._end.close()


@pytest.fixture
def witness() -> Iterator[Witness]:
    """A witness to send."""
    with closing(Witness()) as made:
        yield made


@pytest.fixture
def make_witness() -> Iterator[Callable[[], Witness]]:
    """A function that creates witnesses."""
    with ExitStack() as stack:

        def make() -> Witness:
            return stack.enter_context(closing(Witness()))

        yield make


@pytest.fixture
def vmo() -> Iterator[sysmem.Vmo]:
    """The memory of a buffer, `VMO_BYTES` long."""
    made = sysmem.Vmo(os.memfd_create("vmo", os.MFD_CLOEXEC))
    os.truncate(made.fileno(), VMO_BYTES)
    with made:
        yield made
