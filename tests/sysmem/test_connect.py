"""Connecting to the daemon, or reporting clearly that there is none."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import anyio
import pytest

import sysmem
from sysmem import _connect, blocking
from sysmem._process import process_name
from sysmem_protocol.codec import Decoder
from sysmem_protocol.runtime import socket_address
from sysmem_protocol.sysmem2 import Allocator, SetDebugClientInfoRequest

from ..users import as_root, user_process

SOCKET = "fuchsia.sysmem2.Allocator"


@contextmanager
def listening(directory: Path) -> Iterator[socket.socket]:
    """A socket at the daemon's path, whose owner does not accept connections."""
    directory.mkdir(parents=True, exist_ok=True)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as made,
        socket_address(directory / SOCKET) as address,
    ):
        made.bind(address)
        made.listen(1)
        yield made


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with listening(tmp_path) as made:
        yield made


def hello(listener: socket.socket) -> SetDebugClientInfoRequest:
    """The first messages of a new client."""
    with listener.accept()[0] as accepted:
        data = accepted.recv(4096)
    assert data[8:16] == Allocator.set_debug_client_info.ordinal.to_bytes(8, "little")
    return Decoder().table(SetDebugClientInfoRequest, data[16:], [])


def test_a_client_says_who_it_is(listener: socket.socket, tmp_path: Path) -> None:
    with blocking.connect(tmp_path):
        assert hello(listener) == SetDebugClientInfoRequest(name=process_name(), id=os.getpid())
    with blocking.connect(str(tmp_path), name="camera", id=7):
        assert hello(listener) == SetDebugClientInfoRequest(name="camera", id=7)


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("x" * 255 + "é", ValueError, "name: 257 bytes of UTF-8, at most 256 are allowed"),
        (7, TypeError, "name: expected a str, not int 7"),
    ],
)
def test_a_name_that_cannot_be_sent_is_refused(
    tmp_path: Path, name: Any, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        blocking.connect(tmp_path, name=name)


def test_the_process_s_name_is_the_one_that_ps_shows() -> None:
    assert process_name() == Path("/proc/self/comm").read_text().strip()


# --- where a daemon is looked for -------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The places in which a client looks, in order."""
    found = [tmp_path / "named", tmp_path / "session" / "sysmem", tmp_path / "system"]
    monkeypatch.setenv("SYSMEM_RUNTIME_DIR", str(found[0]))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(found[1].parent))
    monkeypatch.setattr("sysmem_protocol.runtime.SYSTEM_RUNTIME_DIR", found[2])
    return found


@pytest.mark.parametrize("index", range(3))
def test_the_first_place_with_a_daemon_is_where_a_client_connects(
    places: list[Path], index: int
) -> None:
    with (
        listening(places[2]) as last,
        listening(places[index]) if index < 2 else nullcontext(last) as first,
    ):
        with blocking.connect(id=7):
            assert hello(first).id == 7
        with sysmem.connect(id=8):
            assert hello(first).id == 8


@contextmanager
def in_the_way(directory: Path, what: str) -> Iterator[None]:
    """A file at the socket's path that is not a daemon's socket."""
    directory.mkdir(parents=True)
    place = directory / SOCKET
    if what == "file":
        place.touch()
    elif what == "loop":
        place.symlink_to(SOCKET)
    elif what == "stale":
        with listening(directory):
            pass
    else:
        with socket.socket(socket.AF_UNIX, socket.SocketKind[what]) as made:
            made.bind(str(place))
            yield
        return
    yield


@pytest.mark.parametrize("what", ["stale", "SOCK_STREAM", "SOCK_DGRAM", "file", "loop"])
def test_a_place_with_something_else_is_passed_over(places: list[Path], what: str) -> None:
    with in_the_way(places[0], what), listening(places[2]) as daemon, blocking.connect(id=7):
        assert hello(daemon).id == 7


@pytest.mark.parametrize("what", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_a_socket_of_another_type_is_named(tmp_path: Path, what: str) -> None:
    directory = tmp_path / "run"
    with (
        in_the_way(directory, what),
        pytest.raises(
            sysmem.DaemonUnavailableError, match=f"{directory}/{SOCKET}: a socket of another"
        ),
    ):
        blocking.connect(directory)


def test_the_error_lists_the_places_and_what_would_help(places: list[Path]) -> None:
    with (
        in_the_way(places[1], "stale"),
        pytest.raises(sysmem.DaemonUnavailableError) as caught,
    ):
        blocking.connect()
    missing, refused = "No such file or directory", "Connection refused"
    for place, reason in zip(places, (missing, refused, missing), strict=True):
        assert f"{place}/{SOCKET}: {reason}" in str(caught.value)
    assert f"`sysmemd --runtime-dir {places[0]}` starts one" in str(caught.value)
    assert "SYSMEM_RUNTIME_DIR names" in str(caught.value)


def test_a_place_that_was_named_in_the_call_is_the_only_one(places: list[Path]) -> None:
    with listening(places[1]), pytest.raises(sysmem.DaemonUnavailableError) as caught:
        blocking.connect(places[0])
    assert str(places[0]) in str(caught.value)
    assert str(places[1]) not in str(caught.value)


def test_a_busy_daemon_is_the_one_to_use(places: list[Path]) -> None:
    with listening(places[0]), listening(places[1]), ExitStack() as stack:
        stack.enter_context(sysmem.connect())
        stack.enter_context(sysmem.connect())
        with pytest.raises(sysmem.DaemonUnavailableError):
            sysmem.connect()
        with pytest.raises(TimeoutError):
            blocking.connect(timeout=0.01)


@as_root
def test_a_user_whom_the_socket_does_not_let_in_is_told_of_its_group(open_path: Path) -> None:
    with listening(open_path / "run"):
        (open_path / "run" / SOCKET).chmod(0o600)
        (open_path / "run").chmod(0o755)
        command = user_process(
            12345, 12345, "sysmemctl", "--runtime-dir", str(open_path / "run"), "ping"
        )
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        f"{SOCKET}: Permission denied; a service is open to the users in its group" in done.stderr
    )


def test_running_out_of_descriptors_is_no_word_about_the_daemon(
    listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(_connect, "new_channel", fail)
    with pytest.raises(OSError, match="Too many open files") as caught:
        blocking.connect(tmp_path)
    assert not isinstance(caught.value, ConnectionError)


def test_a_path_that_is_too_long_for_a_socket_is_reached(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    with listening(deep) as listener, blocking.connect(deep):
        assert hello(listener).id == os.getpid()


def test_no_daemon_is_an_error_that_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(sysmem.DaemonUnavailableError, match=f"{tmp_path}/{SOCKET}") as caught:
        blocking.connect(tmp_path)
    assert isinstance(caught.value, ConnectionError)
    with pytest.raises(sysmem.DaemonUnavailableError):
        blocking.connect(tmp_path / ("x" * 200))
    (tmp_path / "file").touch()
    with pytest.raises(sysmem.DaemonUnavailableError):
        blocking.connect(tmp_path / "file")


def test_a_dead_daemon_s_socket_is_no_daemon(listener: socket.socket, tmp_path: Path) -> None:
    listener.close()
    with pytest.raises(sysmem.DaemonUnavailableError, match="refused"):
        blocking.connect(tmp_path)


def test_the_async_face_never_waits_to_connect(listener: socket.socket, tmp_path: Path) -> None:
    connected = [sysmem.connect(tmp_path), sysmem.connect(tmp_path)]
    with pytest.raises(sysmem.DaemonUnavailableError):
        sysmem.connect(tmp_path)  # two connections wait to be accepted already
    for allocator in connected:
        allocator.close()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_connect_in_an_async_function(
    listener: socket.socket, tmp_path: Path, backend: str
) -> None:
    async def test() -> None:
        async with sysmem.connect(tmp_path, name="a") as allocator:
            assert hello(listener).name == "a"
        assert allocator.closed
        allocator = await sysmem.connect(tmp_path, name="b")
        assert hello(listener).name == "b"
        allocator.close()
        with sysmem.connect(tmp_path, name="c"):
            assert hello(listener).name == "c"

    anyio.run(test, backend=backend)
