"""Turns: the work for one user, a slice at a time (`docs/spec/robustness.md`, "Fair turns").

Each user has an epoll instance with all channels of that user. The kernel reports ready channels in order and moves
each reported channel to the end of its list. So channels of one user are served in turn, and idle ones cost nothing,
however many there are. The owner of these objects (:mod:`.reactor`) serves users in the order of the queue
(:mod:`.fair_queue`).

A message whose processing takes longer than a slice is interrupted (:mod:`.runner`). In the next turn other channels of
the user are served, and in the one after that the message continues.

This module does not use trio: the owner waits until the epoll instance is readable.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from .channels import Connection
from .fair_queue import MAX_EVENTS, Queue
from .pause import Holder
from .runner import Runner

#: The minimum time for which one user is served before another waiting user, in nanoseconds.
SLICE_NS: Final = 100_000
#: The maximum time for which one user is served, because waiting timers are not visible here.
MAX_SLICE_NS: Final = 5_000_000
#: The maximum number of messages of one channel that are processed before the user's next channel is served.
RECEIVE_BUDGET: Final = 16
#: The maximum number of consecutive reports without an actual event.
_MAX_FRUITLESS: Final = 64

_READABLE: Final = select.EPOLLIN
_WRITABLE: Final = select.EPOLLOUT


def raise_error(error: Exception) -> None:
    """Raise an error, because there is no other handler."""
    raise error


class Turns:
    """The channels of one user, and their work."""

    def __init__(
        self,
        queue: Queue,
        now: Callable[[], int] = time.monotonic_ns,
        used: Callable[[], int] = time.thread_time_ns,
        failed: Callable[[Exception], None] = raise_error,
    ) -> None:
        """Wait for no channel yet. `queue` has the other users.

        `now` returns the time and `used` the CPU time that the daemon has used, in nanoseconds. `failed` is called with
        unexpected errors. Raises `OSError` if the process has no descriptor left.
        """
        self._failed = failed
        #: The number of consecutive reported channels with nothing to receive and no room to send.
        self._fruitless = 0
        #: The queue of all that wait for a turn.
        self.queue = queue
        self._now = now
        self._used = used
        #: The CPU time at which the measurement of the current turn began; -1 if it is not measured.
        self._began = -1
        #: The end of the current slice if another user waits, and its end in any case.
        self._until = self._end = 0
        self._connections: dict[int, Connection] = {}
        #: The events that a channel is waited for, if they are not :data:`_READABLE`.
        self._masks: dict[int, int] = {}
        #: Connections that are not read because of a collection's allocation attempt.
        self._held: set[Connection] = set()
        #: Connections with queued responses for which their channel has no room.
        self._full: set[Connection] = set()
        #: Connections with responses to send, in order.
        self._to_flush: dict[Connection, None] = {}
        #: Other work.
        self._work: deque[tuple[Callable[[], object], bool]] = deque()
        #: The runner that serves channels; None if nothing has been served since the last one was interrupted.
        self._runner: Runner | None = None
        #: Runners that were interrupted; those in `_paused` can continue.
        self._interrupted: set[Runner] = set()
        self._paused: deque[Runner] = deque()
        self._interrupted_is_next = False
        #: Whether there are channels that were not polled yet. They usually have messages already.
        self._has_new = False
        #: Whether the loop was reported among the channels.
        self.loop_is_ready = False
        #: Whether the owner gives this user no turn for some time.
        self.rests = False
        #: Channels that the kernel reported and that were not served since: descriptor and events.
        self._ready: deque[tuple[int, int]] = deque()
        self._epoll = select.epoll()
        #: The descriptor of :meth:`fileno`.
        self.fd = self._epoll.fileno()
        try:
            queue.enter_user(self.fd)
        except OSError:
            self._epoll.close()
            raise

    def __bool__(self) -> bool:
        """Return whether there is any channel or any work."""
        return bool(self._connections or self._work or self._interrupted)

    def wait(self, seconds: float) -> bool:
        """Wait at most this long for channels and, if it is watched, for the loop. Return whether there is work.

        For the only user: in that case the queue need not be polled before.
        """
        if not self._ready:
            self._ready.extend(self._epoll.poll(seconds, MAX_EVENTS))
        return bool(self._ready)

    def watch_loop(self, *, watched: bool) -> None:
        """Begin or stop to report the loop's descriptor among the channels. Raises `OSError`."""
        if watched:
            self._epoll.register(self.queue.loop, select.EPOLLIN)
        elif not self._epoll.closed:
            self._epoll.unregister(self.queue.loop)

    def fileno(self) -> int:
        """Return a descriptor that is readable when channels have work. This object owns it."""
        return self.fd

    def give_up(self) -> None:
        """End the interrupted work."""
        for runner in (*self._interrupted, *filter(None, [self._runner])):
            runner.end()
        self._interrupted.clear()
        self._paused.clear()
        self._runner = None

    def close(self) -> None:
        """End the interrupted work, and stop waiting. The channels stay open. Idempotent."""
        self.give_up()
        if not self._epoll.closed:
            self.queue.leave(self.fd)
            self._epoll.close()

    def connections(self) -> list[Connection]:
        """Return all channels."""
        return list(self._connections.values())

    def in_turn(self, work: Callable[[], object], *, apart: bool = False) -> None:
        """Call `work` in this user's next turn. `apart`: it is not part of processing a channel's message."""
        self._work.append((work, apart))
        self._rouse()

    # --- requests of connections; see `channels.Reactor` ----------------------------------------------------------

    def serve(self, connection: Connection) -> None:
        """Read a new channel whenever it is readable. Raises `OSError` if it cannot be waited for."""
        fd = connection.fileno()
        self._epoll.register(fd, _READABLE)
        self._connections[fd] = connection
        self._has_new = True

    def flush(self, connection: Connection) -> None:
        """Send a connection's queued responses, in this user's next turn and whenever there is room."""
        if connection not in self._full:
            self._to_flush[connection] = None
            self._rouse()

    def hold(self, connection: Connection, holder: Holder) -> None:
        """Do not read a channel until its holder is idle."""
        self._held.add(connection)
        self._update(connection)
        holder.when_idle(partial(self._resume, connection))

    def closing(self, connection: Connection) -> None:
        """Remove a channel that is about to close."""
        fd = connection.fileno()
        served = self._connections.pop(fd, None) is connection
        if served and self._masks.pop(fd, _READABLE) and not self._epoll.closed:
            # A client may have a duplicate of the descriptor, which would keep it registered.
            try:  # noqa: SIM105 # each channel closes here, and a block takes three calls
                self._epoll.unregister(fd)
            except OSError:
                pass
        if self._ready:
            # Before the report is read, the descriptor may belong to a new channel, which hasn't hung up.
            self._ready = deque([report for report in self._ready if report[0] != fd])
        self._held.discard(connection)
        self._full.discard(connection)
        self._to_flush.pop(connection, None)
        if not self:
            self._rouse()

    # --- serving --------------------------------------------------------------------------------------------------

    def take(self, *, measured: bool = True) -> bool:
        """Serve this user for one slice. Return False if nothing is left to do until the queue has it again.

        The CPU time is charged if it is `measured`, or, from the end of the first slice on, if the turn is too short
        for all work. While nobody else waits, measuring a short turn would cost more than it is worth.
        """
        self._began = self._used() if measured else -1
        now = self._now()
        self._until, self._end = now + SLICE_NS, now + MAX_SLICE_NS
        interrupted_first = self._paused and self._interrupted_is_next
        self._interrupted_is_next = not self._interrupted_is_next
        if interrupted_first:
            self._go_on(self._paused.popleft())
        if not interrupted_first or not self._is_over():
            if self._runner is None:
                self._runner = Runner(self._serve, self._must_pause, self._can_go_on)
            self._go_on(self._runner)
        if self._paused and not interrupted_first and not self._is_over():
            self._go_on(self._paused.popleft())
        more = bool(self._ready or self._to_flush or self._work or self._paused)
        if more:
            self.queue.unfinished[self.fd] = None
        elif self.queue.unfinished:
            self.queue.unfinished.pop(self.fd, None)
        if self._began >= 0 and (measured or more):
            self.queue.charge(self.fd, self._used() - self._began)
        return more

    def _is_over(self) -> bool:
        """Return whether the current slice is over."""
        now = self._now()
        if now < self._until:
            return False
        if now >= self._end:
            return True
        # Asking for the CPU time also makes the kernel notice that it is the turn of a process that the daemon has
        # woken. Otherwise that process may wait for the next tick, up to 4 ms.
        used = self._used()
        if self._began < 0:
            self._began = used
        if self.queue.others_wait(self.fd, used - self._began):
            return True
        self._until = now + SLICE_NS
        return False

    def _must_pause(self, runner: Runner) -> bool:
        """Return whether a runner has to pause in the middle of its work.

        While no other user waits, a message is not interrupted for messages on the user's other channels, because their
        order would be lost. Work that is not part of processing a message, such as a snapshot, is interrupted.
        """
        if self._now() < self._until:
            return False
        if runner.is_apart and (self._ready or self._to_flush or self.queue.waits(self.fd)):
            return True
        return self._is_over()

    def _go_on(self, runner: Runner) -> None:
        was_paused = runner in self._interrupted
        self._interrupted.discard(runner)
        try:
            runner.go_on()
        except Exception:
            # Either this ended the work, or there was no memory to continue it.
            if not runner.is_alive:
                if runner is self._runner:
                    self._runner = None
            elif was_paused:
                self._interrupted.add(runner)
                self._paused.append(runner)
            raise
        if runner.is_paused:
            if runner is self._runner:
                self._runner = None
            self._interrupted.add(runner)
            if not runner.waits:
                self._paused.append(runner)

    def _serve(self, runner: Runner) -> None:
        """Do all pending work, until this runner is no longer needed."""
        while True:
            if not self._ready:
                self._has_new = False
                self._ready.extend(self._epoll.poll(0, MAX_EVENTS))
            while self._work or self._to_flush or self._ready:
                self._serve_next()
                if self._runner is not runner:  # it was interrupted meanwhile
                    if self._runner is not None:
                        return
                    self._runner = runner
                if self._is_over():
                    break
            else:
                if self._has_new:
                    continue
            runner.rest()

    def _serve_next(self) -> None:
        if self._work:
            runner = self._runner
            assert runner is not None
            work, runner.is_apart = self._work.popleft()
            self._do(work)
            runner.is_apart = False
        elif self._to_flush:
            self._flush(next(iter(self._to_flush)))
        else:
            fd, events = self._ready.popleft()
            connection = self._connections.get(fd)
            if connection is not None:
                self._serve_connection(connection, events)
            elif fd == self.queue.loop:
                self.loop_is_ready = True

    @property
    def is_fruitless(self) -> bool:
        """Whether the kernel keeps reporting channels without actual events, so that polling is useless."""
        return self._fruitless >= _MAX_FRUITLESS

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            self._failed(error)

    def _serve_connection(self, connection: Connection, events: int) -> None:
        received, reading = connection.received, connection.reading
        is_full = connection in self._full
        waiting = connection.waiting_bytes if is_full else 0
        try:
            if events != _READABLE:
                if is_full:
                    self._flush(connection)
                if events & select.EPOLLHUP:
                    connection.note_hang_up()
            if connection.reading:
                for _ in range(RECEIVE_BUDGET):
                    if not connection.receive() or self._is_over():
                        break
            else:
                self._update(connection)
        except Exception as error:
            # A connection raises nothing. If an error does escape, only this connection ends.
            self._failed(error)
            self._do(connection.close)
        if (
            connection.received != received
            or connection.reading != reading
            or connection in self._held
            or (is_full and connection.waiting_bytes != waiting)
        ):
            self._fruitless = 0
        else:
            self._fruitless += 1

    def _can_go_on(self, runner: Runner) -> None:
        self._paused.append(runner)
        self._rouse()

    def _flush(self, connection: Connection) -> None:
        self._to_flush.pop(connection, None)
        if connection.flush():
            self._full.discard(connection)
        else:
            self._full.add(connection)
        self._update(connection)

    def _resume(self, connection: Connection) -> None:
        self._held.discard(connection)
        self._update(connection)

    def _update(self, connection: Connection) -> None:
        """Set the events of a channel that the kernel reports."""
        if connection.closed:
            return
        fd = connection.fileno()
        before = self._masks.get(fd, _READABLE)
        wanted = _READABLE if connection.reading and connection not in self._held else 0
        if connection in self._full:
            wanted |= _WRITABLE
        if wanted == before:
            return
        try:
            if not wanted:
                # Even an empty mask would report a closed channel all the time.
                self._epoll.unregister(fd)
            elif not before:
                self._epoll.register(fd, wanted)
            else:
                self._epoll.modify(fd, wanted)
        except OSError as error:
            connection.fail(f"the daemon can't wait for it: {error}")
            connection.close()
            return
        if wanted == _READABLE:
            del self._masks[fd]
        else:
            self._masks[fd] = wanted

    def _rouse(self) -> None:
        """Request a turn from the owner."""
        if not self._epoll.closed:
            self.queue.rouse(self.fd)
