"""`make soak`: one daemon serves all kinds of negotiations for a very long time, with misbehaving clients in between.

A run consists of slices. After each slice, it records the daemon's memory, the blocks of memory that its objects take,
its descriptors and threads, and the times of negotiations. At the end it draws a diagram of these figures. The exit
status is 1 if memory, blocks, descriptors or threads are clearly higher in the last quarter than in the second one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import sysmem
from sysmem import blocking

from ..scenarios.test_soak import allocate_use_close, allocate_weak_use_close, resident_kib
from ..wire.process import Daemon
from ..wire.raw import PeerClosed, Wire
from ..wire.test_bad_input import BAD_BODIES, debug_info

#: The permitted growth of the interpreter's heap in half of a run, in KiB.
_SLACK_KIB: Final = 4096
#: The permitted growth of the number of blocks. It depends on what the daemon still knows of the last collections.
_SLACK_BLOCKS: Final = 2000
_WISH: Final = sysmem.constraints(cpu="read, write", size_bytes=8192, hold=1)
#: Cycles of a slice. A run with few cycles has shorter slices.
_SLICE: Final = 1000
_SLICES: Final = 8


def main() -> int:
    """Run the cycles. The exit status says whether the figures stay flat."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--cycles", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write what was noted here")
    parser.add_argument("--plot", type=Path, help="draw it here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sysmem-soak-") as name:
        slices = soak(Path(name), arguments.cycles, arguments.seconds, arguments.seed)
    if arguments.json:
        arguments.json.write_text(json.dumps(slices, indent=1))
    if arguments.plot:
        plot(slices, arguments.plot)
    faults = flaws(slices)
    print("\n".join(faults) or "flat")
    return 1 if faults else 0


def soak(directory: Path, cycles: int, seconds: float, seed: int) -> list[dict[str, Any]]:
    """Return the figures after each slice."""
    chance = random.Random(seed)
    told = directory / "blocks"
    counted = Path(__file__).with_name("counted.py")
    daemon = Daemon(directory, prefix=(sys.executable, str(counted), str(told)))
    each = max(1, min(_SLICE, cycles // _SLICES))
    end = time.monotonic() + seconds
    slices: list[dict[str, Any]] = []
    try:
        with blocking.connect(daemon.runtime_dir, name="soak") as allocator:
            done = 0
            while done < cycles and time.monotonic() < end:
                took = [
                    _one(chance, allocator, done + number)
                    for number in range(min(each, cycles - done))
                ]
                done += len(took)
                _misbehave(chance, daemon)
                times = [one for one in took if one is not None]
                slices.append(_noted(daemon, told, done, times))
                print(json.dumps(slices[-1]), flush=True)
            daemon.assert_log_is_sound()
    finally:
        daemon.kill()
    return slices


def _one(chance: random.Random, allocator: blocking.Allocator, number: int) -> float | None:
    """Negotiate. Return the seconds of a negotiation of two participants, None for others."""
    kind = chance.random()
    if kind < 0.5:
        allocate_use_close(allocator, number)
    elif kind < 0.6:
        allocate_weak_use_close(allocator)
    elif kind < 0.7:
        _fail(chance, allocator)
    else:
        began = time.perf_counter()
        _two(allocator)
        return time.perf_counter() - began
    return None


def _two(allocator: blocking.Allocator) -> None:
    with contextlib.ExitStack() as stack:
        token = stack.enter_context(allocator.allocate_shared_collection())
        [other] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        ends = [
            stack.enter_context(allocator.bind_shared_collection(one)) for one in (token, other)
        ]
        for end in ends:
            end.set_constraints(_WISH)
        for end in ends:
            end.wait_for_all_buffers_allocated().close()
        for end in ends:
            end.release()


def _fail(chance: random.Random, allocator: blocking.Allocator) -> None:
    """Start a negotiation that fails: by a conflict, a broken rule, or a close without Release."""
    with contextlib.ExitStack() as stack:
        token = stack.enter_context(allocator.allocate_shared_collection())
        group = stack.enter_context(token.create_buffer_collection_token_group())
        for child in group.create_children_sync([sysmem.Rights.SAME_RIGHTS] * 2):
            stack.enter_context(child)
        tracking = stack.enter_context(token.attach_node_tracking())
        end = stack.enter_context(allocator.bind_shared_collection(token))
        end.sync()
        if chance.random() < 0.5:
            end.set_constraints(sysmem.constraints(cpu="read", size_bytes=1 << 40, hold=1))
            group.all_children_present()
            end.set_constraints(_WISH)
        else:
            end.close()
        assert tracking.wait_closed(60)


def _misbehave(chance: random.Random, daemon: Daemon) -> None:
    """Send garbage on many channels, and calls whose responses are not read."""
    with Wire(daemon.runtime_dir) as wire, contextlib.suppress(PeerClosed):
        for body in chance.sample(list(BAD_BODIES.values()), 10):
            allocator = wire.connect()
            node = allocator.shared()
            node.sync()
            node.send_bytes(debug_info("token") + body)
            allocator.send_bytes(debug_info("allocator") + body)
        silent = wire.connect().shared()
        for txid in range(1, 3000):
            silent.send("Node.Sync", txid=txid)


def _noted(daemon: Daemon, told: Path, done: int, took: list[float]) -> dict[str, Any]:
    daemon.observer.sync()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(told))
        blocks = int(asking.recv(100))
    took.sort()
    return {
        "cycles": done,
        "rss_kib": resident_kib(daemon.pid),
        "blocks": blocks,
        "descriptors": len(daemon.descriptors()),
        "threads": len(os.listdir(f"/proc/{daemon.pid}/task")),
        "p50_ms": round(statistics.median(took) * 1000, 3),
        "p99_ms": round(took[int(0.99 * (len(took) - 1))] * 1000, 3),
    }


def flaws(slices: list[dict[str, Any]]) -> list[str]:
    """Return the figures that are clearly higher in the last quarter than in the second one."""
    quarter = len(slices) // 4
    if not quarter:
        return ["too few slices"]
    second, last = slices[quarter : 2 * quarter], slices[-quarter:]
    found = []
    for name, slack in (
        ("rss_kib", _SLACK_KIB),
        ("blocks", _SLACK_BLOCKS),
        ("descriptors", 2),
        ("threads", 2),
    ):
        before, after = (statistics.median(one[name] for one in some) for some in (second, last))
        if after > before + slack:
            found.append(f"{name}: {before:.0f} in the second quarter, {after:.0f} in the last")
    return found


def plot(slices: list[dict[str, Any]], path: Path) -> None:
    """Draw the figures."""
    from matplotlib import pyplot

    cycles = [one["cycles"] / 1000 for one in slices]
    figure, (memory, counts, latency) = pyplot.subplots(
        1, 3, figsize=(13, 3.8), constrained_layout=True
    )
    memory.plot(cycles, [one["rss_kib"] / 1024 for one in slices])
    memory.set(title="the daemon's memory (RSS)", ylabel="MiB", ylim=0)
    for name in ("descriptors", "threads"):
        counts.plot(cycles, [one[name] for one in slices], label=name)
    counts.set(title="the daemon's descriptors and threads", ylim=0)
    for name in ("p50_ms", "p99_ms"):
        latency.plot(cycles, [one[name] for one in slices], label=name[:3])
    latency.set(title="a negotiation of two, in each slice", ylabel="ms", yscale="log")
    for axis in (memory, counts, latency):
        axis.set(xlabel="thousand cycles")
        axis.grid(visible=True, alpha=0.3)
    for axis in (counts, latency):
        axis.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
