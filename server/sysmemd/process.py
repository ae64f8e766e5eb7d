"""The daemon as a process of its own: its signals, limits and service sockets, and what the service manager is told."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Protocol

import trio

from sysmem_protocol.runtime import runtime_dir

from .clock import TrioClock
from .config import Config, reloaded
from .daemon import Parts, Serving, serving, socket_permissions
from .memory import dma_buf_users, examine_kernel
from .ports import Log
from .reactor import readable
from .signals import Received, received
from .sockets import (
    Listeners,
    MetricsSocket,
    Permissions,
    StartError,
    TakenError,
    notify,
)
from .text import printable

#: What stops the daemon, or has it read its configuration again.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: How long after a socket was removed it is made again. Whoever removes a directory removes what is in it first, and
#: must then find it empty.
_REMOVAL_SECONDS = 0.2
#: How long the daemon waits before it looks again, when the kernel could not tell it what it asked.
_EXHAUSTED_SECONDS = 1.0
#: Objects made after which the youngest are looked at, and how often that is done before older ones are, and all. Each
#: look holds everybody up, so that it must find few objects.
_COLLECTION_THRESHOLDS = (500, 1, 1_000_000)
#: How often the sockets are tried to be made again.
_ATTEMPTS = 10


class UnreachableError(Exception):
    """No client can connect any more; the text says why."""


class Reload(Protocol):
    """What SIGHUP has the daemon do beyond what it does itself."""

    def read(self) -> Config:
        """Return what the configuration file says by now. Raises `ConfigError`, also if there is no such file."""

    def apply(self, config: Config) -> None:
        """Go by the settings that aren't the daemon's but its process's, such as the level of the log."""


async def run(
    config: Config,
    log: Log,
    *,
    on_ready: Callable[[], None] = lambda: None,
    reload: Reload | None = None,
    parts: Parts | None = None,
    alone: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT, or until cancelled; then the sockets are gone.

    `alone` says that the loop is the daemon's; see :func:`.serving`. `on_ready` is called once the service sockets
    accept. SIGHUP has the daemon go by what `reload` reads from then on.

    Raises :class:`StartError` when serving can't begin, and :class:`UnreachableError` when the sockets were removed and
    can't be made again.
    """
    found = examine_kernel()
    if found.missing:
        raise StartError("; ".join(found.missing))
    for difference in found.differences:
        log.warning("the kernel does otherwise than expected", difference=difference)
    _raise_descriptor_limit(log)
    if users := dma_buf_users():
        log.warning(
            "rights are advisory for users who may open /dev/udmabuf: a dma-buf can be written to, whatever the rights"
            " of the VMO that it is made of",
            users=users,
        )
    directory = runtime_dir(config.runtime_dir)
    parts = parts or Parts()
    with contextlib.ExitStack() as stack:
        # First: whoever sees a socket may already send a signal.
        signals = stack.enter_context(received(SIGNALS))
        # Our caller may hold them back, so that none of them meets anybody but the receiver.
        held_back = signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, held_back)
        permissions = socket_permissions(config, parts.services)
        listeners = Listeners(permissions, directory, environ=os.environ, log=log)
        stack.callback(listeners.close)
        metrics = None
        if address := config.metrics.parsed():
            inspectors = Permissions(config.inspect.socket_mode(), config.inspect.group)
            metrics = MetricsSocket(address, inspectors, log)
            stack.callback(metrics.close)
        async with serving(
            config, log, TrioClock(log), alone=alone, runtime_dir=directory, parts=parts
        ) as server:
            for interface, listener in listeners.given.items():
                server.listen(interface, listener)
            log.info("serving", runtime_dir=str(directory), pid=os.getpid())
            ends: list[Callable[[], Awaitable[UnreachableError | None]]] = [
                partial(_stopped, signals, Reloading(config, server, reload, log), log),
                partial(_unreachable, listeners, server, log),
                partial(_feed_watchdog, os.environ),
            ]
            if metrics is not None:
                ends.append(partial(_keep_metrics, metrics, server, log))
            stack.enter_context(_few_collections())
            notify(os.environ, "READY=1")
            on_ready()
            try:
                error = await _first(*ends)
            finally:
                notify(os.environ, "STOPPING=1")
    if error is not None:
        raise error


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    """Have Python look for garbage in cycles only among young objects within the block.

    A look at everything takes 100 ms in a large daemon, and all clients wait for it. What is closed or ends leaves no
    cycles, so reference counting frees it.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*_COLLECTION_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def _first(
    *ends: Callable[[], Awaitable[UnreachableError | None]],
) -> UnreachableError | None:
    """Return what the first of them returns, and cancel the others."""
    results: list[UnreachableError | None] = []

    async def wait(end: Callable[[], Awaitable[UnreachableError | None]]) -> None:
        results.append(await end())
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for end in ends:
            nursery.start_soon(wait, end)
    return results[0]


async def _stopped(signals: Received, reloading: Reloading, log: Log) -> None:
    """Return when a signal says that the daemon is to stop; read the configuration again when one says that."""
    while True:
        await readable(signals.fileno())
        try:
            came = signals.take()
        except OSError as error:
            log.error("signals have to wait", reason=str(error))
            await trio.sleep(_EXHAUSTED_SECONDS)
            continue
        for number in came:
            if number != signal.SIGHUP:
                log.info("stopping", signal=number.name)
                return
            reloading.reload()


class Reloading:
    """The settings of a running daemon, and how they change."""

    def __init__(self, config: Config, server: Serving, source: Reload | None, log: Log) -> None:
        self._config = config
        self._server = server
        self._source = source
        self._log = log

    def reload(self) -> None:
        """Go by what the configuration file says now. One that has a fault, or isn't there, changes nothing."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notify(os.environ, f"RELOADING=1\nMONOTONIC_USEC={now}")
        status = "the configuration was read again"
        try:
            self._read()
        except Exception as error:
            status = f"the configuration stays as it is: {error}"
            unforeseen = not isinstance(error, (ValueError, OSError))
            self._log.error(
                "the configuration stays as it is",
                reason=str(error),
                exc_info=unforeseen and error,
            )
        notify(os.environ, f"READY=1\nSTATUS={printable(status)}")

    def _read(self) -> None:
        if self._source is None:
            self._log.info("the configuration stays as it is: there is no file to read")
            return
        config, restart = reloaded(self._config, self._source.read())
        self._server.reconfigure(config)
        self._source.apply(config)
        self._config = config
        self._log.info("the configuration was read again")
        if restart:
            self._log.warning("some settings of the file need a restart", settings=restart)


async def _feed_watchdog(environ: Mapping[str, str]) -> None:
    """Tell the service manager that the loop answers, twice in the time after which it would restart the daemon.

    This is a task of the loop that serves the clients, so that a loop that hangs doesn't tell it.
    """
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or environ.get("WATCHDOG_PID", str(os.getpid())) != str(
        os.getpid()
    ):
        await trio.sleep_forever()
    while True:
        notify(environ, "WATCHDOG=1")
        await trio.sleep(int(microseconds) / 2_000_000)


async def _unreachable(listeners: Listeners, server: Serving, log: Log) -> UnreachableError:
    """Have the sockets that the daemon made accept, and make them again when they are removed.

    Returns when that can't be done.
    """
    while True:
        stop_listening = [server.listen(*listener) for listener in listeners.made.items()]
        await _removal(listeners, log)
        for stop in stop_listening:
            stop()
        if error := await _make_again(listeners, log):
            return UnreachableError(str(error))
        log.info("the service sockets are there again")


async def _keep_metrics(metrics: MetricsSocket, server: Serving, log: Log) -> None:
    """Serve metrics, and make their socket again when it is removed."""
    while True:
        stop_serving = server.scrape(metrics.listener)
        log.info("serving metrics", url=metrics.url)
        await _removal(metrics, log)
        stop_serving()
        if error := await _make_again(metrics, log):
            log.error("metrics aren't served any more", reason=str(error))
            await trio.sleep_forever()


async def _make_again(listeners: Listeners | MetricsSocket, log: Log) -> Exception | None:
    """Make the sockets; return why that can't be done, if so. What may have been a passing shortage is tried again."""
    for _ in range(_ATTEMPTS):
        try:
            listeners.make()
        except TakenError as error:
            return error
        except (StartError, OSError) as error:
            failure = error
            log.error("sockets can't be made again yet", reason=str(error))
            await trio.sleep(_EXHAUSTED_SECONDS)
        else:
            return None
    return failure


async def _removal(listeners: Listeners | MetricsSocket, log: Log) -> None:
    """Return when sockets that the daemon made were removed; say which."""
    if listeners.presence is None:
        await trio.sleep_forever()
    while True:
        await readable(listeners.presence.fileno())
        try:
            removed = listeners.presence.missing()
        except OSError as error:
            log.error("it can't be told whether the service sockets are there", reason=str(error))
            await trio.sleep(_EXHAUSTED_SECONDS)
            continue
        for path in removed:
            remedy = "the daemon makes it again"
            if path in listeners.handed_over:
                remedy = "restart the unit or program that made it"
            log.error("no new client can connect: a socket is gone", path=str(path), remedy=remedy)
        if not listeners.handed_over.issuperset(removed):
            await trio.sleep(_REMOVAL_SECONDS)
            return


def _raise_descriptor_limit(log: Log) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # a hard limit over what the kernel allows by now
        log.warning("the descriptor limit stays", limit=soft, wanted=hard, reason=str(error))
    else:
        log.debug("descriptor limit", limit=hard)
