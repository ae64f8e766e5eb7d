"""The sockets between producers and consumers."""

from __future__ import annotations

import os
import socket
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from sysmem_protocol.handles import Handle, describe, is_seqpacket
from sysmem_protocol.owner import Closes, HandleClosedError, Uncopied

from .._arguments import descriptor


class EndOfStreamError(EOFError):
    """There are no more frames.

    Attributes:
        reason: Why, in words: what the producer said when it closed the stream, or what happened to it.
        closed: Whether the producer closed the stream. It is gone without that, or sent garbage, otherwise.
    """

    def __init__(self, reason: str, *, closed: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.closed = closed


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new connection between a producer and a consumer.

    Either may be passed to another process; what passes tokens (`socket.send_fds`, `Popen(pass_fds=…)`) passes
    them too. The caller owns both.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def own(end: socket.socket | Handle | int) -> socket.socket:
    """Take over an end, which the caller doesn't own any more.

    Raises:
        ValueError: It isn't a connected SOCK_SEQPACKET Unix socket; the caller still owns it then.
        TypeError: It is another kind of object.
    """
    fd = end.fileno() if isinstance(end, socket.socket | Handle) else descriptor(end, socket.socket)
    if not is_seqpacket(fd) or not _connected(fd):
        raise ValueError(
            f"frames go through a connected SOCK_SEQPACKET Unix socket, as pair() makes; this is {describe(fd)}"
        )
    if isinstance(end, socket.socket):
        end.detach()
    elif isinstance(end, Handle):
        end.take()
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)


def _connected(fd: int) -> bool:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
    try:
        sock.getpeername()
    except OSError:
        return False
    finally:
        sock.detach()
    return True


class Waits(Closes, Protocol):
    """What waits until a descriptor is readable."""

    def wake(self) -> None: ...


class End(Uncopied):
    """One end of a stream, in either face."""

    _instead = "a producer makes one for each consumer"

    _waiter: Waits

    def __init__(self) -> None:
        self._closed = True
        self._lock = threading.RLock()

    def _open(self, fd: int, close: Callable[[], None]) -> None:
        """Wait on a descriptor from now on, which `close` closes."""
        self._waiter = self._make_waiter(fd, close)
        self._closed = False
        _ends.add(self)

    def _make_waiter(self, fd: int, close: Callable[[], None]) -> Waits:
        """Return what waits until the descriptor is readable, and calls `close` in the end, maybe twice."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._closed

    def abandon(self) -> None:
        """Close without a word, as if the process had died. Idempotent."""
        if not self._closed:
            self._closed = True
            self._waiter.close()

    def _check_open(self) -> None:
        if self._closed:
            raise HandleClosedError(
                "this end of a stream of frames is closed, or belongs to the parent process"
            )

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if not getattr(self, "_closed", True):
            self.abandon()
            _warn(f"{self!r} was dropped without close()", ResourceWarning, 2, source=self)


#: The ends that are open. A child of a fork closes its copies: the other side couldn't see this process die otherwise.
_ends: weakref.WeakSet[End] = weakref.WeakSet()


def _abandon_all() -> None:
    for end in tuple(_ends):
        end._lock = threading.RLock()  # another thread of the parent may have held it
        end.abandon()


os.register_at_fork(after_in_child=_abandon_all)
