"""The strict form of CBOR, for any body (`docs/spec/protocol.md`, "What bad input gets")."""

from __future__ import annotations

import struct

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sysmem_protocol.strict import HANDLE_TAG, MAX_DEPTH, NotStrictError, examine


def refused(hexadecimal: str, why: str) -> None:
    with pytest.raises(NotStrictError, match=why):
        examine(bytes.fromhex(hexadecimal))


def test_the_constants_are_the_protocols() -> None:
    assert HANDLE_TAG == 0x7A5D
    assert MAX_DEPTH == 16


@pytest.mark.parametrize(
    "item",
    [
        "00", "17", "1818", "18ff", "190100", "19ffff", "1a00010000", "1affffffff",
        "1b0000000100000000", "1bffffffffffffffff", "20", "3818", "3bffffffffffffffff",
        "40", "4161", "5818" + "00" * 24, "60", "6161", "62c3a9",
        "80", "8101", "981a" + "00" * 26, "a0", "a10102",
        "f4", "f5", "f6", "f7", "e0", "f3", "f820", "f8ff",
        "f90000", "f97e00", "fa7f800000", "fbfff0000000000000",
    ],
)  # fmt: skip
def test_any_well_formed_item_passes_as_it_is(item: str) -> None:
    body = bytes.fromhex(item)
    assert examine(body) == (body, [])


@pytest.mark.parametrize("item", ["5fff", "7fff", "9fff", "bfff", "a1019fff", "a1189f5f4100ff"])
def test_an_indefinite_length_is_refused(item: str) -> None:
    refused(item, "indefinite length")


@pytest.mark.parametrize(
    "item",
    [
        "1800", "1817", "190000", "1900ff", "1a0000ffff", "1b00000000ffffffff",
        "3817", "3900ff", "3a0000ffff", "3b00000000ffffffff", "a1180102", "a1011802",
    ],
)  # fmt: skip
def test_a_non_minimal_integer_is_refused(item: str) -> None:
    refused(item, "shortest form")


@pytest.mark.parametrize("item", ["580161", "590001" + "61", "780161", "980101", "b8010102"])
def test_a_non_minimal_length_is_refused(item: str) -> None:
    refused(item, "shortest form")


@pytest.mark.parametrize("item", ["d9007a5d", "d87a00", "da00007a5d00", "db0000000000007a5d00"])
def test_a_non_minimal_or_foreign_tag_is_refused(item: str) -> None:
    refused(item, "shortest form|tag")


@pytest.mark.parametrize("item", ["f800", "f814", "f818", "f81f"])
def test_a_simple_value_in_its_long_form_is_refused(item: str) -> None:
    refused(item, "simple value")


@pytest.mark.parametrize("item", ["1c", "3d", "5e", "7c", "9d", "be", "dc", "fc", "fd", "fe"])
def test_a_reserved_initial_byte_is_refused(item: str) -> None:
    refused(item, "reserved")


@pytest.mark.parametrize("item", ["ff", "81ff", "a1ff00", "a100ff"])
def test_a_break_without_its_beginning_is_refused(item: str) -> None:
    refused(item, "indefinite")


@pytest.mark.parametrize("tag", [0, 1, 2, 4, 28, 29, 35, 37, 256, 258, 55799, HANDLE_TAG + 1])
@pytest.mark.parametrize("around", ["{}", "a101{}", "a11903e7{}", "a1{}00", "8201{}"])
def test_any_tag_but_the_handles_is_refused(tag: int, around: str) -> None:
    head = cbor2.dumps(tag)
    tagged = bytes([head[0] | 0xC0]) + head[1:] + b"\x00"
    refused(around.format(tagged.hex()), f"tag {tag:#x}")


@pytest.mark.parametrize("content", ["20", "4100", "6130", "80", "a0", "f5", "f90000", "d97a5d00"])
def test_a_handle_whose_index_is_not_an_unsigned_integer_is_refused(content: str) -> None:
    refused("a101d97a5d" + content, "index must be an unsigned integer")


def test_a_handle_index_longer_than_needed_is_refused() -> None:
    refused("a101d97a5d1800", "shortest form")


@pytest.mark.parametrize(
    "item",
    [
        "a201000100",  # an integer
        "a220002000",  # a negative one
        "a2616100616100",  # text
        "a2416100416100",  # bytes
        "a2f500f500",  # true
        "a2f600f600",  # null
        "a2f97e0000f97e0000",  # NaN is not equal to itself
        "a2810100810100",  # an array
        "a2a1010200a1010200",  # a map
        "a2190100001901" + "0000",
    ],
)
@pytest.mark.parametrize("around", ["{}", "a11903e7{}", "a11903e78200{}", "a1{}00"])
def test_a_duplicated_key_is_refused(item: str, around: str) -> None:
    refused(around.format(item), "key.*twice")


@pytest.mark.parametrize(
    "item",
    [
        "a20100f500",  # 1 and true
        "a20000f400",  # 0 and false
        "a20100f93c0000",  # 1 and 1.0
        "a2f9000000f9800000",  # 0.0 and -0.0
        "a2810100 81f500",  # [1] and [true]
        "a26161004161" + "00",  # text and bytes
        "a2200021 00",
    ],
)
def test_keys_that_only_python_takes_for_the_same_are_no_duplicates(item: str) -> None:
    examine(bytes.fromhex(item))
    examine(bytes.fromhex("a11903e7" + item.replace(" ", "")))


@pytest.mark.parametrize(
    "item",
    [
        "", "18", "1900", "41", "6261", "81", "8141", "8201", "a1", "a101", "a10141", "a2010203",
        "d97a5d", "fb00",
    ],
)  # fmt: skip
def test_an_incomplete_item_is_refused(item: str) -> None:
    refused(item, "is incomplete")


@pytest.mark.parametrize(
    "item", ["5b7fffffffffffffff", "7affffffff", "9bffffffffffffffff", "bbffffffffffffffff"]
)
def test_a_length_far_beyond_the_bytes_is_refused_at_once(item: str) -> None:
    refused(item, "is incomplete")


@pytest.mark.parametrize("item", ["0000", "a000", "a0a0", "a10102ff", "a00a"])
def test_trailing_bytes_are_refused(item: str) -> None:
    refused(item, "after the item")


def nested(depth: int, kind: str) -> bytes:
    """Return nested maps or arrays, `depth` of them. The innermost is empty."""
    step = {"map": b"\xa1\x01", "array": b"\x81", "key": b"\xa1"}[kind]
    last = {"map": b"\xa0", "array": b"\x80", "key": b"\xa0"}[kind]
    tail = b"\x00" * (depth - 1) if kind == "key" else b""
    return step * (depth - 1) + last + tail


@pytest.mark.parametrize("kind", ["map", "array", "key"])
def test_nesting_16_deep_is_fine_and_17_is_refused(kind: str) -> None:
    examine(nested(16, kind))
    with pytest.raises(NotStrictError, match="nested deeper than 16"):
        examine(nested(17, kind))
    with pytest.raises(NotStrictError, match="nested deeper than 16"):
        examine(nested(30_000, kind))


def test_a_scalar_or_a_handle_inside_16_maps_is_fine() -> None:
    assert examine(b"\xa1\x01" * 16 + b"\x01")[1] == []
    assert examine(b"\xa1\x01" * 16 + b"\xd9\x7a\x5d\x00")[1] == [0]


def test_handles_are_found_wherever_they_are_in_the_order_of_the_body() -> None:
    tag = cbor2.CBORTag
    body = {
        1: tag(HANDLE_TAG, 2),
        2: [tag(HANDLE_TAG, 300), {7: tag(HANDLE_TAG, 0)}],
        99: {1.5: tag(HANDLE_TAG, 70000)},
    }
    data = cbor2.dumps(body) + b""
    assert examine(data)[1] == [2, 300, 0, 70000]
    assert examine(bytes.fromhex("a1d97a5d0500"))[1] == [5]


def test_maps_that_no_table_can_be_are_not_left_to_a_python_dict() -> None:
    """Some keys are equal only in Python, and others are made to collide. No declared table has such a key."""
    odd = "a201f600f5"
    assert examine(bytes.fromhex("a1 18ff a1f500")) == (bytes.fromhex("a118fff6"), [])
    assert examine(bytes.fromhex("a2 01 a1a1f50000 02 81a1f600")) == (
        bytes.fromhex("a201f60281f6"),
        [],
    )
    assert examine(bytes.fromhex("a1f500")) == (b"\xf6", [])
    assert examine(bytes.fromhex(odd)) == (bytes.fromhex(odd), [])


def test_keys_made_to_collide_cost_no_quadratic_time() -> None:
    """hash(-1) == hash(-2), so tuples of both collide. 4,000 such keys once took a second."""
    keys = [bytes([0x8C]) + bytes(0x20 | (n >> bit & 1) for bit in range(12)) for n in range(4000)]
    body = (
        b"\xa1\x18\xff\xb9" + struct.pack(">H", len(keys)) + b"".join(key + b"\0" for key in keys)
    )
    assert examine(body) == (b"\xa1\x18\xff\xf6", [])


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_examined_or_refused(data: bytes) -> None:
    try:
        body, indices = examine(data)
    except NotStrictError:
        return
    assert len(body) <= len(data)
    assert all(index >= 0 for index in indices)


CBOR = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.text(max_size=8)
    | st.binary(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.integers(0, 300) | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(CBOR)
def test_what_cbor2_writes_is_strict(value: object) -> None:
    body = cbor2.dumps(value)
    assert examine(body) == (body, [])
