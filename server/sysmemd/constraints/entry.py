"""One image entry: a format, and its terms (`docs/spec/constraints.md`, section 1).

:func:`adjust` implements the table. It is applied to each participant's entries and, once more, to the combined ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from sysmem_protocol.formats import (
    FORMAT_DO_NOT_CARE,
    MODIFIER_DO_NOT_CARE,
    Traits,
    color_name,
    has_alpha_or_x,
    is_specific,
    traits,
)
from sysmem_protocol.sizes import U32_MAX, minimum_row, round_down, round_up

from .rules import Breach, RequiredImage, Rule
from .terms import Terms

Pair = tuple[int, int]

#: The fields that determine the divisor of a row's length.
DIVISOR_FIELDS = (
    "bytes_per_row_divisor",
    "require_bytes_per_row_at_pixel_boundary",
    "pad_for_block_size.width",
)
#: The fields that determine the width, height and row length of the image that a buffer must hold.
WIDTH_FIELDS = (
    "min_size.width",
    "required_max_size.width",
    "required_max_size_list",
    "size_alignment.width",
)
HEIGHT_FIELDS = (
    "min_size.height",
    "required_max_size.height",
    "required_max_size_list",
    "size_alignment.height",
)
ROW_FIELDS = (*WIDTH_FIELDS, "min_bytes_per_row", *DIVISOR_FIELDS)
SIZE_FIELDS = tuple(dict.fromkeys((*WIDTH_FIELDS, *HEIGHT_FIELDS, *ROW_FIELDS)))
#: The fields that can make a buffer larger than its image.
PAD_FIELDS = (
    "pad_for_block_size.width",
    "pad_for_block_size.height",
    "pad_beyond_image_size_bytes",
)
#: The fields that determine the shortest row and its limit.
_MIN_ROW_FIELDS = (
    "min_bytes_per_row",
    "min_size.width",
    "size_alignment.width",
    *DIVISOR_FIELDS,
    "max_bytes_per_row",
)
#: The fields that determine the smallest area and its limit.
_MIN_AREA_FIELDS = (
    "min_size.width",
    "min_size.height",
    "size_alignment.width",
    "size_alignment.height",
    "max_width_times_height",
)


class Entry(NamedTuple):
    """An image entry of one format, and its index in the participant's table (-1: combined)."""

    pixel_format: int
    modifier: int
    terms: Terms
    source: int = -1

    @property
    def pair(self) -> Pair:
        return (self.pixel_format, self.modifier)

    @property
    def wildcard(self) -> bool:
        """Whether the format or the modifier is DO_NOT_CARE."""
        return self.pixel_format == FORMAT_DO_NOT_CARE or self.modifier == MODIFIER_DO_NOT_CARE


def traits_of(pair: Pair) -> Traits | None:
    """Return the properties of a pair; None if a member is DO_NOT_CARE. Raises `ValueError` for an unsupported pair."""
    return traits(*pair) if is_specific(*pair) else None


def delivered_terms(entry: Entry) -> Terms:
    """Return the terms as participants get them: is_alpha_present is un-set if the format has no A or X channel."""
    if entry.terms.is_alpha_present is None or has_alpha_or_x(entry.pixel_format):
        return entry.terms
    return entry.terms._replace(is_alpha_present=None)


def _power_of_2(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def adjust(terms: Terms, of: Traits | None, page_size: int) -> Terms:
    """Return the terms after the checks and adjustments of one entry, in the order of the table in section 1.

    `of` is None if format or modifier is DO_NOT_CARE. In that case the checks that depend on the format come later.
    Raises `Breach` if a check fails.
    """
    t = terms
    # size_alignment: powers of 2. It is raised to the format's divisors below, after min_size was raised to the given
    # one.
    align_width, align_height = t.align_width, t.align_height
    if not (_power_of_2(align_width) and _power_of_2(align_height)):
        raise Breach(Rule.POWER_OF_2, "size_alignment", f"{align_width}×{align_height}")
    min_width, min_height = max(t.min_width, align_width), max(t.min_height, align_height)
    if of is not None:
        align_width, align_height = max(align_width, of.divisor), max(align_height, of.divisor)
    max_width, max_height = t.max_width, t.max_height
    min_row, max_row = t.min_bytes_per_row, t.max_bytes_per_row
    divisor = _row_divisor(t, of)
    start = max(t.start_offset_divisor, of.sample_alignment if of else 0)
    if not _power_of_2(start):
        raise Breach(Rule.POWER_OF_2, "start_offset_divisor", str(start))
    if start > page_size:
        raise Breach(Rule.START_OFFSET_PAGE, "start_offset_divisor", f"{start} > {page_size}")
    if not (_power_of_2(t.display_align_width) and _power_of_2(t.display_align_height)):
        detail = f"{t.display_align_width}×{t.display_align_height}"
        raise Breach(Rule.POWER_OF_2, "display_rect_alignment", detail)
    # min_bytes_per_row (again)
    min_row = max(min_row, divisor)
    if of is not None:
        least = minimum_row(
            of,
            min_width,
            min_width=min_width,
            max_width=max_width,
            align_width=align_width,
            min_bytes_per_row=min_row,
            divisor=divisor,
            max_bytes_per_row=max_row,
        )
        min_row = max(min_row, least or 0)
    # min_* rounded up, max_* rounded down
    min_width, min_height = round_up(min_width, align_width), round_up(min_height, align_height)
    min_row = round_up(min_row, divisor)
    if max_width != U32_MAX:
        max_width = round_down(max_width, align_width)
    if max_height != U32_MAX:
        max_height = round_down(max_height, align_height)
    if max_row != U32_MAX:
        max_row = round_down(max_row, divisor)
    _check_color_spaces(t, of)
    _check_required_sizes(t, min_width, min_height, max_width, max_height)
    divisor = _check_padding(t, of, divisor, max_width)
    # Finally, check that there is something between the limits.
    for axis, low, high, step in (
        ("width", min_width, max_width, align_width),
        ("height", min_height, max_height, align_height),
    ):
        if low > high:
            fields = (f"min_size.{axis}", f"size_alignment.{axis}", f"max_size.{axis}")
            # If they are farther apart, rounding did not cause the conflict.
            steps = f" in steps of {step}" if step > 1 and low - high < 2 * step else ""
            raise Breach(Rule.MIN_SIZE_OVER_MAX, fields, f"{low} > {high}{steps}")
    if min_row > max_row:
        raise Breach(Rule.MIN_ROW_OVER_MAX, _MIN_ROW_FIELDS, f"{min_row} > {max_row}")
    area = min_width * min_height
    if area > min(U32_MAX, t.max_width_times_height):
        limit = min(U32_MAX, t.max_width_times_height)
        detail = f"{min_width}×{min_height} > {limit}"
        raise Breach(Rule.MIN_AREA_OVER_MAX, _MIN_AREA_FIELDS, detail)
    return t._replace(
        min_width=min_width,
        min_height=min_height,
        max_width=max_width,
        max_height=max_height,
        min_bytes_per_row=min_row,
        max_bytes_per_row=max_row,
        align_width=align_width,
        align_height=align_height,
        bytes_per_row_divisor=divisor,
        start_offset_divisor=start,
    )


def _row_divisor(t: Terms, of: Traits | None) -> int:
    """Return bytes_per_row_divisor, combined with the divisors for samples and pixel boundaries, within 32 bits."""
    divisor = t.bytes_per_row_divisor
    if divisor == 0:
        raise Breach(Rule.DIVISOR_ZERO, "bytes_per_row_divisor", "0")
    if of is not None:
        divisor = math.lcm(divisor, of.sample_alignment)
        if t.at_pixel_boundary:
            divisor = math.lcm(divisor, of.stride_bytes)
    if divisor > U32_MAX:
        raise Breach(Rule.DIVISOR_OVER_32_BITS, DIVISOR_FIELDS, str(divisor))
    return divisor


def _check_color_spaces(t: Terms, of: Traits | None) -> None:
    """Check that the format supports each specific colour space, if both are specific."""
    if of is None or t.color_spaces is None or t.color_spaces <= of.color_spaces:
        return
    names = ", ".join(color_name(space) for space in sorted(t.color_spaces - of.color_spaces))
    raise Breach(Rule.COLOR_SPACE_UNSUPPORTED, "color_spaces", names)


def _check_required_sizes(
    t: Terms, min_width: int, min_height: int, max_width: int, max_height: int
) -> None:
    """Check required_min_size, required_max_size and its list against the limits."""
    for axis, required, low in (
        ("width", t.required_min_width, min_width),
        ("height", t.required_min_height, min_height),
    ):
        if required == 0:
            raise Breach(Rule.REQUIRED_SIZE_ZERO, f"required_min_size.{axis}", "0")
        if required < low:
            fields = (f"required_min_size.{axis}", f"min_size.{axis}", f"size_alignment.{axis}")
            raise Breach(Rule.REQUIRED_MIN_UNDER_MIN, fields, f"{required} < {low}")
    for axis, required, high in (
        ("width", t.required_max_width, max_width),
        ("height", t.required_max_height, max_height),
    ):
        if required > high:
            fields = (f"required_max_size.{axis}", f"size_alignment.{axis}", f"max_size.{axis}")
            raise Breach(Rule.REQUIRED_MAX_OVER_MAX, fields, f"{required} > {high}")
    for width, height in t.required_max_sizes:
        if width == 0 or height == 0:
            raise Breach(Rule.REQUIRED_SIZE_ZERO, "required_max_size_list", f"{width}×{height}")
        for axis, required, high in (("width", width, max_width), ("height", height, max_height)):
            if required > high:
                fields = ("required_max_size_list", f"size_alignment.{axis}", f"max_size.{axis}")
                breach = Breach(Rule.REQUIRED_MAX_OVER_MAX, fields, f"{required} > {high}")
                breach.image = RequiredImage(width, height, (width, height))
                raise breach


def _check_padding(t: Terms, of: Traits | None, divisor: int, max_width: int) -> int:
    """Check pad_for_block_size (`docs/spec/image-formats.md`, section 4.1). Return the row divisor for whole blocks."""
    width, height = t.pad_width, t.pad_height
    if not (_power_of_2(width) and _power_of_2(height)):
        raise Breach(Rule.POWER_OF_2, "pad_for_block_size", f"{width}×{height}")
    if width == 1 and height == 1:
        return divisor
    if of is None or not of.single_plane:
        raise Breach(Rule.PAD_FORMAT, "pad_for_block_size", f"{width}×{height}")
    if height > 1 and max_width == U32_MAX:
        raise Breach(Rule.PAD_NEEDS_MAX_WIDTH, ("pad_for_block_size.height", "max_size.width"))
    if width > 1:
        divisor = math.lcm(divisor, of.stride_bytes * width)
        if divisor > U32_MAX:
            raise Breach(Rule.DIVISOR_OVER_32_BITS, DIVISOR_FIELDS, str(divisor))
    return divisor
