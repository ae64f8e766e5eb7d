"""How a program handles descriptors as numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing

import pytest

from sysmem import HandleClosedError, blocking
from sysmem.blocking import frames
from sysmem.pytest_plugin import Daemon
from sysmem_protocol.handles import eventpair

#: Only the exit status reports the result, because no output is possible.
PROGRAM = """if True:
    import os, sys
    {close}
    from sysmem import DaemonUnavailableError, Vmo, blocking
    {close_late}

    allocator = blocking.connect(sys.argv[1])
    token = allocator.allocate_shared_collection()
    near = token.attach_node_tracking()
    vmo = Vmo(os.memfd_create("buffer"))
    if min(each.fileno() for each in (allocator, token, near, vmo)) <= 2:
        sys.exit(1)
    for fd in range(3):
        try:
            os.write(fd, b"a message of a library")
            sys.exit(2)
        except OSError:
            pass
    if os.system("[ ! -e /proc/self/fd/2 ]"):
        sys.exit(3)
    for each in (allocator, token, near, vmo):
        each.close()
"""


@pytest.mark.parametrize("when", ["close", "close_late"])
def test_nothing_of_ours_is_a_standard_descriptor(sysmemd: Daemon, when: str) -> None:
    program = PROGRAM.format(**{"close": "", "close_late": "", when: "os.closerange(0, 3)"})
    command = [sys.executable, "-c", program, str(sysmemd.runtime_dir)]
    assert subprocess.run(command).returncode == 0


def test_a_program_that_closes_all_descriptors_is_told(ends: tuple[int, object]) -> None:
    token = blocking.BufferCollectionToken.from_fd(ends[0])
    os.close(token.fileno())
    with pytest.raises(HandleClosedError, match="must do so before it connects"):
        token.sync()
    token.close()


def test_an_event_whose_descriptor_the_program_has_closed_has_not_happened() -> None:
    near, far = eventpair()
    with far, closing(blocking.EventPair.from_fd(near.take())) as event:
        os.close(event.fileno())
        for ask in (event.is_closed, event.wait_closed):
            with pytest.raises(HandleClosedError, match="must do so before it connects"):
                ask()


def test_streams_whose_descriptors_the_program_has_closed_can_be_closed() -> None:
    near, far = frames.pair()
    with frames.FrameReceiver(far) as receiver:
        os.close(receiver.fileno())
    near_fd = near.fileno()
    with closing(frames.FrameSender(1, near)) as sender:
        os.close(near_fd)
        sender.abandon()
