"""Users and their accounts: the user to whom each resource is charged, and the limits."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sysmemd.ports import Peer
from sysmemd.quota import Exceeded, Kind, Limits, Share
from sysmemd.refusals import Refusals
from sysmemd.users import Account, OverLimitError, Users

from .accounts import new_users
from .memory.harness import TestClock
from .recording import RecordingLog


def opened(users: Users, uid: int = 7) -> Account:
    """Return the account of a closed connection."""
    account = users.open_account(Peer(1, uid, 8))
    connection = account.take_connection()
    assert connection is not None
    connection.close()
    return account


def limited(limits: Limits, by_uid: Mapping[int, Limits] | None = None) -> Users:
    users = new_users()
    users.limit(limits, by_uid or {})
    return users


def test_each_connection_has_an_account_and_each_uid_one_user() -> None:
    users = new_users()
    one, same = (users.open_account(Peer(pid, 7, 8)) for pid in (1, 2))
    other = users.open_account(Peer(3, 9, 8))
    assert one is not same
    assert one.user is same.user
    assert other.user is not one.user
    assert (other.user.uid, other.peer.pid) == (9, 3)
    assert {user.uid for user in users} == {7, 9}


def test_a_user_is_forgotten_with_the_last_account() -> None:
    users = new_users()
    kept = opened(users).user
    assert opened(users).user is kept
    kept.uid = 0  # a mark
    del kept
    assert opened(users).user.uid == 7


def test_a_charge_is_counted_until_it_is_closed() -> None:
    account = opened(new_users())
    charge = account.charge(Kind.NODES, 3)
    assert (account.tally[Kind.NODES], account.user.tally[Kind.NODES]) == (3, 3)
    charge.close()
    charge.close()
    assert account.tally.is_empty()
    assert account.user.tally.is_empty()


def test_a_connection_is_one_thing_that_its_channel_pays_for() -> None:
    users = limited({Kind.CONNECTIONS: 1})
    account = users.open_account(Peer(1, 7, 8))
    with pytest.raises(Exceeded, match="the user's limit of connections is 1"):
        users.open_account(Peer(2, 7, 8))
    users.open_account(Peer(3, 9, 8))
    connection = account.take_connection()
    assert connection is not None
    assert account.take_connection() is None
    connection.close()
    users.open_account(Peer(2, 7, 8))


def test_what_moves_within_a_user_is_not_counted_twice() -> None:
    users = limited({Kind.NODES: 2})
    one, other = opened(users), opened(users)
    moving, staying = one.charge(Kind.NODES), other.charge(Kind.NODES)
    staying.close()
    moving.move(other)
    moving.move(other)
    assert (one.tally[Kind.NODES], other.tally[Kind.NODES]) == (0, 1)
    assert other.user.tally[Kind.NODES] == 1


def test_what_can_not_move_stays() -> None:
    users = limited({Kind.NODES: 10}, {9: {Kind.NODES: 0}})
    mine, strangers = opened(users, 7), opened(users, 9)
    charge = mine.charge(Kind.NODES)
    with pytest.raises(Exceeded):
        charge.move(strangers)
    assert mine.user.tally[Kind.NODES] == 1
    assert strangers.user.tally.is_empty()
    charge.close()
    assert mine.user.tally.is_empty()


def test_limits_change_for_users_who_are_there() -> None:
    users = limited({Kind.NODES: 10})
    account = opened(users)
    charges = [account.charge(Kind.NODES) for _ in range(5)]
    users.limit({Kind.NODES: 2}, {})
    with pytest.raises(Exceeded):
        account.charge(Kind.NODES)
    users.limit({Kind.NODES: 2}, {7: {Kind.NODES: 100}})
    charges.append(account.charge(Kind.NODES))
    assert account.tally[Kind.NODES] == 6


# --- paying for memory ------------------------------------------------------------------------------------------------


def test_a_buffer_and_its_bytes_are_paid_for_together() -> None:
    account = opened(limited({Kind.BUFFERS: 4, Kind.BYTES: 8192}))
    gone = account.pay_for_buffer(4096)
    assert account.tally[Kind.BYTES] == 4096
    with pytest.raises(OverLimitError, match="limit of bytes is 8192") as caught:
        account.pay_for_buffer(1)
    assert caught.value.exceeded.kind is Kind.BYTES
    assert account.tally[Kind.BUFFERS] == 1, "nothing is kept of what is refused"
    gone()
    gone()
    assert account.tally.is_empty()


def test_a_descriptor_is_paid_for() -> None:
    account = opened(limited({Kind.DESCRIPTORS: 1}))
    gone = account.pay_for_descriptor()
    with pytest.raises(OverLimitError, match="descriptors"):
        account.pay_for_descriptor()
    gone()
    assert account.tally.is_empty()


# --- what waits -------------------------------------------------------------------------------------------------------


class Queue:
    """A channel with waiting responses."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.waiting_bytes = self.waiting_descriptors = 0
        self.overflown: list[Exceeded] = []

    def wait(self, size: int, descriptors: int = 0) -> None:
        self.waiting_bytes += size
        self.waiting_descriptors += descriptors
        self._account.queue(self, size, descriptors)

    def overflow(self, error: Exceeded) -> None:
        self.overflown.append(error)
        self.wait(-self.waiting_bytes, -self.waiting_descriptors)


@pytest.mark.parametrize("kind", [Kind.QUEUED_BYTES, Kind.DESCRIPTORS])
def test_when_too_much_waits_the_channel_with_the_most_ends_later(kind: Kind) -> None:
    clock = TestClock()
    users = Users(Refusals(RecordingLog(), clock), clock)
    users.limit({kind: 200}, {})
    account = opened(users)
    full, other = Queue(account), Queue(account)
    full.wait(60, 60)
    other.wait(40, 40)
    clock.run_due()
    other.wait(1, 1)
    other.wait(1, 1)
    assert (full.overflown, other.overflown) == ([], [])
    clock.run_due()
    [error] = full.overflown
    assert (error.kind, error.limit, other.overflown) == (kind, 200, [])
    assert clock.next_due() is None
    other.wait(-42, -42)
    assert account.user.tally.is_empty()


def test_what_is_sent_ends_nobody() -> None:
    clock = TestClock()
    users = Users(Refusals(RecordingLog(), clock), clock)
    users.limit({Kind.QUEUED_BYTES: 100}, {})
    queue, others = (Queue(opened(users)) for _ in range(2))
    queue.wait(50)
    others.wait(25)
    queue.wait(-10)  # more than its share is left, but less than before
    assert clock.next_due() is None


def test_channels_end_only_for_descriptors_that_they_have() -> None:
    clock = TestClock()
    users = Users(Refusals(RecordingLog(), clock), clock)
    users.limit({Kind.DESCRIPTORS: 20}, {})
    account = opened(users)
    innocent, guilty = Queue(account), Queue(account)
    nodes = account.charge(Kind.NODES, 10)
    innocent.wait(1000)
    guilty.wait(10, 1)
    users.limit({Kind.DESCRIPTORS: 2}, {})
    clock.run_due()
    assert (innocent.overflown, len(guilty.overflown)) == ([], 1)
    nodes.close()


# --- what is said -----------------------------------------------------------------------------------------------------


def test_a_refusal_says_who_and_what_limit() -> None:
    log, clock = RecordingLog(), TestClock()
    users = Users(Refusals(log, clock), clock, Share(limit=101))
    users.limit({Kind.NODES: 1, Kind.CONNECTIONS: 1}, {})
    account = users.open_account(Peer(1, 7, 8))
    with pytest.raises(Exceeded):
        users.open_account(Peer(2, 7, 8))
    account.say(Exceeded(Kind.NODES, 100, 50), {"client_name": "camera", "client_id": 3})
    account.in_flight.add(3)
    users.open_account(Peer(1, 8, 8)).say_in_flight({})
    account.say_in_flight({"client_name": "camera", "client_id": 3})
    assert log.entries[2:] == [
        (
            "warning",
            "a response waits until the user has received earlier descriptors",
            {"user": user, "limit": "in_flight", "value": value, "in_flight": count}
            | {"in_flight_to_connection": count, "client_name": name, "client_id": client_id},
        )
        for user, value, count, name, client_id in ((8, 98, 0, "", 0), (7, 51, 3, "camera", 3))
    ]
    assert log.entries[:2] == [
        (
            "warning",
            "a user's quota is exhausted",
            {"user": 7, "limit": "connections", "value": 1, "client_name": "", "client_id": 0}
            | {"pid": 2, "share": 0},
        ),
        (
            "warning",
            "a user's quota is exhausted",
            {"user": 7, "limit": "nodes", "value": 100, "share": 50}
            | {"client_name": "camera", "client_id": 3},
        ),
    ]
