"""The messages that a daemon under test has processed, in the format of its Inspector."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from sysmem_protocol.testing import Testing

#: The maximum number of recorded messages.
_MAX_MESSAGES: Final = 10_000


class Trace:
    """Records the newest messages; a :class:`sysmemd.inspection.tracing.Listener`."""

    traffic = True
    bodies = False
    closed = False

    def __init__(self, now: Callable[[], int]) -> None:
        """`now` returns the daemon's time in nanoseconds."""
        self._now = now
        self._kept: deque[tuple[int, str]] = deque(maxlen=_MAX_MESSAGES)
        self._count = 0

    def wants(self, collection: int | None, *, traffic: bool) -> bool:
        """Return whether the event is a message."""
        return traffic

    def tell(self, event: str) -> None:
        """Record a message."""
        self._count += 1
        self._kept.append((self._now(), event))

    def messages(self) -> list[dict[str, Any]]:
        """Return clients' messages in the Inspector's format, with a `number` from 1 and the daemon's time."""
        first = self._count - len(self._kept) + 1
        told = [
            {"number": number, "time_s": round(time / 1e9, 6), **json.loads(event)}
            for number, (time, event) in enumerate(self._kept, first)
        ]
        return [each for each in told if each["protocol"] != Testing.__name__]
