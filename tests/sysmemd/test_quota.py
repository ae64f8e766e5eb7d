"""Limits of users and of their connections, as rules over numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sysmemd import quota
from sysmemd.quota import Exceeded, Kind, Limits, Tally

NODES = Kind.NODES


def check(
    amount: int, limits: Limits, connection: Tally, user: Tally, kind: Kind = NODES
) -> str | None:
    """Return the reason why this much more is refused, or None if it is not."""
    try:
        quota.check(kind, amount, connection=connection, user=user, limits=limits)
    except Exceeded as error:
        return str(error)
    return None


def tally(**counts: int) -> Tally:
    made = Tally()
    for kind, amount in counts.items():
        made.add(Kind(kind), amount)
    return made


def test_one_connection_gets_half_and_a_second_one_half_of_what_it_leaves() -> None:
    limits = {NODES: 100}
    assert check(50, limits, tally(), tally()) is None
    assert check(51, limits, tally(), tally()) == (
        "the user's limit of nodes is 100, of which its other connections leave this one 50"
    )
    assert check(25, limits, tally(), tally(nodes=50)) is None
    assert check(26, limits, tally(), tally(nodes=50))


def test_a_limit_of_one_is_one_and_of_none_is_none() -> None:
    assert check(1, {NODES: 1}, tally(), tally()) is None
    assert check(1, {NODES: 1}, tally(nodes=1), tally(nodes=1)) == "the user's limit of nodes is 1"
    assert check(1, {NODES: 0}, tally(), tally()) == "the user's limit of nodes is 0"


@pytest.mark.parametrize("limits", [{}, {Kind.BYTES: None}])
def test_without_a_limit_there_is_none(limits: Limits) -> None:
    assert check(1 << 60, limits, tally(), tally(), Kind.BYTES) is None


def test_what_has_a_descriptor_needs_room_among_these_too() -> None:
    limits = {NODES: 100, Kind.DESCRIPTORS: 10}
    mine = tally(nodes=2, trackings=2)
    assert check(1, limits, mine, mine) is None
    assert check(2, limits, mine, mine) == (
        "the user's limit of descriptors is 10, of which its other connections leave this one 5"
    )
    assert check(2, limits, mine, mine, Kind.COLLECTIONS) is None


def test_what_was_lowered_refuses_new_things_only() -> None:
    mine = tally(nodes=50)
    assert check(1, {NODES: 10}, mine, mine)
    assert check(0, {NODES: 100}, mine, mine) is None
    assert quota.share_of(10, 50) == 0


def test_an_empty_tally_is_known() -> None:
    mine = tally()
    assert mine.is_empty()
    mine.add(NODES, 2)
    assert (mine[NODES], mine[Kind.DESCRIPTORS], mine.is_empty()) == (2, 2, False)
    mine.add(NODES, -2)
    assert mine.is_empty()


@pytest.mark.parametrize(
    ("limit", "base", "expected"),
    [(1_048_576, 20, 524_022), (256, 16, 105), (16, 16, 0), (5, 9, 0)],
)
def test_descriptors_are_shared_out(limit: int, base: int, expected: int) -> None:
    assert quota.descriptors_for_one(limit, base) == expected


@pytest.mark.parametrize(("limit", "expected"), [(1_048_576, 1_048_064), (256, 224), (7, 7)])
def test_a_part_of_the_descriptors_is_not_sent(limit: int, expected: int) -> None:
    assert quota.in_flight_to_all(limit) == expected


@given(limit=st.integers(0, 1 << 21), base=st.integers(0, 100))
def test_two_users_leave_a_reserve(limit: int, base: int) -> None:
    two = 2 * quota.descriptors_for_one(limit, base)
    left = max(0, limit - base)
    assert 0 <= two <= left
    assert left - two >= min(512, left // 8)


class Users(RuleBasedStateMachine):
    """Connections of one user that acquire and release resources at random."""

    @initialize(limit=st.integers(0, 200), connections=st.integers(1, 5))
    def begin(self, limit: int, connections: int) -> None:
        self.limit = limit
        self.user = Tally()
        self.connections = [Tally() for _ in range(connections)]

    @rule(index=st.integers(0, 4), amount=st.integers(1, 60))
    def take(self, index: int, amount: int) -> None:
        mine = self.connections[index % len(self.connections)]
        others = self.user[NODES] - mine[NODES]
        left = self.limit - others
        refused = check(amount, {NODES: self.limit}, mine, self.user)
        assert (refused is None) == (2 * (mine[NODES] + amount) <= left + 1), "half of what is left"
        if refused is None:
            for counted in (mine, self.user):
                counted.add(NODES, amount)

    @rule(index=st.integers(0, 4), amount=st.integers(1, 60))
    def give_back(self, index: int, amount: int) -> None:
        mine = self.connections[index % len(self.connections)]
        less = -min(amount, mine[NODES])
        for counted in (mine, self.user):
            counted.add(NODES, less)

    @invariant()
    def the_limit_holds_and_somebody_new_gets_something(self) -> None:
        assert self.user[NODES] == sum(connection[NODES] for connection in self.connections)
        assert self.user[NODES] <= self.limit
        if self.user[NODES] < self.limit:
            assert check(1, {NODES: self.limit}, Tally(), self.user) is None


TestUsers = Users.TestCase
