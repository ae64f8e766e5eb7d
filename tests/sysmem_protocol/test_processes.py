"""Finding the holders of an object, with real descriptors, mappings, messages and processes."""

from __future__ import annotations

import mmap
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sysmem_protocol.processes import Holding, find_holders, named_sockets, process


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("test")
    os.ftruncate(fd, 4096)
    yield fd
    os.close(fd)


def held(fd: int) -> list[Holding]:
    status = os.fstat(fd)
    return find_holders({status.st_ino}, status.st_dev).holdings.get(status.st_ino, [])


def test_a_descriptor_is_found_with_what_it_may_do(memfd: int) -> None:
    reopened = os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY)
    try:
        ways = {holding.fd: (holding.how, holding.writable) for holding in held(memfd)}
    finally:
        os.close(reopened)
    assert ways == {memfd: ("descriptor", True), reopened: ("descriptor", False)}


def test_a_mapping_is_found_after_its_descriptor_is_closed() -> None:
    fd = os.memfd_create("test")
    os.ftruncate(fd, 4096)
    status = os.fstat(fd)
    with mmap.mmap(fd, 4096):
        os.close(fd)
        found = find_holders({status.st_ino}, status.st_dev).holdings[status.st_ino]
    assert "mapping" in {holding.how for holding in found}
    assert {holding.process.pid for holding in found} == {os.getpid()}


def test_another_process_is_found_until_it_is_killed(memfd: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[memfd]
    ) as child:
        assert {holding.process.pid for holding in held(memfd)} == {os.getpid(), child.pid}
        child.kill()
        child.wait()
        assert {holding.process.pid for holding in held(memfd)} == {os.getpid()}


def test_a_message_that_was_not_received_is_found_by_its_socket(memfd: int) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        socket.send_fds(near, [b"x"], [memfd])
        found = find_holders({0}, messages=True).messages
        assert (os.getpid(), far.fileno()) in {(each.process.pid, each.fd) for each in found}
        _, [received], *_ = socket.recv_fds(far, 1, 1)
        os.close(received)
        found = find_holders({0}, messages=True).messages
        assert (os.getpid(), far.fileno()) not in {(each.process.pid, each.fd) for each in found}


def test_an_inode_of_another_file_system_is_another_object(memfd: int) -> None:
    status = os.fstat(memfd)
    assert not find_holders({status.st_ino}, status.st_dev + 1).holdings


def test_the_other_end_of_a_socket_is_found_by_the_name_of_this_end() -> None:
    name = b"\0sysmem-test/" + secrets.token_hex(8).encode() + b"/7"
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        near.bind(name)
        assert named_sockets(name[:-1]) == {name: os.fstat(far.fileno()).st_ino}
    assert named_sockets(name[:-1]) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_processes_that_may_not_be_looked_into_are_told() -> None:
    script = (
        "import os\n"
        "from sysmem_protocol.processes import find_holders\n"
        "os.setgroups([]); os.setgid(54321); os.setuid(54321)\n"
        f"print({os.getpid()} in [each.pid for each in find_holders({{1}}).unseen])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.stdout == "True\n", answer.stderr


def test_a_process_that_is_gone_has_only_its_number() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    gone = process(child.pid)
    assert (gone.pid, gone.uid, gone.command) == (child.pid, None, "")
    assert process(os.getpid()).uid == os.geteuid()
