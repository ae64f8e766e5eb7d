"""A logical buffer collection: the tree's root object, and the state that all nodes share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import cmp_to_key, partial
from typing import Any, Final

from ..constraints import Access, Allocation, Platform
from ..ends import every
from ..pause import giving_way
from ..ports import ClientInfo, Clock, Log, NoMemoryError
from . import describe
from .allocate import conclude, participants_of
from .choose import Chosen, Having, NoneChosen, Question
from .data import Cause, CollectionData, NodeData, PrunedSubtree
from .engine import DEFAULT_ENGINE, Engine
from .failure import fail
from .node import Node
from .overdue import Overdue
from .ports import BufferMaker, Buffers, Level, NodeChannel, WhoHas
from .selection import Snapshot
from .walk import all_children, allocated_children, breadth_first, compare_breadth_first

#: The maximum number of group selections in an attempt. It is enough for a few dozen alternatives, and takes little
#: time.
DEFAULT_MAX_GROUP_SELECTIONS: Final = 64


class LogicalBufferCollection(CollectionData):
    """One collection: participants that agree, through a tree of nodes, on buffers that they then share."""

    def __init__(
        self,
        id: int,
        *,
        channel: NodeChannel,
        client: ClientInfo,
        platform: Platform,
        memory: BufferMaker,
        clock: Clock,
        log: Log,
        max_group_selections: int = DEFAULT_MAX_GROUP_SELECTIONS,
        on_gone: Callable[[], None] = lambda: None,
        engine: Engine = DEFAULT_ENGINE,
        in_turn: Callable[[Callable[[], None]], None] = lambda work: work(),
        who_has: WhoHas = lambda _, then: then({}),
    ) -> None:
        """Create a collection whose root is a token that is served on `channel` by `client`.

        For AllocateNonSharedCollection, call `root.bind` with the same channel immediately. `id` is never reused until
        the machine is rebooted. `on_gone` is called once, when the last node has left the tree. `engine` aggregates
        constraints; the default is the daemon's own. `in_turn` calls a function now or later. It is used for long work
        that is not part of processing a message. `who_has` finds the processes that the allocation waits for.
        """
        super().__init__(id, engine, clock)
        self.platform = platform
        self.max_group_selections = max_group_selections
        self._holds_strong = False
        self._having: Having | None = None
        self._when_idle: deque[Callable[[], None]] = deque()
        self._settling = False
        #: The conclusion of an attempt that ended during a change of the tree.
        self._postponed: Callable[[], None] | None = None
        #: Whether the buffers are being created.
        self._allocating = False
        #: The pruned subtrees that remain to be attempted in this pass.
        self._to_attempt: deque[PrunedSubtree] = deque()
        self._memory = memory
        self._in_turn = in_turn
        self._who_has = who_has
        self._log = log.bind(collection_id=id)
        self._on_gone = on_gone
        self.overdue = Overdue(clock, lambda seconds: in_turn(partial(self._warn_overdue, seconds)))
        self.root: Node = Node(self, channel, client)

    # --- for the daemon -----------------------------------------------------------------------------------------------

    def nodes(self) -> Iterator[NodeData]:
        """Yield all nodes in the tree, breadth first; none if the collection is gone."""
        return iter(()) if self.is_gone else breadth_first(self.root, all_children)

    def when_idle(self, callback: Callable[[], None]) -> None:
        """See :meth:`.CollectionData.when_idle`."""
        self._when_idle.append(callback)
        self._tell_idle()

    def shut_down(self) -> None:
        """Fail the whole tree because the daemon stops, which is logged only at the level debug.

        A failure of the root may already be in progress. In that case there is nothing left to fail.
        """
        if not self.is_gone and self.root.in_tree:
            fail(self.root, Cause.SHUT_DOWN)

    # --- for the tree -------------------------------------------------------------------------------------------------

    def move_warning(self, deadline: int) -> None:
        """See :meth:`.CollectionData.move_warning`."""
        self.overdue.move(deadline)

    def settle(self) -> None:
        """Do everything that the last event made possible, until nothing changes.

        Fail the failure domains without a connected client, check whether a strong node is left, and attempt the pruned
        subtrees that have become ready. During an attempt nothing is done; this continues after the attempt.
        """
        if self._settling:
            return
        if self._postponed is not None and not self.is_changing:
            conclude, self._postponed = self._postponed, None
            conclude()
        self._settling = True
        try:
            while not self.busy and (self._to_attempt or self._begin_pass()):
                subtree = self._to_attempt.popleft()
                if subtree.is_ready:
                    self._attempt(subtree)
        finally:
            self._settling = False
        self._tell_idle()

    def participants_changed(self) -> None:
        """Register that a participant with buffers has left the tree or has a new name."""
        self._having = None

    def say(self, level: Level, event: str, node: NodeData | None = None, **fields: Any) -> None:
        """Log one entry about the collection, or one of its nodes."""
        about = {} if node is None else describe.who(node)
        getattr(self._log, level.value)(event, collection_name=self.name, **about, **fields)

    def end(self) -> None:
        """Register that the root has left the tree, after all other nodes."""
        self.is_gone = True
        every((self.overdue.cancel, self._drop_strong, self._on_gone))
        # Break reference cycles, so that the ended collection is freed immediately.
        del self.root

    # --- internal -----------------------------------------------------------------------------------------------------

    def _begin_pass(self) -> bool:
        """Fail the nodes that have to fail. Return whether there is something to attempt afterwards."""
        self._fail_unattended()
        self._check_strong()
        self._to_attempt.extend(_in_order(self.census.take_ready()))
        return bool(self._to_attempt)

    def _attempt(self, subtree: PrunedSubtree) -> None:
        self.busy = True
        with self.changing():
            question = self._question(subtree)
        answer = question.answer()
        if isinstance(answer, NoneChosen) and self.wants_reports and answer.report is None:
            # Only now, because the report takes longer than everything else, and most attempts succeed.
            answer = answer.reported()
        if not isinstance(answer, Chosen) or self.buffers is not None or self.is_gone:
            self._conclude(subtree, question, answer, self.buffers)
            return
        # The root's attempt has succeeded: create the buffers now.
        self._allocating = True
        self._memory.allocate(
            collection_id=self.id,
            name=self.name,
            settings=answer.allocation.settings,
            count=answer.allocation.buffer_count,
            writable=Access.READ_ONLY not in answer.allocation.access,
            on_no_strong=partial(self._in_turn, self._no_strong_handles),
            is_wanted=lambda: not self.is_gone,
            done=partial(self._done, subtree, question, answer),
        )
        self._allocating = False

    def _question(self, subtree: PrunedSubtree) -> Question:
        """Begin to allocate a pruned subtree in which every node is ready. Return the question to answer for that."""
        start, root = subtree.start, self.root
        if start is root:
            self.overdue.cancel()
        if self.verbose:
            start.say(Level.INFO, "attempting allocation", tree=describe.tree(root))
        snapshot = Snapshot(start)
        return Question(
            snapshot=snapshot,
            participants={node: node.participants() for node in giving_way(snapshot.children)},
            engine=self.engine,
            platform=self.platform,
            max_selections=self.max_group_selections,
            verbose=self.verbose,
            having=None if self.allocation is None else self._those_having(self.allocation, root),
        )

    def _those_having(self, existing: Allocation, root: NodeData) -> Having:
        """Return the participants that have `existing` and are in the tree.

        The first ones are in breadth-first order, followed by those that joined since, in the order in which they did.
        """
        if self._having is None:
            nodes = breadth_first(root, allocated_children)
            self._having = Having(existing, participants_of(nodes))
        return self._having

    def _done(
        self,
        subtree: PrunedSubtree,
        question: Question,
        answer: Chosen,
        made: Buffers | Exception,
    ) -> None:
        conclude = partial(self._made, subtree, question, answer, made)
        if self._allocating:
            conclude()
        else:
            self._in_turn(conclude)

    def _made(
        self,
        subtree: PrunedSubtree,
        question: Question,
        answer: Chosen,
        made: Buffers | Exception,
    ) -> None:
        if isinstance(made, NoMemoryError):
            self._conclude(subtree, question, answer, made)
        elif isinstance(made, Exception):
            self._conclude(subtree, question, made, None)
        else:
            self.buffers = made
            self.allocation = answer.allocation
            self._holds_strong = True
            if self.is_gone:
                self._drop_strong()
            self._conclude(subtree, question, answer, made)

    def _conclude(
        self,
        subtree: PrunedSubtree,
        question: Question,
        answer: Chosen | NoneChosen | Exception,
        buffers: Buffers | NoMemoryError | None,
    ) -> None:
        """Conclude an attempt, after the change that may be in progress. An error in it ends only this collection."""
        if self.is_changing:
            self._postponed = partial(self._conclude, subtree, question, answer, buffers)
            return
        try:
            if isinstance(answer, Exception):
                raise answer
            with self.changing():
                conclude(subtree, question, answer, buffers)
        except Exception as error:
            self.say(
                Level.ERROR,
                "an internal error ended an allocation attempt",
                reason=repr(error),
                exc_info=True,
            )
            if not self.is_gone:
                fail(self.root, Cause.BROKEN)
        self.busy = False
        self.settle()

    def _tell_idle(self) -> None:
        # If a large tree failed as a whole, many channels may be waiting.
        for callback in giving_way(self._waiting_for_idle(), 64):
            callback()

    def _waiting_for_idle(self) -> Iterator[Callable[[], None]]:
        while self._when_idle and not self.busy:
            yield self._when_idle.popleft()

    def _fail_unattended(self) -> None:
        while domains := self.census.take_unattended():
            for domain in domains:
                if domain.in_tree:
                    fail(domain, Cause.NO_CLIENTS)

    def _check_strong(self) -> None:
        if self.census.strong or self.is_gone:
            return
        if self.buffers is None:
            fail(self.root, Cause.NO_STRONG_NODES)
        else:
            self._drop_strong()

    def _drop_strong(self) -> None:
        if self.buffers is not None and self._holds_strong:
            self._holds_strong = False
            self.buffers.drop_strong()

    def _no_strong_handles(self) -> None:
        """Handle the end of the last strong handle to the last buffer, as reported by the memory."""
        self.when_idle(self._fail_without_strong_handles)

    def _fail_without_strong_handles(self) -> None:
        if not self.is_gone:
            fail(self.root, Cause.NO_STRONG_HANDLES)

    def _warn_overdue(self, seconds: float) -> None:
        if self.busy:
            self.when_idle(partial(self._in_turn, partial(self._warn_overdue, seconds)))
            return
        if self.is_gone or self.is_allocated:
            return
        with self.changing():  # nothing changes, but nodes must not leave during the walks
            fields = {"seconds": seconds, **describe.waiting_for(self.root)}
            waited_for = describe.waited_for(self.root)

        def warn(processes: Mapping[int, str]) -> None:
            if held_by := describe.held_by(waited_for, processes):
                fields["held_by"] = held_by
            if not self.is_gone:  # the collection may have ended meanwhile
                self.say(Level.WARNING, "allocation is taking a while", self.root, **fields)

        self._who_has(waited_for, warn)
        self.settle()


def _in_order(subtrees: list[PrunedSubtree]) -> list[PrunedSubtree]:
    """Return pruned subtrees in breadth-first order of their start nodes."""
    if len(subtrees) == 1:
        return subtrees
    order = cmp_to_key(compare_breadth_first)
    return sorted(subtrees, key=lambda subtree: order(subtree.start))
