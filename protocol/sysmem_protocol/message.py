"""One message: a 16-byte header, a body and descriptors (`docs/spec/protocol.md`, "Message").

A message is one datagram, but for a response with more than :data:`MAX_HANDLES` descriptors: it is sent as several in a
row, of which all but the last carry descriptors only.
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
#: Header and body; what a FIDL channel carries.
MAX_MESSAGE_BYTES = 64 * 1024
#: Descriptors of one datagram: Linux' SCM_MAX_FD.
MAX_HANDLES = 253
#: This bit of a txid is the server's.
SERVER_TXID = 0x8000_0000


class MalformedMessage(ValueError):
    """What arrived isn't a message; the channel it came on must close."""


@dataclass(slots=True)
class Message:
    """A message with the descriptors that it owns.

    `more` marks a part of a split response: its descriptors come before those of the next datagram, which has the same
    txid and ordinal. A request with it is malformed.
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
        """Yield the bytes and descriptors to send, one pair a datagram; the handles stay this message's."""
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
    """Make a message of a datagram; owns the handles from then on, and closes them when it raises.

    Raises :class:`MalformedMessage` for anything but a header of this format and what follows it.
    """
    try:
        if len(data) < HEADER.size:
            raise MalformedMessage(f"{len(data)} bytes are no message: a header has {HEADER.size}")
        txid, flags, magic, ordinal = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise MalformedMessage(f"magic number {magic:#04x}, expected {MAGIC:#04x}")
        if flags not in (FLAGS, FLAGS_MORE):
            raise MalformedMessage(f"flags {flags.hex()}, expected {FLAGS.hex()}")
        if flags == FLAGS_MORE and (len(data) > HEADER.size or not handles):
            raise MalformedMessage("a datagram that others follow carries descriptors and no body")
    except MalformedMessage:
        for handle in handles:
            handle.close()
        raise
    return kind(txid, ordinal, data[HEADER.size :], handles, flags == FLAGS_MORE)
