"""Test participants against everybody else's behaviour: without a daemon, with one in the test, or with processes.

::

    from sysmem.testing import assert_agree, assert_conflict

    def test_the_camera_suits_the_encoder():
        agreed = assert_agree({"camera": CAMERA, "encoder": ENCODER})
        assert agreed.buffer_count == 5

This needs the daemon's code and is never imported by the client. The fixtures of the pytest plugin, which pytest finds
by itself, are :mod:`sysmem.pytest_plugin`.
"""

from __future__ import annotations

from sysmemd.config import ConfigError
from sysmemd.constraints import Rule

from . import blocking
from ._daemon import Daemon, daemon
from ._negotiate import (
    Attached,
    Group,
    Negotiated,
    assert_agree,
    assert_conflict,
    negotiate,
)

__all__ = [
    "Attached",
    "ConfigError",
    "Daemon",
    "Group",
    "Negotiated",
    "Rule",
    "assert_agree",
    "assert_conflict",
    "blocking",
    "daemon",
    "negotiate",
]
