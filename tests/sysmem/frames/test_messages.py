"""Messages of streams of frames: every value is encoded and decoded again, and garbage is refused."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sysmem._frames.messages import (
    End,
    FrameHeader,
    Start,
    StreamError,
    decode,
    decode_release,
    encode_end,
    encode_frame,
    encode_release,
    encode_start,
)

U64 = st.integers(0, 2**64 - 1)
#: The values that both CBOR and JSON have, except texts that UTF-8 can't encode.
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5) | st.integers(-9, 9), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
HEAD = struct.Struct("=IIQqQ")


@given(st.integers(0, 2**32 - 1), U64, st.integers(-(2**63), 2**63 - 1), U64, plain)
def test_a_frame_is_what_was_sent(
    index: int, sequence: int, timestamp: int, size: int, metadata: Any
) -> None:
    message = encode_frame(index, sequence, timestamp, size, metadata)
    assert decode(message) == FrameHeader(index, sequence, timestamp, size, metadata)
    assert metadata is None or len(message) > len(encode_frame(0, 0, 0, 0, None))


@given(st.integers(0, 2**32 - 1), U64)
def test_a_start_is_what_was_sent(count: int, collection: int) -> None:
    assert decode(encode_start(Start(count, collection))) == Start(count, collection)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("reason", ["fertig ✓", ""])
def test_an_end_is_what_was_sent(reason: str, closed: bool) -> None:
    assert decode(encode_end(End(reason, closed))) == End(reason, closed)


def test_a_long_reason_is_cut_between_characters() -> None:
    ended = decode(encode_end(End("ü" * 1024, closed=True)))
    assert isinstance(ended, End)
    assert set(ended.reason) <= {"ü", "\N{REPLACEMENT CHARACTER}"}
    assert len(ended.reason) == 512


@given(U64)
def test_a_release_is_what_was_sent(sequence: int) -> None:
    assert decode_release(encode_release(sequence)) == sequence


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        (b"x" * 1022, ValueError),  # they take 1025 bytes as CBOR
        (object(), TypeError),
        ({1.5: "x"}, TypeError),
        ({(1,): "x"}, TypeError),
        (cbor2.CBORTag(0x7A5D, 0), TypeError),
        (cbor2.CBORTag(1, 0), TypeError),
    ],
)
def test_metadata_are_small_and_plain(metadata: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="metadata"):
        encode_frame(0, 0, 0, 0, metadata)


def test_metadata_have_a_depth() -> None:
    nested: list[Any] = []
    for _ in range(15):
        nested = [nested]
    encode_frame(0, 0, 0, 0, nested)
    encode_frame(0, 0, 0, 0, b"x" * 1021)
    nested = [nested]
    with pytest.raises(TypeError, match="nested deeper"):
        encode_frame(0, 0, 0, 0, nested)
    nested.append(nested)
    with pytest.raises(TypeError, match="plain data"):
        encode_frame(0, 0, 0, 0, nested)


@pytest.mark.parametrize(("timestamp", "size"), [(2**63, 0), (0, 2**64), (0, -1)])
def test_numbers_have_64_bits(timestamp: int, size: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        encode_frame(0, 0, timestamp, size, None)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "0 bytes that are no message"),
        (b"GET", "3 bytes that are no message"),
        (struct.pack("=I", 77), "4 bytes that are no message"),
        (b"\xff" * 20, "20 bytes that are no message of a stream: (ff){16}$"),
        (HEAD.pack(2, 0, 0, 0, 0)[:-1], "31 bytes that are no message"),
        (HEAD.pack(2, 0, 5, 0, 0) + b"\xff", "frame 5 has unreadable metadata"),
        (HEAD.pack(2, 0, 5, 0, 0) + b"\x61\xff", "frame 5 has unreadable metadata"),
        (HEAD.pack(2, 0, 5, 0, 0) + b"\x01\x01", "frame 5 has unreadable metadata"),
        (HEAD.pack(2, 0, 5, 0, 0) + b"\xc1\x01", "frame 5 has unreadable metadata"),
        (struct.pack("=I4sIIQ", 1, b"SyFr", 2, 1, 0), "the stream has version 2, not 1"),
        (struct.pack("=I4sIIQ", 1, b"abcd", 1, 1, 0), "24 bytes that are no message"),
        (struct.pack("=I4sIIQ", 1, b"ABCD", 1, 1, 0), "24 bytes that are no message"),
    ],
)
def test_what_is_no_message_is_refused(message: bytes, reason: str) -> None:
    with pytest.raises(StreamError, match=reason):
        decode(message)


@given(st.binary(max_size=64))
def test_no_garbage_does_more_than_be_refused(message: bytes) -> None:
    with contextlib.suppress(StreamError):
        decode(message)


@pytest.mark.parametrize("message", [b"\xff" * 7, b"\xff" * 9, b"\xff" * 17])
def test_a_release_has_eight_bytes(message: bytes) -> None:
    with pytest.raises(StreamError, match=rf"release no frame: (ff){{{min(len(message), 16)}}}$"):
        decode_release(message)
