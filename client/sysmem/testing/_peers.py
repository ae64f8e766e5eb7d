"""Participants that are given as data; each runs in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import anyio

from sysmem_protocol.library import Interface
from sysmem_protocol.sysmem2 import Allocator, BufferCollectionConstraints, Error

from .. import BufferCollectionToken, PeerClosedError, SysmemError, Vmo, VmoBuffer, blocking
from ._behaviours import FAILED, STEPS, Behaviours, behaviours
from ._zygote import Process, Zygote

#: How long a participant may take to reach a step, in seconds, unless the test gives a timeout.
PATIENCE_SECONDS: Final = 20.0
_MAX_REPORT = 1 << 20

Token: TypeAlias = BufferCollectionToken | blocking.BufferCollectionToken


class ByPath(Protocol):
    """A daemon with sockets in a directory."""

    @property
    def runtime_dir(self) -> os.PathLike[str]:
        """The directory of the sockets."""


@runtime_checkable
class InProcess(Protocol):
    """A daemon in this process."""

    def open(self, interface: type[Interface]) -> int:
        """Connect to a service of the daemon. Return the channel's descriptor, which the caller owns."""


class PeerFailed(AssertionError):
    """A simulated participant did not reach a step. The text says what happened instead."""


class Peer:
    """A simulated participant in a process of its own."""

    def __init__(self, name: str, process: Process, control: socket.socket) -> None:
        """Take ownership of the process, and of the socket over which it reports its steps."""
        self.name = name
        self._process = process
        self._control = control
        self._reached: dict[str, dict[str, Any]] = {}
        self._told_all = False
        self._buffers: list[VmoBuffer] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def __repr__(self) -> str:
        return f"<Peer {self.name!r}, process {self.pid}: {self._state()}>"

    # --- its progress ---------------------------------------------------------------------------------------------

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that it has reached so far, in order."""
        while self._take():
            pass
        return tuple(self._reached)

    def wait(self, step: str, timeout: float = PATIENCE_SECONDS) -> None:
        """Wait until the participant reaches a step: one of the steps of behaviours, or "failed".

        A participant is at `failed` when the daemon has answered with an error or closed its channel; :attr:`error`
        has the reason. In a test whose daemon runs in the test's own trio loop, await :meth:`reached` instead.

        Raises:
            PeerFailed: The participant can no longer reach the step, or did not within `timeout` seconds.
        """
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout
        poll = select.poll()
        for fd in (self._control, self._process):
            poll.register(fd, select.POLLIN)
        while self._still_waits(step):
            remaining = deadline - time.monotonic()
            if not poll.poll(max(0, remaining) * 1000) and remaining <= 0:
                raise self._failure(step, f" in {timeout:g} s")

    async def reached(self, step: str, timeout: float = PATIENCE_SECONDS) -> None:
        """Wait as :meth:`wait` does, in a task of trio or asyncio."""
        __tracebackhide__ = True
        with anyio.move_on_after(timeout):
            while self._still_waits(step):
                # When the process ends, its end of the socket closes.
                await anyio.wait_readable(self._control)
            return
        raise self._failure(step, f" in {timeout:g} s")

    @property
    def error(self) -> SysmemError | PeerClosedError | None:
        """The exception that the participant's client raised; None if it has not failed."""
        if FAILED not in self.steps:
            return None
        told = self._reached[FAILED]
        if told["error"] is not None:
            return SysmemError(Error(told["error"]), told["reason"], told["report"])
        return PeerClosedError(told["text"])

    @property
    def buffers(self) -> list[VmoBuffer]:
        """The participant's buffers, opened for reading, also while it is stopped; closed at the end of the test.

        The returned buffers keep the memory alive until then. Raises :class:`PeerFailed` if the participant has no
        buffers, or has ended.
        """
        if self._buffers is None:
            if "allocated" not in self.steps:
                raise self._failure("allocated")
            try:
                self._buffers = [
                    self._opened(found) for found in self._reached["allocated"]["buffers"]
                ]
            except FileNotFoundError:
                raise PeerFailed(
                    f"{self.name} no longer has its buffers: {self._state()}"
                ) from None
        return self._buffers

    def _opened(self, found: dict[str, int] | None) -> VmoBuffer:
        if found is None:
            return VmoBuffer()
        fd = os.open(f"/proc/{self.pid}/fd/{found['fd']}", os.O_RDONLY | os.O_CLOEXEC)
        return VmoBuffer(vmo=Vmo(fd), vmo_usable_start=found["start"])

    # --- actions of the test --------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Kill the process with SIGKILL, and wait for its end."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop the process with SIGSTOP, until :meth:`resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process after SIGSTOP, sent by itself or by :meth:`stop`."""
        self._process.send_signal(signal.SIGCONT)

    def release(self) -> None:
        """Make the participant release its node, unless it has ended or released already. It reaches "released"."""
        with contextlib.suppress(BrokenPipeError):
            self._control.send(b"release")

    def close(self) -> None:
        """End the process, and close everything that was opened for it. Idempotent."""
        for buffer in self._buffers or ():
            buffer.close()
        self._process.close()
        self._control.close()

    # --- internal -------------------------------------------------------------------------------------------------

    def _still_waits(self, step: str) -> bool:
        """Return whether the step has not been reached yet. Raises :class:`PeerFailed` if it can no longer be."""
        __tracebackhide__ = True
        if step not in (*STEPS, FAILED):
            raise ValueError(
                f"there is no step {step!r}; the steps are {', '.join((*STEPS, FAILED))}"
            )
        steps = self.steps
        if step in steps:
            return False
        if self._told_all or FAILED in steps:
            raise self._failure(step)
        return True

    def _take(self) -> bool:
        """Receive one report, if there is one. Return whether there was."""
        if self._told_all:
            return False
        try:
            data = self._control.recv(_MAX_REPORT, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if not data:
            self._told_all = True
            return False
        told = json.loads(data)
        self._reached[told["step"]] = told
        return True

    def _failure(self, step: str, when: str = "") -> PeerFailed:
        return PeerFailed(f"{self.name} did not reach {step!r}{when}: {self._state()}")

    def _state(self) -> str:
        steps = self.steps
        if FAILED in steps:
            return f"it failed with {self._reached[FAILED]['text']}"
        at = f"it was last at {steps[-1]!r}" if steps else "it has not turned in its token"
        # The socket closes a moment before the process has ended.
        status = self._process.wait() if self._told_all else self._process.poll()
        if status is None:
            return at
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        return f"{at}, and its process ended {how}"


def start_peer(
    zygote: Zygote,
    daemon: ByPath | InProcess,
    name: str,
    constraints: BufferCollectionConstraints | None,
    token: Token,
    behaviour: Behaviours | None,
    at: str | None = None,
) -> Peer:
    """Start a participant. Takes ownership of `token`."""
    plan = {
        "name": name,
        "constraints": None if constraints is None else constraints.to_dict(),
        "behaviours": [one.to_dict() for one in behaviours(behaviour, at)],
        "runtime_dir": None,
    }
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    given = [token.detach()]
    try:
        if isinstance(daemon, InProcess):
            given.append(daemon.open(Allocator))
        else:
            plan["runtime_dir"] = os.fspath(daemon.runtime_dir)
        fds = [theirs.fileno(), *given]
        return Peer(name, zygote.start("sysmem.testing._peer_process:main", plan, fds=fds), ours)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        for fd in given:
            os.close(fd)
