"""Reaching the daemon, or saying clearly that it isn't there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import sysmem
from sysmem import blocking
from sysmem._connect import cut, process_name
from sysmem_protocol.codec import Decoder
from sysmem_protocol.runtime import runtime_dir, socket_address
from sysmem_protocol.sysmem2 import Allocator, SetDebugClientInfoRequest

SOCKET = "fuchsia.sysmem2.Allocator"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening,
        socket_address(tmp_path / SOCKET) as address,
    ):
        listening.bind(address)
        listening.listen(1)
        yield listening


def hello(listener: socket.socket) -> SetDebugClientInfoRequest:
    """What a new client says first."""
    with listener.accept()[0] as accepted:
        data = accepted.recv(4096)
    assert data[8:16] == Allocator.set_debug_client_info.ordinal.to_bytes(8, "little")
    return Decoder().table(SetDebugClientInfoRequest, data[16:], [])


def test_a_client_says_who_it_is(listener: socket.socket, tmp_path: Path) -> None:
    with blocking.connect(tmp_path):
        assert hello(listener) == SetDebugClientInfoRequest(name=process_name(), id=os.getpid())
    with blocking.connect(str(tmp_path), name="camera", id=7):
        assert hello(listener) == SetDebugClientInfoRequest(name="camera", id=7)


def test_the_name_is_cut_between_characters() -> None:
    assert cut("x" * 256) == "x" * 256
    assert cut("x" * 255 + "é") == "x" * 255
    with pytest.raises(TypeError):
        blocking.connect(name=7)  # type: ignore[arg-type]  # what is tested


def test_the_process_s_name_is_the_one_that_ps_shows() -> None:
    assert process_name() == Path("/proc/self/comm").read_text().strip()


def test_the_first_runtime_directory_that_is_said(tmp_path: Path) -> None:
    both = {"SYSMEM_RUNTIME_DIR": "/a", "XDG_RUNTIME_DIR": "/b"}
    assert runtime_dir("/c", both) == Path("/c")
    assert runtime_dir(None, both) == Path("/a")
    assert runtime_dir(None, {"XDG_RUNTIME_DIR": "/b"}) == Path("/b/sysmem")
    assert runtime_dir(None, {}) == Path("/run/sysmem")
    assert runtime_dir(None, {"SYSMEM_RUNTIME_DIR": "", "XDG_RUNTIME_DIR": ""}) == Path(
        "/run/sysmem"
    )


def test_a_path_that_is_too_long_for_a_socket_is_reached(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening,
        socket_address(deep / SOCKET) as address,
    ):
        listening.bind(address)
        listening.listen(1)
        with blocking.connect(deep):
            assert hello(listening).id == os.getpid()


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
        sysmem.connect(tmp_path)  # two wait to be accepted already
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
