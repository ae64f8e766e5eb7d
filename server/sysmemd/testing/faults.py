"""What a test wants to go wrong, and how often."""

from __future__ import annotations

import contextlib
import errno as numbers
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from weakref import WeakSet

from sysmem_protocol.sysmem2 import Error
from sysmem_protocol.testing import End

from ..channels import Service
from ..channels.server import Server
from ..inspection import Inspection
from ..ports import Clock, NoMemoryError
from ..users import Account
from . import syscalls
from .trace import Trace

#: Methods that are kept of each process.
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
    """An allocation that would have succeeded was refused because a test wanted that."""

    def __init__(self, error: Error) -> None:
        super().__init__("a test refused this allocation")
        self.error = error


@dataclass
class Client:
    """A process that has connected, and what came from it."""

    pid: int
    name: str = ""
    messages: list[str] = field(default_factory=list)
    ended: bool = False


class Faults:
    """The faults of one daemon. They hold from the call on."""

    def __init__(self) -> None:
        self._service: Service
        #: Channels that are open, and some that have just closed.
        self.connections: WeakSet[TestedConnection] = WeakSet()
        #: What changes a heap's limit.
        self.limit_heap: Callable[[str, int | None], None]
        self._refusals: list[Error] = []
        self._delays: dict[str, int] = {}
        self._ends: dict[str, tuple[int, End]] = {}
        self._clients: dict[int, Client] = {}
        self._syscalls = syscalls.Syscalls()
        self._trace: Trace

    def put_into(self, service: Service, inspection: Inspection) -> None:
        """Become the faults of a daemon, and keep a trace of it."""
        self._service = service
        self._trace = Trace(service.clock.now)
        inspection.events.add(self._trace)

    @property
    def clock(self) -> Clock:
        """The daemon's clock."""
        return self._service.clock

    # --- what a test asks for -------------------------------------------------------------------------------------

    def refuse_next_allocation(self, error: Error | str = Error.NO_MEMORY, times: int = 1) -> None:
        """Let the next allocations that would succeed fail with an error."""
        self._refusals = [Error[error] if isinstance(error, str) else Error(error)] * times

    def delay(self, method: str, seconds: float) -> None:
        """Process each message of a method, `Protocol.Method`, so many seconds late; 0 ends that."""
        self._delays[method] = round(seconds * 1e9)

    def close(self, client_name: str) -> int:
        """Close all channels of a client, as for a breach of the protocol; how many there were."""
        found = [
            connection
            for connection in self.connections
            if connection.reading and connection.server.about()["client_name"] == client_name
        ]
        for connection in found:
            connection.refuse("a test closed it")
        return len(found)

    def fail_syscall(self, name: str, errno: int | str, times: int = 1) -> None:
        """Let system calls of this process fail, by the number or name of an error; with `times` 0 all from now on.

        Raises `KeyError` for one that can't be made to fail.
        """
        number = getattr(numbers, errno) if isinstance(errno, str) else errno
        self._syscalls.fail(name, number, times)

    def heap_limit(self, type: str, max_bytes: int | None) -> None:
        """Change how much memory a heap has, None for no bound. Raises `KeyError` for a heap that isn't configured."""
        self.limit_heap(type, max_bytes)

    def end_at(self, client_name: str, message: int, end: End) -> None:
        """End a client after the message with this number, from 1, of its process."""
        self._ends[client_name] = message, end

    def clients(self) -> list[Client]:
        """Return the processes that have connected, and what came from each so far."""
        return list(self._clients.values())

    def trace(self) -> list[dict[str, Any]]:
        """Return the messages of all clients so far, or the newest of them; see :class:`Trace`."""
        return self._trace.messages()

    # --- how they come about --------------------------------------------------------------------------------------

    def refusal(self) -> RefusedByTest | None:
        """Why the next allocation is refused, if it is."""
        return RefusedByTest(self._refusals.pop()) if self._refusals else None

    def delay_of(self, method: str) -> int:
        """How late a message of a method is processed, in nanoseconds."""
        return self._delays.get(method, 0)

    def has_ended(self, connection: TestedConnection) -> bool:
        """Return whether the process that a channel belongs to has come to its end."""
        client = self._clients.get(connection.account.peer.pid)
        return client is not None and client.ended

    def processed(self, connection: TestedConnection, method: str) -> None:
        """Note that a message was processed, after which its sender may have to end."""
        pid = connection.account.peer.pid
        client = self._clients.setdefault(pid, Client(pid))
        if not client.name:
            client.name = connection.server.about()["client_name"]
        if len(client.messages) < _MAX_MESSAGES:
            client.messages.append(method)
        message, end = self._ends.get(client.name, (0, End.KILLED))
        # Its name may be known only from a later message on.
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
        """Let no system call fail, because what goes on is the test's own doing."""
        with self._syscalls.suspended():
            yield

    def clear(self) -> None:
        """Undo all that a test has asked for: nothing more fails, is late or ends. Limits of heaps stay."""
        self._refusals.clear()
        self._delays.clear()
        self._ends.clear()
        self._syscalls.undo()
