"""Whole daemons with their clients, simulated from seeds; `make simulate` runs thousands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sysmem_protocol.handles import shut_down
from sysmemd.channels.outbox import Outbox
from sysmemd.closing import ThreadClosing

from .run import Violation, simulate

#: Seeds that failed once, one for each cause. The effect of a seed changes with the simulation, so each cause has
#: another test too.
FAILED_ONCE = (
    # epoll had no memory for a node's channel, and the node stayed in its tree for ever
    0,
    # the lack of memory for the name of a server end counted as a breach of the protocol
    1005,
    # an Allocator whose channel could not be registered was refused before it existed
    1006,
    # unread descriptors in a closed channel stayed open, while its client waited for their close and received nothing
    1021,
    # watchers were not informed of a node that left after its channel had closed
    2382,
    # a node that could not be registered was refused before it existed, because it is created in slices
    5062,
    # unread descriptors in a closed channel stayed open, because a thread that closes them found no free descriptor
    5094,
)
SEEDS = range(100, 300)
_CHUNK = 50

_DIGESTS = (
    "from tests.simulation.run import simulate; print([simulate(n).digest() for n in range(4)])"
)


@pytest.mark.parametrize("first", range(SEEDS.start, SEEDS.stop, _CHUNK))
def test_daemon_and_model_agree(first: int) -> None:
    for seed in range(first, first + _CHUNK):
        simulate(seed)


@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_what_failed_once_does_not_fail_again(seed: int) -> None:
    simulate(seed)


def test_a_seed_replays_the_same_run_step_by_step() -> None:
    for seed in range(4):
        once, again = simulate(seed), simulate(seed)
        assert once.lines == again.lines
    assert simulate(1).lines != simulate(2).lines


def test_so_it_does_in_another_process() -> None:
    """The result does not depend on addresses, hashes or the time."""
    told = {
        subprocess.run(
            [sys.executable, "-c", _DIGESTS],
            env=os.environ | {"PYTHONHASHSEED": number},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for number in ("1", "2")
    }
    assert len(told) == 1


@pytest.mark.parametrize("fault", ["kept descriptors", "early events"])
def test_a_fault_of_the_daemon_is_noticed(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    kept: list[int] = []
    match fault:
        case "kept descriptors":
            monkeypatch.setattr(ThreadClosing, "close", lambda self, fd: kept.append(fd))
        case "early events":
            monkeypatch.setattr(ThreadClosing, "stop_receiving", lambda self, fd: shut_down(fd))
    with pytest.raises(Violation):
        list(map(simulate, range(20)))
    for fd in kept:
        os.close(fd)


def test_a_run_that_does_not_get_on_fails_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In some of these runs simulated time passes, and the loop runs again each time."""
    monkeypatch.setattr(Outbox, "flush", lambda self: False)
    for seed in range(4):
        with pytest.raises(Violation, match=f"^seed {seed}: "):
            simulate(seed)
