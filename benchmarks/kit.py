"""What a test costs that uses `sysmem.testing`: a daemon in its own loop, a negotiation of three, four peers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio

import sysmem
from sysmem import blocking, testing

CAMERA = sysmem.constraints("NV12 640x480", cpu="write often", hold=2)
READER = sysmem.constraints("NV12", cpu="read often", hold=1)
ROUNDS = 20


async def _in_loop(starts: list[float], negotiations: list[float]) -> None:
    """Time the start of a daemon in this loop, and three participants from connecting until they have buffers."""
    begun = time.perf_counter()
    async with testing.daemon() as d:
        starts.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with contextlib.ExitStack() as stack:
            allocators = [stack.enter_context(d.connect(name=name)) for name in ("a", "b", "c")]
            token = await allocators[0].allocate_shared_collection()
            others = await token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 2)
            places = []
            for allocator, each in zip(allocators, [token, *others], strict=True):
                places.append(stack.enter_context(await allocator.bind_shared_collection(each)))
                await places[-1].set_constraints(READER if places[1:] else CAMERA)
            for place in places:
                stack.enter_context(await place.wait_for_all_buffers_allocated())
            negotiations.append(time.perf_counter() - begun)


def _peers(runtime_dir: Path, zygote: testing.Zygote) -> Iterator[float]:
    """Time four participant processes, from the first start until all have mapped their buffers."""

    class Where:
        def __init__(self) -> None:
            self.runtime_dir = runtime_dir

    with blocking.connect(runtime_dir) as allocator:
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            token = allocator.allocate_shared_collection()
            tokens = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 4)
            token.release()
            with contextlib.ExitStack() as stack:
                peers = [
                    stack.enter_context(
                        contextlib.closing(
                            testing.start_peer(zygote, Where(), f"peer {n}", CAMERA, each, None)
                        )
                    )
                    for n, each in enumerate(tokens)
                ]
                for each in peers:
                    each.wait("mapped")
                yield time.perf_counter() - begun


def measure(runtime_dir: Path, _: int) -> dict[str, Any]:
    """Return milliseconds, the minimum of some rounds."""
    starts: list[float] = []
    negotiations: list[float] = []
    for _ in range(ROUNDS):
        trio.run(_in_loop, starts, negotiations)
    with contextlib.closing(testing.Zygote()) as zygote:
        peers = list(_peers(runtime_dir, zygote))
    return {
        "daemon_in_loop_ms": min(starts) * 1e3,
        "negotiation_of_three_ms": min(negotiations) * 1e3,
        "four_peers_ms": min(peers) * 1e3,
    }
