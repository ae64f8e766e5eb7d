"""The queue of messages for a client that does not read."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import pytest

from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.handles import Handle, channel_pair
from sysmem_protocol.message import MAX_HANDLES, Message, parse
from sysmemd.channels.outbox import Outbox, OutboxFull, nothing

from .line import null
from .support import header

ORDINAL = 1234


class Pair:
    """An outbox and its client."""

    def __init__(self, max_messages: int = 8, max_bytes: int = 1 << 20) -> None:
        near, far = channel_pair()
        self.client = Channel(near.detach())
        self.server = Channel(far.detach())
        self.outbox = Outbox(self.server, max_messages, max_bytes)

    def fill(self) -> int:
        """Fill the client's queue without the outbox. Return the number of messages."""
        count = 0
        while self.server.send(b"x" * 4096):
            count += 1
        return count

    def drain(self) -> None:
        """Read the messages that :meth:`fill` sent."""
        while (received := self.client.receive()) is not None:
            assert received[0] == b"x" * 4096

    def receive(self) -> Message | None:
        received = self.client.receive()
        return None if received is None else parse(*received)

    def close(self) -> None:
        self.outbox.close()
        self.client.close()
        self.server.close()


@pytest.fixture
def new_pair() -> Iterator[Callable[..., Pair]]:
    with ExitStack() as stack:

        def make(*bounds: int) -> Pair:
            return stack.enter_context(closing(Pair(*bounds)))

        yield make


@pytest.fixture
def pair(new_pair: Callable[..., Pair]) -> Pair:
    return new_pair()


def answer(txid: int, body: bytes = b"", handles: int = 0) -> Message:
    return Message(txid, ORDINAL, body, [null() for _ in range(handles)])


def instead(error: OSError) -> Message:
    """Return a response without descriptors."""
    return answer(77, str(error).encode())


def txids(pair: Pair) -> list[int]:
    found = []
    while (message := pair.receive()) is not None:
        found.append(message.txid)
        message.close()
    return found


def test_a_message_is_sent_at_once_and_its_descriptors_are_closed(pair: Pair) -> None:
    message = answer(1, b"body", 2)
    pair.outbox.put(message)
    assert not pair.outbox
    assert all(handle.closed for handle in message.handles)
    received = pair.receive()
    assert received is not None
    assert (received.txid, received.body, len(received.handles)) == (1, b"body", 2)
    received.close()


def test_messages_wait_in_order_for_a_client_that_does_not_read(pair: Pair) -> None:
    pair.fill()
    pair.outbox.put(answer(1, handles=1))
    pair.outbox.put_later(lambda: answer(2), instead, nothing)
    pair.outbox.put(answer(3))
    assert len(pair.outbox) == 3
    assert not pair.outbox.flush()
    pair.drain()
    pair.outbox.put(answer(4))  # not before the waiting messages
    assert len(pair.outbox) == 4
    assert not pair.outbox.put_bytes(header(5, ORDINAL))
    assert pair.outbox.flush()
    assert txids(pair) == [1, 2, 3, 4]
    assert pair.outbox.put_bytes(header(5, ORDINAL))
    assert txids(pair) == [5]


def test_what_comes_later_is_made_when_it_can_be_sent_and_anew_each_time(pair: Pair) -> None:
    made: list[Message] = []

    def make() -> Message:
        made.append(answer(9, handles=3))
        return made[-1]

    pair.fill()
    pair.outbox.put_later(make, instead, nothing)
    assert made == []
    for attempts in (1, 2):
        assert not pair.outbox.flush()
        assert len(made) == attempts
        assert all(handle.closed for handle in made[-1].handles)
    pair.drain()
    assert pair.outbox.flush()
    assert len(made) == 3
    assert all(handle.closed for handle in made[-1].handles)
    received = pair.receive()
    assert received is not None
    assert len(received.handles) == 3
    received.close()


@pytest.mark.parametrize("later", [False, True], ids=["made", "made later"])
def test_an_answer_of_several_datagrams_is_sent_as_they_fit(pair: Pair, later: bool) -> None:
    count = 2 * MAX_HANDLES + 1
    made: list[Message] = []

    def make() -> Message:
        made.append(Message(5, ORDINAL, b"body", [source.duplicate() for _ in range(count)]))
        return made[-1]

    with null() as source:
        pair.fill()
        if later:
            pair.outbox.put_later(make, instead, nothing)
        else:
            pair.outbox.put(make())
        assert not pair.outbox.flush()
        pair.drain()
        assert pair.outbox.flush()
    parts = []
    while (received := pair.receive()) is not None:
        parts.append((received.more, len(received.handles), received.body))
        received.close()
    assert parts == [(True, MAX_HANDLES, b""), (True, MAX_HANDLES, b""), (False, 1, b"body")]
    assert all(handle.closed for message in made for handle in message.handles)


def test_an_answer_of_one_datagram_is_sent_at_once_and_a_larger_one_is_queued(pair: Pair) -> None:
    with null() as source:
        for txid, count in ((1, MAX_HANDLES), (2, MAX_HANDLES + 1)):
            handles = [source.duplicate() for _ in range(count)]
            pair.outbox.put(Message(txid, ORDINAL, b"", handles))
            assert len(pair.outbox) == txid - 1
    assert pair.outbox.flush()
    counts = []
    while (received := pair.receive()) is not None:
        counts.append(len(received.handles))
        received.close()
    assert counts == [MAX_HANDLES, MAX_HANDLES, 1]


def test_an_answer_that_was_begun_is_finished_and_not_made_anew() -> None:
    made: list[Message] = []

    class Stutter(Channel):
        """Sends every second datagram only."""

        turn = 0

        def send(self, data: object, handles: object = ()) -> int:
            self.turn += 1
            return super().send(data, handles) if self.turn % 2 == 0 else 0  # type: ignore[arg-type] # passed on

    near, far = channel_pair()
    client, server = Channel(near.detach()), Stutter(far.detach())
    outbox = Outbox(server, 8, 1 << 20)
    with null() as source:

        def make() -> Message:
            handles = [source.duplicate() for _ in range(2 * MAX_HANDLES)]
            made.append(Message(5, ORDINAL, b"body", handles))
            return made[-1]

        outbox.put_later(make, instead, nothing)
        assert not outbox.flush()
        assert not outbox.flush()  # the first part, but not the second
        assert len(made) == 2
        assert [handle.closed for handle in made[1].handles] == (
            [True] * MAX_HANDLES + [False] * MAX_HANDLES
        )
        outbox.flush()
        assert len(made) == 2
    assert all(handle.closed for handle in made[1].handles)
    outbox.close()
    server.close()
    while True:
        try:
            received = client.receive()
        except PeerClosedError:
            break
        assert received is not None
        parse(*received).close()
    client.close()


class Room:
    """Replaces the count of descriptors in flight. It has room for this many descriptors."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.times_closed = 0

    def may_send(self, count: int) -> bool:
        return count <= self.left

    def sent(self, count: int) -> None:
        self.left -= count

    def close(self) -> None:
        self.times_closed += 1


def test_descriptors_are_held_while_there_is_no_room_in_flight(pair: Pair) -> None:
    room: Any = Room(2)
    outbox = Outbox(pair.server, 8, 1 << 20, open_flight=lambda: room)
    held = []
    outbox.put(answer(0, handles=0))
    for txid in (1, 2):
        outbox.put(answer(txid, handles=3 - txid))
        held.append(outbox.is_held)
    for left in (0, 1):
        room.left = left
        outbox.flush()
        held.append(outbox.is_held)
    assert held == [False, True, True, False]
    assert room.left == 0
    assert txids(pair) == [0, 1, 2]
    outbox.put(answer(3, handles=1))
    held.append(outbox.is_held)
    outbox.close()
    outbox.put_later(lambda: answer(4), instead, nothing)
    assert outbox.flush(), "it has no descriptors"
    assert [*held[4:], outbox.is_held] == [True, False]
    assert txids(pair) == [4]
    pair.fill()
    room.left = 1
    outbox.put(answer(5, handles=1))
    assert not outbox.is_held, "it waits for its client to read"
    assert len(outbox) == 1
    outbox.close()
    assert room.times_closed == 0
    for _ in range(2):
        outbox.end()
    assert room.times_closed == 1


def test_what_comes_later_is_not_made_again_while_there_is_no_room_in_flight(pair: Pair) -> None:
    room: Any = Room(3)
    outbox = Outbox(pair.server, 8, 1 << 20, open_flight=lambda: room)
    made: list[int] = []

    def make() -> Message:
        made.append(1)
        return answer(1, handles=3)

    outbox.put_later(make, instead, nothing)
    for full, left, times, held in (
        (True, 3, 1, False),
        (True, 2, 1, True),
        (False, 2, 1, True),
        (False, 3, 2, False),
    ):
        pair.fill() if full else pair.drain()
        room.left = left
        assert outbox.flush() is (times == 2)
        assert (len(made), outbox.is_held) == (times, held)
    assert txids(pair) == [1]
    outbox.close()


def test_more_messages_than_the_bound_are_refused(new_pair: Callable[..., Pair]) -> None:
    pair = new_pair(3)
    pair.fill()
    for txid in (1, 2, 3):
        pair.outbox.put(answer(txid))
    with pytest.raises(OutboxFull, match=r"4 responses of 64 bytes are unread, at most 3 of"):
        pair.outbox.put(answer(4))


def test_more_bytes_than_the_bound_are_refused(new_pair: Callable[..., Pair]) -> None:
    pair = new_pair(100, 1000)
    pair.fill()
    pair.outbox.put(answer(1, bytes(984)))
    with pytest.raises(OutboxFull):
        pair.outbox.put(answer(2))


def test_descriptors_that_wait_count(new_pair: Callable[..., Pair]) -> None:
    pair = new_pair(100, 2200)
    pair.fill()
    pair.outbox.put(answer(1, handles=2))
    assert pair.outbox.waiting_bytes == 16 + 2 * 1024
    assert pair.outbox.waiting_descriptors == 2
    with pytest.raises(OutboxFull):
        pair.outbox.put(answer(2, handles=1))
    pair.outbox.close()
    assert pair.outbox.waiting_bytes == pair.outbox.waiting_descriptors == 0


def test_whoever_counts_what_waits_is_told_of_each_change(pair: Pair) -> None:
    told: list[tuple[int, int]] = []
    outbox = Outbox(pair.server, 8, 1 << 20, lambda *change: told.append(change))
    pair.fill()
    for txid, handles in ((1, 2), (2, 0)):
        outbox.put(answer(txid, handles=handles))
    assert told == [(16 + 2 * 1024, 2), (16, 0)]
    told.clear()
    pair.drain()
    assert outbox.flush()
    assert told == [(-16 - 2 * 1024, -2), (-16, 0)]
    pair.fill()
    outbox.put(answer(3, handles=1))
    told.clear()
    outbox.close()
    assert told == [(-16 - 1024, -1)]


def test_what_comes_later_counts_when_it_is_flushed(new_pair: Callable[..., Pair]) -> None:
    pair = new_pair(2)
    for txid in (1, 2, 3):
        pair.outbox.put_later(lambda txid=txid: answer(txid), instead, nothing)  # type: ignore[misc] # a closure
    pair.fill()
    with pytest.raises(OutboxFull):
        pair.outbox.flush()
    pair.drain()
    assert pair.outbox.flush()
    assert txids(pair) == [1, 2, 3]


def test_the_bound_is_of_what_waits_now(new_pair: Callable[..., Pair]) -> None:
    pair = new_pair(2, 64)
    for _ in range(3):
        pair.fill()
        pair.outbox.put(answer(1, bytes(16)))
        pair.outbox.put(answer(2, bytes(16)))
        pair.drain()
        assert pair.outbox.flush()
        assert txids(pair) == [1, 2]


def test_descriptors_are_closed_when_the_peer_is(pair: Pair) -> None:
    pair.client.close()
    message = answer(1, handles=2)
    with pytest.raises(PeerClosedError):
        pair.outbox.put(message)
    assert all(handle.closed for handle in message.handles)


def test_what_is_dropped_while_it_is_made_is_not_sent(pair: Pair) -> None:
    made = answer(1, handles=1)

    def make() -> Message:
        pair.outbox.close()
        return made

    pair.outbox.put_later(make, instead, nothing)
    assert pair.outbox.flush()
    assert txids(pair) == []
    assert made.handles[0].closed


def test_descriptors_are_closed_when_a_message_cannot_be_told(pair: Pair) -> None:
    def tell() -> None:
        raise MemoryError

    for put in (pair.outbox.put, pair.outbox.try_put):
        message = answer(1, handles=2)
        with pytest.raises(MemoryError):
            put(message, tell)
        assert all(handle.closed for handle in message.handles)


def test_it_is_said_once_when_what_comes_later_is_sent_or_will_not_be(pair: Pair) -> None:
    done: list[int] = []
    pair.fill()
    for txid in (1, 2):
        pair.outbox.put_later(
            lambda txid=txid: answer(txid),  # type: ignore[misc] # a closure
            instead,
            lambda txid=txid: done.append(txid),  # type: ignore[misc]
        )
    assert not pair.outbox.flush()
    assert done == []
    pair.client.receive()
    while not done:
        pair.client.receive()
        pair.outbox.flush()
    pair.outbox.close()
    pair.outbox.close()
    assert done == [1, 2]


def test_closing_drops_what_waits(pair: Pair) -> None:
    pair.fill()
    message = answer(1, handles=2)
    pair.outbox.put(message)
    pair.outbox.put_later(lambda: answer(2), instead, nothing)
    pair.outbox.close()
    assert not pair.outbox
    assert all(handle.closed for handle in message.handles)
    assert pair.outbox.flush()


def test_a_maker_that_fails_is_heard(pair: Pair) -> None:
    def make() -> Message:
        raise OSError("no descriptors")

    pair.outbox.put_later(make, instead, nothing)
    with pytest.raises(OSError, match="no descriptors"):
        pair.outbox.flush()


@pytest.mark.parametrize("later", [False, True], ids=["made", "made later"])
def test_an_answer_whose_descriptors_cannot_be_sent(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    """The descriptors in flight of a user have a limit, which includes those of other channels."""
    send = Channel.send

    def too_many(channel: Channel, data: bytes, handles: Sequence[Handle] = ()) -> int:
        if handles:
            raise OSError(errno.ETOOMANYREFS, "Too many references")
        return send(channel, data, handles)

    monkeypatch.setattr(Channel, "send", too_many)
    message = answer(1, handles=2)
    if later:
        pair.outbox.put_later(lambda: message, instead, nothing)
        assert pair.outbox.flush()
        assert txids(pair) == [77]
    else:
        with pytest.raises(OSError, match="Too many references"):
            pair.outbox.put(message)
    assert all(handle.closed for handle in message.handles)


def test_an_answer_of_several_datagrams_whose_last_descriptors_cannot_be_sent(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptors that were already sent must be referred to, so no other response can follow."""
    send = Channel.send

    def too_many(channel: Channel, data: bytes, handles: Sequence[Handle] = ()) -> int:
        if len(handles) == 1:
            raise OSError(errno.ETOOMANYREFS, "Too many references")
        return send(channel, data, handles)

    monkeypatch.setattr(Channel, "send", too_many)
    message = answer(1, handles=MAX_HANDLES + 1)
    pair.outbox.put_later(lambda: message, instead, nothing)
    with pytest.raises(OSError, match="Too many references"):
        pair.outbox.flush()
    pair.outbox.close()
    assert all(handle.closed for handle in message.handles)


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.EHOSTUNREACH])
def test_another_error_is_heard(pair: Pair, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def fails(*_: object) -> bool:
        raise OSError(error, "No buffer space")

    monkeypatch.setattr(Channel, "send", fails)
    pair.outbox.put_later(lambda: answer(1), instead, nothing)
    with pytest.raises(OSError, match="No buffer space"):
        pair.outbox.flush()


def test_messages_are_told_in_the_order_of_sending_and_only_those_that_are_sent(pair: Pair) -> None:
    told: list[int] = []

    def make() -> Message:
        told.append(2)
        return answer(2)

    pair.outbox.put(answer(1), lambda: told.append(1))
    pair.outbox.put_later(make, instead, nothing)
    pair.outbox.put(answer(3), lambda: told.append(3))
    assert told == [1]
    assert pair.outbox.flush()
    assert told == txids(pair) == [1, 2, 3]
    pair.fill()
    pair.outbox.put_later(lambda: answer(4), instead, nothing)
    pair.outbox.put(answer(5), lambda: told.append(5))
    pair.outbox.close()
    assert told == [1, 2, 3]


def test_a_message_is_told_once_however_often_it_is_tried(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    sent = iter([0, 0, 1, 0, 1])
    monkeypatch.setattr(Channel, "send", lambda *_: next(sent))
    for txid in (1, 2):
        pair.outbox.put(answer(txid), lambda txid=txid: told.append(txid))  # type: ignore[misc] # a closure
    assert told == [1]
    assert [pair.outbox.flush() for _ in range(3)] == [False, False, True]
    assert told == [1, 2]
