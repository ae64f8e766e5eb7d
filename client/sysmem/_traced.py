"""A client's own trace: a line for each message that it sends and receives, as in `sysmemctl trace`."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import cbor2

from sysmem_protocol.channel import AT_ONCE, Channel
from sysmem_protocol.codec import ERROR, SUCCESS
from sysmem_protocol.explained import Explained
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Interface, Method, Table
from sysmem_protocol.message import FLAGS_MORE, HEADER
from sysmem_protocol.sysmem2 import Allocator, Error

from ._handles import Arrived
from ._process import process_name
from ._traffic import line

_STDERR: Final = 2


class TracedChannel(Channel):
    """A client end that writes its messages to the trace."""

    __slots__ = ("_interface", "_more", "_untold")

    def __init__(
        self,
        owned: int | socket.SocketType,
        interface: type[Interface],
        handle: type[Handle] = Arrived,
    ) -> None:
        """Take ownership of a client end of a protocol."""
        super().__init__(owned, AT_ONCE, handle)
        self._interface = interface
        #: The number of descriptors in the parts so far of incomplete responses, by txid.
        self._more: dict[int, int] = {}
        #: The received message while it is being recorded, which an exception of a signal handler may interrupt.
        self._untold: tuple[bytes, list[Handle]] | None = None

    def send(self, data: Any, handles: Sequence[Handle] = ()) -> int:
        """See :class:`.Channel`."""
        sent = super().send(data, handles)
        if sent:
            self._tell("in", bytes(data), len(handles))
        return sent

    def receive(self, *, wait: bool = False) -> tuple[bytes, list[Handle]] | None:
        """See :class:`.Channel`."""
        if self._untold is None:
            self._untold = super().receive(wait=wait)
            if self._untold is not None:
                data, handles = self._untold
                self._tell("out", data, len(handles))
        received, self._untold = self._untold, None
        return received

    @property
    def kept(self) -> bool:
        """See :class:`.Channel`."""
        return self._untold is not None or super().kept

    def _drop_arrived(self) -> None:
        if self._untold is not None:
            for handle in self._untold[1]:
                handle.close()
            self._untold = None
        super()._drop_arrived()

    def _tell(self, direction: str, data: bytes, descriptors: int) -> None:
        if len(data) < HEADER.size:
            return
        txid, flags, _, ordinal = HEADER.unpack_from(data)
        if flags == FLAGS_MORE:
            self._more[txid] = self._more.get(txid, 0) + descriptors
            return
        method = _method(self._interface, ordinal)
        fields, error = _content(method, direction, data[HEADER.size :])
        name, id = _who.named(method, fields)
        message = {
            "at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "connection": _who.number(self.fileno()),
            "client_name": name,
            "client_id": id,
            "direction": direction,
            "txid": txid,
            "protocol": self._interface.__name__,
            "method": method.wire_name if method is not None else f"{ordinal:#x}",
            "fields": list(fields),
            "descriptors": descriptors + self._more.pop(txid, 0),
            "error": error,
        }
        _sink.write(line(message))


def _method(interface: type[Interface], ordinal: int) -> Method | None:
    for known in (interface, Explained):
        found = known.methods.get(ordinal) or known.events.get(ordinal)
        if found is not None:
            return found
    return None


def _content(
    method: Method | None, direction: str, body: bytes
) -> tuple[dict[str, object], str | None]:
    """Return the fields that a message sets, and the error in it."""
    if method is None or not body:
        return {}, None
    table: type[Table] | None = method.request
    try:
        value = cbor2.loads(body)
        if direction == "out" and method.two_way:
            table = method.response
            if method.fallible:
                if ERROR in value:
                    error = value[ERROR]
                    known = error in Error.__members__.values()
                    return {}, Error(error).name if known else str(error)
                value = value[SUCCESS]
        members = {} if table is None else {m.field.number: m.name for m in table.members}
        return {members[number]: each for number, each in value.items() if number in members}, None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, cbor2.CBORError):
        return {}, None  # the receiver of the message reports what is wrong with it


class _Who:
    """The client's name, as it told the daemon, and the numbers of its channels."""

    def __init__(self) -> None:
        self._said: tuple[str, int] | None = None
        self._numbers: dict[int, int] = {}
        self._next = itertools.count(1)
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._said = None

    def named(self, method: Method | None, fields: dict[str, object]) -> tuple[str, int]:
        """Return the client's name and id after a message."""
        if method is Allocator.set_debug_client_info:
            name, id = fields.get("name"), fields.get("id")
            self._said = (
                name if isinstance(name, str) else "",
                id if isinstance(id, int) else os.getpid(),
            )
        return self._said or (process_name(), os.getpid())

    def number(self, fd: int) -> int:
        """Return the number of a channel in this process, in the order of first messages."""
        try:
            inode = os.fstat(fd).st_ino
        except OSError:
            return 0  # the channel was closed meanwhile
        if inode not in self._numbers:
            self._numbers[inode] = next(self._next)
        return self._numbers[inode]


class _Sink:
    """The destination of the trace, stderr or a file. Each line is written whole.

    The file is opened for each line. So no descriptor stays open that a fork or an executed program would inherit, or
    that a program might close because it does not know it.
    """

    def __init__(self, where: str) -> None:
        self._path = None if where == "1" else Path(where).absolute()
        self._complained = False

    def write(self, text: str) -> None:
        """Write a line. A failure is reported once, on stderr, and does not affect the program."""
        data = f"{text}\n".encode(errors="backslashreplace")
        if self._path is None:
            if sys.stderr is not None:  # otherwise another file may be open as descriptor 2
                with contextlib.suppress(OSError):
                    os.write(_STDERR, data)
            return
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
            fd = os.open(self._path, flags, 0o600)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)
        except OSError as error:
            if not self._complained and sys.stderr is not None:
                self._complained = True
                told = f"sysmem: the trace could not be written: {error}\n"
                with contextlib.suppress(OSError):
                    os.write(_STDERR, told.encode(errors="backslashreplace"))


_who = _Who()
_sink = _Sink("1")


def writing_to(where: str) -> type[TracedChannel]:
    """Set the destination of traces, stderr (`1`) or a file, and return the class for channels."""
    global _sink
    _sink = _Sink(where)
    return TracedChannel
