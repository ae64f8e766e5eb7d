"""Accounts of users without limits, for tests."""

from __future__ import annotations

from sysmemd.refusals import Refusals
from sysmemd.users import Users

from .memory.harness import TestClock
from .recording import RecordingLog


def new_users() -> Users:
    """Return the users of a daemon, without limits."""
    clock = TestClock()
    return Users(Refusals(RecordingLog(), clock), clock)
