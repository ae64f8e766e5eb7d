"""Fault injection into the daemon, for tests of participants. Only `sysmemd --testing` uses it.

:class:`Faults` has the faults that a test requested. They take effect through replaced parts: a connection that delays
and counts messages, a memory that refuses allocations, and system calls that fail.
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
