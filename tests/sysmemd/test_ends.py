"""Clean-up that continues when a part of it raises an exception."""

from __future__ import annotations

import pytest

from sysmemd.ends import every


def test_every_step_is_taken_and_the_first_failure_is_raised() -> None:
    taken: list[int] = []

    def fail(number: int) -> None:
        taken.append(number)
        raise KeyError(number)

    with pytest.raises(KeyError, match="1"):
        every((lambda: fail(1), lambda: fail(2), lambda: taken.append(3)))
    assert taken == [1, 2, 3]
    every(())


def test_what_is_no_failure_but_an_interruption_stops_it() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        every((interrupt, pytest.fail))
