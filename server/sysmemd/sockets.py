"""Service sockets: made in the runtime directory, or handed over by a service manager (`spec/protocol.md`)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from sysmem_protocol.library import Interface
from sysmem_protocol.runtime import service_path, socket_address

from .ports import Log

#: Connections that wait to be accepted.
_BACKLOG = 1024
#: The first descriptor that a service manager hands over.
_LISTEN_FDS_START = 3


class StartError(Exception):
    """The daemon can't start; the text says why, and what would help."""


@dataclass(frozen=True)
class Permissions:
    """Who may connect to a socket: its permission bits, and its group by name or number (None: the daemon's own)."""

    mode: int = 0o600
    group: str | None = None


class RuntimeDirectory:
    """The directory of the service sockets, kept for this daemon alone while it runs."""

    def __init__(
        self, path: Path, permissions: Mapping[type[Interface], Permissions], log: Log
    ) -> None:
        """Lock the directory. Make it first if it does not exist, with access for those whom the sockets let in.

        The directory belongs to the group of the first interface.
        Raises :class:`StartError` when another daemon has it, or it can't be used.
        """
        self.path = path
        self._modes = {interface: wanted.mode for interface, wanted in permissions.items()}
        self._gids = {
            interface: _group_id(wanted.group) for interface, wanted in permissions.items()
        }
        self._made: dict[Path, tuple[int, int]] = {}
        try:
            self._make()
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StartError(f"the runtime directory {path} can't be used: {error}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise StartError(f"another sysmemd serves {path}") from None
        status = os.fstat(self._fd)
        if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
            log.warning(
                "others may replace the sockets: the runtime directory is writable for them",
                path=str(path),
                mode=oct(stat.S_IMODE(status.st_mode)),
            )

    def _make(self) -> None:
        with contextlib.suppress(FileExistsError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
            # Whoever may talk to a socket must be able to reach it; not to list or open, and so lock, the directory.
            group = next(iter(self._gids.values()))
            reach = 0o700
            for interface, mode in self._modes.items():
                if mode & 0o020:
                    reach |= 0o010 if self._gids[interface] == group else 0o001
                if mode & 0o002:
                    reach |= 0o001
            self.path.chmod(reach)
            if group is not None:
                os.chown(self.path, -1, group)

    def listen(self, interface: type[Interface]) -> socket.socket:
        """A listening socket for an interface, in place of a stale one if need be.

        The socket is made under another name and renamed when it accepts: whoever sees it can connect. That name is
        always the same, so one that a daemon left behind when it crashed is removed by the next.
        Raises :class:`StartError`.
        """
        path = service_path(self.path, interface)
        fresh = path.with_name(f".{path.name}")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._refuse_served(path)
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
            previous = os.umask(0o177)
            try:
                with socket_address(fresh) as address:
                    listener.bind(address)
            finally:
                os.umask(previous)
            fresh.chmod(self._modes[interface])
            if (gid := self._gids[interface]) is not None:
                os.chown(fresh, -1, gid)
            listener.listen(_BACKLOG)
            status = fresh.stat()
            fresh.rename(path)
        except OSError as error:
            listener.close()
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise StartError(f"{path}: can't listen: {error}") from None
        except StartError:
            listener.close()
            raise
        self._made[path] = (status.st_dev, status.st_ino)
        return listener

    @staticmethod
    def _refuse_served(path: Path) -> None:
        """Raise `StartError` for anything but a stale socket: one that somebody listens on isn't, whoever that is."""
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise StartError(f"{path} is in the way: it isn't a socket")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            probe.setblocking(False)
            try:
                with socket_address(path) as address:
                    probe.connect(address)
            except OSError as error:
                if error.errno == errno.ECONNREFUSED:
                    return
                if error.errno != errno.EAGAIN:  # EAGAIN: it listens, and is busy
                    raise StartError(f"{path} is in the way: {error}") from None
        raise StartError(f"somebody else listens on {path} already")

    def close(self) -> None:
        """Remove the sockets that are still this daemon's, and let the directory go."""
        for path, identity in self._made.items():
            with contextlib.suppress(OSError):
                status = path.lstat()
                if (status.st_dev, status.st_ino) == identity:
                    path.unlink()
        os.close(self._fd)


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    if group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise StartError(f"there is no group {group!r}") from None


def inherited(environ: MutableMapping[str, str], log: Log) -> dict[str, socket.socket]:
    """The listening sockets that a service manager handed over, by name; the variables are removed.

    Raises :class:`StartError` for a descriptor that isn't a listening SOCK_SEQPACKET socket.
    """
    count, pid, names = (
        environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
    )
    if not count or (pid and pid != str(os.getpid())):
        return {}
    if not count.isdecimal():
        raise StartError(f"LISTEN_FDS is {count!r}, not a number")
    named = names.split(":")
    found: dict[str, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        for index in range(int(count)):
            fd = _LISTEN_FDS_START + index
            name = named[index] if index < len(named) and named[index] else f"unnamed {index}"
            if name in found:
                raise StartError(f"LISTEN_FDNAMES has {name!r} twice")
            found[name] = stack.enter_context(_inherit(fd, name))
            log.debug("a socket was handed over", name=name, fd=fd)
        stack.pop_all()
    return found


def _inherit(fd: int, name: str) -> socket.socket:
    who = f"descriptor {fd} ({name!r} of LISTEN_FDS)"
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise StartError(f"{who}: {error}") from None
    accepts = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not accepts or sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
        sock.close()
        raise StartError(f"{who} isn't a listening SOCK_SEQPACKET socket")
    return sock


@contextlib.contextmanager
def listeners(
    permissions: Mapping[type[Interface], Permissions],
    directory: Path,
    *,
    environ: MutableMapping[str, str],
    log: Log,
) -> Iterator[dict[type[Interface], socket.socket]]:
    """A listening socket for each interface, handed over or made; those that were made are removed at the end.

    Raises :class:`StartError`.
    """
    with contextlib.ExitStack() as stack:
        given = inherited(environ, log)
        for sock in given.values():
            stack.enter_context(sock)
        found = {i: given.pop(i.service_name()) for i in permissions if i.service_name() in given}
        for name in given:
            log.warning("a socket was handed over that nothing is served on", name=name)
        missing = {i: wanted for i, wanted in permissions.items() if i not in found}
        if missing:
            made = RuntimeDirectory(directory, missing, log)
            stack.callback(made.close)
            for interface in missing:
                found[interface] = stack.enter_context(made.listen(interface))
        yield found


def notify(environ: MutableMapping[str, str], state: str) -> None:
    """Tell the service manager, if there is one (NOTIFY_SOCKET)."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.setblocking(False)
        sock.sendto(state.encode(), address)
