"""A Sync round trip through the blocking client, as a ratio to echoes that do next to nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
from floors import echo_process, raw_echo, trio_cbor2_echo
from measure import per_call, pinned

from sysmem import blocking
from sysmem_protocol.message import HEADER

CALLS = 4000
ROUNDS = 5
_REQUEST = bytes(HEADER.size)
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
    """Each of them pinned to one core and not, in microseconds; and the ratios."""
    results: dict[str, Any] = {}
    with (
        echo_process(raw_echo) as (raw, raw_pid),
        echo_process(trio_cbor2_echo) as (bare, bare_pid),
        blocking.connect(runtime_dir) as allocator,
        allocator.allocate_shared_collection() as token,
    ):
        subjects = {
            "sync": (token.sync, daemon),
            "raw_echo": (_raw_call(raw), raw_pid),
            "trio_cbor2_echo": (_cbor2_call(bare), bare_pid),
        }
        for where, cpu in (("one_core", 0), ("unpinned", None)):
            found = {}
            for name, (call, server) in subjects.items():
                with pinned(cpu, server):
                    found[name] = per_call(call, server, calls=CALLS, rounds=ROUNDS)
            results[where] = {
                **found,
                "ratio_to_raw_echo": _ratio(found, "raw_echo"),
                "ratio_to_trio_cbor2_echo": _ratio(found, "trio_cbor2_echo"),
            }
    return results


def _ratio(found: dict[str, dict[str, float]], floor: str) -> float:
    return found["sync"]["wall_us"] / found[floor]["wall_us"]
