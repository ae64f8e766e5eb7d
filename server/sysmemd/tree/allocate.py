"""An attempt to allocate a pruned subtree (spec/allocation.md, Logical allocation).

The root's attempt makes the buffers. An attached one joins what exists: all that have allocated so far and are still in
the tree stay participants, and nothing about the buffers may change.

An attempt has two halves: a question, which may be answered elsewhere, and the conclusion, which changes the tree. In
between, while the buffers are made too, no message to the collection is processed. All that can happen to the subtree
then is that it fails as a whole: none of its nodes has allocated yet, so a failure of one reaches the start node, and
nothing more can join.
"""

from __future__ import annotations

from collections.abc import Iterable

from sysmem_protocol.sysmem2 import Error, Rights

from ..constraints import Participant
from ..ports import NoMemoryError
from .census import consider
from .choose import Chosen, NoneChosen
from .data import NodeData, PrunedSubtree
from .failure import Cause, fail_subtree
from .outcome import Allocated, Attempt
from .ports import Buffers, Level
from .rights import delivered_rights, wants_vmos
from .state import NodeKind
from .walk import all_children, breadth_first


def conclude(
    subtree: PrunedSubtree, answer: Chosen | NoneChosen, buffers: Buffers | NoMemoryError | None
) -> None:
    """Allocate the pruned subtree, or fail it. `buffers` are those for what was chosen.

    Everything was worked out before; now the nodes are told, so that nobody sees half of it.
    """
    start = subtree.start
    if not start.in_tree:
        # It failed meanwhile, but has perhaps been counted among those who have the buffers.
        start.collection.participants_changed()
        return
    if isinstance(answer, NoneChosen):
        start.say(_failure_level(start), "allocation failed", **answer.fields)
        if answer.report is not None:
            start.say(Level.INFO, "combined result", report=answer.report)
        _failed(start, Attempt(answer.error, answer.reason, answer.refused))
        return
    if isinstance(buffers, NoMemoryError):
        reason = str(buffers)
        level = _failure_level(start)
        start.say(level, "allocation failed", error=Error.NO_MEMORY.name, reason=reason)
        _failed(start, Attempt(Error.NO_MEMORY, reason, answer.refused))
        return
    assert buffers is not None
    _succeeded(subtree, answer, buffers)


def participants_of(nodes: Iterable[NodeData]) -> list[Participant]:
    """What nodes bring to an aggregation, in their order."""
    return [participant for node in nodes for participant in node.participants()]


def _succeeded(subtree: PrunedSubtree, answer: Chosen, buffers: Buffers) -> None:
    start = subtree.start
    collection = start.collection
    allocation = answer.allocation
    subtree.allocated = True
    collection.last_attempt = Attempt(None, "", answer.refused)
    start.say(
        Level.INFO if answer.report is not None else Level.DEBUG,
        "allocated" if start.parent is None else "joined the allocation",
        count=allocation.buffer_count,
        selected=list(answer.selection.choices),
        refused=answer.lines,
    )
    if answer.report is not None:
        start.say(Level.INFO, "combined result", report=answer.report)
    visible = list(answer.selection.visible())
    for node in visible:
        rights = delivered_rights(node.constraints, node.rights_mask)
        node.allocate(
            Allocated(
                buffers=buffers,
                settings=allocation.settings,
                count=allocation.buffer_count,
                rights=rights,
                delivers_vmo=wants_vmos(node.constraints) and bool(rights & Rights.READ),
                weak=node.is_weak,
            )
        )
    for node in answer.selection.hidden():
        fail_subtree(node, Cause.NOT_SELECTED, node)
    for node in visible:
        node.answer()
        for child in node.children:
            if child.subtree is not subtree:
                consider(child.subtree)


def _failure_level(start: NodeData) -> Level:
    """A failed root leaves nothing; from a failed attached subtree the others go on."""
    return Level.ERROR if start.parent is None else Level.WARNING


def _failed(start: NodeData, result: Attempt) -> None:
    """Every collection of the subtree, attached ones included, gets the error; then the subtree fails."""
    collection = start.collection
    collection.last_attempt = result
    for node in breadth_first(start, all_children):
        if node.kind is NodeKind.COLLECTION:
            node.outcome = result.error
            node.answer()
    fail_subtree(start, Cause.ALLOCATION, start)
