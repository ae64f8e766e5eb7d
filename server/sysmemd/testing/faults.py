"""The faults that a test requested."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from weakref import WeakSet

from sysmem_protocol.faults import errno_named, error_named, method_named
from sysmem_protocol.library import Interface, Method
from sysmem_protocol.sysmem2 import Error
from sysmem_protocol.testing import End

from ..channels import Service
from ..channels.server import Server
from ..inspection import Inspection
from ..ports import Clock, NoMemoryError
from ..users import Account
from . import syscalls
from .trace import Trace

#: The maximum number of methods that are recorded for each process.
_MAX_MESSAGES: Final = 10_000
_SIGNALS: Final = {End.KILLED: signal.SIGKILL, End.STOPPED: signal.SIGSTOP}


class TestedConnection(Protocol):
    """A channel as the faults use it."""

    account: Account
    number: int
    reading: bool

    @property
    def server(self) -> Server: ...

    def refuse(self, reason: str) -> None: ...

    def hang_up(self) -> None:
        """Do what is done when the client closes its end."""


class RefusedByTest(NoMemoryError):
    """An allocation that would have succeeded was refused because a test requested it."""

    def __init__(self, error: Error) -> None:
        super().__init__("a test refused this allocation")
        self.error = error


@dataclass
class Client:
    """A process that has connected, and its messages."""

    pid: int
    name: str = ""
    messages: list[str] = field(default_factory=list)
    ended: bool = False


class Faults:
    """The faults of one daemon. Each takes effect immediately."""

    def __init__(self) -> None:
        self._service: Service
        #: Open channels, and some that have just closed.
        self.connections: WeakSet[TestedConnection] = WeakSet()
        #: Changes a heap's limit.
        self.limit_heap: Callable[[str, int | None], None]
        self._refusals: list[Error] = []
        self._delays: dict[str, int] = {}
        self._ends: dict[str, tuple[int, End]] = {}
        self._clients: dict[int, Client] = {}
        self._syscalls = syscalls.Syscalls()
        self._trace: Trace

    def put_into(self, service: Service, inspection: Inspection) -> None:
        """Inject these faults into a daemon, and record its messages."""
        self._service = service
        self._trace = Trace(service.clock.now)
        inspection.events.add(self._trace)

    @property
    def clock(self) -> Clock:
        """The daemon's clock."""
        return self._service.clock

    # --- requests of the test ---------------------------------------------------------------------------------------

    def refuse_next_allocation(self, error: Error | str = Error.NO_MEMORY, times: int = 1) -> None:
        """Fail the next allocations that would succeed, with this error."""
        self._refusals = [error_named(error)] * times

    def delay(self, method: str, seconds: float) -> None:
        """Delay each message of a method, `Protocol.Method`, by this many seconds. 0 ends the delay.

        Raises `ValueError` if there is no such method.
        """
        self._delays[method_named(method)] = round(seconds * 1e9)

    def close(self, client_name: str) -> int:
        """Close all channels of a client, as if it had broken the protocol. Return their number."""
        found = [
            connection
            for connection in self.connections
            if connection.reading and connection.server.about()["client_name"] == client_name
        ]
        for connection in found:
            connection.refuse("a test closed it")
        return len(found)

    def fail_syscall(self, name: str, errno: int | str, times: int = 1) -> None:
        """Make system calls of this process fail, by the number or name of an error. `times` 0 means all further calls.

        Raises `KeyError` if this system call cannot be made to fail.
        """
        self._syscalls.fail(name, errno_named(errno), times)

    def heap_limit(self, type: str, max_bytes: int | None) -> None:
        """Change the size limit of a heap; None means no limit. Raises `KeyError` if it is not configured."""
        self.limit_heap(type, max_bytes)

    def end_at(self, client_name: str, message: int, end: End) -> None:
        """End a client after its process's message with this number, counted from 1."""
        self._ends[client_name] = message, end

    def clients(self) -> list[Client]:
        """Return the processes that have connected, with their messages so far."""
        return list(self._clients.values())

    def trace(self) -> list[dict[str, Any]]:
        """Return the newest messages of all clients; see :class:`Trace`."""
        return self._trace.messages()

    # --- effects ----------------------------------------------------------------------------------------------------

    def refusal(self) -> RefusedByTest | None:
        """Return the refusal of the next allocation, if there is one."""
        return RefusedByTest(self._refusals.pop()) if self._refusals else None

    def delay_of(self, method: Method, interface: type[Interface]) -> int:
        """Return the delay of a method's messages on channels of an interface in nanoseconds."""
        composed = self._delays.get(f"{interface.__name__}.{method.wire_name}", 0)
        return composed or self._delays.get(str(method), 0)

    def has_ended(self, connection: TestedConnection) -> bool:
        """Return whether a channel's process has been ended."""
        client = self._clients.get(connection.account.peer.pid)
        return client is not None and client.ended

    def processed(self, connection: TestedConnection, method: str) -> None:
        """Record that a message was processed. Its sender may have to be ended then."""
        pid = connection.account.peer.pid
        client = self._clients.setdefault(pid, Client(pid))
        if not client.name:
            client.name = connection.server.about()["client_name"]
        if len(client.messages) < _MAX_MESSAGES:
            client.messages.append(method)
        message, end = self._ends.get(client.name, (0, End.KILLED))
        # The name of the process may become known only by a later message.
        if not client.ended and 0 < message <= len(client.messages):
            client.ended = True
            self._end(client, end)

    def _end(self, client: Client, end: End) -> None:
        if end in _SIGNALS and client.pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(client.pid, _SIGNALS[end])
            return
        for connection in list(self.connections):
            if connection.account.peer.pid == client.pid:
                connection.hang_up()

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Let no system call fail within the block, because it is the test's own."""
        with self._syscalls.suspended():
            yield

    def clear(self) -> None:
        """Remove all faults: no call fails, is delayed or ends a client any more. Heap limits stay as they are."""
        self._refusals.clear()
        self._delays.clear()
        self._ends.clear()
        self._syscalls.undo()
