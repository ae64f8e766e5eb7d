"""Header, body and descriptors of one message, and split responses (`docs/spec/protocol.md`, "Message")."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sysmem_protocol.channel import Channel
from sysmem_protocol.codec import Decoder, encode, encode_response
from sysmem_protocol.handles import Handle, channel_pair
from sysmem_protocol.images2 import ColorSpace, PixelFormat
from sysmem_protocol.library import Method, Table
from sysmem_protocol.message import (
    FLAGS,
    FLAGS_MORE,
    HEADER,
    MAGIC,
    MAX_HANDLES,
    MAX_MESSAGE_BYTES,
    SERVER_TXID,
    MalformedMessage,
    Message,
    parse,
)
from sysmem_protocol.sysmem2 import (
    Allocator,
    AllocatorAllocateSharedCollectionRequest,
    BufferCollection,
    BufferCollectionConstraints,
    BufferCollectionInfo,
    BufferCollectionSetConstraintsRequest,
    BufferCollectionToken,
    BufferCollectionTokenDuplicateRequest,
    BufferCollectionWaitForAllBuffersAllocatedResponse,
    BufferMemoryConstraints,
    BufferUsage,
    CpuUsage,
    Error,
    ImageFormatConstraints,
    Node,
    NodeIsAlternateForResponse,
    Rights,
    SetDebugClientInfoRequest,
    SizeU,
    VmoBuffer,
)

ORDINAL = Node.sync.ordinal
DECODER = Decoder()


def null() -> Handle:
    return Handle(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))


def header(
    txid: int = 1, flags: bytes = FLAGS, magic: int = MAGIC, ordinal: int = ORDINAL
) -> bytes:
    return HEADER.pack(txid, flags, magic, ordinal)


def refused(data: bytes, why: str, count: int = 1) -> None:
    handles = [null() for _ in range(count)]
    with pytest.raises(MalformedMessage, match=why):
        parse(data, handles)
    assert all(handle.closed for handle in handles)


# --- the header ---------------------------------------------------------------------------------------------------


def test_the_limits_are_the_protocols() -> None:
    assert HEADER.size == 16
    assert MAX_MESSAGE_BYTES == 65536
    assert MAX_HANDLES == 253
    assert SERVER_TXID == 0x80000000


def test_a_headers_fields_are_where_the_protocol_puts_them() -> None:
    [(data, _)] = Message(0x01020304, 0x1112131415161718, b"body").datagrams()
    assert data == bytes.fromhex("04030201 020080 01 1817161514131211") + b"body"


@given(txid=st.integers(0, 0xFFFFFFFF), ordinal=st.integers(0, (1 << 64) - 1), body=st.binary())
def test_a_message_arrives_as_it_was_sent(txid: int, ordinal: int, body: bytes) -> None:
    sent = Message(txid, ordinal, body)
    [(data, handles)] = sent.datagrams()
    assert parse(data, handles) == sent


@pytest.mark.parametrize("size", range(16))
def test_a_short_header_is_malformed(size: int) -> None:
    refused(header()[:size], "not a message")


@pytest.mark.parametrize("magic", [0, 2, 0x80, 0xFF])
def test_bad_magic_is_malformed(magic: int) -> None:
    refused(header(magic=magic), "magic")


@pytest.mark.parametrize(
    "flags", ["000080", "030080", "020000", "020081", "020280", "0200c0", "820080", "800002"]
)
def test_wrong_flag_bytes_are_malformed(flags: str) -> None:
    refused(header(flags=bytes.fromhex(flags)), f"flags {flags}, expected 020080")


def test_a_part_that_others_follow_carries_descriptors_and_no_body() -> None:
    refused(header(flags=FLAGS_MORE) + b"\xa0", "must have descriptors and no body")
    refused(header(flags=FLAGS_MORE), "must have descriptors and no body", count=0)
    part = parse(header(flags=FLAGS_MORE), [null()])
    assert part.more
    part.close()


@given(data=st.binary(max_size=40))
def test_arbitrary_datagrams_are_a_message_or_malformed(data: bytes) -> None:
    handles = [null()]
    try:
        message = parse(data, handles)
    except MalformedMessage:
        assert handles[0].closed
    else:
        message.close()


def test_a_message_owns_its_handles() -> None:
    handles = [null(), null()]
    message = parse(header(), handles)
    assert message.handles == handles
    message.close()
    assert all(handle.closed for handle in handles)
    message.close()


# --- split responses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "parts"),
    [(0, [0]), (1, [1]), (253, [253]), (254, [253, 1]), (256, [253, 3]), (506, [253, 253]), (507, [253, 253, 1])],
)  # fmt: skip
def test_a_message_is_split_so_that_each_datagram_fits_and_the_last_has_the_body(
    count: int, parts: list[int]
) -> None:
    handles = [Handle(-1) for _ in range(count)]
    datagrams = list(Message(7, ORDINAL, b"body", handles).datagrams())
    assert [len(some) for _, some in datagrams] == parts
    assert [handle for _, some in datagrams for handle in some] == handles
    for data, _ in datagrams[:-1]:
        assert data == header(7, FLAGS_MORE)
    assert datagrams[-1][0] == header(7) + b"body"


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    near, far = (Channel(end.detach()) for end in channel_pair())
    yield near, far
    near.close()
    far.close()


def test_a_response_with_256_descriptors_is_split_and_put_together_again(
    channels: tuple[Channel, Channel],
) -> None:
    """128 weak buffers: the maximum number of descriptors of a response."""
    near, far = channels
    originals = [Handle(os.memfd_create(str(n))) for n in range(256)]
    inodes = [os.fstat(handle.fileno()).st_ino for handle in originals]
    buffers = [
        VmoBuffer(vmo=vmo, vmo_usable_start=0, close_weak_asap=event)
        for vmo, event in zip(originals[::2], originals[1::2], strict=True)
    ]
    method = BufferCollection.wait_for_all_buffers_allocated
    body, handles = encode_response(
        method,
        BufferCollectionWaitForAllBuffersAllocatedResponse(
            buffer_collection_info=BufferCollectionInfo(buffers=buffers)
        ),
    )
    for data, some in Message(9, method.ordinal, body, handles).datagrams():
        assert near.send(data, some)
    for handle in originals:
        handle.close()

    parts: list[Message] = []
    while not parts or parts[-1].more:
        received = far.receive()
        assert received is not None
        parts.append(parse(*received))
    assert [len(part.handles) for part in parts] == [253, 3]
    assert {(part.txid, part.ordinal) for part in parts} == {(9, method.ordinal)}
    assert parts[0].body == b""
    answer = DECODER.response(
        method, parts[-1].body, [handle for part in parts for handle in part.handles]
    )

    assert isinstance(answer, BufferCollectionWaitForAllBuffersAllocatedResponse)
    info = answer.buffer_collection_info
    assert info is not None
    assert info.buffers is not None
    arrived = [h for b in info.buffers for h in (b.vmo, b.close_weak_asap) if h is not None]
    assert [os.fstat(handle.fileno()).st_ino for handle in arrived] == inodes
    for handle in arrived:
        handle.close()


# --- the examples -------------------------------------------------------------------------------------------------

CONSTRAINTS = BufferCollectionConstraints(
    usage=BufferUsage(cpu=CpuUsage.READ_OFTEN | CpuUsage.WRITE_OFTEN),
    min_buffer_count_for_camping=2,
    buffer_memory_constraints=BufferMemoryConstraints(min_size_bytes=65536),
    image_format_constraints=[
        ImageFormatConstraints(
            pixel_format=PixelFormat.NV12,
            color_spaces=[ColorSpace.REC709],
            min_size=SizeU(256, 256),
        )
    ],
)
REQUESTS: list[tuple[str, Method, int, Table | None]] = [
    ("0100000002008001545b57cf5525ac11", Node.sync, 1, None),
    (
        "00000000020080014d9c503f9af1686fa2016663616d6572610207",
        Allocator.set_debug_client_info,
        0,
        SetDebugClientInfoRequest(name="camera", id=7),
    ),
    (
        "0000000002008001c1490b1ff59fa111a101d97a5d00",
        Allocator.allocate_shared_collection,
        0,
        AllocatorAllocateSharedCollectionRequest(token_request=Handle(-1)),
    ),
    (
        "000000000200800187b87fee928fe773a2011a8000000002d97a5d00",
        BufferCollectionToken.duplicate,
        0,
        BufferCollectionTokenDuplicateRequest(
            rights_attenuation_mask=Rights.SAME_RIGHTS, token_request=Handle(-1)
        ),
    ),
    (
        "00000000020080017b1950d6190fde1fa101a401a1020a020207a1011a0001000008"
        "81a30118680381060482190100190100",
        BufferCollection.set_constraints,
        0,
        BufferCollectionSetConstraintsRequest(constraints=CONSTRAINTS),
    ),
]
RESPONSES: list[tuple[str, Method, int, Table | Error | None]] = [
    ("0100000002008001545b57cf5525ac11", Node.sync, 1, None),
    (
        "09000000020080014e40614b34002306a10206",
        BufferCollection.wait_for_all_buffers_allocated,
        9,
        Error.CONSTRAINTS_INTERSECTION_EMPTY,
    ),
    (
        "030000000200800125087e15008ea503a101a101f5",
        Node.is_alternate_for,
        3,
        NodeIsAlternateForResponse(is_alternate=True),
    ),
]


def with_handles(table: Table | None) -> list[Handle]:
    """Put a real descriptor in each place where an example's table has one."""
    put = []
    for member, value in table.set_fields() if table is not None else ():
        if isinstance(value, Handle):
            put.append(null())
            setattr(table, member.name, put[-1])
    return put


@pytest.mark.parametrize(("hexadecimal", "method", "txid", "table"), REQUESTS)
def test_the_examples_of_requests_both_ways(
    hexadecimal: str, method: Method, txid: int, table: Table | None
) -> None:
    put = with_handles(table)
    body, handles = encode(table) if table is not None else (b"", [])
    assert handles == put
    [(data, _)] = Message(txid, method.ordinal, body, handles).datagrams()
    assert data.hex() == hexadecimal

    message = parse(bytes.fromhex(hexadecimal), [handle.duplicate() for handle in handles])
    assert (message.txid, message.ordinal) == (txid, method.ordinal)
    decoded = DECODER.request(method, message.body, message.handles)
    assert decoded is None or encode(decoded)[0] == body
    if not put:
        assert decoded == table
    for _, value in decoded.set_fields() if decoded is not None else ():
        if isinstance(value, Handle):
            value.close()
    for handle in put:
        handle.close()


@pytest.mark.parametrize(("hexadecimal", "method", "txid", "answer"), RESPONSES)
def test_the_examples_of_responses_both_ways(
    hexadecimal: str, method: Method, txid: int, answer: Table | Error | None
) -> None:
    body, handles = encode_response(method, answer)
    [(data, _)] = Message(txid, method.ordinal, body, handles).datagrams()
    assert data.hex() == hexadecimal

    message = parse(bytes.fromhex(hexadecimal), [])
    assert (message.txid, message.ordinal) == (txid, method.ordinal)
    assert DECODER.response(method, message.body, message.handles) == answer
