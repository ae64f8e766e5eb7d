"""Finds the values that a refusal or a setting depends on, and the participants that set them.

Only refusals and explanations use this, on demand.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from typing import Any

from sysmem_protocol.formats import pair_name, traits
from sysmem_protocol.sizes import U32_MAX, round_up
from sysmem_protocol.sysmem2 import SizeU

from ..constraints.entry import PAD_FIELDS, SIZE_FIELDS
from ..constraints.model import Case, Participant
from ..constraints.refusal import Refusal
from ..constraints.rules import RequiredImage
from ..constraints.settings import COUNT_FIELDS
from ..pause import giving_way
from .fields import (
    Brought,
    Pair,
    deciding,
    entries_of,
    exceeds,
    is_image_field,
    look_up,
    needs_of,
    values,
)

_ENLARGING = frozenset((*SIZE_FIELDS, *PAD_FIELDS, *COUNT_FIELDS))


def brought(refusal: Refusal) -> tuple[Brought, ...]:
    """Return the values that a refusal is about, with their participants: those that decide the combined values."""
    if refusal.participant is not None:
        return tuple(_own_values(refusal, refusal.participant))
    case, pair, image, fields = refusal.case, refusal.pair, refusal.image, refusal.fields
    if refusal.differences:
        return tuple(_who_differs(refusal))
    found: list[Brought] = []
    if image is not None and pair is not None:
        found += makers(case, pair, image, fields)
        # The values found so far cover the fields of an image, except the field that may also pad the buffer.
        told = {*SIZE_FIELDS} - ({*PAD_FIELDS} if {*PAD_FIELDS} <= {*fields} else set())
        fields = tuple(name for name in fields if name not in told)
    for name in fields:
        decisive = deciding(name, pair, case)
        found += [v for v in decisive if name not in _ENLARGING or enlarges(name, v.value)]
    if pair is not None and any(map(is_image_field, refusal.fields)):
        found = [*_who_chose(case, pair, found), *found]
    unique = {(id(value.participant), value.path): value for value in found}
    return tuple(value for value in unique.values() if not _is_idle(value, found))


def _who_chose(case: Case, pair: Pair, involved: Sequence[Brought]) -> Iterator[Brought]:
    """Yield the values that made the format specific, unless they are among those involved."""
    named = {id(value.participant) for value in involved}
    chosen = [
        (who, entry.source)
        for who, needs in needs_of(case)
        for entry in giving_way(needs.entries, 64)
        if entry.pair == pair
    ]
    if chosen and not any(id(who) in named for who, _ in chosen):
        who, source = chosen[0]
        yield Brought(who, f"$.image_format_constraints[{source}]", pair_name(pair))


def _who_differs(refusal: Refusal) -> Iterator[Brought]:
    """Yield the values that ask for more than the existing settings."""
    existing = refusal.case.existing
    assert existing is not None
    image = existing.settings.image_format_constraints
    for name in refusal.fields:
        here = look_up(image, name) if is_image_field(name) else None
        found = deciding(name, refusal.pair, refusal.case)
        yield from (value for value in found if exceeds(name, value.value, here))


def formats_of(case: Case, participants: Sequence[Participant]) -> tuple[Brought, ...]:
    """Return the formats that some of the participants offer."""
    offered = values("pixel_format", None, case)
    return tuple(
        value for value in offered if any(value.participant is who for who in participants)
    )


def _own_values(refusal: Refusal, who: Participant) -> Iterator[Brought]:
    """Yield what one participant sent for the fields; un-set fields only if none is set."""
    found = []
    for name in refusal.fields:
        if is_image_field(name) and refusal.entry is not None:
            value = look_up(entries_of(who)[refusal.entry], name)
            path = f"$.image_format_constraints[{refusal.entry}].{name}"
        else:
            value = look_up(who.constraints, name)
            path = f"$.{name}"
        found.append(Brought(who, path, value))
    given = [value for value in found if value.value is not None]
    yield from [value for value in given if not _is_idle(value, given)] or found[:1]


def enlarges(name: str, value: Any) -> bool:
    """Return whether a value of a size field (:data:`.entry.SIZE_FIELDS`), padding or count can add anything."""
    neutral = 1 if "align" in name or "divisor" in name or "block" in name else 0
    return bool(value) and value != neutral


def _is_idle(value: Brought, involved: Sequence[Brought]) -> bool:
    """Return whether the value is an alignment that all sizes involved have anyway."""
    table, _, axis = value.path.rpartition(".")
    if not table.endswith(".size_alignment"):
        return False
    lengths = [v.value for v in involved if v.path.endswith(f"_size.{axis}")]
    return bool(lengths) and not _rounds(lengths, value.value)


# --- images -------------------------------------------------------------------------------------------------------

AXES = ("width", "height")


def makers(
    case: Case, pair: Pair, image: RequiredImage, names: Container[str] = SIZE_FIELDS
) -> Iterator[Brought]:
    """Yield the values that determine a required image: its size, its rounding, and the length of its rows.

    Only values of the fields `names` are yielded.
    """
    bases: dict[str, int] = {}
    for axis, length in zip(AXES, image.required, strict=True):
        if f"size_alignment.{axis}" in names:
            name = f"min_size.{axis}"
            bases[axis] = max(length, _largest(name, pair, case) if name in names else 0)
    required = dict(zip(AXES, image.required, strict=True))
    decisive = [axis for axis, base in bases.items() if base and base == required[axis]]
    if decisive:
        yield from _who_requires(case, pair, image.required, decisive)
    for axis, base in bases.items():
        least = deciding(f"min_size.{axis}", pair, case)
        yield from (value for value in least if base and value.value == base)
    for axis, base in bases.items():
        aligned = deciding(f"size_alignment.{axis}", pair, case)
        yield from (value for value in aligned if _rounds([base], value.value))
    if "min_bytes_per_row" in names:
        yield from _who_lengthens(case, pair, image)


def _who_requires(
    case: Case, pair: Pair, required: tuple[int, int], axes: Sequence[str]
) -> Iterator[Brought]:
    """Yield the value that requires a size, or if no single one does, the values of its `axes`."""
    size = SizeU(*required)
    found = [value for value in values("required_max_size_list", pair, case) if size in value.value]
    found += [value for value in values("required_max_size", pair, case) if value.value == size]
    for axis in () if found else axes:
        found += deciding(f"required_max_size.{axis}", pair, case)
    yield from found


def _who_lengthens(case: Case, pair: Pair, image: RequiredImage) -> Iterator[Brought]:
    """Yield the values that make the row longer than its pixels."""
    of = traits(*pair)
    stride = of.stride_bytes
    base = stride * image.width
    least = _largest("min_bytes_per_row", pair, case)
    if least > base:
        yield from deciding("min_bytes_per_row", pair, case)
        base = least
    if image.bytes_per_row > base:
        steps = [
            (value, value.value * unit)
            for name, unit in (
                ("bytes_per_row_divisor", 1),
                ("require_bytes_per_row_at_pixel_boundary", stride),
                ("pad_for_block_size.width", stride),
            )
            for value in deciding(name, pair, case)
        ]
        yield from _who_rounds(base, of.sample_alignment, steps)


def _who_rounds(length: int, step: int, steps: Sequence[tuple[Brought, int]]) -> Iterator[Brought]:
    """Yield the steps that round a length that is a multiple of `step` anyway.

    A length that is a multiple of one step may no longer be one after other steps have rounded it.
    """
    while more := [(who, own) for who, own in steps if round_up(max(length, 1), step) % own]:
        yield from (who for who, _ in more)
        step = math.lcm(step, *(own for _, own in more))


def _largest(name: str, pair: Pair, case: Case) -> int:
    return max((value.value for value in deciding(name, pair, case)), default=0)


def _rounds(lengths: Sequence[int], to: int) -> bool:
    """Return whether one of the lengths, at least 1, is not a multiple. 0xFFFFFFFF, no limit, is ignored."""
    return any(max(length, 1) % to for length in lengths if length != U32_MAX)
