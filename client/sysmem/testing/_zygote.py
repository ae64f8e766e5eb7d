"""Processes for tests, forked from a zygote that has imported all modules, so that each starts in milliseconds.

The first test that needs a process starts the zygote, which has no threads. The zygote ends when the test process ends
for any reason, because its socket is then closed. When it ends, the kernel kills all processes that it has forked
(PR_SET_PDEATHSIG), also stopped ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

#: Modules that a forked process usually needs.
_PRELOADED = ("sysmem.blocking", "sysmem.testing._peer_process", "sysmemd.__main__")
_MAX_MESSAGE = 1 << 20
_MAX_DESCRIPTORS = 17
_PR_SET_PDEATHSIG = 1


class Process:
    """A process that the zygote forked, with the main methods of `subprocess.Popen`. Its starter must close it."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote = zygote
        self.pid = pid
        #: The exit status, or minus the number of the signal that ended the process; None until its end is known.
        self.returncode: int | None = None
        # The pid is not reused until the process is reaped, so this is the right process.
        self._pidfd = os.pidfd_open(pid)

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the process ends."""
        return self._pidfd

    def poll(self) -> int | None:
        """Return the exit status if the process has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process and return its exit status. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(None if timeout is None else max(0, timeout) * 1000):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = self._zygote.reap(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process has not ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill the process if it still runs, and wait for its end. Idempotent."""
        if self._pidfd >= 0:
            self.kill()
            self.wait()
            os.close(self._pidfd)
            self._pidfd = -1


class Zygote:
    """The forking process, from the test's side. Several threads and processes may use it."""

    def __init__(self, preload: Sequence[str] = ()) -> None:
        """Start the zygote with these modules imported, besides those of the kit."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = f"from {__name__} import main; main({theirs.fileno()}, {list(preload)!r})"
        with theirs:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C must reach only the tests
            )

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Return the zygote that forked this process. Takes ownership of `fd`, a duplicate of its :meth:`fileno`."""
        shared = cls.__new__(cls)
        shared._socket = socket.socket(fileno=fd)
        shared._process = None
        return shared

    def fileno(self) -> int:
        """Return the descriptor for requests. The zygote lives as long as any process holds it."""
        return self._socket.fileno()

    def start(
        self,
        run: str,
        *arguments: Any,
        fds: Sequence[int] = (),
        output: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Fork a process and have it call a function.

        Args:
            run: `module:function`. It is called with the arguments and, if there are any, the list of descriptors.
                Its return value is the exit status; None means 0.
            arguments: JSON data.
            fds: Descriptors of which the process gets duplicates; the caller keeps ownership.
            output: The process's stdout and stderr; by default those of the zygote, and so of the tests.
            environment: The process's environment; by default the test's current one.
        """
        request = {
            "run": run,
            "arguments": arguments,
            "environment": dict(os.environ if environment is None else environment),
            "directory": os.getcwd(),
            "output": output is not None,
        }
        given = [*fds, *([] if output is None else [output])]
        return Process(self, self._ask(request, given))

    def reap(self, pid: int) -> int:
        """Return the exit status of an ended process. Its pid may be reused afterwards."""
        return self._ask({"reap": pid}, [])

    def _ask(self, request: dict[str, Any], fds: list[int]) -> int:
        # Each request carries its own socket for the response, so requests do not wait for each other.
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, contextlib.suppress(BrokenPipeError):
                message = json.dumps(request).encode()
                socket.send_fds(self._socket, [message], [theirs.fileno(), *fds])
            answer = ours.recv(64)
        if not answer:
            raise RuntimeError("the zygote, which forks processes for tests, has ended")
        return int(answer)

    def close(self) -> None:
        """End the zygote and all processes that it forked. One from :meth:`from_fd` only closes its descriptor."""
        self._socket.close()
        if self._process is not None:
            self._process.wait()


# --- in the zygote --------------------------------------------------------------------------------------------------


def main(fd: int, preload: Sequence[str]) -> None:
    """Fork processes on request until all request descriptors are closed."""
    for name in (*_PRELOADED, *preload):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that the collector does not write to memory that is shared with forked processes
    own = os.getpid()
    with socket.socket(fileno=fd) as control:
        while True:
            data, fds, _, _ = socket.recv_fds(
                control, _MAX_MESSAGE, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
            if not data:
                os._exit(0)
            request = json.loads(data)
            with socket.socket(fileno=fds.pop(0)) as asker:
                if "reap" in request:
                    _, status = os.waitpid(request["reap"], 0)
                    answer = os.waitstatus_to_exitcode(status)
                else:
                    answer = os.fork()
                    if not answer:
                        asker.close()
                        _be_a_process(own, control, request, fds)
                for received in fds:
                    os.close(received)
                with contextlib.suppress(BrokenPipeError):
                    asker.send(str(answer).encode())


def _be_a_process(
    zygote: int, control: socket.socket, request: dict[str, Any], fds: list[int]
) -> None:
    """Run one function in a forked process; never returns."""
    status: object = 1
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != zygote:
            os._exit(1)  # the zygote ended before PR_SET_PDEATHSIG was set
        control.close()
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["directory"])
        if request["output"]:
            output = fds.pop()
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
        module, _, function = request["run"].partition(":")
        run: Callable[..., object] = getattr(importlib.import_module(module), function)
        status = run(*request["arguments"], *([fds] if fds else []))
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            if isinstance(status, str):
                print(status, file=sys.stderr)
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1 if status else 0)
