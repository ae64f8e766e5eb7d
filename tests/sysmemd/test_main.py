"""The command: its arguments, its exit statuses, and the empty stdout."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio._core._run as scheduler
from trio._core._wakeup_socketpair import WakeupSocketpair

import sysmem
from sysmem import PixelFormat, blocking
from sysmemd import process as daemon_process
from sysmemd.__main__ import configure, main, parser
from sysmemd.config import Config, ConfigError
from sysmemd.process import UnreachableError
from sysmemd.sockets import StartError

from ..users import as_root, user_process

NAME = "fuchsia.sysmem2.Allocator"


def configured(*arguments: str) -> Config:
    return configure(parser().parse_args(arguments))


@pytest.fixture(autouse=True)
def signal_mask() -> Iterator[None]:
    """The command blocks signals, in this process too."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_without_arguments_all_is_default() -> None:
    assert configured() == Config()


def test_what_the_command_line_says_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sysmemd.toml"
    path.write_text('mode = "0600"\ngroup = "video"\n[log]\nformat = "json"\nlevel = "error"')
    config = configured(
        *("--config", str(path), "--mode", "0666", "--runtime-dir", "/tmp/x"),
        *("--log-level", "debug"),
    )
    assert (config.mode, config.group, config.runtime_dir) == ("0666", "video", "/tmp/x")
    assert (config.log.format, config.log.level) == ("json", "debug")
    assert configured("--log-format", "json", "--group", "audio").group == "audio"


def test_a_file_that_need_not_be_there(tmp_path: Path) -> None:
    path = tmp_path / "sysmemd.toml"
    assert configured(f"--config=-{path}") == Config()
    path.write_text('mode = "0660"')
    assert configured(f"--config=-{path}").mode == "0660"
    path.write_text("x = ")
    with pytest.raises(ConfigError, match="not TOML"):
        configured(f"--config=-{path}")


def test_a_mode_that_is_none_is_an_error_of_the_command_line() -> None:
    with pytest.raises(ConfigError, match="command line: "):
        configured("--mode", "rw")


@pytest.mark.parametrize("arguments", [["--colour"], ["--log-format", "xml"], ["extra"]])
def test_a_command_line_that_is_not_understood(
    capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "usage: sysmemd" in captured.err


# --- exit statuses ----------------------------------------------------------------------------------------------------


def run_with(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """Run the command with a daemon that ends at once."""

    async def run(*_: object, **__: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(daemon_process, "run", run)


def test_the_end_in_order_is_0(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run_with(monkeypatch, None)
    assert main([]) == 0
    assert capfd.readouterr() == ("", "")


def test_what_nobody_can_be_told_of_is_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Bad:
        def __del__(self) -> None:
            raise KeyError("oh")

    async def run(*_: object, **__: object) -> None:
        Bad()

    monkeypatch.setattr(daemon_process, "run", run)
    before = sys.unraisablehook
    assert main(["--log-format", "json"]) == 0
    assert sys.unraisablehook is before
    [line] = capfd.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["event"], said["reason"]) == (
        "an unraisable exception was ignored",
        "KeyError('oh')",
    )
    assert "Bad.__del__" in said["where"]


#: The message of trio after its loop has ended because of another error.
THEN = AssertionError("tasks are left")


def in_the_loop(error: Exception) -> trio.TrioInternalError:
    """Wrap an error as trio does if its own code fails."""
    made = trio.TrioInternalError("internal error in Trio")
    made.__cause__ = error
    return made


@pytest.mark.parametrize(
    ("error", "event", "reason"),
    [
        (StartError("no place"), "can't start", "no place"),
        (OSError(24, "Too many open files"), "can't start", "[Errno 24] Too many open files"),
        (MemoryError(), "can't start", "there is no memory left"),
        (ModuleNotFoundError("No module named 'email'"), "can't start", "a part of the program"),
        (in_the_loop(OSError(12, "Cannot allocate memory")), "can't start", "[Errno 12] Cannot"),
        (
            UnreachableError("another one"),
            "can't continue: the service sockets cannot be recreated",
            "another one",
        ),
        (in_the_loop(KeyError("oh")), "the daemon failed", "TrioInternalError"),
        (KeyError("oh"), "the daemon failed", "KeyError: 'oh'"),
        (ExceptionGroup("tasks", [KeyError("oh")]), "the daemon failed", "KeyError: 'oh'"),
    ],
)
def test_what_keeps_it_from_serving_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    event: str,
    reason: str,
) -> None:
    run_with(monkeypatch, error)
    assert main(["--log-format", "json"]) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    [line] = map(json.loads, captured.err.splitlines())
    assert (line["event"], line["level"]) == (event, "error")
    assert reason in (line.get("reason") or line["exception"])


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_loop_that_can_not_wait_ends_before_anything_is_served(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    *,
    is_reversed: bool,
) -> None:
    """This holds in either order in which trio starts its own task and the daemon's."""

    async def no_memory(_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(WakeupSocketpair, "wait_woken", no_memory)
    monkeypatch.setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    chance = Random(0)
    monkeypatch.setattr(chance, "shuffle", list.reverse if is_reversed else list.copy)
    monkeypatch.setattr(scheduler, "_r", chance)
    assert main(["--runtime-dir", str(tmp_path / "run"), "--log-format", "json"]) == 1
    [line] = map(json.loads, capfd.readouterr().err.splitlines())
    assert (line["event"], line["reason"]) == ("can't start", "[Errno 12] Cannot allocate memory")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_configuration_that_can_not_be_used(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], form: str
) -> None:
    path = tmp_path / "sysmemd.toml"
    path.write_text("[limits]\nmax_fun = 1")
    assert main(["--config", str(path), "--log-format", form]) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert "max_fun" in line
    assert str(path) in line
    if form == "json":
        assert json.loads(line)["event"] == "can't start"


@pytest.mark.parametrize("arguments", [["--group", "nobody at all"], ["--runtime-dir", "/proc/no"]])
def test_a_runtime_directory_that_can_not_be_used(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    directory = ["--runtime-dir", str(tmp_path / "run")]
    assert main([*directory, *arguments, "--log-format", "json"]) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err.splitlines()[-1])["event"] == "can't start"


# --- as a process -----------------------------------------------------------------------------------------------------


class Started(subprocess.Popen[bytes]):
    """The command, and its messages to its service manager."""

    manager: socket.socket

    def told(self) -> list[str]:
        """Return the assignments of the next message."""
        return self.manager.recv(4096).decode().split("\n")

    def reload(self) -> list[str]:
        """Make it read its configuration again. Return its messages when it has."""
        self.send_signal(signal.SIGHUP)
        assert self.told()[0] == "RELOADING=1"
        return self.told()


@contextlib.contextmanager
def process(
    tmp_path: Path, command: Sequence[str] = (sys.executable, "-m", "sysmemd"), **options: Any
) -> Iterator[Started]:
    """The command, after it has created its sockets. It is killed at the end if it still runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        os.chmod(tmp_path / "notify", 0o777)
        manager.settimeout(30)
        started = Started(
            [*command, "--runtime-dir", tmp_path / "run"],
            stdout=subprocess.PIPE,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            **options,
        )
        started.manager = manager
        with started:
            try:
                assert started.told() == ["READY=1"]
                assert NAME in os.listdir(tmp_path / "run")
                yield started
            finally:
                started.kill()
        assert started.told() == ["STOPPING=1"]


def ended(started: Started) -> tuple[int, bytes]:
    """Return the exit status and the output on stdout."""
    status = started.wait(30)
    assert started.stdout is not None
    return status, started.stdout.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_nothing_on_stdout(
    tmp_path: Path, number: signal.Signals
) -> None:
    with process(tmp_path, stderr=subprocess.DEVNULL) as started:
        started.send_signal(number)
        assert ended(started) == (0, b"")
    assert os.listdir(tmp_path / "run") == []


def test_a_hangup_without_a_configuration_file_ends_nothing(tmp_path: Path) -> None:
    """For example, a terminal closed."""
    with process(tmp_path, stderr=subprocess.DEVNULL) as started:
        assert started.reload()[0] == "READY=1"
        started.send_signal(signal.SIGTERM)
        assert ended(started) == (0, b"")
    assert os.listdir(tmp_path / "run") == []


def test_a_hangup_has_the_file_read_again(tmp_path: Path) -> None:
    path = tmp_path / "sysmemd.toml"
    path.write_text('[log]\nlevel = "error"')
    read, write = os.pipe()
    command = (sys.executable, "-m", "sysmemd", "--log-format", "json", "--config", str(path))
    with os.fdopen(read) as log, process(tmp_path, command, stderr=write) as started:
        os.close(write)
        for text in ("x = ", '[log]\nlevel = "info"'):
            path.write_text(text)
            assert started.reload()[0] == "READY=1"
        started.send_signal(signal.SIGTERM)
        assert ended(started) == (0, b"")
        said = [json.loads(line) for line in log.read().splitlines()]
    assert [line["event"] for line in said] == [
        "the configuration could not be reloaded and is unchanged",
        "the configuration was reloaded",
        "stopping",
    ]
    assert f"{path}: not TOML" in said[0]["reason"]


def test_a_hangup_changes_limits_costs_and_quotas_for_what_comes(tmp_path: Path) -> None:
    path = tmp_path / "sysmemd.toml"
    path.write_text("")
    command = (sys.executable, "-m", "sysmemd", "--config", str(path))

    def negotiate(allocator: blocking.Allocator) -> object:
        wish = sysmem.constraints("R8, L8 64x64", cpu="write", hold=1)
        with allocator.allocate_non_shared_collection() as collection:
            collection.set_constraints(wish)
            with collection.wait_for_all_buffers_allocated(timeout=30) as info:
                collection.release()
                image = info.settings.image_format_constraints
                return image and image.pixel_format

    with (
        process(tmp_path, command, stderr=subprocess.DEVNULL) as started,
        blocking.connect(tmp_path / "run") as allocator,
        allocator.allocate_shared_collection() as token,
    ):
        for cheap in (PixelFormat.R8, PixelFormat.L8):
            path.write_text(f'[[format_cost]]\npixel_format = "{cheap.name}"\ncost = 1')
            assert started.reload()[0] == "READY=1"
            assert negotiate(allocator) is cheap
        path.write_text("[limits]\nmax_buffer_bytes = 64")
        assert started.reload()[0] == "READY=1"
        with pytest.raises(sysmem.PeerClosedError, match="over the limit of this daemon"):
            negotiate(allocator)
        for quota in ("[quota]", f"[[quota.user]]\nuser = {os.getuid()}"):
            path.write_text(f"{quota}\ncollections = 1")
            assert started.reload()[0] == "READY=1"
            token.sync()  # the existing settings stay
            with pytest.raises(sysmem.PeerClosedError, match="limit of collections is 1"):
                negotiate(allocator)
        token.release()
        started.send_signal(signal.SIGTERM)
        assert ended(started) == (0, b"")


def test_it_ends_in_order_when_nobody_reads_its_log(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    with process(tmp_path, stderr=write) as started:
        started.send_signal(signal.SIGTERM)
        assert ended(started) == (0, b"")
    os.close(read)
    os.close(write)


def test_without_stderr_nothing_is_written_elsewhere(tmp_path: Path) -> None:
    """Otherwise a channel or the listening socket would be descriptor 2, and receive the log."""
    with process(tmp_path, preexec_fn=_close_stderr) as started:
        target = os.readlink(f"/proc/{started.pid}/fd/2")
        assert target == os.devnull
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(str(tmp_path / "run" / NAME))
            client.send(b"nonsense")  # which is logged
            select.select([client], [], [], 30)
            assert client.recv(100) == b""
        started.send_signal(signal.SIGTERM)
        assert ended(started) == (0, b"")


@as_root
def test_it_serves_when_no_second_thread_can_start(open_path: Path) -> None:
    """The user may have only as many threads as run already (RLIMIT_NPROC). The limit does not apply to root."""
    open_path.chmod(0o777)
    read, write = os.pipe()
    with (
        os.fdopen(read) as log,
        process(open_path, user_process(951, 951, "sysmemd", processes=1), stderr=write) as started,
    ):
        os.close(write)
        started.send_signal(signal.SIGTERM)
        assert ended(started) == (0, b"")
        said = log.read()
    assert "serving" in said
    assert "Traceback" not in said


def _close_stderr() -> None:
    for fd in (0, 2):
        os.close(fd)
