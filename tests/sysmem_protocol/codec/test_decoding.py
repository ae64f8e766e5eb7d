"""What a body becomes, and what bad input gets (`docs/spec/protocol.md`, "What bad input gets")."""

from __future__ import annotations

import contextlib
import os
import struct

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysmem_protocol import sysmem2
from sysmem_protocol.codec import (
    DecodeError,
    Decoder,
    EncodeValueError,
    encode,
)
from sysmem_protocol.handles import Handle
from sysmem_protocol.images2 import ColorSpace, PixelFormat
from sysmem_protocol.library import (
    HandleKind,
    Method,
    Table,
)
from sysmem_protocol.sysmem2 import (
    AllocatorGetVmoInfoRequest,
    BufferCollectionConstraints,
    BufferCollectionInfo,
    BufferCollectionTokenDuplicateRequest,
    BufferMemoryConstraints,
    BufferMemorySettings,
    BufferUsage,
    CpuUsage,
    CreateTokensRequest,
    CreateTokensResponse,
    ImageFormatConstraints,
    SetDebugClientInfoRequest,
    VmoBuffer,
)

from ..drawn import METHODS, TABLES, instances
from .support import (
    DECODER,
    MEMBERLESS,
    UNKNOWN,
    cbor,
    close_all,
    handle,
    handles,
    opened,
    refused,
    tag,
)

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
    """An IntFlag keeps every combination that was ever created, so a peer could fill the memory."""
    before = len(CpuUsage._value2member_map_), len(sysmem2.VulkanUsage._value2member_map_)
    for number in range(1000, 1100):
        DECODER.table(BufferUsage, cbor({2: number, 3: number}), [])
    assert before == (
        len(CpuUsage._value2member_map_),
        len(sysmem2.VulkanUsage._value2member_map_),
    )


def test_required_fields_may_be_un_set_as_far_as_the_codec_goes() -> None:
    """The meaning of an absent field depends on the channel, so the server decides."""
    table = DECODER.table(BufferCollectionTokenDuplicateRequest, MEMBERLESS, [])
    assert list(table.missing()) == ["rights_attenuation_mask", "token_request"]


# --- whatever comes -----------------------------------------------------------------------------------------------


def decode_anything(kind: type[Table], body: bytes, count: int) -> None:
    """Check that decoding returns a table or raises DecodeError, and that no descriptor is left in either case."""
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
    """Return a valid body in which a few bytes were changed, removed, inserted or cut off."""
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
    """64 KiB of one-byte items, of empty maps, and of nothing but headers of items."""
    for item in (b"\x00", b"\xa0", b"\x80", b"\xf6"):
        count = 65000
        body = b"\xa1\x19\x03\xe7\x99" + struct.pack(">H", count) + item * count
        assert DECODER.table(VmoBuffer, body, []) == VmoBuffer()
