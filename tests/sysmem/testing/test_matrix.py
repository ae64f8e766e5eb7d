"""Faulty participants are found and named. The camera pipeline's test covers every death at every step."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sysmem import testing
from sysmem.testing import Sysmemd, Zygote, kill_matrix
from sysmem.testing._watch import Watch
from sysmem_protocol.testing import End

from . import pipeline

NAMES = ("camera", "encoder", "display")


class Pipeline:
    """Runs the pipeline with one participant that may be faulty."""

    def __init__(self, zygote: Zygote, faulty: str = "", fault: str = "") -> None:
        self._zygote = zygote
        self._faults = {faulty: fault}

    def __call__(self, daemon: Sysmemd) -> dict[str, testing.Process]:
        directory = str(daemon.runtime_dir)
        module = pipeline.__name__
        with contextlib.ExitStack() as stack:
            pairs = [socket.socketpair() for _ in NAMES]
            for end in (end for pair in pairs for end in pair):
                stack.enter_context(end)
            ours = [near.fileno() for near, _ in pairs]
            started = {"initiator": self._zygote.start(f"{module}:initiator", directory, fds=ours)}
            for name, (_, far) in zip(NAMES, pairs, strict=True):
                fault = self._faults.get(name, "")
                started[name] = self._zygote.start(
                    f"{module}:participant", name, directory, fault, fds=[far.fileno()]
                )
        return started


@pytest.mark.parametrize("end", [End.STOPPED, End.CLOSED])
def test_a_participant_may_be_stopped_or_close(sysmem_zygote: Zygote, end: End) -> None:
    matrix = kill_matrix(
        Pipeline(sysmem_zygote),
        victims=["encoder"],
        steps=[3, 5],
        ends=[end],
        zygote=sysmem_zygote,
    )
    assert [cell.outcome for cell in matrix.cells] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("fault", "victim", "step", "told"),
    [
        ("ignores peer-closed", "camera", 4, r"display \(\d+\) still runs"),
        (
            "holds a buffer after release",
            "camera",
            6,
            r"display \(\d+\) still runs, and holds .*buffer 0 of ",
        ),
        ("waits without a timeout", "camera", 6, r"display \(\d+\) still runs"),
    ],
)
def test_a_participant_at_fault_is_found_and_named(
    sysmem_zygote: Zygote, fault: str, victim: str, step: int, told: str
) -> None:
    with pytest.raises(AssertionError, match=told) as failed:
        kill_matrix(
            Pipeline(sysmem_zygote, "display", fault),
            victims=[victim],
            steps=[step],
            within=1,
            zygote=sysmem_zygote,
        )
    assert "its last messages:" in str(failed.value)
    assert "BufferCollection.SetConstraints" in str(failed.value)


def test_the_fixture_uses_the_tests_zygote(
    kill_matrix: Callable[..., testing.Matrix], sysmem_zygote: Zygote
) -> None:
    checked: list[object] = []
    matrix = kill_matrix(
        Pipeline(sysmem_zygote),
        victims=["camera"],
        steps=[99],
        check=lambda *run: checked.append(run),
    )
    assert matrix.cells == ()
    assert not checked, "nobody was ended"


def test_a_victim_that_never_connects_is_refused(sysmem_zygote: Zygote) -> None:
    with pytest.raises(ValueError, match="tripod never connects; "):
        kill_matrix(Pipeline(sysmem_zygote), victims=["tripod"], zygote=sysmem_zygote)


def test_a_watched_process_without_a_name_has_that_of_its_command() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child, contextlib.closing(Watch()) as watch:
        watch.add({child.pid: ""})
        command = Path(f"/proc/{child.pid}/comm").read_text().strip()
        assert watch.wait(0) == {child.pid: command}
        child.kill()
        assert watch.wait(20) == {}
