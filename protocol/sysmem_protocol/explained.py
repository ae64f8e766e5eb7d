"""The `Explained` protocol of the library `sysmem`: reasons for failed calls and closed channels.

It is used on the channels of `fuchsia.sysmem2` with clients that request it (`docs/spec/inspect.md`). Nothing changes
for other clients.
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

#: The maximum length of a reason in bytes of UTF-8.
MAX_REASON_BYTES = 4096


@table
class ExplainedSetExplainRequest(Table):
    """Whether to send reasons."""

    explain: Annotated[bool | None, Field(1, BOOL, required=True)] = None
    """True to send reasons, false to stop."""


@table
class ExplainedOnExplainedEvent(Table):
    """A reason."""

    error: Annotated[int | None, Field(1, Enumeration(sysmem2.Error))] = None
    """The error of the response that follows. Un-set before a channel closes for a reason that has no error."""
    line: Annotated[str | None, Field(2, String(MAX_REASON_BYTES))] = None
    """The reason, in one line."""
    report: Annotated[Handle | None, Field(3, HandleType(HandleKind.VMO))] = None
    """For a refused negotiation, the report with all constraints, as UTF-8 text."""


class Explained(Interface, library="sysmem"):
    """Reasons for errors and closed channels, for clients that request them.

    SetExplain is sent on an Allocator's channel. OnExplained is sent on that channel and on those of nodes.
    """

    set_explain = Method(
        "Send reasons on this channel, and on those of nodes that are created or turned in through it from now on "
        "and of their children; or do not send them for later ones.",
        ExplainedSetExplainRequest,
    )
    on_explained = Event(
        "Report the reason for the error in the next response, or for the close that follows.",
        ExplainedOnExplainedEvent,
    )


class Allocator(sysmem2.Allocator, Explained):
    """The Allocator as the daemon serves it."""
