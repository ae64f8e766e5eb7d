"""The fixtures that the package brings to other projects' tests."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from sysmem import blocking
from sysmem.pytest_plugin import Daemon, running_daemon

pytest_plugins = ["pytester"]


def test_a_daemon_of_its_own(sysmemd: Daemon, allocator: blocking.Allocator) -> None:
    assert sysmemd.runtime_dir.is_dir()
    assert Path(f"/proc/{sysmemd.pid}/cmdline").read_bytes().split(b"\0")[2] == b"sysmemd"
    assert sysmemd.wait_for_log("serving") in sysmemd.log
    with pytest.raises(pytest.fail.Exception, match="didn't log 'nonsense'"):
        sysmemd.wait_for_log("nonsense", timeout=0.01)
    assert allocator.validate_buffer_collection_token(0, timeout=20) is False
    with running_daemon() as other, blocking.connect(other.runtime_dir):
        assert other.runtime_dir != sysmemd.runtime_dir
        pid = other.pid
    assert not Path(f"/proc/{pid}").exists()
    assert not other.runtime_dir.exists()


def test_what_a_test_leaves_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, signal
        import sysmem.pytest_plugin

        kept = []

        def test_that_is_clean(allocator, sysmemd):
            with allocator.allocate_shared_collection() as token:
                token.sync(timeout=20)

        def test_that_leaves_a_token_open(allocator):
            sysmem.pytest_plugin.PATIENCE_SECONDS = 1
            kept.append(allocator.allocate_shared_collection())
            kept[0].sync(timeout=20)

        def test_that_failed_and_is_not_blamed_again(allocator):
            sysmem.pytest_plugin.PATIENCE_SECONDS = 20
            kept.append(allocator.allocate_shared_collection())
            assert False

        def test_that_ends_the_daemon_itself(sysmemd):
            os.kill(sysmemd.pid, signal.SIGKILL)
            sysmemd.process.wait()
        """
    )
    result = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-W", "ignore::ResourceWarning"
    )
    result.assert_outcomes(passed=3, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*sysmemd still holds 1 descriptors more*"])


def test_a_long_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / ("t" * 100)
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    with running_daemon() as daemon, blocking.connect(daemon.runtime_dir) as allocator:
        assert directory in daemon.runtime_dir.parents
        assert allocator.validate_buffer_collection_token(0, timeout=20) is False
