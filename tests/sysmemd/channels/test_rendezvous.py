"""The Rendezvous service: which client gets which token, and what remains of clients that disconnect."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sysmemd.slow import SlowWork

from sysmem_protocol import handles
from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle, channel_pair
from sysmem_protocol.rendezvous import (
    Rendezvous,
    RendezvousOfferRequest,
    RendezvousTakeRequest,
    RendezvousTakeResponse,
)
from sysmem_protocol.sysmem2 import (
    Allocator,
    AllocatorAllocateSharedCollectionRequest,
    BufferCollectionToken,
    BufferCollectionTokenDuplicateRequest,
    Error,
)
from sysmemd.channels.nodes import TokenServer
from sysmemd.config import Limits
from sysmemd.pause import Holder

from .support import SAME_RIGHTS, STRANGER, Bench, Client, none_left

OTHER = STRANGER + 1


def offer(
    client: Client, token: Client | Handle, name: str = "camera", to_uid: int | None = None
) -> int:
    """Offer a token whose client end the client no longer has. Return the txid."""
    if isinstance(token, Client):
        handle = token.duplicate_end()
        token.close()
    else:
        handle = token
    request = RendezvousOfferRequest(name=name, token=handle, to_uid=to_uid)
    return client.send(Rendezvous.offer, request)


def take(client: Client, name: str = "camera") -> int:
    return client.send(Rendezvous.take, RendezvousTakeRequest(name=name))


def taken(bench: Bench, client: Client, txid: int) -> Client:
    """Return the token that a client received."""
    answer = client.answer(Rendezvous.take, txid)
    assert isinstance(answer, RendezvousTakeResponse)
    assert answer.token is not None
    return bench.adopt(answer.token)


def is_idle(bench: Bench) -> bool:
    """Return whether nothing is on offer or awaited."""
    meetings = vars(bench.service.meetings)
    return not any(meetings[kept] for kept in ("_offers", "_takes", "_calls"))


def koid(client: Client) -> bytes:
    return client.channel.peer_name()


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_token_that_cannot_be_passed_on_ends_its_taker_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = bench.rendezvous(), bench.rendezvous()
    take(there)
    bench.run()
    offer(here, bench.token())
    with monkeypatch.context() as patch:
        patch.setattr(Handle, "duplicate", none_left)
        bench.run()
    assert (there.is_closed(), here.is_closed()) == (True, False)
    again = bench.rendezvous()
    txid = take(again)
    bench.run()
    taken(bench, again, txid).sync()


# --- meeting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["offer", "take"])
def test_a_token_goes_to_who_takes_it_and_then_the_offer_is_answered(
    bench: Bench, first: str
) -> None:
    here, there, token = bench.rendezvous(), bench.rendezvous(), bench.token()
    number = koid(token)
    if first == "take":
        taking = take(there)
        bench.run()
        assert there.message() is None
        offering = offer(here, token)
    else:
        offering = offer(here, token)
        bench.run()
        assert here.message() is None
        taking = take(there)
    bench.run()
    assert here.answer(Rendezvous.offer, offering) is None
    given = taken(bench, there, taking)
    assert koid(given) == number
    assert is_idle(bench)
    said = {event: fields for event, fields in bench.log.said("debug") if "name" in fields}
    assert set(said) == {"a token is on offer", "a token is awaited"}
    for fields in said.values():
        assert (fields["name"], fields["to_user"], fields["user"]) == ("camera", STRANGER, STRANGER)
        assert (fields["channel"], fields["pid"]) == ("Rendezvous", os.getpid())
    given.sync()
    # No other process has it: the daemon has closed its client end, and notices that this one closes.
    given.close()
    bench.run()
    assert bench.service.tokens == {}


def test_names_are_exact(bench: Bench) -> None:
    here, there = bench.rendezvous(), bench.rendezvous()
    offer(here, bench.token(), "camera")
    take(there, "camera ")
    take(there, "Camera")
    take(there, "")
    bench.run()
    assert here.message() is None
    assert there.message() is None


def test_many_are_offered_and_awaited_on_one_connection(bench: Bench) -> None:
    here, there = bench.rendezvous(), bench.rendezvous()
    tokens = [bench.token() for _ in range(3)]
    numbers = [koid(token) for token in tokens]
    offering = [offer(here, token, str(index)) for index, token in enumerate(tokens)]
    taking = [take(there, str(index)) for index in reversed(range(3))]
    bench.run()
    assert [koid(taken(bench, there, txid)) for txid in taking] == numbers[::-1]
    for txid in reversed(offering):
        assert here.answer(Rendezvous.offer, txid) is None


# --- users ------------------------------------------------------------------------------------------------------------


def test_only_the_user_whom_it_is_for_gets_a_token_root_included(bench: Bench) -> None:
    here, same, root, other = map(bench.rendezvous, (STRANGER, STRANGER, 0, OTHER))
    offer(here, bench.token(), to_uid=OTHER)
    take(same)
    take(root)
    bench.run()
    assert here.message() is same.message() is root.message() is None
    taken_by_other = take(other)
    bench.run()
    assert taken(bench, other, taken_by_other)
    # Without a user, the offer is for the user of the process.
    offer(root, bench.token())
    bench.run()
    assert same.message() is None
    own = root.message()  # its own call came first
    assert own is not None
    own.close()


def test_a_name_is_on_offer_once_between_the_same_users(bench: Bench) -> None:
    here, again, other = bench.rendezvous(), bench.rendezvous(), bench.rendezvous(OTHER)
    offering = offer(here, bench.token())
    second = bench.token()
    refused = offer(again, second.duplicate_end())
    bench.run()
    assert again.answer(Rendezvous.offer, refused) is Error.HANDLE_ACCESS_DENIED
    assert here.message() is None
    second.sync()  # the process that offered it still has it
    for between in (
        offer(again, bench.token(), to_uid=OTHER),
        offer(again, bench.token(), "other name"),
    ):
        bench.run()
        assert again.message() is None, between
    offer(other, bench.token(), to_uid=STRANGER)
    bench.run()
    assert other.message() is None
    # After the token was taken, the name is free.
    taking = take(again)
    bench.run()
    assert here.answer(Rendezvous.offer, offering) is None
    taken(bench, again, taking)
    offer(here, bench.token())
    bench.run()
    assert here.message() is None


def test_the_reason_names_the_users_and_shows_the_name_on_one_line(bench: Bench) -> None:
    here = bench.rendezvous()
    offer(here, bench.token(), "a\nb")
    offer(here, bench.token(), "a\nb")
    bench.run()
    [(_, fields)] = [line for line in bench.log.said("info") if "reason" in line[1]]
    assert fields["reason"] == (
        f"user {STRANGER} already offers a token to user {STRANGER} as 'a\\nb'"
    )
    assert (fields["error"], fields["user"]) == ("HANDLE_ACCESS_DENIED", STRANGER)


# --- who leaves -------------------------------------------------------------------------------------------------------


def test_an_offer_ends_with_its_channel_and_the_token_with_it(bench: Bench) -> None:
    here, there = bench.rendezvous(), bench.rendezvous()
    offer(here, bench.token())
    bench.run()
    assert len(bench.service.tokens) == 1
    here.close()
    bench.run()
    assert bench.service.tokens == {}
    take(there)
    bench.run()
    assert there.message() is None


def test_offers_and_takes_end_with_the_service(bench: Bench) -> None:
    here = bench.rendezvous()
    token = bench.token()
    spare = bench.adopt(token.duplicate_end())
    offer(here, token)
    take(here, "display")
    bench.run()
    bench.service.close()
    assert is_idle(bench)
    assert spare.is_closed()


@pytest.mark.parametrize("next_is", ["an offer", "a take"])
def test_an_offer_of_who_has_left_is_given_to_nobody_and_holds_no_name(
    bench: Bench, next_is: str
) -> None:
    """This holds also if the daemon reads from other clients before it reads from that end."""
    gone, there, here = bench.rendezvous(), bench.rendezvous(), bench.rendezvous()
    token = bench.token()
    number = koid(token)
    offer(gone, bench.token())
    bench.run()
    gone.close()
    bench.reactor.served.reverse()  # the newest channel is read first
    if next_is == "a take":
        taking = take(there)
        bench.run()
        assert there.message() is None
    offering = offer(here, token)
    bench.run()
    if next_is == "an offer":
        taking = take(there)
        bench.run()
    assert here.answer(Rendezvous.offer, offering) is None
    assert koid(taken(bench, there, taking)) == number


def test_a_taker_that_has_left_gets_nothing_and_the_next_does(bench: Bench) -> None:
    gone, there, here = bench.rendezvous(), bench.rendezvous(), bench.rendezvous()
    take(gone)
    taking = take(there)
    bench.run()
    offering = offer(here, bench.token())
    bench.reactor.served.reverse()
    gone.close()
    bench.run()
    assert here.answer(Rendezvous.offer, offering) is None
    taken(bench, there, taking).sync()


def test_a_taker_that_shuts_its_end_down_knows_by_that_whether_it_has_a_token(bench: Bench) -> None:
    """A client does this when it gives up."""
    early, late, here = bench.rendezvous(), bench.rendezvous(), bench.rendezvous()
    take(early)
    bench.run()
    handles.shut_down(early.channel.fileno())
    offering = offer(here, bench.token())
    bench.run()
    assert early.is_closed()
    assert here.message() is None
    taking = take(late)
    bench.run()
    handles.shut_down(late.channel.fileno())
    taken(bench, late, taking).sync()
    assert here.answer(Rendezvous.offer, offering) is None


def test_a_taker_that_breaks_a_rule_leaves_its_place_to_the_next(bench: Bench) -> None:
    bad, there, here = bench.rendezvous(), bench.rendezvous(), bench.rendezvous()
    take(bad)
    bench.run()
    bad.channel.send(b"nonsense")
    bench.run()
    assert bad.is_closed()
    fields = bench.log.refusal()
    assert (
        fields.items()
        >= {
            "channel": "Rendezvous",
            "client_name": "",
            "client_id": 0,
            "user": STRANGER,
            "pid": os.getpid(),
        }.items()
    )
    taking = take(there)
    offer(here, bench.token())
    bench.run()
    taken(bench, there, taking)


@pytest.mark.parametrize(
    "request_",
    [
        lambda token: (Rendezvous.offer, RendezvousOfferRequest(token=token)),
        lambda token: (Rendezvous.offer, RendezvousOfferRequest(name="camera")),
        lambda token: (Rendezvous.take, RendezvousTakeRequest()),
    ],
)
def test_a_required_field_that_is_un_set_closes_the_channel(
    bench: Bench, request_: Callable[[Handle], tuple[object, object]]
) -> None:
    client = bench.rendezvous()
    with bench.token().duplicate_end() as handle:
        client.send(*request_(handle))  # type: ignore[arg-type]  # a method and its request
    bench.run()
    assert client.is_closed()


def test_what_is_no_seqpacket_socket_closes_the_channel(bench: Bench) -> None:
    client = bench.rendezvous()
    near, far = socket.socketpair()
    with near:
        offer(client, Handle(far.detach()))
        bench.run()
        assert client.is_closed()
        assert near.recv(1) == b""


# --- tokens that can't be turned in -----------------------------------------------------------------------------------


def fake() -> Handle:
    """Return a client end whose other end is closed."""
    near, far = channel_pair()
    far.close()
    return Handle(near.detach())


def test_what_is_no_token_is_refused_at_once(bench: Bench) -> None:
    here = bench.rendezvous()
    collection = bench.collection()
    token = bench.token()
    spare = token.duplicate_end()
    bench.bind(token)
    for handle in (fake(), spare, collection.duplicate_end()):
        txid = offer(here, handle)
        bench.run()
        assert here.answer(Rendezvous.offer, txid) is Error.NOT_FOUND
    collection.sync()


@pytest.mark.parametrize("how", ["fails", "is turned in", "is lost with its collection"])
def test_the_offering_client_learns_when_its_token_is_of_no_use_any_more(
    bench: Bench, how: str
) -> None:
    here, there = bench.rendezvous(), bench.rendezvous()
    root = bench.token()
    token = bench.duplicate(root)
    spare = bench.adopt(token.duplicate_end())
    txid = offer(here, token)
    bench.run()
    assert here.message() is None
    if how == "fails":
        spare.channel.send(b"nonsense")
    elif how == "is turned in":
        bench.bind(spare)
    else:
        root.close()
    bench.run()
    assert here.answer(Rendezvous.offer, txid) is Error.NOT_FOUND
    *_, fields = [fields for _, fields in bench.log.said("info") if "reason" in fields]
    assert fields["reason"].startswith("the token can't be turned in: its node has failed, or it")
    take(there)
    bench.run()
    assert there.message() is None


def test_a_token_that_was_taken_is_no_concern_of_its_offer_any_more(bench: Bench) -> None:
    here, there = bench.rendezvous(), bench.rendezvous()
    offering, taking = offer(here, bench.token()), take(there)
    bench.run()
    assert here.answer(Rendezvous.offer, offering) is None
    bench.bind(taken(bench, there, taking)).sync()
    assert here.message() is None


def test_a_token_that_the_daemon_is_yet_to_hear_of_is_looked_at_when_it_is_taken(
    bench: Bench,
) -> None:
    here, there, root = bench.rendezvous(), bench.rendezvous(), bench.token()
    client, far = bench.client()
    near_never, far_never = channel_pair()
    with far_never:
        offering = offer(here, client)
        never = offer(here, Handle(near_never.detach()), "never")
        bench.run()
        assert here.message() is None
        root.send(
            BufferCollectionToken.duplicate,
            BufferCollectionTokenDuplicateRequest(
                rights_attenuation_mask=SAME_RIGHTS, token_request=far
            ),
        )
        bench.run()
        taking = [take(there), take(there, "never")]
        bench.run()
        assert here.answer(Rendezvous.offer, offering) is None
        assert here.answer(Rendezvous.offer, never) is Error.NOT_FOUND
    taken(bench, there, taking[0]).sync()
    assert there.message() is None


# --- when something has run out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ETOOMANYREFS])
def test_a_token_that_can_not_be_sent_stays_on_offer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    here, unlucky, there = bench.rendezvous(), bench.rendezvous(), bench.rendezvous()
    offering = offer(here, bench.token())
    bench.run()
    take(unlucky)
    fail = OSError(error, "out of it")

    def refuse(*_: object) -> None:
        raise fail

    with monkeypatch.context() as patch:
        if error == errno.EMFILE:
            patch.setattr(Handle, "duplicate", refuse)
        else:
            patch.setattr(Channel, "send", refuse)
        bench.run()
    assert unlucky.is_closed()
    _, said = bench.log.said("warning", "error")[-1]
    assert "out of it" in said["reason"]
    assert here.message() is None
    taking = take(there)
    bench.run()
    taken(bench, there, taking).sync()
    assert here.answer(Rendezvous.offer, offering) is None


def test_the_offer_that_a_full_outbox_has_no_room_for_goes_to_the_next() -> None:
    bench = Bench(Limits(max_outbox_messages=4))
    here, there, next_one = bench.rendezvous(), bench.rendezvous(), bench.rendezvous()
    token = bench.token()
    handed_over = 0
    while True:
        offering, _ = offer(here, token.duplicate_end()), take(there)
        bench.run()
        if (answer := here.message()) is None:
            break
        assert answer.txid == offering
        handed_over += 1
    assert handed_over > 4
    assert bench.log.refusal()["reason"].startswith("5 responses")
    taking = take(next_one)
    bench.run()
    taken(bench, next_one, taking).sync()
    bench.close()


# --- while others go on -----------------------------------------------------------------------------------------------


@pytest.fixture
def work() -> SlowWork:
    return SlowWork()


@pytest.fixture
def slow(work: SlowWork, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A service that serves others before it has examined a token."""
    changed_by = TokenServer.changed_by

    def paused(server: TokenServer) -> Holder | None:
        work.pause()
        return changed_by(server)

    monkeypatch.setattr(TokenServer, "changed_by", paused)
    bench = Bench(do=work.do)
    yield bench
    bench.close()


def finish(bench: Bench, work: SlowWork) -> None:
    bench.run()
    while work.pending:
        while work.pending:
            work.go_on()
        bench.run()


def test_two_offers_at_once_of_one_name(slow: Bench, work: SlowWork) -> None:
    one, other, there = slow.rendezvous(), slow.rendezvous(), slow.rendezvous()
    offering = offer(one, slow.token()), offer(other, slow.token())
    slow.run()
    assert work.pending == 2
    finish(slow, work)
    assert one.message() is None
    assert other.answer(Rendezvous.offer, offering[1]) is Error.HANDLE_ACCESS_DENIED
    taking = take(there)
    finish(slow, work)
    taken(slow, there, taking).sync()
    assert one.answer(Rendezvous.offer, offering[0]) is None


def unseen(bench: Bench, here: Client, name: str = "camera") -> tuple[Client, int, Handle]:
    """Offer a token that the daemon does not know yet.

    Return the allocator that reveals it, the call, and the server end.
    """
    client, far = bench.client()
    return bench.allocator(), offer(here, client, name), far


def reveal(bench: Bench, allocator: Client, far: Handle) -> None:
    """Send a token's server end to the daemon."""
    request = AllocatorAllocateSharedCollectionRequest(token_request=far)
    allocator.send(Allocator.allocate_shared_collection, request)
    bench.run()


def test_others_are_served_between_offers_whose_clients_have_left(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [bench.rendezvous(uid) for uid in range(3)]
    for client in clients:
        offer(client, bench.token(), to_uid=STRANGER)
    bench.run()
    for client in clients:
        client.close()
    pauses: list[None] = []
    monkeypatch.setattr("sysmemd.channels.meetings.give_way", lambda: pauses.append(None))
    bench.reactor.served.reverse()  # their ends are not read yet
    there = bench.rendezvous()
    bench.reactor.served.insert(0, bench.reactor.served.pop())
    take(there)
    bench.run()
    assert len(pauses) == 3


def test_two_takers_at_once_of_a_token_that_is_looked_at(slow: Bench, work: SlowWork) -> None:
    here, there, late = slow.rendezvous(), slow.rendezvous(), slow.rendezvous()
    allocator, offering, far = unseen(slow, here)
    finish(slow, work)
    reveal(slow, allocator, far)
    taking = take(there), take(late)
    slow.run()
    assert work.pending == 1  # and the other client waits for that
    finish(slow, work)
    assert here.answer(Rendezvous.offer, offering) is None
    taken(slow, there, taking[0]).sync()
    assert late.message() is None
    again = offer(here, slow.token())
    finish(slow, work)
    assert here.answer(Rendezvous.offer, again) is None
    taken(slow, late, taking[1]).sync()


def test_an_offer_ends_while_its_token_is_looked_at(slow: Bench, work: SlowWork) -> None:
    here, there = slow.rendezvous(), slow.rendezvous()
    allocator, _, far = unseen(slow, here)
    finish(slow, work)
    reveal(slow, allocator, far)
    taking = take(there)
    slow.run()
    assert work.pending == 1
    here.close()
    slow.run()
    finish(slow, work)
    assert there.message() is None
    assert slow.service.tokens == {}
    offer(slow.rendezvous(), slow.token())
    finish(slow, work)
    taken(slow, there, taking).sync()


def test_a_taker_leaves_while_a_token_is_looked_at_for_it(slow: Bench, work: SlowWork) -> None:
    here, there, late = slow.rendezvous(), slow.rendezvous(), slow.rendezvous()
    allocator, offering, far = unseen(slow, here)
    finish(slow, work)
    reveal(slow, allocator, far)
    take(there)
    slow.run()
    taking = take(late)
    slow.run()
    there.close()
    finish(slow, work)
    taken(slow, late, taking).sync()
    assert here.answer(Rendezvous.offer, offering) is None


def test_a_token_that_was_looked_at_for_who_has_left_is_watched(
    slow: Bench, work: SlowWork
) -> None:
    here, there = slow.rendezvous(), slow.rendezvous()
    client, far = slow.client()
    spare = slow.adopt(client.duplicate_end())
    allocator, offering = slow.allocator(), offer(here, client)
    finish(slow, work)
    reveal(slow, allocator, far)
    take(there)
    slow.run()
    there.close()
    finish(slow, work)
    assert here.message() is None
    spare.channel.send(b"nonsense")
    finish(slow, work)
    assert here.answer(Rendezvous.offer, offering) is Error.NOT_FOUND


def test_a_connection_that_ends_while_its_offer_is_looked_at_offers_nothing(
    slow: Bench, work: SlowWork
) -> None:
    here = slow.rendezvous()
    offer(here, slow.token())
    slow.run()
    assert work.pending == 1
    [connection] = [c for c in slow.reactor.connections() if c.server.interface is Rendezvous]
    connection.refuse("the daemon ends it meanwhile")
    finish(slow, work)
    assert here.is_closed()
    assert slow.service.tokens == {}
    assert is_idle(slow)


# --- everything in turn -----------------------------------------------------------------------------------------------

USERS = (1000, 1001)
NAMES = ("camera", "display")
#: A step: connect as a user and offer or take, or disconnect.
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("offer"), st.sampled_from(USERS), st.sampled_from(NAMES), st.sampled_from(USERS)
        ),
        st.tuples(st.just("take"), st.sampled_from(USERS), st.sampled_from(NAMES)),
        st.tuples(st.just("leave"), st.integers(0, 30)),
    ),
    max_size=25,
)


@given(STEPS)
def test_first_come_first_served_whatever_happens(steps: list[tuple[object, ...]]) -> None:
    """Compare with lists of the offers and takes in the order of their arrival."""
    bench = Bench()
    offers: list[tuple[Client, int, int, str, int, bytes]] = []
    takes: list[tuple[Client, int, int, str]] = []
    clients: list[Client] = []
    try:
        for step in steps:
            match step:
                case "offer", int(uid), str(name), int(to_uid):
                    client, token = bench.rendezvous(uid), bench.token()
                    number = koid(token)
                    clients.append(client)
                    txid = offer(client, token, name, to_uid)
                    if any(o[2:5] == (uid, name, to_uid) for o in offers):
                        bench.run()
                        assert client.answer(Rendezvous.offer, txid) is Error.HANDLE_ACCESS_DENIED
                    else:
                        offers.append((client, txid, uid, name, to_uid, number))
                case "take", int(uid), str(name):
                    client = bench.rendezvous(uid)
                    clients.append(client)
                    takes.append((client, take(client, name), uid, name))
                case "leave", int(index) if index < len(clients):
                    client = clients[index]
                    client.close()
                    offers = [o for o in offers if o[0] is not client]
                    takes = [t for t in takes if t[0] is not client]
            bench.run()
            for t in list(takes):
                for o in offers:
                    if (o[3], o[4]) == (t[3], t[2]):
                        assert koid(taken(bench, t[0], t[1])) == o[5]
                        assert o[0].answer(Rendezvous.offer, o[1]) is None
                        offers.remove(o)
                        takes.remove(t)
                        break
            for client in [*(o[0] for o in offers), *(t[0] for t in takes)]:
                assert client.message() is None
        for client in clients:
            client.close()
        bench.run()
        assert is_idle(bench)
    finally:
        bench.close()
