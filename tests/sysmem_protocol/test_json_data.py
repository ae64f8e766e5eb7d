"""Tables as JSON data and back: every kind of value, and errors that name the field."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysmem_protocol.handles import Handle
from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.json_data import JsonError, read
from sysmem_protocol.library import HandleKind, HandleType, Table, Vector, WireType
from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferCollectionInfo,
    BufferUsage,
    CpuUsage,
    ImageFormatConstraints,
    PixelFormatAndModifier,
    SizeU,
    VmoBuffer,
)

from .drawn import TABLES, instances, walk

F, M = PixelFormat, PixelFormatModifier


def is_handle(wire: WireType) -> bool:
    return isinstance(wire, HandleType) or (isinstance(wire, Vector) and is_handle(wire.element))


WITHOUT_HANDLES = [
    kind
    for kind in TABLES
    if not any(is_handle(member.field.type) for part in walk(kind) for member in part.members)
]


def one(**constraints: Any) -> Any:
    return BufferCollectionConstraints.from_dict(constraints)


# --- writing --------------------------------------------------------------------------------------------------------


def test_a_table_is_what_a_person_would_write() -> None:
    table = BufferCollectionConstraints(
        usage=BufferUsage(cpu=6),
        min_buffer_count=0,
        image_format_constraints=[
            ImageFormatConstraints(
                pixel_format=104,
                color_spaces=[ColorSpace.REC709, 77],
                min_size=SizeU(1, 2),
                pixel_format_and_modifiers=[PixelFormatAndModifier(F.R8, M.LINEAR)],
            )
        ],
    )
    written = {
        "usage": {"cpu": ["READ_OFTEN", "WRITE"]},
        "min_buffer_count": 0,
        "image_format_constraints": [
            {
                "pixel_format": "NV12",
                "color_spaces": ["REC709", 77],
                "min_size": [1, 2],
                "pixel_format_and_modifiers": [["R8", "LINEAR"]],
            }
        ],
    }
    assert table.to_dict() == written
    assert json.loads(json.dumps(written)) == written


def test_flags_without_names_are_a_number_beside_the_names() -> None:
    assert BufferUsage(cpu=0x101, vulkan=0).to_dict() == {"cpu": ["READ", 0x100], "vulkan": []}


@pytest.mark.parametrize("kind", WITHOUT_HANDLES, ids=lambda kind: kind.__name__)
@settings(max_examples=30)
@given(data=st.data())
def test_reading_what_was_written_gives_the_same_table(
    kind: type[Table], data: st.DataObject
) -> None:
    table = data.draw(instances(kind))
    assert kind.from_dict(json.loads(json.dumps(table.to_dict()))) == table


def test_a_handle_is_refused_with_its_place() -> None:
    info = BufferCollectionInfo(buffers=[VmoBuffer(), VmoBuffer(vmo=Handle(-1))])
    with pytest.raises(JsonError, match=r"^\$\.buffers\[1\]\.vmo: a handle has no value here$"):
        info.to_dict()


# --- reading --------------------------------------------------------------------------------------------------------


def test_enum_members_by_name_or_number() -> None:
    for named in ("NV12", 104):
        entry = one(image_format_constraints=[{"pixel_format": named}])
        assert entry.image_format_constraints[0].pixel_format is F.NV12
    entry = one(image_format_constraints=[{"pixel_format": 4711}])
    assert entry.image_format_constraints[0].pixel_format == 4711


def test_flags_by_name_number_or_list() -> None:
    for form in ("READ_OFTEN", 2, ["READ_OFTEN"]):
        assert one(usage={"cpu": form}).usage.cpu == CpuUsage.READ_OFTEN
    assert one(usage={"cpu": ["READ", 8]}).usage.cpu == CpuUsage.READ | CpuUsage.WRITE_OFTEN
    assert one(usage={"cpu": []}).usage.cpu == 0


def test_structs_as_arrays_or_objects() -> None:
    for form in ([3, 4], {"width": 3, "height": 4}):
        entry = one(image_format_constraints=[{"min_size": form}]).image_format_constraints[0]
        assert entry.min_size == SizeU(3, 4)
    pairs = one(image_format_constraints=[{"pixel_format_and_modifiers": [["R8", "LINEAR"]]}])
    assert pairs.image_format_constraints[0].pixel_format_and_modifiers == [
        PixelFormatAndModifier(F.R8, M.LINEAR)
    ]


def test_null_is_un_set() -> None:
    assert one(min_buffer_count=None).min_buffer_count is None


def test_values_of_every_kind() -> None:
    read = one(
        buffer_memory_constraints={
            "min_size_bytes": 1 << 40,
            "secure_required": True,
            "permitted_heaps": [{"heap_type": "x", "id": 1}],
        },
        image_format_constraints=[{"color_spaces": ["SRGB", 77], "is_alpha_present": False}],
    )
    assert read.buffer_memory_constraints.min_size_bytes == 1 << 40
    assert read.buffer_memory_constraints.permitted_heaps[0].heap_type == "x"
    entry = read.image_format_constraints[0]
    assert (entry.color_spaces, entry.is_alpha_present) == ([ColorSpace.SRGB, 77], False)


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"min_bufer_count": 1}, ".min_bufer_count: unknown key"),
        ({"min_buffer_count": "1"}, ".min_buffer_count: expected an integer, got text"),
        ({"min_buffer_count": True}, ".min_buffer_count: expected an integer, got a boolean"),
        ({"min_buffer_count": 1 << 32}, ".min_buffer_count: 4294967296 doesn't fit 32 bits"),
        ({"usage": 3}, ".usage: expected an object, got an integer"),
        ({"usage": {"cpu": "REED"}}, ".usage.cpu: CpuUsage has no member REED"),
        ({"usage": {"cpu": ["READ", "X"]}}, ".usage.cpu[1]: CpuUsage has no member X"),
        (
            {"buffer_memory_constraints": {"secure_required": 1}},
            ".buffer_memory_constraints.secure_required: expected true or false, got an integer",
        ),
        (
            {"image_format_constraints": [{}, {"pixel_format": ["NV12"]}]},
            ".image_format_constraints[1].pixel_format: expected an integer, got an array",
        ),
        (
            {"image_format_constraints": {}},
            ".image_format_constraints: expected an array of at most 64, got an object",
        ),
        (
            {"image_format_constraints": [{}] * 65},
            ".image_format_constraints: expected an array of at most 64, got an array",
        ),
        (
            {"image_format_constraints": [{"min_size": [1]}]},
            ".image_format_constraints[0].min_size: expected 2 elements, got 1",
        ),
        (
            {"image_format_constraints": [{"min_size": {"width": 1}}]},
            ".image_format_constraints[0].min_size.height: is required",
        ),
        (
            {"image_format_constraints": [{"min_size": {"width": 1, "height": None}}]},
            ".image_format_constraints[0].min_size.height: expected an integer, got null",
        ),
        (
            {"image_format_constraints": [{"min_size": "1x1"}]},
            ".image_format_constraints[0].min_size: expected an object, got text",
        ),
    ],
)
def test_faults_name_the_key(constraints: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"${message}")):
        one(**constraints)


def test_a_kind_that_json_does_not_have() -> None:
    with pytest.raises(JsonError, match="got tuple"):
        one(usage=())


def test_a_handle_has_no_value() -> None:
    with pytest.raises(JsonError, match="a handle has no value here"):
        read(HandleType(HandleKind.VMO), 3)
