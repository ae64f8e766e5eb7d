"""Both ends of a stream in one process: their guarantees, and protection from the other end."""

from __future__ import annotations

import copy
import os
import pickle
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import pytest

import sysmem
from sysmem import blocking
from sysmem.blocking import frames
from sysmem.blocking.frames import EndOfStreamError, FrameReceiver, FrameSender, Policy
from sysmem_protocol.handles import Handle
from sysmem_protocol.owner import HandleClosedError

WAIT = 120.0
Ends = tuple[FrameSender, FrameReceiver]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A producer with four buffers, and its consumer."""
    near, far = frames.pair()
    with FrameSender(4, near) as sender, FrameReceiver(far) as receiver:
        yield sender, receiver


def send(sender: FrameSender, **values: object) -> int:
    return sender.send(sender.acquire(timeout=WAIT), **values)  # type: ignore[arg-type]  # what a test gives


def send_all(sender: FrameSender) -> None:
    """Send a frame in each buffer of the producer of `ends`."""
    for _ in range(4):
        send(sender)


def drain(receiver: FrameReceiver) -> None:
    for each in receiver:
        each.release()


# --- frames ---------------------------------------------------------------------------------------------------------


def test_a_frame_arrives_as_it_was_sent(ends: Ends) -> None:
    sender, receiver = ends
    before = time.monotonic_ns()
    index = sender.acquire()
    assert sender.send(index, size=5, metadata={"exposure": 0.5}) == 0
    with receiver.receive(timeout=WAIT) as frame:
        assert (frame.index, frame.sequence, frame.size) == (index, 0, 5)
        assert frame.metadata == {"exposure": 0.5}
        assert before <= frame.timestamp <= time.monotonic_ns()
        assert repr(frame) == f"<Frame 0 in buffer {index}>"
    assert repr(frame) == f"<Frame 0 in buffer {index}, released>"
    send(sender, timestamp=7)
    with receiver.receive(timeout=WAIT) as frame:
        assert (frame.sequence, frame.timestamp, frame.size) == (1, 7, 0)
        assert frame.metadata is None


def test_a_buffer_comes_back_when_its_frame_is_released(ends: Ends) -> None:
    sender, receiver = ends
    send_all(sender)
    with pytest.raises(TimeoutError, match="the producer has 0, consumer 0 has 4 and waits for 0"):
        sender.acquire(timeout=0)
    first = receiver.receive(timeout=WAIT)
    first.release()
    first.release()
    assert sender.acquire(timeout=WAIT) == first.index
    with pytest.raises(TimeoutError):
        sender.acquire(timeout=0.01)


def test_acquire_waits_until_a_frame_is_released(
    ends: Ends, until_asleep: Callable[..., None]
) -> None:
    sender, receiver = ends
    began = time.monotonic()
    send_all(sender)
    acquired: list[int] = []
    thread = threading.Thread(target=lambda: acquired.append(sender.acquire(timeout=WAIT)))
    thread.start()
    until_asleep(thread)
    receiver.receive(timeout=WAIT).release()
    thread.join()
    assert acquired == [0]
    first = sender.statistics()
    assert first.waits == 1
    assert 0 < first.waited_seconds < time.monotonic() - began
    receiver.receive(timeout=WAIT).release()
    sender.acquire(timeout=WAIT)
    assert sender.statistics().waited_seconds == first.waited_seconds
    with pytest.raises(TimeoutError):
        sender.acquire(timeout=0)
    assert sender.statistics().waits == 2


def test_an_acquired_buffer_can_be_given_back(ends: Ends) -> None:
    sender, _ = ends
    index = sender.acquire()
    sender.cancel(index)
    assert sender.acquire() == index
    with pytest.raises(ValueError, match="buffer 3 isn't the producer's now"):
        sender.cancel(3)
    with pytest.raises(ValueError, match="buffer 3 isn't the producer's now"):
        sender.send(3)


def test_what_cannot_be_sent_leaves_the_buffer_the_producer_s(ends: Ends) -> None:
    sender, receiver = ends
    index = sender.acquire()
    with pytest.raises(TypeError, match="metadata"):
        sender.send(index, metadata=object())
    with pytest.raises(ValueError, match="64 bits"):
        sender.send(index, size=-1)
    assert sender.send(index) == 0
    receiver.receive(timeout=WAIT).release()


def test_each_consumer_gets_each_frame_and_may_come_late() -> None:
    with ExitStack() as stack:
        sender = stack.enter_context(FrameSender(3))
        send(sender)
        receivers = []
        for name in ("encoder", "display"):
            near, far = frames.pair()
            sender.add(near, name=name)
            receivers.append(stack.enter_context(FrameReceiver(far)))
        assert sender.consumers == 2
        send(sender)
        for receiver in receivers:
            with receiver.receive(timeout=WAIT) as frame:
                assert frame.sequence == 1
            assert receiver.statistics().missed == 0
        assert [each.name for each in sender.statistics().consumers] == ["encoder", "display"]


def test_dropped_frames_are_missing_in_the_sequence() -> None:
    near, far = frames.pair()
    with (
        FrameSender(3, near, policy=Policy.DROP_OLDEST, hold=1) as sender,
        FrameReceiver(far) as receiver,
    ):
        for _ in range(5):
            send(sender)
        with receiver.receive(timeout=WAIT) as frame:
            assert frame.sequence == 0
        sender.process()
        with receiver.receive(timeout=WAIT) as frame:
            assert frame.sequence == 4
        assert receiver.statistics() == frames.ReceiverStatistics(
            received=2, released=2, held=0, missed=3, ended=None
        )
        [consumer] = sender.statistics().consumers
        assert (consumer.delivered, consumer.dropped) == (2, 3)


def test_the_sender_s_descriptor_tells_when_there_is_something_to_process() -> None:
    near, far = frames.pair()
    with (
        FrameSender(3, near, policy=Policy.DROP_OLDEST, hold=1) as sender,
        FrameReceiver(far) as receiver,
    ):
        send(sender), send(sender)
        assert not select.select([sender], [], [], 0)[0]
        receiver.receive(timeout=WAIT).release()
        assert select.select([sender], [], [], WAIT)[0]
        sender.process()
        assert not select.select([sender], [], [], 0)[0]
        assert select.select([receiver], [], [], WAIT)[0]
        receiver.receive(timeout=0).release()


def test_what_was_released_counts_before_the_next_frame_is_sent() -> None:
    near, far = frames.pair()
    with (
        FrameSender(3, near, policy=Policy.DROP_NEWEST, hold=1) as sender,
        FrameReceiver(far) as receiver,
    ):
        first, second = sender.acquire(), sender.acquire()
        sender.send(first)
        receiver.receive(timeout=WAIT).release()
        sender.send(second)
        with receiver.receive(timeout=WAIT) as frame:
            assert frame.sequence == 1


def test_frames_for_which_the_socket_has_no_room_wait_for_it() -> None:
    near, far = frames.pair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)
    with FrameSender(50, near) as sender, FrameReceiver(far) as receiver:
        for _ in range(50):
            send(sender)
        assert sender.statistics().consumers[0].waiting > 0
        for sequence in range(50):
            with receiver.receive(timeout=0) as frame:
                assert frame.sequence == sequence
            sender.process()


def test_releases_for_which_the_socket_has_no_room_are_sent_later() -> None:
    near, far = frames.pair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)
    released: list[int] = []
    with near, FrameReceiver(far) as receiver:
        near.setblocking(False)
        near.send(START)
        for sequence in range(50):
            near.send(frame(0, sequence))
            receiver.receive(timeout=0).release()
        for more in range(50, 100):
            with suppress(BlockingIOError):
                while True:
                    released.append(*struct.unpack("=Q", near.recv(8)))
            if more == 50:
                assert len(released) < 50
            with pytest.raises(TimeoutError):
                receiver.receive(timeout=0)
    assert sorted(released) == list(range(50))


@pytest.mark.parametrize(
    ("policy", "hold", "reason"),
    [
        (Policy.WAIT, 0, "at least 1 frame, not 0"),
        (Policy.DROP_NEWEST, 3, r"could hold all 3 buffers \(3\), and so stop the producer"),
        (Policy.DROP_OLDEST, 2, r"could hold all 3 buffers \(2, and 1 with the others\)"),
    ],
)
def test_who_may_miss_frames_cannot_stop_the_producer(
    policy: Policy, hold: int, reason: str
) -> None:
    first, far = frames.pair()
    near, other = frames.pair()
    with far, near, other, FrameSender(3) as sender:
        if hold == 2:
            sender.add(first, policy=Policy.DROP_NEWEST, hold=1)
        else:
            first.close()
        with pytest.raises(ValueError, match=reason):
            sender.add(near, policy=policy, hold=hold)
        assert near.fileno() >= 0


def test_a_policy_is_a_member_or_its_value() -> None:
    near, far = frames.pair()
    with far, FrameSender(3) as sender:
        with pytest.raises(ValueError, match="'drop some' is not a valid Policy"):
            sender.add(near, policy="drop some")
        assert repr(sender) == "<FrameSender 0 consumers, 0 frames>"
        sender.add(near, policy="drop the oldest")
        [consumer] = sender.statistics().consumers
        assert (consumer.policy, consumer.hold) == (Policy.DROP_OLDEST, 2)


# --- ends -----------------------------------------------------------------------------------------------------------


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


# --- the other side is not to be trusted ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"?", "it sent 1 bytes that release no frame"),
        (struct.pack("=Q", 5), "it released frame 5, which it does not have"),
    ],
)
def test_a_consumer_that_breaks_the_rules_is_gone(message: bytes, reason: str) -> None:
    near, far = frames.pair()
    with far, FrameSender(1, near) as sender:
        send(sender)
        far.send(message)
        assert sender.acquire(timeout=WAIT) == 0
        assert all(far.recv(1) for _ in range(2))
        assert far.recv(1, socket.MSG_DONTWAIT) == b"", "it is closed"
        [consumer] = sender.statistics().consumers
        assert consumer.gone is not None
        assert consumer.gone.startswith(reason)


START = struct.pack("=I4sIIQ", 1, b"SyFr", 1, 2, 0)


def frame(index: int, sequence: int) -> bytes:
    return struct.pack("=IIQqQ", 2, index, sequence, 0, 0)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([b"?"], "1 bytes that are no message"),
        ([frame(0, 0)], "doesn't begin with START"),
        ([START, START], "or begins twice"),
        ([START, frame(2, 0)], "a frame in buffer 2, but the stream has 2 buffers"),
        ([START, frame(3, 0)], "a frame in buffer 3, but the stream has 2 buffers"),
        ([START, frame(0, 5), frame(1, 5)], "frame 5 after 5"),
    ],
)
def test_a_producer_that_breaks_the_rules_ends_the_stream(
    messages: list[bytes], reason: str
) -> None:
    near, far = frames.pair()
    with near, FrameReceiver(far) as receiver:
        for message in messages:
            near.send(message)
        with pytest.raises(EndOfStreamError, match=f"the producer sent .*{reason}") as caught:
            drain(receiver)
        assert not caught.value.closed


# --- buffers of a collection ----------------------------------------------------------------------------------------


@pytest.fixture
def info(allocator: blocking.Allocator) -> Iterator[sysmem.BufferCollectionInfo]:
    """Two buffers of one page."""
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_constraints(sysmem.constraints(cpu="read, write", size_bytes=4096, hold=2))
        with collection.wait_for_all_buffers_allocated(timeout=WAIT) as found:
            yield found


def test_frames_are_in_the_buffers_of_a_collection(info: sysmem.BufferCollectionInfo) -> None:
    near, far = frames.pair()
    with FrameSender(info, near) as sender, FrameReceiver(far, info) as receiver:
        index = sender.acquire()
        with info.buffers[index].map() as view:
            view[:5] = b"hello"
        sender.send(index, size=5)
        with receiver.receive(timeout=WAIT) as got, got.buffer.map(got.size) as view:
            assert bytes(view) == b"hello"
        index = sender.acquire()
        sender.send(index)
        with receiver.receive(timeout=WAIT) as got:
            assert got.size == 4096
        index = sender.acquire()
        for size in (-1, 4097):
            with pytest.raises(ValueError, match=f"a frame of {size} bytes doesn't fit the 4096"):
                sender.send(index, size=size)
        for size in (0, 4096):
            sender.send(index, size=size)
            with receiver.receive(timeout=WAIT) as got:
                assert got.size == size
            index = sender.acquire()


def test_the_list_of_buffers_will_do(info: sysmem.BufferCollectionInfo) -> None:
    for given in (info, info.buffers):
        near, far = frames.pair()
        with FrameSender(given, near) as sender, FrameReceiver(far, info.buffers) as receiver:
            send(sender)
            with receiver.receive(timeout=WAIT) as got:
                assert (got.size, got.buffer) == (4096, info.buffers[0])


def test_a_frame_has_the_usable_bytes_of_its_buffer(info: sysmem.BufferCollectionInfo) -> None:
    near, far = frames.pair()
    listed = [sysmem.VmoBuffer(vmo=info.buffers[0].vmo, vmo_usable_start=96), sysmem.VmoBuffer()]
    with FrameSender(listed, near) as sender, FrameReceiver(far) as receiver:
        for size in (4000, 0):
            send(sender)
            with receiver.receive(timeout=WAIT) as got:
                assert got.size == size


def test_a_receiver_without_buffers_says_so(ends: Ends) -> None:
    sender, receiver = ends
    send(sender)
    with (
        receiver.receive(timeout=WAIT) as got,
        pytest.raises(ValueError, match="buffer 0 isn't known here: make the receiver with"),
    ):
        _ = got.buffer


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ((3, 0), "frames in 3 buffers, but this consumer has 2"),
        ((2, 12345), "frames of collection 12345, but this consumer has buffers of"),
    ],
)
def test_a_stream_of_another_collection_is_refused(
    info: sysmem.BufferCollectionInfo, start: tuple[int, int], reason: str
) -> None:
    near, far = frames.pair()
    with near, FrameReceiver(far, info) as receiver:
        near.send(struct.pack("=I4sIIQ", 1, b"SyFr", 1, *start))
        with pytest.raises(EndOfStreamError, match=reason):
            receiver.receive(timeout=WAIT)


def test_a_frame_larger_than_its_buffer_ends_the_stream(info: sysmem.BufferCollectionInfo) -> None:
    near, far = frames.pair()
    with near, FrameReceiver(far, info) as receiver:
        near.send(START)
        near.send(struct.pack("=IIQqQ", 2, 0, 0, 0, 4097))
        with pytest.raises(EndOfStreamError, match="a frame of 4097 bytes in a buffer of 4096"):
            receiver.receive(timeout=WAIT)
