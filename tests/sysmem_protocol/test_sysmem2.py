"""The declarations of `fuchsia.sysmem2` against tables written down a second time, from `docs/spec/protocol.md`.

A type is written as there: `u32`, `string ≤ 64`, `SizeU`, `vector of Heap ≤ 64`, `server end of BufferCollection`; `!`
behind it says that a request without the field is refused.
"""

from __future__ import annotations

import enum

import pytest

from sysmem_protocol import library, sysmem2
from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.library import (
    Bool,
    Enumeration,
    HandleType,
    Integer,
    Interface,
    Method,
    Nested,
    String,
    Struct,
    Table,
    Vector,
    WireType,
)

# --- tables and structs -------------------------------------------------------------------------------------------

TABLES = {
    "BufferCollectionConstraints": """
        1 usage: BufferUsage
        2 min_buffer_count_for_camping: u32
        3 min_buffer_count_for_dedicated_slack: u32
        4 min_buffer_count_for_shared_slack: u32
        5 min_buffer_count: u32
        6 max_buffer_count: u32
        7 buffer_memory_constraints: BufferMemoryConstraints
        8 image_format_constraints: vector of ImageFormatConstraints ≤ 64
    """,
    "BufferUsage": """
        1 none: NoneUsage u32
        2 cpu: CpuUsage u32
        3 vulkan: VulkanUsage u32
        4 display: DisplayUsage u32
        5 video: VideoUsage u32
    """,
    "BufferMemoryConstraints": """
        1 min_size_bytes: u64
        2 max_size_bytes: u64
        3 physically_contiguous_required: bool
        4 secure_required: bool
        5 cpu_domain_supported: bool
        6 ram_domain_supported: bool
        7 inaccessible_domain_supported: bool
        8 permitted_heaps: vector of Heap ≤ 64
        9 min_physical_base_alignment: u64
    """,
    "Heap": """
        1 heap_type: string ≤ 128
        2 id: u64
    """,
    "ImageFormatConstraints": """
        1 pixel_format: PixelFormat u32
        2 pixel_format_modifier: PixelFormatModifier u64
        3 color_spaces: vector of ColorSpace u32 ≤ 32
        4 min_size: SizeU
        5 max_size: SizeU
        6 min_bytes_per_row: u32
        7 max_bytes_per_row: u32
        8 max_width_times_height: u64
        9 size_alignment: SizeU
        10 display_rect_alignment: SizeU
        11 required_min_size: SizeU
        12 required_max_size: SizeU
        13 bytes_per_row_divisor: u32
        14 start_offset_divisor: u32
        15 pixel_format_and_modifiers: vector of PixelFormatAndModifier ≤ 64
        16 require_bytes_per_row_at_pixel_boundary: bool
        17 is_alpha_present: bool
        18 required_max_size_list: vector of SizeU ≤ 64
        19 pad_for_block_size: SizeU
        20 pad_beyond_image_size_bytes: u64
    """,
    "BufferCollectionInfo": """
        1 settings: SingleBufferSettings
        2 buffers: vector of VmoBuffer ≤ 128
        3 buffer_collection_id: u64
    """,
    "SingleBufferSettings": """
        1 buffer_settings: BufferMemorySettings
        2 image_format_constraints: ImageFormatConstraints
    """,
    "BufferMemorySettings": """
        1 size_bytes: u64
        2 is_physically_contiguous: bool
        3 is_secure: bool
        4 coherency_domain: CoherencyDomain u32
        5 heap: Heap
        6 raw_vmo_size: u64
    """,
    "VmoBuffer": """
        1 vmo: vmo
        2 vmo_usable_start: u64
        3 close_weak_asap: eventpair
    """,
}
STRUCTS = {
    "SizeU": """
        1 width: u32
        2 height: u32
    """,
    "PixelFormatAndModifier": """
        1 pixel_format: PixelFormat u32
        2 pixel_format_modifier: PixelFormatModifier u64
    """,
}

# --- methods ------------------------------------------------------------------------------------------------------

ONE_WAY = "one-way"
EMPTY = "empty body"
EMPTY_TABLE = ""

#: (request, response); a response in a list is that of a method that can fail.
Methods = dict[str, tuple[int, str, str | list[str]]]

ALLOCATOR: Methods = {
    "AllocateNonSharedCollection": (
        0x5CA681F025A80E44,
        "1 collection_request: server end of BufferCollection !",
        ONE_WAY,
    ),
    "AllocateSharedCollection": (
        0x11A19FF51F0B49C1,
        "1 token_request: server end of BufferCollectionToken !",
        ONE_WAY,
    ),
    "BindSharedCollection": (
        0x550916B0DC1D5B4E,
        """1 token: client end of BufferCollectionToken !
        2 buffer_collection_request: server end of BufferCollection !""",
        ONE_WAY,
    ),
    "ValidateBufferCollectionToken": (
        0x4C5EE91B02A7E68D,
        "1 token_server_koid: u64 !",
        "1 is_known: bool",
    ),
    "SetDebugClientInfo": (
        0x6F68F19A3F509C4D,
        """1 name: string ≤ 256 !
        2 id: u64""",
        ONE_WAY,
    ),
    "GetVmoInfo": (
        0x21A881120AA0DDF9,
        """1 vmo: vmo !
        2 need_weak: bool
        3 need_single_buffer_settings: bool
        4 constraints_to_check: BufferCollectionConstraints
        5 vmo_settings_to_check: vmo
        6 vmo_settings_to_check_ignore_size: bool""",
        [
            """1 buffer_collection_id: u64
            2 buffer_index: u64
            3 close_weak_asap: eventpair
            4 weak_vmo: vmo
            5 single_buffer_settings: SingleBufferSettings
            6 constraints_ok: bool
            7 vmo_settings_match: bool"""
        ],
    ),
}
NODE: Methods = {
    "Sync": (0x11AC2555CF575B54, "", EMPTY),
    "Release": (0x6A5CAE7D6D6E04C6, "", ONE_WAY),
    "SetName": (
        0x0B41F1624F48C1E9,
        """1 priority: u32 !
        2 name: string ≤ 64 !""",
        ONE_WAY,
    ),
    "SetDebugClientInfo": (
        0x5CDE8914608D99B1,
        """1 name: string ≤ 256 !
        2 id: u64""",
        ONE_WAY,
    ),
    "SetDebugTimeoutLogDeadline": (0x716B0AF13D5C0806, "1 deadline: i64 !", ONE_WAY),
    "SetVerboseLogging": (0x5209C77415B4DFAD, "", ONE_WAY),
    "GetNodeRef": (0x5B3D0E51614DF053, "", "1 node_ref: event"),
    "IsAlternateFor": (0x03A58E00157E0825, "1 node_ref: event !", ["1 is_alternate: bool"]),
    "GetBufferCollectionId": (0x77D19A494B78BA8C, "", "1 buffer_collection_id: u64"),
    "SetWeak": (0x22DD3EA514EEFFE1, "", ONE_WAY),
    "SetWeakOk": (0x38A44FC4D7724BE9, "1 for_child_nodes_also: bool", ONE_WAY),
    "AttachNodeTracking": (0x3F22F2A293D3CDAC, "1 server_end: eventpair !", ONE_WAY),
}
TOKEN: Methods = {
    "DuplicateSync": (
        0x1C1AF9919D1CA45C,
        "1 rights_attenuation_masks: vector of Rights u32 ≤ 64 !",
        "1 tokens: vector of client end of BufferCollectionToken ≤ 64",
    ),
    "Duplicate": (
        0x73E78F92EE7FB887,
        """1 rights_attenuation_mask: Rights u32 !
        2 token_request: server end of BufferCollectionToken !""",
        ONE_WAY,
    ),
    "SetDispensable": (0x228ACF979254DF8B, "", ONE_WAY),
    "CreateBufferCollectionTokenGroup": (
        0x30F8D48E77BD36F2,
        "1 group_request: server end of BufferCollectionTokenGroup !",
        ONE_WAY,
    ),
}
COLLECTION: Methods = {
    "SetConstraints": (
        0x1FDE0F19D650197B,
        """1 constraints: BufferCollectionConstraints
        2 must_match_vmo: vmo""",
        ONE_WAY,
    ),
    "WaitForAllBuffersAllocated": (
        0x062300344B61404E,
        "",
        ["1 buffer_collection_info: BufferCollectionInfo"],
    ),
    "CheckAllBuffersAllocated": (0x35A5FE77CE939C10, "", [EMPTY_TABLE]),
    "AttachToken": (
        0x46AC7D0008492982,
        """1 rights_attenuation_mask: Rights u32 !
        2 token_request: server end of BufferCollectionToken !""",
        ONE_WAY,
    ),
    "AttachLifetimeTracking": (
        0x3ECB510113116DCF,
        """1 server_end: eventpair !
        2 buffers_remaining: u32 !""",
        ONE_WAY,
    ),
}
GROUP: Methods = {
    "CreateChild": (
        0x41A0075D419F30C5,
        """1 token_request: server end of BufferCollectionToken !
        2 rights_attenuation_mask: Rights u32""",
        ONE_WAY,
    ),
    "CreateChildrenSync": (
        0x15DEA448C536070A,
        "1 rights_attenuation_masks: vector of Rights u32 ≤ 64 !",
        "1 tokens: vector of client end of BufferCollectionToken ≤ 64",
    ),
    "AllChildrenPresent": (0x5C327E4A23391312, "", ONE_WAY),
}
INTERFACES: dict[type[Interface], list[tuple[str, Methods]]] = {
    sysmem2.Allocator: [("Allocator", ALLOCATOR)],
    sysmem2.Node: [("Node", NODE)],
    sysmem2.BufferCollectionToken: [("Node", NODE), ("BufferCollectionToken", TOKEN)],
    sysmem2.BufferCollection: [("Node", NODE), ("BufferCollection", COLLECTION)],
    sysmem2.BufferCollectionTokenGroup: [("Node", NODE), ("BufferCollectionTokenGroup", GROUP)],
}

# --- enums and flags ----------------------------------------------------------------------------------------------

ENUMS: dict[type[enum.IntEnum | enum.IntFlag], dict[str, int]] = {
    sysmem2.Error: {
        "INVALID": 0, "UNSPECIFIED": 1, "PROTOCOL_DEVIATION": 2, "NOT_FOUND": 3,
        "HANDLE_ACCESS_DENIED": 4, "NO_MEMORY": 5, "CONSTRAINTS_INTERSECTION_EMPTY": 6,
        "PENDING": 7, "TOO_MANY_GROUP_CHILD_COMBINATIONS": 8, "NO_MORE_STRONG_VMO_HANDLES": 9,
    },
    sysmem2.CoherencyDomain: {"CPU": 0, "RAM": 1, "INACCESSIBLE": 2},
    sysmem2.Rights: {
        "DUPLICATE": 0x1, "TRANSFER": 0x2, "READ": 0x4, "WRITE": 0x8, "EXECUTE": 0x10,
        "MAP": 0x20, "GET_PROPERTY": 0x40, "SET_PROPERTY": 0x80, "WAIT": 0x4000, "INSPECT": 0x8000,
        "SAME_RIGHTS": 0x80000000,
    },
    sysmem2.NoneUsage: {"NONE_USAGE": 1, "NONE_USAGE_PERMIT_ALLOCATION": 2},
    sysmem2.CpuUsage: {"READ": 1, "READ_OFTEN": 2, "WRITE": 4, "WRITE_OFTEN": 8},
    sysmem2.VulkanUsage: {
        "IMAGE_TRANSFER_SRC": 0x1, "IMAGE_TRANSFER_DST": 0x2, "IMAGE_SAMPLED": 0x4,
        "IMAGE_STORAGE": 0x8, "IMAGE_COLOR_ATTACHMENT": 0x10, "IMAGE_STENCIL_ATTACHMENT": 0x20,
        "IMAGE_TRANSIENT_ATTACHMENT": 0x40, "IMAGE_INPUT_ATTACHMENT": 0x80,
        "BUFFER_TRANSFER_SRC": 0x10000, "BUFFER_TRANSFER_DST": 0x20000,
        "BUFFER_UNIFORM_TEXEL_BUFFER": 0x40000, "BUFFER_STORAGE_TEXEL_BUFFER": 0x80000,
        "BUFFER_UNIFORM_BUFFER": 0x100000, "BUFFER_STORAGE_BUFFER": 0x200000,
        "BUFFER_INDEX_BUFFER": 0x400000, "BUFFER_VERTEX_BUFFER": 0x800000,
        "BUFFER_INDIRECT_BUFFER": 0x1000000,
    },
    sysmem2.DisplayUsage: {"LAYER": 1, "CURSOR": 2},
    sysmem2.VideoUsage: {
        "HW_DECODER": 1, "HW_ENCODER": 2, "CAPTURE": 8, "DECRYPTOR_OUTPUT": 16,
        "HW_DECODER_INTERNAL": 32,
    },
}  # fmt: skip


def spelled(wire: WireType) -> str:
    """A wire type as it is written in the tables above."""
    match wire:
        case Bool():
            return "bool"
        case Integer():
            return f"{'i' if wire.signed else 'u'}{wire.bits}"
        case Enumeration():
            return f"{wire.type.__name__} u{wire.bits}"
        case String():
            return f"string ≤ {wire.max_bytes}"
        case Vector():
            return f"vector of {spelled(wire.element)} ≤ {wire.max_count}"
        case Nested():
            return library.declared(wire.type).__name__
        case HandleType():
            return wire.kind.value + (f" of {wire.interface}" if wire.interface else "")


def declared(kind: type[Table | Struct] | None) -> list[str]:
    """A table's members as they are written in the tables above."""
    return [
        f"{m.field.number} {m.name}: {spelled(m.field.type)}{' !' if m.field.required else ''}"
        for m in (kind.members if kind else ())
    ]


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", [*TABLES, *STRUCTS])
def test_tables_and_structs(name: str) -> None:
    kind = getattr(sysmem2, name)
    assert issubclass(kind, Table if name in TABLES else Struct)
    assert declared(kind) == lines((TABLES | STRUCTS)[name])


@pytest.mark.parametrize(
    ("declarer", "name", "interface"),
    [
        (declarer, name, interface)
        for interface, groups in INTERFACES.items()
        for declarer, methods in groups
        for name in methods
    ],
)
def test_methods(declarer: str, name: str, interface: type[Interface]) -> None:
    number, request, response = dict(INTERFACES[interface])[declarer][name]
    method: Method = interface.methods[number]
    assert method.ordinal == number
    assert str(method) == f"{declarer}.{name}"
    assert getattr(interface, method.name) is method
    assert declared(method.request) == lines(request)
    assert (method.request is None) == (request == "")
    assert method.two_way == (response != ONE_WAY)
    assert method.fallible == isinstance(response, list)
    table = response[0] if isinstance(response, list) else response
    if table in (ONE_WAY, EMPTY, EMPTY_TABLE):
        assert method.response is None
    else:
        assert declared(method.response) == lines(table)
    assert method.doc.endswith(".")


@pytest.mark.parametrize("interface", INTERFACES)
def test_no_other_methods(interface: type[Interface]) -> None:
    expected = {number for _, methods in INTERFACES[interface] for number, *_ in methods.values()}
    assert set(interface.methods) == expected
    assert len(interface.methods) == sum(len(methods) for _, methods in INTERFACES[interface])


@pytest.mark.parametrize("kind", ENUMS)
def test_enums_and_flags(kind: type[enum.IntEnum | enum.IntFlag]) -> None:
    assert {name: int(member) for name, member in kind.__members__.items()} == ENUMS[kind]


def test_no_other_tables_structs_and_enums() -> None:
    """Besides those that are a method's request or response."""
    own = [v for v in vars(sysmem2).values() if isinstance(v, type)]
    messages = {
        table
        for interface in INTERFACES
        for method in interface.methods.values()
        for table in (method.request, method.response)
    }
    kinds = {library.declared(v) for v in own if issubclass(v, Table | Struct)} - messages
    assert {kind.__name__ for kind in kinds} == {*TABLES, *STRUCTS}
    enums = {v for v in own if issubclass(v, enum.Enum)}
    assert enums == {*ENUMS, ColorSpace, PixelFormat, PixelFormatModifier}


def test_the_system_heap() -> None:
    heap = sysmem2.Heap(heap_type="fuchsia.sysmem.heap.HEAP_TYPE.SYSTEM_RAM", id=0)
    assert heap == sysmem2.SYSTEM_RAM_HEAP


def test_the_service_is_named_in_full() -> None:
    assert (sysmem2.Allocator,) == sysmem2.DISCOVERABLE
    assert sysmem2.Allocator.service_name() == "fuchsia.sysmem2.Allocator"


def test_nodes_are_the_three_kinds_of_place_in_a_tree() -> None:
    assert {kind.__name__ for kind in sysmem2.NODES} == {
        "BufferCollectionToken",
        "BufferCollection",
        "BufferCollectionTokenGroup",
    }


def test_removing_a_right_from_all_leaves_a_mask_that_fits() -> None:
    assert int(~sysmem2.Rights.WRITE) == 0xFFFFFFF7
