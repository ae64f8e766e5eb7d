"""The environment of the checks: the agent, and a daemon that the check plays message by message."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.codec import DecodeError, Decoder, encode_response
from sysmem_protocol.explained import Allocator as ExplainedAllocator
from sysmem_protocol.handles import Handle, channel_pair
from sysmem_protocol.kinds import describe, is_kind
from sysmem_protocol.library import HandleType, Interface, Method, Table
from sysmem_protocol.message import (
    FLAGS,
    HEADER,
    MAGIC,
    SERVER_TXID,
    MalformedMessage,
    Message,
    parse,
)
from sysmem_protocol.runtime import service_path, socket_address
from sysmem_protocol.sysmem2 import Allocator, Error, Node

#: How long the agent may take for each answer, in seconds.
PATIENCE_SECONDS: Final = 10.0
#: The environment variable with the number of the socket over which tokens are passed.
SOCKET_VARIABLE: Final = "SYSMEM_AGENT_SOCKET"
#: One-way methods that a client may call at any time without being told to.
_UNASKED: Final = {
    Allocator.set_debug_client_info,
    Node.set_debug_client_info,
    ExplainedAllocator.set_explain,
}
_decoder = Decoder()


class Flaw(AssertionError):
    """The client or its agent is wrong. The text says why, and what would be right."""


class NotClaimed(Exception):
    """A check is about an optional feature, and the agent does not claim to have it."""


@dataclass(frozen=True)
class Check:
    """One thing that a client must do."""

    name: str
    #: The rule that must hold, in a sentence.
    rule: str
    run: Callable[[Bench], None] = field(repr=False)

    def __str__(self) -> str:
        return self.name


def check(checks: list[Check]) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Add a function to a list of checks; its docstring is the rule."""

    def add(run: Callable[[Bench], None]) -> Callable[[Bench], None]:
        checks.append(Check(run.__name__, (run.__doc__ or "").strip(), run))
        return run

    return add


class Agent:
    """The program that controls the client."""

    def __init__(self, command: Sequence[str], runtime_dir: Path, patience: float) -> None:
        self._patience = patience
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                    env={
                        **os.environ,
                        "SYSMEM_RUNTIME_DIR": os.fspath(runtime_dir),
                        SOCKET_VARIABLE: str(theirs.fileno()),
                    },
                )
            except OSError as error:
                self.socket.close()
                raise Flaw(f"the agent can't be started: {error}") from None
        self._lines: list[str] = []
        self._partial = b""
        self._last = "nothing"

    def tell(self, command: str) -> None:
        """Send a command without waiting for its answer."""
        self._last = command
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{command}\n".encode())
            self.process.stdin.flush()

    def answer(self) -> str:
        """Wait for the answer to the earliest unanswered command, and return it."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + self._patience
        while not self._lines:
            if not readable(self.process.stdout, deadline):
                raise Flaw(f"the agent did not answer after {self._last!r}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise Flaw(f"the agent ended after {self._last!r}{self._stderr()}")
            *lines, self._partial = (self._partial + data).split(b"\n")
            self._lines += [line.decode(errors="replace").strip() for line in lines]
        return self._lines.pop(0)

    def do(self, command: str, expected: str = "ok") -> str:
        """Send a command and wait for its answer, which must begin with `expected`. Return the rest of the answer."""
        self.tell(command)
        return self.answered(command, expected)

    def answered(self, command: str, expected: str = "ok") -> str:
        """Wait for the answer to a command that was sent by :meth:`tell`; otherwise as :meth:`do`."""
        answer = self.answer()
        if answer != expected and not answer.startswith(f"{expected} "):
            raise Flaw(f"the agent answered {command!r} with {answer!r}, not with {expected!r}")
        return answer[len(expected) :].strip()

    def descriptors(self) -> dict[int, str]:
        """Return the descriptors that the process has open."""
        found = {}
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found[int(entry.name)] = os.readlink(entry)
        return found

    def flags(self, fd: int) -> int:
        """Return the flags of one of its descriptors, as /proc shows them."""
        text = Path(f"/proc/{self.process.pid}/fdinfo/{fd}").read_text()
        return int(text.partition("flags:")[2].split()[0], 8)

    def finish(self) -> None:
        """Make the agent end. It must end with status 0 and write nothing to stderr."""
        self.tell("quit")
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            status = self.process.wait(self._patience)
        except subprocess.TimeoutExpired:
            raise Flaw("the agent did not end after 'quit'") from None
        if status:
            raise Flaw(f"the agent ended with status {status}{self._stderr()}")

    def _stderr(self) -> str:
        """Return what the agent wrote to stderr."""
        assert self.process.stderr is not None
        self.process.kill()
        self.process.wait()
        text = self.process.stderr.read().decode(errors="replace").strip()
        return f"; it said:\n{text}" if text else ""

    def close(self) -> None:
        """Kill it if it still runs."""
        self.process.kill()
        self.process.wait()
        self.socket.close()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@dataclass
class Request:
    """A message from the agent."""

    method: Method
    txid: int
    #: The request table; empty if the method has none. The bench closes its handles.
    table: Any


class End:
    """The daemon's end of a channel."""

    def __init__(self, bench: Bench, interface: type[Interface], fd: int, name: bytes) -> None:
        """Take ownership of a descriptor. Bind it to `name` if it has no name."""
        self._bench = bench
        self._interface = interface
        self.name = name
        self.channel = Channel(fd)
        with contextlib.suppress(OSError):  # an accepted connection already has a name
            self.channel.bind(name)
        self._unanswered: set[int] = set()

    def receive(self, method: Method) -> Request:
        """Wait for a request, which must be valid and of this method."""
        while True:
            request = self._next()
            if request is None:
                raise Flaw(f"the client closed the channel; expected {method}")
            if request.method is method:
                return request
            if request.method not in _UNASKED:
                raise Flaw(f"the client sent {request.method}; expected {method}")

    def expect_end(self, what: str) -> None:
        """Wait until the client has closed its end. The client must not send anything before."""
        request = self._next(what)
        if request is not None:
            raise Flaw(f"the client sent {request.method} {what}")

    def _next(self, what: str = "") -> Request | None:
        if not readable(self.channel, time.monotonic() + self._bench.patience):
            if what:
                raise Flaw(f"the client did not close its end {what}")
            raise Flaw(f"no message came on the channel of {self._interface.__name__}")
        try:
            received = self.channel.receive()
        except PeerClosedError:
            return None
        except MalformedMessage as error:
            raise Flaw(f"what the client sent is no message: {error}") from None
        assert received is not None
        return self._read(*received)

    def _read(self, data: bytes, handles: list[Handle]) -> Request:
        """Return a datagram as a request. Raises :class:`Flaw` if it is not a valid one."""
        self._bench.own(*handles)
        try:
            message = parse(data, handles)
        except MalformedMessage as error:
            raise Flaw(f"the client sent {data.hex()}: {error}") from None
        method = self._interface.methods.get(message.ordinal)
        name = self._interface.__name__
        if method is None:
            raise Flaw(f"{name} has no method with ordinal {message.ordinal:#018x}")
        told = f"{method}, {data.hex()}"
        if message.more:
            raise Flaw(f"{told}: a request must not be split")
        self._check_txid(method, message.txid, told)
        try:
            table = _decoder.request(method, message.body, handles)
        except DecodeError as error:
            raise Flaw(f"{told}: {error}") from None
        if table is not None:
            self._check_table(method, table, told)
        return Request(method, message.txid, table)

    def _check_txid(self, method: Method, txid: int, told: str) -> None:
        if not method.two_way:
            if txid:
                raise Flaw(f"{told}: a one-way request has txid 0, not {txid:#x}")
            return
        if not txid or txid & SERVER_TXID:
            raise Flaw(
                f"{told}: the txid of a call is from 1 to {SERVER_TXID - 1:#x}, not {txid:#x}"
            )
        if txid in self._unanswered:
            raise Flaw(f"{told}: another call with txid {txid:#x} has no answer yet")
        self._unanswered.add(txid)

    def _check_table(self, method: Method, table: Table, told: str) -> None:
        for member in table.members:
            value = getattr(table, member.name)
            if isinstance(value, Handle):
                self._bench.own(value)
        for name in table.missing():
            raise Flaw(f"{told}: $.{name} is required")
        for member in table.members:
            value, kind = getattr(table, member.name), member.field.type
            if value is None or not isinstance(kind, HandleType):
                continue
            if not is_kind(value.fileno(), kind.kind):
                raise Flaw(
                    f"{told}: $.{member.name} must be a {kind.kind.value}, "
                    f"not {describe(value.fileno())}"
                )

    def take(self, interface: type[Interface], server_end: Handle) -> End:
        """Serve the server end of a request."""
        return self._bench.serve(interface, server_end.take())

    def answer(self, request: Request, answer: Table | Error | None = None) -> None:
        """Answer a call, and close the handles in the answer."""
        body, handles = encode_response(request.method, answer)
        message = Message(request.txid, request.method.ordinal, body, handles)
        for data, part in message.datagrams():
            self.send(data, part)
        message.close()
        self._unanswered.discard(request.txid)

    def answer_raw(self, request: Request, body: bytes, handles: Sequence[Handle] = ()) -> None:
        """Answer a call with a body of any form."""
        head = HEADER.pack(request.txid, FLAGS, MAGIC, request.method.ordinal)
        self.send(head + body, handles)

    def send(self, data: bytes, handles: Sequence[Handle] = ()) -> None:
        """Send one datagram."""
        try:
            sent = self.channel.send(data, handles)
        except PeerClosedError:
            raise Flaw("the client closed a channel on which it waits for an answer") from None
        if not sent:
            raise Flaw("the client does not read what is sent to it")

    def close(self) -> None:
        """Close the daemon's end."""
        self.channel.close()


class Bench:
    """One agent, and a daemon for it to connect to."""

    def __init__(self, command: Sequence[str], patience: float = PATIENCE_SECONDS) -> None:
        self._command = command
        self.patience = patience
        self._stack = contextlib.ExitStack()
        self._handles: list[Handle] = []
        self._koids = 0
        self._agent: Agent | None = None
        self._listener: socket.socket | None = None
        #: The optional features that the agent claims to have.
        self.features: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.close()
        self._stack.close()

    @property
    def agent(self) -> Agent:
        """The agent. The first access starts it with the played daemon, unless :meth:`start` was called."""
        if self._agent is None:
            directory = Path(
                self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sysmem-"))
            )
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._listener = self._stack.enter_context(listener)
            with socket_address(service_path(directory, Allocator)) as address:
                listener.bind(address)
            listener.listen()
            return self.start(directory)
        return self._agent

    def start(self, runtime_dir: Path) -> Agent:
        """Start the agent with a directory of daemon sockets."""
        self._agent = Agent(self._command, runtime_dir, self.patience)
        self._stack.callback(self._agent.close)
        answer = self._agent.do("hello").split()
        if not answer or answer[0] != "1":
            raise Flaw("the agent must answer 'hello' with 'ok 1' and the features that it has")
        self.features = frozenset(answer[1:])
        return self._agent

    def connected(self, name: str = "a") -> End:
        """Make the agent connect. Return the daemon's end of the Allocator's channel."""
        self.agent.tell(f"connect {name}")
        assert self._listener is not None
        if not readable(self._listener, time.monotonic() + self.patience):
            raise Flaw(
                "the client did not connect to $SYSMEM_RUNTIME_DIR/fuchsia.sysmem2.Allocator"
            )
        accepted, _ = self._listener.accept()
        self.agent.answered(f"connect {name}")
        return self.serve(ExplainedAllocator, accepted.detach())

    def serve(self, interface: type[Interface], fd: int) -> End:
        """Serve a channel. Its end gets a name of the same form as the daemon's."""
        self._koids += 1
        name = f"\0sysmem-conformance/{os.getpid()}-{id(self)}/{self._koids}".encode()
        end = End(self, interface, fd, name)
        self._stack.callback(end.close)
        return end

    def pair(self, interface: type[Interface]) -> tuple[End, Handle]:
        """Serve a new channel. Return the daemon's end and the client's end."""
        near, far = channel_pair()
        client_end = Handle(far.detach())
        self.own(client_end)
        return self.serve(interface, near.detach()), client_end

    def own(self, *handles: Handle) -> None:
        """Close these handles at the end, unless they are taken before."""
        self._handles += handles

    def finish(self) -> None:
        """Make the agent end, unless it has ended already."""
        if self._agent is not None:
            self._agent.finish()
            self._agent = None

    def forget(self) -> None:
        """Do not expect anything of the agent any more, because the check has ended it deliberately."""
        self._agent = None


def readable(fd: Any, deadline: float) -> bool:
    """Wait until something can be received, or until the deadline. Return whether something can be received."""
    left = max(0.0, deadline - time.monotonic())
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(left * 1000))
