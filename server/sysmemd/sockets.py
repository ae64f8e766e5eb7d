"""Service sockets: created in the runtime directory, or passed by a service manager (`docs/spec/protocol.md`)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from sysmem_protocol.library import Interface
from sysmem_protocol.runtime import service_path, socket_address

from .config import MetricsAddress, group_id
from .ports import Log
from .presence import Presence

#: The maximum number of connections that wait to be accepted.
_BACKLOG = 1024
#: The path of metrics over HTTP.
METRICS_PATH = "/metrics"
#: The first descriptor that a service manager passes.
_LISTEN_FDS_START = 3


class StartError(Exception):
    """The daemon cannot start. The text has the reason and a remedy."""


class TakenError(StartError):
    """Another process already serves at this place."""


@dataclass(frozen=True)
class Permissions:
    """The permissions of a socket: its mode bits, and its group by name or number (None: the daemon's own)."""

    mode: int = 0o600
    group: str | None = None


class RuntimeDirectory:
    """The directory of the service sockets, locked for this daemon while it runs."""

    def __init__(
        self, path: Path, permissions: Mapping[type[Interface], Permissions], log: Log
    ) -> None:
        """Lock the directory. Create it first if it does not exist, with access for the users of the sockets.

        The directory belongs to the group of the first interface.
        Raises :class:`StartError` if another daemon uses it, or it cannot be used.
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
            raise self._unusable(error) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(self._fd)
        except BlockingIOError:
            os.close(self._fd)
            raise TakenError(f"another sysmemd serves {path}") from None
        except OSError as error:
            os.close(self._fd)
            raise self._unusable(error) from None
        if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
            log.warning(
                "other users can replace the sockets: the runtime directory is writable for them",
                path=str(path),
                mode=oct(stat.S_IMODE(status.st_mode)),
            )

    def _unusable(self, error: OSError) -> StartError:
        return StartError(f"the runtime directory {self.path} can't be used: {error}")

    def _make(self) -> None:
        with contextlib.suppress(FileExistsError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
            # Users of a socket must be able to reach it, but not to list or open the directory, and so lock it.
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
        """Return a listening socket for an interface. A stale one is replaced. Raises :class:`StartError`."""
        path = service_path(self.path, interface)
        mode, gid = self._modes[interface], self._gids[interface]
        listener, self._made[path] = _listen(path, socket.SOCK_SEQPACKET, mode, gid)
        return listener

    def paths(self) -> Collection[Path]:
        """Return the paths of the created sockets."""
        return self._made.keys()

    def close(self) -> None:
        """Remove the sockets that are still this daemon's, even if the directory was moved, and unlock it."""
        for path, identity in self._made.items():
            _remove(path.name, identity, self._fd)
        os.close(self._fd)


def _listen(
    path: Path, kind: socket.SocketKind, mode: int, gid: int | None
) -> tuple[socket.socket, tuple[int, int]]:
    """Return a listening Unix socket and the device and inode of its file. A stale socket is replaced.

    The socket is created under another name and renamed when it accepts, so that a client that sees it can connect.
    That name is always the same, so one that a crashed daemon left behind is removed by the next one. Raises
    :class:`StartError`.
    """
    fresh = path.with_name(f".{path.name}")
    try:
        listener = socket.socket(socket.AF_UNIX, kind)
    except OSError as error:
        raise StartError(f"{path}: can't listen: {error}") from None
    try:
        _refuse_served(path, kind)
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        previous = os.umask(0o177)
        try:
            with socket_address(fresh) as address:
                listener.bind(address)
        finally:
            os.umask(previous)
        fresh.chmod(mode)
        if gid is not None:
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
    return listener, (status.st_dev, status.st_ino)


def _refuse_served(path: Path, kind: socket.SocketKind) -> None:
    """Raise `StartError` unless the path is a stale socket, on which no process listens."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StartError(f"{path} is in the way: it isn't a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            with socket_address(path) as address:
                probe.connect(address)
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                return
            if error.errno != errno.EAGAIN:  # EAGAIN: a busy process listens on it
                raise StartError(f"{path} is in the way: {error}") from None
    raise TakenError(f"another process already listens on {path}")


@contextlib.contextmanager
def metrics_listener(
    address: MetricsAddress, permissions: Permissions
) -> Iterator[tuple[socket.socket, str]]:
    """Listen at the address for metrics within the block. A Unix socket is removed at the end.

    Yields the socket, and the address for scrapers.

    Raises :class:`StartError`.
    """
    if address.ip is None:
        # Clients do not know the daemon's working directory.
        path = address.path.absolute()
        gid = _group_id(permissions.group)
        listener, identity = _listen(path, socket.SOCK_STREAM, permissions.mode, gid)
        try:
            with listener:
                yield listener, f"unix:{path}"
        finally:
            _remove(path, identity)
        return
    family = socket.AF_INET if address.ip.version == 4 else socket.AF_INET6
    where = (str(address.ip), address.port)
    try:
        listener = socket.create_server(where, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise StartError(
            f"metrics can't be served at {where[0]} port {where[1]}: {error}"
        ) from None
    with listener:
        host, port = listener.getsockname()[:2]
        shown = host if address.ip.version == 4 else f"[{host}]"
        yield listener, f"http://{shown}:{port}{METRICS_PATH}"


class MetricsSocket:
    """The listening socket for metrics over HTTP."""

    #: A service manager never passes one.
    handed_over: frozenset[Path] = frozenset()

    def __init__(self, address: MetricsAddress, permissions: Permissions, log: Log) -> None:
        """Raises :class:`StartError`."""
        self._address = address
        self._permissions = permissions
        self._log = log
        self._made = contextlib.ExitStack()
        self.make()

    def make(self) -> None:
        """Create the socket, and replace an earlier one. Raises :class:`StartError`."""
        self.close()
        with contextlib.ExitStack() as made:
            #: The socket, and the address for scrapers.
            self.listener, self.url = made.enter_context(
                metrics_listener(self._address, self._permissions)
            )
            self.presence: Presence | None = None
            if self._address.ip is None:
                self.presence = _presence([self._address.path.absolute()], self._log)
            if self.presence is not None:
                made.callback(self.presence.close)
            self._made = made.pop_all()

    def close(self) -> None:
        """Close the socket, and remove its file if that still exists."""
        self._made.close()


def _presence(paths: Iterable[Path], log: Log) -> Presence | None:
    try:
        return Presence(paths)
    except OSError as error:
        log.warning("the daemon will not notice the removal of a service socket", reason=str(error))
        return None


def _remove(path: Path | str, identity: tuple[int, int], directory: int | None = None) -> None:
    """Remove a socket unless another file has replaced it."""
    with contextlib.suppress(OSError):
        status = os.stat(path, dir_fd=directory, follow_symlinks=False)
        if (status.st_dev, status.st_ino) == identity:
            os.unlink(path, dir_fd=directory)


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return group_id(int(group) if group.isdigit() else group)
    except ValueError as error:
        raise StartError(str(error)) from None


def inherited(environ: MutableMapping[str, str], log: Log) -> dict[str, socket.socket]:
    """Return the listening sockets that a service manager passed, by name, and remove the environment variables.

    Raises :class:`StartError` if a descriptor is not a listening SOCK_SEQPACKET socket.
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
            log.debug("a socket was passed by the service manager", name=name, fd=fd)
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


class Listeners:
    """The listening socket of each service: passed by a service manager, or created in the runtime directory."""

    def __init__(
        self,
        permissions: Mapping[type[Interface], Permissions],
        directory: Path,
        *,
        environ: MutableMapping[str, str],
        log: Log,
    ) -> None:
        """Use the sockets that were passed, and create the others. Raises :class:`StartError`."""
        self._directory = directory
        self._log = log
        self._made: RuntimeDirectory | None = None
        self.presence: Presence | None = None
        given = inherited(environ, log)
        self.given = {
            i: given.pop(i.service_name()) for i in permissions if i.service_name() in given
        }
        self.made: dict[type[Interface], socket.socket] = {}
        #: The paths of the passed sockets. A name in the abstract namespace is bytes and cannot be removed.
        self.handed_over = {
            Path(name)
            for sock in self.given.values()
            if isinstance(name := sock.getsockname(), str)
        }
        self._missing = {i: wanted for i, wanted in permissions.items() if i not in self.given}
        for name, sock in given.items():
            log.warning("ignored a passed socket: its name is not that of a service", name=name)
            sock.close()
        try:
            self.make()
        except StartError:
            self.close()
            raise

    def make(self) -> None:
        """Create the sockets that were not passed, and replace earlier ones.

        Raises :class:`StartError` if the directory cannot be used, or another daemon uses it by now.
        """
        self._remove()
        if self._missing:
            self._made = RuntimeDirectory(self._directory, self._missing, self._log)
            for interface in self._missing:
                self.made[interface] = self._made.listen(interface)
        made = self._made.paths() if self._made else ()
        self.presence = _presence(self.handed_over.union(made), self._log)

    def _remove(self) -> None:
        if self.presence is not None:
            self.presence.close()
            self.presence = None
        for sock in self.made.values():
            sock.close()
        self.made.clear()
        if self._made is not None:
            self._made.close()
            self._made = None

    def close(self) -> None:
        """Close all sockets, and remove the created ones."""
        self._remove()
        for sock in self.given.values():
            sock.close()


def notify(environ: Mapping[str, str], state: str) -> None:
    """Notify the service manager, if there is one (NOTIFY_SOCKET). Never waits."""
    name = environ.get("NOTIFY_SOCKET")
    if not name:
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        contextlib.nullcontext("\0" + name[1:])
        if name.startswith("@")
        else socket_address(Path(name)) as address,
    ):
        sock.setblocking(False)
        sock.sendto(state.encode(), address)
