"""An agent for the conformance suite, over the Python client. It imports nothing of the testing kit.

`python -m sysmem.testing.conformance python client/sysmem/testing/conformance/agent.py`
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import trio

from sysmem import (
    BufferCollectionConstraints,
    BufferCollectionInfo,
    BufferCollectionToken,
    BufferMemoryConstraints,
    BufferUsage,
    PeerClosedError,
    SysmemError,
    connect,
)

#: After this many turns of the loop, a started task has sent its request.
_TURNS = 3


class Agent:
    """The objects that the suite has named, with a method for each command.

    A method returns the answer, or None for a plain "ok".
    """

    def __init__(self, nursery: trio.Nursery, passed: socket.socket) -> None:
        self._nursery = nursery
        self._socket = passed
        self._objects: dict[str, Any] = {}
        self._infos: dict[str, list[BufferCollectionInfo]] = {}
        self._answers: dict[str, trio.MemoryReceiveChannel[str]] = {}

    async def do(self, command: str, words: list[str]) -> str:
        """Execute a command and return the answer."""
        try:
            return await getattr(self, command)(*words) or "ok"
        except SysmemError as error:
            return f"error {int(error.error)}"
        except PeerClosedError:
            return "closed"

    def end(self) -> None:
        """Close everything."""
        for name in list(self._objects):
            self._let_go(name)

    def _let_go(self, name: str) -> None:
        self._objects.pop(name).close()
        for info in self._infos.pop(name, []):
            info.close()

    # --- objects --------------------------------------------------------------------------------------------------

    async def hello(self) -> str:
        return "ok 1"

    async def connect(self, name: str) -> None:
        self._objects[name] = connect()

    async def shared(self, allocator: str, name: str) -> None:
        self._objects[name] = await self._objects[allocator].allocate_shared_collection()

    async def bind(self, allocator: str, token: str, name: str) -> None:
        turned_in = self._objects.pop(token)
        self._objects[name] = await self._objects[allocator].bind_shared_collection(turned_in)

    async def duplicate(self, token: str, mask: str, name: str) -> None:
        self._objects[name] = await self._objects[token].duplicate(int(mask))

    async def duplicate_sync(self, token: str, mask: str, *names: str) -> None:
        made = await self._objects[token].duplicate_sync([int(mask)] * len(names))
        self._objects.update(zip(names, made, strict=True))

    async def give(self, token: str) -> None:
        fd = self._objects.pop(token).detach()
        socket.send_fds(self._socket, [b"\0"], [fd])
        os.close(fd)

    async def receive(self, name: str) -> None:
        _, [fd], _, _ = socket.recv_fds(self._socket, 1, 1, socket.MSG_CMSG_CLOEXEC)
        self._objects[name] = BufferCollectionToken.from_fd(fd)

    async def release(self, name: str) -> None:
        await self._objects[name].release()
        self._let_go(name)

    async def close(self, name: str) -> None:
        self._let_go(name)

    # --- one-way messages -----------------------------------------------------------------------------------------

    async def constrain(self, name: str, cpu: str, size: str, count: str) -> None:
        await self._objects[name].set_constraints(
            BufferCollectionConstraints(
                usage=BufferUsage(cpu=int(cpu)),
                min_buffer_count_for_camping=int(count),
                buffer_memory_constraints=BufferMemoryConstraints(min_size_bytes=int(size)),
            )
        )

    async def name(self, node: str, priority: str, text: str) -> None:
        await self._objects[node].set_name(int(priority), text)

    # --- calls ----------------------------------------------------------------------------------------------------

    async def start(self, call: str, command: str, name: str) -> None:
        sender, self._answers[call] = trio.open_memory_channel[str](1)

        async def answer() -> None:
            await sender.send(await self.do(command, [name]))

        self._nursery.start_soon(answer)
        for _ in range(_TURNS):
            await trio.lowlevel.checkpoint()

    async def finish(self, call: str) -> str:
        return await self._answers.pop(call).receive()

    async def sync(self, name: str) -> None:
        await self._objects[name].sync()

    async def id(self, name: str) -> str:
        return f"ok {await self._objects[name].get_buffer_collection_id()}"

    async def check(self, name: str) -> None:
        await self._objects[name].check_all_buffers_allocated()

    async def wait(self, name: str) -> str:
        info = await self._objects[name].wait_for_all_buffers_allocated()
        self._infos.setdefault(name, []).append(info)
        return f"ok {len(info.buffers)} {info.settings.buffer_settings.size_bytes}"

    async def wait_closed(self, name: str) -> None:
        await self._objects[name].wait_closed()

    # --- memory ---------------------------------------------------------------------------------------------------

    async def read(self, name: str, index: str, length: str) -> str:
        with self._infos[name][-1].buffers[int(index)].map() as view:
            return f"ok {bytes(view[: int(length)]).hex()}"

    async def write(self, name: str, index: str, data: str) -> str | None:
        with self._infos[name][-1].buffers[int(index)].map() as view:
            if view.readonly:
                return "denied"
            view[: len(data) // 2] = bytes.fromhex(data)
        return None


async def main() -> None:
    """Execute each line of stdin, and write its answer."""
    with socket.socket(fileno=int(os.environ["SYSMEM_AGENT_SOCKET"])) as passed:
        async with trio.open_nursery() as nursery:
            agent = Agent(nursery, passed)
            while (line := await trio.to_thread.run_sync(sys.stdin.readline)) != "quit\n":
                command, *words = line.split()
                print(await agent.do(command, words), flush=True)
            nursery.cancel_scope.cancel()
        agent.end()


if __name__ == "__main__":
    trio.run(main)
