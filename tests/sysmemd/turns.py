"""A connection that records a reactor's calls, over a real socket pair."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Self

import pytest

from sysmem_protocol.handles import channel_pair
from sysmemd import turns
from sysmemd.channels import Connection
from sysmemd.pause import give_way
from sysmemd.ports import Peer
from sysmemd.users import Account

from .accounts import new_users


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def slice_passes(self) -> None:
        self.now += turns.MAX_SLICE_NS

    def work(self, slices: int = 1) -> None:
        """Work that takes this many slices, and gives way after each."""
        for _ in range(slices):
            self.slice_passes()
            give_way()


def fail_next_turn(monkeypatch: pytest.MonkeyPatch) -> list[MemoryError]:
    """Let the next turn fail. The result is empty once that has happened."""
    take, failures = turns.Turns.take, [MemoryError()]

    def fails_once(made: turns.Turns, *, measured: bool) -> bool:
        if failures:
            raise failures.pop()
        return take(made, measured=measured)

    monkeypatch.setattr(turns.Turns, "take", fails_once)
    return failures


class FakeConnection:
    """Receives one byte at a time, and records all calls."""

    def __init__(self, account: Account | None = None, *, uid: int = 0) -> None:
        self.account = account or new_users().open_account(Peer(os.getpid(), uid, uid))
        self.near, self.far = channel_pair()
        self.reading = True
        self.closed = False
        #: Whether the object that it serves exists. Otherwise `on_served` is the function to call when it does.
        self.is_served = True
        self.on_served: Callable[[], None] = lambda: None
        self.received = self.waiting_bytes = 0
        self.flushed = 0
        self.refusals: list[str] = []
        #: Called for each message.
        self.on_receive: Callable[[], object] = lambda: None
        #: Whether another message is likely after one.
        self.more = False

    @property
    def connection(self) -> Connection:
        """This object, typed as the class that it replaces."""
        stands_in: Any = self
        return stands_in  # type: ignore[no-any-return] # that is the point

    def when_served(self, callback: Callable[[], None]) -> None:
        """Call `callback` now if the served object exists, otherwise later."""
        self.on_served = callback
        if self.is_served:
            callback()

    def explain(self, error: None, line: str) -> None:
        """Record the reason for the end that follows."""
        self.refusals.append(line)

    def send(self, messages: int = 1) -> None:
        """Send from the other end."""
        for _ in range(messages):
            self.far.send(b"x")

    def fill(self) -> None:
        """Send from this end until there is no room."""
        try:
            while True:
                self.near.send(b"x" * 1000)
        except BlockingIOError:
            pass

    def drain(self) -> None:
        """Read the data that `fill` sent."""
        try:
            while self.far.recv(1000):
                pass
        except BlockingIOError:
            pass

    # --- what a connection does ---

    def fileno(self) -> int:
        return self.near.fileno()

    def note_hang_up(self) -> None:
        """Do nothing: the hang-up is seen anyway."""

    def receive(self) -> bool:
        try:
            self.near.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        self.received += 1
        self.on_receive()
        return self.more

    def flush(self) -> bool:
        self.flushed += 1
        try:
            self.near.send(b"x")
        except BlockingIOError:
            return False
        return True

    def refuse(self, reason: str) -> None:
        self.refusals.append(reason)

    fail = refuse

    def close(self) -> None:
        self.closed = True
        self.reading = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.near.close()
        self.far.close()


class Idle:
    """A holder that becomes idle on demand."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.idle = False

    def when_idle(self, callback: Callable[[], None]) -> None:
        if self.idle:
            callback()
        else:
            self.callbacks.append(callback)

    def rest(self) -> None:
        self.idle = True
        for callback in self.callbacks:
            callback()
