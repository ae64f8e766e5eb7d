"""The command for shells and health checks."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sysmem import sysmemctl
from sysmem.testing import Sysmemd


def test_ping_answers(sysmemd: Sysmemd, capsys: pytest.CaptureFixture[str]) -> None:
    assert sysmemctl.main(["ping", "--runtime-dir", str(sysmemd.runtime_dir)]) == 0
    assert "answered in" in capsys.readouterr().out
    assert sysmemctl.main(["--runtime-dir", str(sysmemd.runtime_dir), "ping"]) == 0
    assert "error" not in sysmemd.log


def test_ping_without_a_daemon(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "sysmem.sysmemctl", "ping", "--runtime-dir", tmp_path],
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert str(tmp_path) in result.stderr


def test_ping_to_a_daemon_that_hangs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "fuchsia.sysmem2.Allocator"))
        listener.listen()
        assert sysmemctl.main(["ping", "--runtime-dir", str(tmp_path), "--timeout", "0.01"]) == 1
    assert "no answer within 0.01 s" in capsys.readouterr().err


def test_no_command_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        sysmemctl.main([])
    assert caught.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
