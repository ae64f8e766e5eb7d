"""The messages between producers and consumers of frames (docs/frames.md describes them for other languages).

A consumer's socket is a SOCK_SEQPACKET pair; each datagram is one message in the machine's byte order. The producer
sends START first, then FRAMEs, and END or FAILED before it closes. The consumer sends the sequence numbers that it
releases.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Any

import cbor2

from sysmem_protocol.strict import MAX_DEPTH, NotStrictError, examine

#: The maximum bytes of a frame's metadata. With this size a socket's queue has room for a frame of each buffer.
MAX_METADATA_BYTES = 1024
#: The maximum number of bytes of the reason in END and FAILED, as UTF-8.
MAX_REASON_BYTES = 1024
#: More bytes than any message has.
RECEIVE_BYTES = 4096

VERSION = 1
_MAGIC = b"SyFr"

_START = struct.Struct("=I4sIIQ")
_FRAME = struct.Struct("=IIQqQ")
_KIND = struct.Struct("=I")
_SEQUENCE = struct.Struct("=Q")


class Kind(enum.IntEnum):
    """The first four bytes of a producer's message."""

    START = 1
    FRAME = 2
    END = 3
    FAILED = 4


class StreamError(ValueError):
    """The other end sent something that isn't a message of a stream of frames."""


@dataclass(frozen=True, slots=True)
class Start:
    """The first message of a producer."""

    #: Buffers of the collection; indices are below this.
    buffer_count: int
    #: The collection's id, or 0 if the producer doesn't know it.
    buffer_collection_id: int = 0


@dataclass(slots=True)
class FrameHeader:
    """The fields of a FRAME message."""

    index: int
    sequence: int
    timestamp: int
    size: int
    metadata: Any


@dataclass(frozen=True, slots=True)
class End:
    """The last message: why there are no more frames."""

    reason: str
    #: Whether the producer closed the stream; if not, it failed.
    closed: bool


def encode_start(start: Start) -> bytes:
    """Return the message."""
    return _START.pack(Kind.START, _MAGIC, VERSION, start.buffer_count, start.buffer_collection_id)


def encode_frame(index: int, sequence: int, timestamp: int, size: int, metadata: Any) -> bytes:
    """Return the message.

    Raises:
        ValueError: A number is out of range, or the metadata are too large or nested too deeply.
        TypeError: The metadata contain a value that isn't plain data.
    """
    try:
        head = _FRAME.pack(Kind.FRAME, index, sequence, timestamp, size)
    except struct.error as error:
        raise ValueError(f"timestamp {timestamp} or size {size} doesn't fit 64 bits") from error
    if metadata is None:
        return head
    try:
        data = cbor2.dumps(metadata)
    except (cbor2.CBOREncodeError, RecursionError) as error:
        raise TypeError(f"metadata must be plain data: {error}") from error
    if len(data) > MAX_METADATA_BYTES:
        raise ValueError(
            f"the metadata take {len(data)} bytes, at most {MAX_METADATA_BYTES} may be"
        )
    _decode_metadata(data)  # so that the producer gets the error, and not every consumer
    return head + data


def encode_end(end: End) -> bytes:
    """Return the message. A reason that is too long is cut."""
    text = end.reason.encode(errors="replace")[:MAX_REASON_BYTES]
    return _KIND.pack(Kind.END if end.closed else Kind.FAILED) + text


def decode(message: bytes) -> Start | FrameHeader | End:
    """Return the content of a producer's message.

    Raises:
        StreamError: It isn't a producer's message.
    """
    kind = _KIND.unpack_from(message)[0] if len(message) >= _KIND.size else 0
    if kind == Kind.FRAME and len(message) >= _FRAME.size:
        _, index, sequence, timestamp, size = _FRAME.unpack_from(message)
        metadata = None
        if len(message) > _FRAME.size:
            try:
                metadata = _decode_metadata(message[_FRAME.size :])
            except (TypeError, ValueError) as error:
                raise StreamError(f"frame {sequence} has unreadable metadata: {error}") from error
        return FrameHeader(index, sequence, timestamp, size, metadata)
    if kind == Kind.START and len(message) == _START.size:
        _, magic, version, count, collection = _START.unpack(message)
        if magic == _MAGIC:
            if version != VERSION:
                raise StreamError(f"the stream has version {version}, not {VERSION}")
            return Start(count, collection)
    if kind in (Kind.END, Kind.FAILED):
        return End(message[_KIND.size :].decode(errors="replace"), kind == Kind.END)
    raise StreamError(f"{len(message)} bytes that are no message of a stream: {message[:16].hex()}")


def encode_release(sequence: int) -> bytes:
    """Return the message with which a consumer gives a frame's buffer back."""
    return _SEQUENCE.pack(sequence)


def decode_release(message: bytes) -> int:
    """Return the sequence number in a consumer's message.

    Raises:
        StreamError: It isn't a consumer's message.
    """
    if len(message) != _SEQUENCE.size:
        raise StreamError(f"{len(message)} bytes that release no frame: {message[:16].hex()}")
    sequence: int = _SEQUENCE.unpack(message)[0]
    return sequence


def _decode_metadata(data: bytes) -> Any:
    try:
        decodable, handles = examine(data)
        if handles:
            raise NotStrictError("it has a reference to a descriptor")
        if decodable != data:
            raise NotStrictError("keys must be texts or integers")
        return cbor2.loads(
            data, allow_indefinite=False, allow_duplicate_keys=False, max_depth=2 * MAX_DEPTH
        )
    except NotStrictError as error:
        raise TypeError(f"metadata must be plain data: {error}") from None
    except cbor2.CBORDecodeError as error:
        raise ValueError(str(error)) from error
