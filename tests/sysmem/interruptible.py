"""The calls that :mod:`.interrupted` interrupts, and what each of them needs."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import anyio

import sysmem
from sysmem import blocking
from sysmem import frames as async_frames
from sysmem.blocking import frames as blocking_frames
from sysmem_protocol import rendezvous as r
from sysmem_protocol import sysmem2 as m
from sysmem_protocol.codec import encode_response
from sysmem_protocol.handles import Handle, channel_pair, eventpair
from sysmem_protocol.library import Method, Table
from sysmem_protocol.message import FLAGS, HEADER, MAGIC, MAX_MESSAGE_BYTES
from sysmem_protocol.runtime import socket_address

#: After this many seconds the program counts as hanging.
PATIENCE = 60


@dataclass
class Face:
    """A face of the client."""

    sysmem: ModuleType
    frames: ModuleType


BLOCKING = Face(blocking, blocking_frames)
ASYNC = Face(sysmem, async_frames)


@dataclass
class Case:
    """A call to interrupt."""

    #: Creates what the call needs. The stack closes it.
    prepare: Callable[[Trial], Any]
    #: Returns the object to create, or an awaitable of it.
    call: Callable[[Any], Any]
    #: Whether another task can wait for a Sync on the same object meanwhile.
    shared: bool = False
    #: Whether the state after a cancellation is the one before or after the call, given the call's result.
    whole: Callable[[Any, Any], bool] = lambda given, made: True


# --- what calls need ----------------------------------------------------------------------------------------------


#: Creates the responses to calls.
Answers: TypeAlias = dict[Method, Callable[[], Table] | None]


class Peer:
    """The server end of a channel. It responds without the package's code, because that is interrupted."""

    def __init__(self, sock: socket.socket, answers: Answers) -> None:
        self._sock = sock
        self._handles: list[Handle] = []
        self._answers: dict[int, tuple[bytes, list[int]]] = {}
        for method, make in answers.items():
            body, handles = encode_response(method, make and make())
            self._handles += handles
            self._answers[method.ordinal] = body, [handle.fileno() for handle in handles]

    def answer(self, txid: int, ordinal: int) -> None:
        """Answer a request."""
        body, fds = self._answers[ordinal]
        socket.send_fds(self._sock, [HEADER.pack(txid, FLAGS, MAGIC, ordinal) + body], fds)

    def take_in(self, flags: int = 0) -> bool:
        """Wait for a request and answer it. Return False if the other end is closed."""
        request = self._sock.recv(MAX_MESSAGE_BYTES, flags)
        if not request:
            return False
        txid, _, _, ordinal = HEADER.unpack_from(request)
        if txid:
            self.answer(txid, ordinal)
        return True

    def drain(self) -> list[int]:
        """Receive the waiting messages. Return their ordinals."""
        ordinals = []
        self._sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ERROR
        )  # reported once when responses were unread
        with contextlib.suppress(BlockingIOError):
            while request := self._sock.recv(MAX_MESSAGE_BYTES, socket.MSG_DONTWAIT):
                ordinals.append(HEADER.unpack_from(request)[3])
        return ordinals

    async def serve(self) -> None:
        """Answer requests until the other end is closed.

        Each time, wait until all tasks wait, then answer everything that has arrived.
        """
        await anyio.wait_all_tasks_blocked()
        with contextlib.suppress(ConnectionError):
            while True:
                await anyio.wait_readable(self._sock)
                with contextlib.suppress(BlockingIOError):
                    while self.take_in(socket.MSG_DONTWAIT):
                        pass
                    return

    def close(self) -> None:
        """Close the end, and the descriptors of the responses."""
        self._sock.close()
        for handle in self._handles:
            handle.close()


class Trial(ExitStack):
    """The objects that one call needs. They are closed at the end."""

    def __init__(self, face: Face, *, others: bool) -> None:
        super().__init__()
        self.face = face
        #: Whether another task waits for a Sync on the same object.
        self.others = others
        #: The server end of the object's channel.
        self.peer: Peer | None = None

    def channel(self, answers: Answers) -> int:
        """Return a client end whose first call gets this response.

        If no other task waits, the response is sent at once.
        """
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peer = self.enter_context(closing(Peer(far, answers)))
        if not self.others:
            for method in answers:
                self.peer.answer(1, method.ordinal)
        return near.detach()

    def token(self) -> Any:
        """Return a token that the daemon knows."""
        return self.enter_context(self.face.sysmem.BufferCollectionToken.from_fd(self.channel({})))


def node(kind: str, method: Method | None = None, answer: Callable[[], Table] | None = None) -> Any:
    """Prepare a node whose first call gets this response."""

    def prepare(trial: Trial) -> Any:
        answers: Answers = {} if method is None else {method: answer}
        if trial.others:
            answers[m.Node.sync] = None
        return trial.enter_context(getattr(trial.face.sysmem, kind).from_fd(trial.channel(answers)))

    return prepare


def end() -> Handle:
    """Return one end of a pair, to be sent."""
    near, far = eventpair()
    far.close()
    return near


def channel_end() -> Handle:
    """Return a client end, to be sent."""
    near, far = channel_pair()
    far.close()
    return Handle(near.detach())


def memory() -> Handle:
    """Return the memory of a buffer, to be sent."""
    return Handle(os.memfd_create("buffer", os.MFD_CLOEXEC))


def buffers() -> Table:
    """Return a response with a buffer and its event."""
    made = [m.VmoBuffer(vmo=memory(), vmo_usable_start=0, close_weak_asap=end())]
    info: Any = m.BufferCollectionInfo(buffers=made, buffer_collection_id=5)
    return m.BufferCollectionWaitForAllBuffersAllocatedResponse(buffer_collection_info=info)


def vmo_info() -> Table:
    """Return a response with weak memory and its event."""
    return m.VmoInfo(weak_vmo=memory(), close_weak_asap=end(), buffer_index=0)


def known() -> Table:
    """Return the response that no token has that number."""
    return m.AllocatorValidateBufferCollectionTokenResponse(is_known=False)


def tokens() -> Table:
    """Return a response with tokens."""
    return m.CreateTokensResponse(tokens=[channel_end(), channel_end()])


def event(trial: Trial) -> Any:
    """Return an event that has not been signalled."""
    near, far = eventpair()
    trial.enter_context(far)
    kind = blocking.EventPair if trial.face is BLOCKING else sysmem.AsyncEventPair
    return trial.enter_context(kind(near.take()))


def vmo(trial: Trial) -> sysmem.Vmo:
    """Return a VMO of one page."""
    made = trial.enter_context(sysmem.Vmo(memory().take()))
    os.truncate(made.fileno(), 4096)
    return made


def listener(trial: Trial) -> tuple[Path, socket.socket]:
    """Return the directory of a daemon that accepts connections, and its socket. The path is overlong."""
    directory = Path("/tmp") / f"sysmem-{os.getpid()}-{'d' * 120}"
    directory.mkdir(exist_ok=True)
    trial.callback(directory.rmdir)
    path = directory / "fuchsia.sysmem2.Allocator"
    listening = trial.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    with socket_address(path) as address:
        listening.bind(address)
    trial.callback(path.unlink)
    listening.listen()
    return directory, listening


def accepting(trial: Trial) -> Callable[..., Any]:
    """Return the call that connects to a daemon that accepts."""
    directory, _ = listener(trial)
    return lambda: trial.face.sysmem.connect(directory)


def answering(trial: Trial) -> Callable[..., Any]:
    """Return the call that connects to a daemon and waits for its response."""
    directory, listening = listener(trial)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listening.accept()
                with closing(
                    Peer(accepted, {m.Allocator.validate_buffer_collection_token: known})
                ) as peer:
                    while peer.take_in():
                        pass

    serving = threading.Thread(target=serve)
    serving.start()
    trial.callback(serving.join)
    trial.callback(listening.shutdown, socket.SHUT_RDWR)
    return lambda: trial.face.sysmem.connect(directory, wait=PATIENCE)


def meeting(method: Method, answer: Callable[[], Table] | None = None) -> Any:
    """Prepare an Allocator whose Rendezvous service gives this response, and a token that the daemon knows."""

    def prepare(trial: Trial) -> Any:
        place = trial.enter_context(socket.socket(fileno=trial.channel({method: answer})))
        allocator = trial.face.sysmem.Allocator(
            trial.channel({}), lambda *_: socket.SocketType(fileno=place.detach())
        )
        return trial.enter_context(allocator), trial.token()

    return prepare


def bound(trial: Trial) -> Any:
    """Return an Allocator, and a token to turn in there."""
    return trial.enter_context(trial.face.sysmem.Allocator(trial.channel({}))), trial.token()


def passing(trial: Trial) -> Any:
    """Return a token, and a socket to send it over, at whose other end a receiver waits."""
    near, far = socket.socketpair()
    trial.enter_context(near)
    trial.enter_context(far)
    with channel_end() as token:
        socket.send_fds(far, [b"data"], [token.fileno()])
    near.setblocking(False)
    far.setblocking(False)
    return trial.token(), near, far


def stream(trial: Trial, count: int = 2) -> Any:
    """Return both ends of a stream with some buffers, one of which holds a frame that is on its way."""
    near, far = trial.face.frames.pair()
    sender = trial.enter_context(contextlib.closing(trial.face.frames.FrameSender(count, near)))
    receiver = trial.enter_context(contextlib.closing(trial.face.frames.FrameReceiver(far)))
    sender.send(sender._take())
    return sender, receiver


def lent(trial: Trial) -> Any:
    """Return a frame that was received."""
    _, receiver = stream(trial)
    return trial.enter_context(receiver._take())


def left(trial: Trial) -> Any:
    """Return a producer with one buffer, whose consumer has the buffer and has ended."""
    sender, receiver = stream(trial, 1)
    receiver.close()
    return sender


def frame_ends(trial: Trial) -> Any:
    """Return a face's `frames`, and both ends of a connection for frames."""
    near, far = trial.face.frames.pair()
    return trial.face.frames, trial.enter_context(near), trial.enter_context(far)


def token(trial: Trial) -> Any:
    """Return a token without other references to it."""
    return trial.face.sysmem.BufferCollectionToken.from_fd(trial.channel({}))


def frame_end(trial: Trial) -> Any:
    """Return a consumer's end without other references to it."""
    near, far = trial.face.frames.pair()
    trial.enter_context(near)
    return trial.face.frames.FrameReceiver(far)


def dropped(make: Callable[[Trial], Any]) -> Any:
    """Prepare a list with the only reference to an object."""
    return lambda trial: [make(trial)]


def arrived(sock: socket.socket) -> bool:
    """Return whether a token waits in a socket, and close the token."""
    with contextlib.suppress(BlockingIOError):
        _, fds, _, _ = socket.recv_fds(sock, 100, 1)
        for fd in fds:
            os.close(fd)
        return bool(fds)
    return False


CASES: dict[str, Case] = {
    "sync": Case(
        node("BufferCollectionToken", m.Node.sync), lambda token: token.sync(), shared=True
    ),
    "sync in time": Case(
        node("BufferCollectionToken", m.Node.sync),
        lambda token: token.sync(timeout=PATIENCE),
        shared=True,
    ),
    "duplicate": Case(node("BufferCollectionToken"), lambda token: token.duplicate(), shared=True),
    "one-way": Case(node("BufferCollectionToken"), lambda token: token.set_verbose_logging()),
    "duplicate_sync": Case(
        node("BufferCollectionToken", m.BufferCollectionToken.duplicate_sync, tokens),
        lambda token: token.duplicate_sync([1, 1]),
        shared=True,
    ),
    "get_node_ref": Case(
        node(
            "BufferCollection",
            m.Node.get_node_ref,
            lambda: m.NodeGetNodeRefResponse(node_ref=end()),
        ),
        lambda node: node.get_node_ref(),
    ),
    "attach_node_tracking": Case(
        node("BufferCollectionToken"), lambda token: token.attach_node_tracking()
    ),
    "wait_for_all_buffers_allocated": Case(
        node("BufferCollection", m.BufferCollection.wait_for_all_buffers_allocated, buffers),
        lambda collection: collection.wait_for_all_buffers_allocated(),
        shared=True,
    ),
    "wait_closed": Case(
        node("BufferCollectionToken"), lambda token: token.wait_closed(0.001), shared=True
    ),
    "release": Case(node("BufferCollectionToken"), lambda token: token.release(), shared=True),
    "close": Case(node("BufferCollectionToken"), lambda token: token.close(), shared=True),
    "bind_shared_collection": Case(bound, lambda both: both[0].bind_shared_collection(both[1])),
    "get_vmo_info": Case(
        lambda trial: (
            node("Allocator", m.Allocator.get_vmo_info, vmo_info)(trial),
            vmo(trial),
        ),
        lambda both: both[0].get_vmo_info(both[1], need_weak=True),
    ),
    "send": Case(
        passing,
        lambda given: given[0].send(given[1]),
        whole=lambda given, _: given[0].closed == arrived(given[2]),
    ),
    "receive": Case(
        passing,
        lambda given: type(given[0]).receive(given[1]),
        whole=lambda given, made: (made is None) == arrived(given[1]),
    ),
    "offer": Case(meeting(r.Rendezvous.offer), lambda both: both[0].offer("name", both[1])),
    "take": Case(
        meeting(r.Rendezvous.take, lambda: r.RendezvousTakeResponse(token=channel_end())),
        lambda both: both[0].take("name"),
    ),
    "connect": Case(accepting, lambda connect: connect()),
    "connect and wait": Case(answering, lambda connect: connect()),
    "wait_closed of an event": Case(event, lambda event: event.wait_closed(0.001)),
    "duplicate of an event": Case(event, lambda event: event.duplicate()),
    "duplicate of a VMO": Case(vmo, lambda vmo: vmo.duplicate()),
    "map": Case(vmo, lambda vmo: vmo.map().__enter__().release()),
    "FrameSender": Case(frame_ends, lambda given: given[0].FrameSender(1, *given[1:])),
    "FrameReceiver": Case(frame_ends, lambda given: given[0].FrameReceiver(given[1])),
    "a frame": Case(stream, lambda ends: ends[1].receive()),
    "release of a frame": Case(lent, lambda frame: frame.release()),
    "acquire": Case(
        stream,
        lambda ends: ends[0].acquire(),
        whole=lambda ends, made: ends[0].statistics().acquired == (made is not None),
    ),
    "acquire when a consumer has left": Case(left, lambda sender: sender.acquire()),
    "close of a FrameSender": Case(stream, lambda ends: ends[0].close()),
    "drop of a token": Case(dropped(token), list.clear),
    "drop of a VMO": Case(dropped(lambda *_: sysmem.Vmo(memory().take())), list.clear),
    "drop of a frame's end": Case(dropped(frame_end), list.clear),
}
