"""The life of a node, as tables.

# Theory of operation

A node is in one `State`. What happens to it is an `Event`: a message on its channel, the turn-in of its token, the
close of its client end, or a failure that reached it. `TRANSITIONS` says for every state which events are allowed and
which state follows; an event that isn't listed is a breach of the protocol: `step` raises `Misuse` and nothing has
changed. Only `census.step` changes the state of a node, by `step`. Rules that need more than the state (a mask of 0,
a weak collection, a group without children) are checked by the node before it steps.

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

A node that is FAILED has left the tree. Every other node is in it, an ORPHAN too: it has no channel any more but keeps
its place, its children and the constraints it had set (`docs/spec/allocation.md`, "The tree").

Three questions are answered from the state alone, by the sets below: is the node ready for allocation (`READY`), has it
a connected client (`CONNECTED`), was it released (`RELEASED`).

How far a failure goes is decided by a node's `Isolation` and whether it has allocated: `STOPS_FAILURE`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from .ports import Misuse


class NodeKind(enum.Enum):
    """What is spoken on a node's channel."""

    __hash__ = object.__hash__  # of an enum it is a function in Python

    TOKEN = "token"
    COLLECTION = "collection"
    GROUP = "group"


class State(enum.Enum):
    """Where a node is in its life; the value completes the sentence "… on ‹value›"."""

    __hash__ = object.__hash__  # of an enum it is a function in Python

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
    """What can happen to a node; the value is the message's name, or says what happened."""

    __hash__ = object.__hash__  # of an enum it is a function in Python

    # Messages that every node understands.
    MESSAGE = "a message"
    RELEASE = "Release"
    SET_WEAK = "SetWeak"
    SET_WEAK_OK = "SetWeakOk"
    # A token's.
    CREATE_TOKEN = "Duplicate"
    CREATE_GROUP = "CreateBufferCollectionTokenGroup"
    SET_DISPENSABLE = "SetDispensable"
    BIND = "BindSharedCollection"
    # A collection's.
    SET_CONSTRAINTS = "SetConstraints"
    WAIT = "WaitForAllBuffersAllocated"
    CHECK = "CheckAllBuffersAllocated"
    ATTACH_TOKEN = "AttachToken"
    ATTACH_LIFETIME_TRACKING = "AttachLifetimeTracking"
    # A group's.
    CREATE_CHILD = "CreateChild"
    ALL_CHILDREN_PRESENT = "AllChildrenPresent"
    # What isn't a message.
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

#: The states that don't hold up allocation (`docs/spec/allocation.md`, "Ready"). A release alone changes nothing; a
#: close does.
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
    """Events that are allowed and change nothing about the state."""
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
    """Return the state that follows. Raises `Misuse` when the event isn't allowed in this state."""
    following = TRANSITIONS[state].get(event)
    if following is None:
        raise Misuse(f"{event.value} on {state.value}")
    return following


class Isolation(enum.Enum):
    """Whether a node's failure reaches its parent (`docs/spec/allocation.md`, "Failure")."""

    __hash__ = object.__hash__  # of an enum it is a function in Python

    PROPAGATE = "propagate"
    PROPAGATE_BEFORE_ALLOCATION = "propagate before allocation"
    DO_NOT_PROPAGATE = "do not propagate"


#: (isolation, the node has logically allocated) → a failure from here or below stops at this node.
STOPS_FAILURE: Final[Mapping[tuple[Isolation, bool], bool]] = {
    (Isolation.PROPAGATE, False): False,
    (Isolation.PROPAGATE, True): False,
    (Isolation.PROPAGATE_BEFORE_ALLOCATION, False): False,
    (Isolation.PROPAGATE_BEFORE_ALLOCATION, True): True,
    (Isolation.DO_NOT_PROPAGATE, False): True,
    (Isolation.DO_NOT_PROPAGATE, True): True,
}

#: What SetDispensable makes of a node's isolation: it never weakens a stronger one.
DISPENSABLE: Final[Mapping[Isolation, Isolation]] = {
    Isolation.PROPAGATE: Isolation.PROPAGATE_BEFORE_ALLOCATION,
    Isolation.PROPAGATE_BEFORE_ALLOCATION: Isolation.PROPAGATE_BEFORE_ALLOCATION,
    Isolation.DO_NOT_PROPAGATE: Isolation.DO_NOT_PROPAGATE,
}
