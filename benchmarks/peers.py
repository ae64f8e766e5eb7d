"""Measure sysmem beside what a Python user would build instead (:mod:`alternatives`), in one run: `make bench-peers`.

A round begins when the participants are told to begin, and ends when all of them have all buffers mapped.
"""

from __future__ import annotations

import argparse
import array
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alternatives import FLOOR, SUBJECTS, Participant
from measure import machine, write
from participants import DONE, expect, hand_out, participants

from sysmem import blocking

PARTICIPANTS = (2, 4, 16)
ROUNDS = 12
#: Round trips are the minimum of ECHO_ROUNDS rounds with ECHOES calls each.
ECHO_ROUNDS, ECHOES = 8, 200

_BEGIN, _ECHO = b"b", b"e"


def _participate(make: Callable[[Path], Participant], where: Path, control: socket.socket) -> None:
    participant = make(where)
    control.send(DONE)
    number = 0
    while True:
        kind, fds, _, _ = socket.recv_fds(control, 1, 1)
        if kind == _BEGIN:
            number += 1
            participant.negotiate(number, fds[0] if fds else None)
            control.send(DONE)
        elif kind == _ECHO:
            least = float("inf")
            for _ in range(ECHO_ROUNDS):
                start = time.perf_counter()
                for _ in range(ECHOES):
                    participant.echo()
                least = min(least, time.perf_counter() - start)
            control.send(array.array("d", [least / ECHOES]))
        else:
            return


def _round(controls: list[socket.socket], allocator: blocking.Allocator | None) -> float:
    start = time.perf_counter()
    if allocator is None:
        for control in controls:
            control.send(_BEGIN)
    else:
        hand_out(_BEGIN, allocator, controls)
    expect(controls)
    return time.perf_counter() - start


def _measure(count: int) -> dict[str, dict[str, float]]:
    taken: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    found: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        at: dict[str, tuple[list[socket.socket], blocking.Allocator | None]] = {}
        for name, (serve, make) in SUBJECTS.items():
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            where = stack.enter_context(serve(directory, count))
            controls = stack.enter_context(participants(partial(_participate, make, where), count))
            has_tokens = name in ("sysmem", FLOOR)
            allocator = stack.enter_context(blocking.connect(where)) if has_tokens else None
            at[name] = controls, allocator
            _round(controls, allocator)
        for _ in range(ROUNDS):
            for name, subject in at.items():
                taken[name].append(_round(*subject))
        for name, (controls, _) in at.items():
            found[name] = {"negotiation_ms": statistics.median(taken[name]) * 1e3}
            if name != FLOOR:
                controls[0].send(_ECHO)
                [echo] = array.array("d", controls[0].recv(8))
                found[name]["round_trip_us"] = echo * 1e6
    ours = found["sysmem"]
    for name, values in found.items():
        if name != "sysmem":
            values["negotiation_ratio"] = ours["negotiation_ms"] / values["negotiation_ms"]
        if name not in ("sysmem", FLOOR):
            values["round_trip_ratio"] = ours["round_trip_us"] / values["round_trip_us"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    arguments = parser.parse_args()
    results: dict[str, Any] = {
        "machine": {
            **machine(),
            **{name: version(name) for name in ("dbus-fast", "asyncvarlink")},
        }
    }
    for count in PARTICIPANTS:
        results[str(count)] = _measure(count)
        for name, values in results[str(count)].items():
            cells = "  ".join(f"{what} {value:8.2f}" for what, value in values.items())
            print(f"{count:3} participants  {name:14} {cells}", file=sys.stderr)
    write(results, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
