"""The fields of constraints by name: which participant set which value, and which values decide.

Only refusals, reports and explanations use this. Aggregation itself looks nothing up by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import and_, attrgetter, or_
from typing import Any, Generic, TypeVar

from sysmem_protocol.formats import FORMAT_DO_NOT_CARE, MODIFIER_DO_NOT_CARE, color_name, pair_name
from sysmem_protocol.library import Member
from sysmem_protocol.sysmem2 import BufferCollectionConstraints, BufferUsage, Heap, SizeU

from ..constraints.entry import Entry
from ..constraints.model import Case, Participant
from ..constraints.normalise import NEEDS, Needs, normalise
from ..constraints.rules import Breach
from ..constraints.terms import TERMS, Terms
from ..pause import giving_way
from .words import as_declared, show

Pair = tuple[int, int]
#: The maximum number of formats of one participant that are named.
MAX_PAIRS = 64


@dataclass(frozen=True, slots=True)
class Brought:
    """A value and the participant that set it. The path's index is that of the table as sent."""

    participant: Participant
    path: str
    value: Any

    def __str__(self) -> str:
        return f"{self.participant} {self.path} = {show(self.value)}"


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FieldOf(Generic[_T]):
    """The field's name, and what reads it from the engine's own terms."""

    name: str
    value: Callable[[_T], Any]


def _usage_field(member: Member) -> FieldOf[Needs]:
    name, type_ = member.name, member.field.type
    return FieldOf(f"usage.{name}", lambda needs: as_declared(type_, getattr(needs.usage, name)))


FIELDS: tuple[FieldOf[Needs], ...] = (
    *map(_usage_field, BufferUsage.members),
    *(
        FieldOf(field.combined.name, attrgetter(field.attribute))
        for field in NEEDS
        if field.combined.name not in ("", "usage")
    ),
    FieldOf(
        "buffer_memory_constraints.permitted_heaps",
        lambda n: None if n.heaps is None else [Heap(heap_type=t, id=i) for t, i in n.heaps],
    ),
)

#: Fields that are shown in other words than the engine's.
_SHOWN: dict[str, Callable[[Terms], Any]] = {
    "color_spaces": lambda t: (
        ["DO_NOT_CARE"]
        if t.color_spaces is None
        else [color_name(space) for space in sorted(t.color_spaces)]
    ),
    "required_max_size_list": lambda t: [SizeU(*size) for size in t.required_max_sizes],
}
IMAGE_FIELDS: tuple[FieldOf[Terms], ...] = tuple(
    FieldOf(name, _SHOWN.get(name, attrgetter(field.attribute)))
    for field in TERMS
    for name in (field.combined.name,)
)

#: Combines two values, and so tells whose values decide.
_COMBINE = {field.combined.name: field.combined.combine for field in (*NEEDS, *TERMS)}
_USAGE = {f"usage.{member.name}": member.field.type for member in BufferUsage.members}
_NEEDS = {field.name: field.value for field in FIELDS}
_COLLECTION_FIELDS = frozenset(m.name for m in BufferCollectionConstraints.members)


# --- values by name -----------------------------------------------------------------------------------------------


def is_image_field(name: str) -> bool:
    """Return whether the name is relative to an image entry."""
    return name.split(".")[0] not in _COLLECTION_FIELDS


def look_up(table: Any, name: str) -> Any:
    """Return the value of a field of a table as sent; None if the field, or a table around it, is un-set."""
    value = table
    for attribute, index in re.findall(r"([a-z_]+)(?:\[(\d+)\])?", name):
        if value is None:
            return None
        value = getattr(value, attribute)
        if index and value is not None:
            value = value[int(index)]
    return as_declared(_USAGE[name], value) if name in _USAGE and value is not None else value


def entries_of(participant: Participant) -> list[Any]:
    """Return the image entries as they were sent."""
    constraints = participant.constraints
    return [] if constraints is None else list(constraints.image_format_constraints or ())


def standing_for(pair: Pair) -> tuple[Pair, ...]:
    """Return the wildcard pairs that match this one, and the pair itself."""
    pixel_format, modifier = pair
    return (
        pair,
        (pixel_format, MODIFIER_DO_NOT_CARE),
        (FORMAT_DO_NOT_CARE, modifier),
        (FORMAT_DO_NOT_CARE, MODIFIER_DO_NOT_CARE),
    )


def entry_for(needs: Needs, pair: Pair) -> Entry | None:
    """Return the participant's entry for a format. There is at most one."""
    pairs = standing_for(pair)
    return next((entry for entry in giving_way(needs.entries, 256) if entry[:2] in pairs), None)


def needs_of(case: Case) -> list[tuple[Participant, Needs]]:
    """Return the needs of each participant whose own constraints break no rule."""
    found = []
    for who in giving_way(case.participants, 1):
        with suppress(Breach):
            needs = normalise(who, case.platform, settings_only=case.settings_only)
            found.append((who, needs))
    return found


def deciding(name: str, pair: Pair | None, case: Case) -> tuple[Brought, ...]:
    """Return the values of a field (of entries for a format) that decide the combined value."""
    return tuple(_deciding(name, list(values(name, pair, case))))


def values(name: str, pair: Pair | None, case: Case) -> Iterator[Brought]:
    """Yield what all participants sent for a field (of their entries for a format), if it is set.

    For formats, all formats of a participant are one value. Domains are included even if they are defaults. Both are
    yielded only for participants whose own constraints violate no rule.
    """
    if name == "pixel_format":
        for who, needs in giving_way(needs_of(case), 8):
            if needs.entries:
                pairs = [pair_name(entry.pair) for entry in needs.entries[:MAX_PAIRS]]
                if len(needs.entries) > MAX_PAIRS:
                    pairs.append(f"… {len(needs.entries) - MAX_PAIRS} more")
                yield Brought(who, "$.image_format_constraints", pairs)
    elif is_image_field(name):
        if pair is None:
            return
        for who, needs in giving_way(needs_of(case), 8):
            entry = entry_for(needs, pair)
            value = None if entry is None else look_up(entries_of(who)[entry.source], name)
            if entry is not None and value is not None:
                path = f"$.image_format_constraints[{entry.source}].{name}"
                yield Brought(who, path, value)
    elif _COMBINE.get(name) is and_:
        for who, needs in giving_way(needs_of(case), 8):
            yield Brought(who, f"$.{name}", _NEEDS[name](needs))
    else:
        for who in giving_way(case.participants):
            value = look_up(who.constraints, name)
            if value is not None:
                yield Brought(who, f"$.{name}", value)


def exceeds(name: str, value: Any, existing: Any) -> bool:
    """Return whether a value asks for more than the combined one, `existing`. None means that it is not known."""
    if existing is None:
        return True
    combine = _COMBINE.get(name)
    if combine is max or combine is min:
        return bool(combine(value, existing) != existing)
    if isinstance(value, list):
        return any(element not in existing for element in value)
    if isinstance(value, bool):
        return value is not existing
    # The combined value is a multiple of each.
    return bool(existing % value)


def _deciding(name: str, found: list[Brought]) -> list[Brought]:
    """Return those of the values that decide the combined value."""
    combine = _COMBINE.get(name)
    if combine is max or combine is min:
        most = combine((value.value for value in found), default=0)
        return [value for value in found if value.value == most]
    if combine is or_:
        return [value for value in found if value.value]
    if combine is and_:
        return [value for value in found if not value.value]
    # Leave out zeros of numbers, because they add nothing.
    return [value for value in found if value.value or value.value is False]
