"""The tables of a node's states, compared with `docs/spec/protocol.md` and `docs/spec/allocation.md`."""

from __future__ import annotations

import pytest

from sysmemd.tree import Misuse
from sysmemd.tree.state import (
    CONNECTED,
    DISPENSABLE,
    READY,
    RELEASED,
    STOPS_FAILURE,
    TRANSITIONS,
    Event,
    Isolation,
    State,
    step,
)

OPEN = [
    State.TOKEN,
    State.COLLECTION,
    State.CONSTRAINED,
    State.AWAITED,
    State.GROUP,
    State.COMPLETE,
]
RELEASED_BUT_OPEN = sorted(RELEASED & CONNECTED, key=lambda state: state.name)
NOT_MESSAGES = {Event.CLOSE, Event.FAIL}
COLLECTIONS = {State.COLLECTION, State.CONSTRAINED, State.AWAITED}

#: message → the states in which it is allowed.
ALLOWED = {
    Event.MESSAGE: set(OPEN),
    Event.RELEASE: set(OPEN) - {State.GROUP},
    Event.SET_WEAK: {State.TOKEN, State.COLLECTION, State.GROUP},
    Event.SET_WEAK_OK: set(OPEN) - {State.AWAITED},
    Event.CREATE_TOKEN: {State.TOKEN},
    Event.CREATE_GROUP: {State.TOKEN},
    Event.SET_DISPENSABLE: {State.TOKEN},
    Event.BIND: {State.TOKEN},
    Event.SET_CONSTRAINTS: {State.COLLECTION},
    Event.WAIT: {State.CONSTRAINED, State.AWAITED},
    Event.CHECK: COLLECTIONS,
    Event.ATTACH_TOKEN: COLLECTIONS,
    Event.ATTACH_LIFETIME_TRACKING: COLLECTIONS,
    Event.CREATE_CHILD: {State.GROUP},
    Event.ALL_CHILDREN_PRESENT: {State.GROUP},
}


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set(ALLOWED) | NOT_MESSAGES == set(Event)


@pytest.mark.parametrize("event", ALLOWED, ids=lambda event: event.value)
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_a_message_is_allowed_where_the_protocol_says_so(state: State, event: Event) -> None:
    if state in ALLOWED[event]:
        assert step(state, event) is not State.FAILED
    else:
        with pytest.raises(Misuse, match=f"^{event.value} on {state.value}$"):
            step(state, event)


@pytest.mark.parametrize("state", OPEN, ids=lambda state: state.name)
def test_a_close_without_release_is_a_failure(state: State) -> None:
    assert step(state, Event.CLOSE) is State.FAILED


@pytest.mark.parametrize("state", RELEASED_BUT_OPEN, ids=lambda state: state.name)
def test_a_close_after_release_makes_an_orphan(state: State) -> None:
    assert step(state, Event.CLOSE) is State.ORPHAN


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_a_failure_ends_every_state(state: State) -> None:
    assert step(state, Event.FAIL) is State.FAILED


def test_what_has_ended_stays_ended() -> None:
    assert step(State.ORPHAN, Event.CLOSE) is State.ORPHAN
    assert step(State.FAILED, Event.CLOSE) is State.FAILED


@pytest.mark.parametrize(
    ("state", "ready"),
    [
        (State.TOKEN, False),
        (State.RELEASED_TOKEN, False),
        (State.COLLECTION, False),
        (State.RELEASED_COLLECTION, False),
        (State.CONSTRAINED, True),
        (State.AWAITED, True),
        (State.RELEASED_CONSTRAINED, True),
        (State.GROUP, False),
        (State.COMPLETE, True),
        (State.RELEASED_GROUP, True),
        (State.ORPHAN, True),
    ],
)
def test_ready(state: State, ready: bool) -> None:
    assert (state in READY) == ready


def test_connected_until_the_client_end_closes() -> None:
    assert {State.ORPHAN, State.FAILED} == set(State) - CONNECTED


@pytest.mark.parametrize(
    ("isolation", "before", "after"),
    [
        (Isolation.PROPAGATE, False, False),
        (Isolation.PROPAGATE_BEFORE_ALLOCATION, False, True),
        (Isolation.DO_NOT_PROPAGATE, True, True),
    ],
)
def test_where_a_failure_stops(isolation: Isolation, before: bool, after: bool) -> None:
    assert STOPS_FAILURE[isolation, False] == before
    assert STOPS_FAILURE[isolation, True] == after


def test_set_dispensable_raises_only_the_first_isolation_to_the_second() -> None:
    assert DISPENSABLE == {
        Isolation.PROPAGATE: Isolation.PROPAGATE_BEFORE_ALLOCATION,
        Isolation.PROPAGATE_BEFORE_ALLOCATION: Isolation.PROPAGATE_BEFORE_ALLOCATION,
        Isolation.DO_NOT_PROPAGATE: Isolation.DO_NOT_PROPAGATE,
    }
