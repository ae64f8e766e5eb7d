"""Shared helpers of the scenarios: a daemon as a program, and negotiations among several participants.

Nothing here uses private names (`docs/spec/client-api.md`): a scenario does and sees what a program does and sees that
knows only the specification.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import sysmem
from sysmem import blocking
from sysmem.testing import Sysmemd

READ_WRITE = sysmem.CpuUsage.READ_OFTEN | sysmem.CpuUsage.WRITE_OFTEN
UNBOUNDED = 0xFFFFFFFF
BGRA = sysmem.PixelFormat.B8G8R8A8
RGBA = sysmem.PixelFormat.R8G8B8A8
NV12 = sysmem.PixelFormat.NV12
LINEAR = sysmem.PixelFormatModifier.LINEAR
X_TILED = sysmem.PixelFormatModifier.INTEL_I915_X_TILED
ANY_FORMAT = sysmem.PixelFormat.DO_NOT_CARE
ANY_MODIFIER = sysmem.PixelFormatModifier.DO_NOT_CARE
ANY_COLOR = [sysmem.ColorSpace.DO_NOT_CARE]
VULKAN = sysmem.BufferUsage(vulkan=sysmem.VulkanUsage.IMAGE_SAMPLED)
ENOUGH = 120.0
"""Seconds after which a test gives up on an event that should have happened at once."""
SHORTLY = 0.2
"""Seconds for which a test watches that an event does not happen."""

pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="scenario")


def descriptors(daemon: Sysmemd) -> int:
    """Return the number of open descriptors of a daemon."""
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition that only the kernel or the daemon's log shows."""
    deadline = time.monotonic() + ENOUGH
    while not condition():
        assert time.monotonic() < deadline, "it didn't come true"
        time.sleep(0.005)


def ask(collection: blocking.BufferCollection) -> None:
    """Send a wait for buffers that can't exist yet. The next wait takes it up."""
    with pytest.raises(TimeoutError):
        collection.wait_for_all_buffers_allocated(timeout=0)
    collection.sync()  # is answered after the daemon has read the wait


def begin_wait(
    collection: blocking.BufferCollection,
) -> Future[sysmem.BufferCollectionInfo]:
    """Wait for buffers in another thread. Return when the daemon knows of the wait."""
    ask(collection)
    return pool.submit(collection.wait_for_all_buffers_allocated, timeout=ENOUGH)


def buffers(min_size_bytes: int = 4096, **fields: Any) -> sysmem.BufferCollectionConstraints:
    """Return constraints of a participant that reads and writes with the CPU, with one buffer of one page."""
    table: dict[str, Any] = {
        "usage": sysmem.BufferUsage(cpu=READ_WRITE),
        "min_buffer_count_for_camping": 1,
        "buffer_memory_constraints": sysmem.BufferMemoryConstraints(min_size_bytes=min_size_bytes),
    }
    table.update(fields)
    return sysmem.BufferCollectionConstraints(**table)


def memory(**fields: Any) -> sysmem.BufferCollectionConstraints:
    """Return constraints as `buffers` does, with these memory constraints."""
    table: dict[str, Any] = {"min_size_bytes": 4096}
    table.update(fields)
    constraints = sysmem.BufferMemoryConstraints(**table)
    return buffers(buffer_memory_constraints=constraints)


def image(
    pixel_format: int | None = sysmem.PixelFormat.B8G8R8A8, **fields: Any
) -> sysmem.ImageFormatConstraints:
    """Return an image entry of 64 × 48 pixels in sRGB (BT.709 for a YUV format), with these other fields."""
    yuv = pixel_format in (
        sysmem.PixelFormat.NV12,
        sysmem.PixelFormat.I420,
        sysmem.PixelFormat.YV12,
        sysmem.PixelFormat.YUY2,
        sysmem.PixelFormat.M420,
        sysmem.PixelFormat.P010,
    )
    table: dict[str, Any] = {
        "pixel_format": pixel_format,
        "color_spaces": [sysmem.ColorSpace.REC709 if yuv else sysmem.ColorSpace.SRGB],
        "min_size": sysmem.SizeU(64, 48),
    }
    table.update(fields)
    return sysmem.ImageFormatConstraints(**table)


def images(
    *entries: sysmem.ImageFormatConstraints, **fields: Any
) -> sysmem.BufferCollectionConstraints:
    """Return constraints as `buffers` does, with image entries and without a size."""
    table: dict[str, Any] = {
        "buffer_memory_constraints": None,
        "image_format_constraints": list(entries),
    }
    table.update(fields)
    return buffers(**table)


def delivered(
    pixel_format: int = sysmem.PixelFormat.B8G8R8A8, **fields: Any
) -> sysmem.ImageFormatConstraints:
    """Return the delivered entry for a lone `image()` in B8G8R8A8, changed by `fields`.

    It is computed by hand from `docs/spec/constraints.md`, section 1: a sample has 4 bytes, so rows are multiples of 4;
    64 pixels have 256 bytes.
    """
    table: dict[str, Any] = {
        "pixel_format": pixel_format,
        "pixel_format_modifier": sysmem.PixelFormatModifier.LINEAR,
        "color_spaces": [sysmem.ColorSpace.SRGB],
        "min_size": sysmem.SizeU(64, 48),
        "max_size": sysmem.SizeU(UNBOUNDED, UNBOUNDED),
        "min_bytes_per_row": 256,
        "max_bytes_per_row": UNBOUNDED,
        "max_width_times_height": 2**64 - 1,
        "size_alignment": sysmem.SizeU(1, 1),
        "display_rect_alignment": sysmem.SizeU(1, 1),
        "required_min_size": sysmem.SizeU(UNBOUNDED, UNBOUNDED),
        "required_max_size": sysmem.SizeU(0, 0),
        "bytes_per_row_divisor": 4,
        "start_offset_divisor": 4,
        "require_bytes_per_row_at_pixel_boundary": False,
        "required_max_size_list": [],
        "pad_for_block_size": sysmem.SizeU(1, 1),
        "pad_beyond_image_size_bytes": 0,
    }
    table.update(fields)
    return sysmem.ImageFormatConstraints(**table)


def nv12(**fields: Any) -> sysmem.ImageFormatConstraints:
    """Return the delivered entry for a lone `image(NV12)`: samples in pairs of rows and columns."""
    table: dict[str, Any] = {
        "color_spaces": [sysmem.ColorSpace.REC709],
        "size_alignment": sysmem.SizeU(2, 2),
        "min_bytes_per_row": 64,
        "bytes_per_row_divisor": 2,
        "start_offset_divisor": 2,
    }
    table.update(fields)
    return delivered(NV12, **table)


@contextmanager
def participants(
    allocator: blocking.Allocator, count: int
) -> Iterator[tuple[blocking.BufferCollectionToken, list[blocking.BufferCollection]]]:
    """A root token that prevents the allocation until its release, and `count` collections of its children."""
    with ExitStack() as stack:
        gate = stack.enter_context(allocator.allocate_shared_collection())
        tokens = gate.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * count)
        collections = [
            stack.enter_context(allocator.bind_shared_collection(token)) for token in tokens
        ]
        yield gate, collections


@contextmanager
def allocated(
    client: blocking.Allocator, table: sysmem.BufferCollectionConstraints | None = None
) -> Iterator[tuple[blocking.BufferCollection, sysmem.BufferCollectionInfo]]:
    """A collection with one participant, and its buffers. The default for `table` is `buffers()`."""
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(table or buffers())
        with collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
            yield collection, info


@contextmanager
def root_and_child(
    client: blocking.Allocator,
    mask: int = sysmem.Rights.SAME_RIGHTS,
    *,
    weak: bool = False,
    table: sysmem.BufferCollectionConstraints | None = None,
) -> Iterator[tuple[blocking.BufferCollection, blocking.BufferCollection]]:
    """The collections of a root token and of a child. With `table`, both set these constraints."""
    with client.allocate_shared_collection() as root, root.duplicate(mask) as child:
        if weak:
            child.set_weak()
        root.sync()
        child.sync()
        with (
            client.bind_shared_collection(root) as parent,
            client.bind_shared_collection(child) as below,
        ):
            if table is not None:
                for collection in (parent, below):
                    collection.set_constraints(table)
                    collection.sync()
            yield parent, below


def outcome(
    allocator: blocking.Allocator, *tables: sysmem.BufferCollectionConstraints | None
) -> sysmem.BufferCollectionInfo | int:
    """Return the outcome for the first of some participants: buffers, or an `Error`."""
    with participants(allocator, len(tables)) as (gate, collections):
        for collection, table in zip(collections, tables, strict=True):
            collection.set_constraints(table)
            collection.sync()
        first = collections[0]
        ask(first)
        gate.release()
        try:
            return first.wait_for_all_buffers_allocated(timeout=ENOUGH)
        except sysmem.SysmemError as error:
            assert first.wait_closed(timeout=ENOUGH)
            return error.error


def settings(
    allocator: blocking.Allocator, *tables: sysmem.BufferCollectionConstraints | None
) -> sysmem.SingleBufferSettings:
    """Return the settings on which some participants agree."""
    info = outcome(allocator, *tables)
    assert isinstance(info, sysmem.BufferCollectionInfo), info
    with info:
        assert info.settings is not None
        return info.settings


def buffer_settings(
    allocator: blocking.Allocator, *tables: sysmem.BufferCollectionConstraints | None
) -> sysmem.BufferMemorySettings:
    found = settings(allocator, *tables).buffer_settings
    assert found is not None
    return found


def image_settings(
    allocator: blocking.Allocator, *tables: sysmem.BufferCollectionConstraints | None
) -> sysmem.ImageFormatConstraints:
    found = settings(allocator, *tables).image_format_constraints
    assert found is not None
    return found


def count(allocator: blocking.Allocator, *tables: sysmem.BufferCollectionConstraints | None) -> int:
    """Return the number of buffers on which some participants agree."""
    info = outcome(allocator, *tables)
    assert isinstance(info, sysmem.BufferCollectionInfo), info
    with info:
        assert info.buffers is not None
        return len(info.buffers)


def refused(
    allocator: blocking.Allocator, *tables: sysmem.BufferCollectionConstraints | None
) -> bool:
    """Return whether the intersection is empty. Any other error fails the test."""
    info = outcome(allocator, *tables)
    if isinstance(info, sysmem.BufferCollectionInfo):
        info.close()
        return False
    assert info is sysmem.Error.CONSTRAINTS_INTERSECTION_EMPTY
    return True


def vmo_of(info: sysmem.BufferCollectionInfo, index: int = 0) -> sysmem.Vmo:
    assert info.buffers is not None
    vmo = info.buffers[index].vmo
    assert vmo is not None
    return vmo


def event_of(info: sysmem.BufferCollectionInfo, index: int = 0) -> sysmem.EventPair:
    assert info.buffers is not None
    event = info.buffers[index].close_weak_asap
    assert event is not None
    return event
