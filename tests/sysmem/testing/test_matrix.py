"""Faulty participants are found and named. The camera pipeline's test covers every death at every step."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sysmem import blocking, testing
from sysmem.testing import Sysmemd, Zygote, kill_matrix
from sysmem.testing._matrix import Cell, Survivor, _told
from sysmem.testing._watch import Watch, state
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


def alone(runtime_dir: str) -> None:
    """Be the only client, with one message that it is not told to send."""
    with blocking.connect(runtime_dir, name="alone") as allocator:
        allocator.validate_buffer_collection_token(0)


def test_a_check_sees_who_survives_and_may_fail(sysmem_zygote: Zygote) -> None:
    seen: list[Mapping[str, Survivor]] = []

    def check(survivors: Mapping[str, Survivor], daemon: Sysmemd) -> None:
        assert daemon.process.poll() is None
        seen.append(survivors)
        raise AssertionError("what is checked")

    with pytest.raises(AssertionError, match="check: what is checked"):
        kill_matrix(
            Pipeline(sysmem_zygote),
            victims=["camera"],
            steps=[1],
            check=check,
            zygote=sysmem_zygote,
        )
    [survivors] = seen
    assert sorted(survivors) == ["display", "encoder", "initiator"]
    assert [each.status for each in survivors.values()] == [0, 0, 0]
    assert [each.name for each in survivors.values()] == list(survivors)


def test_a_daemon_that_ends_is_told(sysmem_zygote: Zygote) -> None:
    runs: list[Sysmemd] = []

    def run(daemon: Sysmemd) -> testing.Process:
        process = sysmem_zygote.start(f"{__name__}:alone", str(daemon.runtime_dir))
        runs.append(daemon)
        if len(runs) > 1:
            process.wait(20)
            daemon.faults.kill()
        return process

    with pytest.raises(AssertionError, match=r"the worst, alone, after 1 .*\nthe daemon has ended"):
        kill_matrix(run, steps=[1], zygote=sysmem_zygote)


def test_processes_without_names_have_numbers(sysmem_zygote: Zygote) -> None:
    started: list[testing.Process] = []

    def run(_: Sysmemd) -> list[testing.Process]:
        started.extend(sysmem_zygote.start("time:sleep", seconds) for seconds in (0, 60))
        started[0].wait(20)
        return started

    with pytest.raises(AssertionError, match=r"process 2 \(\d+\) still runs\n\n") as failed:
        kill_matrix(run, within=0.2, zygote=sysmem_zygote)
    assert "process 1" not in str(failed.value)
    assert "the worst, nobody, after 0 :" in str(failed.value)
    assert [process.returncode for process in started] == [0, -signal.SIGKILL]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("nothing", "nobody connected to the daemon"),
        ("leaves a connection open", r"left: the connection of mine to .*Allocator, held by"),
        ("breaks the daemon", "the daemon logged an internal error; see its log"),
        ("ends the daemon", "the daemon has ended"),
    ],
)
def test_a_run_without_processes_may_be_at_fault(
    sysmem_zygote: Zygote, fault: str, told: str
) -> None:
    with contextlib.ExitStack() as left:

        def run(daemon: Sysmemd) -> None:
            if fault == "leaves a connection open":
                allocator = blocking.connect(daemon.runtime_dir, name="mine")
                left.enter_context(allocator).validate_buffer_collection_token(0)
            if fault == "breaks the daemon":
                with daemon.log_path.open("a") as log:
                    log.write("Traceback (most recent call last):\n")
            if fault == "ends the daemon":
                daemon.faults.kill()

        error = ValueError if fault == "nothing" else AssertionError
        with pytest.raises(error, match=told):
            kill_matrix(run, within=0.2, zygote=sysmem_zygote)


def test_a_matrix_is_a_table_and_the_worst_fault_is_told() -> None:
    cells = (
        Cell("camera", 3, "Node.Sync", End.KILLED, "", True, 0.25),
        Cell("tv", 10, "Node.Release", End.CLOSED, "a runs, and holds b\nc", True, 1.0),
        Cell("tv", 11, "Node.Release", End.CLOSED, "short", False, 1.0, log="its log"),
        Cell("tv", 12, "Node.Release", End.STOPPED, "", False, 12.0),
    )
    matrix = testing.Matrix(cells)
    assert not matrix.ok
    assert testing.Matrix(cells[::3]).ok
    assert str(matrix).splitlines() == [
        "victim  after its message  is       took     outcome",
        "camera  3 Node.Sync        killed   0.25 s   ok",
        "tv      10 Node.Release    closed   1.00 s   a runs",
        "tv      11 Node.Release    closed   1.00 s   short",
        "tv      12 Node.Release    stopped  12.00 s  not reached",
    ]
    assert "the worst, tv, after 10 Node.Release:\na runs, and holds b\nc\n" in _told(matrix)


def test_a_victim_that_never_connects_is_refused(sysmem_zygote: Zygote) -> None:
    with pytest.raises(ValueError, match="tripod never connects; "):
        kill_matrix(Pipeline(sysmem_zygote), victims=["tripod"], zygote=sysmem_zygote)


def test_a_watched_process_without_a_name_has_that_of_its_command() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child, contextlib.closing(Watch()) as watch:
        watch.add({child.pid: ""})
        command = Path(f"/proc/{child.pid}/comm").read_text().strip()
        assert watch.wait(0) == {child.pid: command}
        while (active := watch.activity()) is None:  # while it starts, it may be running
            pass
        assert [thread for thread, _ in active] == [child.pid]
        child.kill()
        child.wait()
        assert watch.activity() == ()
        assert state(Path(f"/proc/{child.pid}")) == ""
        assert watch.wait(20) == {}


def test_what_a_watched_process_starts_is_watched_too_but_not_this_process() -> None:
    shell = subprocess.Popen(
        ["sh", "-c", "sleep 60 & read _; kill $!; while :; do :; done"], stdin=subprocess.PIPE
    )
    with contextlib.closing(Watch()) as watch, shell:
        watch.add({os.getpid(): "this process"})
        assert watch.wait(0) == {}
        watch.add({shell.pid: "the shell"})
        while sorted(watch.wait(0.01).values()) != ["sleep", "the shell"]:
            watch.add({})
        assert shell.stdin is not None
        shell.stdin.write(b"\n")
        shell.stdin.close()
        while "sleep" in watch.wait(20).values():
            pass
        while watch.activity() is not None:  # until it runs
            pass
        shell.kill()
        while watch.wait(20):
            pass
