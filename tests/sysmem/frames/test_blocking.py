"""Both ends of a stream in one process: its guarantees, and protection from the other end."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from sysmem.blocking import frames
from sysmem.blocking.frames import EndOfStreamError, FrameReceiver, FrameSender, Policy

from .conftest import START, WAIT, Ends, drain, frame, send, send_all

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
