"""The places of the daemon's sockets (`docs/spec/protocol.md`, "Channels and services").

Both ends use this module: the daemon to listen, and clients to connect.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from .library import Interface
from .owner import owned

#: Names the runtime directory if neither the command line nor the call does.
RUNTIME_DIR_VARIABLE = "SYSMEM_RUNTIME_DIR"
#: The directory of the system's daemon.
SYSTEM_RUNTIME_DIR = Path("/run/sysmem")
#: The maximum length of a Unix socket's path in `sockaddr_un`, without the terminating NUL.
MAX_SOCKET_PATH_BYTES = 107
#: The maximum length of a file name after the path of any descriptor.
_MAX_SOCKET_NAME_BYTES = MAX_SOCKET_PATH_BYTES - len(f"/proc/self/fd/{2**31}/")


def runtime_dirs(
    given: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> list[Path]:
    """Return the directories that may contain service sockets, in order.

    They are `given` alone, or else `SYSMEM_RUNTIME_DIR`, `$XDG_RUNTIME_DIR/sysmem` and `/run/sysmem`. A client connects
    in the first one that has a daemon. An empty variable counts as un-set. The file system is not accessed.
    """
    if given is not None:
        return [Path(given)]
    variables = os.environ if environ is None else environ
    places = [SYSTEM_RUNTIME_DIR]
    if session := variables.get("XDG_RUNTIME_DIR"):
        places.insert(0, Path(session, "sysmem"))
    if named := variables.get(RUNTIME_DIR_VARIABLE):
        places.insert(0, Path(named))
    return places


def runtime_dir(
    given: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> Path:
    """Return the directory in which a daemon creates its service sockets: the first of :func:`runtime_dirs`."""
    return runtime_dirs(given, environ)[0]


def service_path(directory: Path, interface: type[Interface]) -> Path:
    """Return the path of a protocol's socket in a runtime directory. Its name is the protocol's full name."""
    return directory / interface.service_name()


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """Yield an address for `bind`, `connect` or `sendto` that reaches `path`, however long that is.

    It is valid within the with-block. Raises `OSError` if the directory of a long path can't be opened, or if the
    socket's name is itself too long and there is no such socket (only `connect` and `sendto` can reach one).
    """
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        yield os.fspath(path)
        return
    name = f"/{path.name}" if len(os.fsencode(path.name)) <= _MAX_SOCKET_NAME_BYTES else ""
    opened = path.parent if name else path
    cell = owned(os.open, opened, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{cell.fileno()}{name}"
    finally:
        cell.close()
