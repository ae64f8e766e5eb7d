"""Log entries about refusals to users. Their rate is limited, so that no user fills the log by asking for too much."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from .ports import Clock, Log

#: The maximum number of entries about one user in a second, and the length of that second.
MAX_LINES: Final = 10
SECOND_NS: Final = 1_000_000_000


@dataclass(slots=True)
class _Second:
    lines: int = 0
    left_out: int = 0


class Refusals:
    """Logs refusals to users, at most :data:`MAX_LINES` times a second for each user, and then their number."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        #: The current second of each user, by uid.
        self._seconds: dict[int, _Second] = {}

    def say(self, event: str, uid: int, **fields: Any) -> None:
        """Log a refusal to a user, or only count it."""
        second = self._seconds.get(uid)
        if second is None:
            second = self._seconds[uid] = _Second()
            self._clock.call_at(self._clock.now() + SECOND_NS, partial(self._end, uid))
        if second.lines < MAX_LINES:
            second.lines += 1
            self._log.warning(event, **{**fields, "user": uid})
        else:
            second.left_out += 1

    def _end(self, uid: int) -> None:
        second = self._seconds.pop(uid)
        if second.left_out:
            self._log.warning(
                "further refusals to this user were not logged",
                user=uid,
                left_out=second.left_out,
            )
