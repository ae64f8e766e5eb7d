"""System calls of this process that fail when a test requests it."""

from __future__ import annotations

import _socket
import contextlib
import ctypes
import fcntl
import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

from sysmem_protocol.channel import Channel, ServedChannel

from .. import inotify

#: The Python function through which the daemon makes each call, and whether ctypes reports the kernel's error.
CALLS: Final[dict[str, tuple[Any, str]]] = {
    "memfd_create": (os, "memfd_create"),
    "ftruncate": (os, "ftruncate"),
    "fallocate": (os, "posix_fallocate"),
    "open": (os, "open"),
    "openat": (os, "open"),
    "dup": (os, "dup"),
    "pipe2": (os, "pipe2"),
    "eventfd2": (os, "eventfd"),
    "fcntl": (fcntl, "fcntl"),
    "accept": (socket.socket, "accept"),
    "accept4": (socket.socket, "accept"),
    "sendmsg": (ServedChannel, "_sendmsg"),
    "recvmsg": (ServedChannel, "_recvmsg"),
    "socketpair": (_socket, "socketpair"),
    "bind": (Channel, "bind"),
    "epoll_create1": (select, "epoll"),
    "inotify_init1": (inotify._libc, "inotify_init1"),
    "inotify_add_watch": (inotify._libc, "inotify_add_watch"),
}


class Syscalls:
    """The failing system calls, which replace Python's functions."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any]] = []
        self._suspended = 0

    def fail(self, name: str, errno: int, times: int) -> None:
        """Make a system call fail this many times; 0 means always. Raises `KeyError` if it is not in the table."""
        left = times or -1

        def error() -> int | None:
            nonlocal left
            if not left:
                return None
            left -= 1
            return errno

        self.decide(name, error)

    def decide(self, name: str, error: Callable[[], int | None]) -> None:
        """Make each call fail with the number that `error` returns, unless that is None. Raises `KeyError`."""
        owner, attribute = CALLS[name]
        self._put_back(owner, attribute)
        right = getattr(owner, attribute)
        own = vars(owner).get(attribute) if isinstance(owner, type) else right
        self._replaced.append((owner, attribute, own))
        setattr(owner, attribute, self._failing(right, error, isinstance(owner, ctypes.CDLL)))

    def _failing(
        self, right: Callable[..., Any], error: Callable[[], int | None], by_ctypes: bool
    ) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            errno = None if self._suspended else error()
            if errno is None:
                return right(*arguments, **named)
            if by_ctypes:
                ctypes.set_errno(errno)
                return -1
            raise OSError(errno, os.strerror(errno))

        return call

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Let all system calls work within the block."""
        self._suspended += 1
        try:
            yield
        finally:
            self._suspended -= 1

    def undo(self) -> None:
        """Let all system calls work again."""
        for owner, attribute, _ in list(self._replaced):
            self._put_back(owner, attribute)

    def _put_back(self, owner: Any, attribute: str) -> None:
        for entry in [e for e in self._replaced if e[0] is owner and e[1] == attribute]:
            self._replaced.remove(entry)
            if entry[2] is None:
                delattr(owner, attribute)  # the original attribute was inherited
            else:
                setattr(owner, attribute, entry[2])
