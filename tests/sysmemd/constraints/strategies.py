"""Constraints for property tests: any that the codec accepts, and plausible ones that often agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st

from sysmem_protocol.images2 import ColorSpace
from sysmem_protocol.library import Bool, Enumeration, Integer, Nested, String, Vector, WireType
from sysmem_protocol.sysmem2 import (
    SYSTEM_RAM_HEAP,
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    BufferUsage,
    CoherencyDomain,
    Heap,
    ImageFormatConstraints,
    PixelFormatAndModifier,
    SizeU,
)
from sysmemd.constraints import FormatCost, HeapProperties, Participant, Platform

from .support import C, F, M

PLATFORM = Platform(
    heaps=(
        HeapProperties("test.device", 7, frozenset({CoherencyDomain.RAM})),
        HeapProperties("test.secure", secure=True),
        HeapProperties("test.another", secure=True),
    ),
    format_costs=(
        FormatCost(F.NV12, M.LINEAR, BufferUsage(video=1), 100),
        FormatCost(F.B8G8R8A8, M.INTEL_I915_Y_TILED, cost=50),
    ),
)


# --- anything -----------------------------------------------------------------------------------------------------


def any_value(type_: WireType) -> st.SearchStrategy[Any]:
    """Draw any value within the declared width or bound, often a value at the ends."""
    match type_:
        case Bool():
            return st.booleans()
        case Integer(bits=bits):
            top = (1 << bits) - 1
            small = st.integers(0, 130)
            powers = st.integers(0, bits - 1).map(lambda bit: 1 << bit)
            return st.one_of(small, powers, st.integers(0, top), st.sampled_from([top, top - 1]))
        case Enumeration(type=enumeration, bits=bits):
            return st.one_of(st.sampled_from(list(enumeration)), any_value(Integer(bits)))
        case String():
            return st.sampled_from(["", SYSTEM_RAM_HEAP.heap_type, "test.secure", "\N{SNOWMAN}"])
        case Vector(element=element, max_count=limit):
            return st.lists(any_value(element), max_size=min(limit, 4))
        case Nested(type=declared):
            return any_record(declared)
        case _:
            raise AssertionError(type_)


def any_record(declared: Any) -> st.SearchStrategy[Any]:
    """Draw a table with any of its fields, or a struct with all of them."""
    members = declared.members
    values = {member.name: any_value(member.field.type) for member in members}
    if declared in (SizeU, PixelFormatAndModifier):
        return st.builds(declared, **values)
    optional = {name: st.one_of(st.none(), value) for name, value in values.items()}
    return st.builds(declared, **optional)


ANYTHING = st.one_of(st.none(), any_record(BufferCollectionConstraints))


# --- what may well agree ------------------------------------------------------------------------------------------


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


FORMATS = st.sampled_from(
    [
        (F.NV12, M.LINEAR),
        (F.NV12, None),
        (F.NV12, M.DO_NOT_CARE),
        (F.NV12, M.INTEL_I915_Y_TILED),
        (F.B8G8R8A8, M.LINEAR),
        (F.B8G8R8A8, M.INTEL_I915_Y_TILED),
        (F.B8G8R8A8, M.ARM_AFBC_16X16),
        (F.B8G8R8A8, M.ARM_LINEAR_TE),
        (F.B8G8R8A8, M.DO_NOT_CARE),
        (F.R8, M.LINEAR),
        (F.B8G8R8, M.LINEAR),
        (F.DO_NOT_CARE, M.DO_NOT_CARE),
        (F.DO_NOT_CARE, M.LINEAR),
        (F.DO_NOT_CARE, None),
    ]
)
SPACES = st.sampled_from(
    [[C.DO_NOT_CARE], [C.PASSTHROUGH], [C.PASSTHROUGH, C.SRGB], [C.PASSTHROUGH, C.REC709]]
)
#: All colour spaces are possible for a wildcard format.
OPEN_SPACES = st.one_of(SPACES, st.sampled_from([[C.SRGB], [C.REC709, C.SRGB]]))
SMALL = st.builds(SizeU, st.integers(0, 40), st.integers(0, 40))
NON_ZERO = st.builds(SizeU, st.integers(1, 40), st.integers(1, 40))
LARGE = st.builds(SizeU, st.integers(40, 500), st.integers(40, 500))
POWERS = st.sampled_from([1, 1, 2, 4, 16])
ALIGNMENT = st.builds(SizeU, POWERS, POWERS)

IMAGE_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "min_size": maybe(SMALL),
    "max_size": maybe(LARGE),
    "min_bytes_per_row": maybe(st.integers(0, 300)),
    "max_bytes_per_row": maybe(st.integers(500, 5000)),
    "max_width_times_height": maybe(st.integers(1600, 90000)),
    "size_alignment": maybe(ALIGNMENT),
    "display_rect_alignment": maybe(ALIGNMENT),
    "required_min_size": maybe(LARGE),
    "required_max_size": maybe(SMALL),
    "required_max_size_list": maybe(st.lists(NON_ZERO, max_size=3)),
    "bytes_per_row_divisor": maybe(st.sampled_from([1, 2, 3, 5, 12, 20, 64])),
    "start_offset_divisor": maybe(POWERS),
    "require_bytes_per_row_at_pixel_boundary": maybe(st.booleans()),
    "is_alpha_present": st.sampled_from([None, None, None, True, False]),
    "pad_beyond_image_size_bytes": maybe(st.integers(0, 5000)),
}


@st.composite
def plausible_images(draw: st.DrawFn) -> list[ImageFormatConstraints]:
    formats = draw(st.lists(FORMATS, max_size=3, unique_by=lambda pair: pair[0]))
    if any(pixel_format == F.DO_NOT_CARE for pixel_format, _ in formats):
        formats = formats[:1]
    entries = []
    for pixel_format, modifier in formats:
        fields = draw(st.fixed_dictionaries({}, optional=IMAGE_FIELDS))
        open_format = pixel_format == F.DO_NOT_CARE
        spaces: list[ColorSpace | int] = list(draw(OPEN_SPACES if open_format else SPACES))
        if (pixel_format, modifier) == (F.NV12, M.LINEAR):
            spaces = [C.PASSTHROUGH, C.REC709]
        elif pixel_format not in (F.DO_NOT_CARE, F.R8) and modifier != M.DO_NOT_CARE:
            spaces = [C.PASSTHROUGH]
        if (pixel_format, modifier) == (F.R8, M.LINEAR) and draw(st.booleans()):
            fields["pad_for_block_size"] = draw(ALIGNMENT)
            fields["max_size"] = draw(LARGE)
        entries.append(
            ImageFormatConstraints(
                pixel_format=pixel_format,
                pixel_format_modifier=modifier,
                color_spaces=spaces,
                **fields,
            )
        )
    return entries


DEVICE = Heap(heap_type="test.device", id=7)
SECURE = Heap(heap_type="test.secure")
#: Each list contains the system heap, so the order of participants does not matter.
HEAPS = st.sampled_from([None, None, [SYSTEM_RAM_HEAP], [DEVICE, SYSTEM_RAM_HEAP]])
PLAUSIBLE_MEMORY = st.builds(
    BufferMemoryConstraints,
    min_size_bytes=maybe(st.integers(0, 10000)),
    max_size_bytes=maybe(st.integers(8000, 2000000)),
    physically_contiguous_required=maybe(st.booleans()),
    inaccessible_domain_supported=maybe(st.booleans()),
    ram_domain_supported=maybe(st.booleans()),
    permitted_heaps=HEAPS,
)
SECURE_MEMORY = st.builds(
    BufferMemoryConstraints,
    min_size_bytes=maybe(st.integers(0, 10000)),
    secure_required=st.just(True),
    permitted_heaps=st.sampled_from([None, [SECURE, DEVICE], [SECURE, SYSTEM_RAM_HEAP]]),
)
COUNTS: dict[str, st.SearchStrategy[Any]] = {
    "min_buffer_count_for_camping": maybe(st.integers(0, 3)),
    "min_buffer_count_for_dedicated_slack": maybe(st.integers(0, 1)),
    "min_buffer_count_for_shared_slack": maybe(st.integers(0, 2)),
    "min_buffer_count": maybe(st.integers(0, 6)),
    "max_buffer_count": maybe(st.integers(6, 20)),
}


@st.composite
def plausible(draw: st.DrawFn, secure: bool = True) -> BufferCollectionConstraints | None:
    """Draw constraints of one participant that mostly break no rule on their own."""
    kind = draw(st.sampled_from(["cpu", "cpu", "device", "device", "none", "empty", "secure"]))
    if kind == "empty":
        return None
    if kind == "cpu":
        usage = BufferUsage(cpu=draw(st.sampled_from([1, 2, 4, 12])))
    elif kind == "none":
        usage = BufferUsage(none=draw(st.sampled_from([1, 3])))
    else:
        usage = draw(
            st.sampled_from([BufferUsage(display=1), BufferUsage(video=1), BufferUsage(vulkan=4)])
        )
    memory = SECURE_MEMORY if kind == "secure" and secure else PLAUSIBLE_MEMORY
    return BufferCollectionConstraints(
        usage=usage,
        buffer_memory_constraints=draw(maybe(memory)),
        image_format_constraints=draw(maybe(plausible_images())),
        **draw(st.fixed_dictionaries({}, optional=COUNTS)),
    )


def groups(of: st.SearchStrategy[Any], most: int = 5) -> st.SearchStrategy[list[Participant]]:
    """Draw several participants with different names."""

    def named(constraints: list[BufferCollectionConstraints | None]) -> list[Participant]:
        return [Participant(each, f"p{i}", i) for i, each in enumerate(constraints)]

    return st.lists(of, min_size=1, max_size=most).map(named)


@st.composite
def base(draw: st.DrawFn) -> BufferCollectionConstraints:
    """Draw a participant that asks for a size, a buffer and a choice of formats, so that agreement is possible."""
    formats = draw(
        st.lists(
            st.sampled_from(
                [
                    (F.NV12, M.LINEAR),
                    (F.NV12, M.INTEL_I915_Y_TILED),
                    (F.B8G8R8A8, M.LINEAR),
                    (F.B8G8R8A8, M.INTEL_I915_Y_TILED),
                    (F.B8G8R8A8, M.ARM_AFBC_16X16),
                    (F.B8G8R8A8, M.ARM_LINEAR_TE),
                    (F.R8, M.LINEAR),
                    (F.B8G8R8, M.LINEAR),
                ]
            ),
            unique=True,
            max_size=6,
        )
    )
    return BufferCollectionConstraints(
        usage=draw(st.sampled_from([BufferUsage(display=1), BufferUsage(video=1)])),
        min_buffer_count_for_camping=draw(st.integers(1, 3)),
        buffer_memory_constraints=BufferMemoryConstraints(min_size_bytes=draw(st.integers(1, 999))),
        image_format_constraints=[
            ImageFormatConstraints(
                pixel_format=pixel_format,
                pixel_format_modifier=modifier,
                color_spaces=[C.PASSTHROUGH],
                **draw(st.fixed_dictionaries({}, optional=IMAGE_FIELDS)),
            )
            for pixel_format, modifier in formats
        ],
    )


@st.composite
def with_base(draw: st.DrawFn) -> list[Participant]:
    first = Participant(draw(base()), "base", 100)
    return draw(st.permutations([first, *draw(groups(plausible(), 4))]))


PEOPLE = st.one_of(with_base(), with_base(), groups(plausible()))


def sizes(least: int, most: int) -> st.SearchStrategy[SizeU]:
    return st.builds(SizeU, st.integers(least, most), st.integers(least, most))


Constraints = st.SearchStrategy[BufferCollectionConstraints]
STEPS = st.sampled_from([1, 1, 2, 16, 64])
#: These are so narrow that a few participants with the same format seldom agree, but most are valid on their own.
NARROW_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "min_size": sizes(0, 100),
    "max_size": sizes(64, 200),
    "min_bytes_per_row": st.integers(0, 300),
    "max_bytes_per_row": st.integers(100, 400),
    "max_width_times_height": st.integers(100, 20000),
    "size_alignment": st.builds(SizeU, STEPS, STEPS),
    "required_min_size": sizes(50, 200),
    "required_max_size": sizes(0, 64),
    "required_max_size_list": st.lists(sizes(1, 100), max_size=3),
    "bytes_per_row_divisor": st.sampled_from([1, 2, 3, 64, 65536, 4294967291]),
    "require_bytes_per_row_at_pixel_boundary": st.booleans(),
    "pad_beyond_image_size_bytes": st.integers(0, 3000),
}


def narrow(most: int = 3000, fields: Sequence[str] = tuple(NARROW_FIELDS)) -> Constraints:
    """Draw constraints that concern the size of an R8 image."""
    return st.builds(
        lambda pair, count, memory, image: BufferCollectionConstraints(
            usage=BufferUsage(cpu=1),
            min_buffer_count_for_camping=count,
            buffer_memory_constraints=memory,
            image_format_constraints=[
                ImageFormatConstraints(
                    pixel_format=pair[0],
                    pixel_format_modifier=pair[1],
                    color_spaces=[C.PASSTHROUGH],
                    **image,
                )
            ],
        ),
        st.sampled_from(
            [
                (F.R8, M.LINEAR),
                (F.R8, M.LINEAR),
                (F.R8, M.LINEAR),
                (F.DO_NOT_CARE, M.LINEAR),
                (F.DO_NOT_CARE, M.DO_NOT_CARE),
            ]
        ),
        st.integers(0, 3),
        maybe(st.builds(BufferMemoryConstraints, max_size_bytes=st.integers(1, most))),
        st.fixed_dictionaries({}, optional={name: NARROW_FIELDS[name] for name in fields}),
    )


def agreeable() -> Constraints:
    """Draw several such participants, most of which agree."""
    fields = [name for name in NARROW_FIELDS if not name.startswith(("max_", "required_min"))]
    return narrow(1 << 63, fields)


#: Participants that are most likely refused.
QUARRELSOME = st.one_of(PEOPLE, groups(narrow(), 4))

#: Without usage, count, size or format of its own, it can only cause a refusal.
TIGHTENING = st.builds(
    BufferCollectionConstraints,
    usage=st.just(BufferUsage(none=1)),
    max_buffer_count=maybe(st.integers(1, 20)),
    buffer_memory_constraints=maybe(
        st.builds(
            BufferMemoryConstraints,
            max_size_bytes=maybe(st.integers(1, 2000000)),
            physically_contiguous_required=maybe(st.booleans()),
            cpu_domain_supported=maybe(st.booleans()),
            ram_domain_supported=maybe(st.booleans()),
            inaccessible_domain_supported=maybe(st.booleans()),
            permitted_heaps=HEAPS,
        )
    ),
    image_format_constraints=maybe(
        st.builds(
            lambda spaces, fields: [
                ImageFormatConstraints(
                    pixel_format=F.DO_NOT_CARE,
                    pixel_format_modifier=M.DO_NOT_CARE,
                    color_spaces=spaces,
                    **fields,
                )
            ],
            SPACES,
            st.fixed_dictionaries(
                {},
                optional={
                    name: IMAGE_FIELDS[name]
                    for name in (
                        "max_size",
                        "max_bytes_per_row",
                        "max_width_times_height",
                        "size_alignment",
                        "display_rect_alignment",
                        "required_min_size",
                        "bytes_per_row_divisor",
                        "start_offset_divisor",
                        "require_bytes_per_row_at_pixel_boundary",
                        "is_alpha_present",
                    )
                },
            ),
        )
    ),
)
