"""Where the daemon's sockets are (`docs/spec/protocol.md`, "Channels and services").

Both ends ask here: the daemon where to listen, a client where to connect.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from .library import Interface
from .owner import owned

#: Names the runtime directory when nobody says it on the command line or in a call.
RUNTIME_DIR_VARIABLE = "SYSMEM_RUNTIME_DIR"
#: Where a daemon of the whole system is found.
SYSTEM_RUNTIME_DIR = Path("/run/sysmem")
#: Bytes of a Unix socket's path that fit `sockaddr_un`, the closing NUL left out.
MAX_SOCKET_PATH_BYTES = 107
#: Bytes of a file name that fit behind the name of any descriptor.
_MAX_SOCKET_NAME_BYTES = MAX_SOCKET_PATH_BYTES - len(f"/proc/self/fd/{2**31}/")


def runtime_dirs(
    given: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> list[Path]:
    """Return the directories where service sockets may be, in order: `given` alone, or else `SYSMEM_RUNTIME_DIR`,
    `$XDG_RUNTIME_DIR/sysmem` and `/run/sysmem`.

    A client connects in the first one that has a daemon. An empty variable counts as un-set. Nothing is looked up in
    the file system.
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
    """Return the directory where a daemon makes its service sockets: the first of :func:`runtime_dirs`."""
    return runtime_dirs(given, environ)[0]


def service_path(directory: Path, interface: type[Interface]) -> Path:
    """Return the socket of a protocol in a runtime directory: its full name."""
    return directory / interface.service_name()


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """An address for `bind`, `connect` or `sendto` that reaches `path`, however long that is, within the with-block.

    Raises `OSError` when the directory of a long path can't be opened, or when there is no socket of a name that is
    itself too long (which only `connect` and `sendto` can reach).
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
