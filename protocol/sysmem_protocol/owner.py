"""Owners of descriptors, and the effects of copying, forking, signals and garbage collection on them.

A descriptor's number is kept in a *cell*, an object that closes it when nothing refers to the cell any more. In
participants, cells are objects written in C: sockets, and the results of :func:`own`. So an exception between any two
instructions, such as KeyboardInterrupt, finds every descriptor in a cell, and leaves none open without an owner. While
a cell moves from one owner to another, both refer to it. It closes its descriptor once, whichever of them closes it.
"""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import os
import select
import socket
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Protocol, Self, SupportsIndex

#: Reasons why an owner no longer has a descriptor.
CLOSED = "is closed or was given away"
FORKED = (
    "belongs to the process that created it, and this process is a fork of that one: detach() it before the fork, "
    "and create it again with from_fd() in the child"
)


class HandleClosedError(ValueError):
    """The object was closed or given away before this use, or it belongs to the process that was forked."""


def closed_by_program(fd: int, owner: str) -> HandleClosedError:
    """Return the exception for a descriptor that the program has closed by its number, although `owner` owns it."""
    return HandleClosedError(
        f"descriptor {fd} was closed, but not by {owner}, which owns it: a program that closes all descriptors, to "
        "become a daemon for example, must do so before it connects"
    )


# --- cells --------------------------------------------------------------------------------------------------------


class Cell(Protocol):
    """An object that holds a descriptor's number: a socket, the result of :func:`own`, or a :class:`Number`."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class Number:
    """A cell with another way of closing, for programs whose signal handlers raise no exceptions."""

    __slots__ = ("_close", "_socket", "fd")

    def __init__(self, fd: int, close: Callable[[int], None] = os.close) -> None:
        #: The number, or -1 after close.
        self.fd = fd
        self._close = close
        self._socket: socket.SocketType | None = None

    def fileno(self) -> int:
        """Return the number, or -1 after close."""
        return self.fd

    def detach(self) -> int:
        """Give up ownership of the number and return it."""
        fd, self.fd = self.fd, -1
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        return fd

    def as_socket(self) -> socket.SocketType:
        """Return a socket object over the number, always the same. It is valid as long as the number is here."""
        if self._socket is None:
            self._socket = socket_over(self.fd)
        return self._socket

    def take_socket(self) -> socket.SocketType:
        """Give up ownership of the number, and return a socket object that owns it."""
        taken = self.as_socket()
        self._socket, self.fd = None, -1
        return taken

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        fd = self.detach()
        if fd >= 0:
            self._close(fd)


#: Returns a cell for a descriptor of any kind. `epoll` is the only class of the standard library written in C that
#: accepts every kind: it does not check the descriptor, and only closes it.
own: Callable[[int], Cell] = select.epoll.fromfd


def owned(make: Callable[..., int], *arguments: Any) -> Cell:
    """Return a cell for the descriptor that `make(*arguments)` returns. `make` must be written in C.

    Everything happens in one C call, because Python handles signals only between its own instructions.
    """
    return next(map(own, map(make, *zip(arguments))))  # one tuple for each argument


def number(cell: Cell) -> int:
    """Return the number in a cell, or -1 after close."""
    try:
        return cell.fileno()
    except ValueError:
        return -1


def detach(cell: Cell) -> int:
    """Give up the descriptor in a cell and return it.

    Raises `OSError` if this needs a new number and no descriptor is left. The cell then keeps its descriptor.
    """
    if isinstance(cell, Number | socket.SocketType):
        return cell.detach()
    fd = fcntl.fcntl(cell.fileno(), fcntl.F_DUPFD_CLOEXEC, 0)
    cell.close()
    return fd


def socket_over(fd: int) -> socket.SocketType:
    """Return a socket object that owns this descriptor. Raises `OSError`.

    Family and type are given, although they may be wrong: if `socket` has to detect them, it refuses some kinds.
    """
    sock = socket.SocketType(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
    never_wait(sock)
    return sock


def never_wait(sock: socket.SocketType) -> None:
    """Undo the effect of `socket.setdefaulttimeout()`, which makes every call wait, regardless of its flags."""
    if sock.gettimeout():
        sock.settimeout(None)


# --- owners -------------------------------------------------------------------------------------------------------


class Closes(Protocol):
    """An object that can be closed."""

    def close(self) -> None: ...


class WithBlock:
    """An object with a `close()`, which is called at the end of a with-block."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self: Closes,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Uncopied:
    """An object that `copy` and `pickle` must not duplicate, because both copies would own the same descriptors."""

    __slots__ = ()
    #: What both copies would own.
    _owned: ClassVar[str] = "descriptors"
    #: The alternative for a program that needs a second object.
    _instead: ClassVar[str] = "duplicate() makes another one"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(_refusal(type(self)))


class UncopiedTable(Uncopied):
    """A table that contains such objects."""

    __slots__ = ()
    _instead = "duplicate() makes another one of a Vmo in it, and multiprocessing sends a table of duplicates"

    def __new__(cls, *_: object, **__: object) -> Self:
        # `dataclasses.replace` calls the class in the usual way. Only the caller shows that this is a copy.
        if sys._getframe(1).f_globals.get("__name__") == "dataclasses":
            raise TypeError(_refusal(cls))
        return super().__new__(cls)


def _refusal(cls: type[Uncopied]) -> str:
    return f"{cls.__name__} owns {cls._owned}, so it can't be copied or pickled: {cls._instead}"


class Owner(WithBlock, Uncopied):
    """The owner of a descriptor. If it is garbage-collected while open, it is closed with a warning."""

    __slots__ = ("__weakref__",)

    @property
    def closed(self) -> bool:
        """Whether the descriptor is closed or given away."""
        raise NotImplementedError

    def fileno(self) -> int:
        """Return the descriptor. This object keeps ownership."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        raise NotImplementedError

    def _lose(self, why: str = FORKED) -> None:
        """Close the descriptor without effect on other processes that use it, such as the parent of a forked child."""
        raise NotImplementedError

    def _drop(self) -> None:
        """Close the descriptor because nothing refers to this object any more."""
        self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        try:
            what = None if self.closed else repr(self)
        except AttributeError:
            return  # its __init__ did not complete
        self._drop()
        if what is not None:
            _warn(f"{what} was dropped without close()", ResourceWarning, 2, source=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self.closed else f'fd {self.fileno()}'}>"


# --- forks --------------------------------------------------------------------------------------------------------


class Loses(Protocol):
    """An object that a forked child loses."""

    def _lose(self) -> None: ...


_lost_by_forks: weakref.WeakSet[Loses] = weakref.WeakSet()
_process = object()


def this_process() -> object:
    """Return an object that is different in every forked child. This is cheaper than getpid()."""
    return _process


def lost_by_forks(owner: Loses) -> None:
    """Close an owner in every forked child, because a channel or event must not outlive its process in a child."""
    _lost_by_forks.add(owner)


class _NoFork:
    """A with-block in which no other thread forks, if possible.

    It protects the time in which a thread gets or closes a descriptor that a forked child must lose, until it is
    registered. It does not wait forever: a signal handler may have interrupted the thread that is in such a block and
    wait for this one, or may have raised an exception at its end.
    """

    _LONGEST_WAIT_SECONDS = 0.1

    def __init__(self) -> None:
        #: Reentrant, because a signal handler may fork or close meanwhile.
        self.lock = threading.RLock()

    def __enter__(self) -> None:
        if not self.lock.acquire(timeout=self._LONGEST_WAIT_SECONDS):
            self.lock = threading.RLock()

    def __exit__(self, *_: object) -> None:
        try:
            self.lock.release()
        except RuntimeError:
            return  # the lock was replaced meanwhile


no_fork = _NoFork()


def close_cell(cell: Cell) -> None:
    """Close the descriptor in a cell."""
    if type(cell) is Number:  # its program is not forked
        cell.close()
        return
    with no_fork:
        try:
            cell.close()
        except OSError:
            return  # the program has closed that number itself


class Making:
    """Sockets that are being created and have no owner yet. A forked child loses them too."""

    __slots__ = ("__weakref__", "made")

    def __init__(self, making: Iterator[Any]) -> None:
        """Create the sockets, or pairs of them, from an iterator written in C."""
        self.made: list[Any] = []
        lost_by_forks(self)
        with no_fork:
            self.made.extend(making)
        for sock in self._sockets():
            never_wait(sock)

    def _sockets(self) -> Iterator[socket.SocketType]:
        for made in self.made:
            yield from made if isinstance(made, tuple) else (made,)

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        for sock in self._sockets():
            sock.close()

    _lose = close


def new_pair(kind: int) -> Making:
    """Return both ends of a new socket pair, as a tuple in a `Making`."""
    return Making(map(_socket.socketpair, (socket.AF_UNIX,), (kind,)))


def new_channel() -> Making:
    """Return a channel's socket that is not connected yet."""
    return Making(map(socket.SocketType, (socket.AF_UNIX,), (socket.SOCK_SEQPACKET,)))


def channel_of(fd: int) -> Making:
    """Return a channel's socket over a duplicate of the descriptor."""
    return channel_over(map(fcntl.fcntl, (fd,), (fcntl.F_DUPFD_CLOEXEC,), (0,)))


def channel_over(fds: Iterable[int]) -> Making:
    """Return a channel's socket that takes ownership of the descriptor from an iterator written in C."""
    return Making(map(socket.SocketType, (socket.AF_UNIX,), (socket.SOCK_SEQPACKET,), (0,), fds))


def _in_forked_child() -> None:
    global _process
    _process = object()  # first, because owners check it when they are closed
    no_fork.lock = threading.RLock()
    for owner in list(_lost_by_forks):
        with contextlib.suppress(OSError):  # the program has closed that number itself
            owner._lose()


os.register_at_fork(
    before=no_fork.__enter__,
    after_in_parent=no_fork.__exit__,
    after_in_child=_in_forked_child,
)
