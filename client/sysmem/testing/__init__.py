"""Tools for testing participants: without a daemon, with a daemon in the test, or with separate processes.

::

    from sysmem.testing import assert_agree, assert_conflict

    def test_the_camera_suits_the_encoder():
        agreed = assert_agree({"camera": CAMERA, "encoder": ENCODER})
        assert agreed.buffer_count == 5

This package needs the daemon's code, and the client never imports it. The fixtures are in the pytest plugin
:mod:`sysmem.pytest_plugin`, which pytest finds automatically.
"""

from __future__ import annotations

from sysmem_protocol.testing import End
from sysmemd.config import ConfigError
from sysmemd.constraints import Rule

from . import blocking as blocking  # not in __all__: this is not the module `sysmem.blocking`
from ._behaviours import (
    STEPS,
    Behaviour,
    Behaviours,
    closes,
    conflicts,
    dies,
    floods,
    hangs,
    keeps_weak,
    late,
    never_constrains,
    never_reads,
    releases,
    scribbles_after_release,
    sends_garbage,
    writes,
)
from ._daemon import Daemon, daemon
from ._golden import Golden, Negotiation
from ._matrix import Cell, Matrix, Survivor, kill_matrix
from ._negotiate import (
    Attached,
    Group,
    Negotiated,
    assert_agree,
    assert_conflict,
    negotiate,
)
from ._peers import ByPath, InProcess, Peer, PeerFailed, Token, start_peer
from ._sysmemd import Sysmemd, sysmemd
from ._zygote import Process, Zygote

__all__ = [
    "STEPS",
    "Attached",
    "Behaviour",
    "Behaviours",
    "ByPath",
    "Cell",
    "ConfigError",
    "Daemon",
    "End",
    "Golden",
    "Group",
    "InProcess",
    "Matrix",
    "Negotiated",
    "Negotiation",
    "Peer",
    "PeerFailed",
    "Process",
    "Rule",
    "Survivor",
    "Sysmemd",
    "Token",
    "Zygote",
    "assert_agree",
    "assert_conflict",
    "closes",
    "conflicts",
    "daemon",
    "dies",
    "floods",
    "hangs",
    "keeps_weak",
    "kill_matrix",
    "late",
    "negotiate",
    "never_constrains",
    "never_reads",
    "releases",
    "scribbles_after_release",
    "sends_garbage",
    "start_peer",
    "sysmemd",
    "writes",
]
