"""`docs/spec/protocol.md`, "Channels and services"; `docs/spec/client-api.md`, the daemon in the foreground."""

from __future__ import annotations

import contextlib
import grp
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from .process import SERVICE, Daemon, run
from .raw import PATIENCE, Allocator, Wire, assert_close, until

Start = Callable[..., Daemon]


def reach(wire: Wire) -> Allocator:
    """Connect to a daemon that is starting."""
    for _ in until():
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            allocator = wire.connect()
            allocator.sync()
            return allocator
    raise AssertionError


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


# The runtime directory


def test_the_runtime_directory_and_its_sockets_are_private_by_default(start: Start) -> None:
    daemon = start()
    assert mode(daemon.runtime_dir / SERVICE) == 0o600
    assert mode(daemon.runtime_dir) & 0o022 == 0


def test_mode_and_group_apply_to_the_sockets(start: Start) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a socket to another group takes root")
    other = next(group for group in grp.getgrall() if group.gr_gid not in (0, os.getegid()))
    daemon = start("--mode", "0660", "--group", other.gr_name)
    path = daemon.runtime_dir / SERVICE
    assert mode(path) == 0o660
    assert path.stat().st_gid == other.gr_gid
    # a member of the group must be able to reach the socket
    assert mode(daemon.runtime_dir) & 0o010
    assert daemon.runtime_dir.stat().st_gid == other.gr_gid or mode(daemon.runtime_dir) & 0o001


def test_an_unknown_group_or_a_bad_mode_is_refused(tmp_path: Path) -> None:
    for option, value in (("group", "no-such-group-here"), ("mode", "rw"), ("mode", "0999")):
        ended = run("--runtime-dir", tmp_path / "run", f"--{option}", value)
        assert ended.returncode != 0
        assert option in ended.stderr
        assert ended.stdout == ""


def test_the_runtime_directory_is_made_with_its_parents(start: Start, tmp_path: Path) -> None:
    daemon = start(runtime_dir=tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c" / SERVICE).is_socket()
    daemon.stop()


@pytest.mark.parametrize("by", ["SYSMEM_RUNTIME_DIR", "XDG_RUNTIME_DIR"])
def test_the_runtime_directory_comes_from_the_environment(tmp_path: Path, by: str) -> None:
    directory = tmp_path / "sysmem"
    value = directory if by == "SYSMEM_RUNTIME_DIR" else tmp_path
    environment = {
        name: text
        for name, text in os.environ.items()
        if name not in ("SYSMEM_RUNTIME_DIR", "XDG_RUNTIME_DIR")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "sysmemd"],
        env=environment | {by: str(value)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        with Wire(directory) as wire:
            reach(wire)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (0, b"")
    finally:
        process.kill()
        process.communicate()


# Start and stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(start: Start, number: int) -> None:
    daemon = start()
    with Wire(daemon.runtime_dir) as wire:
        allocator = wire.connect()
        token, collection = allocator.shared(), allocator.non_shared()
        mapping = collection.allocate().vmo().map()
        token.sync()
        daemon.stop(number)
        assert_close(allocator, token, collection)
        mapping[:1] = b"x"
    assert not (daemon.runtime_dir / SERVICE).exists()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_further_signals_while_it_stops_change_nothing(start: Start, first: int) -> None:
    daemon = start()
    daemon.watcher.close()
    daemon.process.send_signal(first)
    daemon.process.send_signal(signal.SIGINT)
    daemon.process.send_signal(signal.SIGTERM)
    for _ in until():
        if not (daemon.runtime_dir / SERVICE).exists():
            break
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(PATIENCE) == 0
    assert not (daemon.runtime_dir / SERVICE).exists()
    daemon.assert_log_is_sound()


def test_it_stops_while_clients_do_not_read(start: Start) -> None:
    daemon = start()
    with Wire(daemon.runtime_dir) as wire:
        token = wire.connect().shared()
        for txid in range(1, 900):
            token.send("Node.Sync", txid=txid)
        wire.connect().sync()
        daemon.stop()


def test_a_second_daemon_on_the_same_directory_refuses_to_start(start: Start) -> None:
    daemon = start()
    ended = run("--runtime-dir", daemon.runtime_dir)
    assert ended.returncode != 0
    assert str(daemon.runtime_dir) in ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    with Wire(daemon.runtime_dir) as wire:
        wire.connect().sync()


def test_of_daemons_that_start_at_once_one_wins(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "sysmemd", "--runtime-dir", tmp_path / "run"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(4)
    ]
    try:
        for _ in range(3):
            assert os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT) is not None
            ended = next(p for p in processes if p.returncode is None and p.poll() is not None)
            assert ended.returncode == 1
        (winner,) = [process for process in processes if process.poll() is None]
        with Wire(tmp_path / "run") as wire:
            reach(wire)
        winner.terminate()
        assert winner.wait(PATIENCE) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_stale_socket_of_a_dead_daemon_is_replaced(start: Start, tmp_path: Path) -> None:
    daemon = start(directory=tmp_path / "first", runtime_dir=tmp_path / "run")
    daemon.kill()
    assert (tmp_path / "run" / SERVICE).is_socket()
    again = start(directory=tmp_path / "second", runtime_dir=tmp_path / "run")
    with Wire(again.runtime_dir) as wire:
        wire.connect().sync()


def test_what_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / SERVICE).write_text("precious")
    ended = run("--runtime-dir", directory)
    assert ended.returncode != 0
    assert (directory / SERVICE).read_text() == "precious"


def test_the_directory_of_another_user_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run("--runtime-dir", tmp_path / "file" / "run")
    assert ended.returncode != 0
    assert str(tmp_path / "file") in ended.stderr
    assert "Traceback" not in ended.stderr


def test_collection_ids_are_not_reused_by_a_later_daemon(start: Start, tmp_path: Path) -> None:
    seen: set[int] = set()
    for number in range(3):
        daemon = start(directory=tmp_path / str(number))
        with Wire(daemon.runtime_dir) as wire:
            ids = {wire.connect().shared().collection_id() for _ in range(20)}
            assert not ids & seen
            seen |= ids
        daemon.stop()


def test_nobody_can_prevent_the_stop_by_a_full_log_pipe(tmp_path: Path) -> None:
    """The log never blocks, although this stderr is not read."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sysmemd", "--runtime-dir", tmp_path / "run"),
            *("--log-format", "json"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        with Wire(tmp_path / "run") as wire:
            allocator = reach(wire)
            for _ in range(400):
                collection = allocator.non_shared()
                collection.set_debug_client_info("n" * 256, 1)
                collection.send("Node.SetVerboseLogging")
                collection.set_constraints({})
                collection.assert_closes()
                collection.close()
            allocator.sync()
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()


# Passed sockets, readiness


LAUNCH = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
if int(sys.argv[1]) != 3:
    os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.execv(sys.executable, [sys.executable, "-m", "sysmemd", *sys.argv[2:]])
"""


@contextlib.contextmanager
def passed(
    tmp_path: Path, listener: socket.socket, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Pass a listener to a daemon, and kill the daemon after the block if it still runs."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", LAUNCH, str(listener.fileno())),
            *("--runtime-dir", str(tmp_path / "run")),
        ],
        pass_fds=[listener.fileno()],
        env=os.environ | dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_listening_socket_passed_in_is_used_and_not_removed(tmp_path: Path) -> None:
    path = tmp_path / SERVICE
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        environment = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": SERVICE}
        with passed(tmp_path, listener, environment) as process:
            with Wire(tmp_path) as wire:
                wire.allocated()
            process.terminate()
            out, error = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, error
            assert out == b""
    assert path.is_socket()
    assert not (tmp_path / "run" / SERVICE).exists()


@contextlib.contextmanager
def launched(tmp_path: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Run a daemon as a service manager does. It must stop in order after the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sysmemd", "--runtime-dir", tmp_path / "run"],
        env=os.environ | dict(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def test_sockets_meant_for_another_process_are_not_used(tmp_path: Path) -> None:
    """LISTEN_PID is that of another process, so the daemon creates its own socket."""
    environment = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": SERVICE, "LISTEN_PID": "1"}
    with launched(tmp_path, environment), Wire(tmp_path / "run") as wire:
        reach(wire)


def test_a_passed_socket_of_the_wrong_type_is_refused_by_name(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(tmp_path / SERVICE))
        listener.listen()
        environment = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": SERVICE}
        with passed(tmp_path, listener, environment) as process:
            _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert SERVICE.encode() in error
    assert b"Traceback" not in error


def test_ready_is_said_when_the_sockets_accept(start: Start) -> None:
    daemon = start()  # waits for READY=1
    with Wire(daemon.runtime_dir) as wire:
        wire.connect().sync()


def test_ready_is_said_to_an_abstract_socket_too(tmp_path: Path) -> None:
    name = f"\0wire-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(name)
        notify.settimeout(PATIENCE)
        with launched(tmp_path, {"NOTIFY_SOCKET": "@" + name[1:]}):
            assert b"READY=1" in notify.recv(4096)
            with Wire(tmp_path / "run") as wire:
                wire.connect().sync()


def test_nothing_is_printed_to_stdout_whatever_happens(start: Start) -> None:
    daemon = start("--log-format", "console")
    with Wire(daemon.runtime_dir) as wire:
        token = wire.connect().shared()
        token.send_bytes(b"?")
        token.assert_closes()
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(PATIENCE) == 0
    assert daemon.out_path.read_bytes() == b""
    assert daemon.log_path.read_bytes() != b""
