"""The messages that a daemon under test remembers."""

from __future__ import annotations

import json

import pytest

from sysmemd.testing import trace
from sysmemd.testing.trace import Trace


def test_the_newest_messages_of_clients_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_MAX_MESSAGES", 3)
    made = Trace(iter([10, 20, 1_234_567_890, 40, 50]).__next__)
    assert made.messages() == []
    for number in range(1, 6):
        protocol = "Testing" if number == 4 else "Allocator"
        made.tell(json.dumps({"protocol": protocol, "method": number}))
    assert made.messages() == [
        {"number": 3, "time_s": 1.234568, "protocol": "Allocator", "method": 3},
        {"number": 5, "time_s": 0.0, "protocol": "Allocator", "method": 5},
    ]
    assert made.wants(None, traffic=True)
    assert not made.wants(1, traffic=False)
