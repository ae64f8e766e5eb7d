"""A logical buffer collection: the tree's root object, and what holds for all of its nodes."""

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

#: Group selections that an attempt may try; a choice of a few dozen is generous and takes no time.
DEFAULT_MAX_GROUP_SELECTIONS: Final = 64


class LogicalBufferCollection(CollectionData):
    """One collection: participants who agree, through a tree of nodes, on buffers that they then share."""

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
        """A collection whose root is a token served on `channel` by `client`.

        For AllocateNonSharedCollection, `root.bind` the same channel at once. `id` is never reused in a boot of the
        machine. `on_gone` is called once, when the last node has left the tree. `engine` aggregates constraints; the
        daemon's own unless a test says otherwise. `in_turn` calls, now or later, what may take long and isn't part of
        the processing of a message. `who_has` finds the processes that are waited for.
        """
        super().__init__(id, engine, clock)
        self.platform = platform
        self.max_group_selections = max_group_selections
        self._holds_strong = False
        self._having: Having | None = None
        self._when_idle: deque[Callable[[], None]] = deque()
        self._settling = False
        #: Whether the buffers are being made right now.
        self._allocating = False
        #: The pruned subtrees that are still to be attempted in this pass.
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
        """Yield all nodes in the tree, breadth first; none when the collection is gone."""
        return iter(()) if self.is_gone else breadth_first(self.root, all_children)

    def when_idle(self, callback: Callable[[], None]) -> None:
        """See :meth:`.CollectionData.when_idle`."""
        self._when_idle.append(callback)
        self._tell_idle()

    def shut_down(self) -> None:
        """Fail the whole tree, quietly, because the daemon stops.

        A failure of the root may be under way, and have been interrupted: then there is nothing left to fail.
        """
        if not self.is_gone and self.root.in_tree:
            fail(self.root, Cause.SHUT_DOWN)

    # --- for the tree -------------------------------------------------------------------------------------------------

    def move_warning(self, deadline: int) -> None:
        """See :meth:`.CollectionData.move_warning`."""
        self.overdue.move(deadline)

    def settle(self) -> None:
        """Do what the last event made possible, until nothing changes.

        Fail the failure domains that nobody is connected to, see whether a strong node is left, attempt the pruned
        subtrees that have become ready. While an attempt is under way nothing is done: it is gone on with afterwards.
        """
        if self._settling:
            return
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
        """Somebody who has the buffers left the tree, or has a new name."""
        self._having = None

    def say(self, level: Level, event: str, node: NodeData | None = None, **fields: Any) -> None:
        """Log one line about the collection, or one of its nodes."""
        about = {} if node is None else describe.who(node)
        getattr(self._log, level.value)(event, collection_name=self.name, **about, **fields)

    def end(self) -> None:
        """The root has left the tree, and all others before it."""
        self.is_gone = True
        every((self.overdue.cancel, self._drop_strong, self._on_gone))
        # What has ended refers to nothing that refers to it, so that it is freed at once.
        del self.root

    # --- inside -------------------------------------------------------------------------------------------------------

    def _begin_pass(self) -> bool:
        """Fail what has to; whether there is something to attempt then."""
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
            # Only now: the report takes longer than all else, and most attempts succeed.
            answer = answer.reported()
        if not isinstance(answer, Chosen) or self.buffers is not None or self.is_gone:
            self._conclude(subtree, question, answer, self.buffers)
            return
        # It is the root's attempt, and has come to something: make the buffers now.
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
        """Begin to allocate a pruned subtree in which every node is ready: return what has to be found out for that."""
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
        """Return those who have `existing` and are in the tree.

        These come breadth first, and after them those who have joined since, in the order in which they did.
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
        """An attempt is over. Whatever goes wrong with it ends this collection and no other."""
        try:
            if isinstance(answer, Exception):
                raise answer
            with self.changing():
                conclude(subtree, question, answer, buffers)
        except Exception as error:
            self.say(Level.ERROR, "an attempt broke", reason=repr(error), exc_info=True)
            if not self.is_gone:
                fail(self.root, Cause.BROKEN)
        self.busy = False
        self.settle()

    def _tell_idle(self) -> None:
        # Of a large tree that failed as a whole each channel may have been held.
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
        """Memory says: the last strong handle to the last buffer is gone."""
        self.when_idle(self._fail_without_strong_handles)

    def _fail_without_strong_handles(self) -> None:
        if not self.is_gone:
            fail(self.root, Cause.NO_STRONG_HANDLES)

    def _warn_overdue(self, seconds: float) -> None:
        if self.is_gone:
            return
        fields = {"seconds": seconds, **describe.waiting_for(self.root)}
        waited_for = describe.waited_for(self.root)

        def warn(processes: Mapping[int, str]) -> None:
            if held_by := describe.held_by(waited_for, processes):
                fields["held_by"] = held_by
            if not self.is_gone:  # it may have ended while that was found out
                self.say(Level.WARNING, "allocation is taking a while", self.root, **fields)

        self._who_has(waited_for, warn)


def _in_order(subtrees: list[PrunedSubtree]) -> list[PrunedSubtree]:
    """Pruned subtrees in breadth-first order of their start nodes."""
    if len(subtrees) == 1:
        return subtrees
    order = cmp_to_key(compare_breadth_first)
    return sorted(subtrees, key=lambda subtree: order(subtree.start))
