"""The `Testing` protocol of the library `sysmem`: faults of the daemon's own, for tests of participants.

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

#: Bytes of names of methods and system calls.
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
    """Allocations that are to fail."""

    error: Annotated[int | None, Field(1, Enumeration(sysmem2.Error), required=True)] = None
    """The error that participants get."""
    times: Annotated[int | None, Field(2, UINT32, required=True)] = None
    """How many allocations fail."""


@table
class TestingDelayRequest(Table):
    """Messages that are to be processed late."""

    method: Annotated[str | None, Field(1, _NAME, required=True)] = None
    """The method, as `Protocol.Method`."""
    nanoseconds: Annotated[int | None, Field(2, UINT64, required=True)] = None
    """How late each such message is processed; 0 ends the delay."""


@table
class TestingCloseRequest(Table):
    """A client whose channels are to be closed."""

    client_name: Annotated[str | None, Field(1, String(4096), required=True)] = None
    """The client's name."""


@table
class TestingCloseResponse(Table):
    """What was closed."""

    closed: Annotated[int | None, Field(1, UINT32)] = None
    """How many channels had a client of that name."""


@table
class TestingFailSyscallRequest(Table):
    """System calls that are to fail."""

    name: Annotated[str | None, Field(1, _NAME, required=True)] = None
    """The system call's name."""
    errno: Annotated[int | None, Field(2, UINT32, required=True)] = None
    """The error's number."""
    times: Annotated[int | None, Field(3, UINT32, required=True)] = None
    """How many calls fail; 0: all from now on."""


@table
class TestingLimitHeapRequest(Table):
    """How much memory a heap is to have."""

    heap_type: Annotated[
        str | None, Field(1, String(sysmem2.MAX_HEAP_TYPE_BYTES), required=True)
    ] = None
    """The heap's type; its id is 0."""
    max_bytes: Annotated[int | None, Field(2, UINT64)] = None
    """The bytes of all its buffers together; un-set is no bound."""


@table
class TestingEndAtRequest(Table):
    """Where a client is to end."""

    client_name: Annotated[str | None, Field(1, String(4096), required=True)] = None
    """The name that the client's process gives itself on its first connection."""
    message: Annotated[int | None, Field(2, UINT32, required=True)] = None
    """The number of the last message of its process that is processed, from 1."""
    end: Annotated[int | None, Field(3, Enumeration(End), required=True)] = None
    """How it ends."""


@table
class TestingMessagesResponse(Table):
    """What came from each process so far."""

    messages: Annotated[Handle | None, Field(1, HandleType(HandleKind.VMO))] = None
    """UTF-8 JSON: `clients`, with `pid`, `name`, `messages` (methods in order) and `ended`; and the `trace` of all."""


class Testing(Interface, library="sysmem"):
    """Faults that a daemon is to have, and clients that are to end."""

    refuse_next_allocation = Method(
        "Let allocations that would succeed fail.",
        TestingRefuseNextAllocationRequest,
        two_way=True,
    )
    delay = Method("Process messages of a method late.", TestingDelayRequest, two_way=True)
    close = Method(
        "Close all channels of a client, as for a breach of the protocol.",
        TestingCloseRequest,
        TestingCloseResponse,
    )
    fail_syscall = Method(
        "Let system calls of the daemon fail. Errors: NOT_FOUND for one that can't be made to.",
        TestingFailSyscallRequest,
        fallible=True,
    )
    limit_heap = Method(
        "Change how much memory a heap has. Errors: NOT_FOUND for a heap that is not configured.",
        TestingLimitHeapRequest,
        fallible=True,
    )
    end_at = Method(
        "End a client after a message of its process. Messages that come after that are dropped.",
        TestingEndAtRequest,
        two_way=True,
    )
    clear = Method("Undo all of that: nothing more fails, is late or ends.", two_way=True)
    messages = Method("Tell what came from each process so far.", None, TestingMessagesResponse)
