"""Steps that are taken in groups."""

from __future__ import annotations

from functools import partial

import pytest

from sysmemd.memory.groups import Groups

from .harness import TestClock


def test_other_work_is_done_between_groups_and_takers_take_turns() -> None:
    clock = TestClock()
    groups, taken = Groups(clock), list[str]()
    for name in "ab":
        groups.take([partial(taken.append, name)] * 40)
    assert taken == 16 * ["a"] + 16 * ["b"]
    for _ in range(4):
        clock.run_next()
    assert taken[32:] == 16 * ["a"] + 16 * ["b"] + 8 * ["a"] + 8 * ["b"]


def test_at_the_end_all_steps_are_taken_also_after_errors_and_those_that_steps_add() -> None:
    clock = TestClock()
    groups, taken = Groups(clock), list[int]()

    def add() -> None:
        groups.take(partial(taken.append, number) for number in range(40))
        raise ValueError("of a step")

    groups.take([*(lambda: None for _ in range(20)), add])
    with pytest.raises(ValueError, match="of a step"):
        groups.finish()
    assert taken == [*range(40)]
    assert clock.next_due() is None
