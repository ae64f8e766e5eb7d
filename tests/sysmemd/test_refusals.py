"""Refusals by users' limits are logged, and can't fill the log."""

from __future__ import annotations

from sysmemd.refusals import MAX_LINES, SECOND_NS, Refusals

from .memory.harness import TestClock
from .recording import RecordingLog


def test_a_second_has_so_many_lines_of_a_user_and_then_one_that_counts_the_rest() -> None:
    assert MAX_LINES == 10
    log, clock = RecordingLog(), TestClock()
    refusals = Refusals(log, clock)
    for number in range(MAX_LINES + 5):
        refusals.say("refused", 1000, limit="nodes", number=number)
    refusals.say("refused", 1001, limit="nodes")
    assert [fields for _, _, fields in log.entries] == [
        *({"user": 1000, "limit": "nodes", "number": number} for number in range(MAX_LINES)),
        {"user": 1001, "limit": "nodes"},
    ]
    log.entries.clear()
    clock.advance(SECOND_NS)
    [(level, _, fields)] = log.entries
    assert (level, fields) == ("warning", {"user": 1000, "left_out": 5})
    assert clock.next_due() is None, "nothing is kept of users who are refused nothing"
    refusals.say("refused", 1000)
    assert len(log.entries) == 2


def test_a_user_who_goes_on_has_the_same_every_second() -> None:
    log, clock = RecordingLog(), TestClock()
    refusals = Refusals(log, clock)
    for _ in range(3):
        for _ in range(100):
            refusals.say("refused", 1000)
        clock.advance(SECOND_NS)
    assert len(log.entries) == 3 * (MAX_LINES + 1)
