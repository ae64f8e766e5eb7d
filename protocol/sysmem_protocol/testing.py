"""The `Testing` protocol of the library `sysmem`: fault injection into the daemon, for tests of participants.

Only a daemon that was started for tests serves it (`sysmemd --testing`).
"""

from __future__ import annotations

import enum
from typing import Annotated

from . import sysmem2
from .docstrings import documented
from .handles import Handle
from .library import (
    UINT32,
    UINT64,
    Enumeration,
    Field,
    HandleKind,
    HandleType,
    Interface,
    Method,
    String,
    Table,
    table,
)

#: The maximum length of the name of a method or system call, in bytes.
_NAME = String(256)


@documented
class End(enum.IntEnum):
    """How a client ends at a message."""

    KILLED = 1
    """Its process is killed with SIGKILL."""
    STOPPED = 2
    """Its process is stopped with SIGSTOP."""
    CLOSED = 3
    """All its channels close without Release, and its process lives on."""


@table
class TestingRefuseNextAllocationRequest(Table):
    """Allocations that will fail."""

    error: Annotated[int | None, Field(1, Enumeration(sysmem2.Error), required=True)] = None
    """The error that participants get."""
    times: Annotated[int | None, Field(2, UINT32, required=True)] = None
    """The number of allocations that fail."""


@table
class TestingDelayRequest(Table):
    """Messages that will be delayed."""

    method: Annotated[str | None, Field(1, _NAME, required=True)] = None
    """The method, as `Protocol.Method`."""
    nanoseconds: Annotated[int | None, Field(2, UINT64, required=True)] = None
    """The delay of each such message; 0 ends the delay."""


@table
class TestingCloseRequest(Table):
    """A client whose channels will be closed."""

    client_name: Annotated[str | None, Field(1, String(4096), required=True)] = None
    """The client's name."""


@table
class TestingCloseResponse(Table):
    """The closed channels."""

    closed: Annotated[int | None, Field(1, UINT32)] = None
    """The number of channels of clients with that name."""


@table
class TestingFailSyscallRequest(Table):
    """System calls that will fail."""

    name: Annotated[str | None, Field(1, _NAME, required=True)] = None
    """The system call's name."""
    errno: Annotated[int | None, Field(2, UINT32, required=True)] = None
    """The error's number."""
    times: Annotated[int | None, Field(3, UINT32, required=True)] = None
    """The number of calls that fail; 0 means all further calls."""


@table
class TestingLimitHeapRequest(Table):
    """The size limit of a heap."""

    heap_type: Annotated[
        str | None, Field(1, String(sysmem2.MAX_HEAP_TYPE_BYTES), required=True)
    ] = None
    """The heap's type; its id is 0."""
    max_bytes: Annotated[int | None, Field(2, UINT64)] = None
    """The maximum number of bytes of all its buffers together. Un-set means no limit."""


@table
class TestingEndAtRequest(Table):
    """The point at which a client will end."""

    client_name: Annotated[str | None, Field(1, String(4096), required=True)] = None
    """The client name that the process sends on its first connection."""
    message: Annotated[int | None, Field(2, UINT32, required=True)] = None
    """The number of the last message from its process that is processed, counted from 1."""
    end: Annotated[int | None, Field(3, Enumeration(End), required=True)] = None
    """How it ends."""


@table
class TestingMessagesResponse(Table):
    """The messages from each process so far."""

    messages: Annotated[Handle | None, Field(1, HandleType(HandleKind.VMO))] = None
    """UTF-8 JSON: `clients`, with `pid`, `name`, `messages` (methods in order) and `ended`; and the `trace` of all."""


class Testing(Interface, library="sysmem"):
    """Injects faults into a daemon, and ends clients."""

    refuse_next_allocation = Method(
        "Make allocations that would succeed fail.",
        TestingRefuseNextAllocationRequest,
        two_way=True,
    )
    delay = Method("Delay the messages of a method.", TestingDelayRequest, two_way=True)
    close = Method(
        "Close all channels of a client, as if it had broken the protocol.",
        TestingCloseRequest,
        TestingCloseResponse,
    )
    fail_syscall = Method(
        "Make system calls of the daemon fail. Errors: NOT_FOUND for a call that cannot be made to fail.",
        TestingFailSyscallRequest,
        fallible=True,
    )
    limit_heap = Method(
        "Change the size limit of a heap. Errors: NOT_FOUND for a heap that is not configured.",
        TestingLimitHeapRequest,
        fallible=True,
    )
    end_at = Method(
        "End a client after a message from its process. Later messages from it are dropped.",
        TestingEndAtRequest,
        two_way=True,
    )
    clear = Method(
        "Remove all faults: no call fails, is delayed or ends a client any more.", two_way=True
    )
    messages = Method(
        "Return the messages from each process so far.", None, TestingMessagesResponse
    )
