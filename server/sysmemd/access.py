"""The identity of connecting processes from the kernel, and their access (`docs/spec/robustness.md`, "Access")."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from .config import AccessSection
from .ports import Log, Peer
from .refusals import Refusals

#: From asm-generic/socket.h; Python has no name for it.
_SO_PEERGROUPS = 59
#: `struct ucred`: process, user and group of a peer.
_UCRED = struct.Struct("iII")
#: The number of groups for which there is room in the first attempt.
_USUAL_GROUPS = 256

_libc = ctypes.CDLL(None, use_errno=True)


def peer_of(connected: socket.socket) -> Peer:
    """Return the process that connected, as of that time. Raises `OSError`."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(credentials))


def groups_of(connected: socket.socket) -> Collection[int]:
    """Return the supplementary groups of the process that connected, as of that time. Raises `OSError`."""
    room = _USUAL_GROUPS
    while True:
        groups = array.array("I", bytes(4 * room))
        size = ctypes.c_uint32(4 * room)
        address, _ = groups.buffer_info()
        # The socket's own method has room for at most 256 groups.
        failed = _libc.getsockopt(
            connected.fileno(),
            socket.SOL_SOCKET,
            _SO_PEERGROUPS,
            ctypes.c_void_p(address),
            ctypes.byref(size),
        )
        if not failed:
            return groups[: size.value // 4]
        number = ctypes.get_errno()
        if number != errno.ERANGE:
            raise OSError(number, os.strerror(number))
        room = size.value // 4  # the kernel has returned the number of groups


@dataclass(frozen=True, slots=True)
class Access:
    """The users and groups that may connect. None does not restrict; a match of either is enough."""

    uids: frozenset[int] | None = None
    gids: frozenset[int] | None = None

    @classmethod
    def of(cls, section: AccessSection) -> Access:
        """Return the configured access. Raises `ValueError` if a name no longer exists."""
        return cls(section.uids(), section.gids())

    def text(self) -> str:
        """Return a description for the log."""
        named = (("users", self.uids), ("groups", self.gids))
        return ", ".join(f"{name} {sorted(ids)}" for name, ids in named if ids is not None)

    def allows(self, peer: Peer, groups: Callable[[], Collection[int]]) -> bool:
        """Return whether a process may connect. `groups` returns its supplementary groups, if they are needed."""
        if self.uids is None and self.gids is None:
            return True
        if self.uids is not None and peer.uid in self.uids:
            return True
        if self.gids is None:
            return False
        return peer.gid in self.gids or not self.gids.isdisjoint(groups())


def admit(connected: socket.socket, access: Access, refusals: Refusals, log: Log) -> Peer | None:
    """Return the process that connected. If it has no access, close the connection and return None."""
    try:
        peer = peer_of(connected)
        if access.allows(peer, partial(groups_of, connected)):
            return peer
    except OSError as error:
        log.warning(
            "a connection was refused: the kernel does not report which process connected",
            reason=str(error),
        )
    else:
        refusals.say(
            "a connection was refused: this user may not connect",
            peer.uid,
            limit="access",
            value=access.text(),
            client_name="",
            client_id=0,
            pid=peer.pid,
        )
    connected.close()
    return None
