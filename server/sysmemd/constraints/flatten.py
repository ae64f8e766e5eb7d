"""Flatten image entries to one entry per format, and find duplicates (`docs/spec/constraints.md`, section 1).

A message has room for 64 entries with 64 pairs each, so everything here is linear in the number of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sysmem_protocol.formats import (
    FORMAT_DO_NOT_CARE,
    LINEAR,
    MODIFIER_DO_NOT_CARE,
    PIXELS,
    is_specific,
    is_supported,
    layout,
    pair_name,
)
from sysmem_protocol.images2 import PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import ImageFormatConstraints

from ..pause import giving_way
from .rules import Breach, Rule

FORMAT_INVALID = int(PixelFormat.INVALID)
MODIFIER_INVALID = int(PixelFormatModifier.INVALID)


class Flat(NamedTuple):
    """A format, the index of its image entry, and the index of its pair in that; -1: the entry's own pixel_format."""

    pixel_format: int
    modifier: int
    source: int
    position: int = -1

    @property
    def field(self) -> str:
        """The path of the field that has the format."""
        return (
            "pixel_format" if self.position < 0 else f"pixel_format_and_modifiers[{self.position}]"
        )


def flatten(entries: Sequence[ImageFormatConstraints], *, uses: bool) -> list[Flat]:
    """Return every format of every entry after checks. `uses`: the participant has usage other than none."""
    flat: list[Flat] = []
    for source, entry in enumerate(entries):
        pairs = entry.pixel_format_and_modifiers or ()
        try:
            if entry.pixel_format is not None:
                modifier = _default_modifier(entry, uses=uses)
                flat.append(_checked(Flat(int(entry.pixel_format), modifier, source)))
            elif entry.pixel_format_modifier is not None:
                raise Breach(Rule.MODIFIER_WITHOUT_FORMAT, "pixel_format_modifier")
            elif not pairs:
                raise Breach(Rule.FORMAT_MISSING, "pixel_format")
            for position, pair in giving_way(enumerate(pairs)):
                modifier = int(pair.pixel_format_modifier)
                flat.append(_checked(Flat(int(pair.pixel_format), modifier, source, position)))
        except Breach as breach:
            breach.entry = source
            raise
    _check_distinct(flat)
    return flat


def _default_modifier(entry: ImageFormatConstraints, *, uses: bool) -> int:
    """Return the default modifier: open for an open format or a participant without usage, otherwise LINEAR."""
    if entry.pixel_format_modifier is not None:
        return int(entry.pixel_format_modifier)
    if entry.pixel_format == FORMAT_DO_NOT_CARE or not uses:
        return MODIFIER_DO_NOT_CARE
    return LINEAR


def _checked(flat: Flat) -> Flat:
    """Check that format and modifier are not INVALID, and that a specific format is supported with its modifier."""
    pixel_format, modifier = flat[:2]
    if pixel_format == FORMAT_INVALID or modifier == MODIFIER_INVALID:
        raise Breach(Rule.FORMAT_INVALID, flat.field, pair_name((pixel_format, modifier)))
    if is_specific(pixel_format, modifier) and not is_supported(pixel_format, modifier):
        raise Breach(Rule.FORMAT_UNSUPPORTED, flat.field, pair_name((pixel_format, modifier)))
    return flat


def combine_pairs(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int] | None:
    """Return the combination of two pairs, or None if they cannot be combined."""
    pixel_format = b[0] if a[0] == FORMAT_DO_NOT_CARE else a[0]
    modifier = b[1] if a[1] == MODIFIER_DO_NOT_CARE else a[1]
    if b[0] not in (pixel_format, FORMAT_DO_NOT_CARE) or b[1] not in (
        modifier,
        MODIFIER_DO_NOT_CARE,
    ):
        return None
    if is_specific(pixel_format, modifier) and not is_supported(pixel_format, modifier):
        return None
    return (pixel_format, modifier)


def _check_distinct(flat: list[Flat]) -> None:
    """Check that no two entries of one participant are equal in (format, modifier) or can be combined.

    Instead of comparing all pairs of entries, look up the possible partners of each: formats and modifiers that take
    part in a supported pair are few.
    """
    seen: dict[tuple[int, int], Flat] = {}
    for item in giving_way(flat, 64):
        _refuse_twin(item, seen.setdefault((item.pixel_format, item.modifier), item))
    if len(flat) < 2:
        return
    everything = seen.get((FORMAT_DO_NOT_CARE, MODIFIER_DO_NOT_CARE))
    if everything is not None:
        _refuse_twin(everything, next(item for item in flat if item is not everything))
    any_modifier = {
        f.pixel_format: f for f in giving_way(flat, 256) if f.modifier == MODIFIER_DO_NOT_CARE
    }
    any_format = {
        f.modifier: f for f in giving_way(flat, 256) if f.pixel_format == FORMAT_DO_NOT_CARE
    }
    if not any_modifier and not any_format:
        return
    for item in giving_way(flat, 64):
        if is_specific(item.pixel_format, item.modifier):
            _refuse_twin(item, any_modifier.get(item.pixel_format, item))
            _refuse_twin(item, any_format.get(item.modifier, item))
    open_formats = [item for number, item in any_modifier.items() if number in PIXELS]
    open_modifiers = [item for number, item in any_format.items() if layout(number) is not None]
    for item in giving_way(open_formats):
        for other in open_modifiers:
            if is_supported(item.pixel_format, other.modifier):
                _refuse_twin(item, other)


def _refuse_twin(a: Flat, b: Flat) -> None:
    if a is b:
        return
    detail = f"{pair_name(a[:2])} of entry {a.source}, {pair_name(b[:2])} of entry {b.source}"
    later = max(a, b, key=lambda flat: (flat.source, flat.position))
    breach = Breach(Rule.FORMAT_DUPLICATE, later.field, detail)
    breach.entry = later.source
    raise breach
