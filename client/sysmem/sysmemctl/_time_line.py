"""The layout of a time line: one lane for each node, with its states as bars and its messages as dots.

The distance between consecutive events grows with the logarithm of the time between them, because a negotiation takes
milliseconds and the time before and after it may be seconds or hours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import log1p
from typing import Final

from .. import _traffic
from ._nodes import process_of
from ._source import ClientEnds
from ._story import HAS_BUFFERS, Life, Story, seconds
from ._text import age

#: The name and style of a bar, by the node's state.
STATES: Final = {
    "token": ("has a token", "asked"),
    "collection": ("turned it in", "asked"),
    "group": ("makes a group", "asked"),
    "constrained": ("constraints set", "ready"),
    "awaited": ("waits for buffers", "ready"),
    "complete": ("group is complete", "ready"),
    HAS_BUFFERS: ("has buffers", "agreed"),
    "released_token": ("released", "gone"),
    "released_collection": ("released", "gone"),
    "released_constrained": ("released", "gone"),
    "released_group": ("released", "gone"),
    "orphan": ("gone", "gone"),
    "failed": ("failed", "failed"),
}
#: The time up to which the distance grows about linearly, in seconds.
_SHORT: Final = 0.001
#: The minimum distance between two events, in the unit of the logarithms.
_LEAST: Final = 0.15
#: The reason with which a node leaves if its group selected another child.
_LEFT_OUT: Final = "not selected by its group"
#: The maximum number of lanes. Nodes that are waited for, have died or failed come first.
MOST_LANES: Final = 100
#: The minimum distance between two time labels, in per cent of the width.
_BETWEEN_TICKS: Final = 15.0


@dataclass(frozen=True)
class Bar:
    """A state, with its position and length in per cent of the width."""

    start: float
    width: float
    label: str
    kind: str
    #: The beginning of the state, in words.
    since: str


@dataclass(frozen=True)
class Dot:
    """A message."""

    place: float
    to_daemon: bool
    is_error: bool
    label: str


@dataclass(frozen=True)
class Lane:
    """A node."""

    life: Life
    #: The processes that have its client end.
    process: str
    bars: list[Bar]
    dots: list[Dot]
    #: The position at which its client died.
    death: float | None
    #: Whether it left because its group selected another child.
    is_left_out: bool


@dataclass(frozen=True)
class Tick:
    """A time label below the lanes."""

    place: float
    label: str


@dataclass(frozen=True)
class TimeLine:
    """All lanes of a collection."""

    lanes: list[Lane]
    ticks: list[Tick]
    #: The positions at which allocation attempts ended, and whether they succeeded.
    attempts: list[tuple[float, bool]]
    #: The number of nodes without a lane.
    more: int


class Scale:
    """The positions of times, in per cent of the width."""

    def __init__(self, times: Iterable[float]) -> None:
        """Compute the positions of these times. There must be at least one."""
        ordered = sorted(set(times))
        places = [0.0]
        for earlier, later in pairwise(ordered):
            places.append(places[-1] + _LEAST + log1p((later - earlier) / _SHORT))
        whole = places[-1] or 1.0
        self._places = {
            time: 100 * place / whole for time, place in zip(ordered, places, strict=True)
        }
        self._began = ordered[0]

    def __call__(self, time: float) -> float:
        """Return the position of one of the times."""
        return round(self._places[time], 2)

    def after(self, time: float) -> str:
        """Return the time since the beginning as text."""
        return after(time - self._began)

    def ticks(self) -> list[Tick]:
        """Return as many times as can be labelled without overlap, with the first and the last."""
        *inner, last = self._places.items()
        kept: list[tuple[float, float]] = []
        for time, place in inner:
            if (not kept or place - kept[-1][1] >= _BETWEEN_TICKS) and last[
                1
            ] - place >= _BETWEEN_TICKS:
                kept.append((time, place))
        return [Tick(round(place, 2), self.after(time)) for time, place in [*kept, last]]


def after(seconds: float) -> str:
    """Return a time since the beginning as text, with milliseconds if it is short."""
    if 1 <= seconds < 60:
        return f"+{seconds:.3f} s"
    return f"+{age(seconds)}"


def time_line(story: Story, ends: ClientEnds) -> TimeLine:
    """Return the time line of a collection."""
    times = {story.began, story.until, *(at for at, _ in story.attempts)}
    times.update(at for life in story.lives.values() for at, _ in life.states)
    times.update(seconds(message["at"]) for message in story.messages)
    scale = Scale(times)
    lives = sorted(story.lives.values(), key=lambda life: life.node["ready"] and not life.failure)
    shown = sorted(lives[:MOST_LANES], key=lambda life: int(life.node["number"]))
    lanes = [_lane(story, life, scale, ends) for life in shown]
    attempts = [(scale(at), error is None) for at, error in story.attempts]
    return TimeLine(lanes, scale.ticks(), attempts, len(lives) - len(lanes))


def _lane(story: Story, life: Life, scale: Scale, ends: ClientEnds) -> Lane:
    bars = []
    untils = [*(at for at, _ in life.states[1:]), story.until]
    for (since, state), until in zip(life.states, untils, strict=True):
        label, kind = STATES.get(state, (state, "asked"))
        start = scale(since)
        # Times of nodes are rounded, so the last one may lie after the end.
        width = max(0.0, round(scale(until) - start, 2))
        bars.append(Bar(start, width, label, kind, scale.after(since)))
    dots = [
        Dot(
            scale(seconds(message["at"])),
            message["direction"] == "in",
            bool(message["error"]),
            _traffic.call(message),
        )
        for message in story.messages
        if message["node"] == life.node["number"]
    ]
    died = scale(life.states[-1][0]) if life.died else None
    process = process_of(story.collection, life.node, ends).removeprefix("made by ")
    is_left_out = bool(life.failure and life.failure["cause"] == _LEFT_OUT)
    return Lane(life, process, bars, dots, died, is_left_out)
