"""Finds the processes that have an object open, with /proc and sock_diag(7).

A caller sees its own processes; root, or a process with CAP_SYS_PTRACE, sees those of all users. The functions report
which processes the caller could not inspect, so that "not seen" is not mistaken for "not there".
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

#: How a process holds an object: by a descriptor, by a mapping, or by an unreceived message.
How = Literal["descriptor", "mapping", "message"]

# From linux/netlink.h, linux/sock_diag.h and linux/unix_diag.h.
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_UDIAG_SHOW_NAME_AND_PEER: Final = 0x1 | 0x4
_UNIX_DIAG_NAME: Final = 0
_UNIX_DIAG_PEER: Final = 2
_ALL_STATES: Final = 0xFFFF_FFFF

_NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBHIIIII")  # family, protocol, padding, states, inode, show, cookie
_ANSWER = struct.Struct("=BBBBIII")  # family, type, state, padding, inode, cookie
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_DUMP_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine."""

    pid: int
    #: The owner's user number; None if the process is gone.
    uid: int | None
    #: The name that `ps` shows; empty if the process is gone.
    command: str

    def __str__(self) -> str:
        return f"{self.command or 'a process'} ({self.pid})"


@dataclass(frozen=True, slots=True)
class Holding:
    """One way in which a process holds an object."""

    process: Process
    how: How
    #: The number of the descriptor. For a message, the socket with the queued descriptors. None for a mapping.
    fd: int | None
    writable: bool | None


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search in /proc."""

    #: By inode.
    holdings: Mapping[int, list[Holding]]
    #: Processes with sockets whose queues contain descriptors. Which descriptors is not visible.
    messages: list[Holding]
    #: Processes that the caller may not inspect.
    unseen: list[Process]


def process(pid: int) -> Process:
    """Return the available information about a process; only its pid if it has ended."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            command = file.read().decode(errors="replace").rstrip("\n")
        return Process(pid, os.stat(f"/proc/{pid}").st_uid, command)
    except OSError:
        return Process(pid, None, "")


def pids() -> list[int]:
    """Return the pids of all processes in this PID namespace."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def find_holders(inodes: set[int], device: int | None = None, *, messages: bool = False) -> Found:
    """Find the processes that hold files or sockets with these inode numbers.

    Args:
        inodes: The numbers to look for.
        device: The `st_dev` that the objects must be on; None for any.
        messages: Whether to find sockets with descriptors in their queues too.
    """
    holdings: dict[int, list[Holding]] = {}
    waiting: list[Holding] = []
    unseen: list[Process] = []
    for pid in pids():
        try:
            held = list(_descriptors(pid, inodes, device, waiting if messages else None))
            held += _mappings(pid, inodes, device)
        except PermissionError:
            unseen.append(process(pid))
            continue
        except OSError:
            continue  # the process has ended
        for inode, holding in held:
            holdings.setdefault(inode, []).append(holding)
    # A process that was ending could not be inspected either, and holds nothing any more.
    return Found(holdings, waiting, [each for each in unseen if not _has_ended(each.pid)])


def _has_ended(pid: int) -> bool:
    """Return whether a process is a zombie or gone, and so has nothing open any more."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"Z", b"X")
    except OSError:
        return True


def _descriptors(
    pid: int, inodes: set[int], device: int | None, waiting: list[Holding] | None
) -> Iterator[tuple[int, Holding]]:
    who: Process | None = None
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        try:
            status = os.stat(path)
        except PermissionError:
            raise
        except OSError:
            continue  # the descriptor was closed meanwhile
        found = status.st_ino in inodes and device in (None, status.st_dev)
        queued = waiting is not None and stat.S_ISSOCK(status.st_mode) and _queued(pid, name) > 0
        if not found and not queued:
            continue
        who = who or process(pid)
        if found:
            yield status.st_ino, Holding(who, "descriptor", int(name), _writable(pid, name))
        if queued and waiting is not None:
            waiting.append(Holding(who, "message", int(name), None))


def _mappings(pid: int, inodes: set[int], device: int | None) -> Iterator[tuple[int, Holding]]:
    who: Process | None = None
    seen = set()
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            _, permissions, _, numbers, inode, *_ = line.split(maxsplit=5)
            if int(inode) not in inodes:
                continue
            major, minor = (int(part, 16) for part in numbers.split(":"))
            key = (int(inode), "w" in permissions)
            if key in seen or device not in (None, os.makedev(major, minor)):
                continue
            seen.add(key)
            who = who or process(pid)
            yield int(inode), Holding(who, "mapping", None, key[1])


def _fdinfo(pid: int, name: str, key: str) -> str | None:
    with (
        contextlib.suppress(FileNotFoundError, ProcessLookupError),
        open(f"/proc/{pid}/fdinfo/{name}") as lines,
    ):
        for line in lines:
            if line.startswith(f"{key}:"):
                return line.partition(":")[2].strip()
    return None


def _queued(pid: int, name: str) -> int:
    """Return the number of descriptors in a socket's queue (`scm_fds`, since Linux 5.6)."""
    return int(_fdinfo(pid, name, "scm_fds") or 0)


def _writable(pid: int, name: str) -> bool | None:
    flags = _fdinfo(pid, name, "flags")
    return None if flags is None else int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


def named_sockets(prefix: bytes) -> dict[bytes, int]:
    """Return the inode of the *other* end of each connected Unix socket whose name begins with `prefix`, by name.

    The kernel reports sockets of all users in the caller's network namespace (sock_diag(7)).
    Raises `OSError` if the kernel has no sock_diag for Unix sockets.
    """
    found = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        request = _REQUEST.pack(
            socket.AF_UNIX, 0, 0, _ALL_STATES, 0, _UDIAG_SHOW_NAME_AND_PEER, 0, 0
        )
        length = _NLMSG.size + len(request)
        netlink.send(_NLMSG.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + request)
        for body in _messages(netlink):
            name, peer = _name_and_peer(body)
            if name.startswith(prefix) and peer is not None:
                found[name] = peer
    return found


def _messages(netlink: socket.socket) -> Iterator[bytes]:
    while True:
        data = netlink.recv(_DUMP_BYTES)
        while data:
            length, kind, *_ = _NLMSG.unpack_from(data)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                (number,) = struct.unpack_from("=i", data, _NLMSG.size)
                raise OSError(-number, f"sock_diag: {os.strerror(-number)}")
            yield data[_NLMSG.size : length]
            data = data[_aligned(length) :]


def _name_and_peer(body: bytes) -> tuple[bytes, int | None]:
    name, peer = b"", None
    rest = body[_ANSWER.size :]
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        value = rest[_ATTRIBUTE.size : length]
        if kind == _UNIX_DIAG_NAME:
            name = value
        elif kind == _UNIX_DIAG_PEER:
            (peer,) = struct.unpack("=I", value)
        rest = rest[_aligned(length) :]
    return name, peer or None


def _aligned(length: int) -> int:
    return (length + 3) & ~3
