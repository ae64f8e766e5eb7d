"""Tables to strict CBOR and back (`docs/spec/protocol.md`, "Message" and "What bad input gets")."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysmem_protocol import sysmem2
from sysmem_protocol.codec import (
    DecodeError,
    Decoder,
    EncodeTypeError,
    EncodeValueError,
    encode,
    encode_response,
)
from sysmem_protocol.handles import Handle
from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.library import (
    HandleKind,
    Method,
    Table,
)
from sysmem_protocol.message import HEADER, MAX_MESSAGE_BYTES
from sysmem_protocol.strict import HANDLE_TAG
from sysmem_protocol.sysmem2 import (
    AllocatorGetVmoInfoRequest,
    BufferCollection,
    BufferCollectionConstraints,
    BufferCollectionInfo,
    BufferCollectionToken,
    BufferCollectionTokenDuplicateRequest,
    BufferMemoryConstraints,
    BufferMemorySettings,
    BufferUsage,
    CoherencyDomain,
    CpuUsage,
    CreateTokensRequest,
    CreateTokensResponse,
    Error,
    Heap,
    ImageFormatConstraints,
    Node,
    PixelFormatAndModifier,
    Rights,
    SetDebugClientInfoRequest,
    SizeU,
    VideoUsage,
    VmoBuffer,
)

from .drawn import HERE, METHODS, TABLES, instances

DECODER = Decoder()
#: A field that no table has, and the CBOR of its number.
UNKNOWN = 999
MEMBERLESS = b"\xa0"


def handle() -> Handle:
    return Handle(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))


def handles(count: int) -> list[Handle]:
    return [handle() for _ in range(count)]


def refused(
    kind: type[Table], body: bytes, why: str, given: list[Handle] | None = None
) -> DecodeError:
    """Decoding raises, and every descriptor that came along is closed."""
    given = given or []
    with pytest.raises(DecodeError, match=why) as caught:
        DECODER.table(kind, body, given)
    assert all(h.closed for h in given)
    return caught.value


def cbor(value: object) -> bytes:
    return cbor2.dumps(value)


def tag(index: object) -> cbor2.CBORTag:
    return cbor2.CBORTag(HANDLE_TAG, index)


# --- every table there and back -----------------------------------------------------------------------------------


def comparable(value: Any) -> Any:
    """A table as plain values, descriptors as the object they refer to."""
    match value:
        case Table():
            return {m.name: comparable(v) for m, v in value.set_fields()}
        case list():
            return [comparable(v) for v in value]
        case Handle():
            status = os.fstat(value.fileno())
            return ("handle", status.st_dev, status.st_ino)
        case _:
            return value


def opened(value: Any) -> Any:
    """A drawn table with its descriptors."""
    match value:
        case Table():
            for member, field in value.set_fields():
                setattr(value, member.name, opened(field))
        case list():
            return [opened(element) for element in value]
    return handle() if value is HERE else value


def close_all(value: Any) -> None:
    match value:
        case Table():
            for _, field in value.set_fields():
                close_all(field)
        case list():
            for element in value:
                close_all(element)
        case Handle():
            value.close()


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
@settings(max_examples=30)
@given(data=st.data())
def test_decoding_what_was_encoded_gives_the_same_table(
    kind: type[Table], data: st.DataObject
) -> None:
    table = opened(data.draw(instances(kind)))
    body, given_handles = encode(table)
    expected = comparable(table)
    decoded = DECODER.table(kind, body, list(given_handles))
    assert comparable(decoded) == expected
    close_all(decoded)
    assert all(h.closed for h in given_handles)


@pytest.mark.parametrize("kind", [BufferCollectionConstraints, sysmem2.SingleBufferSettings])
@settings(max_examples=30)
@given(data=st.data())
def test_the_repr_of_a_table_is_the_python_that_makes_it(
    kind: type[Table], data: st.DataObject
) -> None:
    table = data.draw(instances(kind))
    assert eval(repr(table), vars(sysmem2).copy()) == table


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_a_table_with_nothing_set_is_an_empty_map(kind: type[Table]) -> None:
    assert encode(kind()) == (MEMBERLESS, [])
    assert DECODER.table(kind, MEMBERLESS, []) == kind()


def test_fields_are_keyed_by_number_and_structs_are_arrays() -> None:
    constraints = ImageFormatConstraints(
        pixel_format=PixelFormat.NV12,
        pixel_format_and_modifiers=[PixelFormatAndModifier(1, PixelFormatModifier.ARM_LINEAR_TE)],
        min_size=SizeU(640, 480),
        is_alpha_present=False,
    )
    body, _ = encode(constraints)
    assert cbor2.loads(body) == {1: 104, 4: [640, 480], 15: [[1, 0x0800000000001000]], 17: False}


# --- handles ------------------------------------------------------------------------------------------------------


def test_handles_are_indices_in_the_order_of_the_table_and_stay_its_own() -> None:
    with handle() as first, handle() as second, handle() as third:
        info = BufferCollectionInfo(
            buffers=[VmoBuffer(vmo=first, close_weak_asap=second), VmoBuffer(vmo=third)]
        )
        body, given_handles = encode(info)
        assert given_handles == [first, second, third]
        assert cbor2.loads(body) == {2: [{1: tag(0), 3: tag(1)}, {1: tag(2)}]}
        assert not first.closed


def test_decoded_handles_belong_to_the_table_and_the_old_owners_are_empty() -> None:
    arrived = handles(2)
    numbers = [h.fileno() for h in arrived]
    body = cbor({1: tag(1), 3: tag(0)})
    table = DECODER.table(VmoBuffer, body, arrived)
    assert table.vmo is not None
    assert table.close_weak_asap is not None
    assert [table.vmo.fileno(), table.close_weak_asap.fileno()] == numbers[::-1]
    assert all(h.closed for h in arrived)
    close_all(table)


def test_handles_get_the_class_that_was_asked_for_their_kind() -> None:
    class Vmo(Handle):
        __slots__ = ()

    class MyBuffer(VmoBuffer):
        __slots__ = ()

    decoder = Decoder(tables={VmoBuffer: MyBuffer}, handles={HandleKind.VMO: Vmo})
    body = cbor({2: [{1: tag(0), 3: tag(1)}]})
    info = decoder.table(BufferCollectionInfo, body, handles(2))
    assert info.buffers is not None
    [buffer] = info.buffers
    assert type(buffer) is MyBuffer
    assert type(buffer.vmo) is Vmo
    assert type(buffer.close_weak_asap) is Handle
    close_all(info)


def test_a_body_that_came_before_is_checked_against_its_own_descriptors() -> None:
    body = cbor({1: tag(0)})
    for _ in range(2):
        close_all(DECODER.table(VmoBuffer, body, handles(1)))
        refused(VmoBuffer, body, "0 descriptors, but the body")
        refused(VmoBuffer, body, "2 descriptors, but the body", handles(2))
        refused(BufferUsage, body, r"^\$\.none: expected an integer", handles(1))


def test_equal_bodies_become_one_table_only_if_that_is_allowed_and_they_bring_no_descriptors() -> (
    None
):
    decoder = Decoder(shared=True)
    plain, with_handle = cbor({1: 7}), cbor({1: tag(0)})
    assert decoder.table(BufferUsage, plain, []) is decoder.table(BufferUsage, plain, [])
    assert type(decoder.table(BufferMemorySettings, plain, [])) is BufferMemorySettings
    assert DECODER.table(BufferUsage, plain, []) is not DECODER.table(BufferUsage, plain, [])
    first, second = (decoder.table(VmoBuffer, with_handle, handles(1)) for _ in range(2))
    assert first.vmo is not second.vmo
    close_all(first)
    close_all(second)


def test_only_so_many_bodies_are_remembered_and_no_large_ones() -> None:
    decoder = Decoder(shared=True)
    for length, remembered in ((506, 0), (505, 2)):
        decoder.table(SetDebugClientInfoRequest, cbor({900: "x" * length}), [])
        assert decoder.remembered == remembered
    for number in range(1, 1000):
        decoder.table(SetDebugClientInfoRequest, cbor({2: number}), [])
        assert decoder.remembered == 2 * (number % 256 + 1)


def test_a_closed_handle_is_refused_with_its_place() -> None:
    closed = handle()
    closed.close()
    with pytest.raises(EncodeValueError, match=r"^\$\.buffers\[1\]\.vmo: .*closed"):
        encode(BufferCollectionInfo(buffers=[VmoBuffer(), VmoBuffer(vmo=closed)]))


def test_a_descriptor_that_is_not_referred_to_is_refused() -> None:
    refused(SetDebugClientInfoRequest, cbor({2: 7}), "1 descriptors, but the body", handles(1))
    refused(VmoBuffer, cbor({1: tag(0)}), "2 descriptors, but the body", handles(2))


def test_a_descriptors_index_out_of_range_is_refused() -> None:
    refused(VmoBuffer, cbor({1: tag(0)}), "0 descriptors, but the body")
    refused(VmoBuffer, cbor({1: tag(1)}), "exactly once", handles(1))
    refused(VmoBuffer, cbor({1: tag((1 << 64) - 1)}), "exactly once", handles(1))


def test_a_descriptor_used_twice_is_refused() -> None:
    refused(VmoBuffer, cbor({1: tag(0), 3: tag(0)}), "exactly once", handles(1))
    refused(VmoBuffer, cbor({1: tag(0), 3: tag(0)}), "exactly once", handles(2))
    refused(VmoBuffer, cbor({1: tag(0), UNKNOWN: tag(0)}), "exactly once", handles(1))


def test_many_bad_references_make_a_short_error() -> None:
    error = refused(CreateTokensResponse, cbor({1: [tag(0)] * 5000}), "exactly once")
    assert len(str(error)) < 300


def test_handles_taken_before_an_error_are_closed_too() -> None:
    arrived = handles(2)
    number = arrived[0].fileno()
    body = cbor({2: [{1: tag(0)}, {1: tag(1), 2: "not a number"}]})
    refused(BufferCollectionInfo, body, r"\$\.buffers\[1\]\.vmo_usable_start", arrived)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


# --- what bad input gets, known fields ----------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"\xff", b"\x1c", b"hello", b"\xa1", b"\xa1\x01"])
def test_a_body_that_is_not_cbor_is_refused(body: bytes) -> None:
    refused(SetDebugClientInfoRequest, body, "byte|expected")


@pytest.mark.parametrize("text", [b"\x61\x80", b"\x62\xc3\x28", b"\x63\xed\xa0\x80", b"\x61\xff"])
@pytest.mark.parametrize("field", [b"\x01", b"\x19\x03\xe7"])
def test_text_that_is_not_utf_8_is_refused(text: bytes, field: bytes) -> None:
    refused(SetDebugClientInfoRequest, b"\xa1" + field + text, "not CBOR")


BAD_ANYWHERE = {
    "an indefinite length": ["9f00ff", "bf0000ff", "5f4100ff", "7f6161ff"],
    "a non-minimal integer": ["1801", "190001", "1b0000000000000001", "3801"],
    "a non-minimal length": ["5800", "7800", "9800", "b800"],
    "another tag": [
        "c000",
        "c11a00000000",
        "c249010000000000000000",
        "d82300",
        "d81c00",
        "d9d9f700",
    ],
    "a duplicated key": ["a200000000", "a2616100616100", "a2f500f500", "a2f97e0000f97e0000"],
    "an integer as its long simple value": ["f814"],
}


@pytest.mark.parametrize(
    ("row", "item"), [(row, item) for row, items in BAD_ANYWHERE.items() for item in items]
)
@pytest.mark.parametrize(
    "around",
    ["a101{}", "a11903e7{}", "a11903e7820 0{}", "a11903e7a1{}00", "a11903e7a161 61{}", "a1{}00"],
)
def test_what_is_not_strict_is_refused_under_unknown_fields_too(
    row: str, item: str, around: str
) -> None:
    body = bytes.fromhex(around.replace(" ", "").format(item))
    refused(SetDebugClientInfoRequest, body, "byte")
    body_with_handle = b"\xa2\x18\x64\xd9\x7a\x5d\x00" + body[1:]
    refused(SetDebugClientInfoRequest, body_with_handle, "byte", handles(1))


def test_a_duplicated_field_is_refused() -> None:
    refused(SetDebugClientInfoRequest, bytes.fromhex("a2016161016162"), "twice")
    refused(SetDebugClientInfoRequest, bytes.fromhex("a21903e7001903e700"), "twice")


def test_trailing_bytes_are_refused() -> None:
    refused(SetDebugClientInfoRequest, cbor({2: 7}) + b"\x00", "1 bytes after the item")
    refused(SetDebugClientInfoRequest, cbor({2: 7}) * 2, "bytes after the item")


def test_nesting_deeper_than_16_is_refused_and_16_is_fine() -> None:
    fine = b"\xa1\x19\x03\xe7" + b"\x81" * 14 + b"\x80"
    assert DECODER.table(SetDebugClientInfoRequest, fine, []) == SetDebugClientInfoRequest()
    deeper = b"\xa1\x19\x03\xe7" + b"\x81" * 15 + b"\x80"
    refused(SetDebugClientInfoRequest, deeper, "nested deeper than 16")


@pytest.mark.parametrize(
    "number", [0, -1, -(1 << 64), "name", b"name", 1.0, True, False, None, (1,), cbor2.undefined]
)
def test_a_field_number_is_an_integer_from_1(number: object) -> None:
    body = b"\xa1" + cbor(list(number) if isinstance(number, tuple) else number) + b"\x00"
    refused(SetDebugClientInfoRequest, body, "not a field number|expected a map")
    refused(BufferCollectionConstraints, b"\xa1\x01" + body, r"^\$\.usage: ")


def test_true_is_no_field_number_beside_1() -> None:
    refused(SetDebugClientInfoRequest, bytes.fromhex("a2016161f56162"), "expected a map")
    refused(SetDebugClientInfoRequest, bytes.fromhex("a2016161f93c006162"), "expected a map")


def test_a_long_key_makes_a_short_error() -> None:
    error = refused(SetDebugClientInfoRequest, cbor({"x" * 60000: 1}), "not a field number")
    assert len(str(error)) < 300


NOT_DECLARED: dict[str, tuple[type[Table], int, list[object]]] = {
    "bool": (AllocatorGetVmoInfoRequest, 2, [0, 1, None, "true", 1.0, [], {}, b"\x01", cbor2.undefined]),
    "u32": (BufferCollectionConstraints, 2, [True, "1", 1.0, None, [], {}, b"1", [1]]),
    "string": (SetDebugClientInfoRequest, 1, [b"name", 1, None, True, ["name"], {}]),
    "vector": (CreateTokensRequest, 1, [0, "ab", b"ab", None, {0: 1}, True]),
    "table": (BufferCollectionConstraints, 1, [[], [1, 2], 0, None, "x", True]),
    "struct": (ImageFormatConstraints, 4, [{1: 2, 2: 2}, 0, None, "ab", True]),
    "handle": (VmoBuffer, 1, [0, None, "0", [0], {0: 0}, True]),
    "enum": (ImageFormatConstraints, 1, ["NV12", None, True, 1.0, [104]]),
    "flags": (BufferUsage, 2, ["READ", None, True, 1.0, [1]]),
    "vector element": (CreateTokensRequest, 1, [["1"], [None], [True], [[]], [1.0]]),
    "struct member": (ImageFormatConstraints, 4, [["1", 2], [1, None], [True, 1], [1.0, 1]]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "number", "value"),
    [
        pytest.param(kind, number, value, id=f"{declared} {value!r}")
        for declared, (kind, number, wrong) in NOT_DECLARED.items()
        for value in wrong
    ],
)
def test_a_value_of_another_type_is_refused(kind: type[Table], number: int, value: object) -> None:
    name = next(m.name for m in kind.members if m.field.number == number)
    refused(kind, cbor({number: value}), rf"^\$\.{name}.*: expected")


@pytest.mark.parametrize(
    ("kind", "number", "inside", "outside"),
    [
        (BufferCollectionConstraints, 2, [0, (1 << 32) - 1], [-1, 1 << 32, (1 << 64) - 1]),
        (BufferMemoryConstraints, 1, [0, (1 << 64) - 1], [-1, -(1 << 64)]),
        (BufferUsage, 3, [0, (1 << 32) - 1], [-1, 1 << 32]),
        (ImageFormatConstraints, 2, [0, (1 << 64) - 1], [-1]),
        (ImageFormatConstraints, 1, [0, (1 << 32) - 1], [-1, 1 << 32]),
        (
            sysmem2.NodeSetDebugTimeoutLogDeadlineRequest,
            1,
            [-(1 << 63), (1 << 63) - 1],
            [-(1 << 63) - 1, 1 << 63],
        ),
    ],
)
def test_an_integer_out_of_width_is_refused_by_both_ends(
    kind: type[Table], number: int, inside: list[int], outside: list[int]
) -> None:
    name = next(m.name for m in kind.members if m.field.number == number)
    for value in inside:
        assert getattr(DECODER.table(kind, cbor({number: value}), []), name) == value
        assert encode(kind(**{name: value})) == (cbor({number: value}), [])
    for value in outside:
        wrong = rf"^\$\.{name}: .*doesn't fit"
        refused(kind, cbor({number: value}), wrong)
        with pytest.raises(EncodeValueError, match=wrong):
            encode(kind(**{name: value}))


def test_a_strings_bound_is_in_bytes_of_utf_8() -> None:
    def name(text: str) -> bytes:
        return cbor({1: text})

    for fits in ("a" * 256, "é" * 128, "𝄞" * 64, ""):
        assert DECODER.table(SetDebugClientInfoRequest, name(fits), []).name == fits
    for long in ("a" * 257, "é" * 128 + "a", "𝄞" * 64 + "a"):
        refused(SetDebugClientInfoRequest, name(long), r"^\$\.name: \d+ bytes of UTF-8")


@pytest.mark.parametrize(
    ("kind", "number", "bound", "element"),
    [
        (CreateTokensRequest, 1, 64, 1),
        (BufferCollectionConstraints, 8, 64, {}),
        (BufferMemoryConstraints, 8, 64, {}),
        (ImageFormatConstraints, 3, 32, 1),
        (ImageFormatConstraints, 15, 64, [1, 0]),
        (ImageFormatConstraints, 18, 64, [1, 1]),
        (BufferCollectionInfo, 2, 128, {}),
    ],
)
def test_a_vector_over_its_bound_is_refused(
    kind: type[Table], number: int, bound: int, element: object
) -> None:
    name = next(m.name for m in kind.members if m.field.number == number)
    for count in (0, bound):
        table = DECODER.table(kind, cbor({number: [element] * count}), [])
        assert len(getattr(table, name)) == count
    refused(kind, cbor({number: [element] * (bound + 1)}), rf"^\$\.{name}: {bound + 1} elements")


@pytest.mark.parametrize("members", [[], [1], [1, 2, 3]])
def test_a_struct_of_wrong_arity_is_refused(members: list[int]) -> None:
    refused(ImageFormatConstraints, cbor({4: members}), r"^\$\.min_size: .*SizeU has 2")


def test_an_error_says_where_in_the_table_it_is() -> None:
    body = cbor({8: [{}, {4: [1 << 32, 1]}]})
    error = refused(BufferCollectionConstraints, body, "doesn't fit")
    assert str(error).startswith("$.image_format_constraints[1].min_size.width: 4294967296")


# --- what is fine -------------------------------------------------------------------------------------------------

WELL_FORMED = {
    "null": "f6", "undefined": "f7", "false": "f4", "half float": "f93c00",
    "half NaN": "f97e00", "single float": "fa7f800000", "double float": "fbc010666666666666",
    "a signalling NaN": "fb7ff0000000000001", "byte string": "43000102", "text": "63616263",
    "negative": "3bffffffffffffffff", "large": "1bffffffffffffffff", "array": "83f600f5",
    "simple 0": "e0", "simple 19": "f3", "simple 32": "f820", "simple 255": "f8ff",
    "empty map": "a0", "text keys": "a2616100616200", "float key": "a1f93c0000",
    "bool keys": "a2f400f500", "1 and true and 1.0": "a30100f500f93c0000", "null key": "a1f600",
    "array key": "a1820102f5", "map key": "a1a1010200", "byte string key": "a1410000",
    "field 0": "a10000", "negative key": "a12000",
    "undefined and simple keys": "a2f700e000",
}  # fmt: skip


@pytest.mark.parametrize("value", WELL_FORMED.values(), ids=WELL_FORMED)
def test_unknown_fields_with_any_well_formed_value_are_ignored(value: str) -> None:
    item = bytes.fromhex(value)
    for body in (
        b"\xa2\x02\x07\x19\x03\xe7" + item,
        b"\xa2\x19\x03\xe7" + item + b"\x02\x07",
        b"\xa2\x1b" + b"\xff" * 8 + item + b"\x02\x07",
        b"\xa2\x02\x07\x03\x82" + item + b"\xa1\x61a" + item,
    ):
        table = DECODER.table(SetDebugClientInfoRequest, body, [])
        assert table == SetDebugClientInfoRequest(id=7)


def test_unknown_fields_of_nested_tables_are_ignored() -> None:
    body = cbor({1: {2: 1, UNKNOWN: [1.5, None]}, 8: [{UNKNOWN: b"x"}]})
    assert DECODER.table(BufferCollectionConstraints, body, []) == BufferCollectionConstraints(
        usage=BufferUsage(cpu=1), image_format_constraints=[ImageFormatConstraints()]
    )


@pytest.mark.parametrize(
    "unknown", ["d97a5d00", "81d97a5d00", "a101d97a5d00", "a1f5d97a5d00", "a1d97a5d00f5"]
)
def test_descriptors_under_unknown_fields_are_closed(unknown: str) -> None:
    arrived = handles(2)
    body = b"\xa2\x01\xd9\x7a\x5d\x01\x19\x03\xe7" + bytes.fromhex(unknown)
    table = DECODER.table(VmoBuffer, body, arrived)
    assert all(h.closed for h in arrived)
    assert table.vmo is not None
    table.vmo.close()


def test_unknown_enum_numbers_decode_as_integers_and_known_ones_as_members() -> None:
    table = DECODER.table(
        ImageFormatConstraints, cbor({1: 104, 2: 12345, 3: [6, 4000, 0xFFFFFFFE]}), []
    )
    assert table.pixel_format is PixelFormat.NV12
    assert table.pixel_format_modifier == 12345
    assert table.color_spaces == [ColorSpace.REC709, 4000, ColorSpace.DO_NOT_CARE]
    settings = DECODER.table(BufferMemorySettings, cbor({4: 77}), [])
    assert settings.coherency_domain == 77


def test_flags_decode_with_bits_that_have_no_name() -> None:
    usage = DECODER.table(BufferUsage, cbor({2: 2, 3: 0x80000001, 5: 4}), [])
    assert usage == BufferUsage(cpu=CpuUsage.READ_OFTEN, vulkan=0x80000001, video=4)


def test_combinations_of_flags_that_arrive_are_not_kept_forever() -> None:
    """An IntFlag keeps every combination that it ever made; a peer could fill the memory with them."""
    before = len(CpuUsage._value2member_map_), len(sysmem2.VulkanUsage._value2member_map_)
    for number in range(1000, 1100):
        DECODER.table(BufferUsage, cbor({2: number, 3: number}), [])
    assert before == (
        len(CpuUsage._value2member_map_),
        len(sysmem2.VulkanUsage._value2member_map_),
    )


def test_required_fields_may_be_un_set_as_far_as_the_codec_goes() -> None:
    """What that means depends on the channel, so the server decides."""
    table = DECODER.table(BufferCollectionTokenDuplicateRequest, MEMBERLESS, [])
    assert list(table.missing()) == ["rights_attenuation_mask", "token_request"]


# --- requests and answers -----------------------------------------------------------------------------------------


def test_a_request_without_a_table_has_an_empty_body() -> None:
    assert DECODER.request(Node.sync, b"", []) is None
    assert DECODER.response(Node.sync, b"", []) is None
    assert encode_response(Node.sync, None) == (b"", [])


@pytest.mark.parametrize("body", [b"\xa0", b"\x00", b"\xf6", b"\xff"])
def test_bytes_after_the_header_of_a_payload_less_message_are_refused(body: bytes) -> None:
    for decode in (DECODER.request, DECODER.response):
        with pytest.raises(DecodeError, match="no payload"):
            decode(Node.sync, body, [])


def test_descriptors_of_a_payload_less_message_are_refused_and_closed() -> None:
    arrived = handles(2)
    with pytest.raises(DecodeError, match="2 descriptors"):
        DECODER.request(Node.release, b"", arrived)
    assert all(h.closed for h in arrived)


def test_a_request_with_a_table_needs_a_body() -> None:
    with pytest.raises(DecodeError, match="is incomplete"):
        DECODER.request(Node.set_name, b"", [])
    assert DECODER.request(Node.set_name, MEMBERLESS, []) == sysmem2.NodeSetNameRequest()


def test_the_answer_of_a_method_that_cannot_fail_is_the_table_itself() -> None:
    method = Node.get_buffer_collection_id
    answer = sysmem2.NodeGetBufferCollectionIdResponse(buffer_collection_id=1 << 40)
    body, _ = encode_response(method, answer)
    assert cbor2.loads(body) == {1: 1 << 40}
    assert DECODER.response(method, body, []) == answer


def test_the_answer_of_a_method_that_can_fail_is_a_map_with_one_key() -> None:
    method = Node.is_alternate_for
    answer = sysmem2.NodeIsAlternateForResponse(is_alternate=True)
    body, _ = encode_response(method, answer)
    assert cbor2.loads(body) == {1: {1: True}}
    assert DECODER.response(method, body, []) == answer
    body, _ = encode_response(method, Error.NOT_FOUND)
    assert cbor2.loads(body) == {2: 3}
    assert DECODER.response(method, body, []) is Error.NOT_FOUND


def test_a_success_with_nothing_to_say_is_an_empty_table() -> None:
    method = BufferCollection.check_all_buffers_allocated
    body, _ = encode_response(method, None)
    assert body == bytes.fromhex("a101a0")
    assert DECODER.response(method, body, []) is None
    assert DECODER.response(method, cbor({1: {UNKNOWN: "grown"}}), []) is None
    assert DECODER.response(method, cbor({2: 7}), []) is Error.PENDING


def test_an_unknown_error_number_decodes_as_an_integer() -> None:
    answer = DECODER.response(Node.is_alternate_for, cbor({2: 4000}), [])
    assert answer == 4000
    assert not isinstance(answer, Error)


@pytest.mark.parametrize(
    "answer",
    [
        {}, {1: {}, 2: 3}, {3: {}}, {0: {}}, {True: {}}, {"1": {}}, {1.0: {}}, {-1: 0}, [], 1, None,
        {2: {}}, {2: True}, {2: "3"}, {2: 1 << 32}, {2: -1}, {1: []}, {1: None}, {1: 0},
        {1: {0: 1}}, {1: {"a": 1}}, {1: {True: 1}},
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "method", [Node.is_alternate_for, BufferCollection.check_all_buffers_allocated], ids=str
)
def test_any_other_answer_of_a_method_that_can_fail_is_refused(
    method: Method, answer: object
) -> None:
    with pytest.raises(DecodeError):
        DECODER.response(method, cbor(answer), [])


def test_a_refused_answer_closes_its_descriptors() -> None:
    arrived = handles(1)
    method = BufferCollection.wait_for_all_buffers_allocated
    with pytest.raises(DecodeError):
        DECODER.response(method, cbor({1: {1: {2: [{1: tag(0), 2: -1}]}}}), arrived)
    assert all(h.closed for h in arrived)


def test_the_descriptors_of_an_answer_with_an_error_must_be_referred_to_too() -> None:
    arrived = handles(1)
    with pytest.raises(DecodeError, match="descriptors, but the body"):
        DECODER.response(Node.is_alternate_for, cbor({2: 3}), arrived)
    assert all(h.closed for h in arrived)


# --- encoding errors ----------------------------------------------------------------------------------------------


def size(width: Any, height: Any = 1) -> BufferCollectionConstraints:
    return BufferCollectionConstraints(
        image_format_constraints=[
            ImageFormatConstraints(),
            ImageFormatConstraints(min_size=SizeU(width, height)),
        ]
    )


WRONG: list[tuple[type[Exception], str, Callable[[], Table]]] = [
    (EncodeValueError, "$.image_format_constraints[1].min_size.width", lambda: size(1 << 32)),
    (EncodeValueError, "$.image_format_constraints[1].min_size.height", lambda: size(1, -1)),
    (EncodeTypeError, "$.image_format_constraints[1].min_size.width", lambda: size("1")),
    (EncodeTypeError, "$.image_format_constraints[1].min_size.width", lambda: size(True)),
    (EncodeTypeError, "$.image_format_constraints[1].min_size.width", lambda: size(None)),
    (EncodeTypeError, "$.image_format_constraints[1].min_size.width", lambda: size(1.0)),
    (
        EncodeTypeError,
        "$.image_format_constraints[0]",
        lambda: BufferCollectionConstraints(image_format_constraints=[Heap()]),  # type: ignore[list-item] # wrong
    ),
    (
        EncodeTypeError,
        "$.image_format_constraints",
        lambda: BufferCollectionConstraints(image_format_constraints=ImageFormatConstraints()),  # type: ignore[arg-type] # wrong
    ),
    (
        EncodeTypeError,
        "$.buffer_memory_constraints",
        lambda: BufferCollectionConstraints(buffer_memory_constraints={1: 2}),  # type: ignore[arg-type] # wrong
    ),
    (
        EncodeTypeError,
        "$.secure_required",
        lambda: BufferMemoryConstraints(secure_required=1),  # type: ignore[arg-type] # wrong
    ),
    (EncodeTypeError, "$.heap_type", lambda: Heap(heap_type=b"x")),  # type: ignore[arg-type] # wrong
    (EncodeTypeError, "$.heap_type", lambda: Heap(heap_type=7)),  # type: ignore[arg-type] # wrong
    (EncodeValueError, "$.heap_type", lambda: Heap(heap_type="é" * 64 + "a")),
    (EncodeValueError, "$.heap_type", lambda: Heap(heap_type="\ud800")),
    (EncodeTypeError, "$.vmo", lambda: VmoBuffer(vmo=3)),  # type: ignore[arg-type] # wrong
    (
        EncodeValueError,
        "$.rights_attenuation_masks",
        lambda: CreateTokensRequest(rights_attenuation_masks=[1] * 65),
    ),
    (
        EncodeTypeError,
        "$.rights_attenuation_masks[1]",
        lambda: CreateTokensRequest(rights_attenuation_masks=[1, "2"]),  # type: ignore[list-item] # wrong
    ),
    (
        EncodeTypeError,
        "$.rights_attenuation_masks",
        lambda: CreateTokensRequest(rights_attenuation_masks="12"),  # type: ignore[arg-type] # wrong
    ),
]


@pytest.mark.parametrize(("error", "path", "make"), WRONG)
def test_an_encoding_error_names_the_place(
    error: type[Exception], path: str, make: Callable[[], Table]
) -> None:
    with pytest.raises(error) as caught:
        encode(make())
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("number", [np.uint8(4), np.int64(4), np.array(4), CpuUsage.WRITE])
def test_whatever_has_an_index_is_an_int(number: Any) -> None:
    made = BufferCollectionConstraints(usage=BufferUsage(cpu=number), min_buffer_count=number)
    plain = BufferCollectionConstraints(usage=BufferUsage(cpu=4), min_buffer_count=4)
    assert encode(made) == encode(plain)


OLD_NUMPY = hasattr(np.bool_, "__index__")
A_BOOL = pytest.param(
    np.bool_(True), marks=pytest.mark.skipif(OLD_NUMPY, reason="this numpy's is one")
)


@pytest.mark.parametrize("number", [True, A_BOOL, np.array([4]), 4.0, np.float32(4)])
def test_what_has_none_is_not(number: Any) -> None:
    for made in (BufferCollectionConstraints(min_buffer_count=number), BufferUsage(cpu=number)):
        with pytest.raises(EncodeTypeError, match="expected an int"):
            encode(made)


@pytest.mark.parametrize("other", [VideoUsage.CAPTURE, Error.NOT_FOUND, PixelFormat.NV12])
def test_a_member_of_another_enum_is_refused(other: Any) -> None:
    with pytest.raises(
        EncodeTypeError, match=r"^\$\.cpu: expected a CpuUsage or a plain int, not "
    ):
        encode(BufferUsage(cpu=other))


def test_encoding_errors_are_what_python_calls_them() -> None:
    assert issubclass(EncodeTypeError, TypeError)
    assert issubclass(EncodeValueError, ValueError)
    assert issubclass(DecodeError, ValueError)


def test_a_value_however_long_makes_a_short_error() -> None:
    with pytest.raises(EncodeTypeError) as caught:
        encode(Heap(heap_type=["x"] * 10000))  # type: ignore[arg-type] # wrong
    assert len(str(caught.value)) < 300


def test_an_answers_encoding_error_names_the_place_too() -> None:
    with pytest.raises(EncodeValueError, match=r"^\$\.is_alternate|^\$\.buffer_collection_id"):
        encode_response(
            Node.get_buffer_collection_id,
            sysmem2.NodeGetBufferCollectionIdResponse(buffer_collection_id=-1),
        )


def test_flags_enums_and_tuples_are_taken_wherever_they_fit() -> None:
    request = CreateTokensRequest(
        rights_attenuation_masks=(Rights.READ | Rights.MAP, ~Rights.WRITE, 0, 0xFFFFFFFF)
    )
    body, _ = encode(request)
    assert cbor2.loads(body) == {1: [0x24, 0xFFFFFFF7, 0, 0xFFFFFFFF]}
    body, _ = encode(BufferMemorySettings(coherency_domain=CoherencyDomain.RAM))
    assert cbor2.loads(body) == {4: 1}


def test_a_table_larger_than_a_message_is_refused_before_anything_is_sent() -> None:
    image = ImageFormatConstraints(
        pixel_format=PixelFormat.NV12,
        required_max_size_list=[SizeU(1 << 31, 1 << 31)] * 64,
        pixel_format_and_modifiers=[PixelFormatAndModifier(1 << 31, 1 << 63)] * 64,
    )
    constraints = BufferCollectionConstraints(image_format_constraints=[image] * 64)
    with pytest.raises(EncodeValueError, match="bytes, at most 65520 fit into a message"):
        encode(constraints)
    assert MAX_MESSAGE_BYTES - HEADER.size == 65520


# --- whatever comes -----------------------------------------------------------------------------------------------


def decode_anything(kind: type[Table], body: bytes, count: int) -> None:
    """Decoding either gives a table or raises DecodeError; either way no descriptor is left behind."""
    arrived = handles(count)
    try:
        table = DECODER.table(kind, body, arrived)
    except DecodeError:
        pass
    else:
        close_all(table)
    assert all(h.closed for h in arrived)


@settings(max_examples=300)
@given(kind=st.sampled_from(TABLES), body=st.binary(max_size=80), count=st.integers(0, 2))
def test_arbitrary_bytes_decode_or_are_refused(kind: type[Table], body: bytes, count: int) -> None:
    decode_anything(kind, body, count)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[type[Table], bytes, int]:
    """A valid body with a few bytes changed, removed, put in, or cut off."""
    kind = draw(st.sampled_from(TABLES))
    table = opened(draw(instances(kind)))
    body, given_handles = encode(table)
    count = len(given_handles)
    close_all(table)
    data = bytearray(body)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["set", "insert", "remove", "cut"])):
            case "set" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=4))
            case "remove":
                del data[at : at + 1]
            case _:
                del data[at + 1 :]
    return kind, bytes(data), count


@settings(max_examples=300)
@given(mutated())
def test_mutated_bodies_decode_or_are_refused(case: tuple[type[Table], bytes, int]) -> None:
    decode_anything(*case)


ITEMS = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.floats()
    | st.text(max_size=4) | st.binary(max_size=4) | st.builds(tag, st.integers(0, 2)),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.integers(0, 20) | st.text(max_size=2) | st.booleans(), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=300)
@given(kind=st.sampled_from(TABLES), value=ITEMS, count=st.integers(0, 3))
def test_any_cbor_decodes_or_is_refused(kind: type[Table], value: object, count: int) -> None:
    decode_anything(kind, cbor(value), count)


@settings(max_examples=200)
@given(
    method=st.sampled_from(sorted(METHODS, key=str)),
    value=ITEMS | st.builds(lambda value: {1: value}, ITEMS) | st.builds(lambda n: {2: n}, ITEMS),
    count=st.integers(0, 3),
)
def test_any_cbor_as_an_answer_decodes_or_is_refused(
    method: Method, value: object, count: int
) -> None:
    arrived = handles(count)
    with contextlib.suppress(DecodeError):
        close_all(DECODER.response(method, cbor(value), arrived))
    assert all(h.closed for h in arrived)


def test_many_items_in_one_message_take_no_long_time() -> None:
    """64 KiB of one-byte items, of empty maps, and of nothing but heads."""
    for item in (b"\x00", b"\xa0", b"\x80", b"\xf6"):
        count = 65000
        body = b"\xa1\x19\x03\xe7\x99" + struct.pack(">H", count) + item * count
        assert DECODER.table(VmoBuffer, body, []) == VmoBuffer()


# --- the examples of the protocol's page --------------------------------------------------------------------------


def test_token_methods_travel_as_the_tokens() -> None:
    """`Duplicate` by hand, so that one message is checked without the codec's own help."""
    with handle() as server_end:
        request = BufferCollectionTokenDuplicateRequest(
            rights_attenuation_mask=Rights.SAME_RIGHTS, token_request=server_end
        )
        assert encode(request) == (bytes.fromhex("a2011a8000000002d97a5d00"), [server_end])
    assert BufferCollectionToken.duplicate.ordinal == 0x73E78F92EE7FB887
