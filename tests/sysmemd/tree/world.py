"""The surroundings of a tree, made of recorders: tests can examine all calls, and nothing takes time."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferMemorySettings,
    BufferUsage,
    CpuUsage,
    SingleBufferSettings,
)
from sysmemd.constraints.model import Allocation, Participant, Platform
from sysmemd.explaining import listing
from sysmemd.ports import ClientInfo, Signal
from sysmemd.tree import Buffers, LogicalBufferCollection, Node

from ..recording import RecordingLog

COLLECTION_ID = 7
SETTINGS = SingleBufferSettings(
    buffer_settings=BufferMemorySettings(size_bytes=4096, raw_vmo_size=4096)
)


class Channel:
    """A node's server end that counts the tree's calls."""

    def __init__(self) -> None:
        self.answers = 0
        self.closes = 0

    def allocated(self) -> None:
        assert not self.closes, "allocated() after close()"
        self.answers += 1

    def close(self) -> None:
        assert not self.closes, "close() twice"
        self.closes += 1

    @property
    def closed(self) -> bool:
        return bool(self.closes)


class Event:
    """An eventpair's server end."""

    def __init__(self) -> None:
        self.closed = False
        self._when_gone: Callable[[], object] = lambda: None

    def close(self) -> None:
        self.closed = True

    def when_gone(self, callback: Callable[[], object]) -> None:
        self._when_gone = callback

    def go(self) -> None:
        """Close the client's end."""
        self.closed = True
        self._when_gone()


class FakeBuffers:
    """Buffers that exist until the test removes them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._dropped = 0
        self.trackings: list[tuple[Signal, int]] = []

    def drop_strong(self) -> None:
        self._dropped += 1

    def times_dropped(self) -> int:
        return self._dropped

    def track_lifetime(self, event: Signal, buffers_remaining: int) -> None:
        self.trackings.append((event, buffers_remaining))
        if buffers_remaining >= self.count:
            event.close()


class Memory:
    """A memory that creates buffers. With `error` it fails. A slow one creates them when the test calls `finish`."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.takes_time = False
        self.finish: Callable[[], None] = lambda: None
        self.is_wanted: Callable[[], bool] = lambda: True
        self.requests: list[dict[str, Any]] = []
        self.made: list[FakeBuffers] = []
        self.on_no_strong: Callable[[], None] = lambda: None

    def allocate(
        self,
        *,
        collection_id: int,
        name: str,
        settings: SingleBufferSettings,
        count: int,
        writable: bool,
        on_no_strong: Callable[[], None],
        is_wanted: Callable[[], bool],
        done: Callable[[Buffers | Exception], None],
    ) -> None:
        self.requests.append(
            {"collection_id": collection_id, "name": name, "settings": settings, "count": count}
        )
        self.is_wanted = is_wanted
        self.on_no_strong = on_no_strong

        def make() -> None:
            if self.error is not None:
                done(self.error)
            else:
                self.made.append(FakeBuffers(count))
                done(self.made[-1])

        if self.takes_time:
            self.finish = make
        else:
            make()


@dataclass
class Timer:
    deadline: int
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """A clock that the test moves. Tests give seconds as floats; the clock counts nanoseconds."""

    def __init__(self) -> None:
        self.time = 1_000 * 10**9
        self.timers: list[Timer] = []

    def now(self) -> int:
        return self.time

    def call_at(self, deadline: int, callback: Callable[[], None]) -> Callable[[], None]:
        self.timers.append(Timer(deadline, callback))
        return self.timers[-1].cancel

    @property
    def pending(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def advance(self, seconds: float) -> None:
        end = self.time + int(seconds * 10**9)
        while due := [timer for timer in self.pending if timer.deadline <= end]:
            timer = min(due, key=lambda timer: timer.deadline)
            timer.cancelled = True
            self.time = max(self.time, timer.deadline)
            timer.callback()
        self.time = end


class FakeRule(enum.Enum):
    COUNT_OVER_MAX = "too many buffers"


class FakeStage(enum.Enum):
    SETTINGS = "settings"


@dataclass(frozen=True)
class FakeRefusal:
    """The refusal for too many camped buffers."""

    wanted: int
    limit: int
    participants: tuple[Participant, ...]
    stage: FakeStage = FakeStage.SETTINGS
    rule: FakeRule = FakeRule.COUNT_OVER_MAX
    path: str = "$.max_buffer_count"

    @property
    def conflict(self) -> tuple[Participant, ...]:
        return self.participants

    def line(self, *, conflict: bool = True) -> str:
        return f"{self.wanted} buffers are wanted, {self.limit} allowed" + (
            " (conflict)" if conflict else ""
        )

    def __str__(self) -> str:
        return self.line()

    def line_for(self, participants: Sequence[Participant]) -> str:
        return f"{self.rule.value} for {len(participants)}"

    def report(self) -> str:
        return f"report: {self}"


class FakeEngine:
    """An engine that only counts: camping is added up, and max_buffer_count limits the sum."""

    def __init__(self) -> None:
        #: The participants of each aggregation.
        self.calls: list[list[Participant]] = []
        #: How many times the participants with buffers were collected for attached attempts.
        self.joinings = 0

    def aggregate(
        self, participants: Sequence[Participant], platform: Platform, /
    ) -> Allocation | FakeRefusal:
        self.calls.append(list(participants))
        wanted, limit = count(participants)
        if wanted > limit:
            return FakeRefusal(wanted, limit, tuple(participants))
        return Allocation(SETTINGS, wanted)

    def report(self, allocation: Allocation, /) -> str:
        return listing(allocation.settings)

    def joining(
        self, participants: Sequence[Participant], existing: Allocation, platform: Platform, /
    ) -> FakeJoining:
        self.joinings += 1
        return FakeJoining(self, participants, existing)

    def must_match(
        self, settings: SingleBufferSettings, name: str = "", id: int = 0
    ) -> Participant:
        return Participant(
            BufferCollectionConstraints(max_buffer_count=5), name=name, id=id, pinned=True
        )


class FakeJoining:
    """The participants with the existing buffers."""

    def __init__(
        self, engine: FakeEngine, participants: Sequence[Participant], existing: Allocation
    ) -> None:
        self.engine = engine
        self.participants = list(participants)
        self.existing = existing

    def attempt(self, newcomers: Sequence[Participant], /) -> FakeRefusal | None:
        everybody = [*self.participants, *newcomers]
        self.engine.calls.append(everybody)
        wanted, limit = count(everybody)
        existing = self.existing.buffer_count
        if wanted <= existing <= limit:
            return None
        return FakeRefusal(wanted, min(limit, existing), tuple(everybody))

    def settle(self, newcomers: Sequence[Participant], /) -> None:
        self.participants += newcomers


def count(participants: Sequence[Participant]) -> tuple[int, int]:
    """Return the number of buffers that are needed, and the maximum."""
    tables = [entry.constraints or BufferCollectionConstraints() for entry in participants]
    camping = sum(table.min_buffer_count_for_camping or 0 for table in tables)
    least = max((table.min_buffer_count or 0 for table in tables), default=0)
    most = min((table.max_buffer_count or 128 for table in tables), default=128)
    return max(camping, least), most


def wanting(
    camping: int = 1,
    *,
    least: int | None = None,
    most: int | None = None,
    usage: BufferUsage | None = None,
) -> BufferCollectionConstraints:
    """Return constraints of a participant that camps on some buffers."""
    return BufferCollectionConstraints(
        usage=usage or BufferUsage(cpu=CpuUsage.READ_OFTEN),
        min_buffer_count_for_camping=camping,
        min_buffer_count=least,
        max_buffer_count=most,
    )


#: Constraints that nothing satisfies.
IMPOSSIBLE = wanting(2, most=1)
SAME_RIGHTS = 0x80000000


class World:
    """One collection and its surroundings."""

    def __init__(self, *, max_group_selections: int = 64) -> None:
        #: Sets constraints, which may begin an attempt.
        self.do: Callable[[Callable[[], None]], None] = lambda work: work()
        #: Does what a collection wants to be done in a turn.
        self.in_turn: Callable[[Callable[[], None]], None] = lambda work: work()
        self.memory = Memory()
        self.clock = FakeClock()
        self.log = RecordingLog()
        self.engine = FakeEngine()
        self._gone = 0
        self.channels: dict[Node, Channel] = {}
        channel = Channel()
        self.collection = LogicalBufferCollection(
            COLLECTION_ID,
            channel=channel,
            client=ClientInfo("initiator", 1),
            platform=Platform(),
            memory=self.memory,
            clock=self.clock,
            log=self.log,
            max_group_selections=max_group_selections,
            on_gone=self._count_gone,
            in_turn=lambda work: self.in_turn(work),
            engine=self.engine,
        )
        self.root = self.collection.root
        self.channels[self.root] = channel

    def _count_gone(self) -> None:
        self._gone += 1

    def times_gone(self) -> int:
        return self._gone

    # --- growing ---

    def token(self, parent: Node, mask: int = SAME_RIGHTS) -> Node:
        """Create a child token of a token or a group."""
        channel = Channel()
        create = parent.create_child if parent.kind.value == "group" else parent.duplicate
        node = create(channel, mask)
        self.channels[node] = channel
        return node

    def group(self, parent: Node) -> Node:
        channel = Channel()
        node = parent.create_group(channel)
        self.channels[node] = channel
        return node

    def attach(self, parent: Node, mask: int = SAME_RIGHTS) -> Node:
        channel = Channel()
        node = parent.attach_token(channel, mask)
        self.channels[node] = channel
        return node

    def bind(self, *nodes: Node, client: ClientInfo | None = None) -> None:
        for node in nodes:
            channel = Channel()
            node.bind(channel, client)
            self.channels[node] = channel

    def ready(self, *nodes: Node, constraints: BufferCollectionConstraints | None = None) -> None:
        """Turn in tokens and set constraints."""
        for node in nodes:
            if node.kind.value == "token":
                self.bind(node)
            self.do(partial(node.set_constraints, constraints or wanting(), None))

    def retire(self, *nodes: Node) -> None:
        """Release and close."""
        for node in nodes:
            node.release()
            node.client_closed()

    # --- looking ---

    def is_open(self, node: Node) -> bool:
        return not self.channels[node].closed

    @property
    def buffers(self) -> FakeBuffers:
        (buffers,) = self.memory.made
        return buffers
