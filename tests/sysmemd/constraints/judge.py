"""An independent check of whether settings satisfy a participant.

It was written only from the tables of `docs/spec/constraints.md`. It shares no code with the engine, and works on the
tables as they were sent. It yields complaints, or none if all constraints are met.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    BufferUsage,
    CoherencyDomain,
    ImageFormatConstraints,
    SingleBufferSettings,
    SizeU,
)

#: Bits per pixel over all planes and bytes per pixel of a row, for the linear formats that the tests use.
LINEAR_FORMATS = {
    PixelFormat.NV12: (12, 1),
    PixelFormat.B8G8R8A8: (32, 4),
    PixelFormat.R8: (8, 1),
    PixelFormat.B8G8R8: (24, 3),
}
WITH_ALPHA = {PixelFormat.B8G8R8A8}


def complaints(
    constraints: BufferCollectionConstraints | None, settings: SingleBufferSettings, count: int
) -> Iterator[str]:
    """Yield the constraints that the settings do not meet."""
    if constraints is None:
        return
    usage = constraints.usage or BufferUsage()
    if count > (
        0xFFFFFFFF if constraints.max_buffer_count is None else constraints.max_buffer_count
    ):
        yield "too many buffers"
    if count < (constraints.min_buffer_count or 0):
        yield "too few buffers"
    wanted = constraints.buffer_memory_constraints or BufferMemoryConstraints()
    got: Any = settings.buffer_settings
    if got.size_bytes < (wanted.min_size_bytes or 0):
        yield "too small"
    if wanted.max_size_bytes is not None and got.raw_vmo_size - 4095 > wanted.max_size_bytes:
        yield "too big"
    if wanted.physically_contiguous_required and not got.is_physically_contiguous:
        yield "not contiguous"
    if wanted.secure_required and not got.is_secure:
        yield "not secure"
    if got.coherency_domain not in supported_domains(wanted, bool(usage.cpu)):
        yield "wrong domain"
    heaps = wanted.permitted_heaps
    if heaps is not None and (got.heap.heap_type, got.heap.id) not in {
        (heap.heap_type, heap.id or 0) for heap in heaps
    }:
        yield "wrong heap"
    if constraints.image_format_constraints:
        yield from image_complaints(constraints, settings)


def supported_domains(memory: BufferMemoryConstraints, cpu: bool) -> set[CoherencyDomain]:
    secure = bool(memory.secure_required)
    defaults = {
        CoherencyDomain.CPU: (memory.cpu_domain_supported, not secure),
        CoherencyDomain.RAM: (memory.ram_domain_supported, not secure and not cpu),
        CoherencyDomain.INACCESSIBLE: (memory.inaccessible_domain_supported, not cpu),
    }
    return {
        domain
        for domain, (given, default) in defaults.items()
        if (default if given is None else given)
    }


def formats_of(entry: ImageFormatConstraints, real_usage: bool) -> Iterator[tuple[int, int]]:
    if entry.pixel_format is not None:
        modifier = entry.pixel_format_modifier
        if modifier is None:
            is_open = entry.pixel_format == PixelFormat.DO_NOT_CARE or not real_usage
            modifier = PixelFormatModifier.DO_NOT_CARE if is_open else PixelFormatModifier.LINEAR
        yield (entry.pixel_format, modifier)
    for pair in entry.pixel_format_and_modifiers or ():
        yield (pair.pixel_format, pair.pixel_format_modifier)


def image_complaints(
    constraints: BufferCollectionConstraints, settings: SingleBufferSettings
) -> Iterator[str]:
    got = settings.image_format_constraints
    if got is None:
        yield "no image format"
        return
    usage = constraints.usage or BufferUsage()
    real = bool(usage.cpu or usage.vulkan or usage.display or usage.video)
    matching = [
        entry
        for entry in constraints.image_format_constraints or ()
        for pixel_format, modifier in formats_of(entry, real)
        if pixel_format in (got.pixel_format, PixelFormat.DO_NOT_CARE)
        and modifier in (got.pixel_format_modifier, PixelFormatModifier.DO_NOT_CARE)
    ]
    if len(matching) != 1:
        yield f"{len(matching)} of its formats match"
        return
    yield from entry_complaints(matching[0], got, settings)


def entry_complaints(
    wanted: ImageFormatConstraints, got: Any, settings: SingleBufferSettings
) -> Iterator[str]:
    spaces = wanted.color_spaces or []
    if ColorSpace.DO_NOT_CARE not in spaces and got.color_spaces[0] not in spaces:
        yield "color space"
    for name in ("min_size", "required_max_size", "pad_for_block_size"):
        value = getattr(wanted, name)
        if value and not covers(getattr(got, name), value):
            yield name
    for name in ("max_size", "required_min_size"):
        value = getattr(wanted, name)
        if value and not covers(value, getattr(got, name)):
            yield name
    for name in ("min_bytes_per_row", "start_offset_divisor", "pad_beyond_image_size_bytes"):
        if getattr(got, name) < (getattr(wanted, name) or 0):
            yield name
    for name in ("max_bytes_per_row", "max_width_times_height"):
        value = getattr(wanted, name)
        if value is not None and getattr(got, name) > value:
            yield name
    for name in ("size_alignment", "display_rect_alignment"):
        value = getattr(wanted, name)
        result = getattr(got, name)
        if value and (result.width % value.width or result.height % value.height):
            yield name
    if got.bytes_per_row_divisor % (wanted.bytes_per_row_divisor or 1):
        yield "bytes_per_row_divisor"
    if wanted.require_bytes_per_row_at_pixel_boundary and not (
        got.require_bytes_per_row_at_pixel_boundary
    ):
        yield "pixel boundary"
    if wanted.is_alpha_present is not None:
        expected = wanted.is_alpha_present if got.pixel_format in WITH_ALPHA else None
        if got.is_alpha_present is not expected:
            yield "alpha"
    required = list(wanted.required_max_size_list or [])
    if (
        wanted.required_max_size
        and wanted.required_max_size.width
        and wanted.required_max_size.height
    ):
        required.append(wanted.required_max_size)
    for size in required:
        if not any(covers(other, size) for other in got.required_max_size_list):
            yield f"required {size}"
        if got.pixel_format_modifier == PixelFormatModifier.LINEAR:
            yield from fitting_complaints(size, got, settings)


def fitting_complaints(size: SizeU, got: Any, settings: SingleBufferSettings) -> Iterator[str]:
    """Check that a linear image of the size fits with its rows."""
    bits, stride = LINEAR_FORMATS[got.pixel_format]
    width = up(max(size.width, got.min_size.width), got.size_alignment.width)
    height = up(max(size.height, got.min_size.height), got.size_alignment.height)
    row = up(max(width * stride, got.min_bytes_per_row), got.bytes_per_row_divisor)
    memory: Any = settings.buffer_settings
    if row * height * bits // (8 * stride) > memory.size_bytes:
        yield f"{size} doesn't fit"
    if row > got.max_bytes_per_row:
        yield f"rows of {size} are too long"


def covers(a: SizeU, b: SizeU) -> bool:
    return a.width >= b.width and a.height >= b.height


def up(value: int, multiple: int) -> int:
    rest = value % multiple
    return value + multiple - rest if rest else value


def complaints_of_all(
    everybody: list[BufferCollectionConstraints | None],
    settings: SingleBufferSettings,
    count: int,
) -> list[str]:
    """Yield the complaints of each participant, and about requirements of all participants together."""
    found = [
        f"{index}: {complaint}"
        for index, each in enumerate(everybody)
        for complaint in complaints(each, settings, count)
    ]
    given = [each for each in everybody if each is not None]
    kept = sum(each.min_buffer_count_for_camping or 0 for each in given)
    kept += sum(each.min_buffer_count_for_dedicated_slack or 0 for each in given)
    kept += max((each.min_buffer_count_for_shared_slack or 0 for each in given), default=0)
    if count < kept:
        found.append("not enough buffers for everybody")
    memory: Any = settings.buffer_settings
    image = settings.image_format_constraints
    if image is not None and memory.raw_vmo_size < memory.size_bytes + (
        image.pad_beyond_image_size_bytes or 0
    ):
        found.append("not padded")
    if memory.raw_vmo_size % 4096:
        found.append("not whole pages")
    return found
