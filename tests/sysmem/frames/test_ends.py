"""The ends of a stream: how they close, whom that wakes, and who owns what."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import pytest

from sysmem.blocking import frames
from sysmem.blocking.frames import EndOfStreamError, FrameReceiver, FrameSender
from sysmem_protocol.handles import Handle
from sysmem_protocol.owner import HandleClosedError

from .conftest import WAIT, Ends, drain, send, send_all


def test_a_consumer_that_closes_gives_all_back_at_once(ends: Ends) -> None:
    sender, receiver = ends
    send_all(sender)
    held = receiver.receive(timeout=WAIT)
    assert repr(receiver) == "<FrameReceiver open, 1 frames>"
    receiver.close()
    receiver.close()
    assert repr(receiver) == "<FrameReceiver closed, 1 frames>"
    held.release()
    statistics = receiver.statistics()
    assert (statistics.held, statistics.released) == (0, 0)
    assert sorted(sender.acquire(timeout=0) for _ in range(4)) == [0, 1, 2, 3]
    [consumer] = sender.statistics().consumers
    assert consumer.gone == "it closed its end, or died"
    assert (consumer.held, consumer.delivered, sender.consumers) == (0, 4, 0)
    for call in (receiver.receive, receiver.fileno):
        with pytest.raises(HandleClosedError):
            call()


def test_a_consumer_that_does_not_receive_any_more_is_gone() -> None:
    near, far = frames.pair()
    with far, FrameSender(1, near) as sender:
        far.shutdown(socket.SHUT_RD)
        send(sender)
        assert sender.acquire(timeout=WAIT) == 0
        [consumer] = sender.statistics().consumers
        assert (consumer.gone, consumer.delivered) == ("it closed its end, or died", 0)


def test_a_closed_stream_ends_with_the_producer_s_reason_after_its_frames(ends: Ends) -> None:
    sender, receiver = ends
    send(sender), send(sender)
    sender.close("the camera was unplugged")
    sender.close()
    assert sender.consumers == 0
    assert repr(sender) == "<FrameSender closed, 2 frames>"
    got = list(receiver)
    for frame in got:
        frame.release()
    assert [frame.sequence for frame in got] == [0, 1]
    for _ in range(2):
        with pytest.raises(EndOfStreamError, match=r"^the camera was unplugged$") as caught:
            receiver.receive()
        assert caught.value.reason == "the camera was unplugged"
        assert caught.value.closed
    assert receiver.statistics().ended == "the camera was unplugged"
    assert repr(receiver) == "<FrameReceiver ended, the camera was unplugged, 2 frames>"
    near, far = frames.pair()
    with near, far:
        of_buffer = [partial(method, 0) for method in (sender.send, sender.cancel)]
        for call in (
            sender.acquire,
            sender.fileno,
            sender.process,
            *of_buffer,
            partial(sender.add, near),
        ):
            with pytest.raises(HandleClosedError):
                call()
        assert near.fileno() != -1


def test_what_waits_for_a_consumer_reaches_it_when_the_stream_is_closed() -> None:
    near, far = frames.pair()
    with FrameReceiver(far) as receiver:
        with FrameSender(3, near, hold=1) as sender:
            for _ in range(3):
                send(sender)
        got = list(receiver)
        assert [frame.sequence for frame in got] == [0, 1, 2]
        for frame in got:
            frame.release()


def test_a_producer_that_fails_says_so(ends: Ends) -> None:
    sender, receiver = ends
    with pytest.raises(ZeroDivisionError), sender:
        raise ZeroDivisionError
    with pytest.raises(EndOfStreamError, match="the producer failed: ZeroDivisionError") as caught:
        next(iter(receiver))
    assert not caught.value.closed


def test_a_producer_that_vanishes_ends_the_stream_with_a_reason(ends: Ends) -> None:
    sender, receiver = ends
    send(sender)
    sender.abandon()
    with receiver.receive(timeout=WAIT):
        with pytest.raises(EndOfStreamError, match="the producer died, or left") as caught:
            list(receiver)
        assert not caught.value.closed
        assert receiver.statistics().held == 0


def test_a_consumer_that_leaves_while_frames_wait_for_it_is_told_also_of_a_closed_stream() -> None:
    near, far = frames.pair()
    sender, receiver = FrameSender(3, near, hold=1), FrameReceiver(far)
    for _ in range(2):
        send(sender)
    receiver.receive(timeout=WAIT).release()
    receiver.close()
    sender.close()
    [consumer] = sender.statistics().consumers
    assert (consumer.gone, consumer.waiting) == ("it closed its end, or died", 0)


class Waiting:
    """Threads that wait, and their outcomes."""

    def __init__(self, until_asleep: Callable[..., None], *calls: Callable[[], object]) -> None:
        self.results: list[object] = []
        self._threads = [threading.Thread(target=self._wait, args=[call]) for call in calls]
        for thread in self._threads:
            thread.start()
        until_asleep(*self._threads)

    def _wait(self, call: Callable[[], object]) -> None:
        try:
            self.results.append(call())
        except (HandleClosedError, EndOfStreamError) as error:
            self.results.append(type(error))

    def join(self) -> list[object]:
        for thread in self._threads:
            thread.join()
        return self.results


def test_closing_wakes_all_who_wait(ends: Ends, until_asleep: Callable[..., None]) -> None:
    sender, receiver = ends
    for _ in range(4):
        sender.acquire()
    for end, call in ((receiver, receiver.receive), (sender, sender.acquire)):
        waiting = Waiting(until_asleep, *[call] * 3)
        end.close()
        assert waiting.join() == [HandleClosedError] * 3


def test_the_end_of_the_stream_wakes_all_who_wait(
    ends: Ends, until_asleep: Callable[..., None]
) -> None:
    near, far = frames.pair()
    with near, FrameReceiver(far) as receiver:
        waiting = Waiting(until_asleep, *[receiver.receive] * 3)
        near.send(b"?")  # after this the socket stays open and silent
        assert waiting.join() == [EndOfStreamError] * 3


def test_all_buffers_of_a_consumer_that_leaves_go_to_those_who_wait(
    ends: Ends, until_asleep: Callable[..., None]
) -> None:
    sender, receiver = ends
    send_all(sender)
    waiting = Waiting(until_asleep, *[sender.acquire] * 4)
    receiver.close()
    assert sorted(map(str, waiting.join())) == ["0", "1", "2", "3"]


def test_a_buffer_that_another_thread_gives_back_or_sends_goes_to_who_waits(
    until_asleep: Callable[..., None],
) -> None:
    with FrameSender(1) as sender:
        for give in (sender.cancel, sender.send):
            index = sender.acquire()
            waiting = Waiting(until_asleep, sender.acquire)
            give(index)
            assert waiting.join() == [index]
            sender.cancel(index)


def test_a_signal_handler_may_close_what_the_thread_waits_for(ends: Ends) -> None:
    _, receiver = ends

    def handler(*_: object) -> None:
        receiver.close()

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(HandleClosedError):
            receiver.receive()
    finally:
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_frame_has_one_owner(ends: Ends, duplicate: Callable[[object], object]) -> None:
    sender, receiver = ends
    send(sender)
    with (
        receiver.receive(timeout=WAIT) as frame,
        pytest.raises(TypeError, match="Frame owns a buffer until it is released, so it can't be"),
    ):
        duplicate(frame)


def test_an_end_that_is_dropped_closes_and_warns(ends: Ends) -> None:
    near, far = frames.pair()
    with pytest.warns(ResourceWarning, match="FrameSender .* was dropped without close"):
        FrameSender(1, near)
    with pytest.warns(ResourceWarning, match="FrameReceiver .* was dropped without close"):
        FrameReceiver(far)


def test_a_frame_that_is_dropped_is_released_and_warns(ends: Ends) -> None:
    sender, receiver = ends
    send(sender)
    with pytest.warns(ResourceWarning, match="<Frame 0 in buffer 0.*> was dropped without release"):
        receiver.receive(timeout=WAIT)
    assert receiver.statistics().released == 1
    frames.Frame.__new__(frames.Frame)  # one that was never made has nothing to release
    for _ in range(4):
        sender.acquire(timeout=0)


@pytest.mark.parametrize("waits", [False, True])
def test_a_child_of_a_fork_keeps_no_stream_alive(
    ends: Ends, waits: bool, until_asleep: Callable[..., None]
) -> None:
    sender, receiver = ends
    descriptors = sender.fileno(), receiver.fileno()

    def until_the_end() -> None:
        with suppress(EndOfStreamError):
            drain(receiver)

    waiting = threading.Thread(target=until_the_end)
    if waits:
        waiting.start()
        until_asleep(waiting)
    far, near = os.pipe()
    locked, forked = threading.Event(), threading.Event()

    def hold_the_lock() -> None:
        with receiver._lock:
            locked.set()
            forked.wait()

    holding = threading.Thread(target=hold_the_lock)
    holding.start()
    locked.wait()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert sender.closed
            with pytest.raises(HandleClosedError, match="is a fork: make it after the fork"):
                receiver.receive()
            for fd in descriptors:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(fd)
            os.write(near, b"x")
            status = 0
            signal.pause()
        finally:
            os._exit(status)
    os.close(near)
    forked.set()
    holding.join()
    try:
        assert os.read(far, 1) == b"x"
        sender.abandon()
        with pytest.raises(EndOfStreamError, match="the producer died"):
            receiver.receive(timeout=WAIT)
        if waits:
            waiting.join()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(far)


def test_a_descriptor_that_the_program_has_closed_by_its_number_is_told(ends: Ends) -> None:
    _, receiver = ends
    os.close(receiver.fileno())
    with pytest.raises(HandleClosedError, match="but not by this end of a stream"):
        receiver.receive(timeout=0)


@pytest.mark.parametrize("kind", ["stream", "unconnected", "file", "closed", "text", "flag"])
def test_an_end_must_be_a_connected_seqpacket_socket(kind: str) -> None:
    with ExitStack() as stack:
        one, other = (stack.enter_context(each) for each in socket.socketpair())
        unconnected = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        file = stack.enter_context(open(os.devnull))
        given, error, reason = {
            "stream": (one, ValueError, "this is a connected AF_UNIX SOCK_STREAM socket"),
            "unconnected": (unconnected, ValueError, "this is an unconnected AF_UNIX SOCK_SEQ"),
            "file": (file.fileno(), ValueError, "this is a character device"),
            "closed": (10**6, ValueError, "descriptor 1000000 is not open"),
            "text": ("sock", TypeError, "expected a socket or an int, not str"),
            "flag": (True, TypeError, "expected a socket or an int, not bool"),
        }[kind]
        with pytest.raises(error, match=reason):
            FrameReceiver(given)  # type: ignore[arg-type]  # what is refused
        with pytest.raises(error, match=reason):
            FrameSender(1, given)  # type: ignore[arg-type]  # what is refused
        assert other.fileno() >= 0


def test_an_end_is_taken_over_from_a_socket_a_handle_or_a_number() -> None:
    for wrap in (lambda s: s, lambda s: Handle(s.detach()), lambda s: s.detach()):
        near, far = frames.pair()
        with FrameSender(1, wrap(near)), FrameReceiver(wrap(far)):
            assert near.fileno() == far.fileno() == -1


def test_an_end_is_closed_if_adding_it_is_interrupted() -> None:
    class Interrupted(list[Any]):
        def append(self, _: object) -> None:
            raise KeyboardInterrupt

    near, far = frames.pair()
    with far, FrameSender(1) as sender:
        sender._all_peers = Interrupted()
        with pytest.raises(KeyboardInterrupt):
            sender.add(near)
        assert far.recv(1, socket.MSG_DONTWAIT) == b""


@pytest.mark.parametrize("count", [0, 129])
def test_a_collection_has_1_to_128_buffers(count: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 128 buffers, not {count}"):
        FrameSender(count)
    FrameSender(128).close()
