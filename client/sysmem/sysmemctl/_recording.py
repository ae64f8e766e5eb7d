"""The file format of `sysmemctl capture`: JSON lines, as docs/capture.md describes them.

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

#: The version of the format. It changes if a reader of an older version would misinterpret a file.
VERSION: Final = 1
#: The keys of events that a replay needs, and their types.
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
    """Return the current time in the format of a file."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def header(snapshot: Data) -> Data:
    """Return the first line of a new file."""
    return {"capture": VERSION, "version": __version__, "at": now(), "snapshot": snapshot}


@dataclass(frozen=True)
class Recording:
    """The content of a file."""

    #: The first line: `capture`, `version`, `at` and the initial `snapshot`.
    header: Data
    #: All events but the last.
    events: list[Data]
    #: The event `end`; None if the capture was killed.
    end: Data | None

    @property
    def lost(self) -> int:
        """The number of events that the daemon dropped because the capture did not read them in time."""
        return sum(event["count"] for event in self.events if event["event"] == "lost")


class Writer:
    """Writes a file, each line by one system call, so that complete lines can be read after any interruption."""

    def __init__(self, path: Path) -> None:
        """Create or overwrite the file. Only its owner can read it, because it contains what every client sent."""
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
    """Read a file. An incomplete last line is left out.

    Raises:
        Trouble: The file is not a capture, or is of a later version.
        OSError: The file cannot be read.
    """
    return parse(path.read_bytes(), str(path))


def parse(content: bytes, path: str) -> Recording:
    """Return the recording in the content of the file at `path`. Raises :class:`.Trouble`."""
    *lines, rest = content.split(b"\n")
    found = [_parsed(path, number, line) for number, line in enumerate(lines, 1)]
    if not found and rest:
        raise Trouble(f"{path} is not a capture: its first line is incomplete")
    if not found or not isinstance(found[0].get("capture"), int):
        raise Trouble(f"{path} is not a capture: its first line is not a header")
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
        raise Trouble(f"{path}, line {number}: invalid JSON: {error}") from None
    if not isinstance(data, dict) or not ("event" in data or number == 1):
        raise Trouble(f"{path}, line {number}: neither a header nor an event")
    event = data.get("event")
    for key, kind in _SHAPES.get(event, {}).items() if isinstance(event, str) else ():
        if not isinstance(data.get(key), kind):
            raise Trouble(f"{path}, line {number}: the event {event!r} has no valid {key!r}")
    return data
