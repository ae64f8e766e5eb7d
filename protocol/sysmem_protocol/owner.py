"""Objects that own descriptors: what a copy, a fork, a signal and a drop do to them.

A descriptor's number is kept in a *cell*, an object that closes it when nothing refers to it any more. The cells of a
participant are objects written in C: sockets, and what :func:`own` makes. So an exception that comes between any two
steps, such as KeyboardInterrupt, finds every descriptor in a cell, and leaves none open that nobody owns. While one
owner gives a cell to another both refer to it; it closes its descriptor once, whichever of them closes it.
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

#: Why an owner has no descriptor any more.
CLOSED = "is closed or was given away"
FORKED = (
    "belongs to the process that made it, of which this one is a fork: before the fork detach() it, "
    "and in the child make it again with from_fd()"
)


class HandleClosedError(ValueError):
    """The object was closed or given away before this use, or belongs to the process that this one is a fork of."""


# --- cells --------------------------------------------------------------------------------------------------------


class Cell(Protocol):
    """What holds a descriptor's number: a socket, what :func:`own` makes, or a :class:`Number`."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class Number:
    """A cell with another way to close; not for programs that signals interrupt."""

    __slots__ = ("_close", "_socket", "fd")

    def __init__(self, fd: int, close: Callable[[int], None] = os.close) -> None:
        #: The number, -1 once closed.
        self.fd = fd
        self._close = close
        self._socket: socket.SocketType | None = None

    def fileno(self) -> int:
        """Return the number, -1 once closed."""
        return self.fd

    def detach(self) -> int:
        """Give the number away."""
        fd, self.fd = self.fd, -1
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        return fd

    def as_socket(self) -> socket.SocketType:
        """Return a socket object over the number, always the same. It is of use while the number is here."""
        if self._socket is None:
            self._socket = socket_over(self.fd)
        return self._socket

    def take_socket(self) -> socket.SocketType:
        """Give the number away, in a socket object that owns it afterwards."""
        taken = self.as_socket()
        self._socket, self.fd = None, -1
        return taken

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        fd = self.detach()
        if fd >= 0:
            self._close(fd)


#: The cell of a descriptor of any kind. No other class of the standard library that is written in C takes every kind:
#: `epoll` never asks what it is, and does nothing with it but close it.
own: Callable[[int], Cell] = select.epoll.fromfd


def owned(make: Callable[..., int], *arguments: Any) -> Cell:
    """Return the cell of the descriptor that `make(*arguments)` returns, for a `make` written in C.

    All in one call of C: Python looks for signals between its own instructions only.
    """
    return next(map(own, map(make, *zip(arguments))))  # one tuple for each argument


def number(cell: Cell) -> int:
    """Return the number in a cell, -1 once it is closed."""
    try:
        return cell.fileno()
    except ValueError:
        return -1


def detach(cell: Cell) -> int:
    """Give away the descriptor in a cell. Raises `OSError`, and leaves it there, when a new number is needed and no
    descriptor is left.
    """
    if isinstance(cell, Number | socket.SocketType):
        return cell.detach()
    fd = fcntl.fcntl(cell.fileno(), fcntl.F_DUPFD_CLOEXEC, 0)
    cell.close()
    return fd


def socket_over(fd: int) -> socket.SocketType:
    """Make a socket object of a descriptor, which it owns from then on. Raises `OSError`.

    Family and type are given, and are not its own: asked to find them out, `socket` refuses some kinds of sockets.
    """
    sock = socket.SocketType(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
    never_wait(sock)
    return sock


def never_wait(sock: socket.SocketType) -> None:
    """Undo what `socket.setdefaulttimeout()` does: every call would wait, whatever its flags say."""
    if sock.gettimeout():
        sock.settimeout(None)


# --- owners -------------------------------------------------------------------------------------------------------


class Closes(Protocol):
    """What can be closed."""

    def close(self) -> None: ...


class WithBlock:
    """Something with a `close()`, which the end of a with-block calls."""

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
    """An object that neither `copy` nor `pickle` may make a second one of, for both would own the same descriptors."""

    __slots__ = ()
    #: What a program can do that wants a second one.
    _instead: ClassVar[str] = "duplicate() makes another one"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(_refusal(type(self)))


class UncopiedTable(Uncopied):
    """A table of such objects."""

    __slots__ = ()
    _instead = "duplicate() makes another one of a Vmo in it, and multiprocessing sends a table of duplicates"

    def __new__(cls, *_: object, **__: object) -> Self:
        # `dataclasses.replace` calls the class as everybody does; nothing else tells that it makes a second table.
        if sys._getframe(1).f_globals.get("__name__") == "dataclasses":
            raise TypeError(_refusal(cls))
        return super().__new__(cls)


def _refusal(cls: type[Uncopied]) -> str:
    return f"{cls.__name__} owns descriptors, so it can't be copied or pickled: {cls._instead}"


class Owner(WithBlock, Uncopied):
    """The owner of a descriptor. Dropped while it is open, it is closed, and then warned about."""

    __slots__ = ("__weakref__",)

    @property
    def closed(self) -> bool:
        """Whether the descriptor is closed or given away."""
        raise NotImplementedError

    def fileno(self) -> int:
        """Return the descriptor, still owned by this object."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        raise NotImplementedError

    def _lose(self, why: str = FORKED) -> None:
        """Close the descriptor, unnoticed by whoever uses it in another process: a forked child's parent, for one."""
        raise NotImplementedError

    def _drop(self) -> None:
        """Close what nobody refers to any more."""
        self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        try:
            what = None if self.closed else repr(self)
        except AttributeError:
            return  # its __init__ didn't come so far
        self._drop()
        if what is not None:
            _warn(f"{what} was dropped without close()", ResourceWarning, 2, source=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self.closed else f'fd {self.fileno()}'}>"


# --- forks --------------------------------------------------------------------------------------------------------


class Loses(Protocol):
    """What a fork takes from the child."""

    def _lose(self) -> None: ...


_lost_by_forks: weakref.WeakSet[Loses] = weakref.WeakSet()
_process = object()


def this_process() -> object:
    """Return an object that is another one in every child of a fork; cheaper than asking for the pid."""
    return _process


def lost_by_forks(owner: Loses) -> None:
    """Have an owner closed in every child of a fork: a channel or event must not outlive its process in a child."""
    _lost_by_forks.add(owner)


class _NoFork:
    """A with-block in which no other thread forks, if possible.

    It is for the moment in which a thread gets or closes a descriptor that a forked child must lose, until the child
    can tell. It doesn't wait for ever: a signal's handler may have interrupted the thread that is in such a with-block,
    and wait for this one, or have raised an exception on the way out of it.
    """

    _LONGEST_WAIT_SECONDS = 0.1

    def __init__(self) -> None:
        #: Reentrant, because a signal's handler may fork, or close, in between.
        self.lock = threading.RLock()

    def __enter__(self) -> None:
        if not self.lock.acquire(timeout=self._LONGEST_WAIT_SECONDS):
            self.lock = threading.RLock()

    def __exit__(self, *_: object) -> None:
        try:
            self.lock.release()
        except RuntimeError:
            return  # it was replaced meanwhile


no_fork = _NoFork()


def close_cell(cell: Cell) -> None:
    """Close what is in a cell."""
    if type(cell) is Number:  # whose program isn't forked
        cell.close()
        return
    with no_fork:
        try:
            cell.close()
        except OSError:
            return  # the program has closed that number itself


class Making:
    """Sockets that are being made and have no owner yet; a forked child loses them too."""

    __slots__ = ("__weakref__", "made")

    def __init__(self, making: Iterator[Any]) -> None:
        """Make the sockets, or pairs of them, that an iterator written in C gives."""
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
        """Close them. Idempotent."""
        for sock in self._sockets():
            sock.close()

    _lose = close


def new_pair(kind: int) -> Making:
    """Both ends of a new pair of sockets: a tuple of two."""
    return Making(map(_socket.socketpair, (socket.AF_UNIX,), (kind,)))


def new_channel() -> Making:
    """Return a channel's socket that isn't connected yet."""
    return Making(map(socket.SocketType, (socket.AF_UNIX,), (socket.SOCK_SEQPACKET,)))


def channel_of(fd: int) -> Making:
    """Return a channel's socket with a new descriptor of its own."""
    return channel_over(map(fcntl.fcntl, (fd,), (fcntl.F_DUPFD_CLOEXEC,), (0,)))


def channel_over(fds: Iterable[int]) -> Making:
    """Return a channel's socket that takes over the descriptor which an iterator written in C gives."""
    return Making(map(socket.SocketType, (socket.AF_UNIX,), (socket.SOCK_SEQPACKET,), (0,), fds))


def _in_forked_child() -> None:
    global _process
    _process = object()  # first: owners ask for it when they are closed
    no_fork.lock = threading.RLock()
    for owner in list(_lost_by_forks):
        with contextlib.suppress(OSError):  # the program has closed that number itself
            owner._lose()


os.register_at_fork(
    before=no_fork.__enter__,
    after_in_parent=no_fork.__exit__,
    after_in_child=_in_forked_child,
)
