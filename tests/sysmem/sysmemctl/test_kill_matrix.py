"""`sysmemctl kill-matrix`: pipelines may be any programs."""

from __future__ import annotations

import sys

import pytest

from sysmem.sysmemctl import main

PROGRAM = """
import sysmem
from sysmem import blocking
with blocking.connect(name="lone") as allocator:
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_constraints(sysmem.constraints(cpu="read", size_bytes=1, hold=1))
        collection.wait_for_all_buffers_allocated().close()
        collection.release()
"""


def test_each_participant_ends_at_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    ends = ["--end", "killed", "--end", "closed"]
    command = ["kill-matrix", "--victim", "lone", *ends, "--", sys.executable, "-c", PROGRAM]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert all(line.endswith("ok") for line in lines[1:])
    assert "lone    1 Allocator.SetDebugClientInfo                 killed" in lines[1]
    assert "lone    1 Allocator.SetDebugClientInfo                 closed" in lines[7]


def test_a_pipeline_that_does_not_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    program = f"{PROGRAM}\nimport time; time.sleep(60)"
    assert main(["kill-matrix", "--within", "2", "--", sys.executable, "-c", program]) == 1
    assert "still runs" in capsys.readouterr().out


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kill-matrix"]) == 2
    assert "the command that runs the pipeline is missing" in capsys.readouterr().err


def test_a_command_that_does_not_use_the_daemon_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kill-matrix", "--", "true"]) != 0
    assert "nobody connected to the daemon" in capsys.readouterr().err
