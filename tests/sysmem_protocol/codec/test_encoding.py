"""What cannot be encoded, and what is taken for what it fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cbor2
import numpy as np
import pytest

from sysmem_protocol import sysmem2
from sysmem_protocol.codec import (
    DecodeError,
    EncodeTypeError,
    EncodeValueError,
    encode,
    encode_response,
)
from sysmem_protocol.images2 import PixelFormat
from sysmem_protocol.library import (
    Table,
)
from sysmem_protocol.message import HEADER, MAX_MESSAGE_BYTES
from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    BufferMemorySettings,
    BufferUsage,
    CoherencyDomain,
    CpuUsage,
    CreateTokensRequest,
    Error,
    Heap,
    ImageFormatConstraints,
    Node,
    PixelFormatAndModifier,
    Rights,
    SizeU,
    VideoUsage,
    VmoBuffer,
)

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
