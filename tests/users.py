"""The daemon, its tools and participants as other users. That requires root: otherwise the tests are skipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing the user takes root")

#: Imports everything first, because only root may be able to read the interpreter; then changes the user.
_AS_USER = """
import os, resource, sys
import sysmem.blocking, sysmem.sysmemctl, sysmem.sysmemctl._ping, sysmemd.__main__
uid, gid, processes, command, *arguments = sys.argv[1:]
os.setgroups([]), os.setgid(int(gid)), os.setuid(int(uid))
if processes != "any":
    resource.setrlimit(resource.RLIMIT_NPROC, (int(processes), int(processes)))
main = {"sysmemd": sysmemd.__main__.main, "sysmemctl": sysmem.sysmemctl.main}[command]
sys.exit(main(arguments))
"""


def user_process(uid: int, gid: int, *command: str, processes: int | None = None) -> list[str]:
    """Return the command line that runs `sysmemd` or `sysmemctl` as a user, who may have at most this many threads."""
    limit = "any" if processes is None else str(processes)
    return [sys.executable, "-c", _AS_USER, str(uid), str(gid), limit, *command]


@contextmanager
def as_user(uid: int, gid: int | None = None, groups: Sequence[int] = ()) -> Iterator[None]:
    """Connect as another user within the block: the kernel records the user at that moment."""
    before = os.geteuid(), os.getegid(), os.getgroups()
    _become(uid, uid if gid is None else gid, groups)
    try:
        yield
    finally:
        _become(*before)


def _become(uid: int, gid: int, groups: Sequence[int]) -> None:
    os.seteuid(0)
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
