"""Resources that a daemon still holds for clients after a test, and the processes that keep them alive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sysmem_protocol.inspector import Inspector
from sysmem_protocol.processes import Process
from sysmem_protocol.testing import Testing

from .._traffic import printable
from ..sysmemctl._holders import find
from ..sysmemctl._nodes import named
from ..sysmemctl._source import ClientEnds

#: Services that a test itself connects to for inspection.
_LOOKING = (Inspector.service_name(), Testing.service_name())


@dataclass(frozen=True)
class Leftover:
    """A resource that is still held."""

    what: str
    holders: tuple[Process, ...]

    def __str__(self) -> str:
        by = ", ".join(
            f"{printable(each.command) or 'process'} ({each.pid})" for each in self.holders
        )
        return f"{self.what}, held by {by or 'no visible process'}"


def leftovers(snapshot: dict[str, Any]) -> list[Leftover]:
    """Return every resource in a snapshot that a client still holds."""
    return [*_connections(snapshot), *_nodes(snapshot), *_buffers(snapshot)]


def _connections(snapshot: dict[str, Any]) -> Iterator[Leftover]:
    for one in snapshot["connections"]:
        if one["protocol"] not in _LOOKING:
            holder = Process(one["pid"], one["uid"], one["command"] or "")
            client = printable(one["client_name"]) or "a client without a name"
            yield Leftover(f"the connection of {client} to {one['protocol']}", (holder,))


def _nodes(snapshot: dict[str, Any]) -> Iterator[Leftover]:
    ends = ClientEnds(snapshot["collections"])
    for collection in snapshot["collections"]:
        for node in collection["nodes"]:
            if node["connected"]:
                client = printable(node["client_name"]) or "a client without a name"
                what = f"{node['kind']} {node['number']} ({client}) of {named(collection)}"
                yield Leftover(what, _unique(ends.of(collection, node)))


def _buffers(snapshot: dict[str, Any]) -> Iterator[Leftover]:
    collections = [each for each in snapshot["collections"] if each["buffers"]]
    daemon = snapshot["daemon"]["pid"]
    found = find(collections)
    for collection in collections:
        for buffer in collection["buffers"]:
            if buffer["state"] in ("server", "gone"):
                continue
            holdings = found.holdings.get(buffer["inode"], [])
            holders = _unique(each.process for each in holdings if each.process.pid != daemon)
            yield Leftover(f"buffer {buffer['index']} of {named(collection)}", holders)


def _unique(processes: Iterable[Process]) -> tuple[Process, ...]:
    return tuple(dict.fromkeys(processes))
