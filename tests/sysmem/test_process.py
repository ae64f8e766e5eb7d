"""What a program does with descriptors by their numbers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sysmem import HandleClosedError, blocking
from sysmem.pytest_plugin import Daemon

#: The exit status tells, for there is nothing to write to.
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
