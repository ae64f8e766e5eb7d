"""The `Inspector` protocol of the library `sysmem`, which describes a running daemon (`docs/spec/inspect.md`).

Responses contain VMOs: sealed, read-only memfds with UTF-8 JSON from offset 0 to the end of the file.
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

#: The version of the JSON in responses and events.
SCHEMA = 1
#: The maximum number of bytes of an OnEvents message's JSON. Many small events share one message.
MAX_EVENTS_BYTES = 48 * 1024

_VMO = HandleType(HandleKind.VMO)


@table
class InspectorSnapshotRequest(Table):
    """The collections to describe."""

    buffer_collection_id: Annotated[int | None, Field(1, UINT64)] = None
    """The only collection to describe. Un-set means all."""


@table
class InspectorSnapshotResponse(Table):
    """The daemon's state."""

    snapshot: Annotated[Handle | None, Field(1, _VMO)] = None
    """The description, as JSON."""


@table
class InspectorExplainRequest(Table):
    """The collection to explain."""

    buffer_collection_id: Annotated[int | None, Field(1, UINT64, required=True)] = None
    """The collection."""


@table
class InspectorExplainResponse(Table):
    """The explanation of a collection's state."""

    explanation: Annotated[Handle | None, Field(1, _VMO)] = None
    """The explanation, as JSON."""


@table
class InspectorWatchRequest(Table):
    """The events to report, and the channel for them."""

    watcher: Annotated[
        Handle | None, Field(1, HandleType(HandleKind.SERVER_END, "Watcher"), required=True)
    ] = None
    """The channel on which events are reported."""
    traffic: Annotated[bool | None, Field(2, BOOL)] = None
    """Whether to report each message too."""
    bodies: Annotated[bool | None, Field(3, BOOL)] = None
    """Whether to report the contents of messages too."""
    buffer_collection_id: Annotated[int | None, Field(4, UINT64)] = None
    """The only collection to report on. Un-set means all."""


@table
class WatcherOnEventsEvent(Table):
    """Events that have occurred."""

    json: Annotated[str | None, Field(1, String(MAX_EVENTS_BYTES))] = None
    """An array of events, in order."""
    lost: Annotated[int | None, Field(2, UINT64)] = None
    """The number of events that were dropped before these because the watcher did not read in time."""


class Inspector(Interface, library="sysmem"):
    """The daemon's state, for clients that may connect to the socket of this service."""

    snapshot = Method(
        "Describe the daemon, its connections, collections and nodes, and the collections that ended last. Error: "
        "NOT_FOUND if there is no such collection.",
        InspectorSnapshotRequest,
        InspectorSnapshotResponse,
        fallible=True,
    )
    explain = Method(
        "Explain a living collection, or one of those that ended last: the result of each allocation attempt with "
        "its reasons, and what is waited for. Error: NOT_FOUND for any other collection.",
        InspectorExplainRequest,
        InspectorExplainResponse,
        fallible=True,
    )
    watch = Method(
        "Report events from now on, on a channel of its own, until that channel closes.",
        InspectorWatchRequest,
    )


class Watcher(Interface, library="sysmem"):
    """Events of the daemon, on the channel that was passed to Watch.

    The client sends nothing on it. A client that does not read loses events, and is told how many.
    """

    on_events = Event("Report events.", WatcherOnEventsEvent)
