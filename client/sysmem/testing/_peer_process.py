"""The process of a simulated participant: its steps, and its behaviours at each step.

The process reports every step to the test over a socket, and then performs the step's behaviours. After the last one
it waits for commands from the test, and for the end of its channel.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import repeat
from typing import Any, NoReturn

from sysmem_protocol.sysmem2 import BufferMemoryConstraints, Heap, Node, NodeSetNameRequest

from .. import (
    BufferCollectionConstraints,
    BufferCollectionInfo,
    HandleClosedError,
    PeerClosedError,
    SysmemError,
)
from .._calls import datagram, encode_request
from ..blocking import Allocator, BufferCollection, BufferCollectionToken, connect
from ._behaviours import FAILED, Behaviour

#: A heap that no daemon has.
_NOWHERE = "sysmem.testing/nowhere"
#: More calls than a daemon allows to be outstanding.
_MANY = 100_000
_MAX_COMMAND = 64


class _Done(Exception):
    """Ends the participant's own actions."""


class Participant:
    """A participant, from its first step to its last."""

    def __init__(self, plan: dict[str, Any], control: socket.socket) -> None:
        self._name: str = plan["name"]
        constraints = plan["constraints"]
        self._constraints = (
            None if constraints is None else BufferCollectionConstraints.from_dict(constraints)
        )
        self._behaviours = [Behaviour.from_dict(one) for one in plan["behaviours"]]
        self._control = control
        self._collection: BufferCollection
        self._info: BufferCollectionInfo | None = None
        #: The mappings. Closing this stack unmaps them.
        self._mapped = ExitStack()
        self._views: list[memoryview] = []

    def run(self, allocator: Allocator, token: BufferCollectionToken) -> None:
        """Take part in the collection, and then process commands until the test ends this process."""
        allocator.set_debug_client_info(self._name, os.getpid())
        try:
            self._take_part(allocator, token)
        except _Done:
            pass
        except (SysmemError, PeerClosedError) as error:
            self._failed(error)
        self._wait_for_commands()

    def _take_part(self, allocator: Allocator, token: BufferCollectionToken) -> None:
        self._collection = collection = allocator.bind_shared_collection(token)
        collection.sync()
        self._reach("turned_in")
        collection.set_constraints(self._constraints)
        collection.sync()
        self._reach("constrained")
        ask(collection)
        self._reach("waiting")
        self._info = collection.wait_for_all_buffers_allocated()
        self._reach("allocated", buffers=[_found(buffer) for buffer in self._info.buffers])
        for buffer in self._info.buffers:
            if buffer.vmo is not None:
                self._views.append(self._mapped.enter_context(buffer.map()))
        self._reach("mapped")
        if any(one.at == "released" for one in self._behaviours):
            self._release()

    def _reach(self, step: str, **more: Any) -> None:
        """Report a step and then perform its behaviours; but write before the report, so that the test can read."""
        due = [one for one in self._behaviours if one.at == step]
        before = [one for one in due if one.name == "writes"]
        self._perform(before)
        self._tell({"step": step, **more})
        self._perform([one for one in due if one not in before])

    def _perform(self, due: list[Behaviour]) -> None:
        for one in due:
            getattr(self, f"_{one.name}")(one)

    # --- behaviours -----------------------------------------------------------------------------------------------

    def _dies(self, _: Behaviour) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _hangs(self, _: Behaviour) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def _closes(self, _: Behaviour) -> NoReturn:
        self._let_go()
        self._collection.close()
        raise _Done

    def _releases(self, _: Behaviour) -> NoReturn:
        self._release()

    def _never_constrains(self, _: Behaviour) -> NoReturn:
        raise _Done

    def _late(self, one: Behaviour) -> None:
        assert isinstance(one.argument, float)
        time.sleep(one.argument)

    def _conflicts(self, _: Behaviour) -> None:
        constraints = self._constraints or BufferCollectionConstraints()
        memory = constraints.buffer_memory_constraints or BufferMemoryConstraints()
        memory.permitted_heaps = [Heap(heap_type=_NOWHERE, id=0)]
        constraints.buffer_memory_constraints = memory
        self._constraints = constraints

    def _keeps_weak(self, _: Behaviour) -> None:
        self._collection.set_weak()

    def _floods(self, _: Behaviour) -> None:
        body, _handles = encode_request(Node.set_name, NodeSetNameRequest(priority=0, name="flood"))
        self._send(repeat(datagram(Node.set_name, body)))

    def _never_reads(self, _: Behaviour) -> None:
        self._send(datagram(Node.sync, b"", txid) for txid in range(1, _MANY))

    def _sends_garbage(self, _: Behaviour) -> None:
        self._send([b"garbage"])

    def _writes(self, one: Behaviour) -> None:
        assert isinstance(one.argument, bytes)
        self._fill(one.argument)

    def _scribbles_after_release(self, _: Behaviour) -> NoReturn:
        self._collection.release()
        self._fill(b"scribble")
        self._reach("released")
        raise _Done

    # --- helpers --------------------------------------------------------------------------------------------------

    def _tell(self, report: dict[str, Any]) -> None:
        self._control.send(json.dumps(report).encode())

    def _send(self, datagrams: Iterable[bytes]) -> None:
        """Send on the channel, and wait while the daemon does not read, until the channel closes."""
        # After the release there is no channel.
        with contextlib.suppress(HandleClosedError, BrokenPipeError, ConnectionResetError):
            channel = socket.socket(fileno=os.dup(self._collection.fileno()))
            with channel:
                for data in datagrams:
                    channel.send(data)

    def _fill(self, pattern: bytes) -> None:
        for view in self._views:
            whole, rest = divmod(len(view), len(pattern))
            view[:] = pattern * whole + pattern[:rest]

    def _release(self) -> NoReturn:
        if self._collection.closed:  # `releases` at the step `released`
            raise _Done
        self._collection.release()
        self._let_go()
        self._reach("released")
        raise _Done

    def _let_go(self) -> None:
        self._views.clear()
        self._mapped.close()
        if self._info is not None:
            self._info.close()

    def _failed(self, error: SysmemError | PeerClosedError) -> None:
        number = int(error.error) if isinstance(error, SysmemError) else None
        told = {key: getattr(error, key, None) for key in ("reason", "report")}
        self._tell({"step": FAILED, "error": number, "text": str(error), **told})
        self._collection.close()

    def _wait_for_commands(self) -> None:
        """Process the test's commands, and report it if the daemon closes the channel."""
        control = self._control.fileno()
        while True:
            closed = self._collection.closed
            watched = [control] if closed else [control, self._collection.fileno()]
            ready, _, _ = select.select(watched, (), ())
            if control in ready:
                command = self._control.recv(_MAX_COMMAND)
                if not command:
                    return
                if command == b"release" and not closed:
                    with contextlib.suppress(_Done, PeerClosedError):
                        self._release()
            elif self._collection.wait_closed(0):
                self._failed(PeerClosedError("the daemon closed the channel"))


def ask(collection: BufferCollection) -> None:
    """Start a wait for buffers at the daemon; the next wait takes it up."""
    try:
        collection.wait_for_all_buffers_allocated(timeout=0)
    except TimeoutError:
        collection.sync()


def _found(buffer: Any) -> dict[str, int] | None:
    """Return where the test finds a buffer: the number of its descriptor in this process."""
    if buffer.vmo is None:
        return None
    return {"fd": buffer.vmo.fileno(), "start": buffer.vmo_usable_start}


def main(plan: dict[str, Any], fds: list[int]) -> None:
    """Run a participant. `fds` has the control socket, the token and, if the plan says so, an Allocator's channel."""
    control, token, *allocator = fds
    with (
        socket.socket(fileno=control) as told,
        Allocator.from_fd(allocator[0]) if allocator else connect(plan["runtime_dir"]) as connected,
    ):
        Participant(plan, told).run(connected, BufferCollectionToken.from_fd(token))
