"""Cases from JSON: what is read, and that every fault names its key."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.library import HandleKind, HandleType
from sysmem_protocol.sysmem2 import CoherencyDomain, CpuUsage, PixelFormatAndModifier, SizeU
from sysmemd.constraints import FormatCost, HeapProperties, Platform, UsageBits
from sysmemd.explaining.from_json import JsonError, _read, read_case

F, M = PixelFormat, PixelFormatModifier


def one(**constraints: Any) -> Any:
    """The constraints of a case with one participant."""
    (participant,), _ = read_case({"participants": [{"constraints": constraints}]})
    return participant.constraints


def fault(data: object) -> str:
    with pytest.raises(JsonError) as caught:
        read_case(data)
    return str(caught.value)


def fault_of(**constraints: Any) -> str:
    prefix = "$.participants[0].constraints"
    message = fault({"participants": [{"constraints": constraints}]})
    assert message.startswith(prefix)
    return message.removeprefix(prefix)


def test_participants() -> None:
    people, platform = read_case(
        {"participants": [{"name": "camera", "id": 7}, {"constraints": None}, {}]}
    )
    assert [(who.name, who.id, who.constraints) for who in people] == [
        ("camera", 7, None),
        ("", 0, None),
        ("", 0, None),
    ]
    assert platform == Platform()


def test_enum_members_by_name_or_number() -> None:
    for named in ("NV12", 104):
        entry = one(image_format_constraints=[{"pixel_format": named}])
        assert entry.image_format_constraints[0].pixel_format is F.NV12
    entry = one(image_format_constraints=[{"pixel_format": 4711}])
    assert entry.image_format_constraints[0].pixel_format == 4711


def test_flags_by_name_number_or_list() -> None:
    for given in ("READ_OFTEN", 2, ["READ_OFTEN"]):
        assert one(usage={"cpu": given}).usage.cpu == CpuUsage.READ_OFTEN
    assert one(usage={"cpu": ["READ", 8]}).usage.cpu == CpuUsage.READ | CpuUsage.WRITE_OFTEN
    assert one(usage={"cpu": []}).usage.cpu == 0


def test_structs_as_arrays_or_objects() -> None:
    for given in ([3, 4], {"width": 3, "height": 4}):
        entry = one(image_format_constraints=[{"min_size": given}]).image_format_constraints[0]
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


def test_a_platform() -> None:
    _, platform = read_case(
        {
            "participants": [],
            "heaps": [
                {"type": "x", "id": 3, "domains": ["ram", "CPU"]},
                {"type": "y", "secure": True},
            ],
            "limits": {
                "max_buffer_bytes": 1,
                "max_collection_bytes": 2,
                "max_allocation_bytes": 3,
            },
            "memory": {"contiguous": "refuse"},
            "format_costs": [
                {"pixel_format": "NV12", "usage": {"video": 1}, "cost": 2},
                {"pixel_format": 1, "pixel_format_modifier": "INTEL_I915_X_TILED", "cost": 0.5},
            ],
        }
    )
    assert platform == Platform(
        heaps=(
            HeapProperties("x", 3, frozenset({CoherencyDomain.RAM, CoherencyDomain.CPU})),
            HeapProperties("y", secure=True),
        ),
        format_costs=(
            FormatCost(F.NV12, 0, UsageBits(video=1), 2.0),
            FormatCost(1, M.INTEL_I915_X_TILED, cost=0.5),
        ),
        contiguous="refuse",
        max_buffer_bytes=1,
        max_collection_bytes=2,
        max_allocation_bytes=3,
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "$: expected an object, got an array"),
        (None, "$: expected an object, got null"),
        ({}, "$.participants: is required"),
        ({"participants": 3}, "$.participants: expected an array, got an integer"),
        ({"participants": ["x"]}, "$.participants[0]: expected an object, got text"),
        ({"participants": [], "particpants": []}, "$.particpants: unknown key"),
        ({"participants": [{"nmae": ""}]}, "$.participants[0].nmae: unknown key"),
        ({"participants": [{"name": 3}]}, "$.participants[0].name: expected text of at most 256"),
        ({"participants": [{"id": -1}]}, "$.participants[0].id: -1 doesn't fit 64 bits"),
        (
            {"participants": [{"id": 1.5}]},
            "$.participants[0].id: expected an integer, got a number",
        ),
        ({"participants": [], "limits": 1}, "$.limits: expected an object"),
        ({"participants": [], "limits": {"x": 1}}, "$.limits.x: unknown key"),
        (
            {"participants": [], "limits": {"max_buffer_bytes": "1"}},
            "$.limits.max_buffer_bytes: expected an integer, got text",
        ),
        (
            {"participants": [], "limits": {"max_allocation_bytes": True}},
            "$.limits.max_allocation_bytes: expected an integer, got a boolean",
        ),
        ({"participants": [], "memory": {"contiguous": 1}}, "$.memory.contiguous: expected"),
        ({"participants": [], "memory": {"y": 1}}, "$.memory.y: unknown key"),
        ({"participants": [], "heaps": [{}]}, "$.heaps[0].type: is required"),
        (
            {"participants": [], "heaps": [{"type": "x", "domains": "ram"}]},
            "$.heaps[0].domains: expected an array, got text",
        ),
        (
            {"participants": [], "heaps": [{"type": "x", "domains": ["gpu"]}]},
            "$.heaps[0].domains[0]: expected one of cpu, ram, inaccessible",
        ),
        (
            {"participants": [], "heaps": [{"type": "x", "domains": [1]}]},
            "$.heaps[0].domains[0]: expected one of",
        ),
        (
            {"participants": [], "format_costs": [{"pixel_format": 1}]},
            "$.format_costs[0].cost: is required",
        ),
        (
            {"participants": [], "format_costs": [{"pixel_format": 1, "cost": "1"}]},
            "$.format_costs[0].cost: expected a number, got text",
        ),
        (
            {"participants": [], "format_costs": [{"pixel_format": 1, "cost": 10**400}]},
            "$.format_costs[0].cost: is too large",
        ),
        (
            {"participants": [], "format_costs": [{"pixel_format": 1, "cost": float("nan")}]},
            "$.format_costs[0].cost: expected a number",
        ),
    ],
)
def test_faults_name_the_key(data: object, message: str) -> None:
    assert fault(data).startswith(message)


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
def test_faults_in_constraints_name_the_key(constraints: dict[str, Any], message: str) -> None:
    assert fault_of(**constraints).startswith(message)


def test_a_kind_that_json_does_not_have() -> None:
    assert fault(()).endswith("got tuple")


def test_a_handle_has_no_value() -> None:
    with pytest.raises(JsonError, match="a handle has no value here"):
        _read(HandleType(HandleKind.VMO), 3, "$.vmo")
