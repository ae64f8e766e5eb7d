"""A process that holds descriptors and follows commands, for scenarios about holders.

It receives descriptors over a stream socket. Each command is a line on the same socket and is answered by a line. The
scenario may end the process with SIGKILL.
"""

from __future__ import annotations

import array
import os
import socket
import sys
from pathlib import Path

from ..companion import Companion
from ..mapping import BareMapping

_PROGRAM = f"""
import sys
sys.path[:0] = {[os.fspath(Path(__file__).parents[2])]!r}
from tests.scenarios.other_process import serve
serve(int(sys.argv[1]))
"""
#: Seconds. On an emulated processor that others use too, Python takes long to start.
_ENOUGH = 120.0


class OtherProcess(Companion):
    """The process, as the scenario sees it."""

    def __init__(self) -> None:
        super().__init__(sys.executable, "-c", _PROGRAM, patience=_ENOUGH)

    def tell(self, command: str, *fds: int) -> str:
        """Send a command, with descriptors. The process keeps them in the order of arrival."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.link.sendmsg([command.encode()], rights)
        return self.link.recv(1 << 16).decode()


def serve(fd: int) -> None:
    """Execute commands until the scenario closes its end of the socket."""
    held: list[int] = []
    maps: list[BareMapping] = []
    with socket.socket(fileno=fd) as channel:
        while True:
            size = array.array("i").itemsize
            text, ancillary, _, _ = channel.recvmsg(4096, socket.CMSG_SPACE(size * 64))
            for _, _, data in ancillary:
                got = array.array("i")
                got.frombytes(data[: len(data) - len(data) % size])
                held.extend(got)
            if not text:
                return
            try:
                answer = do(text.decode().split(), held, maps)
            except Exception as error:
                answer = type(error).__name__
            channel.send(answer.encode())


def do(words: list[str], held: list[int], maps: list[BareMapping]) -> str:
    """Execute one command: keep, duplicate, map, read, close, unmap, or participate."""
    match words:
        case ["keep"]:
            pass
        case ["map", access]:
            maps.append(BareMapping(held[-1], write=access == "write"))
        case ["read", count]:
            return maps[-1][: int(count)].decode()
        case ["close"]:
            while held:
                os.close(held.pop())
        case ["unmap"]:
            while maps:
                maps.pop().close()
        case ["duplicate"]:
            held.append(os.dup(held[-1]))
        case ["participate", runtime_dir]:
            return participate(runtime_dir, held.pop())
        case _:
            raise ValueError(words)
    return "done"


def participate(runtime_dir: str, fd: int) -> str:
    """Turn a token in, write into buffer 0, release, and report the collection's id."""
    import sysmem  # a process that only holds descriptors does not need these imports
    from sysmem import blocking

    with blocking.connect(runtime_dir) as allocator:
        token = blocking.BufferCollectionToken.from_fd(fd)
        with allocator.bind_shared_collection(token) as collection:
            collection.set_constraints(
                sysmem.BufferCollectionConstraints(
                    usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.WRITE),
                    min_buffer_count_for_camping=1,
                )
            )
            with collection.wait_for_all_buffers_allocated(timeout=_ENOUGH) as info:
                assert info.buffers is not None
                with info.buffers[0].map() as view:
                    view[:5] = b"hello"
                number = info.buffer_collection_id
            collection.release()
            return str(number)
