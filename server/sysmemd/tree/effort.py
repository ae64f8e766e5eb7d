"""An estimate of the time that an aggregation takes, in microseconds of a small machine."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Final

from sysmem_protocol.sysmem2 import ImageFormatConstraints

from ..constraints import Participant

#: The measured time for each participant and each image entry. Each element of their lists (sizes, heaps, colour
#: spaces) takes less than one microsecond.
_PARTICIPANT: Final = 6
_ENTRY: Final = 6


def effort(participants: Iterable[Participant]) -> int:
    """Return the time that participants add to one aggregation."""
    return sum(map(_participant, participants))


def _participant(participant: Participant) -> int:
    constraints = participant.constraints
    if constraints is None:
        return _PARTICIPANT
    memory = constraints.buffer_memory_constraints
    heaps = 0 if memory is None else _length(memory.permitted_heaps)
    return _PARTICIPANT + heaps + sum(map(_entry, constraints.image_format_constraints or ()))


def _entry(entry: ImageFormatConstraints) -> int:
    """Return the estimate for an image entry. It is expanded to one entry per format, each with the same lists."""
    lists = _length(entry.required_max_size_list) + _length(entry.color_spaces)
    return (1 + _length(entry.pixel_format_and_modifiers)) * (_ENTRY + lists)


def _length(values: Sized | None) -> int:
    return 0 if values is None else len(values)
