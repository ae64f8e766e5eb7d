"""Short notations for constraints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    BufferMemorySettings,
    BufferUsage,
    CpuUsage,
    Heap,
    ImageFormatConstraints,
    ImageFormatSettings,
    SizeU,
)
from sysmemd.constraints import (
    Allocation,
    HeapProperties,
    Participant,
    Platform,
    Refusal,
    Rule,
    aggregate,
)
from sysmemd.explaining import Diagnosis

F, M, C = PixelFormat, PixelFormatModifier, ColorSpace
U32 = 0xFFFFFFFF
U64 = 0xFFFFFFFFFFFFFFFF
PLATFORM = Platform()
READS = BufferUsage(cpu=CpuUsage.READ_OFTEN)
SECURE_HEAP = HeapProperties("test.secure", secure=True)
DEVICE_HEAP = HeapProperties("test.device", 7)


def image(
    pixel_format: int | None = PixelFormat.R8,
    color_spaces: Sequence[ColorSpace | int] | None = (ColorSpace.PASSTHROUGH,),
    **fields: Any,
) -> ImageFormatConstraints:
    """Return an image entry. R8 needs no alignment and has one byte per pixel."""
    spaces = None if color_spaces is None else list(color_spaces)
    return ImageFormatConstraints(pixel_format=pixel_format, color_spaces=spaces, **fields)


def memory(**fields: Any) -> BufferMemoryConstraints:
    return BufferMemoryConstraints(**fields)


def wants(
    *images: ImageFormatConstraints,
    usage: BufferUsage | None = READS,
    count: int | None = 1,
    min_size_bytes: int | None = None,
    **fields: Any,
) -> BufferCollectionConstraints:
    """Return a participant's constraints. By default it reads with the CPU and keeps one buffer."""
    if min_size_bytes is not None:
        fields["buffer_memory_constraints"] = memory(min_size_bytes=min_size_bytes)
    return BufferCollectionConstraints(
        usage=usage,
        min_buffer_count_for_camping=count,
        image_format_constraints=list(images) or None,
        **fields,
    )


def people(*constraints: BufferCollectionConstraints | None) -> list[Participant]:
    """Return participants p0, p1, … with ids of the same numbers."""
    return [Participant(each, f"p{i}", i) for i, each in enumerate(constraints)]


def agree(
    *constraints: BufferCollectionConstraints | None, platform: Platform = PLATFORM
) -> Allocation:
    result = aggregate(people(*constraints), platform)
    assert isinstance(result, Allocation), told(result)
    return result


def refused(
    *constraints: BufferCollectionConstraints | None, platform: Platform = PLATFORM
) -> Refusal:
    result = aggregate(people(*constraints), platform)
    assert isinstance(result, Refusal), result
    return result


def diagnosed(
    *constraints: BufferCollectionConstraints | None, platform: Platform = PLATFORM
) -> Diagnosis:
    """Refused, and why."""
    return Diagnosis(refused(*constraints, platform=platform))


def told(refusal: Refusal) -> str:
    """Return a refusal as one line."""
    return str(Diagnosis(refusal))


def refused_by(
    rule: Rule, *constraints: BufferCollectionConstraints | None, platform: Platform = PLATFORM
) -> Refusal:
    """Check that the participants are refused for this reason."""
    refusal = refused(*constraints, platform=platform)
    assert refusal.rule is rule, told(refusal)
    return refusal


def image_of(allocation: Allocation) -> ImageFormatSettings:
    assert allocation.settings.image_format_constraints is not None
    return allocation.settings.image_format_constraints


def memory_of(allocation: Allocation) -> BufferMemorySettings:
    return allocation.settings.buffer_settings


def heap(properties: HeapProperties) -> Heap:
    return Heap(heap_type=properties.heap_type, id=properties.id)


def size(width: int, height: int) -> SizeU:
    return SizeU(width, height)
