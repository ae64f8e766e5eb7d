"""The life of a node, as tables.

# Theory of operation

A node is in one `State`. What happens to it is an `Event`: a message on its channel, the turn-in of its token, the
close of its client end, or a failure that reached it. `TRANSITIONS` lists the allowed events of every state, and the
state that follows. Any other event breaks the protocol: `step` raises `Misuse` and changes nothing. Only `census.step`
changes the state of a node, by `step`. Rules that depend on more than the state (a mask of 0, a weak collection, a
group without children) are checked by the node before the step.

                              Bind                     SetConstraints               Wait
    (created) ──▶ TOKEN ─────────────▶ COLLECTION ─────────────▶ CONSTRAINED ─────────────▶ AWAITED
                    │ Release              │ Release                  │ Release               │ Release
                    ▼                      ▼                          ▼                       │
             RELEASED_TOKEN      RELEASED_COLLECTION        RELEASED_CONSTRAINED ◀────────────┘
                    │ close                │ close                    │ close
                    └──────────────────────┴─────▶ ORPHAN ◀───────────┴──── close ────┐
                                                                                      │
                              AllChildrenPresent              Release                 │
    (created) ──▶ GROUP ─────────────────────────▶ COMPLETE ────────────▶ RELEASED_GROUP

    every state ── a failure reaches it ──▶ FAILED;    TOKEN … AWAITED, GROUP, COMPLETE ── close ──▶ FAILED

A node that is FAILED has left the tree. Every other node is in it, including an ORPHAN: it no longer has a channel, but
keeps its place, its children and the constraints that were set (`docs/spec/allocation.md`, "The tree").

The sets below answer three questions from the state alone: is the node ready for allocation (`READY`), does it have a
connected client (`CONNECTED`), was it released (`RELEASED`).

A node's `Isolation`, and whether it has allocated, determine how far a failure propagates: `STOPS_FAILURE`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from .ports import Misuse


class NodeKind(enum.Enum):
    """The protocol of a node's channel."""

    __hash__ = object.__hash__  # the enum's own is a slow function in Python

    TOKEN = "token"
    COLLECTION = "collection"
    GROUP = "group"


class State(enum.Enum):
    """The state of a node. The value completes the sentence "… on ‹value›"."""

    __hash__ = object.__hash__  # the enum's own is a slow function in Python

    TOKEN = "a token"
    COLLECTION = "a collection without constraints"
    CONSTRAINED = "a collection whose constraints are set"
    AWAITED = "a collection that was asked for its buffers"
    GROUP = "a group whose children are not all present"
    COMPLETE = "a group whose children are all present"
    RELEASED_TOKEN = "a released token"
    RELEASED_COLLECTION = "a released collection without constraints"
    RELEASED_CONSTRAINED = "a released collection"
    RELEASED_GROUP = "a released group"
    ORPHAN = "an orphan"
    FAILED = "a failed node"


class Event(enum.Enum):
    """An event of a node. The value is the message's name, or a description."""

    __hash__ = object.__hash__  # the enum's own is a slow function in Python

    # Messages that every node accepts.
    MESSAGE = "a message"
    RELEASE = "Release"
    SET_WEAK = "SetWeak"
    SET_WEAK_OK = "SetWeakOk"
    # Messages to a token.
    CREATE_TOKEN = "Duplicate"
    CREATE_GROUP = "CreateBufferCollectionTokenGroup"
    SET_DISPENSABLE = "SetDispensable"
    BIND = "BindSharedCollection"
    # Messages to a collection.
    SET_CONSTRAINTS = "SetConstraints"
    WAIT = "WaitForAllBuffersAllocated"
    CHECK = "CheckAllBuffersAllocated"
    ATTACH_TOKEN = "AttachToken"
    ATTACH_LIFETIME_TRACKING = "AttachLifetimeTracking"
    # Messages to a group.
    CREATE_CHILD = "CreateChild"
    ALL_CHILDREN_PRESENT = "AllChildrenPresent"
    # Other events.
    CLOSE = "a close"
    FAIL = "a failure"


#: The states in which a client holds the other end of the node's channel.
CONNECTED: Final = frozenset(State) - {State.ORPHAN, State.FAILED}

#: The states after Release.
RELEASED: Final = frozenset(
    {
        State.RELEASED_TOKEN,
        State.RELEASED_COLLECTION,
        State.RELEASED_CONSTRAINED,
        State.RELEASED_GROUP,
        State.ORPHAN,
    }
)

#: The states that do not block allocation (`docs/spec/allocation.md`, "Ready"). Release alone changes nothing; the
#: close after it does.
READY: Final = frozenset(
    {
        State.CONSTRAINED,
        State.AWAITED,
        State.COMPLETE,
        State.RELEASED_CONSTRAINED,
        State.RELEASED_GROUP,
        State.ORPHAN,
    }
)


def _same(state: State, *events: Event) -> dict[Event, State]:
    """Return transitions for events that are allowed and do not change the state."""
    return dict.fromkeys(events, state)


def _open(state: State, *events: Event) -> dict[Event, State]:
    """Return the transitions of an open node: those of every node, and `events`."""
    return {
        **_same(state, Event.MESSAGE, *events),
        Event.CLOSE: State.FAILED,
        Event.FAIL: State.FAILED,
    }


_RELEASED = {Event.CLOSE: State.ORPHAN, Event.FAIL: State.FAILED}
_COLLECTION_EVENTS = (Event.CHECK, Event.ATTACH_TOKEN, Event.ATTACH_LIFETIME_TRACKING)

TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.TOKEN: {
        **_open(
            State.TOKEN,
            Event.SET_WEAK,
            Event.SET_WEAK_OK,
            Event.CREATE_TOKEN,
            Event.CREATE_GROUP,
            Event.SET_DISPENSABLE,
        ),
        Event.BIND: State.COLLECTION,
        Event.RELEASE: State.RELEASED_TOKEN,
    },
    State.COLLECTION: {
        **_open(State.COLLECTION, Event.SET_WEAK, Event.SET_WEAK_OK, *_COLLECTION_EVENTS),
        Event.SET_CONSTRAINTS: State.CONSTRAINED,
        Event.RELEASE: State.RELEASED_COLLECTION,
    },
    State.CONSTRAINED: {
        **_open(State.CONSTRAINED, Event.SET_WEAK_OK, *_COLLECTION_EVENTS),
        Event.WAIT: State.AWAITED,
        Event.RELEASE: State.RELEASED_CONSTRAINED,
    },
    State.AWAITED: {
        **_open(State.AWAITED, Event.WAIT, *_COLLECTION_EVENTS),
        Event.RELEASE: State.RELEASED_CONSTRAINED,
    },
    State.GROUP: {
        **_open(State.GROUP, Event.SET_WEAK, Event.SET_WEAK_OK, Event.CREATE_CHILD),
        Event.ALL_CHILDREN_PRESENT: State.COMPLETE,
    },
    State.COMPLETE: {
        **_open(State.COMPLETE, Event.SET_WEAK_OK),
        Event.RELEASE: State.RELEASED_GROUP,
    },
    State.RELEASED_TOKEN: _RELEASED,
    State.RELEASED_COLLECTION: _RELEASED,
    State.RELEASED_CONSTRAINED: _RELEASED,
    State.RELEASED_GROUP: _RELEASED,
    State.ORPHAN: {Event.CLOSE: State.ORPHAN, Event.FAIL: State.FAILED},
    State.FAILED: {Event.CLOSE: State.FAILED, Event.FAIL: State.FAILED},
}


def step(state: State, event: Event) -> State:
    """Return the state that follows. Raises `Misuse` if the event is not allowed in this state."""
    following = TRANSITIONS[state].get(event)
    if following is None:
        raise Misuse(f"{event.value} on {state.value}")
    return following


class Isolation(enum.Enum):
    """Whether a node's failure reaches its parent (`docs/spec/allocation.md`, "Failure")."""

    __hash__ = object.__hash__  # the enum's own is a slow function in Python

    PROPAGATE = "propagate"
    PROPAGATE_BEFORE_ALLOCATION = "propagate before allocation"
    DO_NOT_PROPAGATE = "do not propagate"


#: (isolation, the node has logically allocated) → whether a failure at or below this node stops here.
STOPS_FAILURE: Final[Mapping[tuple[Isolation, bool], bool]] = {
    (Isolation.PROPAGATE, False): False,
    (Isolation.PROPAGATE, True): False,
    (Isolation.PROPAGATE_BEFORE_ALLOCATION, False): False,
    (Isolation.PROPAGATE_BEFORE_ALLOCATION, True): True,
    (Isolation.DO_NOT_PROPAGATE, False): True,
    (Isolation.DO_NOT_PROPAGATE, True): True,
}

#: The effect of SetDispensable on a node's isolation. It never weakens a stronger isolation.
DISPENSABLE: Final[Mapping[Isolation, Isolation]] = {
    Isolation.PROPAGATE: Isolation.PROPAGATE_BEFORE_ALLOCATION,
    Isolation.PROPAGATE_BEFORE_ALLOCATION: Isolation.PROPAGATE_BEFORE_ALLOCATION,
    Isolation.DO_NOT_PROPAGATE: Isolation.DO_NOT_PROPAGATE,
}
