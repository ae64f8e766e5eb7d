"""Some faults of the daemon's system calls; `make faults` tries all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .faults import ERRORS, Fault, plan, sample
from .harness import Target, strike_all

#: Those that once broke something, by what they stand for.
ONCE = (
    # ended the daemon: nothing guarded these two waits
    Fault("epoll_ctl", "ENOMEM", 2),
    Fault("epoll_ctl", "ENOSPC", 1, lasting=True),
    # ended the daemon at accept
    Fault("getsockopt", "ENOMEM", 1),
    # a node ref had no identity, and its collection couldn't end
    Fault("statx", "ENOMEM", 1, lasting=True),
    # stopped the end of a collection half way
    Fault("newfstatat", "ENOMEM", 1, lasting=True),
    Fault("fcntl", "ENOLCK", 1, lasting=True),
    # lost trackings that were being handed over
    Fault("read", "EIO", 1, lasting=True),
    # made the daemon spin
    Fault("accept4", "ECONNABORTED", 1, lasting=True),
    Fault("recvmsg", "EAGAIN", 1, lasting=True),
    Fault("sendmsg", "EAGAIN", 1, lasting=True),
    # an answer of a thread's got lost, and inspectors waited for ever
    Fault("sendto", "ENOBUFS", 1, lasting=True),
)
SIZE = 8

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None
    or subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "-e", "inject=getppid:error=EPERM", "true"],
        check=False,
    ).returncode
    != 0,
    reason="strace isn't installed, or may not trace",
)


@needs_strace
def test_faults_that_once_broke_something(tmp_path: Path) -> None:
    broken = [str(error) for _, error in strike_all(tmp_path, "lazy", ONCE) if error]
    assert broken == []


@needs_strace
@pytest.mark.parametrize("allocation", ["lazy", "eager"])
def test_a_sample_of_all_faults(tmp_path: Path, allocation: str) -> None:
    """The seed is the day, unless FAULTS_SEED says otherwise; a failure names the fault."""
    target = Target(tmp_path / "counted", allocation)
    try:
        counts = target.counts()
    finally:
        target.close()
    seed = int(os.environ.get("FAULTS_SEED", "20261201"))
    faults = sample(plan(counts, 12), SIZE, seed)
    broken = [str(error) for _, error in strike_all(tmp_path, allocation, faults) if error]
    assert broken == []


def test_the_scenario_makes_most_of_the_calls_of_the_table() -> None:
    faults = plan(dict.fromkeys(ERRORS, 3), 2)
    assert Fault("accept4", "EMFILE", 1) in faults
    assert Fault("accept4", "EMFILE", 1, lasting=True) in faults
    assert Fault("accept4", "EMFILE", 2) not in faults, "two of three, evenly spread"
    assert sample(faults, 5, 1) == sample(faults, 5, 1) != sample(faults, 5, 2)
