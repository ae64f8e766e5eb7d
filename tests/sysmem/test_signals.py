"""What a signal's handler may do in the middle of any call, and what is dropped where warnings are errors."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import anyio
import pytest

import sysmem
from sysmem import blocking
from sysmem.pytest_plugin import Daemon
from sysmem_protocol import sysmem2 as m
from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.handles import channel_pair, eventpair
from sysmem_protocol.message import Message

from .interrupting import at_every_instruction

CALLS: dict[str, Callable[[Any], Any]] = {
    "sync": lambda token: token.sync(),
    "sync in time": lambda token: token.sync(timeout=20),
    "one-way": lambda token: token.set_verbose_logging(),
    "duplicate": lambda token: token.duplicate().close(),
    "wait_closed": lambda token: token.wait_closed(0.001),
}


def peer_of(kind: Any, *, answered: bool = True) -> tuple[Any, Channel]:
    """A node, and the other end of its channel; the answer to a sync waits already."""
    near, far = channel_pair()
    peer = Channel(far.detach())
    if answered:
        [(data, handles)] = Message(1, m.Node.sync.ordinal).datagrams()
        assert peer.send(data, handles)
    return kind.from_fd(near.detach()), peer


def drained(peer: Channel) -> list[int]:
    """The ordinals of what the peer got before the end, which must have come."""
    ordinals: list[int] = []
    while True:
        try:
            arrived = peer.receive()
        except PeerClosedError:
            return ordinals
        assert arrived is not None, "the channel isn't closed"
        data, handles = arrived
        ordinals.append(int.from_bytes(data[8:16], "little"))
        for handle in handles:
            handle.close()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("last", ["close", "release"])
def test_a_handler_closes_or_releases_in_the_middle_of_any_call(
    call: Callable[[Any], Any], last: str
) -> None:
    handled = 0
    token: Any = None

    def handler() -> None:
        with contextlib.suppress(sysmem.HandleClosedError):  # the call has closed it already
            getattr(token, last)()

    for at in at_every_instruction(handler):
        token, peer = peer_of(
            blocking.BufferCollectionToken, answered=call is not CALLS["wait_closed"]
        )
        with token, closing(peer):
            with contextlib.suppress(sysmem.HandleClosedError), at:
                call(token)
            handled += at.done
            token.close()
            released = m.Node.release.ordinal in drained(peer)
            assert released == (last == "release" and at.done)
    assert handled > 20


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_handler_closes_in_the_middle_of_any_call_of_a_task(backend: str) -> None:
    handled = 0
    token: Any = None

    def handler() -> None:
        token.close()

    async def call() -> None:
        with contextlib.suppress(sysmem.HandleClosedError), at:
            await token.sync()

    for at in at_every_instruction(handler):
        token, peer = peer_of(sysmem.BufferCollectionToken)
        with token, closing(peer):
            anyio.run(call, backend=backend)
            handled += at.done
            token.close()
            drained(peer)
    assert handled > 20


def test_a_handler_closes_an_event_that_is_waited_for() -> None:
    event: Any = None

    def handler() -> None:
        event.close()

    for at in at_every_instruction(handler):
        near, far = eventpair()
        event = blocking.EventPair.from_fd(near.take())
        with event, far:
            with contextlib.suppress(sysmem.HandleClosedError), at:
                event.wait_closed(0.001)
            assert event.closed == at.done


def test_another_thread_closes_while_a_handler_waits_for_it(ends: tuple[int, Any]) -> None:
    token = blocking.BufferCollectionToken.from_fd(ends[0])

    def close_and_wait() -> None:
        thread = threading.Thread(target=token.close)
        thread.start()
        thread.join()

    before = signal.signal(signal.SIGUSR1, lambda *_: close_and_wait())
    main = threading.get_ident()

    def interrupt() -> None:
        ends[1].receive()
        signal.pthread_kill(main, signal.SIGUSR1)

    ends[1].run(interrupt)
    try:
        with pytest.raises(sysmem.HandleClosedError):
            token.sync()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_would_wait_for_the_call_it_interrupted_is_told(
    ends: tuple[int, Any],
) -> None:
    fd, peer = ends
    told: list[str] = []

    def handler(*_: object) -> None:
        try:
            token.sync()
        except RuntimeError as error:
            told.append(str(error))

    before = signal.signal(signal.SIGUSR1, handler)
    main = threading.get_ident()

    def interrupt() -> None:
        request = peer.receive()
        signal.pthread_kill(main, signal.SIGUSR1)
        while not told:
            pass
        peer.send(request)

    try:
        with blocking.BufferCollectionToken.from_fd(fd) as token:
            peer.run(interrupt)
            token.sync()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert "a signal handler can't wait" in told[0]


ENDING = """if True:
    import os, signal, sys
    from sysmem import blocking

    with blocking.connect(sys.argv[1]) as allocator:
        token = allocator.allocate_shared_collection()
        signal.signal(signal.SIGTERM, lambda *_: (token.close(), os._exit(0)))
        print(flush=True)
        while True:
            token.sync()
"""


def test_a_program_ends_by_a_signal_in_a_loop_of_calls(sysmemd: Daemon) -> None:
    command = [sys.executable, "-c", ENDING, str(sysmemd.runtime_dir)]
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.terminate()
            assert process.wait(20) == 0


DROPPING = """if True:
    import gc, os, socket, sys
    import sysmem
    from sysmem import blocking

    def pair(kind):
        near, far = socket.socketpair(socket.AF_UNIX, kind)
        far.close()
        return near.detach()

    def memory():
        return sysmem.Vmo(os.memfd_create("vmo"))

    makes = [
        memory,
        lambda: sysmem.BufferCollectionInfo(buffers=[sysmem.VmoBuffer(vmo=memory())]),
        lambda: sysmem.VmoInfo(weak_vmo=memory()),
        lambda: sysmem.NodeRef(os.memfd_create("ref")),
        lambda: blocking.EventPair(pair(socket.SOCK_STREAM)),
        lambda: sysmem.AsyncEventPair(pair(socket.SOCK_STREAM)),
        lambda: blocking.BufferCollectionToken(pair(socket.SOCK_SEQPACKET)),
        lambda: sysmem.BufferCollectionToken(pair(socket.SOCK_SEQPACKET)),
        lambda: memory().duplicate(),
    ]
    for make in makes:
        before = os.listdir("/proc/self/fd")
        made = make()
        assert os.listdir("/proc/self/fd") != before
        cycle = [made]
        cycle.append(cycle)
        del made, cycle
        gc.collect()
        assert os.listdir("/proc/self/fd") == before, make()
    print(len(makes))
"""


def test_what_is_dropped_is_closed_where_warnings_are_errors() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", DROPPING], capture_output=True, text=True
    )
    assert done.stdout == "9\n", done.stderr
    assert done.stderr.count("ResourceWarning: <") >= 9
