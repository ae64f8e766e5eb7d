"""Streams between processes: frames stay intact, whichever process is killed, stopped or slow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import sysmem
from sysmem import blocking
from sysmem.blocking.frames import EndOfStreamError, FrameReceiver, FrameSender, Policy, pair

WAIT = 120.0
CONSUMER = Path(__file__).with_name("consumer.py")
WIDTH, HEIGHT = 320, 180
SIZE = WIDTH * HEIGHT * 3 // 2
BUFFERS = 7

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def info(allocator: blocking.Allocator) -> Iterator[sysmem.BufferCollectionInfo]:
    """Seven NV12 buffers."""
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_constraints(
            sysmem.constraints(
                f"NV12 {WIDTH}x{HEIGHT}", cpu="read often, write often", hold=BUFFERS
            )
        )
        with collection.wait_for_all_buffers_allocated(timeout=WAIT) as found:
            yield found


@pytest.fixture
def sender(info: sysmem.BufferCollectionInfo) -> Iterator[FrameSender]:
    """The producer of frames in these buffers."""
    with FrameSender(info) as made:
        yield made


@pytest.fixture
def start(info: sysmem.BufferCollectionInfo, sender: FrameSender) -> Iterator[Start]:
    """A function that starts consumers. All are ended after the test."""
    fds = [buffer.vmo.fileno() for buffer in info.buffers if buffer.vmo]
    with ExitStack() as stack:

        def started(
            *options: str, policy: Policy = Policy.WAIT, hold: int | None = None
        ) -> subprocess.Popen[str]:
            near, far = pair()
            with far:
                process = subprocess.Popen(
                    [
                        sys.executable,
                        str(CONSUMER),
                        str(far.fileno()),
                        ",".join(map(str, fds)),
                        str(SIZE),
                        *options,
                    ],
                    pass_fds=[far.fileno(), *fds],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            stack.enter_context(process)
            stack.callback(process.kill)
            sender.add(near, policy=policy, hold=hold)
            return process

        yield started


@pytest.fixture
def images(info: sysmem.BufferCollectionInfo) -> Iterator[list[NDArray[np.uint8]]]:
    """Return the buffers' bytes. Luma and chroma are one array, because rows have no padding here."""
    constraints = info.settings.image_format_constraints
    assert constraints is not None
    found = [
        np.ndarray(SIZE, np.uint8, buffer.planes(constraints)[0].base) for buffer in info.buffers
    ]
    yield found
    found.clear()  # pytest keeps the list


def produce(
    sender: FrameSender, images: list[NDArray[np.uint8]], count: int = 1, timeout: float = WAIT
) -> None:
    """Send frames, each filled with its number, so that a frame that is overwritten too early is noticed."""
    for _ in range(count):
        index = sender.acquire(timeout=timeout)
        images[index][:] = sender.statistics().sent % 251
        sender.send(index, size=SIZE)


def lines(process: subprocess.Popen[str]) -> list[str]:
    """Return all lines that a consumer printed that ends by itself."""
    assert process.stdout is not None
    printed = process.stdout.read().splitlines()
    assert process.wait(WAIT) == 0
    return printed


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    while (line := process.stdout.readline().strip()) != text:
        assert line, f"the consumer ended without {text!r}"


def test_slow_and_fast_consumers_get_whole_frames(
    sender: FrameSender, images: list[NDArray[np.uint8]], start: Start
) -> None:
    fast = start()
    slow = start("--pause", "0.002")
    newest = start("--pause", "0.004", policy=Policy.DROP_OLDEST, hold=1)
    oldest = start("--pause", "0.004", policy=Policy.DROP_NEWEST, hold=1)
    produce(sender, images, 300)
    sender.close("enough")
    for process in (fast, slow):
        assert lines(process) == [*map(str, range(300)), "enough"]
    for process, statistics in zip(
        (newest, oldest), sender.statistics().consumers[2:], strict=True
    ):
        got = lines(process)
        assert got.pop() == "enough"
        assert "torn" not in " ".join(got)
        assert len(got) + statistics.dropped == 300
        assert statistics.dropped > 0


@pytest.mark.parametrize("held", [0, 1, 3])
def test_a_killed_consumer_frees_what_it_held_at_once(
    sender: FrameSender, images: list[NDArray[np.uint8]], start: Start, held: int
) -> None:
    other = start()
    victim = start("--hold", str(held))
    produce(sender, images, BUFFERS)
    wait_for_line(victim, "holding" if held else str(BUFFERS - 1))
    victim.kill()
    victim.wait()
    produce(sender, images, 20)
    assert sender.statistics().consumers[1].gone == "it closed its end, or died"
    sender.close()
    assert len(lines(other)) == BUFFERS + 20 + 1


def test_a_stopped_consumer_that_must_have_all_stops_the_producer_until_it_goes_on_or_dies(
    sender: FrameSender, images: list[NDArray[np.uint8]], start: Start
) -> None:
    process = start()
    produce(sender, images)
    wait_for_line(process, "0")
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    with pytest.raises(TimeoutError, match=f"consumer 0 has {BUFFERS} and waits for 0"):
        produce(sender, images, BUFFERS + 1, timeout=0)
    process.send_signal(signal.SIGCONT)
    produce(sender, images, 20)
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    process.kill()
    produce(sender, images, 20)
    assert sender.consumers == 0


def test_a_stopped_consumer_that_may_miss_frames_stops_nobody(
    sender: FrameSender, images: list[NDArray[np.uint8]], start: Start
) -> None:
    other = start()
    victims = [start(policy=policy) for policy in (Policy.DROP_OLDEST, Policy.DROP_NEWEST)]
    produce(sender, images)
    for victim in victims:
        wait_for_line(victim, "0")
        victim.send_signal(signal.SIGSTOP)
        os.waitpid(victim.pid, os.WUNTRACED)
    produce(sender, images, 50)
    for victim in victims:
        victim.send_signal(signal.SIGCONT)
    sender.close("enough")
    assert lines(other) == [*map(str, range(51)), "enough"]
    oldest, newest = (lines(victim) for victim in victims)
    # Both got frame 1, and also frame 2 if they had released frame 0 before they were stopped. Of the later frames,
    # DROP_OLDEST delivers the last one, and DROP_NEWEST none.
    assert oldest in (["1", "50", "enough"], ["1", "2", "50", "enough"])
    assert newest in (["1", "enough"], ["1", "2", "enough"])


PRODUCER = """
import sys, time
from sysmem.blocking.frames import FrameSender
sender = FrameSender(2, int(sys.argv[1]))
for _ in range(2):
    sender.send(sender.acquire(), metadata="still there")
print("sent", flush=True)
time.sleep(60)
"""


def test_a_killed_producer_ends_the_stream_after_its_frames() -> None:
    near, far = pair()
    with near:
        process = subprocess.Popen(
            [sys.executable, "-c", PRODUCER, str(near.fileno())],
            pass_fds=[near.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        )
    with process, FrameReceiver(far) as receiver:
        wait_for_line(process, "sent")
        process.kill()
        process.wait()
        for _ in range(2):
            with receiver.receive(timeout=WAIT) as frame:
                assert frame.metadata == "still there"
        with pytest.raises(EndOfStreamError, match="the producer died") as caught:
            receiver.receive(timeout=WAIT)
        assert not caught.value.closed
