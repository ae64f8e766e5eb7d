"""The fields of an image entry, each with its default and how it combines (`docs/spec/constraints.md`).

Terms are plain numbers under the engine's names, so that folding thousands of entries stays cheap. Reading, combining
and delivering them, and explaining them, follow from what is declared here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from operator import or_
from typing import Annotated, Any, NamedTuple, get_type_hints

from sysmem_protocol.formats import COLOR_DO_NOT_CARE
from sysmem_protocol.images2 import ColorSpace
from sysmem_protocol.sizes import U32_MAX, U64_MAX
from sysmem_protocol.sysmem2 import ImageFormatConstraints, SizeU

from .rules import Breach, Rule, WidthHeight


class Combined(NamedTuple):
    """How a field of constraints combines."""

    #: The field's name in the tables; for members of a struct `min_size.width`.
    name: str
    #: Makes one value of two; Breach if there is none. `explaining` tells by it whose values decide.
    combine: Callable[[Any, Any], Any]
    #: What un-set means, where that does not depend on anything else.
    default: Any = None


class Declared(NamedTuple):
    """A field of the engine: its attribute, and how it combines."""

    attribute: str
    combined: Combined


def declared(of: type) -> Iterator[Declared]:
    """Yield the fields of a class that are annotated with :class:`Combined`."""
    for attribute, hint in get_type_hints(of, include_extras=True).items():
        for combined in getattr(hint, "__metadata__", ()):
            yield Declared(attribute, combined)


def intersect_spaces(a: frozenset[int] | None, b: frozenset[int] | None) -> frozenset[int] | None:
    """color_spaces: those that both have; None is DO_NOT_CARE."""
    if a is None or b is None:
        return b if a is None else a
    spaces = a & b
    if not spaces:
        raise Breach(Rule.NO_COMMON_COLOR_SPACE, "color_spaces")
    return spaces


def agree_on_alpha(a: bool | None, b: bool | None) -> bool | None:
    """is_alpha_present: a set value wins over an un-set one."""
    if a is None or b is None:
        return b if a is None else a
    if a is not b:
        raise Breach(Rule.ALPHA_CONFLICT, "is_alpha_present")
    return a


def concatenate(a: tuple[WidthHeight, ...], b: tuple[WidthHeight, ...]) -> tuple[WidthHeight, ...]:
    """required_max_size_list: both lists; a size that is listed twice counts once."""
    return a if a == b else a + b


class Terms(NamedTuple):
    """The fields of an image entry apart from its format."""

    #: None is DO_NOT_CARE.
    color_spaces: Annotated[frozenset[int] | None, Combined("color_spaces", intersect_spaces)]
    min_width: Annotated[int, Combined("min_size.width", max, 0)]
    min_height: Annotated[int, Combined("min_size.height", max, 0)]
    max_width: Annotated[int, Combined("max_size.width", min, U32_MAX)]
    max_height: Annotated[int, Combined("max_size.height", min, U32_MAX)]
    min_bytes_per_row: Annotated[int, Combined("min_bytes_per_row", max, 0)]
    max_bytes_per_row: Annotated[int, Combined("max_bytes_per_row", min, U32_MAX)]
    max_width_times_height: Annotated[int, Combined("max_width_times_height", min, U64_MAX)]
    align_width: Annotated[int, Combined("size_alignment.width", max, 1)]
    align_height: Annotated[int, Combined("size_alignment.height", max, 1)]
    display_align_width: Annotated[int, Combined("display_rect_alignment.width", max, 1)]
    display_align_height: Annotated[int, Combined("display_rect_alignment.height", max, 1)]
    required_min_width: Annotated[int, Combined("required_min_size.width", min, U32_MAX)]
    required_min_height: Annotated[int, Combined("required_min_size.height", min, U32_MAX)]
    required_max_width: Annotated[int, Combined("required_max_size.width", max, 0)]
    required_max_height: Annotated[int, Combined("required_max_size.height", max, 0)]
    required_max_sizes: Annotated[
        tuple[WidthHeight, ...], Combined("required_max_size_list", concatenate, ())
    ]
    #: :func:`.fold.combine` makes it fit block padding too.
    bytes_per_row_divisor: Annotated[int, Combined("bytes_per_row_divisor", math.lcm, 1)]
    start_offset_divisor: Annotated[int, Combined("start_offset_divisor", max, 1)]
    at_pixel_boundary: Annotated[
        bool, Combined("require_bytes_per_row_at_pixel_boundary", or_, False)
    ]
    is_alpha_present: Annotated[bool | None, Combined("is_alpha_present", agree_on_alpha)]
    pad_width: Annotated[int, Combined("pad_for_block_size.width", max, 1)]
    pad_height: Annotated[int, Combined("pad_for_block_size.height", max, 1)]
    pad_beyond: Annotated[int, Combined("pad_beyond_image_size_bytes", max, 0)]


#: The fields of :class:`Terms`, in their order.
TERMS = tuple(declared(Terms))
_COMBINE = tuple(field.combined.combine for field in TERMS)
#: For each field: its name, the struct's member if it is one, and its default.
_MEMBERS = tuple(
    (*field.combined.name.partition(".")[::2], field.combined.default) for field in TERMS
)

_SPACES = Terms._fields.index("color_spaces")
_SIZES = Terms._fields.index("required_max_sizes")


def read_terms(entry: ImageFormatConstraints) -> Terms:
    """Return the terms as sent, with the defaults of section 1."""
    spaces = entry.color_spaces
    if not spaces:
        raise Breach(Rule.COLOR_SPACES_MISSING, "color_spaces")
    if COLOR_DO_NOT_CARE in spaces and len(spaces) > 1:
        raise Breach(Rule.COLOR_DO_NOT_CARE_ALONE, "color_spaces")
    values: list[Any] = []
    for name, member, default in _MEMBERS:
        value = getattr(entry, name)
        values.append(default if value is None else getattr(value, member) if member else value)
    values[_SPACES] = None if COLOR_DO_NOT_CARE in spaces else frozenset(map(int, spaces))
    values[_SIZES] = tuple((size.width, size.height) for size in values[_SIZES])
    return Terms(*values)


def combine_fields(a: Terms, b: Terms) -> Terms:
    """Return both combined, field by field; Breach if a field can't be."""
    return Terms(*[combine(x, y) for combine, x, y in zip(_COMBINE, a, b, strict=True)])


def fields_of(terms: Terms) -> dict[str, Any]:
    """Return the fields as participants get them, by name."""
    fields: dict[str, Any] = {}
    values: Sequence[Any] = terms
    for (name, member, _), value in zip(_MEMBERS, values, strict=True):
        fields[name] = SizeU(fields[name], value) if member == "height" else value
    fields["color_spaces"] = [ColorSpace(space) for space in sorted(terms.color_spaces or ())]
    fields["required_max_size_list"] = [SizeU(*size) for size in terms.required_max_sizes]
    return fields
