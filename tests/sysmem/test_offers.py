"""Tokens by name: what becomes of an offer or a take that ends at the last moment, and what is refused."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sysmem import HandleClosedError, blocking
from sysmem._blocking.client_end import ClientEnd
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Interface
from sysmem_protocol.rendezvous import Rendezvous, RendezvousTakeResponse
from sysmem_protocol.sysmem2 import Error

from .conftest import Peer, Witness


class MeetingPlace:
    """An Allocator whose daemon is the test, and the test's actions at the very end of a call."""

    def __init__(self, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocator = blocking.Allocator(fd, self._open)
        self.peers: list[Peer] = []
        self.error: BaseException = TimeoutError()
        #: The action after the client has given up and before it looks for the last time.
        self.meanwhile: Callable[[Peer], None] = lambda peer: None
        call = ClientEnd.call

        def interrupted(end: ClientEnd, method: Any, request: Any, timeout: float | None) -> Any:
            if method.interface != "Rendezvous":
                return call(end, method, request, timeout)
            with pytest.raises(TimeoutError):
                call(end, method, request, 0)
            self.meanwhile(self.peers[-1])
            raise self.error

        monkeypatch.setattr(ClientEnd, "call", interrupted)

    def _open(self, interface: type[Interface], timeout: float | None) -> int:
        assert interface is Rendezvous
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peers.append(Peer(far.detach()))
        return near.detach()


@pytest.fixture
def place(ends: tuple[int, Peer], monkeypatch: pytest.MonkeyPatch) -> Iterator[MeetingPlace]:
    made = MeetingPlace(ends[0], monkeypatch)
    with made.allocator:
        yield made
    for peer in made.peers:
        peer.close()


@pytest.fixture
def offered() -> Iterator[blocking.BufferCollectionToken]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far, blocking.BufferCollectionToken.from_fd(near.detach()) as token:
        yield token


def answer(error: Error | None = None) -> Callable[[Peer], None]:
    """Answer the offer. Its token is closed."""

    def play(peer: Peer) -> None:
        request = peer.receive()
        request.close()
        peer.answer(request, Rendezvous.offer, error)

    return play


def give(witness: Witness) -> Callable[[Peer], None]:
    """Answer the take."""

    def play(peer: Peer) -> None:
        peer.answer(
            peer.receive(),
            Rendezvous.take,
            RendezvousTakeResponse(token=Handle(witness.handle.take())),
        )

    return play


def test_an_offer_that_was_taken_at_the_last_moment_succeeds(
    place: MeetingPlace, offered: blocking.BufferCollectionToken
) -> None:
    place.meanwhile = answer()
    place.allocator.offer("x", offered)
    assert offered.closed


def test_an_offer_that_was_not_taken_leaves_the_token_and_can_not_be_taken_any_more(
    place: MeetingPlace, offered: blocking.BufferCollectionToken
) -> None:
    for place.error in (TimeoutError(), KeyboardInterrupt()):
        with pytest.raises(type(place.error)):
            place.allocator.offer("x", offered)
        assert not offered.closed
        assert place.peers[-1].channel.hung_up()


def test_an_offer_that_was_interrupted_when_it_was_taken_has_moved_the_token(
    place: MeetingPlace, offered: blocking.BufferCollectionToken
) -> None:
    place.meanwhile = answer()
    place.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        place.allocator.offer("x", offered)
    assert offered.closed


def test_an_offer_that_is_refused_at_the_last_moment_is_one_that_nobody_took(
    place: MeetingPlace, offered: blocking.BufferCollectionToken
) -> None:
    place.meanwhile = answer(Error.NOT_FOUND)
    with pytest.raises(TimeoutError, match="no process took the token on offer as 'x' in time"):
        place.allocator.offer("x", offered)
    assert not offered.closed


def test_a_token_that_came_at_the_last_moment_is_taken(
    place: MeetingPlace, witness: Witness
) -> None:
    place.meanwhile = give(witness)
    with place.allocator.take("x"):
        assert not witness.gone(0)


def test_a_token_that_came_when_taking_was_interrupted_is_closed(
    place: MeetingPlace, witness: Witness
) -> None:
    place.meanwhile = give(witness)
    place.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        place.allocator.take("x")
    assert witness.gone(0)


def test_a_daemon_that_ends_in_the_meantime_has_given_nothing(
    place: MeetingPlace, offered: blocking.BufferCollectionToken
) -> None:
    place.meanwhile = lambda peer: peer.close()
    with pytest.raises(TimeoutError):
        place.allocator.offer("x", offered)
    with pytest.raises(TimeoutError, match="no token was offered as 'x' in time"):
        place.allocator.take("x")
    assert not offered.closed


def test_what_is_said_of_an_offer_is_checked_first(
    place: MeetingPlace, offered: blocking.BufferCollectionToken
) -> None:
    with pytest.raises(ValueError, match="256"):
        place.allocator.offer("x" * 257, offered)
    with pytest.raises(TypeError, match=r"expected a sysmem\.blocking\.BufferCollectionToken"):
        place.allocator.offer("x", 7)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(TypeError):
        place.allocator.offer("x", offered, to="root")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match="bits"):
        place.allocator.offer("x", offered, to=-1)
    with pytest.raises(TypeError):
        place.allocator.take(None)  # type: ignore[arg-type]  # what is tested
    assert not offered.closed
    offered.close()
    with pytest.raises(HandleClosedError):
        place.allocator.offer("x", offered)


def test_a_closed_allocator_neither_offers_nor_takes(
    place: MeetingPlace, offered: blocking.BufferCollectionToken
) -> None:
    with pytest.raises(TimeoutError):
        place.allocator.take("x")
    place.allocator.close()
    with pytest.raises(HandleClosedError):
        place.allocator.offer("x", offered)
    with pytest.raises(HandleClosedError):
        place.allocator.take("x")
    assert not offered.closed
