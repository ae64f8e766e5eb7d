"""Waiting for channels under trio, and serving their users in turn.

One task serves all channels, one user after the other. In a process of its own, the daemon does this in place of trio's
wait (:mod:`.waiting`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial

import trio

from .channels import STOPPING, Connection
from .clock import TrioClock
from .fair_queue import Queue
from .pause import Holder
from .ports import Log
from .turns import SLICE_NS, Turns
from .users import User
from .waiting import in_place_of_waiting

#: Seconds that a task sleeps if it can't wait for a descriptor, because the kernel is short of memory.
_CAN_NOT_WAIT_SECONDS = 0.1
#: Seconds that a task sleeps if the kernel reports an event that did not happen.
FRUITLESS_SECONDS = 0.01


class TrioReactor:
    """Waits for channels and serves their users in turn; a :class:`sysmemd.channels.Reactor`.

    Each user with something to do gets one slice (:class:`sysmemd.turns.Turns`), then the next one, in the queue's
    order.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        queue: Queue,
        log: Log,
        now: Callable[[], int] = time.monotonic_ns,
        used: Callable[[], int] = time.thread_time_ns,
        *,
        alone: TrioClock | None = None,
    ) -> None:
        """`queue` has everything that waits for a turn.

        `now` returns the time for turns, and `used` the CPU time that the daemon has used, in nanoseconds.

        If the daemon is `alone` in the loop, it serves in place of trio's wait, and makes the calls of that clock. This
        is faster, but a test's loop must not wait without trio's knowledge.
        """
        self._clock = alone
        self._nursery = nursery
        self._now = now
        self._used = used
        #: The CPU time at which the loop's turn began; -1 if it has none or is not measured.
        self._loop_began = -1
        #: Who had the last turn.
        self._last = -1
        self._log = log
        self._queue = queue
        self._turns: dict[User, Turns] = {}
        self._users: dict[int, User] = {}
        #: The only user, if there is only one. It is waited for directly.
        self._sole: Turns | None = None
        self._stopped = False
        self.closed_one = trio.Event()
        nursery.start_soon(self._run_alone if alone else self._run)

    def serve(self, connection: Connection) -> None:
        """See :class:`sysmemd.channels.Reactor`."""
        try:
            self._turns_of(connection.account.user).serve(connection)
        except OSError as error:
            # Later, because the connection and its server are still being created.
            self._nursery.start_soon(self._fail, connection, error)

    async def _fail(self, connection: Connection, error: OSError) -> None:
        served = trio.Event()
        connection.when_served(served.set)
        await served.wait()
        if not connection.closed:
            connection.fail(f"the daemon can't wait for it: {error}")
            connection.close()

    def in_turn(self, user: User, work: Callable[[], None], *, apart: bool = False) -> None:
        """See :class:`sysmemd.channels.Reactor`."""
        if self._stopped:  # there is no next turn, and the user's descriptor would not be closed
            return
        try:
            turns = self._turns_of(user)
        except OSError:
            self._work(work)  # there is no descriptor left to wait for a turn
        else:
            turns.in_turn(work, apart=apart)

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._say_failed(error)

    def _say_failed(self, error: Exception) -> None:
        unforeseen = not isinstance(error, (OSError, MemoryError))
        self._log.error(
            "an error occurred while a user was served",
            reason=repr(error),
            exc_info=unforeseen and error,
        )

    def hold(self, connection: Connection, holder: Holder) -> None:
        """See :class:`sysmemd.channels.Reactor`."""
        self._turns[connection.account.user].hold(connection, holder)

    def flush(self, connection: Connection) -> None:
        """See :class:`sysmemd.channels.Reactor`."""
        if not connection.closed:
            self._turns[connection.account.user].flush(connection)

    def closing(self, connection: Connection) -> None:
        """See :class:`sysmemd.channels.Reactor`."""
        turns = self._turns.get(connection.account.user)
        if turns is not None:
            turns.closing(connection)
        self.closed_one.set()

    def connections(self) -> list[Connection]:
        """See :class:`sysmemd.channels.Reactor`."""
        return [one for turns in self._turns.values() for one in turns.connections()]

    def give_up(self) -> None:
        """End all work that was interrupted, because the daemon stops."""
        for turns in self._turns.values():
            turns.give_up()

    def close(self) -> None:
        """Close every channel."""
        for connection in self.connections():
            connection.explain(None, STOPPING)
            connection.close()

    def _turns_of(self, user: User) -> Turns:
        turns = self._turns.get(user)
        if turns is None:
            turns = Turns(self._queue, self._now, self._used, self._say_failed)
            self._turns[user] = turns
            self._users[turns.fileno()] = user
            self._find_sole()
        return turns

    def _find_sole(self) -> None:
        sole = None
        if len(self._turns) == 1 and self._queue.loop >= 0:
            [sole] = self._turns.values()
            if sole.rests:
                sole = None
        if sole is self._sole:
            return
        with contextlib.suppress(OSError):
            if self._sole is not None:
                self._sole.watch_loop(watched=False)
        self._sole = None
        with contextlib.suppress(OSError):  # on an error the user is waited for in the usual way
            if sole is not None:
                sole.watch_loop(watched=True)
                self._sole = sole

    async def _run(self) -> None:
        self._queue.on_rouse = partial(trio.lowlevel.notify_closing, self._queue)
        try:
            while True:
                self._serve(0)
                if self._queue.unfinished:
                    await trio.lowlevel.checkpoint()
                else:
                    await readable(self._queue.fileno())
        finally:
            self._stop()

    async def _run_alone(self) -> None:
        try:
            with in_place_of_waiting(self._serve, self._say_failed) as fd:
                await self._enter_loop(fd)
                self._find_sole()
                try:
                    await trio.sleep_forever()
                finally:
                    self._queue.leave(fd)
        finally:
            self._stop()

    async def _enter_loop(self, fd: int) -> None:
        """Have the queue tell when trio has something to do; when the kernel is too short of memory, try again."""
        while True:
            try:
                self._queue.enter_loop(fd)
            except OSError as error:
                self._say_failed(error)
                await trio.sleep(_CAN_NOT_WAIT_SECONDS)
            else:
                return

    def _stop(self) -> None:
        self._stopped = True
        for user, turns in tuple(self._turns.items()):
            turns.close()
            if not turns:  # `close` handles those that have channels
                del self._turns[user]

    def _serve(self, seconds: float) -> tuple[int, bool]:
        """Give a turn to each user that has work. Wait for one at most this long.

        Returns how many were served or called, and whether trio is ready to continue.
        """
        clock = self._clock
        if clock is None:
            return self._serve_users(seconds)
        left = clock.seconds_left()
        if left is None:
            return self._serve_users(seconds)
        try:
            served, is_trio_ready = self._serve_users(left if left < seconds else seconds)
        finally:
            called = clock.call_due()
        return served + called, is_trio_ready

    def _serve_users(self, seconds: float) -> tuple[int, bool]:
        sole = self._sole
        if sole is not None:
            return self._serve_sole(sole, seconds)
        queue = self._queue
        if self._loop_began >= 0:
            queue.charge(queue.loop, self._used() - self._loop_began)
            self._loop_began = -1
        due = queue.wait(seconds)
        others_wait = len(due) > 1 or bool(queue.unfinished)
        served, charged = 0, queue.charged
        for fd in due:
            if fd != self._last:
                self._last = fd
                if not others_wait:
                    self._used()  # so that a client that was just answered runs, as in `Turns`
            if fd == queue.loop:
                if others_wait:
                    self._loop_began = self._used()
                return served, True
            user = self._users.get(fd)
            if user is not None:
                served += 1
                has_more = self._take(fd, user, self._turns[user], measured=others_wait)
                if has_more or queue.charged - charged >= SLICE_NS:
                    break  # others may have come meanwhile who go first
        return served, False

    def _serve_sole(self, turns: Turns, seconds: float) -> tuple[int, bool]:
        queue, fd = self._queue, turns.fd
        turns.loop_is_ready = bool(queue.unfinished) and queue.loop in queue.wait(0)
        if not queue.unfinished and not turns.wait(seconds):
            return 0, False
        self._take(fd, self._users[fd], turns, measured=False)
        return 1, turns.loop_is_ready

    def _take(self, fd: int, user: User, turns: Turns, *, measured: bool) -> bool:
        """Give a user a turn. Return whether it was too short for all work."""
        try:
            has_more = turns.take(measured=measured)
        except Exception as error:
            self._say_failed(error)
            self._rest(fd, turns, _CAN_NOT_WAIT_SECONDS)
            return False
        if has_more:
            return True
        if not turns:
            del self._turns[user], self._users[fd]
            self._find_sole()
            turns.close()
        elif turns.is_fruitless:
            self._rest(fd, turns, FRUITLESS_SECONDS)
        return False

    def _rest(self, fd: int, turns: Turns, seconds: float) -> None:
        """Give a user no turn for some time."""
        self._queue.leave(fd)
        turns.rests = True
        self._find_sole()
        self._nursery.start_soon(self._end_rest, fd, turns, seconds)

    async def _end_rest(self, fd: int, turns: Turns, seconds: float) -> None:
        while True:
            await trio.sleep(seconds)
            if turns not in self._turns.values():
                return
            try:
                self._queue.enter_user(fd)
            except FileExistsError:
                return
            except OSError:
                seconds = _CAN_NOT_WAIT_SECONDS
            else:
                turns.rests = False
                self._find_sole()
                self._queue.rouse(fd)
                return


async def readable(fd: int) -> None:
    """Wait until a descriptor is readable, or for a while if the kernel is too short of memory to report it."""
    try:
        await trio.lowlevel.wait_readable(fd)
    except trio.ClosedResourceError:  # another task ends the wait
        await trio.lowlevel.checkpoint()
    except OSError:
        await trio.sleep(_CAN_NOT_WAIT_SECONDS)
