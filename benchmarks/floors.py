"""Baselines for comparison: servers that do the minimum, each in its own process.

:func:`negotiation_floor` is a daemon without any logic. It speaks to the ordinary client: it receives the messages of
a negotiation, makes the kernel objects that the specification requires, and sends prepared responses. It decodes
nothing, checks nothing, keeps no tree, logs nothing, and does not notice errors. The difference between its time and
the daemon's is the cost of the daemon's rules.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cbor2
import trio

from sysmem_protocol import codec, sysmem2
from sysmem_protocol.handles import FLOCK, Handle
from sysmem_protocol.message import HEADER
from sysmem_protocol.sysmem2 import Allocator, BufferCollection, BufferCollectionToken, Node


@contextmanager
def echo_process(serve: Callable[[socket.socket], None]) -> Iterator[tuple[socket.socket, int]]:
    """Fork a process that serves one end of a SEQPACKET pair. Yield the other end, which blocks, and the process id."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        near.close()
        try:
            serve(far)
        finally:
            os._exit(0)
    far.close()
    try:
        with near:
            yield near, pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def raw_echo(sock: socket.socket) -> None:
    """Echo with the minimum cost of a response: a blocking receive and a blocking send."""
    while data := sock.recv(65536):
        sock.send(data)


def trio_cbor2_echo(sock: socket.socket) -> None:
    """Echo with the minimum cost of a response when trio and cbor2 are used, as in the daemon."""

    async def serve() -> None:
        sock.setblocking(False)
        while True:
            try:
                data = sock.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock.fileno())
                continue
            if not data:
                return
            sock.send(cbor2.dumps(cbor2.loads(data)), socket.MSG_DONTWAIT)

    trio.run(serve)


# --- a negotiation ----------------------------------------------------------------------------------------------------


@contextmanager
def negotiation_floor(runtime_dir: Path, *, buffers: int, size: int) -> Iterator[int]:
    """Fork a process that serves negotiations about `buffers` buffers in `runtime_dir`. Yield its process id."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(runtime_dir / Allocator.service_name()))
    listener.listen(128)
    pid = os.fork()
    if pid == 0:
        try:
            trio.run(_Floor(listener, buffers, size).run)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    listener.close()
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


_CONTROL_BYTES = socket.CMSG_SPACE(253 * 4)
_RECEIVE_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_MFD_FLAGS = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | 8  # MFD_NOEXEC_SEAL
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_NONCE = b"n" * 32
_FIRST_LOCK = 1 << 62
_END_ONLY = 0x400
_ORDINAL = struct.Struct("<8xQ")
_libc = ctypes.CDLL(None)


class _Collection:
    """The counters of one negotiation."""

    def __init__(self) -> None:
        self.missing = 0
        self.left = 0
        self.handed_out = 0
        self.waiting: list[tuple[socket.socket, bytes]] = []
        self.buffers: list[int] = []


class _Floor:
    def __init__(self, listener: socket.socket, buffers: int, size: int) -> None:
        self._listener = listener
        self._count = buffers
        self._size = size
        self._tokens: dict[bytes, tuple[socket.socket, _Collection]] = {}
        self._koid = 0
        self._inotify = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self._answer = _allocated(buffers, size)

    async def run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._read_inotify)
            while True:
                await trio.lowlevel.wait_readable(self._listener)
                self._nursery.start_soon(self._allocator, self._listener.accept()[0])

    async def _read_inotify(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._inotify)
            os.read(self._inotify, 65536)

    def _named(self, end: socket.socket) -> bytes:
        self._koid += 1
        name = b"\0floor/%d" % self._koid
        end.bind(name)
        return name

    def _token(self, end: socket.socket, collection: _Collection) -> None:
        self._tokens[self._named(end)] = (end, collection)
        self._nursery.start_soon(self._serve_token, end, collection)

    async def _allocator(self, channel: socket.socket) -> None:
        while (received := await _receive(channel)) is not None:
            data, fds = received
            (ordinal,) = _ORDINAL.unpack_from(data)
            if ordinal == Allocator.allocate_shared_collection.ordinal:
                self._token(_end(fds[0]), _Collection())
            elif ordinal == Allocator.bind_shared_collection.ordinal:
                self._bind(_end(fds[0]), _end(fds[1]))
        _close(channel)

    def _bind(self, client_end: socket.socket, end: socket.socket) -> None:
        token, collection = self._tokens.pop(client_end.getpeername())
        client_end.send(_NONCE, _SEND_FLAGS)
        token.recvmsg(65536, _CONTROL_BYTES, _RECEIVE_FLAGS)
        client_end.close()
        _close(token)
        self._named(end)
        self._nursery.start_soon(self._serve_collection, end, collection)

    async def _serve_token(self, channel: socket.socket, collection: _Collection) -> None:
        while (received := await _receive(channel)) is not None:
            data, _ = received
            (ordinal,) = _ORDINAL.unpack_from(data)
            if ordinal == BufferCollectionToken.duplicate_sync.ordinal:
                self._duplicate(channel, data, collection)
            elif ordinal == Node.release.ordinal:
                channel.shutdown(socket.SHUT_WR)
        _close(channel)

    def _duplicate(self, channel: socket.socket, request: bytes, collection: _Collection) -> None:
        body = _tokens(len(cbor2.loads(request[HEADER.size :])[1]))
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(body[1])]
        for _, far in pairs:
            self._token(far, collection)
        collection.missing = collection.left = len(pairs)
        _send(channel, request[: HEADER.size] + body[0], [near.fileno() for near, _ in pairs])
        for near, _ in pairs:
            near.close()

    async def _serve_collection(self, channel: socket.socket, collection: _Collection) -> None:
        while (received := await _receive(channel)) is not None:
            data, _ = received
            (ordinal,) = _ORDINAL.unpack_from(data)
            if ordinal == BufferCollection.set_constraints.ordinal:
                collection.missing -= 1
                if not collection.missing:
                    collection.buffers = [self._buffer(index) for index in range(self._count)]
                    for call in collection.waiting:
                        self._hand_out(collection, *call)
            elif ordinal == BufferCollection.wait_for_all_buffers_allocated.ordinal:
                if collection.buffers:
                    self._hand_out(collection, channel, data)
                else:
                    collection.waiting.append((channel, data))
            elif ordinal == Node.release.ordinal:
                channel.shutdown(socket.SHUT_WR)
        _close(channel)
        collection.left -= 1
        if not collection.left:
            for buffer in collection.buffers:
                os.close(buffer)

    def _buffer(self, index: int) -> int:
        made = os.memfd_create(f"floor:{index}", _MFD_FLAGS)
        os.fchmod(made, 0o600)
        os.ftruncate(made, self._size)
        fcntl.fcntl(made, fcntl.F_ADD_SEALS, _SEALS)
        path = f"/proc/self/fd/{made}"
        own = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.close(made)
        _lock(own, 0, 1 << 61)
        _libc.inotify_add_watch(self._inotify, f"/proc/self/fd/{own}".encode(), _END_ONLY)
        return own

    def _hand_out(self, collection: _Collection, channel: socket.socket, request: bytes) -> None:
        fds = []
        for buffer in collection.buffers:
            fds.append(os.open(f"/proc/self/fd/{buffer}", os.O_RDWR | os.O_CLOEXEC))
            _lock(fds[-1], collection.handed_out, 1)
        collection.handed_out += 1
        _send(channel, request[: HEADER.size] + self._answer, fds)
        for fd in fds:
            os.close(fd)


async def _receive(channel: socket.socket) -> tuple[bytes, array.array[int]] | None:
    """Return the next message and its descriptors, or None at the end."""
    with contextlib.suppress(trio.ClosedResourceError):
        while channel.fileno() >= 0:
            try:
                data, control, _, _ = channel.recvmsg(65536, _CONTROL_BYTES, _RECEIVE_FLAGS)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(channel)
                continue
            except ConnectionResetError:
                continue
            if not data:
                return None
            return data, array.array("i", control[0][2] if control else b"")
    return None


def _send(channel: socket.socket, data: bytes, fds: list[int]) -> None:
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    channel.sendmsg([data], control, _SEND_FLAGS)


def _end(fd: int) -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)


def _close(channel: socket.socket) -> None:
    if channel.fileno() >= 0:
        trio.lowlevel.notify_closing(channel)
        channel.close()


def _lock(fd: int, start: int, length: int) -> None:
    lock = FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _FIRST_LOCK + start, length, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)


def _tokens(count: int) -> tuple[bytes, int]:
    """Return the body of a response with `count` tokens, and `count`."""
    handles = [Handle(0) for _ in range(count)]
    body, _ = codec.encode_response(
        BufferCollectionToken.duplicate_sync, sysmem2.CreateTokensResponse(tokens=handles)
    )
    for handle in handles:
        handle.take()
    return body, count


def _allocated(buffers: int, size: int) -> bytes:
    """Return the body of a response to WaitForAllBuffersAllocated."""
    handles = [Handle(0) for _ in range(buffers)]
    info = sysmem2.BufferCollectionInfo(
        settings=sysmem2.SingleBufferSettings(
            buffer_settings=sysmem2.BufferMemorySettings(
                size_bytes=size,
                is_physically_contiguous=False,
                is_secure=False,
                coherency_domain=sysmem2.CoherencyDomain.CPU,
                heap=sysmem2.SYSTEM_RAM_HEAP,
                raw_vmo_size=size,
            )
        ),
        buffers=[sysmem2.VmoBuffer(vmo=handle, vmo_usable_start=0) for handle in handles],
        buffer_collection_id=2,
    )
    body, _ = codec.encode_response(
        BufferCollection.wait_for_all_buffers_allocated,
        sysmem2.BufferCollectionWaitForAllBuffersAllocatedResponse(buffer_collection_info=info),
    )
    for handle in handles:
        handle.take()
    return body
