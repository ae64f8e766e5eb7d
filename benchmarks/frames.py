"""Frames of 1080p NV12 to four consumers that touch them with numpy, as a ratio to handing over bare indices.

Both hand over the same buffers between the same processes; the floor sends the index of a buffer through a socket pair,
and gets a byte back. Neither copies a pixel, and the daemon takes no part in either. How long a frame takes to arrive
is measured at a camera's pace.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from measure import cpu_seconds
from numpy.typing import NDArray

import sysmem
from sysmem import blocking
from sysmem.blocking.frames import FrameReceiver, FrameSender, pair

CONSUMERS = 4
BUFFERS = 8
FRAMES = 10_000
PACED_FRAMES = 1_000
FRAMES_PER_SECOND = 240
WIDTH, HEIGHT = 1920, 1080

Image = NDArray[np.uint8]
#: Takes an end of the stream, the images and a list for delays in ns. Returns how many frames were intact.
Consume = Callable[[socket.socket, list[Image], list[int]], int]


def touch(image: Image, number: int) -> bool:
    """Read many cache lines of the image. Return whether all of them belong to this frame."""
    return bool((image[::16, ::64] == number % 251).all())


def stamp(image: Image, number: int) -> None:
    """Write the frame's number to the places that :func:`touch` reads."""
    image[::16, ::64] = number % 251


# --- the subject and the floor --------------------------------------------------------------------------------------


def consume_frames(end: socket.socket, images: list[Image], delays: list[int]) -> int:
    intact = 0
    with FrameReceiver(end) as receiver:
        for frame in receiver:
            with frame:
                delays.append(time.monotonic_ns() - frame.timestamp)
                intact += touch(images[frame.index], frame.sequence)
    return intact


def produce_frames(ends: list[socket.socket], images: list[Image], count: int, pace: float) -> None:
    with FrameSender(len(images), *ends) as sender:
        for number in paced(count, pace):
            index = sender.acquire()
            stamp(images[index], number)
            sender.send(index)


def consume_indices(end: socket.socket, images: list[Image], delays: list[int]) -> int:
    intact = 0
    with end:
        while message := end.recv(16):
            delays.append(time.monotonic_ns() - int.from_bytes(message[8:], "little"))
            number = int.from_bytes(message[:8], "little")
            intact += touch(images[number % len(images)], number)
            end.send(b"\0")
    return intact


def produce_indices(
    ends: list[socket.socket], images: list[Image], count: int, pace: float
) -> None:
    """Send indices with the least bookkeeping that protects buffers in use: consumers answer in order."""
    answered = dict.fromkeys(ends, 0)
    for number in paced(count, pace):
        while number - min(answered.values()) >= len(images):
            for end in select.select(ends, [], [])[0]:
                answered[end] += len(end.recv(1))
        stamp(images[number % len(images)], number)
        message = number.to_bytes(8, "little") + time.monotonic_ns().to_bytes(8, "little")
        for end in ends:
            end.send(message)
    for end in ends:
        end.shutdown(socket.SHUT_WR)  # the last answers may still come


def paced(count: int, pace: float) -> Iterator[int]:
    """Yield numbers, one every `pace` seconds; without a pause if `pace` is 0."""
    begun = time.monotonic()
    for number in range(count):
        if pace:
            time.sleep(max(0.0, begun + number * pace - time.monotonic()))
        yield number


# --- one run --------------------------------------------------------------------------------------------------------


@contextmanager
def consumers(
    consume: Consume, images: list[Image]
) -> Iterator[tuple[list[socket.socket], list[int]]]:
    """Fork the consumers. Yield the producer's ends, and descriptors from which to read the consumers' results."""
    ends: list[socket.socket] = []
    results: list[int] = []
    pids = []
    for _ in range(CONSUMERS):
        near, far = pair()
        result, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            for other in (near, *ends):
                other.close()
            delays: list[int] = []
            intact = consume(far, images, delays)
            with open(write, "w") as file:
                json.dump([intact, delays], file)
            os._exit(0)
        pids.append(pid)
        far.close()
        os.close(write)
        ends.append(near)
        results.append(result)
    try:
        yield ends, results
    finally:
        for pid in pids:
            os.waitpid(pid, 0)
        for end in ends:
            end.close()


def run(
    produce: Callable[[list[socket.socket], list[Image], int, float], None],
    consume: Consume,
    images: list[Image],
    count: int,
    pace: float = 0.0,
) -> dict[str, float]:
    """Return the frames per second, and the time that frames took to arrive."""
    with consumers(consume, images) as (ends, results):
        begun = time.perf_counter()
        produce(ends, images, count, pace)
        delays: deque[int] = deque()
        for result in results:
            with open(result) as file:
                intact, seen = json.load(file)
            if intact != count:
                raise RuntimeError(f"a consumer saw {intact} of {count} frames intact")
            delays += seen
        seconds = time.perf_counter() - begun
    return {
        "frames_per_second": count / seconds,
        "p50_us": float(np.percentile(delays, 50)) / 1e3,
        "p99_us": float(np.percentile(delays, 99)) / 1e3,
    }


def measure(runtime_dir: Path, daemon: int) -> dict[str, Any]:
    """Measure both at full speed and at a fixed rate. Return ratios to the floor, and the daemon's CPU time."""
    with ExitStack() as stack:
        allocator = stack.enter_context(blocking.connect(runtime_dir))
        collection = stack.enter_context(allocator.allocate_non_shared_collection())
        collection.set_constraints(
            sysmem.constraints(
                f"NV12 {WIDTH}x{HEIGHT}", cpu="read often, write often", hold=BUFFERS
            )
        )
        info = stack.enter_context(collection.wait_for_all_buffers_allocated())
        constraints = info.settings.image_format_constraints
        assert constraints is not None
        images: list[Image] = [buffer.planes(constraints)[0] for buffer in info.buffers]
        daemon_before = cpu_seconds(daemon)
        found = {}
        for name, (produce, consume) in {
            "frames": (produce_frames, consume_frames),
            "bare_indices": (produce_indices, consume_indices),
        }.items():
            found[name] = {
                "flat_out": run(produce, consume, images, FRAMES),
                "paced": run(produce, consume, images, PACED_FRAMES, 1 / FRAMES_PER_SECOND),
            }
        daemon_cpu = cpu_seconds(daemon) - daemon_before
        images.clear()
    subject, floor = found["frames"], found["bare_indices"]
    return {
        "what": f"{CONSUMERS} consumers, {FRAMES} frames of {WIDTH}x{HEIGHT} NV12, {BUFFERS} buffers",
        **found,
        "throughput_ratio": subject["flat_out"]["frames_per_second"]
        / floor["flat_out"]["frames_per_second"],
        "p99_ratio": subject["paced"]["p99_us"] / floor["paced"]["p99_us"],
        "daemon_cpu_seconds": daemon_cpu,
    }
