"""The names of server ends, which their client ends see with getpeername(): `\\0sysmem/<random per daemon>/<koid>`."""

from __future__ import annotations

import errno
import itertools
import os
import secrets

from sysmem_protocol.channel import Channel, Closing, ServedChannel
from sysmem_protocol.handles import Handle
from sysmem_protocol.kinds import describe

from .errors import Refused

#: Any client can see the names, and could bind later ones if it guessed them.
_KOID_RANDOM_BITS = 24
#: The number of random bytes that are requested from the kernel at a time.
_RANDOM_BYTES = 4096


class Random:
    """Random bytes. Many are requested from the kernel at a time."""

    def __init__(self) -> None:
        self._bytes = b""
        self._used = 0

    def take(self, count: int) -> bytes:
        """Return this many random bytes. They are not returned again."""
        start, self._used = self._used, self._used + count
        if self._used > len(self._bytes):
            self._bytes = os.urandom(_RANDOM_BYTES)
            start, self._used = 0, count
        return self._bytes[start : self._used]


class Names:
    """The names that one daemon gives to server ends."""

    def __init__(self, closing: Closing) -> None:
        """`closing` closes the channels of server ends, and descriptors that arrive on them."""
        self._closing = closing
        self._koids = itertools.count(1)
        #: The common prefix of all names. A koid follows.
        self.prefix = b"\0sysmem/%s/" % secrets.token_hex(8).encode()
        self.random = Random()

    def give(self, handle: Handle) -> tuple[int, Channel]:
        """Take ownership of a server end that arrived, and bind it to a name. Return its koid and channel.

        Raises :class:`Refused` if it already has a name, and `OSError` if the kernel is short of memory.
        """
        try:
            channel = Channel(handle.as_socket())
            while True:
                random = int.from_bytes(self.random.take(_KOID_RANDOM_BITS // 8), "big")
                koid = next(self._koids) << _KOID_RANDOM_BITS | random
                try:
                    channel.bind(self.prefix + str(koid).encode())
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        continue
                    raise
                return koid, ServedChannel(handle.take_socket(), self._closing)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            what = describe(handle.fileno())
            raise Refused(f"the server end, {what}, can't be named: {error}") from None

    def koid(self, name: bytes) -> int | None:
        """Return the koid in a name, if it is one of this daemon's."""
        koid = name.removeprefix(self.prefix)
        return int(koid) if koid != name and koid.isdigit() else None
