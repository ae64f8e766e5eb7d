"""The rights of the daemon's user, a writer and a reader (`docs/spec/linux.md`, "VMOs")."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from .harness import READ, Bench, Peer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start other users")

WRITER, READER = 65533, 65534


@pytest.fixture
def writer(bench: Bench, new_peer: Callable[..., Peer]) -> Peer:
    return new_peer(WRITER)


@pytest.fixture
def reader(bench: Bench, new_peer: Callable[..., Peer]) -> Peer:
    return new_peer(READER)


@pytest.fixture(autouse=True)
def given(bench: Bench, writer: Peer, reader: Peer) -> None:
    buffers = bench.allocate()
    writer.give(*bench.strong(buffers))
    reader.give(*bench.strong(buffers, READ))


def test_they_are_three_users(writer: Peer, reader: Peer) -> None:
    assert writer.run("result = os.getresuid()") == (WRITER,) * 3
    assert reader.run("result = os.getresuid()") == (READER,) * 3
    assert os.geteuid() not in (WRITER, READER)


def test_reopening_through_proc_is_open_to_them_where_they_own_the_memory(reader: Peer) -> None:
    reader.run("fds.append(os.memfd_create('own')); os.close(reopen(fds[1], os.O_RDWR))")


def test_both_share_the_memory(writer: Peer, reader: Peer) -> None:
    writer.run("maps.append(mmap.mmap(fds[0], 4096)); maps[0][:5] = b'hello'")
    reader.run("maps.append(mmap.mmap(fds[0], 4096, prot=mmap.PROT_READ))")
    assert reader.run("result = maps[0][:5]") == b"hello"


@pytest.mark.parametrize("flags", ["os.O_RDWR", "os.O_WRONLY", "os.O_RDWR | os.O_TRUNC"])
def test_a_read_only_handle_cannot_be_reopened_for_writing(reader: Peer, flags: str) -> None:
    assert reader.run(f"result = refused(reopen, fds[0], {flags})") == "EACCES"


def test_a_writable_handle_gives_no_more_either(writer: Peer) -> None:
    assert writer.run("result = refused(reopen, fds[0], os.O_RDWR)") == "EACCES"


def test_a_read_only_handle_cannot_be_mapped_writable(reader: Peer) -> None:
    assert reader.run("result = refused(mmap.mmap, fds[0], 4096)") == "EACCES"
    # They also can't be made writable later by mprotect of a shared mapping for reading.
    assert (
        reader.run(
            "import ctypes\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "libc.mmap.restype = ctypes.c_void_p\n"
            "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3"
            " + [ctypes.c_long]\n"
            "libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]\n"
            "at = libc.mmap(None, 4096, 1, 1, fds[0], 0)\n"
            "assert libc.mprotect(at, 4096, 3) == -1\n"
            "result = errno.errorcode[ctypes.get_errno()]"
        )
        == "EACCES"
    )


@pytest.mark.parametrize(
    "attempt",
    [
        "os.fchmod, fds[0], 0o666",
        "os.chmod, f'/proc/self/fd/{fds[0]}', 0o666",
        "os.fchown, fds[0], os.getuid(), -1",
        "os.ftruncate, fds[0], 0",
        "os.posix_fallocate, fds[0], 0, 8192",
        "os.pwrite, fds[0], b'x', 0",
        "fcntl.fcntl, fds[0], fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE",
    ],
)
def test_a_read_only_handle_cannot_be_changed(reader: Peer, attempt: str) -> None:
    assert reader.run(f"result = refused({attempt})") != "allowed"


def test_setting_the_flags_does_not_make_it_writable(reader: Peer) -> None:
    reader.run("fcntl.fcntl(fds[0], fcntl.F_SETFL, os.O_RDWR)")
    assert reader.run("result = refused(os.pwrite, fds[0], b'x', 0)") == "EBADF"


@pytest.mark.parametrize("who", ["writer", "reader"])
def test_no_other_user_can_take_a_lease(writer: Peer, reader: Peer, bench: Bench, who: str) -> None:
    peer = {"writer": writer, "reader": reader}[who]
    for kind in ("fcntl.F_RDLCK", "fcntl.F_WRLCK"):
        attempt = f"result = refused(fcntl.fcntl, fds[0], fcntl.F_SETLEASE, {kind})"
        assert peer.run(attempt) != "allowed"
