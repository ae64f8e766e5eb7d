"""The daemon in a trio loop: its parts, and the tasks that wait for connections and for the kernel's reports.

One task serves all channels (:mod:`.reactor`). Other tasks accept connections, wait for reports about buffers and about
descriptors in flight, wait for answers of threads, and run the clock. Nothing polls.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from sysmem_protocol.channel import Channel, ServedChannel
from sysmem_protocol.inspector import Inspector
from sysmem_protocol.library import Interface
from sysmem_protocol.rendezvous import Rendezvous
from sysmem_protocol.sysmem2 import Allocator

from .access import Access, admit
from .channels import AllocatorServer, Connection, RendezvousServer, Service
from .clock import TrioClock
from .closing import ThreadClosing
from .config import Config
from .configured import heap_settings, make_heap, platform
from .fair_queue import Queue
from .in_flight import InFlight
from .inspection import Inspection, InspectorServer
from .memory import Memory
from .ports import Clock, Log, Peer
from .quota import Exceeded, Kind, descriptors_for_one, in_flight_to_all
from .reactor import FRUITLESS_SECONDS, TrioReactor, readable
from .sockets import Permissions
from .threads import Ask, Threads, ask_here

#: Errors of `accept()` that mean that the connecting peer has already gone, or that there is no connection.
_NOBODY = {errno.EAGAIN, errno.ECONNABORTED}
#: Any other error means that a resource is exhausted. Accepting resumes when a channel closes, or after this many
#: seconds.
_EXHAUSTED_SECONDS = 1.0
#: Seconds until events about buffers are processed again after that failed.
_MEMORY_FAILED_SECONDS = 1.0
#: How often in a row `accept()` may find no connection although the kernel reported one.
_MAX_NOBODY = 16
#: The class that serves connections to the service socket of an interface. It owns the channel.
SERVICES: Mapping[type[Interface], Callable[[Service, Channel, Peer], object]] = {
    Allocator: AllocatorServer,
    Rendezvous: RendezvousServer,
}


@dataclass(frozen=True)
class Parts:
    """The parts of a daemon. Tests of the daemon replace some of them."""

    memory: Callable[..., Memory] = Memory
    connection: Callable[..., Connection] = Connection
    #: The class that serves connections to the service socket of an interface. It owns the channel.
    services: Mapping[type[Interface], Callable[[Service, Channel, Peer], object]] = field(
        default_factory=lambda: SERVICES
    )
    #: Called before the first client connects.
    ready: Callable[[Service, Inspection], None] = lambda service, inspection: None
    #: Creates the object that closes descriptors from clients.
    closing: Callable[[Clock, Log], ThreadClosing] = ThreadClosing
    #: The clock for users' turns, in nanoseconds.
    now: Callable[[], int] = time.monotonic_ns
    #: The CPU time that the daemon has used, in nanoseconds.
    used: Callable[[], int] = time.thread_time_ns


def socket_permissions(
    config: Config, interfaces: Iterable[type[Interface]] = SERVICES
) -> dict[type[Interface], Permissions]:
    """Return the permissions of each service's socket."""
    allocator = Permissions(config.socket_mode(), config.group)
    permissions = dict.fromkeys(interfaces, allocator)
    if config.inspect.enabled:
        permissions[Inspector] = Permissions(config.inspect.socket_mode(), config.inspect.group)
    return permissions


class Serving:
    """A daemon that serves clients that connect through listening sockets or a socket pair."""

    def __init__(
        self,
        service: Service,
        inspection: Inspection,
        reactor: TrioReactor,
        nursery: trio.Nursery,
        queue: Queue,
        config: Config,
        parts: Parts,
    ) -> None:
        self.service = service
        self.inspection = inspection
        self._services = parts.services
        self._reactor = reactor
        self._nursery = nursery
        self._queue = queue
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._descriptors = descriptors_for_one(limit, len(os.listdir("/proc/self/fd")))
        self.reconfigure(config)

    def listen(self, interface: type[Interface], listener: socket.socket) -> Callable[[], None]:
        """Accept connections to an interface's service until the daemon ends. The caller keeps the listener.

        The returned function stops this earlier, and must be called before the listener is closed. Raises `OSError`.
        """
        listener.setblocking(False)
        scope = trio.CancelScope()

        async def accept() -> None:
            with scope, contextlib.suppress(trio.ClosedResourceError):
                await _accept(
                    listener, partial(self.connect, interface), self.service, self._reactor
                )

        def stop() -> None:
            scope.cancel()
            self._queue.leave(listener.fileno())
            trio.lowlevel.notify_closing(listener)

        self._queue.enter(listener.fileno())
        self._nursery.start_soon(accept)
        return stop

    def scrape(self, listener: socket.socket) -> Callable[[], None]:
        """Serve metrics over HTTP until the daemon ends. The caller keeps the listener.

        The returned function stops this earlier, as for :meth:`listen`. Raises `OSError`.
        """
        from .scrapes import Scrapes  # with an HTTP library, which other daemons do without

        listening = trio.socket.from_stdlib_socket(listener)
        scrapes = Scrapes(self.inspection, self.service.log)
        scope = trio.CancelScope()

        async def serve() -> None:
            with scope, contextlib.suppress(trio.ClosedResourceError):
                await scrapes.serve(listening)

        def stop() -> None:
            scope.cancel()
            trio.lowlevel.notify_closing(listener)

        self._nursery.start_soon(serve)
        return stop

    def connect(self, interface: type[Interface], connected: socket.socket) -> None:
        """Serve an interface on a connected SEQPACKET socket if its peer has access. Takes ownership of the socket."""
        service = self.service
        # Access to the Inspector is configured by [inspect], and by the permissions of its socket.
        access = Access() if interface is Inspector else self._access
        peer = admit(connected, access, service.refusals, service.log)
        if peer is None:
            return
        channel = ServedChannel(connected.detach(), service.closing)
        try:
            if interface is Inspector:
                InspectorServer(self.inspection, channel, peer)
            else:
                self._services[interface](service, channel, peer)
        except Exceeded:
            channel.close()

    def reconfigure(self, config: Config) -> None:
        """Apply other limits, format costs and rules of access from now on. Existing objects are not affected.

        Raises :class:`.ConfigError`, without any change, if the name of a user or group no longer exists.
        """
        access, by_uid = Access.of(config.access), config.quota.limits_by_uid()
        self._access = access
        self.service.limits = config.limits
        self.service.platform = platform(config)
        descriptors = {Kind.DESCRIPTORS: self._descriptors}
        self.service.users.limit(
            {**config.quota.limits(), **descriptors},
            {uid: {**limits, **descriptors} for uid, limits in by_uid.items()},
        )


@contextlib.asynccontextmanager
async def serving(
    config: Config,
    log: Log,
    clock: TrioClock,
    *,
    threads: bool = True,
    alone: bool = False,
    runtime_dir: Path | None = None,
    parts: Parts | None = None,
) -> AsyncIterator[Serving]:
    """Serve in the running trio loop until the block ends or is cancelled. Then all nodes see peer-closed.

    This does not change the state of the process: no signals, limits or files. Exceptions in the block are raised
    unchanged. Without `threads`, lookups of users' names block the loop: a virtual clock would treat the wait for a
    thread as idle time. With `alone`, the loop belongs to the daemon, and messages are served without waking a task of
    trio's for each. `runtime_dir` is the directory of the service sockets, for inspection.
    """
    raised: BaseException | None = None
    parts = parts or Parts()
    with contextlib.ExitStack() as stack:
        closing = parts.closing(clock, log)
        stack.callback(closing.end)
        memory = parts.memory(
            [make_heap(heap, stack) for heap in heap_settings(config)],
            allocation=config.memory.allocation,
            clock=clock,
            log=log,
        )
        stack.callback(memory.close)
        queue = Queue(alone=alone)
        stack.callback(queue.close)
        queue.enter(memory.fileno())
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        in_flight = InFlight(
            in_flight_to_all(limit), closing, lambda user, work: reactor.in_turn(user, work)
        )
        stack.callback(in_flight.close)
        queue.enter(in_flight.fileno())
        asking = Threads(log) if threads else None
        if asking is not None:
            stack.callback(asking.close)
        # Only from here on, because the nursery would wrap an exception about a missing descriptor.
        async with trio.open_nursery() as nursery:
            reactor = TrioReactor(
                nursery, queue, log, parts.now, parts.used, alone=clock if alone else None
            )
            service = Service(
                limits=config.limits,
                platform=platform(config),
                memory=memory,
                clock=clock,
                reactor=reactor,
                in_flight=in_flight,
                log=log,
                closing=closing,
                inspect=config.inspect,
                make_connection=parts.connection,
            )
            ask: Ask = ask_here
            if asking is not None:
                nursery.start_soon(_follow_threads, asking, log)
                ask = asking.ask
            inspection = Inspection(service, runtime_dir, ask)
            parts.ready(service, inspection)
            try:
                if not alone:
                    nursery.start_soon(clock.run)
                nursery.start_soon(_follow_memory, memory, log)
                nursery.start_soon(_follow_in_flight, in_flight, log)
                yield Serving(service, inspection, reactor, nursery, queue, config, parts)
            except BaseException as error:
                raised = error  # the nursery would wrap the exception
            finally:
                reactor.give_up()
                inspection.close()
                service.close()
                reactor.close()
                nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised


async def _follow_memory(memory: Memory, log: Log) -> None:
    while True:
        await readable(memory.fileno())
        await _process(memory.process_events, "events about buffers could not be processed", log)
        if memory.is_fruitless:
            await trio.sleep(FRUITLESS_SECONDS)


async def _follow_in_flight(in_flight: InFlight, log: Log) -> None:
    failure = "events about descriptors in flight could not be processed"
    while True:
        await readable(in_flight.fileno())
        await _process(in_flight.take, failure, log)


async def _process(events: Callable[[], object], failure: str, log: Log) -> None:
    """Call `events`. If it raises, log `failure`, and wait: the events are probably still there."""
    try:
        events()
    except Exception as error:
        log.error(
            failure,
            reason=repr(error),
            exc_info=not isinstance(error, (OSError, MemoryError)),
        )
        await trio.sleep(_MEMORY_FAILED_SECONDS)


async def _follow_threads(threads: Threads, log: Log) -> None:
    while True:
        await readable(threads.fileno())
        try:
            threads.take()
        except BlockingIOError:
            continue
        except OSError as error:
            log.error("results of worker threads cannot be collected now", reason=str(error))
            await trio.sleep(_MEMORY_FAILED_SECONDS)


async def _accept(
    listener: socket.socket,
    admit: Callable[[socket.socket], None],
    service: Service,
    reactor: TrioReactor,
) -> None:
    waiting = False
    nobody = 0
    while listener.fileno() >= 0:
        await readable(listener.fileno())
        reactor.closed_one = trio.Event()
        try:
            accepted, _ = listener.accept()
        except OSError as error:
            if error.errno in _NOBODY and nobody < _MAX_NOBODY:
                nobody += 1
                continue
            if not waiting:
                service.log.error("new connections cannot be accepted now", reason=str(error))
                waiting = True
            with trio.move_on_after(_EXHAUSTED_SECONDS):
                await reactor.closed_one.wait()
            continue
        nobody = 0
        if waiting:
            service.log.info("new connections are accepted again")
            waiting = False
        admit(accepted)
