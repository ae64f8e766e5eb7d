"""Twenty seconds of chaos, and the test of how a failing sequence is shortened. `make chaos` runs for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from .run import IS_ROOT, USERS, Event, plan, run
from .shrink import shrunk

SECONDS = 20.0


@pytest.mark.timeout(240)
@pytest.mark.untraced  # coverage of hundreds of processes is random, and most run as users that can't write the data
def test_a_daemon_holds_in_the_middle_of_chaos(open_path: Path) -> None:
    most = run(open_path / "chaos", 1, SECONDS, plan(1, SECONDS))
    assert most["collections"] > 10, "something was going on"


def test_a_seed_has_the_same_events() -> None:
    once, again = plan(3, 20), plan(3, 20)
    assert once == again
    assert once != plan(4, 20)
    begun = [event for event in plan(3, 20) if event.what == "start"]
    assert sum(event.count for event in begun) > 200, "hundreds of participants"
    assert {event.uid for event in begun} == set(USERS)
    assert (len(USERS) > 1) == IS_ROOT
    assert {event.what for event in plan(3, 60)} == {
        *("start", "kill", "terminate", "stop", "continue", "reload")
    }


def test_a_sequence_is_shrunk_to_what_fails() -> None:
    events = [Event(float(number), "start", number) for number in range(50)]

    def fails(some: list[Event]) -> bool:
        return {7, 31, 32} <= {event.herd for event in some}

    assert [event.herd for event in shrunk(events, fails)] == [7, 31, 32]


def test_shrinking_ends_with_its_tries() -> None:
    tried: list[list[int]] = []

    def fails(some: list[int]) -> bool:
        tried.append(some)
        return 5 in some

    left = shrunk(range(8), fails, tries=3)
    assert len(tried) == 3
    assert 5 in left
    assert len(left) < 8
