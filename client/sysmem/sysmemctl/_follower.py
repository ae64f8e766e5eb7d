"""A thread that follows a daemon by snapshots, at a rate that costs the daemon little, also across restarts."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from sysmem_protocol.channel import PeerClosedError

from .._errors import DaemonUnavailableError, SysmemError
from .._inspector import Events, Inspector
from ._source import Data

#: The maximum time between snapshots in seconds. Ages and rates change even if no event occurs.
INTERVAL: Final = 2.0
#: The minimum time between snapshots: this many seconds, this multiple of the time for one snapshot, and the time
#: that its use takes.
_SHORTEST: Final = 0.25
_TIMES: Final = 10
#: The time after which an unreachable daemon is looked for again, in seconds.
_AGAIN: Final = 1.0


class Follower:
    """A thread that takes snapshots of a daemon, after events and at regular intervals."""

    def __init__(
        self,
        runtime_dir: str | None,
        timeout: float | None,
        seen: Callable[[Data], object],
        lost: Callable[[str], object],
        interval: float = INTERVAL,
    ) -> None:
        """Begin to follow. Both functions are called in the thread.

        Args:
            runtime_dir: The directory of the daemon's sockets; None for the default places.
            timeout: How long a snapshot may take, in seconds.
            seen: Called with each snapshot.
            lost: Called with the reason when there is no daemon.
            interval: The maximum time between snapshots, in seconds.
        """
        self._runtime_dir = runtime_dir
        self._timeout = timeout
        self._seen = seen
        self._lost = lost
        self._interval = interval
        self._ended = threading.Event()
        self._wake, self._waking = socket.socketpair()
        #: Guards the connection, which the thread opens and other threads shut down.
        self._lock = threading.Lock()
        self._connected: Inspector | None = None
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)
        self._thread.start()

    def now(self) -> None:
        """Take the next snapshot as soon as the minimum time has passed."""
        with self._lock:
            if not self._ended.is_set():
                self._waking.send(b"x")

    def stop(self) -> None:
        """End the thread, even if it waits for the daemon. Idempotent."""
        with self._lock:
            if self._ended.is_set():
                return
            self._ended.set()
            self._waking.send(b"x")
            if self._connected is not None:
                _hang_up(self._connected)
        self._thread.join()
        self._wake.close()
        self._waking.close()

    def _follow(self) -> None:
        while not self._ended.is_set():
            try:
                with Inspector.connect(self._runtime_dir, timeout=self._timeout) as inspector:
                    self._set(inspector)
                    try:
                        with inspector.watch(timeout=self._timeout) as events:
                            self._look(inspector, events)
                    finally:
                        self._set(None)
            except (DaemonUnavailableError, SysmemError, PeerClosedError, OSError) as error:
                if not self._ended.is_set():
                    self._lost(str(error))
                    self._ended.wait(_AGAIN)

    def _set(self, inspector: Inspector | None) -> None:
        with self._lock:
            self._connected = inspector
            if inspector is not None and self._ended.is_set():
                _hang_up(inspector)

    def _look(self, inspector: Inspector, events: Events) -> None:
        poll = select.poll()
        poll.register(events.fileno(), select.POLLIN)
        poll.register(self._wake.fileno(), select.POLLIN)
        while not self._ended.is_set():
            start = time.monotonic()
            snapshot = inspector.snapshot(timeout=self._timeout)
            took = time.monotonic() - start
            self._seen(snapshot)
            pause = max(_SHORTEST, _TIMES * took, time.monotonic() - start)
            if self._ended.wait(pause):
                return
            for fd, _ in poll.poll(max(0.0, self._interval - pause) * 1000):
                if fd == self._wake.fileno():
                    self._wake.recv(64)
                else:
                    _drain(events)


def _drain(events: Events) -> None:
    """Read all pending events. Raises `PeerClosedError` if the daemon has ended."""
    while True:
        try:
            events.next(0)
        except TimeoutError:
            return


def _hang_up(inspector: Inspector) -> None:
    """Shut the connection down, which ends a wait for a response."""
    with socket.socket(fileno=os.dup(inspector.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
