"""The daemon as a process: its signals, limits, service sockets, and notifications to the service manager."""

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

#: Signals that stop the daemon or make it reload its configuration.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: The delay before a removed socket is recreated. A program that removes a directory removes its contents first, and
#: must then find it empty.
_REMOVAL_SECONDS = 0.2
#: The delay before the daemon tries again after the kernel could not answer.
_EXHAUSTED_SECONDS = 1.0
#: Python's collection thresholds: how many new objects trigger a collection of the youngest generation, and how many of
#: these precede one of the older generations. A collection blocks all clients, so it must examine few objects.
_COLLECTION_THRESHOLDS = (100, 1, 1_000_000)
#: The maximum number of attempts to recreate the sockets.
_ATTEMPTS = 10


class UnreachableError(Exception):
    """No client can connect any more. The text has the reason."""


class Reload(Protocol):
    """The actions on SIGHUP that are not the daemon's own."""

    def read(self) -> Config:
        """Return the configuration file's current contents. Raises `ConfigError`, also if there is no such file."""

    def apply(self, config: Config) -> None:
        """Apply the settings that belong to the process, such as the level of the log."""


async def run(
    config: Config,
    log: Log,
    *,
    on_ready: Callable[[], None] = lambda: None,
    reload: Reload | None = None,
    parts: Parts | None = None,
    alone: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT, or until cancelled. Then the sockets are removed.

    `alone` means that the loop belongs to the daemon; see :func:`.serving`. `on_ready` is called once the service
    sockets accept connections. On SIGHUP the daemon applies the configuration that `reload` reads.

    Raises :class:`StartError` if serving cannot begin, and :class:`UnreachableError` if the sockets were removed and
    cannot be recreated.
    """
    # Trio's own task must wait before the daemon serves. If the kernel has no memory for that, the loop ends.
    await trio.lowlevel.checkpoint()
    found = examine_kernel()
    if found.missing:
        raise StartError("; ".join(found.missing))
    for difference in found.differences:
        log.warning("the kernel does not behave as expected", difference=difference)
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
        # First, because a client that sees a socket may already send a signal.
        signals = stack.enter_context(received(SIGNALS))
        # The caller may have blocked them, so that only this receiver gets them.
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
                stop = _serve_metrics(metrics, server, log)
                ends.append(partial(_keep_metrics, metrics, stop, server, log))
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
    """Restrict Python's cyclic garbage collection to young objects within the block.

    A full collection takes 100 ms in a large daemon, and blocks all clients. Objects that are closed leave no reference
    cycles, so reference counting frees them. Even 500 young objects take 2 ms at the p99 while many trees are created.
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
    """Return the result of the first of them that returns, and cancel the others."""
    results: list[UnreachableError | None] = []

    async def wait(end: Callable[[], Awaitable[UnreachableError | None]]) -> None:
        results.append(await end())
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for end in ends:
            nursery.start_soon(wait, end)
    return results[0]


async def _stopped(signals: Received, reloading: Reloading, log: Log) -> None:
    """Return when a signal requests to stop. Reload the configuration when a signal requests that."""
    while True:
        await readable(signals.fileno())
        try:
            came = signals.take()
        except OSError as error:
            log.error("received signals cannot be read now", reason=str(error))
            await trio.sleep(_EXHAUSTED_SECONDS)
            continue
        for number in came:
            if number != signal.SIGHUP:
                log.info("stopping", signal=number.name)
                return
            reloading.reload()


class Reloading:
    """The settings of a running daemon, and their reload."""

    def __init__(self, config: Config, server: Serving, source: Reload | None, log: Log) -> None:
        self._config = config
        self._server = server
        self._source = source
        self._log = log

    def reload(self) -> None:
        """Apply the configuration file's current contents. An invalid or missing file changes nothing."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notify(os.environ, f"RELOADING=1\nMONOTONIC_USEC={now}")
        status = "the configuration was reloaded"
        try:
            self._read()
        except Exception as error:
            status = f"the configuration could not be reloaded and is unchanged: {error}"
            unforeseen = not isinstance(error, (ValueError, OSError))
            self._log.error(
                "the configuration could not be reloaded and is unchanged",
                reason=str(error),
                exc_info=unforeseen,
            )
        notify(os.environ, f"READY=1\nSTATUS={printable(status)}")

    def _read(self) -> None:
        if self._source is None:
            self._log.info("nothing to reload: the daemon was started without a configuration file")
            return
        config, restart = reloaded(self._config, self._source.read())
        self._server.reconfigure(config)
        self._source.apply(config)
        self._config = config
        self._log.info("the configuration was reloaded")
        if restart:
            self._log.warning(
                "some changed settings take effect only after a restart", settings=restart
            )


async def _feed_watchdog(environ: Mapping[str, str]) -> None:
    """Notify the service manager's watchdog that the loop is alive, twice in its timeout.

    This is a task in the loop that serves the clients, so a loop that hangs sends no notification.
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
    """Accept connections on the sockets, and recreate those that the daemon created when they are removed.

    Returns when that is not possible.
    """
    while True:
        stop_listening = [server.listen(*listener) for listener in listeners.made.items()]
        await _removal(listeners, log)
        for stop in stop_listening:
            stop()
        if error := await _make_again(listeners, log):
            return UnreachableError(str(error))
        log.info("the service sockets were recreated")


def _serve_metrics(metrics: MetricsSocket, server: Serving, log: Log) -> Callable[[], None]:
    """Serve metrics until the returned function is called. Raises `OSError`."""
    stop = server.scrape(metrics.listener)
    log.info("serving metrics", url=metrics.url)
    return stop


async def _keep_metrics(
    metrics: MetricsSocket, stop: Callable[[], None], server: Serving, log: Log
) -> None:
    """Recreate the socket of metrics when it is removed. `stop` ends serving them on the present socket."""
    while True:
        await _removal(metrics, log)
        stop()
        if error := await _make_again(metrics, log):
            log.error(
                "metrics are no longer served: their socket cannot be recreated", reason=str(error)
            )
            await trio.sleep_forever()
        stop = _serve_metrics(metrics, server, log)


async def _make_again(listeners: Listeners | MetricsSocket, log: Log) -> Exception | None:
    """Recreate the sockets. Return the error if that is not possible. Temporary shortages are retried."""
    for _ in range(_ATTEMPTS):
        try:
            listeners.make()
        except TakenError as error:
            return error
        except (StartError, OSError) as error:
            failure = error
            log.error("removed sockets could not be recreated", reason=str(error))
            await trio.sleep(_EXHAUSTED_SECONDS)
        else:
            return None
    return failure


async def _removal(listeners: Listeners | MetricsSocket, log: Log) -> None:
    """Return when sockets of the daemon were removed, after logging which."""
    if listeners.presence is None:
        await trio.sleep_forever()
    while True:
        await readable(listeners.presence.fileno())
        try:
            removed = listeners.presence.missing()
        except OSError as error:
            log.error("cannot determine whether the service sockets still exist", reason=str(error))
            await trio.sleep(_EXHAUSTED_SECONDS)
            continue
        for path in removed:
            remedy = "the daemon recreates it"
            if path in listeners.handed_over:
                remedy = "restart the unit or program that created it"
            log.error(
                "a socket was removed: no new client can connect to it",
                path=str(path),
                remedy=remedy,
            )
        if not listeners.handed_over.issuperset(removed):
            await trio.sleep(_REMOVAL_SECONDS)
            return


def _raise_descriptor_limit(log: Log) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # the hard limit is above the kernel's current maximum
        log.warning(
            "the descriptor limit could not be raised", limit=soft, wanted=hard, reason=str(error)
        )
    else:
        log.debug("descriptor limit", limit=hard)
