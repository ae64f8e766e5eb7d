"""Closing clients' descriptors: threads do it, so that no descriptor can delay the loop."""

from __future__ import annotations

import errno
import heapq
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn
from unittest.mock import Mock

import pytest

from sysmem_protocol.handles import Handle, channel_pair, drop_unread
from sysmemd import closing
from sysmemd.closing import MAX_THREADS, PATIENCE_NS, ThreadClosing

from .recording import RecordingLog

PATIENCE = 120.0


class Clock:
    """A clock that makes its calls on demand."""

    def __init__(self) -> None:
        self.time = 0
        self.calls: list[tuple[int, Callable[[], None]]] = []

    def now(self) -> int:
        return self.time

    def call_at(self, deadline: int, callback: Callable[[], None]) -> Callable[[], None]:
        heapq.heappush(self.calls, (deadline, callback))
        return lambda: None

    def pass_patience(self) -> None:
        self.time += PATIENCE_NS
        due, self.calls = self.calls, []
        for deadline, callback in due:
            assert deadline <= self.time
            callback()


class Stuck:
    """Closes of certain descriptors that do not return until they are released."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.let_go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.fds: set[int] = set()
        close = os.close

        def slow(fd: int) -> None:
            if fd in self.fds:
                self.begun.release()
                assert self.let_go.wait(PATIENCE)
            close(fd)

        patch.setattr(os, "close", slow)

    def add(self, fd: int) -> int:
        self.fds.add(fd)
        return fd

    def wait_begun(self) -> None:
        assert self.begun.acquire(timeout=PATIENCE)


class Bench:
    """The closed descriptors, and the number of threads that close them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.log = RecordingLog()
        self.closing = ThreadClosing(self.clock, self.log)

    @property
    def threads(self) -> int:
        return self.closing._pool.threads

    def wait_for_threads(self, most: int) -> None:
        """Wait until there are no more threads than this."""
        changed = self.closing._pool._changed
        with changed:
            assert changed.wait_for(lambda: self.threads <= most, PATIENCE)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.closing.end()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> Iterator[Stuck]:
    made = Stuck(monkeypatch)
    yield made
    made.let_go.set()
    bench.closing.end()


def watched() -> tuple[int, socket.socket]:
    """Return a descriptor, and a socket that notices its close."""
    near, far = socket.socketpair()
    far.settimeout(PATIENCE)
    return near.detach(), far


def assert_closes(far: socket.socket) -> None:
    with far:
        assert far.recv(1) == b""


def none_left(*_: object) -> NoReturn:
    raise OSError(errno.EMFILE, "Too many open files")


def test_a_descriptor_that_was_received_is_closed_soon(bench: Bench) -> None:
    fd, far = watched()
    bench.closing.close(fd)
    assert_closes(far)
    assert bench.threads == 1


def test_one_that_takes_its_time_holds_up_nobody(bench: Bench, stuck: Stuck) -> None:
    fd, far = watched()
    bench.closing.close(stuck.add(os.dup(0)))
    stuck.wait_begun()
    bench.closing.close(fd)
    bench.clock.pass_patience()
    assert_closes(far)
    assert bench.threads == 2


def test_a_thread_that_gets_on_with_it_gets_no_help(bench: Bench) -> None:
    for _ in range(3):
        fd, far = watched()
        bench.closing.close(fd)
        assert_closes(far)
        bench.clock.pass_patience()
    assert bench.threads == 1
    assert bench.clock.calls == []


def test_there_are_so_many_threads_and_no_more(bench: Bench, stuck: Stuck) -> None:
    said = (
        "clients' descriptors are not being closed: all closing threads are blocked",
        {"threads": MAX_THREADS},
    )
    for times in (1, 2):
        for _ in range(MAX_THREADS):
            bench.closing.close(stuck.add(os.dup(0)))
            bench.clock.pass_patience()
            stuck.wait_begun()
        fd, far = watched()
        bench.closing.close(fd)
        bench.clock.pass_patience()
        assert bench.threads == MAX_THREADS
        bench.closing.close(os.dup(0))
        bench.clock.pass_patience()
        assert bench.log.said("error") == [said] * times
        stuck.let_go.set()
        assert_closes(far)
        bench.wait_for_threads(1)
        stuck.let_go.clear()


@pytest.mark.usefixtures("no_threads")
def test_without_threads_it_is_done_on_the_spot(bench: Bench) -> None:
    fd, far = watched()
    bench.closing.close(fd)
    far.setblocking(False)
    assert_closes(far)


def test_a_close_that_fails_is_no_reason_to_stop(bench: Bench) -> None:
    bench.closing.close(1 << 20)
    fd, far = watched()
    bench.closing.close(fd)
    assert_closes(far)


@pytest.mark.usefixtures("no_threads")
def test_a_close_that_fails_without_a_thread_is_told(bench: Bench) -> None:
    bench.closing.close(1 << 20)
    [(_, fields)] = bench.log.said("debug")
    assert "Bad file descriptor" in fields["reason"]


# --- channels ---


def test_a_channel_in_which_nothing_waits_is_closed_on_the_spot(bench: Bench) -> None:
    near, far = channel_pair()
    fd = near.detach()
    bench.closing.close_end(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert bench.threads == 0
    assert_closes(far)


def test_what_waits_in_a_channel_is_closed_in_a_thread(bench: Bench, stuck: Stuck) -> None:
    near, far = channel_pair()
    socket.send_fds(far, [b""], [0])
    bench.closing.close_end(stuck.add(near.detach()))
    stuck.wait_begun()
    assert_closes(far)  # its client does not have to wait


def test_nor_on_the_spot_where_nobody_can_tell_what_waits(
    bench: Bench, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "descriptors_waiting", none_left)
    near, far = channel_pair()
    bench.closing.close_end(stuck.add(near.detach()))
    stuck.wait_begun()
    assert_closes(far)


@contextmanager
def stopped_end(
    bench: Bench, kind: int = socket.SOCK_SEQPACKET
) -> Iterator[tuple[socket.socket, socket.socket, socket.socket]]:
    """An end that stops receiving while a descriptor waits at it, its other end, and what tells of a close."""
    fd, watcher = watched()
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    with near, far:
        socket.send_fds(far, [b"x"], [fd])
        os.close(fd)
        bench.closing.stop_receiving(near.fileno())
        yield near, far, watcher


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_what_waits_at_an_end_that_is_only_held_is_dropped(bench: Bench, kind: int) -> None:
    with stopped_end(bench, kind) as (near, far, watcher):
        assert_closes(watcher)
        with pytest.raises(BrokenPipeError):
            far.send(b"x")
        near.send(b"the last answer")
        assert far.recv(100) == b"the last answer"


def test_an_end_that_the_kernel_says_nothing_of_is_emptied_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = Mock(side_effect=OSError(errno.EIO, "the kernel does not report it"))
    monkeypatch.setattr(closing, "descriptors_waiting", unknown)
    fd, watcher = watched()
    near, far = channel_pair()
    with near, far:
        socket.send_fds(far, [b"x"], [fd])
        os.close(fd)
        bench.closing.stop_receiving(near.fileno())
        assert_closes(watcher)


def test_a_channel_of_which_the_kernel_tells_nothing_closes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "unread_of", none_left)
    ends = (*channel_pair(), *channel_pair())
    watchers = [socket.socket(fileno=os.dup(end.fileno())) for end in (ends[1], ends[3])]
    near, far = (socket.socket(fileno=end.detach()) for end in (ends[0], ends[2]))
    for end in (ends[1], ends[3]):
        end.close()
    for watcher in watchers:
        watcher.settimeout(PATIENCE)
    bench.closing.close_channel(near, Handle(far.detach()))
    for watcher in watchers:
        assert_closes(watcher)


@pytest.mark.parametrize("waits_at", ["this end", "the other end", None])
@pytest.mark.parametrize("both", [False, True])
def test_a_thread_closes_an_end_of_a_channel_only_if_a_descriptor_waits_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, waits_at: str | None, both: bool
) -> None:
    """The other end may belong to the daemon too."""
    close, here = os.close, dict[int, bool]()

    def note(fd: int) -> None:
        here[fd] = threading.current_thread() is threading.main_thread()
        close(fd)

    near, far = (socket.socket(fileno=end.detach()) for end in channel_pair())
    if waits_at:
        socket.send_fds(far if waits_at == "this end" else near, [b""], [0])
    expected = {near.fileno(): waits_at != "this end"}
    if both:
        expected[far.fileno()] = waits_at != "the other end"
    monkeypatch.setattr(os, "close", note)
    bench.closing.close_channel(near, Handle(far.detach()) if both else None)
    bench.closing.end()
    assert {fd: here[fd] for fd in expected} == expected
    if not both:
        far.close()


@pytest.mark.parametrize("hung_up", [False, True])
def test_a_channel_is_shut_down_unless_its_client_has_hung_up(bench: Bench, hung_up: bool) -> None:
    near, far = channel_pair()
    shut_down: list[int] = []

    class Noting(socket.socket):
        def shutdown(self, how: int) -> None:
            shut_down.append(how)

    with far:
        bench.closing.close_channel(Noting(fileno=near.detach()), None, hung_up=hung_up)
    assert shut_down == ([] if hung_up else [socket.SHUT_RDWR])


class Unconnected(socket.socket):
    """A socket that the kernel does not shut down."""

    def shutdown(self, how: int) -> NoReturn:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))


def test_a_channel_that_cannot_be_shut_down_closes(bench: Bench) -> None:
    near, far = channel_pair()
    with socket.socket(fileno=far.detach()) as watcher:
        watcher.settimeout(PATIENCE)
        bench.closing.close_channel(Unconnected(fileno=near.detach()), None)
        assert_closes(watcher)


def test_where_nothing_waits_no_thread_is_asked(bench: Bench) -> None:
    near, far = channel_pair()
    with near, far:
        far.send(b"no descriptors")
        bench.closing.stop_receiving(near.fileno())
        assert bench.threads == 0


@pytest.mark.parametrize("call", ["descriptors_waiting", "duplicate", "open_fdinfo"])
def test_an_end_is_not_closed_because_something_has_run_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The owner of the other end would interpret the close as the event."""
    monkeypatch.setattr(closing, call, none_left)
    near, far = socket.socketpair()
    with near, far:
        socket.send_fds(far, [b"x"], [0])
        with pytest.raises(OSError, match="Too many open files"):
            bench.closing.stop_receiving(near.fileno())
        bench.closing.end()
        with pytest.raises(BlockingIOError):
            far.recv(1, socket.MSG_DONTWAIT)


def test_an_end_is_emptied_although_no_descriptor_is_left_when_a_thread_comes_to_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may wait for the peer of one of the descriptors to close, and receive nothing before that."""
    jobs: list[Callable[[], object]] = []
    monkeypatch.setattr(bench.closing, "_run", lambda job, _: jobs.append(job))
    with stopped_end(bench) as (*_, watcher):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", none_left)
            [job] = jobs
            job()
        assert_closes(watcher)


def test_an_end_that_there_is_no_memory_to_empty_is_emptied_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    refused = iter((errno.ENOMEM, errno.ENOBUFS))

    def short(fd: int, fdinfo: int) -> None:
        if number := next(refused, 0):
            raise OSError(number, os.strerror(number))
        drop_unread(fd, fdinfo)

    monkeypatch.setattr(closing, "drop_unread", short)
    with stopped_end(bench) as (_, far, watcher):
        assert_closes(watcher)
        with pytest.raises(BlockingIOError):
            far.recv(1, socket.MSG_DONTWAIT)
    assert slept == [closing._AGAIN_SECONDS] * 2


def test_with_neither_memory_nor_threads_an_end_is_emptied_when_it_closes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for memory would keep all clients waiting."""
    short = Mock(side_effect=OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    with monkeypatch.context() as patch:
        patch.setattr(bench.closing._pool, "do", lambda _: False)
        patch.setattr(closing, "drop_unread", short)
        patch.setattr(time, "sleep", Mock(side_effect=AssertionError))
        fd, watcher = watched()
        near, far = channel_pair()
        socket.send_fds(far, [b"x"], [fd])
        os.close(fd)
        bench.closing.stop_receiving(near.fileno())
    with far:
        with pytest.raises(BlockingIOError):
            far.recv(1, socket.MSG_DONTWAIT)
        bench.closing.close_end(near.detach())
        assert_closes(watcher)


def test_an_end_that_can_not_be_emptied_ends(
    bench: Bench, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may contain the descriptor that keeps it open."""
    monkeypatch.setattr(closing, "drop_unread", none_left)
    near, far = channel_pair()
    with near:
        socket.send_fds(far, [b"x"], [0])
        bench.closing.stop_receiving(near.fileno())
        far.setblocking(True)
        assert_closes(far)
        bench.closing.close_end(stuck.add(near.detach()))
        stuck.wait_begun()  # in a thread


def test_the_end_waits_for_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch, stuck: Stuck, bench: Bench
) -> None:
    monkeypatch.setattr(closing, "_JOIN_SECONDS", 0.0)
    bench.closing.close(stuck.add(os.dup(0)))
    stuck.wait_begun()
    bench.closing.end()
    assert bench.threads == 1
