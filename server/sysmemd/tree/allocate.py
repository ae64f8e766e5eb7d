"""An attempt to allocate a pruned subtree (spec/allocation.md, Logical allocation).

The root's attempt makes the buffers. An attached one joins what exists: all that have allocated so far and are still in
the tree stay participants, and nothing about the buffers may change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sysmem_protocol.sysmem2 import Error, Rights

from ..constraints import Allocation, Participant
from ..ports import NoMemoryError
from . import describe
from .describe import Level
from .engine import Refusal
from .failure import Cause, fail_subtree
from .outcome import Allocated, Attempt, RefusedSelection
from .ports import Buffers
from .rights import delivered_rights, wants_vmos
from .selection import Selection
from .state import NodeKind
from .walk import all_children, breadth_first

if TYPE_CHECKING:
    from .census import PrunedSubtree
    from .node import Node


def attempt(subtree: PrunedSubtree) -> None:
    """Allocate a pruned subtree in which every node is ready, or fail it.

    Everything is worked out first; then the nodes are told, so that nobody sees half of it.
    """
    start = subtree.start
    collection = start.collection
    if start.parent is None:
        collection.overdue.cancel()
    if collection.verbose:
        start.say(Level.INFO, "attempting allocation", tree=describe.tree(collection.root))
    refused: list[RefusedSelection] = []
    chosen = _choose(start, refused)
    if isinstance(chosen, Error):
        _refused(start, chosen, tuple(refused))
        return
    selection, allocation = chosen
    try:
        buffers = collection.buffers_for(allocation)
    except NoMemoryError as error:
        start.say(
            _failure_level(start),
            "allocation failed",
            error=Error.NO_MEMORY.name,
            reason=str(error),
        )
        _failed(start, Attempt(Error.NO_MEMORY, str(error), tuple(refused)))
        return
    _succeeded(subtree, selection, allocation, buffers, Attempt(None, "", tuple(refused)))


def _choose(start: Node, refused: list[RefusedSelection]) -> tuple[Selection, Allocation] | Error:
    """The first selection that suits everybody, and what it comes to; `refused` gets those that don't."""
    selection: Selection | None = Selection(start)
    while selection is not None:
        if len(refused) == start.collection.max_group_selections:
            return Error.TOO_MANY_GROUP_CHILD_COMBINATIONS
        result = _aggregate(start, selection)
        if isinstance(result, Allocation):
            return selection, result
        refused.append(RefusedSelection(selection.choices, result))
        selection = selection.next()
    return Error.CONSTRAINTS_INTERSECTION_EMPTY


def _aggregate(start: Node, selection: Selection) -> Allocation | Refusal:
    """What the participants of a selection agree on; for an attached one, whether that is what exists."""
    collection = start.collection
    participants = participants_of(selection.visible())
    if collection.allocation is None:
        return collection.engine.aggregate(participants, collection.platform)
    refusal = collection.joining(collection.allocation).attempt(participants)
    return collection.allocation if refusal is None else refusal


def participants_of(nodes: Iterable[Node]) -> list[Participant]:
    """What nodes bring to an aggregation, in their order."""
    return [participant for node in nodes for participant in node.participants()]


def _succeeded(
    subtree: PrunedSubtree,
    selection: Selection,
    allocation: Allocation,
    buffers: Buffers,
    result: Attempt,
) -> None:
    start = subtree.start
    collection = start.collection
    subtree.allocated = True
    collection.last_attempt = result
    visible = list(selection.visible())
    if start.parent is not None:
        collection.joining(allocation).settle(participants_of(visible))
    start.say(
        Level.INFO if collection.verbose else Level.DEBUG,
        "allocated" if start.parent is None else "joined the allocation",
        count=allocation.buffer_count,
        selected=list(selection.choices),
        refused=[str(entry) for entry in result.refused],
    )
    if collection.verbose:
        start.say(Level.INFO, "combined result", report=_report(allocation))
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
    for node in selection.hidden():
        fail_subtree(node, Cause.NOT_SELECTED, node)
    for node in visible:
        node.answer()
        for child in node.children:
            if child.subtree is not subtree:
                collection.census.consider(child.subtree)


def _refused(start: Node, error: Error, refused: tuple[RefusedSelection, ...]) -> None:
    """No selection suited everybody. The reason is the first's, for that is what the participants wanted most."""
    first = refused[0].refusal
    reason = str(first)
    start.say(
        _failure_level(start),
        "allocation failed",
        error=error.name,
        reason=reason,
        stage=first.stage.value,
        rule=first.rule.value,
        field=first.path,
        conflict=[f"{who.name} ({who.id})" for who in first.conflict],
        selections=[str(entry) for entry in refused],
    )
    if start.collection.verbose:
        start.say(Level.INFO, "combined result", report=first.report())
    _failed(start, Attempt(error, reason, refused))


def _report(allocation: Allocation) -> str:
    """The settings, and how they came about if the engine kept that."""
    explained = "" if allocation.case is None else f"\n{allocation.explain()}"
    return f"{allocation.settings!r}{explained}"


def _failure_level(start: Node) -> Level:
    """A failed root leaves nothing; from a failed attached subtree the others go on."""
    return Level.ERROR if start.parent is None else Level.WARNING


def _failed(start: Node, result: Attempt) -> None:
    """Every collection of the subtree, attached ones included, gets the error; then the subtree fails."""
    collection = start.collection
    collection.last_attempt = result
    for node in breadth_first(start, all_children):
        if node.kind is NodeKind.COLLECTION:
            node.outcome = result.error
            node.answer()
    fail_subtree(start, Cause.ALLOCATION, start)
