"""The actions allowed to a signal handler in the middle of a call, and dropped objects while warnings are errors."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

import sysmem
from sysmem import blocking
from sysmem.pytest_plugin import Daemon


def test_another_thread_closes_while_a_handler_waits_for_it(ends: tuple[int, Any]) -> None:
    token = blocking.BufferCollectionToken.from_fd(ends[0])

    def close_and_wait() -> None:
        thread = threading.Thread(target=token.close)
        thread.start()
        thread.join()

    before = signal.signal(signal.SIGUSR1, lambda *_: close_and_wait())
    main = threading.get_ident()

    def interrupt() -> None:
        ends[1].receive()
        signal.pthread_kill(main, signal.SIGUSR1)

    ends[1].run(interrupt)
    try:
        with pytest.raises(sysmem.HandleClosedError):
            token.sync()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_would_wait_for_the_call_it_interrupted_is_told(
    ends: tuple[int, Any],
) -> None:
    fd, peer = ends
    told: list[str] = []

    def handler(*_: object) -> None:
        try:
            token.sync()
        except RuntimeError as error:
            told.append(str(error))

    before = signal.signal(signal.SIGUSR1, handler)
    main = threading.get_ident()

    def interrupt() -> None:
        request = peer.receive()
        signal.pthread_kill(main, signal.SIGUSR1)
        while not told:
            pass
        peer.send(request)

    try:
        with blocking.BufferCollectionToken.from_fd(fd) as token:
            peer.run(interrupt)
            token.sync()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert "a signal handler can't wait" in told[0]


ENDING = """if True:
    import os, signal, sys
    from sysmem import blocking

    with blocking.connect(sys.argv[1]) as allocator:
        token = allocator.allocate_shared_collection()
        signal.signal(signal.SIGTERM, lambda *_: (token.close(), os._exit(0)))
        print(flush=True)
        while True:
            token.sync()
"""


def test_a_program_ends_by_a_signal_in_a_loop_of_calls(sysmemd: Daemon) -> None:
    command = [sys.executable, "-c", ENDING, str(sysmemd.runtime_dir)]
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.terminate()
            assert process.wait(20) == 0


DROPPING = """if True:
    import gc, os, socket, sys
    import sysmem
    from sysmem import blocking

    def pair(kind):
        near, far = socket.socketpair(socket.AF_UNIX, kind)
        far.close()
        return near.detach()

    def memory():
        return sysmem.Vmo(os.memfd_create("vmo"))

    makes = [
        memory,
        lambda: sysmem.BufferCollectionInfo(buffers=[sysmem.VmoBuffer(vmo=memory())]),
        lambda: sysmem.VmoInfo(weak_vmo=memory()),
        lambda: sysmem.NodeRef(os.memfd_create("ref")),
        lambda: blocking.EventPair(pair(socket.SOCK_STREAM)),
        lambda: sysmem.AsyncEventPair(pair(socket.SOCK_STREAM)),
        lambda: blocking.BufferCollectionToken(pair(socket.SOCK_SEQPACKET)),
        lambda: sysmem.BufferCollectionToken(pair(socket.SOCK_SEQPACKET)),
        lambda: memory().duplicate(),
    ]
    for make in makes:
        before = os.listdir("/proc/self/fd")
        made = make()
        assert os.listdir("/proc/self/fd") != before
        cycle = [made]
        cycle.append(cycle)
        del made, cycle
        gc.collect()
        assert os.listdir("/proc/self/fd") == before, make()
    print(len(makes))
"""


def test_what_is_dropped_is_closed_where_warnings_are_errors() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", DROPPING], capture_output=True, text=True
    )
    assert done.stdout == "9\n", done.stderr
    assert done.stderr.count("ResourceWarning: <") >= 9
