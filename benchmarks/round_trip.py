"""A Sync round trip through the blocking client, compared with minimal echoes.

Two more measurements show which side costs how much: the client with an echo that returns its bytes, which is a valid
response to Sync, and the daemon with a prepared request. All run on one core, in turn, and the minimum of many rounds
counts, which reduces the influence of other load on the machine.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
from floors import echo_process, raw_echo, trio_cbor2_echo
from measure import cpu_seconds, pinned

from sysmem import blocking
from sysmem_protocol.message import FLAGS, HEADER, MAGIC
from sysmem_protocol.sysmem2 import Node

CALLS = 600
ROUNDS = 16
_REQUEST = HEADER.pack(1, FLAGS, MAGIC, Node.sync.ordinal)
_BODY = {1: 0}


def _raw_call(sock: socket.socket) -> Callable[[], object]:
    def call() -> object:
        sock.send(_REQUEST)
        return sock.recv(65536)

    return call


def _cbor2_call(sock: socket.socket) -> Callable[[], object]:
    def call() -> object:
        sock.send(cbor2.dumps(_BODY))
        return cbor2.loads(sock.recv(65536))

    return call


def measure(runtime_dir: Path, daemon: int) -> dict[str, Any]:
    """Return microseconds per call, as elapsed time and as CPU time of both sides, and the ratios."""
    with (
        echo_process(raw_echo) as (raw_end, raw_pid),
        echo_process(trio_cbor2_echo) as (bare_end, bare_pid),
        echo_process(raw_echo) as (other_end, other_pid),
        blocking.connect(runtime_dir) as allocator,
        allocator.allocate_shared_collection() as token,
        blocking.BufferCollectionToken.from_fd(os.dup(other_end.fileno())) as echoed,
        socket.socket(fileno=os.dup(token.fileno())) as daemon_end,
    ):
        token.sync()
        subjects: dict[str, tuple[Callable[[], object], int]] = {
            "sync": (token.sync, daemon),
            "trio_cbor2_echo": (_cbor2_call(bare_end), bare_pid),
            "raw_echo": (_raw_call(raw_end), raw_pid),
            "client_with_raw_echo": (echoed.sync, other_pid),
            "daemon_with_raw_client": (_raw_call(daemon_end), daemon),
        }
        found = {
            name: dict.fromkeys(("wall_us", "client_cpu_us", "server_cpu_us"), float("inf"))
            for name in subjects
        }
        cpu = max(os.sched_getaffinity(0))
        with pinned(cpu, daemon, raw_pid, bare_pid, other_pid):
            for _ in range(ROUNDS):
                for name, (call, server) in subjects.items():
                    for what, taken in _round(call, server).items():
                        found[name][what] = min(found[name][what], taken)
    sync, bare_echo, raw, *_ = (found[name] for name in subjects)
    return {
        **found,
        "ratio_to_trio_cbor2_echo": sync["wall_us"] / bare_echo["wall_us"],
        "cpu_ratio_to_trio_cbor2_echo": sync["server_cpu_us"] / bare_echo["server_cpu_us"],
        "ratio_to_raw_echo": sync["wall_us"] / raw["wall_us"],
    }


def _round(call: Callable[[], object], server: int) -> dict[str, float]:
    client_cpu, server_cpu = cpu_seconds(os.getpid()), cpu_seconds(server)
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    wall = time.perf_counter() - start
    return {
        "wall_us": wall / CALLS * 1e6,
        "client_cpu_us": (cpu_seconds(os.getpid()) - client_cpu) / CALLS * 1e6,
        "server_cpu_us": (cpu_seconds(server) - server_cpu) / CALLS * 1e6,
    }
