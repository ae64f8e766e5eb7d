"""Tables, structs and enums, and which values can be sent (`docs/spec/client-api.md`, `docs/spec/protocol.md`)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

import sysmem
from sysmem import (
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    BufferUsage,
    CpuUsage,
    Heap,
    ImageFormatConstraints,
    PixelFormat,
    PixelFormatAndModifier,
    PixelFormatModifier,
    SizeU,
    blocking,
)

from .scenario import buffers, image, images, memory

TABLES: dict[str, list[str]] = {
    "BufferCollectionConstraints": [
        "usage",
        "min_buffer_count_for_camping",
        "min_buffer_count_for_dedicated_slack",
        "min_buffer_count_for_shared_slack",
        "min_buffer_count",
        "max_buffer_count",
        "buffer_memory_constraints",
        "image_format_constraints",
    ],
    "BufferUsage": ["none", "cpu", "vulkan", "display", "video"],
    "BufferMemoryConstraints": [
        "min_size_bytes",
        "max_size_bytes",
        "physically_contiguous_required",
        "secure_required",
        "cpu_domain_supported",
        "ram_domain_supported",
        "inaccessible_domain_supported",
        "permitted_heaps",
        "min_physical_base_alignment",
    ],
    "Heap": ["heap_type", "id"],
    "ImageFormatConstraints": [
        "pixel_format",
        "pixel_format_modifier",
        "color_spaces",
        "min_size",
        "max_size",
        "min_bytes_per_row",
        "max_bytes_per_row",
        "max_width_times_height",
        "size_alignment",
        "display_rect_alignment",
        "required_min_size",
        "required_max_size",
        "bytes_per_row_divisor",
        "start_offset_divisor",
        "pixel_format_and_modifiers",
        "require_bytes_per_row_at_pixel_boundary",
        "is_alpha_present",
        "required_max_size_list",
        "pad_for_block_size",
        "pad_beyond_image_size_bytes",
    ],
    "BufferCollectionInfo": ["settings", "buffers", "buffer_collection_id"],
    "SingleBufferSettings": ["buffer_settings", "image_format_constraints"],
    "BufferMemorySettings": [
        "size_bytes",
        "is_physically_contiguous",
        "is_secure",
        "coherency_domain",
        "heap",
        "raw_vmo_size",
    ],
    "VmoBuffer": ["vmo", "vmo_usable_start", "close_weak_asap"],
    "VmoInfo": [
        "buffer_collection_id",
        "buffer_index",
        "close_weak_asap",
        "weak_vmo",
        "single_buffer_settings",
        "constraints_ok",
        "vmo_settings_match",
    ],
}


@pytest.mark.parametrize("name", TABLES)
def test_every_field_is_optional_and_none_when_unset(name: str) -> None:
    table = getattr(sysmem, name)()
    for field in TABLES[name]:
        assert getattr(table, field) is None, field


@pytest.mark.parametrize("name", TABLES)
def test_every_field_can_be_given_by_its_name_and_by_that_alone(name: str) -> None:
    cls = getattr(sysmem, name)
    cls(**dict.fromkeys(TABLES[name]))
    with pytest.raises(TypeError):
        cls(1)
    with pytest.raises(TypeError):
        cls(no_such_field=1)


@pytest.mark.parametrize("name", [n for n in TABLES if n not in ("VmoBuffer", "VmoInfo")])
def test_repr_shows_the_set_fields_only(name: str) -> None:
    cls = getattr(sysmem, name)
    assert repr(cls()).startswith(name)
    for field in TABLES[name]:
        assert repr(cls(**{field: 7})) == f"{name}({field}=7)"


def test_equality_is_that_of_the_set_fields() -> None:
    assert BufferUsage(cpu=1) == BufferUsage(cpu=CpuUsage.READ)
    assert BufferUsage(cpu=1) != BufferUsage(cpu=1, video=0)
    assert BufferUsage(cpu=0) != BufferUsage()
    assert BufferUsage(cpu=1) != BufferUsage(video=1)
    assert BufferUsage() == BufferUsage(cpu=None)
    assert buffers(5) == buffers(5)
    assert images(image()) == images(image())
    assert images(image()) != images(image(), image())


def test_tables_can_be_changed_and_copied() -> None:
    table = buffers()
    table.min_buffer_count = 3
    assert table == buffers(min_buffer_count=3)
    assert copy.copy(table) == table
    assert copy.deepcopy(table) == table


def test_structs_take_positional_and_keyword_arguments() -> None:
    assert SizeU(1, 2) == SizeU(width=1, height=2) == SizeU(1, height=2)
    assert (SizeU(1, 2).width, SizeU(1, 2).height) == (1, 2)
    assert SizeU(1, 2) != SizeU(2, 1)
    assert repr(SizeU(1, 2)) == "SizeU(width=1, height=2)"
    pair = PixelFormatAndModifier(PixelFormat.NV12, PixelFormatModifier.LINEAR)
    assert pair == PixelFormatAndModifier(pixel_format=104, pixel_format_modifier=0)
    assert pair.pixel_format == PixelFormat.NV12
    assert pair.pixel_format_modifier == PixelFormatModifier.LINEAR
    for cls in (SizeU, PixelFormatAndModifier):
        with pytest.raises(TypeError):
            cls(1, 2, 3)  # type: ignore[call-arg]  # that's the point


def test_the_system_heap_is_a_constant() -> None:
    assert (
        Heap(heap_type="fuchsia.sysmem.heap.HEAP_TYPE.SYSTEM_RAM", id=0) == sysmem.SYSTEM_RAM_HEAP
    )


def test_plain_integers_do_for_flags_enums_and_masks(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token:
        other = token.duplicate(0x80000000)
        token.duplicate_sync([0x80000000])[0].release()
        other.release()
        with client.bind_shared_collection(token) as collection:
            entry = ImageFormatConstraints(
                pixel_format=101,
                pixel_format_modifier=0,
                color_spaces=[1],
                min_size=SizeU(64, 48),
            )
            collection.set_constraints(images(entry, usage=BufferUsage(cpu=10)))
            with collection.wait_for_all_buffers_allocated() as info:
                assert info.settings is not None
                found = info.settings.image_format_constraints
                assert found is not None
                # In responses the values are members again.
                assert found.pixel_format is PixelFormat.B8G8R8A8
                assert found.pixel_format_modifier is PixelFormatModifier.LINEAR
                assert found.color_spaces is not None
                assert found.color_spaces[0] is sysmem.ColorSpace.SRGB
                assert info.settings.buffer_settings is not None
                domain = info.settings.buffer_settings.coherency_domain
                assert domain is sysmem.CoherencyDomain.CPU


LONG: list[tuple[str, BufferCollectionConstraints]] = [
    ("u32", buffers(min_buffer_count=2**32)),
    ("negative", buffers(min_buffer_count=-1)),
    ("u64", memory(min_size_bytes=2**64)),
    ("flags", buffers(usage=BufferUsage(cpu=2**32))),
    ("struct", images(image(min_size=SizeU(2**32, 1)))),
    ("image entries", images(*[image()] * 65)),
    ("heaps", memory(permitted_heaps=[sysmem.SYSTEM_RAM_HEAP] * 65)),
    ("heap type", memory(permitted_heaps=[Heap(heap_type="h" * 129)])),
    ("heap type in bytes", memory(permitted_heaps=[Heap(heap_type="é" * 65)])),
    ("color spaces", images(image(color_spaces=[sysmem.ColorSpace.SRGB] * 33))),
    ("sizes", images(image(required_max_size_list=[SizeU(1, 1)] * 65))),
    (
        "formats",
        images(image(pixel_format_and_modifiers=[PixelFormatAndModifier(1, 0)] * 65)),
    ),
    ("modifier", images(image(pixel_format_modifier=2**64))),
    ("not a number", buffers(min_buffer_count="2")),
    ("a fraction", buffers(min_buffer_count=1.5)),
    ("a number for a bool", memory(secure_required=1)),
    ("a bool for a number", buffers(min_buffer_count=True)),
    ("not a table", buffers(usage=3)),
    ("the wrong table", buffers(usage=Heap())),
    ("not a list", memory(permitted_heaps=sysmem.SYSTEM_RAM_HEAP)),
    ("none in a list", images(image(color_spaces=[None]))),
    ("bytes for a string", memory(permitted_heaps=[Heap(heap_type=b"h")])),  # type: ignore[arg-type]
    ("half a surrogate", memory(permitted_heaps=[Heap(heap_type="\ud800")])),
    ("a pair for a struct", images(image(min_size=(64, "48")))),
]


@pytest.mark.parametrize("table", [t for _, t in LONG], ids=[name for name, _ in LONG])
def test_what_cannot_be_encoded_is_refused_before_anything_is_sent(
    client: blocking.Allocator, table: BufferCollectionConstraints
) -> None:
    with client.allocate_non_shared_collection() as collection:
        with pytest.raises((TypeError, ValueError)):
            collection.set_constraints(table)
        collection.sync()
        # Nothing was sent: a second SetConstraints would fail the node.
        collection.set_constraints(buffers())
        collection.wait_for_all_buffers_allocated().close()


REFUSED: list[tuple[str, Callable[[blocking.BufferCollectionToken], Any]]] = [
    ("a name over 64 bytes", lambda token: token.set_name(1, "n" * 65)),
    ("a name over 64 bytes in UTF-8", lambda token: token.set_name(1, "é" * 33)),
    ("a priority over 32 bits", lambda token: token.set_name(2**32, "n")),
    ("no name", lambda token: token.set_name(1, None)),  # type: ignore[arg-type]
    ("no priority", lambda token: token.set_name(None, "n")),  # type: ignore[arg-type]
    ("a debug name over 256", lambda token: token.set_debug_client_info("n" * 257)),
    ("no debug name", lambda token: token.set_debug_client_info(None)),  # type: ignore[arg-type]
    ("a debug id over 64 bits", lambda token: token.set_debug_client_info("n", 2**64)),
    ("a negative debug id", lambda token: token.set_debug_client_info("n", -1)),
    ("a deadline over 63 bits", lambda token: token.set_debug_timeout_log_deadline(2**63)),
    ("a deadline in fractions", lambda token: token.set_debug_timeout_log_deadline(1.5)),  # type: ignore[arg-type]
    ("a mask over 32 bits", lambda token: token.duplicate(2**32)),
    ("a negative mask", lambda token: token.duplicate(-1)),
    ("no mask", lambda token: token.duplicate(None)),  # type: ignore[arg-type]
    ("65 masks", lambda token: token.duplicate_sync([4] * 65)),
    ("no masks", lambda token: token.duplicate_sync(None)),  # type: ignore[arg-type]
    ("a mask among masks", lambda token: token.duplicate_sync([4, "x"])),  # type: ignore[list-item]
    ("a number as bool", lambda token: token.set_weak_ok(1)),  # type: ignore[arg-type]
    ("no node ref", lambda token: token.is_alternate_for(None)),  # type: ignore[arg-type]
    ("another node", lambda token: token.is_alternate_for(token)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("call", [c for _, c in REFUSED], ids=[name for name, _ in REFUSED])
def test_arguments_that_cannot_be_encoded_leave_the_node_alone(
    client: blocking.Allocator, call: Callable[[blocking.BufferCollectionToken], Any]
) -> None:
    with client.allocate_shared_collection() as token:
        with pytest.raises((TypeError, ValueError)):
            call(token)
        token.sync()


def test_the_longest_of_everything_passes(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token:
        token.set_name(0xFFFFFFFF, "é" * 32)
        token.set_debug_client_info("é" * 128, 2**64 - 1)
        token.set_debug_timeout_log_deadline(2**63 - 1)
        children = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 64)
        assert len(children) == 64
        for child in children:
            child.release()
        with client.bind_shared_collection(token) as collection:
            # 64 entries, one for each format and modifier.
            modifiers = [
                0x0800000000000000 | base | bits << 4 for bits in range(8) for base in (1, 2)
            ]
            entries = [
                image(pixel_format, pixel_format_modifier=modifier)
                for pixel_format in (1, 101, 119, 120)
                for modifier in modifiers
            ]
            collection.set_constraints(images(*entries))
            collection.wait_for_all_buffers_allocated().close()


def test_get_vmo_info_refuses_what_is_no_vmo_at_all(client: blocking.Allocator) -> None:
    for wrong in ("vmo", -1, 1.5, 10**6):
        with pytest.raises((TypeError, ValueError, OSError)):
            client.get_vmo_info(wrong)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError)):
        client.validate_buffer_collection_token(None)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError)):
        client.validate_buffer_collection_token(2**64)
    assert client.validate_buffer_collection_token(2**64 - 1) is False


def test_a_failed_bind_consumes_nothing(client: blocking.Allocator) -> None:
    for wrong in (None, 3, "token", client):
        with pytest.raises((TypeError, ValueError)):
            client.bind_shared_collection(wrong)  # type: ignore[arg-type]
    with client.allocate_shared_collection() as token:
        client.close()
        with pytest.raises(sysmem.HandleClosedError):
            client.bind_shared_collection(token)
        token.sync()


def test_must_match_vmo_takes_a_vmo_or_a_descriptor_only(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as collection:
        with pytest.raises((TypeError, ValueError)):
            collection.set_constraints(None, must_match_vmo="vmo")  # type: ignore[arg-type]
        collection.set_constraints(buffers())
        collection.wait_for_all_buffers_allocated().close()


def test_answers_set_false_and_zero(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(buffers())
        with collection.wait_for_all_buffers_allocated() as info:
            assert info.buffers is not None
            assert info.buffers[0].vmo_usable_start == 0
            assert info.settings is not None
            assert info.settings.buffer_settings is not None
            assert info.settings.buffer_settings.is_secure is False
            assert info.settings.image_format_constraints is None


def test_memory_constraints_that_are_empty_constrain_nothing(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(
            BufferCollectionConstraints(
                usage=BufferUsage(cpu=CpuUsage.READ),
                min_buffer_count=1,
                buffer_memory_constraints=BufferMemoryConstraints(),
                image_format_constraints=[image()],
            )
        )
        collection.wait_for_all_buffers_allocated().close()
