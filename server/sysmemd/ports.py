"""The interfaces that the pure parts of the daemon use: small protocols that tests replace by recorders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from sysmem_protocol.sysmem2 import Error

from .text import printable


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """The name and id that a client sent (SetDebugClientInfo). No decision depends on them."""

    name: str = ""
    id: int = 0

    def __str__(self) -> str:
        return f"{printable(self.name) or 'unnamed client'} ({self.id})"


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected, as reported by the kernel (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Log(Protocol):
    """A structured logger: an event and its fields, like structlog's bound loggers."""

    def bind(self, **fields: Any) -> Self: ...
    def debug(self, event: str, **fields: Any) -> Any: ...
    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


class Clock(Protocol):
    """The monotonic clock in nanoseconds, and delayed calls."""

    def now(self) -> int: ...

    def call_at(self, deadline: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once at `deadline`. The returned function cancels this, unless it is too late."""
        ...


class Closeable(Protocol):
    """An object that can be closed. Closing is idempotent."""

    def close(self) -> None: ...


class Signal(Closeable, Protocol):
    """The server end of an eventpair. Closing it is the signal."""

    def when_gone(self, callback: Callable[[], object]) -> None:
        """Call `callback` once if it closes because its client's end did. It replaces an earlier callback."""
        ...


class Payer(Protocol):
    """The account that is charged for memory and descriptors."""

    def pay_for_buffer(self, size: int) -> Callable[[], None]:
        """Charge a buffer of `size` bytes until the returned function is called. Raises `NoMemoryError`."""
        ...

    def pay_for_descriptor(self) -> Callable[[], None]:
        """Charge an open descriptor until the returned function is called. Raises `NoMemoryError`."""
        ...


class Nobody:
    """A payer without limits or counts."""

    def pay_for_buffer(self, size: int) -> Callable[[], None]:
        """See :class:`Payer`."""
        return lambda: None

    def pay_for_descriptor(self) -> Callable[[], None]:
        """See :class:`Payer`."""
        return lambda: None


NOBODY: Final = Nobody()


class NoMemoryError(Exception):
    """The memory for an allocation is not available. The text has the reason."""

    #: The error that participants get.
    error: Error = Error.NO_MEMORY
