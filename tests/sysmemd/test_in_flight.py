"""Descriptors that were sent and that clients have not received."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from sysmem_protocol.channel import AT_ONCE, Channel
from sysmem_protocol.handles import Handle, channel_pair
from sysmem_protocol.message import Message
from sysmemd import in_flight
from sysmemd.channels.outbox import Outbox
from sysmemd.in_flight import MAX_UNASKED, InFlight
from sysmemd.ports import Peer
from sysmemd.quota import Kind, Share
from sysmemd.refusals import Refusals
from sysmemd.users import Account, Users

from .memory.harness import TestClock
from .recording import RecordingLog

LIMIT = 100


class Daemon:
    """A daemon's users, and the descriptors in flight to them."""

    def __init__(self) -> None:
        self.in_flight = InFlight(LIMIT, AT_ONCE, lambda user, work: work())
        clock = TestClock()
        self.users = Users(Refusals(RecordingLog(), clock), clock, self.in_flight.all)
        self.lines: list[Line] = []

    def account(self, uid: int = 1) -> Account:
        return self.users.open_account(Peer(os.getpid(), uid, uid))

    def line(self, account: Account | None = None) -> Line:
        self.lines.append(Line(self, account or self.account()))
        return self.lines[-1]

    def take(self) -> None:
        """Process the kernel's reports."""
        self.in_flight.take()

    def is_idle(self) -> bool:
        """Return whether nothing wakes the daemon."""
        return not select.select([self.in_flight.fileno()], [], [], 0)[0]


class Line:
    """A channel with its outbox and its client."""

    def __init__(self, daemon: Daemon, account: Account) -> None:
        near, far = channel_pair()
        self.client, self.server = Channel(near.detach()), Channel(far.detach())
        self.account = account
        self.retries = 0
        fd = self.server.fileno()
        self.outbox = Outbox(
            self.server,
            8,
            1 << 20,
            open_flight=lambda: daemon.in_flight.open(account, fd, self.retry),
        )

    def retry(self) -> None:
        self.retries += 1
        self.outbox.flush()

    def send(self, count: int) -> bool:
        """Send a message with this many descriptors. Return whether it was sent at once."""
        near = Handle(os.open(os.devnull, os.O_RDONLY))
        handles = [near, *(near.duplicate() for _ in range(count - 1))]
        self.outbox.put(Message(1, 1, b"", handles))
        return not self.outbox

    def receive(self) -> int:
        """Receive a message. Return the number of its descriptors."""
        received = self.client.receive()
        assert received is not None
        for handle in received[1]:
            handle.close()
        return len(received[1])

    def close(self) -> None:
        self.outbox.end()
        self.server.close()
        self.client.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    yield made
    for line in made.lines:
        line.close()
    made.take()
    assert made.in_flight.all.count == 0
    made.in_flight.close()


def test_everybody_has_half_of_what_the_others_leave() -> None:
    everybody = Share(limit=100)
    users = [Share(everybody), Share(everybody)]
    channel = Share(users[0])
    assert channel.has_room(100)
    channel.add(50)
    assert not channel.has_room(1)
    assert not users[0].has_room(1)
    assert users[1].has_room(50)
    users[1].add(30)
    assert not users[1].has_room(1)
    channel.add(-50)
    assert (channel.count, users[0].count, everybody.count) == (0, 0, 30)


def test_half_of_an_odd_number_is_rounded_up() -> None:
    user = Share(Share(limit=3))
    user.add(1)
    assert (user.room(), user.has_room(1), user.has_room(2)) == (1, True, False)


def test_more_than_there_can_be_is_tried_while_nothing_is_in_flight() -> None:
    """Otherwise the message would wait for ever. The kernel may accept it."""
    everybody = Share(limit=10)
    user = Share(everybody)
    assert user.has_room(11)
    user.add(1)
    assert not Share(everybody).has_room(11)


def test_a_channel_that_isnt_read_waits_and_others_go_on(daemon: Daemon) -> None:
    account = daemon.account()
    stopped, sibling, other = daemon.line(account), daemon.line(account), daemon.line()
    stranger = daemon.line(daemon.account(uid=2))
    sent = 0
    while stopped.send(1):
        sent += 1
    assert LIMIT // 8 <= sent < LIMIT // 4
    assert stopped.outbox.is_held
    for line in (sibling, other, stranger):
        for _ in range(20):
            assert line.send(5)
            line.receive()
    daemon.take()
    assert stopped.outbox.is_held
    assert daemon.is_idle()
    for _ in range(sent):
        stopped.receive()
    daemon.take()
    assert not stopped.outbox
    stopped.receive()


def test_a_channel_waits_for_what_another_of_its_user_does_not_receive(daemon: Daemon) -> None:
    account = daemon.account()
    first, second = daemon.line(account), daemon.line(account)
    assert first.send(50)
    assert not second.send(40)
    daemon.take()
    assert second.outbox
    assert daemon.is_idle()
    first.receive()
    daemon.take()
    assert second.receive() == 40


def test_descriptors_of_a_channel_that_closes_count_until_its_client_receives_them(
    daemon: Daemon,
) -> None:
    account = daemon.account()
    stopped, other = daemon.line(account), daemon.line(account)
    before = account.tally[Kind.DESCRIPTORS]
    stopped.send(50)
    stopped.outbox.end()
    stopped.server.close()
    assert account.tally[Kind.DESCRIPTORS] == before + 1  # its end is still open
    assert not other.send(60)
    stopped.receive()
    daemon.take()
    assert not other.outbox
    assert account.tally[Kind.DESCRIPTORS] == before
    assert other.receive() == 60


def test_at_the_daemons_end_nothing_counts_any_more() -> None:
    daemon = Daemon()
    line = daemon.line()
    before = line.account.tally[Kind.DESCRIPTORS]
    line.send(1)
    line.outbox.end()
    line.server.close()
    daemon.in_flight.close()
    assert line.account.tally[Kind.DESCRIPTORS] == before
    assert daemon.in_flight.all.count == 0
    line.close()


def test_what_waits_unread_in_a_channel_that_closes_is_closed(daemon: Daemon) -> None:
    """A client that waits for the other end of such a descriptor to close would wait for ever, and receive nothing."""
    line = daemon.line()
    line.send(1)
    near, far = channel_pair()
    with closing(Channel(near.detach())) as waiting, Handle(far.detach()) as server_end:
        line.client.send(b"a token", [server_end])
        server_end.close()
        line.outbox.end()
        line.server.close()
        assert waiting.hung_up()
    line.receive()


def test_a_client_that_goes_has_received_everything(daemon: Daemon) -> None:
    gone, other = daemon.line(), daemon.line()
    gone.send(50)
    assert not gone.send(30)
    gone.outbox.end()
    assert not other.send(60)
    gone.client.close()
    daemon.take()
    assert not other.outbox
    other.receive()


@pytest.mark.parametrize("received", [True, False])
def test_no_more_than_some_channels_go_unasked(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, received: bool
) -> None:
    """However many channels have sent descriptors, an exhausted share needs few questions to the kernel."""
    asked: list[Any] = []
    is_received = InFlight._is_received

    def counted(self: InFlight, flight: Any) -> bool:
        asked.append(flight)
        return is_received(self, flight)

    monkeypatch.setattr(InFlight, "_is_received", counted)
    daemon.in_flight.all._limit = 100 * MAX_UNASKED  # so that no share is exhausted
    lines = [daemon.line() for _ in range(2 * MAX_UNASKED)]
    for line in lines:
        assert line.send(1)
        if received:
            line.receive()
    assert daemon.in_flight.all.count == (1 if received else 2) * MAX_UNASKED
    assert len(asked) == len(set(asked)) == MAX_UNASKED
    if not received:
        for line in lines:
            line.receive()
        daemon.take()


class Short:
    """An epoll instance that the kernel has no memory for."""

    def __init__(self, epoll: select.epoll, call: str) -> None:
        """Let one call fail."""
        self._epoll = epoll
        self._call = call

    def __getattr__(self, name: str) -> Any:
        if name == self._call:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return getattr(self._epoll, name)


def short(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(daemon.in_flight, "_epoll", Short(daemon.in_flight._epoll, call))


def test_where_nobody_could_tell_when_to_try_again_the_kernel_decides(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    short(daemon, monkeypatch, "register")
    line = daemon.line()
    assert line.send(50)
    assert line.send(50)
    for _ in range(2):
        line.receive()


def test_a_channel_that_the_kernel_goes_on_watching_closes(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    short(daemon, monkeypatch, "unregister")
    line = daemon.line()
    assert line.send(80)
    assert not line.send(80)
    line.outbox.end()
    line.receive()


@pytest.mark.parametrize("lacks", ["a descriptor", "memory"])
def test_an_end_that_cannot_be_kept_open_is_forgotten(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    def none_left(fd: int) -> int:
        raise OSError("no descriptor left")

    if lacks == "memory":
        short(daemon, monkeypatch, "register")
    else:
        monkeypatch.setattr("sysmemd.in_flight.duplicate", none_left)
    line = daemon.line()
    before = line.account.tally[Kind.DESCRIPTORS]
    line.send(50)
    line.outbox.end()
    assert daemon.in_flight.all.count == 0
    assert line.account.tally[Kind.DESCRIPTORS] == before
    line.receive()


def test_where_the_kernel_does_not_say_what_was_received_nothing_stays_counted(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    line = daemon.line()
    assert line.send(10)
    with monkeypatch.context() as patch:
        patch.setattr(in_flight, "unread_of", refuse)
        line.outbox.end()
    assert daemon.in_flight.all.count == 0
