"""Tables, requests and answers to strict CBOR and back (`docs/spec/protocol.md`, "Message")."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysmem_protocol import sysmem2
from sysmem_protocol.codec import (
    DecodeError,
    encode,
    encode_response,
)
from sysmem_protocol.images2 import PixelFormat, PixelFormatModifier
from sysmem_protocol.library import (
    Method,
    Table,
)
from sysmem_protocol.sysmem2 import (
    BufferCollection,
    BufferCollectionConstraints,
    BufferCollectionToken,
    BufferCollectionTokenDuplicateRequest,
    Error,
    ImageFormatConstraints,
    Node,
    PixelFormatAndModifier,
    Rights,
    SizeU,
)

from ..drawn import TABLES, instances
from .support import (
    DECODER,
    MEMBERLESS,
    UNKNOWN,
    cbor,
    close_all,
    comparable,
    handle,
    handles,
    opened,
    tag,
)

# --- every table there and back -----------------------------------------------------------------------------------


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


# --- the examples of the protocol's page --------------------------------------------------------------------------


def test_token_methods_travel_as_the_tokens() -> None:
    """`Duplicate` is written by hand, so that one message is checked without the codec's own help."""
    with handle() as server_end:
        request = BufferCollectionTokenDuplicateRequest(
            rights_attenuation_mask=Rights.SAME_RIGHTS, token_request=server_end
        )
        assert encode(request) == (bytes.fromhex("a2011a8000000002d97a5d00"), [server_end])
    assert BufferCollectionToken.duplicate.ordinal == 0x73E78F92EE7FB887
