"""Faults of the daemon's own, for tests of participants; only `sysmemd --testing` has them.

:class:`Faults` keeps what a test wants to go wrong. It acts by what it is put in the place of: a connection that delays
and counts messages, a memory that refuses allocations, system calls that fail.
"""

from __future__ import annotations

from functools import partial

from sysmem_protocol.testing import Testing

from ..daemon import SERVICES, Parts
from .connection import TestedConnection
from .faults import Faults
from .memory import TestedMemory
from .server import TestingServer

__all__ = ["Faults", "tested"]


def tested(faults: Faults) -> Parts:
    """Return the parts of a daemon with these faults, which it serves to tests."""
    return Parts(
        memory=partial(TestedMemory, faults=faults),
        connection=partial(TestedConnection, faults=faults),
        services={**SERVICES, Testing: partial(TestingServer, faults)},
        ready=faults.put_into,
    )
