"""The `Explained` protocol of the library `sysmem`: why a call failed or a channel closes (`docs/spec/inspect.md`).

It is spoken on the channels of `fuchsia.sysmem2`, with clients that ask for it. For others nothing changes.
"""

from __future__ import annotations

from typing import Annotated

from . import sysmem2
from .handles import Handle
from .library import (
    BOOL,
    Enumeration,
    Event,
    Field,
    HandleKind,
    HandleType,
    Interface,
    Method,
    String,
    Table,
    table,
)

#: Bytes of UTF-8 of a reason.
MAX_REASON_BYTES = 4096


@table
class ExplainedSetExplainRequest(Table):
    """Whether reasons are wanted."""

    explain: Annotated[bool | None, Field(1, BOOL, required=True)] = None
    """Whether to send reasons."""


@table
class ExplainedOnExplainedEvent(Table):
    """A reason."""

    error: Annotated[int | None, Field(1, Enumeration(sysmem2.Error))] = None
    """The error of the answer that follows; un-set before a channel closes for a reason that has no error."""
    line: Annotated[str | None, Field(2, String(MAX_REASON_BYTES))] = None
    """The reason, in one line."""
    report: Annotated[Handle | None, Field(3, HandleType(HandleKind.VMO))] = None
    """Of a refused negotiation everything that was asked for, as UTF-8 text."""


class Explained(Interface, library="sysmem"):
    """Reasons, for clients that ask for them.

    SetExplain is sent on an Allocator's channel. OnExplained comes on that channel and on those of nodes.
    """

    set_explain = Method(
        "Send reasons on this channel, and on those of nodes that are made or turned in through it from now on and of "
        "their children, or stop doing so for later ones.",
        ExplainedSetExplainRequest,
    )
    on_explained = Event(
        "Give the reason for the error in the next answer, or for the close that follows.",
        ExplainedOnExplainedEvent,
    )


class Allocator(sysmem2.Allocator, Explained):
    """The Allocator as it is served."""
