"""Effects of the configuration: heaps, secure memory, costs and limits (`docs/spec/linux.md`, "Settings")."""

from __future__ import annotations

import os
from typing import Any

import pytest

import sysmem
from sysmem import (
    BufferMemoryConstraints,
    BufferUsage,
    CoherencyDomain,
    CpuUsage,
    DisplayUsage,
    Error,
    Heap,
    PixelFormat,
    PixelFormatModifier,
    SizeU,
    VideoUsage,
    blocking,
)
from sysmem.pytest_plugin import Factory

from .scenario import (
    ENOUGH,
    VULKAN,
    buffer_settings,
    buffers,
    count,
    eventually,
    image,
    image_settings,
    images,
    memory,
    outcome,
    refused,
    vmo_of,
)

CONFIG = """
[limits]
max_buffer_bytes = 1048576
max_collection_bytes = 4194304
max_allocation_bytes = 524288

[[heap]]
type = "vendor.heap.CARVEOUT"
id = 3
domains = ["cpu", "ram", "inaccessible"]
secure = false
max_bytes = 65536

[[heap]]
type = "vendor.heap.DEVICE"
id = 0
domains = ["inaccessible"]

[[heap]]
type = "vendor.heap.UNCACHED"
id = 1
domains = ["ram"]

[[heap]]
type = "vendor.heap.Z_SECURE"
id = 0
domains = ["inaccessible"]
secure = true

[[heap]]
type = "vendor.heap.A_SECURE"
id = 2
domains = ["inaccessible"]
secure = true

[[format_cost]]
pixel_format = "B8G8R8A8"
pixel_format_modifier = "INTEL_I915_Y_TILED"
cost = 2000.0

[[format_cost]]
pixel_format = "B8G8R8A8"
pixel_format_modifier = "INTEL_I915_X_TILED"
cost = 3000.0

[[format_cost]]
pixel_format = "NV12"
cost = 50.0

[[format_cost]]
pixel_format = "NV12"
pixel_format_modifier = "LINEAR"
usage = { video = 1 }
cost = 100.0

[[format_cost]]
pixel_format = "YV12"
pixel_format_modifier = "LINEAR"
cost = 70.0

[[format_cost]]
pixel_format = "R8G8B8A8"
pixel_format_modifier = "LINEAR"
usage = { cpu = 2 }
cost = 5.0

[[format_cost]]
pixel_format = "R8G8B8A8"
pixel_format_modifier = "LINEAR"
usage = { vulkan = 4 }
cost = 9.0
"""

CARVEOUT = Heap(heap_type="vendor.heap.CARVEOUT", id=3)
DEVICE = Heap(heap_type="vendor.heap.DEVICE", id=0)
UNCACHED = Heap(heap_type="vendor.heap.UNCACHED", id=1)
A_SECURE = Heap(heap_type="vendor.heap.A_SECURE", id=2)
Z_SECURE = Heap(heap_type="vendor.heap.Z_SECURE", id=0)
DECODER = BufferUsage(video=VideoUsage.HW_DECODER)
DISPLAY = BufferUsage(display=DisplayUsage.LAYER)


def asking(usage: BufferUsage, *heaps: Heap, **fields: Any) -> sysmem.BufferCollectionConstraints:
    table: dict[str, Any] = {"min_size_bytes": 4096, **fields}
    if heaps:
        table["permitted_heaps"] = list(heaps)
    return buffers(usage=usage, buffer_memory_constraints=BufferMemoryConstraints(**table))


def chosen(
    client: blocking.Allocator, *tables: sysmem.BufferCollectionConstraints
) -> tuple[Heap | None, int | None, bool | None]:
    found = buffer_settings(client, *tables)
    return found.heap, found.coherency_domain, found.is_secure


def test_any_heap_means_the_system_heap(client: blocking.Allocator) -> None:
    assert chosen(client, buffers()) == (sysmem.SYSTEM_RAM_HEAP, CoherencyDomain.CPU, False)


def test_the_system_heap_is_preferred_wherever_it_stands(client: blocking.Allocator) -> None:
    table = asking(VULKAN, CARVEOUT, sysmem.SYSTEM_RAM_HEAP)
    assert chosen(client, table)[0] == sysmem.SYSTEM_RAM_HEAP


def test_else_the_first_permitted_in_the_first_participants_order(
    client: blocking.Allocator,
) -> None:
    one = asking(VULKAN, CARVEOUT, DEVICE)
    two = asking(VULKAN, DEVICE, CARVEOUT)
    assert chosen(client, one, two)[0] == CARVEOUT
    assert chosen(client, two, one)[0] == DEVICE
    # A participant without a list has no preferred order.
    assert chosen(client, asking(VULKAN), two, one)[0] == DEVICE


def test_heaps_that_are_not_configured_are_passed_over(client: blocking.Allocator) -> None:
    nowhere = Heap(heap_type="nowhere", id=0)
    assert chosen(client, asking(VULKAN, nowhere, CARVEOUT))[0] == CARVEOUT
    other_id = Heap(heap_type="vendor.heap.CARVEOUT", id=0)
    assert chosen(client, asking(VULKAN, other_id, DEVICE))[0] == DEVICE
    assert refused(client, asking(VULKAN, nowhere, other_id))


def test_heaps_whose_domains_nobody_supports_are_passed_over(client: blocking.Allocator) -> None:
    cpu = BufferUsage(cpu=CpuUsage.READ)
    assert chosen(client, asking(cpu, DEVICE, UNCACHED, CARVEOUT)) == (
        CARVEOUT,
        CoherencyDomain.CPU,
        False,
    )
    assert refused(client, asking(cpu, DEVICE))
    assert chosen(client, asking(cpu, UNCACHED, ram_domain_supported=True)) == (
        UNCACHED,
        CoherencyDomain.RAM,
        False,
    )


def test_the_domain_is_one_that_the_heap_supports(client: blocking.Allocator) -> None:
    assert chosen(client, asking(VULKAN, DEVICE))[1] is CoherencyDomain.INACCESSIBLE
    assert chosen(client, asking(VULKAN, UNCACHED))[1] is CoherencyDomain.RAM
    assert chosen(client, asking(VULKAN, CARVEOUT))[1] is CoherencyDomain.CPU
    assert chosen(client, asking(DISPLAY, CARVEOUT))[1] is CoherencyDomain.RAM
    assert chosen(client, asking(DISPLAY, DEVICE))[1] is CoherencyDomain.INACCESSIBLE
    assert chosen(client, asking(VULKAN, DEVICE, inaccessible_domain_supported=True))[1] is (
        CoherencyDomain.INACCESSIBLE
    )
    assert refused(client, asking(VULKAN, DEVICE, inaccessible_domain_supported=False))


def test_the_id_of_a_heap_is_delivered(client: blocking.Allocator) -> None:
    heap = chosen(client, asking(VULKAN, CARVEOUT))[0]
    assert heap is not None
    assert (heap.heap_type, heap.id) == ("vendor.heap.CARVEOUT", 3)


# Secure memory


def test_secure_is_the_alphabetically_first_permitted_secure_heap(
    client: blocking.Allocator,
) -> None:
    secure: dict[str, Any] = {"secure_required": True}
    assert chosen(client, asking(DECODER, **secure)) == (
        A_SECURE,
        CoherencyDomain.INACCESSIBLE,
        True,
    )
    assert chosen(client, asking(DECODER, Z_SECURE, A_SECURE, **secure))[0] == A_SECURE
    assert chosen(client, asking(DECODER, Z_SECURE, CARVEOUT, **secure))[0] == Z_SECURE
    assert chosen(client, asking(DECODER, **secure), asking(DISPLAY, Z_SECURE))[0] == Z_SECURE


def test_one_participant_makes_all_secure(client: blocking.Allocator) -> None:
    found = chosen(client, asking(DISPLAY), asking(DECODER, secure_required=True))
    assert found == (A_SECURE, CoherencyDomain.INACCESSIBLE, True)


def test_a_secure_heap_without_the_wish_is_a_heap(client: blocking.Allocator) -> None:
    # is_secure is the combined secure_required, whatever the heap is.
    assert chosen(client, asking(DISPLAY, Z_SECURE)) == (
        Z_SECURE,
        CoherencyDomain.INACCESSIBLE,
        False,
    )


@pytest.mark.parametrize(
    "table",
    [
        asking(BufferUsage(cpu=CpuUsage.READ), secure_required=True),
        asking(DECODER, secure_required=True, cpu_domain_supported=True),
        asking(DECODER, secure_required=True, ram_domain_supported=True),
        asking(DECODER, secure_required=True, inaccessible_domain_supported=False),
        asking(DECODER, CARVEOUT, secure_required=True),
        asking(DECODER, sysmem.SYSTEM_RAM_HEAP, secure_required=True),
        asking(DECODER, Heap(heap_type="nowhere", id=0), secure_required=True),
    ],
    ids=repr,
)
def test_contradictions_to_secure_are_empty(
    client: blocking.Allocator, table: sysmem.BufferCollectionConstraints
) -> None:
    assert refused(client, table)


def test_a_cpu_participant_beside_a_secure_one_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, buffers(), asking(DECODER, secure_required=True))


def test_formats_that_cannot_be_protected_are_skipped(client: blocking.Allocator) -> None:
    te = PixelFormatModifier.ARM_LINEAR_TE
    secure: dict[str, Any] = {
        "usage": DECODER,
        "buffer_memory_constraints": BufferMemoryConstraints(secure_required=True),
    }
    open_te = image(PixelFormat.R8G8B8A8, pixel_format_modifier=te)
    rows = image(PixelFormat.B8G8R8A8)
    assert image_settings(client, images(open_te, rows, usage=DECODER)).pixel_format == 1
    assert image_settings(client, images(open_te, rows, **secure)).pixel_format == 101
    assert refused(client, images(open_te, **secure))


# Costs


def test_the_cheapest_format_is_chosen(client: blocking.Allocator) -> None:
    def of(usage: BufferUsage, *entries: sysmem.ImageFormatConstraints) -> tuple[object, object]:
        found = image_settings(client, images(*entries, usage=usage))
        return found.pixel_format, found.pixel_format_modifier

    linear = image(pixel_format_modifier=PixelFormatModifier.LINEAR)
    x = image(pixel_format_modifier=PixelFormatModifier.INTEL_I915_X_TILED)
    y = image(pixel_format_modifier=PixelFormatModifier.INTEL_I915_Y_TILED)
    assert of(VULKAN, linear, x, y) == (
        PixelFormat.B8G8R8A8,
        PixelFormatModifier.INTEL_I915_Y_TILED,
    )
    assert of(VULKAN, linear, x)[1] == PixelFormatModifier.INTEL_I915_X_TILED
    # Costs for other usages do not count. A format without a cost is the most expensive.
    rgba, nv12, yv12 = image(PixelFormat.R8G8B8A8), image(PixelFormat.NV12), image(PixelFormat.YV12)
    assert of(DISPLAY, rgba, nv12)[0] == PixelFormat.NV12
    assert of(BufferUsage(cpu=CpuUsage.READ_OFTEN), rgba, nv12)[0] == PixelFormat.R8G8B8A8
    # The entry that shares the most bits counts: 100 for the decoder, 50 for others; YV12 costs 70.
    assert of(DISPLAY, nv12, yv12)[0] == PixelFormat.NV12
    assert of(DECODER, nv12, yv12)[0] == PixelFormat.YV12


def test_costs_count_the_usage_of_all_participants(client: blocking.Allocator) -> None:
    nv12, yv12 = image(PixelFormat.NV12), image(PixelFormat.YV12)
    found = image_settings(
        client,
        images(nv12, yv12, usage=DISPLAY),
        images(nv12, yv12, usage=DECODER),
    )
    assert found.pixel_format == PixelFormat.YV12


# Limits


def test_limits_are_settings(client: blocking.Allocator) -> None:
    # max_allocation_bytes bounds size_bytes, max_buffer_bytes the padded size.
    assert not refused(client, buffers(524288))
    assert refused(client, buffers(524289))
    padded = image(pad_beyond_image_size_bytes=1048576 - 12288)
    assert not refused(client, images(padded))
    assert refused(client, images(image(pad_beyond_image_size_bytes=1048577 - 12288)))
    assert count(client, buffers(524288, min_buffer_count=8)) == 8
    assert refused(client, buffers(524288, min_buffer_count=9))


def test_a_full_heap_is_no_memory_and_empties_again(client: blocking.Allocator) -> None:
    sixteen = asking(VULKAN, CARVEOUT, min_size_bytes=4096)
    sixteen.min_buffer_count = 16
    info = outcome(client, sixteen)
    assert isinstance(info, sysmem.BufferCollectionInfo)
    one = asking(VULKAN, CARVEOUT)
    assert outcome(client, one) is Error.NO_MEMORY
    with client.allocate_non_shared_collection() as elsewhere:
        elsewhere.set_constraints(buffers())
        elsewhere.wait_for_all_buffers_allocated().close()
    info.close()

    def room() -> bool:
        again = outcome(client, one)
        if isinstance(again, sysmem.BufferCollectionInfo):
            again.close()
            return True
        return False

    eventually(room)


def test_memory_is_reclaimed_before_the_lifetime_event_closes(client: blocking.Allocator) -> None:
    # A participant that waits for the event can allocate the whole heap again at once.
    sixteen = asking(VULKAN, CARVEOUT)
    sixteen.min_buffer_count = 16
    for _ in range(10):
        with (
            client.allocate_non_shared_collection() as collection,
            collection.attach_lifetime_tracking() as lifetime,
        ):
            collection.set_constraints(sixteen)
            collection.wait_for_all_buffers_allocated().close()
            collection.release()
            assert lifetime.wait_closed(timeout=ENOUGH)


def test_more_than_a_heap_holds_is_no_memory(client: blocking.Allocator) -> None:
    assert outcome(client, asking(VULKAN, CARVEOUT, min_size_bytes=65537)) is Error.NO_MEMORY


def test_attached_participants_take_the_heap_that_exists(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as parent:
        table = asking(VULKAN, CARVEOUT)
        table.min_buffer_count = 4
        parent.set_constraints(table)
        parent.wait_for_all_buffers_allocated().close()
        for heaps, fits in (((), True), ((DEVICE,), False), ((DEVICE, CARVEOUT), True)):
            token = parent.attach_token()
            token.sync()
            with client.bind_shared_collection(token) as attached:
                attached.set_constraints(asking(VULKAN, *heaps))
                if fits:
                    attached.wait_for_all_buffers_allocated(timeout=20).close()
                else:
                    assert attached.wait_closed(timeout=20)


def test_must_match_pins_heap_and_domain(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as old:
        old.set_constraints(asking(DISPLAY, CARVEOUT))
        with (
            old.wait_for_all_buffers_allocated() as existing,
            client.allocate_non_shared_collection() as new,
        ):
            new.set_constraints(asking(VULKAN), must_match_vmo=vmo_of(existing))
            with new.wait_for_all_buffers_allocated() as info:
                assert info.settings == existing.settings
                assert info.settings is not None
                assert info.settings.buffer_settings is not None
                assert info.settings.buffer_settings.heap == CARVEOUT
                assert info.settings.buffer_settings.coherency_domain is CoherencyDomain.RAM


# Other configurations


@pytest.mark.sysmemd(config={"memory": {"contiguous": "refuse"}})
def test_contiguous_can_be_refused(allocator: blocking.Allocator) -> None:
    assert refused(allocator, memory(physically_contiguous_required=True))
    assert not refused(allocator, memory(physically_contiguous_required=False))


@pytest.mark.sysmemd(config={"memory": {"allocation": "eager"}})
def test_memory_can_be_allocated_eagerly(allocator: blocking.Allocator) -> None:
    info = outcome(allocator, buffers(100_000))
    assert isinstance(info, sysmem.BufferCollectionInfo)
    with info, open(f"/proc/self/fd/{vmo_of(info).fileno()}", "rb") as file:
        assert os.fstat(file.fileno()).st_blocks * 512 >= 100_000


def test_lazy_memory_is_not_there_until_touched(client: blocking.Allocator) -> None:
    info = outcome(client, buffers(100_000))
    assert isinstance(info, sysmem.BufferCollectionInfo)
    with info:
        assert os.fstat(vmo_of(info).fileno()).st_blocks == 0


def test_formats_by_the_references_costs(sysmemd_factory: Factory) -> None:
    # `docs/spec/image-formats.md`, section 5, examples 35 to 38.
    modifiers = {
        0x0800000000003071: 10,
        0x0800000000001071: 510,
        0x0800000000001001: 1600,
        0x0800000000002071: 2010,
        0x0800000000000071: 2510,
        0x0800000000000001: 3600,
        0x0800000000001002: 5600,
        0x0800000000000002: 7600,
    }
    config = "".join(
        f'[[format_cost]]\npixel_format = "B8G8R8A8"\npixel_format_modifier = {modifier}\n'
        f"cost = {cost}.0\n"
        for modifier, cost in modifiers.items()
    )
    with blocking.connect(sysmemd_factory(config=config).runtime_dir) as client:
        left = list(modifiers)[::-1]
        while left:
            entries = [image(pixel_format_modifier=m, min_size=SizeU(64, 48)) for m in left]
            cheapest = image_settings(client, images(*entries, image())).pixel_format_modifier
            assert cheapest == min(left, key=modifiers.__getitem__)
            left.remove(cheapest)


@pytest.mark.parametrize("format_", ["json", "console"])
def test_the_daemon_writes_its_log_as_told(sysmemd_factory: Factory, format_: str) -> None:
    daemon = sysmemd_factory(arguments=["--log-format", format_])
    daemon.stop()
    assert daemon.log.startswith("{") is (format_ == "json")
