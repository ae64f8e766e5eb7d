"""A log that records its lines."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self


class Line(NamedTuple):
    level: str
    event: str
    fields: dict[str, Any]


@dataclass
class RecordingLog:
    entries: list[Line] = field(default_factory=list)
    bound: dict[str, Any] = field(default_factory=dict)

    def bind(self, **fields: Any) -> Self:
        bound = copy.copy(self)
        bound.bound = {**self.bound, **fields}
        return bound

    def _add(self, level: str, event: str, fields: dict[str, Any]) -> None:
        self.entries.append(Line(level, event, {**self.bound, **fields}))

    def debug(self, event: str, **fields: Any) -> None:
        self._add("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._add("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._add("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._add("error", event, fields)

    def find(self, event: str) -> list[Line]:
        """Return the lines of an event."""
        return [line for line in self.entries if line.event == event]

    def said(self, *levels: str) -> list[tuple[str, dict[str, Any]]]:
        """Return event and fields of the lines with these levels."""
        return [(line.event, line.fields) for line in self.entries if line.level in levels]

    def events(self, *levels: str) -> list[str]:
        """Return the events of the lines with these levels."""
        return [event for event, _ in self.said(*levels)]

    def errors(self) -> list[dict[str, Any]]:
        """Return the fields of the errors."""
        return [fields for _, fields in self.said("error")]

    def refusal(self) -> dict[str, Any]:
        """Return the fields of the only line that reports a refusal."""
        [(_, fields)] = self.said("warning", "error")
        return fields
