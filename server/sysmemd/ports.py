"""What the pure parts of the daemon know of the world: small protocols that tests replace with recorders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from sysmem_protocol.sysmem2 import Error

from .text import printable


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """Who a client says it is (SetDebugClientInfo); nothing is decided by it."""

    name: str = ""
    id: int = 0

    def __str__(self) -> str:
        return f"{printable(self.name) or 'unnamed client'} ({self.id})"


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected, as the kernel says it (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Log(Protocol):
    """A structured logger: an event and its fields. structlog's bound loggers are such."""

    def bind(self, **fields: Any) -> Self: ...
    def debug(self, event: str, **fields: Any) -> Any: ...
    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


class Clock(Protocol):
    """The monotonic clock, in nanoseconds, and calls that it makes later."""

    def now(self) -> int: ...

    def call_at(self, deadline: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once when `deadline` has come; what is returned cancels that, harmlessly when too late."""
        ...


class Closeable(Protocol):
    """What can be closed; doing so twice is harmless."""

    def close(self) -> None: ...


class Signal(Closeable, Protocol):
    """An eventpair's server end: closing it is the signal."""

    def when_gone(self, callback: Callable[[], object]) -> None:
        """Call `callback` once should it close because its client's end did; whoever asked before isn't called."""
        ...


class Payer(Protocol):
    """Whoever the memory and the descriptors that are made count against."""

    def pay_for_buffer(self, size: int) -> Callable[[], None]:
        """Count a buffer of `size` bytes until what is returned is called. Raises `NoMemoryError`."""
        ...

    def pay_for_descriptor(self) -> Callable[[], None]:
        """Count a descriptor that stays open until what is returned is called. Raises `NoMemoryError`."""
        ...


class Nobody:
    """A payer whom nothing is counted against."""

    def pay_for_buffer(self, size: int) -> Callable[[], None]:
        """See :class:`Payer`."""
        return lambda: None

    def pay_for_descriptor(self) -> Callable[[], None]:
        """See :class:`Payer`."""
        return lambda: None


NOBODY: Final = Nobody()


class NoMemoryError(Exception):
    """The memory for an allocation could not be had; the text says why."""

    #: What participants get.
    error: Error = Error.NO_MEMORY
