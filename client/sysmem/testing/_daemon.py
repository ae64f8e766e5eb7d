"""A complete daemon in the test's own trio loop, with real sockets and memory, but without a process or files."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeAlias, cast

import structlog
import trio
from structlog.processors import add_log_level
from structlog.testing import LogCapture

from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import channel_pair
from sysmem_protocol.library import Interface
from sysmem_protocol.sysmem2 import Allocator as AllocatorInterface
from sysmemd.clock import TrioClock
from sysmemd.daemon import Parts, serving
from sysmemd.inspection import Inspection
from sysmemd.ports import Log
from sysmemd.testing import Faults, tested

from .. import Allocator
from .._connect import hello
from . import _golden, _inside, _story
from ._clock import OtherClock, is_virtual, time_of
from ._faults import OwnFaults
from ._negotiate import Configuration, configuration

#: A log entry: `event`, `level`, and the fields of the event.
LogEntry: TypeAlias = dict[str, Any]


#: The reports of daemons whose block ended with an exception. The pytest plugin takes them from here.
stories: deque[list[_story.Section]] = deque(maxlen=4)


class Core:
    """The part of an in-process daemon that both faces share. Its methods must be called in the daemon's trio loop."""

    def __init__(
        self,
        connect: Callable[[type[Interface], socket.socket], None],
        log: list[LogEntry],
        faults: Faults,
        inspection: Inspection,
    ) -> None:
        self._connect = connect
        self._inspection = inspection
        self.log: list[LogEntry] = log
        self.faults: Faults = faults

    def open(self, interface: type[Interface]) -> int:
        """Connect to a service of the daemon. Return the channel's descriptor, which the caller owns."""
        near, far = channel_pair()
        with near, far:
            self._connect(interface, far)
            return near.detach()

    def open_service(self, interface: type[Interface], timeout: float | None) -> int:
        """Connect as :meth:`open` does; it never has to wait, so the timeout has no effect."""
        return self.open(interface)

    def allocator(self, name: str | None, id: int | None) -> int:
        """Connect to the Allocator and set the client's name and id. Return the descriptor, which the caller owns."""
        first = hello(name, id)
        channel = Channel(self.open(AllocatorInterface))
        try:
            for message in first:
                channel.send(message)
            return channel.take()
        finally:
            channel.close()

    def snapshot(self) -> dict[str, Any]:
        """Return the daemon's state as its Inspector reports it."""
        return _inside.snapshot(self._inspection)

    def why(self, collection: int | str) -> str:
        """Return why a collection, given by id or name, waits, failed or has the settings that it has."""
        found = _story.find(self.snapshot(), collection)
        return _story.why(found, _inside.explain(self._inspection, found["id"]))

    def last_report(self) -> str:
        """Return the report of the newest negotiation. Raises `AssertionError` if there was none."""
        newest = _story.newest(self.snapshot())
        return _golden.negotiated(_inside.explain(self._inspection, newest))

    async def settle(self) -> None:
        """Wait until the daemon has processed all requests that clients have sent so far."""
        service = self._inspection.daemon.service
        for user in list(service.users):
            done = trio.Event()
            service.reactor.in_turn(user, done.set)
            await done.wait()

    def story(self) -> list[_story.Section]:
        """Return the daemon's report for a failed test."""
        explain = partial(_inside.explain, self._inspection)
        return _story.sections(self.snapshot(), explain, self.faults.trace())

    def check(self) -> None:
        """Raise `AssertionError` if the daemon logged an internal error."""
        for entry in self.log:
            if entry.get("exc_info"):
                raise AssertionError(f"the daemon logged an internal error: {entry}")


class Daemon:
    """A daemon that runs in this trio loop."""

    def __init__(self, core: Any) -> None:
        # A Core: the daemon's own types are not part of the public interface.
        self._core: Core = core

    @property
    def log(self) -> list[LogEntry]:
        """All structlog events that the daemon has logged so far, of every level."""
        return self._core.log

    @property
    def trace(self) -> list[dict[str, Any]]:
        """The messages that the daemon has received and sent so far, at most the last 10,000.

        Each is in the format in which the Inspector reports messages to watchers: `direction` ("in" is from the
        client), `txid`, `protocol`, `method`, `fields`, `client_name`, `error` and so on. It also has a `number`,
        counted from 1, and the daemon's time `time_s`.
        """
        return self._core.faults.trace()

    def snapshot(self) -> dict[str, Any]:
        """Return the daemon's current state as its Inspector reports it."""
        return self._core.snapshot()

    def why(self, collection: int | str) -> str:
        """Return why a collection, given by id or name, waits, failed or has the settings that it has.

        Raises `ValueError` if there is no such collection.
        """
        return self._core.why(collection)

    def last_report(self) -> str:
        """Return the report of the newest negotiation. Raises `AssertionError` if there was none."""
        return self._core.last_report()

    @property
    def faults(self) -> OwnFaults:
        """The faults to inject into the daemon. Failing system calls affect the whole process."""
        return self._core.faults

    def connect(self, *, name: str | None = None, id: int | None = None) -> Allocator:
        """Connect a participant, as :func:`sysmem.connect` does: `async with d.connect() as allocator`."""
        return Allocator(self._core.allocator(name, id), self._core.open_service)

    def open(self, interface: type[Interface]) -> int:
        """Connect to any service of the daemon. Return the channel's descriptor, which the caller owns."""
        return self._core.open(interface)


@contextlib.asynccontextmanager
async def running(
    config: Configuration = None,
    clock: trio.abc.Clock | None = None,
    parts: Callable[[Faults], Parts] = tested,
) -> AsyncIterator[Core]:
    """Run a daemon in this loop; see :func:`daemon`. `parts` returns the daemon's parts for the given faults."""
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            "daemon() needs a trio loop; elsewhere use sysmem.testing.blocking.daemon()"
        )
    ours = trio.lowlevel.current_clock()
    clock = ours if clock is None else clock
    entries: list[LogEntry] = []
    capture = LogCapture()
    capture.entries = cast("Any", entries)
    log = cast(
        "Log",
        structlog.wrap_logger(
            None,
            processors=[add_log_level, capture],
            wrapper_class=structlog.make_filtering_bound_logger("debug"),
        ),
    )
    threads = not is_virtual(clock)
    time = TrioClock(log, time_of(ours)) if clock is ours else OtherClock(log, clock)
    faults = Faults()
    try:
        async with serving(
            configuration(config), log, time, threads=threads, parts=parts(faults)
        ) as server:
            core = Core(server.connect, entries, faults, server.inspection)
            try:
                yield core
            except BaseException:
                with trio.CancelScope(shield=True):
                    await core.settle()
                stories.append(core.story())
                raise
    finally:
        faults.clear()
    core.check()


@contextlib.asynccontextmanager
async def daemon(
    config: Configuration = None, clock: trio.abc.Clock | None = None
) -> AsyncIterator[Daemon]:
    """Run a complete daemon in the running trio loop until the block ends.

    ::

        async with sysmem.testing.daemon() as d:
            async with d.connect(name="camera") as allocator:
                ...

    It runs the daemon's own code on real socket pairs and real memory. It creates no files and no processes, and it
    does not change the state of this process. It uses the loop's clock: under a `MockClock(autojump_threshold=0)`
    (pytest-trio's fixture `autojump_clock`), warnings and timeouts occur immediately when all tasks are idle.

    Args:
        config: The daemon's configuration, as TOML text or as parsed TOML data. The sections about the runtime
            directory, access and the log have no effect here.
        clock: The daemon's clock; None means the loop's. With another `MockClock(autojump_threshold=0)` only the
            daemon's time jumps, whenever all tasks are idle. The time of clients remains the loop's.

    Raises:
        RuntimeError: There is no trio loop.
        ConfigError: The configuration is invalid.
        AssertionError: At the end of the block, if the daemon has logged an internal error.
    """
    async with running(config, clock) as core:
        yield Daemon(core)
