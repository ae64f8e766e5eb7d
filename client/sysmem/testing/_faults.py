"""Fault injection into a daemon under test, from the test's side."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Final, Protocol

from sysmem_protocol.faults import errno_named, error_named, method_named
from sysmem_protocol.sysmem2 import Error
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

#: How long the daemon may take to answer, in seconds.
_PATIENCE_SECONDS: Final = 20.0


class OwnFaults(Protocol):
    """Fault injection for a daemon in this process; see :class:`Faults`."""

    def refuse_next_allocation(self, error: Error | str = ..., times: int = ...) -> None:
        """Fail the next allocations that would succeed, with this error."""

    def delay(self, method: str, seconds: float) -> None:
        """Delay each message of a method, such as "BufferCollection.SetConstraints". 0 seconds ends the delay."""

    def close(self, client_name: str) -> int:
        """Close all channels of a client, as if it had violated the protocol. Return the number of channels."""

    def fail_syscall(self, name: str, errno: int | str, times: int = ...) -> None:
        """Make system calls of this process fail.

        Args:
            name: The system call.
            errno: The number or name of the error.
            times: The number of calls that fail; 0 means all further calls.

        Raises:
            KeyError: This system call cannot be made to fail.
        """

    def heap_limit(self, type: str, max_bytes: int | None) -> None:
        """Change the size limit of a heap in bytes; None means no limit. Raises `KeyError` if it is not configured."""

    def end_at(self, client_name: str, message: int, end: End) -> None:
        """End the process that connects with this name after its message with this number, counted from 1."""

    def clear(self) -> None:
        """Remove all injected faults. Heap limits stay as they are."""


class Faults:
    """Fault injection for a daemon that was started with `--testing`. Each fault takes effect immediately."""

    def __init__(self, connect: Callable[[], int]) -> None:
        """Take `connect`, which returns the descriptor of a new connection to the daemon's Testing service."""
        self._connect = connect

    def refuse_next_allocation(self, error: Error | str = "NO_MEMORY", times: int = 1) -> None:
        """Fail the next allocations that would succeed, with this error. Raises `ValueError` for an unknown name."""
        request = TestingRefuseNextAllocationRequest(error=error_named(error), times=times)
        self._call(Testing.refuse_next_allocation, request)

    def delay(self, protocol_method: str, seconds: float) -> None:
        """Delay each message of a method, such as "BufferCollection.SetConstraints". 0 seconds ends the delay.

        "Node.Sync" means this method on the channels of all nodes, "BufferCollection.Sync" on those of collections.
        Raises `ValueError` if there is no such method.
        """
        method = method_named(protocol_method)
        request = TestingDelayRequest(method=method, nanoseconds=round(seconds * 1e9))
        self._call(Testing.delay, request)

    def close(self, client_name: str) -> int:
        """Close all channels of a client, as if it had violated the protocol. Return the number of channels."""
        answer = self._call(Testing.close, TestingCloseRequest(client_name=client_name))
        closed: int = answer.closed
        return closed

    def fail_syscall(self, name: str, errno: int | str, times: int = 1) -> None:
        """Make system calls of the daemon fail.

        Args:
            name: The system call.
            errno: The number or name of the error.
            times: The number of calls that fail; 0 means all further calls.

        Raises:
            SysmemError: With NOT_FOUND if this system call cannot be made to fail.
            ValueError: There is no error with this name.
        """
        request = TestingFailSyscallRequest(name=name, errno=errno_named(errno), times=times)
        self._call(Testing.fail_syscall, request)

    def heap_limit(self, type: str, max_bytes: int | None) -> None:
        """Change the size limit of a heap in bytes; None means no limit. Existing buffers are not affected.

        Raises `SysmemError` with NOT_FOUND if the heap is not configured.
        """
        request = TestingLimitHeapRequest(heap_type=type, max_bytes=max_bytes)
        self._call(Testing.limit_heap, request)

    def end_at(self, client_name: str, message: int, end: End = End.KILLED) -> None:
        """End the process that connects with this name after its message with this number, counted from 1."""
        request = TestingEndAtRequest(client_name=client_name, message=message, end=end)
        self._call(Testing.end_at, request)

    def clear(self) -> None:
        """Remove all injected faults. Heap limits stay as they are."""
        self._call(Testing.clear, None)

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages of each process so far: `pid`, `name`, `messages` (methods in order), and `ended`."""
        found: list[dict[str, Any]] = self._told()["clients"]
        return found

    def trace(self) -> list[dict[str, Any]]:
        """Return the last messages that the daemon received and sent; see :attr:`sysmem.testing.Daemon.trace`."""
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
