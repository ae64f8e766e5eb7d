"""Some faults of the daemon's system calls; `make faults` tries all of them."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .faults import ERRORS, Fault, plan, sample
from .harness import Target, strike_all
from .shortages import MOMENTS
from .starts import Start, strike_starts

pytestmark = (
    pytest.mark.untraced
)  # the daemon must not use much of a processor, and the calls are counted

#: Faults that once broke something, one for each cause.
ONCE = (
    # ended the daemon: nothing guarded these two waits
    Fault("epoll_ctl", "ENOMEM", 2),
    Fault("epoll_ctl", "ENOSPC", 1, lasting=True),
    # ended the daemon at accept
    Fault("getsockopt", "ENOMEM", 1),
    # a node ref had no identity, so its collection could not end
    Fault("statx", "ENOMEM", 1, lasting=True),
    # the end of a collection stopped half way
    Fault("newfstatat", "ENOMEM", 1, lasting=True),
    Fault("fcntl", "ENOLCK", 1, lasting=True),
    # trackings were lost while they were handed over
    Fault("read", "EIO", 1, lasting=True),
    # the daemon used all of a processor
    Fault("accept4", "ECONNABORTED", 1, lasting=True),
    Fault("recvmsg", "EAGAIN", 1, lasting=True),
    Fault("sendmsg", "EAGAIN", 1, lasting=True),
    # the answer of a thread was lost, and inspectors waited for ever
    Fault("sendto", "ENOBUFS", 1, lasting=True),
)
SIZE = 8
#: The seed that selects the suite's faults. FAULTS_SEED sets another one.
SEED = int(os.environ.get("FAULTS_SEED", "20261201"))

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None
    or shutil.which("cc") is None
    or subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "-e", "inject=getppid:error=EPERM", "true"],
        check=False,
    ).returncode
    != 0,
    reason="there is no strace that may trace, or no C compiler",
)


@needs_strace
def test_faults_that_once_broke_something(tmp_path: Path) -> None:
    broken = [str(error) for _, error in strike_all(tmp_path, "lazy", ONCE) if error]
    assert broken == []


@needs_strace
@pytest.mark.parametrize("allocation", ["lazy", "eager"])
def test_a_sample_of_all_faults(tmp_path: Path, allocation: str) -> None:
    """The message of a failure names the fault."""
    target = Target(tmp_path / "counted", allocation)
    try:
        counts = target.counts()
    finally:
        target.close()
    faults = sample(plan(counts, 12), SIZE, SEED)
    broken = [str(error) for _, error in strike_all(tmp_path, allocation, faults) if error]
    assert broken == []


#: Faults that once broke a start, one for each cause.
STARTS_ONCE = (
    # a traceback instead of a sentence
    Fault("openat", "EMFILE", 1),
    Fault("fcntl", "ENOMEM", 1),
    # sockets were left
    Fault("socket", "EMFILE", 3, lasting=True),
    # the error claimed that another daemon serves there
    Fault("flock", "ENOLCK", 1),
)


@needs_strace
def test_a_sample_of_what_may_fail_at_the_start(tmp_path: Path) -> None:
    start = Start(tmp_path)
    faults = [*STARTS_ONCE, *sample(plan(start.counts(), 12), SIZE, SEED)]
    broken = [str(error) for _, error in strike_starts(start, faults) if error]
    assert broken == []


@needs_strace
@pytest.mark.timeout(300)
def test_a_sample_of_other_bad_moments(tmp_path: Path) -> None:
    chosen = [MOMENTS[0], *random.Random(SEED).sample(MOMENTS[1:-3], 2), *MOMENTS[-3:]]
    broken = [str(error) for _, error in strike_all(tmp_path, "lazy", chosen) if error]
    assert broken == []


def test_the_page_names_what_is_tried() -> None:
    """Each error of each call has a place in the table, and each moment in the specification has a row."""
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    table = {
        call: re.findall(r"([A-Z]{3,}) \d", errors)
        for call, errors in re.findall(r"^\| `(\w+)` \| (.*) \| .*\|$", page, re.MULTILINE)
    }
    assert table.keys() <= ERRORS.keys()
    for call, errors in table.items():  # some calls are made only at the start
        assert errors in ([], list(ERRORS[call])), call
    for moment in MOMENTS:
        assert f"| {moment} |" in page
    named = page.split("| moment | tried by |\n")[1].split("\n\n")[0]
    for call, errors in re.findall(r"`(\w+)` ([A-Z, ]+)", named):
        assert set(errors.strip(", ").split(", ")) <= set(table[call]), call


def test_the_scenario_makes_most_of_the_calls_of_the_table() -> None:
    faults = plan(dict.fromkeys(ERRORS, 3), 2)
    assert Fault("accept4", "EMFILE", 1) in faults
    assert Fault("accept4", "EMFILE", 1, lasting=True) in faults
    assert Fault("accept4", "EMFILE", 2) not in faults, "two of three, evenly spread"
    assert sample(faults, 5, 1) == sample(faults, 5, 1) != sample(faults, 5, 2)
