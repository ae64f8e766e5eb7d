"""Service sockets: created in a directory of this daemon, or passed by a service manager."""

from __future__ import annotations

import errno
import fcntl
import grp
import itertools
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from sysmem_protocol.inspector import Inspector
from sysmem_protocol.library import Interface
from sysmem_protocol.runtime import service_path, socket_address
from sysmem_protocol.sysmem2 import Allocator
from sysmemd.sockets import Listeners, Permissions, RuntimeDirectory, StartError, TakenError, notify

from .recording import RecordingLog

NAME = "fuchsia.sysmem2.Allocator"


@pytest.fixture
def log() -> RecordingLog:
    return RecordingLog()


@contextmanager
def serving(
    directory: Path,
    log: RecordingLog,
    mode: int = 0o600,
    group: str | None = None,
    environ: dict[str, str] | None = None,
) -> Iterator[socket.socket]:
    made = Listeners(
        {Allocator: Permissions(mode, group)},
        directory,
        environ={} if environ is None else environ,
        log=log,
    )
    with closing(made):
        yield made.made[Allocator]


def connect(directory: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket_address(service_path(directory, Allocator)) as address:
        sock.connect(address)
    return sock


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- in the runtime directory -----------------------------------------------------------------------------------------


def test_the_socket_has_the_full_name_and_accepts_and_is_removed(
    tmp_path: Path, log: RecordingLog
) -> None:
    directory = tmp_path / "a" / "b" / "c"
    with serving(directory, log) as listener, connect(directory):
        assert [path.name for path in directory.iterdir()] == [NAME]
        listener.accept()[0].close()
        assert not listener.get_inheritable()
    assert list(directory.iterdir()) == []
    assert log.said("warning") == []


@pytest.mark.parametrize(
    ("mode", "reach"), [(0o600, 0o700), (0o660, 0o710), (0o666, 0o711), (0o640, 0o700)]
)
def test_whom_the_mode_lets_in_can_reach_the_socket_and_not_lock_the_directory(
    tmp_path: Path, log: RecordingLog, mode: int, reach: int
) -> None:
    directory = tmp_path / "run"
    with serving(directory, log, mode):
        assert permissions(service_path(directory, Allocator)) == mode
        assert permissions(directory) == reach


def test_a_socket_is_private_until_it_has_its_mode(
    tmp_path: Path, log: RecordingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    chmod, before = Path.chmod, []

    def noting(path: Path, mode: int) -> None:
        if path.is_socket():
            before.append(permissions(path))
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", noting)
    with serving(tmp_path / "run", log, 0o666):
        assert before == [0o600]


class Second(Interface, library="sysmem"):
    """Another service beside the Allocator."""


@pytest.mark.parametrize(
    ("permitted", "reach"), [(Permissions(0o666), 0o711), (Permissions(0o660, "4711"), 0o701)]
)
def test_each_service_has_permissions_of_its_own_and_the_directory_lets_all_of_them_in(
    tmp_path: Path, log: RecordingLog, permitted: Permissions, reach: int
) -> None:
    directory = tmp_path / "run"
    made = Listeners({Allocator: Permissions(), Second: permitted}, directory, environ={}, log=log)
    with closing(made):
        assert list(made.made) == [Allocator, Second]
        assert permissions(service_path(directory, Allocator)) == 0o600
        assert permissions(service_path(directory, Second)) == permitted.mode
        assert permissions(directory) == reach
    assert os.listdir(directory) == []


def test_a_directory_that_is_there_stays_as_it_is(tmp_path: Path, log: RecordingLog) -> None:
    tmp_path.chmod(0o750)
    with serving(tmp_path, log, 0o666):
        assert permissions(tmp_path) == 0o750


def test_a_directory_in_which_others_may_replace_sockets_is_warned_of(
    tmp_path: Path, log: RecordingLog
) -> None:
    for mode in (0o777, 0o720, 0o702):
        tmp_path.chmod(mode)
        with serving(tmp_path, log):
            (level, event, fields) = log.entries.pop()
            assert level == "warning"
            assert "other users can replace the sockets" in event
            assert fields == {"path": str(tmp_path), "mode": oct(mode)}
    for mode in (0o1777, 0o755):
        tmp_path.chmod(mode)
        with serving(tmp_path, log):
            assert log.said("warning") == []


@pytest.mark.parametrize("by", ["name", "number"])
def test_the_group_of_directory_and_socket(tmp_path: Path, log: RecordingLog, by: str) -> None:
    gid = os.getgid()
    group = str(gid)
    if by == "name":
        try:
            group = grp.getgrgid(gid).gr_name
        except KeyError:
            pytest.skip(f"group {gid} has no name here")
    directory = tmp_path / "run"
    with serving(directory, log, 0o660, group):
        for path in (service_path(directory, Allocator), directory):
            assert (path.stat().st_uid, path.stat().st_gid) == (os.geteuid(), gid)


def test_a_group_that_is_not_there(tmp_path: Path, log: RecordingLog) -> None:
    with (
        pytest.raises(StartError, match="there is no group 'nobody at all'"),
        serving(tmp_path, log, group="nobody at all"),
    ):
        pass


@pytest.mark.parametrize("length", [100, 108, 180])
def test_a_path_of_any_length(tmp_path: Path, log: RecordingLog, length: int) -> None:
    directory = tmp_path / ("d" * length)
    with serving(directory, log), connect(directory):
        assert [path.name for path in directory.iterdir()] == [NAME]
    assert list(directory.iterdir()) == []


def test_a_second_daemon_refuses_to_start(tmp_path: Path, log: RecordingLog) -> None:
    with serving(tmp_path, log), connect(tmp_path):
        with pytest.raises(StartError, match="another sysmemd serves"), serving(tmp_path, log):
            pass
        connect(tmp_path).close()


def test_a_stale_socket_is_replaced(tmp_path: Path, log: RecordingLog) -> None:
    path = service_path(tmp_path, Allocator)
    for name in (path, path.with_name(f".{NAME}")):  # including the leftovers of a crash at start
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(str(name))
    with serving(tmp_path, log), connect(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("full", [False, True], ids=["", "busy"])
def test_a_socket_that_somebody_else_listens_on_is_left_alone(
    tmp_path: Path, log: RecordingLog, full: bool
) -> None:
    path = service_path(tmp_path, Allocator)
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        sock.bind(str(path))
        sock.listen(0)
        if full:
            stack.enter_context(connect(tmp_path))
        with (
            pytest.raises(StartError, match="another process already listens"),
            serving(tmp_path, log),
        ):
            pass
        assert path.is_socket()
        assert len(list(tmp_path.iterdir())) == 1


def test_a_stream_socket_is_in_the_way(tmp_path: Path, log: RecordingLog) -> None:
    path = service_path(tmp_path, Allocator)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen()
        with (
            pytest.raises(StartError, match=r"is in the way: .*wrong type"),
            serving(tmp_path, log),
        ):
            pass


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_what_is_no_socket_is_in_the_way_and_stays(
    tmp_path: Path, log: RecordingLog, kind: str
) -> None:
    path = service_path(tmp_path, Allocator)
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with (
        pytest.raises(StartError, match="is in the way: it isn't a socket"),
        serving(tmp_path, log),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_directory_that_can_not_be_made(tmp_path: Path, log: RecordingLog) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/nothing")):
        with (
            pytest.raises(StartError, match=r"runtime directory .* can't be used"),
            serving(path, log),
        ):
            pass


def test_a_directory_that_nothing_can_be_made_in(tmp_path: Path, log: RecordingLog) -> None:
    (tmp_path / f".{NAME}").mkdir()
    with pytest.raises(StartError, match="can't listen"), serving(tmp_path, log):
        pass


def test_what_somebody_else_put_in_the_place_of_the_socket_is_not_removed(
    tmp_path: Path, log: RecordingLog
) -> None:
    path = service_path(tmp_path, Allocator)
    with serving(tmp_path, log):
        path.unlink()
        path.write_text("not ours")
    assert path.read_text() == "not ours"


@pytest.mark.parametrize(("owner", "name"), [(fcntl, "flock"), (os, "fstat"), (socket, "socket")])
def test_what_has_run_out_is_said_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: RecordingLog, owner: Any, name: str
) -> None:
    """The error does not claim that another daemon serves there, and the daemon can try again."""
    right, calls = getattr(owner, name), itertools.count(1)
    last = 2 if name == "socket" else 1

    def fails(*arguments: Any, **named: Any) -> Any:
        if next(calls) == last:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return right(*arguments, **named)

    services = {Allocator: Permissions(), Inspector: Permissions()}
    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(StartError, match="Cannot allocate memory") as raised:
        Listeners(services, tmp_path, environ={}, log=log)
    assert not isinstance(raised.value, TakenError)
    assert list(tmp_path.iterdir()) == []
    with serving(tmp_path, log), connect(tmp_path):
        pass


def test_a_daemon_that_can_not_watch_its_sockets_serves(
    tmp_path: Path, log: RecordingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysmemd.sockets.Presence", Mock(side_effect=OSError("no watch is left")))
    with serving(tmp_path, log), connect(tmp_path):
        pass
    event = "the daemon will not notice the removal of a service socket"
    assert log.entries == [("warning", event, {"reason": "no watch is left"})]


def test_the_lock_goes_with_the_daemon(tmp_path: Path, log: RecordingLog) -> None:
    made = RuntimeDirectory(tmp_path, {Allocator: Permissions()}, log)
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    made.close()
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


# --- handed over ------------------------------------------------------------------------------------------------------

_HAND_OVER = """
import contextlib, os, socket, sys
from pathlib import Path
from sysmem_protocol.inspector import Inspector
from sysmem_protocol.sysmem2 import Allocator
from sysmemd.sockets import Listeners, Permissions, StartError
class Log:
    def debug(self, event, **fields): pass
    def warning(self, event, **fields): print("warning:", event, fields["name"])
directory, count, names, pid = Path(sys.argv[1]), *sys.argv[2:5]
kinds = {"s": socket.SOCK_SEQPACKET, "t": socket.SOCK_STREAM}
for index, kind in enumerate(sys.argv[5]):
    if kind == "f":
        fd = os.open("/dev/null", os.O_RDONLY)
    elif kind == "-":
        continue
    else:
        sock = socket.socket(socket.AF_UNIX, kinds[kind.lower()])
        sock.bind(str(directory / f"given{index}"))
        if kind.islower():
            sock.listen()
        fd = sock.detach()
    if fd != 3 + index:
        os.dup2(fd, 3 + index); os.close(fd)
environ = {"LISTEN_FDS": count, "LISTEN_FDNAMES": names, "NAME": "x"}
if pid:
    environ["LISTEN_PID"] = pid.replace("own", str(os.getpid()))
try:
    made = Listeners({Allocator: Permissions()}, directory / "run", environ=environ, log=Log())
    with contextlib.closing(made):
        sock = {**made.given, **made.made}[Allocator]
        print(Path(sock.getsockname()).name, os.get_inheritable(sock.fileno()), (directory / "run").exists())
        print(environ)
except StartError as error:
    print(error)
print(sorted(path.name for path in directory.iterdir()))
"""


def handed_over(
    tmp_path: Path, count: str, names: str, kinds: str, pid: str = ""
) -> tuple[list[str], str]:
    """Return the output of a process that is started with descriptors from 3 on.

    They are s(eqpacket), t (stream), f(ile) or none (-). A capital letter is a socket that does not listen.
    """
    process = subprocess.run(
        [sys.executable, "-c", _HAND_OVER, tmp_path, count, names, pid, kinds],
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stderr == ""
    *lines, left = process.stdout.splitlines()
    return lines, left


@pytest.mark.parametrize("pid", ["", "own"])
def test_a_socket_that_was_handed_over_is_used_and_not_removed(tmp_path: Path, pid: str) -> None:
    lines, left = handed_over(tmp_path, "1", NAME, "s", pid)
    assert lines == ["given0 False False", "{'NAME': 'x'}"]
    assert left == "['given0']"


def test_one_among_others(tmp_path: Path) -> None:
    lines, _ = handed_over(tmp_path, "3", f"other:{NAME}", "sss")
    assert lines[:3] == [
        "warning: ignored a passed socket: its name is not that of a service other",
        "warning: ignored a passed socket: its name is not that of a service unnamed 2",
        "given1 False False",
    ]


def test_sockets_for_another_process_are_left_alone(tmp_path: Path) -> None:
    lines, _ = handed_over(tmp_path, "1", NAME, "s", "1")
    assert lines[0].endswith("False True")


def test_without_the_name_an_own_socket_is_made(tmp_path: Path) -> None:
    lines, left = handed_over(tmp_path, "1", "", "s")
    assert (
        lines[0] == "warning: ignored a passed socket: its name is not that of a service unnamed 0"
    )
    assert lines[1].endswith("False True")
    assert left == "['given0', 'run']"


@pytest.mark.parametrize(
    ("count", "names", "kinds", "reason"),
    [
        ("x", NAME, "s", "LISTEN_FDS is 'x', not a number"),
        ("-1", NAME, "s", "LISTEN_FDS is '-1', not a number"),
        ("1", NAME, "t", "isn't a listening SOCK_SEQPACKET socket"),
        ("1", NAME, "S", "isn't a listening SOCK_SEQPACKET socket"),
        ("1", NAME, "f", "Socket operation on non-socket"),
        ("1", NAME, "-", f"descriptor 3 ({NAME!r} of LISTEN_FDS): [Errno 9] Bad file descriptor"),
        ("2", f"{NAME}:{NAME}", "ss", f"LISTEN_FDNAMES has {NAME!r} twice"),
    ],
)
def test_what_was_handed_over_and_can_not_be_used(
    tmp_path: Path, count: str, names: str, kinds: str, reason: str
) -> None:
    [line], _ = handed_over(tmp_path, count, names, kinds)
    assert reason in line


# --- telling the service manager --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["notify", "d" * 200 + "/notify", "@"])
def test_the_service_manager_is_told(tmp_path: Path, where: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        if where == "@":
            manager.bind("")
            address = manager.getsockname().decode()
            name = "@" + address[1:]
        else:
            path = tmp_path / where
            path.parent.mkdir(exist_ok=True)
            with socket_address(path) as address:
                manager.bind(address)
            name = str(path)
        notify({"NOTIFY_SOCKET": name}, "READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nothing"}])
def test_a_service_manager_that_is_not_there_is_not_told(environ: dict[str, str]) -> None:
    notify(environ, "READY=1")
