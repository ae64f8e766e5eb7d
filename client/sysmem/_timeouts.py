"""The meaning of `timeout` arguments, in both faces and on the command line."""

from __future__ import annotations

import math
from time import monotonic
from typing import SupportsFloat, SupportsIndex


def seconds(timeout: SupportsFloat | SupportsIndex | None) -> float | None:
    """Return a timeout in seconds, not negative. None means no limit, as does `math.inf`.

    Raises `TypeError` if the value is not a number, and `ValueError` for NaN.
    """
    if timeout is None:
        return None
    if isinstance(timeout, str | bytes):
        raise TypeError(f"a timeout is a number of seconds or None, not {timeout!r:.80}")
    try:
        number = float(timeout)
    except OverflowError:  # an int of more than 308 digits
        number = math.inf if timeout > 0 else 0.0  # type: ignore[operator]  # only an int raises it
    except (TypeError, ValueError):
        raise TypeError(
            f"a timeout is a number of seconds or None, not {type(timeout).__name__} {timeout!r:.80}"
        ) from None
    if math.isnan(number):
        raise ValueError("a timeout can't be NaN; None or math.inf waits forever")
    return None if number == math.inf else max(0.0, number)


def deadline(timeout: SupportsFloat | SupportsIndex | None) -> float | None:
    """Return when a timeout that begins now will end, on the scale of `time.monotonic()`; None for no limit."""
    allowed = seconds(timeout)
    return None if allowed is None else monotonic() + allowed


def remaining(deadline: float | None) -> float | None:
    """Return the seconds until `deadline`, not negative; None for no limit."""
    return None if deadline is None else max(0.0, deadline - monotonic())


def milliseconds(seconds: float | None) -> int | None:
    """Return a time for `poll`, rounded up, and limited to weeks."""
    return None if seconds is None else math.ceil(min(seconds * 1000, 0x7FFF_FFFF))


def poll_seconds(seconds: float | None) -> float | None:
    """Return a time for `epoll`, limited to weeks."""
    return None if seconds is None else min(seconds, 0x7FFF_FFFF / 1000)
