"""Faults of the daemon's own, from the side of a test."""

from __future__ import annotations

import difflib
import errno as numbers
import json
import os
from collections.abc import Callable
from typing import Any, Final, Protocol

from sysmem_protocol.explained import Allocator
from sysmem_protocol.inspector import Inspector
from sysmem_protocol.rendezvous import Rendezvous
from sysmem_protocol.sysmem2 import (
    BufferCollection,
    BufferCollectionToken,
    BufferCollectionTokenGroup,
    Error,
)
from sysmem_protocol.testing import (
    End,
    Testing,
    TestingCloseRequest,
    TestingDelayRequest,
    TestingEndAtRequest,
    TestingFailSyscallRequest,
    TestingLimitHeapRequest,
    TestingRefuseNextAllocationRequest,
)

from .. import Vmo
from .._blocking.channel_object import ChannelObject

_INTERFACES: Final = (
    Allocator,
    BufferCollection,
    BufferCollectionToken,
    BufferCollectionTokenGroup,
    Inspector,
    Rendezvous,
)
#: All methods that a client may call.
METHODS: Final = frozenset(str(m) for each in _INTERFACES for m in each.methods.values())
#: How long the daemon may take to answer, in seconds.
_PATIENCE_SECONDS: Final = 20.0


class OwnFaults(Protocol):
    """What a daemon in this process is to do wrong, from each call on; see :class:`Faults`."""

    def refuse_next_allocation(self, error: Error | str = ..., times: int = ...) -> None:
        """Let the next allocations that would succeed fail with an error."""

    def delay(self, method: str, seconds: float) -> None:
        """Process each message of a method late, as "BufferCollection.SetConstraints"; 0 seconds end that."""

    def close(self, client_name: str) -> int:
        """Close all channels of a client, as if it had broken the protocol; how many it had."""

    def fail_syscall(self, name: str, errno: int | str, times: int = ...) -> None:
        """Let system calls of this process fail, by the number or the name of an error; with `times` 0 all from now on.

        Raises `KeyError` for a system call that can't be made to fail.
        """

    def heap_limit(self, type: str, max_bytes: int | None) -> None:
        """Change how many bytes a heap has, None for no bound. Raises `KeyError` for a heap that isn't configured."""

    def end_at(self, client_name: str, message: int, end: End) -> None:
        """End the process that connects with a name, after its message with this number, from 1."""

    def clear(self) -> None:
        """Undo all of that: nothing more fails, is late or ends. Limits of heaps stay."""


class Faults:
    """What a daemon that was started with `--testing` is to do wrong, from each call on."""

    def __init__(self, connect: Callable[[], int]) -> None:
        """`connect` returns the descriptor of a new connection to the daemon's Testing service."""
        self._connect = connect

    def refuse_next_allocation(self, error: Error | str = "NO_MEMORY", times: int = 1) -> None:
        """Let the next allocations that would succeed fail with an error."""
        number = Error[error] if isinstance(error, str) else error
        request = TestingRefuseNextAllocationRequest(error=number, times=times)
        self._call(Testing.refuse_next_allocation, request)

    def delay(self, protocol_method: str, seconds: float) -> None:
        """Process each message of a method late, as "BufferCollection.SetConstraints"; 0 seconds end that.

        Raises `ValueError` for a method that there isn't.
        """
        if protocol_method not in METHODS:
            near = difflib.get_close_matches(protocol_method, METHODS, cutoff=0)
            raise ValueError(
                f"there is no method {protocol_method!r}; near it are {', '.join(near)}"
            )
        request = TestingDelayRequest(method=protocol_method, nanoseconds=round(seconds * 1e9))
        self._call(Testing.delay, request)

    def close(self, client_name: str) -> int:
        """Close all channels of a client, as if it had broken the protocol; how many it had."""
        answer = self._call(Testing.close, TestingCloseRequest(client_name=client_name))
        closed: int = answer.closed
        return closed

    def fail_syscall(self, name: str, errno: int | str, times: int = 1) -> None:
        """Let system calls of the daemon fail, by the number or the name of an error; with `times` 0 all from now on.

        Raises `SysmemError` with NOT_FOUND for a system call that can't be made to fail.
        """
        number = getattr(numbers, errno) if isinstance(errno, str) else errno
        request = TestingFailSyscallRequest(name=name, errno=number, times=times)
        self._call(Testing.fail_syscall, request)

    def heap_limit(self, type: str, max_bytes: int | None) -> None:
        """Change how many bytes a heap has, None for no bound; buffers that exist stay.

        Raises `SysmemError` with NOT_FOUND for a heap that is not configured.
        """
        request = TestingLimitHeapRequest(heap_type=type, max_bytes=max_bytes)
        self._call(Testing.limit_heap, request)

    def end_at(self, client_name: str, message: int, end: End = End.KILLED) -> None:
        """End the process that connects with a name, after its message with this number, from 1."""
        request = TestingEndAtRequest(client_name=client_name, message=message, end=end)
        self._call(Testing.end_at, request)

    def clear(self) -> None:
        """Undo all of that: nothing more fails, is late or ends. Limits of heaps stay."""
        self._call(Testing.clear, None)

    def messages(self) -> list[dict[str, Any]]:
        """What came from each process so far: `pid`, `name`, `messages` (methods in order), and whether it `ended`."""
        found: list[dict[str, Any]] = self._told()["clients"]
        return found

    def trace(self) -> list[dict[str, Any]]:
        """Return the messages that the daemon has received and sent last; see :attr:`sysmem.testing.Daemon.trace`."""
        found: list[dict[str, Any]] = self._told()["trace"]
        return found

    def _told(self) -> dict[str, Any]:
        vmo: Vmo = self._call(Testing.messages, None).messages
        with vmo:
            found: dict[str, Any] = json.loads(os.pread(vmo.fileno(), vmo.size, 0))
        return found

    def _call(self, method: Any, request: Any) -> Any:
        with _Connection(self._connect()) as connection:
            return connection._call(method, request, _PATIENCE_SECONDS)


class _Connection(ChannelObject):
    """A connection to the Testing service."""

    __slots__ = ()
    _interface = Testing
