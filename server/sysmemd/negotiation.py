"""A negotiation without a daemon: runs the tree and the constraint engine for participants given as data.

No sockets, processes, clock or memory are involved. The module makes no decisions; it calls the tree as clients would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from sysmem_protocol.sysmem2 import (
    SYSTEM_RAM_HEAP,
    Rights,
    SingleBufferSettings,
)

from .constraints import Participant, Platform
from .memory import HeapSettings, MemfdHeap
from .ports import ClientInfo, NoMemoryError, Signal
from .tree import Attempt, Buffers, LogicalBufferCollection, Node

#: One place below a node.
Member: TypeAlias = "Participant | Choice | Joining"
#: Siblings in the tree, in order.
Members: TypeAlias = Sequence[Member]


@dataclass(frozen=True)
class Choice:
    """A token group. Exactly one alternative is selected: the first that is compatible with all other participants."""

    alternatives: Sequence[Members]


@dataclass(frozen=True)
class Joining:
    """Participants that join by an attached token after the others have their buffers, which they cannot change."""

    members: Members


class Negotiation:
    """The result of a negotiation between members."""

    def __init__(
        self,
        members: Members,
        platform: Platform,
        *,
        heaps: Iterable[HeapSettings] = (),
        max_group_selections: int = 64,
    ) -> None:
        """Run the negotiation in this thread.

        Attached members join one after another, until one of them is refused.

        Args:
            members: All except groups and attached members are children of the root, in this order. platform: The
            heaps, format costs and limits of the simulated daemon.
            heaps: The size limits of heaps; other heaps have no limit.
            max_group_selections: The maximum number of group selections in an attempt.

        Raises:
            ValueError: There is no participant.
        """
        self.collection = LogicalBufferCollection(
            1,
            channel=_Channel(),
            client=ClientInfo("initiator"),
            platform=platform,
            memory=_Memory(heaps),
            clock=_Clock(),
            log=_Log(),
            max_group_selections=max_group_selections,
        )
        #: Each participant with its node.
        self.nodes: list[tuple[Participant, Node]] = []
        self._joining: list[Members] = []
        root = self.collection.root
        self._below(root, members)
        if not self.nodes:
            raise ValueError("a negotiation needs at least one participant")
        _, first = self.nodes[0]
        _leave(root)
        while self._joining and self.collection.is_allocated:
            start = first.attach_token(_Channel(), Rights.SAME_RIGHTS)
            self._below(start, self._joining.pop(0))
            _leave(start)
            if not start.in_tree:
                break

    @property
    def attempt(self) -> Attempt:
        """The last allocation attempt."""
        attempt = self.collection.last_attempt
        assert attempt is not None
        return attempt

    def _below(self, parent: Node, members: Members) -> None:
        """Create the children of a token."""
        for member in members:
            if isinstance(member, Choice):
                self._choose(parent.create_group(_Channel()), member)
            elif isinstance(member, Joining):
                self._joining.append(member.members)
            else:
                token = parent.duplicate(_Channel(), Rights.SAME_RIGHTS)
                self.nodes.append((member, token))
                token.bind(_Channel(), ClientInfo(member.name, member.id))
                token.set_constraints(member.constraints, None)

    def _choose(self, group: Node, choice: Choice) -> None:
        for alternative in choice.alternatives:
            child = group.create_child(_Channel(), Rights.SAME_RIGHTS)
            self._below(child, alternative)
            _leave(child)
        group.all_children_present()


def _leave(token: Node) -> None:
    """Release a token that takes no part."""
    token.release()
    token.client_closed()


class _Channel:
    """A node's channel without a client."""

    def allocated(self) -> None: ...

    def close(self) -> None: ...


class _Clock:
    """A clock that does not advance."""

    def now(self) -> int:
        return 0

    def call_at(self, deadline: int, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


class _Log:
    """A log without output. It raises the tree's internal errors, which the daemon would survive."""

    def bind(self, **fields: Any) -> Self:
        return self

    def _say(self, event: str, *, exc_info: bool = False, **fields: Any) -> None:
        if exc_info:
            raise

    debug = info = warning = error = _say


class _Buffers:
    """Buffers that are not used."""

    def drop_strong(self) -> None: ...

    def track_lifetime(self, event: Signal, buffers_remaining: int) -> None:
        raise AssertionError("nobody tracks anything here")


class _Memory:
    """The source of buffers: the heaps' limits, without memory."""

    def __init__(self, heaps: Iterable[HeapSettings]) -> None:
        self._heaps = {(heap.heap_type, heap.id): MemfdHeap(heap) for heap in heaps}

    def allocate(
        self,
        *,
        settings: SingleBufferSettings,
        count: int,
        done: Callable[[Buffers | Exception], None],
        **_: object,
    ) -> None:
        memory = settings.buffer_settings
        heap = memory.heap or SYSTEM_RAM_HEAP
        counted = self._heaps.get((heap.heap_type or "", heap.id or 0))
        try:
            if counted is not None:
                for _buffer in range(count):
                    counted.count(memory.raw_vmo_size)
        except NoMemoryError as error:
            done(error)
        else:
            done(_Buffers())
