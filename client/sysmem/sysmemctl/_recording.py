"""The file that `sysmemctl capture` writes: JSON lines, as docs/capture.md describes them.

The first line is the header, with the version of the format and a snapshot. Each further line is an event, as the
Inspector reports it. The last one is the event `end`, unless the capture was killed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import UnionType
from typing import Final

from .. import __version__
from ._source import Data
from ._trouble import Trouble

#: The version of the format. It changes when a reader of an older one would understand something wrongly.
VERSION: Final = 1
#: What events have that replaying goes by.
_SHAPES: Final[dict[str, dict[str, type | UnionType]]] = {
    "connected": {"connection": int, "protocol": str},
    "message": {"connection": int, "direction": str, "protocol": str, "method": str},
    "node": {"connection": int, "by": int | None, "collection": int, "node": int, "koid": int},
    "left": {"connection": int, "collection": int, "first": int | None, "cause": str | None},
    "refused": {"connection": int},
    "closed": {"connection": int},
    "ended": {"collection": int},
    "lost": {"count": int},
}


def now() -> str:
    """Return the time as it is in a file."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def header(snapshot: Data) -> Data:
    """Return the first line of a file that begins now."""
    return {"capture": VERSION, "version": __version__, "at": now(), "snapshot": snapshot}


@dataclass(frozen=True)
class Recording:
    """What is in a file."""

    #: The first line: `capture`, `version`, `at` and the `snapshot` of the beginning.
    header: Data
    #: All events but the last.
    events: list[Data]
    #: The event `end`; None if the capture was killed.
    end: Data | None

    @property
    def lost(self) -> int:
        """How many events the daemon dropped, because the capture did not read them in time."""
        return sum(event["count"] for event in self.events if event["event"] == "lost")


class Writer:
    """Writes a file, each line by one system call, so that it can be read however the writing ends."""

    def __init__(self, path: Path) -> None:
        """Begin the file anew. It is readable for its owner only: it says what every client said."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._file = FileIO(descriptor, "w")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Data) -> None:
        """Write a line."""
        self._file.write(json.dumps(data, separators=(",", ":")).encode() + b"\n")


def read(path: Path) -> Recording:
    """Read a file; a last line that was cut off is left out.

    Raises:
        Trouble: It is no capture, or one of a later version.
        OSError: It can't be read.
    """
    return parse(path.read_bytes(), str(path))


def parse(content: bytes, path: str) -> Recording:
    """Return what the content of the file at `path` says. Raises :class:`.Trouble`."""
    *lines, rest = content.split(b"\n")
    found = [_parsed(path, number, line) for number, line in enumerate(lines, 1)]
    if not found and rest:
        raise Trouble(f"{path} is no capture: its first line isn't complete")
    if not found or not isinstance(found[0].get("capture"), int):
        raise Trouble(f"{path} is no capture: its first line isn't the header of one")
    header, *events = found
    if header["capture"] != VERSION:
        raise Trouble(
            f"{path} has version {header['capture']} of the format; this sysmemctl reads version {VERSION}"
        )
    end = events.pop() if events and events[-1].get("event") == "end" else None
    return Recording(header, events, end)


def _parsed(path: str, number: int, line: bytes) -> Data:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise Trouble(f"{path}, line {number}: no JSON: {error}") from None
    if not isinstance(data, dict) or not ("event" in data or number == 1):
        raise Trouble(f"{path}, line {number}: neither a header nor an event")
    event = data.get("event")
    for key, kind in _SHAPES.get(event, {}).items() if isinstance(event, str) else ():
        if not isinstance(data.get(key), kind):
            raise Trouble(f"{path}, line {number}: the event {event!r} has no {key!r} as it should")
    return data
