"""Cases from JSON: what is read, and that every error names its key."""

from __future__ import annotations

import pytest

from sysmem_protocol.images2 import PixelFormat, PixelFormatModifier
from sysmem_protocol.json_data import JsonError
from sysmem_protocol.sysmem2 import CoherencyDomain
from sysmemd.cases import read_case, write_case
from sysmemd.constraints import FormatCost, HeapProperties, Participant, Platform, UsageBits
from sysmemd.negotiation import Choice, Joining

F, M = PixelFormat, PixelFormatModifier


def fault(data: object) -> str:
    with pytest.raises(JsonError) as caught:
        read_case(data)
    return str(caught.value)


def test_participants() -> None:
    people, platform = read_case(
        {"participants": [{"name": "camera", "id": 7}, {"constraints": None}, {}]}
    )
    assert people == [Participant(None, "camera", 7), Participant(None), Participant(None)]
    assert platform == Platform()


def test_groups_and_those_who_attach() -> None:
    camera, display, recorder = ({"name": name} for name in ("camera", "display", "recorder"))
    members, _ = read_case(
        {"participants": [camera, {"group": [[display], []]}, {"attached": [recorder]}]}
    )
    assert members == [
        Participant(None, "camera"),
        Choice([[Participant(None, "display")], []]),
        Joining([Participant(None, "recorder")]),
    ]


@pytest.mark.parametrize(
    ("member", "error"),
    [
        ({"group": {}}, "$.participants[0].group: expected an array, got an object"),
        ({"group": []}, "$.participants[0].group: expected at least one alternative"),
        ({"group": [1]}, "$.participants[0].group[0]: expected an array, got an integer"),
        ({"group": [[{"x": 1}]]}, "$.participants[0].group[0][0].x: unknown key"),
        ({"group": [[]], "name": "x"}, "$.participants[0].name: unknown key"),
        ({"attached": [1]}, "$.participants[0].attached[0]: expected an object, got an integer"),
    ],
)
def test_a_faulty_group_is_named_by_its_place(member: object, error: str) -> None:
    assert fault({"participants": [member]}) == error


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
        ({"participants": [{"name": "x" * 257}]}, "$.participants[0].name: expected text of at"),
        ({"participants": [{"id": -1}]}, "$.participants[0].id: -1 doesn't fit 64 bits"),
        ({"participants": [{"id": 1 << 64}]}, f"$.participants[0].id: {1 << 64} doesn't fit 64"),
        (
            {"participants": [{"handles": "weak"}]},
            "$.participants[0].handles: expected an array, got text",
        ),
        (
            {"participants": [{"handles": ["weak", "x"]}]},
            "$.participants[0].handles[1]: expected one of read_only, ",
        ),
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
        (
            {
                "participants": [],
                "format_costs": [{"pixel_format": 1, "pixel_format_modifier": 1 << 64, "cost": 1}],
            },
            f"$.format_costs[0].pixel_format_modifier: {1 << 64} doesn't fit 64 bits",
        ),
        ({"participants": [], "memory": {"y": 1}}, "$.memory.y: unknown key"),
        ({"participants": [], "heaps": [{}]}, "$.heaps[0].type: is required"),
        ({"participants": [], "heaps": [{"type": "x" * 129}]}, "$.heaps[0].type: expected text of"),
        ({"participants": [], "heaps": [{"type": "x", "id": 1 << 64}]}, "$.heaps[0].id: "),
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
            {"participants": [], "format_costs": [{"pixel_format": 1, "cost": True}]},
            "$.format_costs[0].cost: expected a number, got a boolean",
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


def test_faults_in_constraints_name_the_participant() -> None:
    data = {"participants": [{}, {"constraints": {"usage": {"cpu": "REED"}}}]}
    expected = "$.participants[1].constraints.usage.cpu: CpuUsage has no member REED"
    assert fault(data) == expected


def test_a_case_that_is_written_is_read_again() -> None:
    people, platform = read_case(
        {
            "participants": [
                {"name": "camera", "id": 7, "constraints": {"usage": {"cpu": ["READ", "WRITE"]}}},
                {"name": "x" * 256, "id": (1 << 64) - 1},
                {"name": "what exists", "pinned": True, "constraints": {"min_buffer_count": 3}},
                {"handles": ["writable", "WEAK"]},
            ],
            "heaps": [
                {"type": "x", "id": 3, "domains": ["ram"]},
                {"type": "y" * 128, "id": (1 << 64) - 1, "secure": True},
                {"type": "z", "contiguous": True, "one_file": True},
            ],
            "limits": {"max_buffer_bytes": 1, "max_allocation_bytes": (1 << 64) - 1},
            "memory": {"contiguous": "refuse"},
            "format_costs": [
                {
                    "pixel_format": "NV12",
                    "pixel_format_modifier": 3,
                    "usage": {"video": 1},
                    "cost": 2,
                }
            ],
        }
    )
    participants = [who for who in people if isinstance(who, Participant)]
    assert read_case(write_case(participants, platform)) == (people, platform)
    assert [who.pinned for who in participants] == [False, False, True, False]
