"""One simulated run: a daemon and its clients in one loop, from a seed, step by step."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

import sysmem
from sysmem._connect import hello
from sysmem.testing._daemon import Core, running
from sysmem_protocol import codec
from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.sysmem2 import Allocator as AllocatorInterface
from sysmemd.channels import connection
from sysmemd.channels.collection import CollectionServer
from sysmemd.channels.nodes import NodeServer
from sysmemd.daemon import Parts
from sysmemd.pause import give_way
from sysmemd.ports import Peer
from sysmemd.quota import Kind
from sysmemd.testing import Faults
from sysmemd.tree import LogicalBufferCollection, Node

from .clients import Client, World
from .follower import FollowedConnection, FollowedMemory, Follower
from .kernel import Kernel

#: Small, so that a client that does not read is closed soon.
CONFIG = "[limits]\nmax_outbox_messages = 64"
#: The average number of steps of all clients together in one run.
_STEPS: Final = 32
#: The maximum number of rounds of the loop in one run. Most seeds need some hundreds; the longest of thousands needed
#: 2,000.
_MAX_ROUNDS: Final = 20_000
#: The maximum time for clients, by the daemon's clock.
_LONGEST_SECONDS: Final = 1_500.0
#: After this long, by the daemon's clock, nothing may be left of clients that have ended.
_AFTERWARDS_SECONDS = 30.0


class Violation(AssertionError):
    """Daemon and model disagree, or something is left."""


@dataclass
class Trace:
    """The events of a run, in order."""

    seed: int
    lines: list[str] = field(default_factory=list)
    #: The number of comparisons of daemon and model.
    steps: int = 0
    faults: int = 0

    def digest(self) -> str:
        """Return a digest that only identical runs share."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()


def simulate(seed: int) -> Trace:
    """Run a seed. Raises :class:`Violation` with the end of the trace."""
    trace = Trace(seed)
    before = os.listdir("/proc/self/fd")
    with _without_garbage_collection():
        violation = trio.run(_run, trace, clock=MockClock(autojump_threshold=0))
    if violation is None and len(os.listdir("/proc/self/fd")) > len(before):
        violation = f"{len(os.listdir('/proc/self/fd')) - len(before)} descriptors are left"
    if violation is not None:
        last = "\n".join(trace.lines[-40:])
        raise Violation(f"seed {seed}: {violation}\n{last}")
    return trace


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable the garbage collector within the block, so that objects end when their last reference goes."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Spinning(trio.abc.Instrument):
    """Ends a run whose loop never becomes idle, whether simulated time passes or not."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._rounds = 0

    def before_io_wait(self, timeout: float) -> None:
        """See :class:`trio.abc.Instrument`."""
        self._rounds += 1
        if self._rounds == _MAX_ROUNDS:
            self._follower.violated(
                "a client waits for ever, or the loop goes round without an end"
            )


async def _run(trace: Trace) -> str | None:
    def say(line: str) -> None:
        trace.lines.append(f"{trio.current_time():.6f} {line}")

    kernel = Kernel(trace.seed, say)
    scope = trio.CancelScope()
    follower = Follower(kernel, say, scope.cancel)

    def parts(faults: Faults) -> Parts:
        faults.delay_of = lambda method, interface: kernel.lateness()  # type: ignore[method-assign]
        return kernel.parts(
            faults,
            connection=partial(FollowedConnection, faults=faults, follower=follower),
            memory=partial(FollowedMemory, faults=faults, follower=follower),
        )

    trio.lowlevel.add_instrument(_Spinning(follower))
    with kernel.running(), _told_of_nodes(follower):
        async with running(CONFIG, parts=parts) as core:
            with scope:
                follower.service = core._inspection.daemon.service
                # Processes that are not simulated are not searched.
                follower.service.who_has = lambda _, then: then({})
                await _clients(trace.seed, kernel, follower, core, say)
                await _nothing_is_left(follower, core)
            kernel.calm()
    trace.steps, trace.faults = follower.steps, kernel.faults
    return follower.violation


@contextlib.contextmanager
def _told_of_nodes(follower: Follower) -> Iterator[None]:
    """Report new nodes to the follower, and failures that no message caused."""
    collection_fails = LogicalBufferCollection._fail_without_strong_handles
    node_fails = Node.fail
    serve = NodeServer.serve

    def fail_collection(collection: LogicalBufferCollection) -> None:
        was_there = not collection.is_gone
        collection_fails(collection)
        if was_there:
            follower.no_strong_handles(collection)

    def fail_node(node: Node, *arguments: Any) -> None:
        node_fails(node, *arguments)
        follower.failed(node)

    def serve_node(server: NodeServer, node: Node) -> None:
        serve(server, node)
        if node.parent is not None and not isinstance(server, CollectionServer):
            follower.made.setdefault(node.parent, []).append((node, server.koid))

    with pytest.MonkeyPatch.context() as patch:
        # Messages that were decoded before are not decoded again, and so reach fewer pauses.
        patch.setattr(connection, "_decoder", codec.Decoder(pause=give_way, shared=True))
        patch.setattr(NodeServer, "serve", serve_node)
        patch.setattr(LogicalBufferCollection, "_fail_without_strong_handles", fail_collection)
        patch.setattr(Node, "fail", fail_node)
        yield


async def _clients(
    seed: int, kernel: Kernel, follower: Follower, core: Core, say: Callable[[str], None]
) -> None:
    chance = random.Random(f"clients {seed}")
    numbers = range(1, 1 + chance.choice([3, 6, 12, 24, 36]))
    steps_each = max(3, 2 * _STEPS // len(numbers))
    users = {number: chance.choice([0, 1000, 1000, 1001]) for number in numbers}

    def connect(number: int) -> sysmem.Allocator:
        kernel.peer = Peer(number, users[number], users[number])
        channel = Channel(core.open(AllocatorInterface))
        for message in hello(f"client {number}", number):
            with contextlib.suppress(PeerClosedError):  # the first call detects that
                channel.send(message)
        return sysmem.Allocator(channel.take(), core.open_service)

    with contextlib.ExitStack() as stack:
        async with trio.open_nursery() as waits:
            world = World(follower, {number: [] for number in numbers}, say, waits)
            clients = [
                Client(world, number, f"client {seed} {number}", partial(connect, number))
                for number in numbers
            ]
            for client in clients:
                stack.callback(client.leave)  # also if the attempt failed
            late = trio.CancelScope(deadline=trio.current_time() + _LONGEST_SECONDS)
            with late:
                async with trio.open_nursery() as steps:
                    await _step(kernel, clients, steps, chance, steps_each)
            follower.check(not late.cancelled_caught, "a client waits for ever")
            kernel.calm()
            await trio.sleep(5)  # late messages have arrived
            follower.check_served()
            for client in clients:
                client.check_trackings()
            waits.cancel_scope.cancel()
        chance.shuffle(clients)
        for client in clients:
            client.leave()
            if chance.random() < 0.3:
                await trio.sleep(chance.random())


async def _step(
    kernel: Kernel,
    clients: list[Client],
    nursery: trio.Nursery,
    chance: random.Random,
    steps_each: int,
) -> None:
    """Let all clients take their steps. Sometimes the daemon runs out of descriptors meanwhile."""
    for client in clients:
        nursery.start_soon(client.run, chance.randrange(1, steps_each))
    if chance.random() < 0.2:
        await trio.sleep(chance.random())
        kernel.run_out_of_descriptors(chance.random() * 2)


async def _nothing_is_left(follower: Follower, core: Core) -> None:
    """Check that nothing of the clients is left, and that a new client is served."""
    await trio.sleep(_AFTERWARDS_SECONDS)
    service = follower.service
    follower.check(not service.collections, f"collections are left: {service.collections}")
    follower.check(not service.lingering, f"buffers are left: {service.lingering}")
    left = {
        user.uid: {kind.value: user.tally[kind] for kind in Kind if user.tally[kind]}
        for user in service.users
        if not user.tally.is_empty()
    }
    follower.check(not left, f"users still pay: {left}")
    for heap in service.memory.statistics().heaps:
        follower.check(not heap.used_bytes, f"memory is left: {heap}")
    allocator = sysmem.Allocator(core.allocator("afterwards", 0), core.open_service)
    async with allocator, await allocator.allocate_non_shared_collection() as collection:
        wish = sysmem.constraints(cpu="read", size_bytes=64, hold=1)
        await collection.set_constraints(wish)
        try:
            with await collection.wait_for_all_buffers_allocated(timeout=10):
                await collection.release()
        except (OSError, sysmem.SysmemError) as error:
            follower.violated(f"whoever comes afterwards isn't served: {error!r}")
