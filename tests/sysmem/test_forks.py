"""A channel or event belongs to the process that created it. Memory is inherited."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

import sysmem
from sysmem import blocking
from sysmem.pytest_plugin import Daemon
from sysmem_protocol import sysmem2 as m
from sysmem_protocol.handles import eventpair

# Some of these tests need threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
Ends = tuple[int, Any]


def fork(work: Callable[[], object]) -> int:
    """Call a function in a forked child, which ends with status 0 unless it raises. Return the child's pid."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def status(child: int) -> int:
    """Wait for a child. Return its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextlib.contextmanager
def staying_child() -> Iterator[None]:
    """A forked child that does nothing until the with-block ends."""
    ours, theirs = socket.socketpair()

    def stay() -> None:
        ours.close()
        theirs.send(b"!")
        theirs.recv(1)

    with ours:
        child = fork(stay)
        theirs.close()
        ours.recv(1)
        yield
    assert status(child) == 0


NODES = [
    blocking.BufferCollectionToken,
    blocking.BufferCollection,
    blocking.Allocator,
    sysmem.BufferCollectionToken,
]


@pytest.mark.parametrize("kind", NODES)
def test_a_node_in_the_child_is_closed_and_says_what_to_do(ends: Ends, kind: Any) -> None:
    fd, peer = ends

    def use() -> None:
        assert node.closed
        node.close()
        for call in (node.fileno, node.detach, lambda: node.server_koid):
            with pytest.raises(
                sysmem.HandleClosedError,
                match=r"a fork .*: detach\(\) it before the fork, .* from_fd",
            ):
                call()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)

    with kind.from_fd(fd) as node:
        assert status(fork(use)) == 0
        assert not node.closed
        os.fstat(node.fileno())
        assert not peer.readable(0)
    assert peer.channel.hung_up()


@pytest.mark.parametrize(
    "call", ["sync", "release", "set_verbose_logging", "wait_closed", "duplicate"]
)
def test_no_call_of_the_child_reaches_the_daemon(ends: Ends, call: str) -> None:
    fd, peer = ends

    def use() -> None:
        with pytest.raises(sysmem.HandleClosedError, match="fork"):
            getattr(token, call)()
        with pytest.raises(sysmem.HandleClosedError, match="fork"):
            anyio.run(getattr(other, call))

    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        blocking.BufferCollectionToken.from_fd(fd) as token,
        sysmem.BufferCollectionToken.from_fd(near.detach()) as other,
        far,
    ):
        assert status(fork(use)) == 0
        assert not peer.readable(0)
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(1)
        peer.echo(1)
        token.sync()


def test_a_child_that_unwinds_leaves_the_parents_nodes_alone(ends: Ends) -> None:
    fd, peer = ends
    child = None
    with contextlib.suppress(sysmem.HandleClosedError):
        with blocking.BufferCollection.from_fd(fd) as collection:
            try:
                child = os.fork()
                if child == 0:
                    raise ZeroDivisionError
                assert status(child) == 0
                assert not peer.readable(0)
            finally:
                collection.release()
        assert peer.receive().ordinal == m.Node.release.ordinal
    if child == 0:
        os._exit(0)


@pytest.mark.parametrize("kind", [blocking.EventPair, sysmem.AsyncEventPair])
def test_an_event_in_the_child_is_closed_too(kind: Any) -> None:
    near, far = eventpair()

    def use() -> None:
        assert pair.closed
        pair.close()
        for call in (pair.is_closed, pair.fileno, pair.detach):
            with pytest.raises(sysmem.HandleClosedError, match=r"fork.*from_fd"):
                call()

    with kind.from_fd(near.take()) as pair, far, staying_child():
        assert not pair.is_closed()
        poll = select.poll()
        poll.register(far.fileno(), select.POLLRDHUP)
        assert not poll.poll(0)
        pair.close()
        assert poll.poll(0)
    near, far = eventpair()
    with kind.from_fd(near.take()) as pair, far:
        assert status(fork(use)) == 0
        assert not pair.is_closed()


def test_nobody_seems_alive_through_a_child(ends: Ends) -> None:
    fd, peer = ends
    with blocking.BufferCollectionToken.from_fd(fd) as token, staying_child():
        token.close()
        assert peer.channel.hung_up()


def test_waiting_threads_of_the_parent_notice_nothing(ends: Ends, until_asleep: Any) -> None:
    fd, peer = ends
    near, far = eventpair()
    with (
        blocking.BufferCollectionToken.from_fd(fd) as token,
        far,
        blocking.EventPair(near.take()) as pair,
    ):
        results: list[bool] = []

        def call() -> None:
            token.sync()
            results.append(True)

        def closing() -> None:
            token.close()
            pair.close()

        threads = [
            threading.Thread(target=call),
            threading.Thread(target=call),
            threading.Thread(target=lambda: results.append(pair.wait_closed(20))),
        ]
        for thread in threads:
            thread.start()
        requests = [peer.receive(), peer.receive()]
        until_asleep(*threads)
        assert status(fork(closing)) == 0
        for request in requests:
            peer.send(request)
        far.close()
        for thread in threads:
            thread.join()
        assert results == [True] * 3


def test_a_fork_in_the_middle_of_a_call_ends_it_in_the_child(ends: Ends, until_asleep: Any) -> None:
    fd, peer = ends
    children: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: children.append(os.fork()))
    main = threading.get_ident()

    def interrupt() -> None:
        request = peer.receive()
        until_asleep(threading.main_thread())
        signal.pthread_kill(main, signal.SIGUSR1)
        while not children:
            until_asleep(threading.main_thread())
        peer.send(request)

    with blocking.BufferCollectionToken.from_fd(fd) as token:
        peer.run(interrupt)
        try:
            token.sync()
        except sysmem.HandleClosedError:
            os._exit(0 if children == [0] else 1)
        finally:
            signal.signal(signal.SIGUSR1, before)
        if children == [0]:
            os._exit(2)
    peer.join()
    assert status(children[0]) == 0


def test_ends_that_another_thread_is_making_are_closed_too(
    sysmemd: Daemon, allocator: blocking.Allocator
) -> None:
    stop = threading.Event()

    def make() -> None:
        with blocking.connect(sysmemd.runtime_dir) as own:
            while not stop.is_set():
                with own.allocate_shared_collection() as token:
                    for made in token.duplicate_sync([1, 1], timeout=20):
                        made.close()

    def sockets() -> set[str]:
        found = set()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.add(os.readlink(f"/proc/self/fd/{name}"))
        return {target for target in found - before if target.startswith("socket:")}

    def look() -> None:
        assert not sockets()

    before: set[str] = set()
    allocator.close()
    before = sockets()
    thread = threading.Thread(target=make)
    thread.start()
    try:
        for _ in range(50):
            assert status(fork(look)) == 0
    finally:
        stop.set()
        thread.join()


def test_memory_is_inherited() -> None:
    with sysmem.Vmo(os.memfd_create("vmo", os.MFD_CLOEXEC)) as vmo:
        os.truncate(vmo.fileno(), 4096)

        def use() -> None:
            view[0] = 1
            with vmo.map() as mine:
                mine[1] = 2

        with vmo.map() as view:
            assert status(fork(use)) == 0
            assert bytes(view[:2]) == b"\1\2"


CAMERA = """if True:
    import multiprocessing, os, signal, sys, time
    import sysmem
    from sysmem import blocking

    def work():
        time.sleep(600)

    token = blocking.BufferCollectionToken.from_fd(int(sys.argv[2]))
    with blocking.connect(sys.argv[1]) as allocator:
        camera = allocator.bind_shared_collection(token)
        camera.sync()
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        print(child.pid, flush=True)
        time.sleep(600)
"""


def test_the_others_notice_a_killed_camera_that_had_forked(
    sysmemd: Daemon, allocator: blocking.Allocator
) -> None:
    with allocator.allocate_shared_collection() as token:
        given = token.duplicate()
        token.sync(timeout=20)
        fd = given.detach()
        camera = subprocess.Popen(
            [sys.executable, "-c", CAMERA, sysmemd.runtime_dir, str(fd)],
            pass_fds=[fd],
            stdout=subprocess.PIPE,
        )
        os.close(fd)
        with camera, allocator.bind_shared_collection(token) as collection:
            assert camera.stdout is not None
            child = int(camera.stdout.readline())
            try:
                assert not collection.wait_closed(0)
                camera.kill()
                assert collection.wait_closed(20)
            finally:
                os.kill(child, signal.SIGKILL)
