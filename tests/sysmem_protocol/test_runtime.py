"""Where the daemon's sockets are (`docs/spec/protocol.md`, "Channels and services")."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from pathlib import Path

import pytest

from sysmem_protocol.runtime import (
    MAX_SOCKET_PATH_BYTES,
    runtime_dir,
    runtime_dirs,
    service_path,
    socket_address,
)
from sysmem_protocol.sysmem2 import Allocator

ALL = {"SYSMEM_RUNTIME_DIR": "/named", "XDG_RUNTIME_DIR": "/session"}


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ("/given", ALL, "/given"),
        (Path("/given"), {}, "/given"),
        (None, ALL, "/named"),
        (None, {"XDG_RUNTIME_DIR": "/session"}, "/session/sysmem"),
        (None, {}, "/run/sysmem"),
        (None, {"SYSMEM_RUNTIME_DIR": "", "XDG_RUNTIME_DIR": "/session"}, "/session/sysmem"),
        (None, {"SYSMEM_RUNTIME_DIR": "", "XDG_RUNTIME_DIR": ""}, "/run/sysmem"),
    ],
)
def test_the_runtime_directory_is_the_first_that_applies(
    given: str | Path | None, environ: dict[str, str], expected: str
) -> None:
    assert runtime_dir(given, environ) == Path(expected)


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ("/given", ALL, ["/given"]),
        (None, ALL, ["/named", "/session/sysmem", "/run/sysmem"]),
        (None, {"XDG_RUNTIME_DIR": "/session"}, ["/session/sysmem", "/run/sysmem"]),
        (None, {"SYSMEM_RUNTIME_DIR": "", "XDG_RUNTIME_DIR": ""}, ["/run/sysmem"]),
    ],
)
def test_a_client_looks_in_each_place_of_the_order_unless_it_was_told_one(
    given: str | None, environ: dict[str, str], expected: list[str]
) -> None:
    assert runtime_dirs(given, environ) == [Path(place) for place in expected]


def test_the_programs_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSMEM_RUNTIME_DIR", "/named")
    assert runtime_dir() == Path("/named")


def test_a_services_socket_has_the_protocols_full_name() -> None:
    path = service_path(Path("/run/sysmem"), Allocator)
    assert path == Path("/run/sysmem/fuchsia.sysmem2.Allocator")


@pytest.mark.parametrize("length", [60, MAX_SOCKET_PATH_BYTES, MAX_SOCKET_PATH_BYTES + 1, 400])
def test_a_path_of_any_length_can_be_listened_and_connected_at(length: int) -> None:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        missing = length - len(bytes(service_path(directory, Allocator))) - 1
        while missing > 0:
            directory /= "d" * min(missing, 200)
            missing -= 201
        directory.mkdir(parents=True, exist_ok=True)
        path = service_path(directory, Allocator)
        assert len(bytes(path)) == length
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        with socket_address(path) as address:
            listener.bind(address)
        listener.listen()
        assert path.is_socket()
        with socket_address(path) as address:
            client.connect(address)


def test_a_long_path_without_its_directory_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), socket_address(tmp_path / ("d" * 200) / "s"):
        pass


@pytest.mark.parametrize(("length", "is_kept"), [(82, True), (83, False)])
def test_a_name_is_kept_if_it_fits_after_any_descriptors_number(
    tmp_path: Path, length: int, is_kept: bool
) -> None:
    path = tmp_path / ("d" * 200) / ("s" * length)
    path.parent.mkdir()
    path.touch()
    with socket_address(path) as address:
        assert address.endswith(path.name) is is_kept


def test_a_name_that_is_itself_too_long_can_be_connected_to(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        with socket_address(tmp_path / "short") as address:
            listener.bind(address)
        listener.listen()
        path = (tmp_path / "short").rename(tmp_path / ("s" * 255))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            with socket_address(path) as address:
                client.connect(address)
            assert path.name not in address
