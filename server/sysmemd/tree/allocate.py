"""An attempt to allocate a pruned subtree (`docs/spec/allocation.md`, "Logical allocation").

The root's attempt creates the buffers. An attached attempt joins existing ones: all participants that have allocated so
far and are still in the tree take part in it, and the buffers must not change.

An attempt has two parts: a question, for which other clients do not have to wait, and the conclusion, which changes the
tree. In between, also while the buffers are created, no message to the collection is processed. Meanwhile the subtree
can only fail as a whole: none of its nodes has allocated yet, so a failure of one reaches the start node, and no node
can be added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sysmem_protocol.sysmem2 import Error

from ..constraints import Participant
from ..pause import give_way
from ..ports import NoMemoryError
from ..text import Block
from .census import consider
from .choose import Chosen, NoneChosen, Question
from .data import Cause, Failure, NodeData, PrunedSubtree
from .failure import fail_subtree
from .outcome import Allocated, Attempt
from .ports import Buffers, Level
from .rights import READ, delivered_rights, wants_vmos
from .state import NodeKind
from .walk import all_children, breadth_first


def conclude(
    subtree: PrunedSubtree,
    question: Question,
    answer: Chosen | NoneChosen,
    buffers: Buffers | NoMemoryError | None,
) -> None:
    """Allocate the pruned subtree, or fail it. `buffers` are those for the chosen settings.

    Everything was computed before. All nodes are told within this call, so that none sees a partial result.
    """
    start = subtree.start
    if not start.in_tree:
        # The subtree failed meanwhile, but may have been counted among the participants that have the buffers.
        start.collection.participants_changed()
        return
    if isinstance(answer, NoneChosen):
        attempt = _attempt(start, question, answer, answer.error, answer.reason)
        _failed(start, attempt, answer.fields)
    elif isinstance(buffers, NoMemoryError):
        _failed(start, _attempt(start, question, answer, buffers.error, str(buffers)), {})
    else:
        assert buffers is not None
        _succeeded(subtree, question, answer, buffers)


def _attempt(
    start: NodeData,
    question: Question,
    answer: Chosen | NoneChosen,
    error: Error | None,
    reason: str = "",
) -> Attempt:
    """Return the record of an attempt."""
    chosen = answer if isinstance(answer, Chosen) else None
    return Attempt(
        error=error,
        reason=reason,
        refused=answer.refused,
        start=start.number,
        at=start.collection.clock.now(),
        allocation=None if chosen is None else chosen.allocation,
        chosen=() if chosen is None else chosen.selection.chosen,
        participants={node.number: brought for node, brought in question.participants.items()},
        report=answer.report if chosen is None else None,
    )


def participants_of(nodes: Iterable[NodeData]) -> list[Participant]:
    """Return the participants of nodes, in the nodes' order."""
    return [participant for node in nodes for participant in node.participants()]


def _succeeded(
    subtree: PrunedSubtree, question: Question, answer: Chosen, buffers: Buffers
) -> None:
    start = subtree.start
    allocation = answer.allocation
    subtree.allocated = True
    start.collection.add_attempt(_attempt(start, question, answer, None))
    start.say(
        Level.INFO if answer.report is not None else Level.DEBUG,
        "allocated" if start.parent is None else "joined the allocation",
        count=allocation.buffer_count,
        selected=list(answer.selection.choices),
        refused=answer.lines,
    )
    if answer.report is not None:
        start.say(Level.INFO, "combined result", report=Block(answer.report))
    visible = list(answer.selection.visible())
    for node in visible:
        rights = delivered_rights(node.constraints, node.rights_mask)
        node.allocate(
            Allocated(
                buffers=buffers,
                settings=allocation.settings,
                count=allocation.buffer_count,
                rights=rights,
                delivers_vmo=wants_vmos(node.constraints) and bool(rights & READ),
                weak=node.is_weak,
            )
        )
        give_way()
    for node, selected in answer.selection.hidden():
        fail_subtree(node, Cause.NOT_SELECTED, node, selected=selected)
    for node in visible:
        node.answer()
        for child in node.children:
            if child.subtree is not subtree:
                consider(child.subtree)
        give_way()


def _failed(start: NodeData, attempt: Attempt, fields: Mapping[str, Any]) -> None:
    """Give the error to every collection of the subtree, including attached ones; then fail the subtree.

    `fields` are the fields of the log entry besides the reason.
    """
    collection, error = start.collection, attempt.error
    assert error is not None
    collection.add_attempt(attempt)
    # A failed root ends the collection. After a failed attached subtree the others continue.
    level = Level.ERROR if start.parent is None else Level.WARNING
    start.say(level, "allocation failed", error=error.name, reason=attempt.reason, **fields)
    if attempt.report is not None and collection.verbose:
        start.say(Level.INFO, "combined result", report=Block(attempt.report))
    if start.parent is None:
        collection.begin_failure(Failure(Cause.ALLOCATION, start.who(), ""))
    for node in breadth_first(start, all_children):
        if node.kind is NodeKind.COLLECTION:
            node.outcome = error
            node.answer()
        give_way()
    fail_subtree(start, Cause.ALLOCATION, start)
