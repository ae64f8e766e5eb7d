"""The limits of inotify, which the kernel reports by misleading errors, are named in the log."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: A user namespace has its own limits, which its creator may lower.
_LOWER = "echo {left} > /proc/sys/user/max_inotify_{what} && exec {python} -c '{script}'"
_SCRIPT = "from sysmemd.inotify import Inotify; Inotify().watch('/', 0x400)"


def limited(what: str, left: int = 0) -> str:
    """Return Python's error message when a user exceeds this limit of instances or watches."""
    script = _LOWER.format(left=left, what=what, python=sys.executable, script=_SCRIPT)
    script = script.replace("('/'", '("/"')
    process = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in process.stderr or "max_inotify" in process.stderr.partition("Traceback")[0]:
        pytest.skip(f"user namespaces can't be made here: {process.stderr}")
    return process.stderr


@pytest.mark.parametrize("what", ["instances", "watches"])
def test_a_limit_is_named(what: str) -> None:
    last = limited(what).splitlines()[-1]
    assert f"the sysctl fs.inotify.max_user_{what} allows" in last


def test_there_is_no_error_below_the_limit() -> None:
    assert limited("watches", 1) == ""
