"""A test of every death at every step: run a pipeline repeatedly, and end one participant at one message each time."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from sysmem_protocol.testing import End

from .._traffic import printable
from . import _story
from ._leaks import Leftover, leftovers
from ._sysmemd import Sysmemd, sysmemd
from ._watch import Watch, state, told
from ._zygote import Process, Zygote

#: Polling intervals for state that has no notification: connected clients, activity, held resources.
_LOOK_SECONDS: Final = 0.05
_AGAIN_SECONDS: Final = 0.005
#: The maximum duration of a run, as a multiple of the maximum idle time.
_IN_ALL: Final = 10
#: How long a stopped participant stays stopped before it is killed.
_STOPPED_SECONDS: Final = 0.2


class Running(Protocol):
    """A process of a pipeline, with the interface of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def kill(self) -> None: ...


#: Runs a pipeline with a daemon. Returns the started processes, with or without names, or returns None after all
#: of them have ended.
Run: TypeAlias = Callable[[Sysmemd], "Mapping[str, Running] | Iterable[Running] | Running | None"]


@dataclass(frozen=True)
class Survivor:
    """A process that the run did not end."""

    name: str
    pid: int
    #: The exit status, if the pipeline's function returned the process.
    status: int | None


#: Checks the state after a run. Takes the survivors by name, and the daemon. Raises `AssertionError`.
Check: TypeAlias = Callable[[Mapping[str, Survivor], Sysmemd], None]


@dataclass(frozen=True)
class Cell:
    """One run."""

    victim: str
    #: The number of the victim's last message, and its method.
    step: int
    method: str
    end: End
    #: The fault that was found; empty if there is none.
    fault: str
    reached: bool
    seconds: float
    trace: tuple[dict[str, Any], ...] = field(repr=False, default=())
    log: str = field(repr=False, default="")

    @property
    def outcome(self) -> str:
        """The result of the run, in a few words."""
        if self.fault:
            return self.fault.splitlines()[0].partition(", and holds ")[0]
        return "ok" if self.reached else "not reached"


@dataclass(frozen=True)
class Matrix:
    """The results of all runs."""

    cells: tuple[Cell, ...]

    @property
    def ok(self) -> bool:
        """Whether all runs were without fault."""
        return not any(cell.fault for cell in self.cells)

    def __str__(self) -> str:
        """Return the table of all runs, with one line each."""
        rows = [
            (
                printable(cell.victim),
                f"{cell.step} {cell.method}",
                cell.end.name.lower(),
                f"{cell.seconds:.2f} s",
            )
            for cell in self.cells
        ]
        header = ("victim", "after its message", "is", "took")
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        outcomes = ("outcome", *(cell.outcome for cell in self.cells))
        lines = [
            "  ".join(
                [*(text.ljust(width) for text, width in zip(row, widths, strict=True)), outcome]
            )
            for row, outcome in zip((header, *rows), outcomes, strict=True)
        ]
        return "\n".join(lines)


def kill_matrix(
    run: Run,
    *,
    victims: Iterable[str] | None = None,
    steps: Iterable[int] | None = None,
    check: Check | None = None,
    ends: Iterable[End] = (End.KILLED,),
    within: float = 10.0,
    config: Mapping[str, Any] | str | None = None,
    workers: int | None = None,
    zygote: Zygote | None = None,
) -> Matrix:
    """Run a pipeline repeatedly, and in each run end one participant after one of its messages.

    Each run has its own daemon, and several runs take place at the same time. After each run, all processes must have
    ended in time, no process may hold a buffer or channel, and the daemon must have returned to its initial state.

    Args:
        run: Starts the pipeline with a daemon (`daemon.runtime_dir`) and returns its processes.
        victims: The names of the participants to end; by default all.
        steps: The numbers of the messages after which to end a participant, counted from 1; by default all.
        check: Makes further checks after each run in which a participant was ended.
        ends: The ways to end a participant.
        within: How long a run may be idle, in seconds. Time in which a process waits for a processor does not count
            as idle. The whole run may take ten times as long.
        config: The daemons' configuration, as TOML text or as parsed TOML data.
        workers: The number of simultaneous runs; by default the number of processors.
        zygote: The process that forks the daemons; by default one is started for this call.

    Raises:
        AssertionError: A run had a fault. The text contains the table and the trace of the worst run.
        ValueError: A victim never connects, or no participant connects.
    """
    __tracebackhide__ = True
    with contextlib.ExitStack() as stack:
        forks = zygote or stack.enter_context(contextlib.closing(Zygote()))
        runs = _Runs(run, check, within, config, forks)
        undisturbed, clients = runs.undisturbed()
        if undisturbed.fault:
            raise AssertionError(_told(Matrix((undisturbed,))))
        if not clients:
            raise ValueError("nobody connected to the daemon that the pipeline was run with")
        names = list(clients) if victims is None else list(victims)
        if unknown := [name for name in names if name not in clients]:
            known = ", ".join(map(printable, clients))
            raise ValueError(f"{', '.join(map(printable, unknown))} never connects; {known} do")
        wanted = None if steps is None else set(steps)
        cells = [
            (name, step, method, end)
            for end in ends
            for name in names
            for step, method in enumerate(clients[name], 1)
            if wanted is None or step in wanted
        ]
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            done = list(pool.map(lambda cell: runs.disturbed(*cell), cells))
    matrix = Matrix(tuple(done))
    if not matrix.ok:
        raise AssertionError(_told(matrix))
    return matrix


def _told(matrix: Matrix) -> str:
    """Return the table and the details of the run with the worst fault."""
    worst = max(matrix.cells, key=lambda cell: len(cell.fault))
    trace = _story.messages(worst.trace)
    which = f"{printable(worst.victim)}, after {worst.step} {worst.method}"
    return f"{matrix}\n\nthe worst, {which}:\n{worst.fault}\n\nits last messages:\n{trace}\n\n{worst.log}"


class _Runs:
    """Runs of one pipeline."""

    def __init__(
        self,
        run: Run,
        check: Check | None,
        within: float,
        config: Mapping[str, Any] | str | None,
        zygote: Zygote,
    ) -> None:
        self._run = run
        self._check = check
        self._within = within
        self._daemon = partial(sysmemd, config, zygote=zygote)

    def undisturbed(self) -> tuple[Cell, dict[str, list[str]]]:
        """Run the pipeline undisturbed. Return its cell, and the messages of each participant by name."""
        with self._daemon() as daemon:
            cell = self._cell(daemon, None, 0, "", End.KILLED)
            if cell.fault:  # perhaps the daemon has ended
                return cell, {}
            return cell, {each["name"]: each["messages"] for each in daemon.faults.messages()}

    def disturbed(self, victim: str, step: int, method: str, end: End) -> Cell:
        """Run the pipeline and end one participant."""
        with self._daemon() as daemon:
            daemon.faults.end_at(victim, step, end)
            return self._cell(daemon, victim, step, method, end)

    def _cell(self, daemon: Sysmemd, victim: str | None, step: int, method: str, end: End) -> Cell:
        began = time.monotonic()
        processes: dict[str, Running] = {}
        fault = ""
        watch = Watch()
        try:
            processes = _named(self._run(daemon))
            watch.add({process.pid: name for name, process in processes.items()})
            fault = self._fault(daemon, watch)
            if self._check is not None and victim is not None and not fault:
                self._check(_survivors(daemon, victim, processes), daemon)
        except AssertionError as error:
            fault = f"check: {error}"
        except ConnectionError as error:
            fault = f"the daemon has ended: {error}"
        finally:
            with contextlib.suppress(ConnectionError):
                watch.add(told(daemon.faults.messages()))
            for pid in watch.wait(0):  # after a fault, or after an interrupt
                _kill(pid)
            watch.close()
            for process in processes.values():
                process.kill()
                while process.poll() is None:
                    time.sleep(_AGAIN_SECONDS)
                if isinstance(process, Process):
                    process.close()
        ended, trace = False, []
        with contextlib.suppress(ConnectionError):
            ended = any(each["ended"] for each in daemon.faults.messages())
            trace = daemon.faults.trace()
        seconds = time.monotonic() - began
        name = "nobody" if victim is None else victim
        return Cell(name, step, method, end, fault, ended, seconds, tuple(trace), daemon.log)

    def _fault(self, daemon: Sysmemd, watch: Watch) -> str:
        """Wait until a run ends. Return its fault, or an empty text."""
        if running := self._not_ending(daemon, watch):
            return _told_of_running(daemon, running)
        deadline = time.monotonic() + self._within
        while left := leftovers(daemon.snapshot()):
            if time.monotonic() > deadline:
                return "\n".join(f"left: {each}" for each in left)
            time.sleep(_AGAIN_SECONDS)
        if "Traceback" in daemon.log:
            return "the daemon logged an internal error; see its log"
        return ""

    def _not_ending(self, daemon: Sysmemd, watch: Watch) -> dict[int, str]:
        """Wait until all processes have ended. Return the names, by pid, of those that do not end."""
        deadline = time.monotonic() + _IN_ALL * self._within
        before, idle, looked_at = None, 0.0, time.monotonic()
        while True:
            clients = daemon.faults.messages()
            watch.add(told(clients))
            running = watch.wait(_LOOK_SECONDS)
            if not running:
                return {}
            for client in clients:
                if client["ended"] and state(Path(f"/proc/{client['pid']}")) == "T":
                    time.sleep(_STOPPED_SECONDS)
                    _kill(client["pid"])
            activity = watch.activity()
            now = activity and (activity, sum(len(client["messages"]) for client in clients))
            # If this process was not scheduled, two looks are far apart. Count only part of that time as idle.
            looked_at, elapsed = time.monotonic(), time.monotonic() - looked_at
            idle = idle + min(elapsed, 2 * _LOOK_SECONDS) if now and now == before else 0.0
            before = now
            if idle > self._within or time.monotonic() > deadline:
                return running


def _survivors(
    daemon: Sysmemd, victim: str, processes: Mapping[str, Running]
) -> dict[str, Survivor]:
    """Return all processes of a run but the victim, by name."""
    names = {process.pid: name for name, process in processes.items()}
    status = {process.pid: process.poll() for process in processes.values()}
    everybody = {**names, **told(daemon.faults.messages())}
    return {
        name: Survivor(name, pid, status.get(pid))
        for pid, name in everybody.items()
        if name != victim
    }


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _told_of_running(daemon: Sysmemd, running: Mapping[int, str]) -> str:
    """Return which processes have not ended, and what each still holds."""
    snapshot = daemon.snapshot()
    by_pid: dict[int, list[Leftover]] = {}
    for left in leftovers(snapshot):
        for holder in left.holders:
            by_pid.setdefault(holder.pid, []).append(left)
    # A process that holds something may block the others, so list it first.
    order = sorted(running, key=lambda pid: -len(by_pid.get(pid, [])))
    lines = []
    for pid in order:
        held = ", ".join(each.what for each in by_pid.get(pid, []))
        lines.append(
            f"{printable(running[pid])} ({pid}) still runs"
            + (f", and holds {held}" if held else "")
        )
    return "\n".join(lines)


def _named(
    processes: Mapping[str, Running] | Iterable[Running] | Running | None,
) -> dict[str, Running]:
    if processes is None:
        return {}
    if isinstance(processes, Mapping):
        return dict(processes)
    listed = list(processes) if isinstance(processes, Iterable) else [processes]
    return {f"process {number}": each for number, each in enumerate(listed, 1)}
