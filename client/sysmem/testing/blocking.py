"""A complete daemon in a thread of the test, for tests of blocking participants.

::

    with sysmem.testing.blocking.daemon() as d:
        with d.connect(name="camera") as allocator:
            ...
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import trio
import trio.abc

from sysmem_protocol.library import Interface
from sysmem_protocol.testing import Testing

from ..blocking import Allocator
from ._daemon import Core, LogEntry, running
from ._faults import Faults
from ._negotiate import Configuration

T = TypeVar("T")


class Daemon:
    """A daemon that runs in a thread of this process. Its methods may be called from any thread."""

    def __init__(self, core: Any, token: trio.lowlevel.TrioToken) -> None:  # as in _daemon
        self._core: Core = core
        self._token = token

    @property
    def log(self) -> list[LogEntry]:
        """All structlog events that the daemon has logged so far, of every level."""
        return self._core.log

    @property
    def trace(self) -> list[dict[str, Any]]:
        """The messages that the daemon has received and sent so far; see :attr:`sysmem.testing.Daemon.trace`."""
        return self._in_loop(self._core.faults.trace)

    def snapshot(self) -> dict[str, Any]:
        """Return the daemon's current state as its Inspector reports it."""
        return self._in_loop(self._core.snapshot)

    def why(self, collection: int | str) -> str:
        """Return why a collection, given by id or name, waits, failed or has the settings that it has.

        Raises `ValueError` if there is no such collection.
        """
        return self._in_loop(lambda: self._core.why(collection))

    @property
    def faults(self) -> Faults:
        """The faults to inject into the daemon. Failing system calls affect the whole process."""
        return Faults(lambda: self.open(Testing))

    def connect(self, *, name: str | None = None, id: int | None = None) -> Allocator:
        """Connect a participant, as :func:`sysmem.blocking.connect` does."""
        return Allocator(
            self._in_loop(lambda: self._core.allocator(name, id)),
            lambda interface, _: self._in_loop(lambda: self._core.open(interface)),
        )

    def open(self, interface: type[Interface]) -> int:
        """Connect to any service of the daemon. Return the channel's descriptor, which the caller owns."""
        return self._in_loop(lambda: self._core.open(interface))

    def _in_loop(self, call: Callable[[], T]) -> T:
        return trio.from_thread.run_sync(call, trio_token=self._token)


@contextlib.contextmanager
def daemon(config: Configuration = None, clock: trio.abc.Clock | None = None) -> Iterator[Daemon]:
    """Run a complete daemon in a thread of its own until the block ends.

    Arguments and errors are those of :func:`sysmem.testing.daemon`. `clock` becomes the clock of the daemon's loop.
    """
    started: Future[tuple[Daemon, trio.Event]] = Future()

    async def serve() -> None:
        async with running(config) as core:
            stop = trio.Event()
            started.set_result((Daemon(core, trio.lowlevel.current_trio_token()), stop))
            await stop.wait()

    ended: Future[None] = Future()

    def run() -> None:
        try:
            trio.run(serve, clock=clock)
        except BaseException as error:
            (ended if started.done() else started).set_exception(error)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=run, name="sysmemd")
    thread.start()
    try:
        made, stop = started.result()
    except BaseException:
        thread.join()
        raise
    try:
        yield made
    finally:
        with contextlib.suppress(trio.RunFinishedError):
            made._token.run_sync_soon(stop.set)
        thread.join()
    ended.result()
