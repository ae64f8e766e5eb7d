"""After a KeyboardInterrupt or a cancellation at any place, no descriptor is left unowned, and nothing hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


# Delayed signals of trio, and cancellations, are raised at the steps of a task, which are few.
@pytest.mark.parametrize(
    ("way", "least"),
    [
        ("blocking", 1000),
        ("trio", 1000),
        ("trio-pending", 50),
        ("trio-cancelled", 50),
        ("asyncio", 1000),
        ("asyncio-cancelled", 50),
        ("blocking-closing", 500),
        ("blocking-releasing", 500),
        ("trio-closing", 500),
        ("asyncio-closing", 500),
    ],
)
def test_an_interrupt_anywhere_in_any_call(way: str, least: int) -> None:
    command = [sys.executable, "-m", "tests.sysmem.interrupted", way]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    interrupts, _, rest = done.stdout.splitlines()[-1].partition(" ")
    assert int(interrupts) > least
    assert rest.startswith("interrupts, 0 of ")
