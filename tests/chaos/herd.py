"""A herd: a process of one user with dozens of participants that act at random."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Any

import trio

import sysmem
from sysmem_protocol.message import FLAGS, HEADER, MAGIC
from sysmem_protocol.sysmem2 import AllocatedHeap, Node

from ..simulation.clients import Client, End, Step, World

#: Steps of a participant before it leaves and another one comes.
_STEPS = 30
_DESCRIPTORS = 4096


class Unwatched:
    """Replaces the follower when no model follows the daemon. It knows nothing and checks nothing."""

    def __init__(self) -> None:
        self.daring: set[int] = set()

    def check(self, holds: object, text: str) -> None:
        """Check nothing."""

    def has_excuse(self) -> bool:
        """Return that every node has an excuse to fail."""
        return True

    def known(self, koid: int) -> None:
        """Know nothing."""


class Rowdy(Client):
    """A participant that also performs actions that need real time, or that access the memory."""

    #: A `TypeError` is an attempt to write to read-only memory.
    troubles = (OSError, TypeError, ValueError, RuntimeError, sysmem.SysmemError)

    def _choose(self) -> Step:
        if self.chance.random() < 0.1:
            return self.chance.choice([self.conflict, self.flood, self.write, self.shut_down])
        return super()._choose()

    async def wait(self, end: End) -> None:
        """Wait for buffers, and keep them."""
        with contextlib.suppress(*self.troubles):
            await super().wait(end)

    async def conflict(self) -> None:
        """Ask for memory of a heap that does not exist."""
        if end := self.pick("collection"):
            end.constrained = True
            nowhere = AllocatedHeap(heap_type="nowhere", id=7)
            memory = sysmem.BufferMemoryConstraints(min_size_bytes=64, permitted_heaps=[nowhere])
            usage = sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ)
            await end.node.set_constraints(
                sysmem.BufferCollectionConstraints(usage=usage, buffer_memory_constraints=memory)
            )

    async def flood(self) -> None:
        """Send valid messages as fast as the daemon takes them."""
        if end := self.pick("token", "collection", free=False):
            for _ in range(500):
                await end.node.set_name(1, "flood", timeout=1)

    async def write(self) -> None:
        """Write to a buffer that other participants may have, also after Release."""
        for info in self.infos[:2]:
            for buffer in info.buffers:
                if buffer.vmo is not None:
                    with contextlib.suppress(sysmem.SysmemError), buffer.map() as view:
                        view[:8] = b"scribble"

    async def shut_down(self) -> None:
        """Shut the connection down without Release, and keep the descriptor."""
        if end := self.pick("token", "collection", "group", free=False):
            channel = end.node._end._channel
            channel.send(HEADER.pack(1 << 20, FLAGS, MAGIC, Node.get_node_ref.ordinal))
            channel.shutdown_sending()
            await trio.sleep(0.1)

    async def look_at_nothing(self) -> None:
        """Do nothing for a while."""
        await trio.sleep(self.chance.choice([0.01, 0.1, 1]))


async def _one(runtime_dir: Path, number: int, seed: str, world: World) -> None:
    chance = random.Random(seed)
    while True:
        client: Rowdy | None = None
        try:
            client = Rowdy(
                world, number, f"{chance.random()}", partial(_connect, runtime_dir, number)
            )
            with trio.move_on_after(3):
                await client.run(chance.randrange(_STEPS))
        except Rowdy.troubles:
            await trio.sleep(0.05)  # the daemon refuses new connections for now
        finally:
            if client is not None:
                client.leave()
        await trio.sleep(chance.random() * 0.1)


def _connect(runtime_dir: Path, number: int) -> sysmem.Allocator:
    return sysmem.connect(runtime_dir, name=f"rowdy {number}", id=number)


async def _herd(runtime_dir: Path, seed: str, count: int) -> None:
    watched: Any = Unwatched()
    async with trio.open_nursery() as nursery:
        world = World(watched, {number: [] for number in range(count)}, lambda _: None, nursery)
        for number in range(count):
            nursery.start_soon(_one, runtime_dir, number, f"{seed} {number}", world)


def start(runtime_dir: Path, uid: int, seed: str, count: int, group: Path | None) -> int:
    """Start a herd of `count` participants as a user, and return its process. `group` is the cgroup that it joins."""
    process = os.fork()
    if process:
        return process
    try:
        os.closerange(0, 2)
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        os.open(os.devnull, os.O_RDWR)
        os.open(os.devnull, os.O_RDWR)
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
        os.nice(5)
        if uid != os.geteuid():
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        trio.run(_herd, runtime_dir, seed, count)
    except BaseException as error:
        print(f"a herd ended: {error!r}", file=sys.stderr)
    finally:
        os._exit(1)
