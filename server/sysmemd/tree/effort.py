"""How much work an attempt is, at most: an estimate in microseconds of a small machine that costs next to nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Final

from sysmem_protocol.sysmem2 import ImageFormatConstraints

from ..constraints import Participant
from ..explaining import MAX_AGGREGATIONS

#: What an aggregation takes whoever takes part, and what each participant and each image entry adds, as measured. What
#: they list (sizes, heaps, color spaces) takes less than one each.
_AGGREGATION: Final = 100
_PARTICIPANT: Final = 6
_ENTRY: Final = 6
#: How much longer a report takes than an aggregation, as measured.
_REPORT: Final = 30


def effort(participants: Iterable[Participant]) -> int:
    """What participants add to one aggregation."""
    return sum(map(_participant, participants))


def attempt_cost(effort: int, count: int, selections: int) -> int:
    """What an attempt with `count` participants takes if all goes badly.

    Each selection is aggregated in vain; then the search for the smallest conflicting set of the first one leaves out
    part after part, which are few where the participants are few.
    """
    return (_AGGREGATION + effort) * (selections + min(MAX_AGGREGATIONS, count * count))


def report_cost(effort: int) -> int:
    """What telling adds, with a table of what everybody said and what came of it."""
    return _REPORT * effort


def _participant(participant: Participant) -> int:
    constraints = participant.constraints
    if constraints is None:
        return _PARTICIPANT
    memory = constraints.buffer_memory_constraints
    heaps = 0 if memory is None else _length(memory.permitted_heaps)
    return _PARTICIPANT + heaps + sum(map(_entry, constraints.image_format_constraints or ()))


def _entry(entry: ImageFormatConstraints) -> int:
    """An image entry stands for one of each of its formats, which all have the lists."""
    lists = _length(entry.required_max_size_list) + _length(entry.color_spaces)
    return (1 + _length(entry.pixel_format_and_modifiers)) * (_ENTRY + lists)


def _length(values: Sized | None) -> int:
    return 0 if values is None else len(values)
