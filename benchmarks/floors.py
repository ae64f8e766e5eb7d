"""The floors that results are compared with: servers that do next to nothing, in processes of their own."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cbor2
import trio


@contextmanager
def echo_process(serve: Callable[[socket.socket], None]) -> Iterator[tuple[socket.socket, int]]:
    """A forked process that serves one end of a SEQPACKET pair; the other end, blocking, and the process's id."""
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
    """The least that an answer costs: a blocking receive and a blocking send."""
    while data := sock.recv(65536):
        sock.send(data)


def trio_cbor2_echo(sock: socket.socket) -> None:
    """The least that an answer costs with the libraries that the daemon stands on."""

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
