"""What a `timeout` argument means, in both faces and at the command line."""

from __future__ import annotations

import math
from time import monotonic
from typing import SupportsFloat, SupportsIndex


def seconds(timeout: SupportsFloat | SupportsIndex | None) -> float | None:
    """Return the seconds that a timeout allows, not negative; None for ever, which `math.inf` means too.

    Raises `TypeError` for what is no number, and `ValueError` for NaN.
    """
    if timeout is None:
        return None
    if isinstance(timeout, str | bytes):
        raise TypeError(f"a timeout is a number of seconds or None, not {timeout!r:.80}")
    try:
        number = float(timeout)
    except OverflowError:  # an int with more than 308 digits
        number = math.inf if timeout > 0 else 0.0  # type: ignore[operator]  # only an int raises it
    except (TypeError, ValueError):
        raise TypeError(
            f"a timeout is a number of seconds or None, not {type(timeout).__name__} {timeout!r:.80}"
        ) from None
    if math.isnan(number):
        raise ValueError("a timeout can't be NaN; None or math.inf waits for ever")
    return None if number == math.inf else max(0.0, number)


def deadline(timeout: SupportsFloat | SupportsIndex | None) -> float | None:
    """When a timeout that begins now is over, in seconds of `time.monotonic()`; None for never. Raises as `seconds`."""
    allowed = seconds(timeout)
    return None if allowed is None else monotonic() + allowed


def remaining(deadline: float | None) -> float | None:
    """Seconds until `deadline`, not negative; None for ever."""
    return None if deadline is None else max(0.0, deadline - monotonic())


def milliseconds(seconds: float | None) -> int | None:
    """Return a time for `poll`, never less than asked for but where that is weeks."""
    return None if seconds is None else math.ceil(min(seconds * 1000, 0x7FFF_FFFF))


def poll_seconds(seconds: float | None) -> float | None:
    """Return a time for `epoll`, which takes weeks at most."""
    return None if seconds is None else min(seconds, 0x7FFF_FFFF / 1000)
