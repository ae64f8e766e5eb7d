"""The reason why a call failed or a node's channel closes, as a sentence for one participant.

The rules are in `docs/spec/inspect.md`, "What a refused participant learns".

The tree provides the reason as data. The recipient determines whether other participants are named; the log names all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sysmem_protocol.explained import MAX_REASON_BYTES
from sysmem_protocol.sysmem2 import Error

from ..text import printable
from ..tree import Attempt, Cause, Failure, NodeData, NodeKind, Who
from ..tree.state import READY
from ..tree.walk import depth_first, joined_children

#: The reason when everything ends with the daemon.
STOPPING: Final = "the daemon is stopping"
_CUT: Final = "…"


@dataclass(frozen=True, slots=True)
class Reason:
    """What a client receives before an error response, or before its channel closes."""

    #: The error of the response; None if there is none.
    error: Error | None
    line: str
    #: The report of a refusal.
    report: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", cut(self.line))


def cut(line: str) -> str:
    """Return as much of a line as the protocol allows, without partial characters."""
    written = line.encode()
    if len(written) <= MAX_REASON_BYTES:
        return line
    kept = written[: MAX_REASON_BYTES - len(_CUT.encode())]
    return kept.decode(errors="ignore") + _CUT


def of_attempt(attempt: Attempt, node: NodeData, *, names: bool) -> Reason:
    """Return why an attempt failed, for one of its participants. With `names`, name the others involved."""
    first = attempt.refused[0].refusal if attempt.refused else None
    if names or first is None or attempt.error is Error.NO_MEMORY:
        return Reason(attempt.error, attempt.reason, attempt.report)
    return Reason(attempt.error, first.line_for(node.participants()))


def of_failure(failure: Failure, node: NodeData, *, names: bool) -> Reason:
    """Return why a node has failed, for its client. With `names`, name the others involved."""
    collection = node.collection
    attempt = collection.last_attempt
    if failure.cause is Cause.ALLOCATION and attempt is not None:
        return of_attempt(attempt, node, names=names)
    return Reason(None, told(failure, node, names=names))


def of_pending(node: NodeData, *, names: bool) -> Reason:
    """Return why there are no buffers yet, for a participant. With `names`, name those that are waited for."""
    subtree = node.subtree
    if not subtree.may_start:
        return Reason(
            Error.PENDING, "the node that this participant is attached to has no buffers yet"
        )
    unready = [
        one
        for one in depth_first(subtree.start, joined_children)
        if one.state not in READY and (names or one is node)
    ]
    return Reason(Error.PENDING, "; ".join(map(missing, unready)) or "others are not ready yet")


#: What a node that is not ready must do, by its kind.
MISSING: Final = {
    NodeKind.TOKEN: "turn in its token",
    NodeKind.COLLECTION: "set its constraints",
    NodeKind.GROUP: "declare that all children are present",
}


def missing(node: NodeData) -> str:
    """Return what a node that is not ready must do."""
    return f"{_named(node)} has to {MISSING[node.kind]} ({_place(node)})"


def told(failure: Failure, node: NodeData | None = None, *, names: bool = True) -> str:
    """Return why nodes have failed: for the client of one of them, or (None) without restriction."""
    first, reason = failure.first, failure.reason
    own = node is not None and first.number == node.number
    who = "this participant" if own else _who(first) if names else "another participant"
    match failure.cause:
        case Cause.MISUSE:
            return f"{who} broke the protocol{f': {reason}' if own or names else ''}"
        case Cause.LIMIT:
            return f"{who} exceeded its user's quota{f': {reason}' if own or names else ''}"
        case Cause.CLOSED:
            return f"{who} closed its {first.kind.value} without Release, or ended"
        case Cause.NO_CLIENTS:
            return f"no client is left that uses {_place(first)} or a node below it"
        case Cause.NO_STRONG_NODES:
            return "only weak participants are left, so the buffers can no longer be allocated"
        case Cause.NO_STRONG_HANDLES:
            return "no strong handle to any of the buffers is left"
        case Cause.NOT_SELECTED:
            return _not_selected(failure, names=names)
        case Cause.SHUT_DOWN:
            return STOPPING
        case _:
            return f"the daemon failed{f': {reason}' if reason else ''}"


def _not_selected(failure: Failure, *, names: bool) -> str:
    hidden, selected = failure.first, failure.selected
    group = hidden.parent
    assert group is not None
    assert selected is not None
    instead = f"{_place(selected)} of {_named(selected)}" if names else _place(selected)
    return f"{_place(group)} selected {instead}, not {_place(hidden)}"


def _who(node: NodeData | Who) -> str:
    return f"{_named(node)}, {_place(node)},"


def _named(node: NodeData | Who) -> str:
    return printable(str(node.client))


def _place(node: NodeData | Who) -> str:
    return f"{node.kind.value} {node.number}"
