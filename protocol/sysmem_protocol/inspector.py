"""The `Inspector` protocol of the library `sysmem`: what a running daemon holds, and why (`docs/spec/inspect.md`).

Answers are VMOs: sealed, read-only memfds of UTF-8 JSON, from offset 0 and as long as the file.
"""

from __future__ import annotations

from typing import Annotated

from .handles import Handle
from .library import (
    BOOL,
    UINT64,
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

#: The version of the JSON that answers and events contain.
SCHEMA = 1
#: Bytes of one event's JSON: it fits a message, and many small events share one.
MAX_EVENTS_BYTES = 48 * 1024

_VMO = HandleType(HandleKind.VMO)


@table
class InspectorSnapshotRequest(Table):
    """What to describe."""

    buffer_collection_id: Annotated[int | None, Field(1, UINT64)] = None
    """The only collection to describe; un-set: all of them."""


@table
class InspectorSnapshotResponse(Table):
    """What the daemon holds."""

    snapshot: Annotated[Handle | None, Field(1, _VMO)] = None
    """The description, as JSON."""


@table
class InspectorExplainRequest(Table):
    """What to explain."""

    buffer_collection_id: Annotated[int | None, Field(1, UINT64, required=True)] = None
    """The collection."""


@table
class InspectorExplainResponse(Table):
    """Why a collection is as it is."""

    explanation: Annotated[Handle | None, Field(1, _VMO)] = None
    """The explanation, as JSON."""


@table
class InspectorWatchRequest(Table):
    """What to report, and where."""

    watcher: Annotated[
        Handle | None, Field(1, HandleType(HandleKind.SERVER_END, "Watcher"), required=True)
    ] = None
    """The channel on which events are reported."""
    traffic: Annotated[bool | None, Field(2, BOOL)] = None
    """Whether to report each message too."""
    bodies: Annotated[bool | None, Field(3, BOOL)] = None
    """Whether to report what the messages say."""
    buffer_collection_id: Annotated[int | None, Field(4, UINT64)] = None
    """The only collection to report on; un-set: all of them."""


@table
class WatcherOnEventsEvent(Table):
    """What has happened."""

    json: Annotated[str | None, Field(1, String(MAX_EVENTS_BYTES))] = None
    """An array of events, in order."""
    lost: Annotated[int | None, Field(2, UINT64)] = None
    """How many events were dropped before these because the watcher did not read."""


class Inspector(Interface, library="sysmem"):
    """What the daemon holds, for those whom the socket of this service lets in."""

    snapshot = Method(
        "Describe the daemon, its connections, collections and nodes, and the collections that ended last. Error: "
        "NOT_FOUND for a collection that isn't there.",
        InspectorSnapshotRequest,
        InspectorSnapshotResponse,
        fallible=True,
    )
    explain = Method(
        "Explain a living collection, or one of those that ended last: what each attempt to allocate came to and why, "
        "and who is waited for. Error: NOT_FOUND for any other collection.",
        InspectorExplainRequest,
        InspectorExplainResponse,
        fallible=True,
    )
    watch = Method(
        "Report what happens from now on, as events on a channel of its own, until that closes.",
        InspectorWatchRequest,
    )


class Watcher(Interface, library="sysmem"):
    """Events of the daemon, on the channel that Watch was given.

    The client says nothing here. One that does not read loses events, and is told how many.
    """

    on_events = Event("Report what has happened.", WatcherOnEventsEvent)
