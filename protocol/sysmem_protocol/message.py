"""One message: a 16-byte header, a body and descriptors (`docs/spec/protocol.md`, "Message").

A message is one datagram, except for a response with more than :data:`MAX_HANDLES` descriptors: it is sent as several
consecutive datagrams, of which all but the last contain only descriptors.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar, overload

from .handles import Handle

HEADER = struct.Struct("<I3sBQ")
MAGIC = 1
#: Format revision 2, not "more descriptors follow", method is flexible.
FLAGS = b"\x02\x00\x80"
#: As `FLAGS`, and more descriptors of this message follow.
FLAGS_MORE = b"\x02\x01\x80"
#: The maximum size of header and body, as on a FIDL channel.
MAX_MESSAGE_BYTES = 64 * 1024
#: The maximum number of descriptors in a datagram: Linux's SCM_MAX_FD.
MAX_HANDLES = 253
#: This bit marks the server's txids.
SERVER_TXID = 0x8000_0000


class MalformedMessage(ValueError):
    """The received data are not a message. The channel that they arrived on must be closed."""


@dataclass(slots=True)
class Message:
    """A message with the descriptors that it owns.

    `more` marks a part of a split response: its descriptors precede those of the next datagram, which has the same txid
    and ordinal. A request with it is malformed.
    """

    txid: int
    ordinal: int
    body: bytes = b""
    handles: list[Handle] = field(default_factory=list)
    more: bool = False

    def close(self) -> None:
        """Close all descriptors that are still owned by this message."""
        for handle in self.handles:
            handle.close()

    def datagrams(self) -> Iterator[tuple[bytes, list[Handle]]]:
        """Yield the bytes and handles of each datagram to send. This message keeps ownership of the handles."""
        start = 0
        while len(self.handles) - start > MAX_HANDLES:
            head = HEADER.pack(self.txid, FLAGS_MORE, MAGIC, self.ordinal)
            yield head, self.handles[start : start + MAX_HANDLES]
            start += MAX_HANDLES
        head = HEADER.pack(self.txid, FLAGS, MAGIC, self.ordinal)
        yield head + self.body, self.handles[start:]


M = TypeVar("M", bound=Message)


@overload
def parse(data: bytes, handles: list[Handle]) -> Message: ...
@overload
def parse(data: bytes, handles: list[Handle], kind: type[M]) -> M: ...
def parse(data: bytes, handles: list[Handle], kind: type[Message] = Message) -> Message:
    """Convert a datagram to a message. Takes ownership of the handles, and closes them if it raises.

    Raises :class:`MalformedMessage` if the data are not a header of this format followed by a body.
    """
    try:
        if len(data) < HEADER.size:
            raise MalformedMessage(
                f"{len(data)} bytes are not a message: a header has {HEADER.size} bytes"
            )
        txid, flags, magic, ordinal = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise MalformedMessage(f"magic number {magic:#04x}, expected {MAGIC:#04x}")
        if flags not in (FLAGS, FLAGS_MORE):
            raise MalformedMessage(f"flags {flags.hex()}, expected {FLAGS.hex()}")
        if flags == FLAGS_MORE and (len(data) > HEADER.size or not handles):
            raise MalformedMessage(
                "a datagram with the flag 'more follow' must have descriptors and no body"
            )
    except MalformedMessage:
        for handle in handles:
            handle.close()
        raise
    return kind(txid, ordinal, data[HEADER.size :], handles, flags == FLAGS_MORE)
