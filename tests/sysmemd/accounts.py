"""Accounts of users for tests in which nobody is refused anything."""

from __future__ import annotations

from sysmemd.refusals import Refusals
from sysmemd.users import Users

from .memory.harness import RecordingLog, TestClock


def new_users() -> Users:
    """Return the users of a daemon, who may have everything."""
    clock = TestClock()
    return Users(Refusals(RecordingLog(), clock), clock)
