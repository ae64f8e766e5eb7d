"""Comparison with existing buffers: attached attempts, must_match_vmo and GetVmoInfo.

See `docs/spec/allocation.md`, "Attached attempt", and `docs/spec/protocol.md`, "Allocator".

A *pin* is a synthetic participant that requires exactly the existing settings. Delivered settings have already been
adjusted, so a pin's are used unchanged: a pin alone always results in its own settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sysmem_protocol.library import Table
from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    BufferUsage,
    CoherencyDomain,
    NoneUsage,
    SingleBufferSettings,
    SizeU,
)

from .aggregate import refuse, run
from .model import Allocation, Case, Participant, Platform
from .refusal import Refusal
from .rules import Breach, Difference, Rule, Stage

#: The name of an attached attempt's pin in refusals and reports.
EXISTING = "the existing buffers"


def must_match(settings: SingleBufferSettings, name: str = "", id: int = 0) -> Participant:
    """Return the synthetic participant of a must_match_vmo. It pins that VMO's settings, but not its buffer count.

    `settings` are delivered ones. `name` and `id` identify the client that set the must_match_vmo.
    """
    memory = settings.buffer_settings
    image = settings.image_format_constraints
    domain = memory.coherency_domain
    constraints = BufferCollectionConstraints(
        usage=BufferUsage(none=NoneUsage.NONE_USAGE),
        buffer_memory_constraints=BufferMemoryConstraints(
            min_size_bytes=memory.size_bytes,
            max_size_bytes=memory.size_bytes,
            physically_contiguous_required=memory.is_physically_contiguous,
            secure_required=memory.is_secure,
            cpu_domain_supported=domain == CoherencyDomain.CPU,
            ram_domain_supported=domain == CoherencyDomain.RAM,
            inaccessible_domain_supported=domain == CoherencyDomain.INACCESSIBLE,
            permitted_heaps=[memory.heap],
        ),
        image_format_constraints=None if image is None else [image],
    )
    return Participant(constraints, name, id, pinned=True)


def pin(existing: Allocation) -> Participant:
    """Return the synthetic participant of an attached attempt. It pins settings and buffer count."""
    pinned = must_match(existing.settings, EXISTING)
    assert pinned.constraints is not None
    constraints = replace(
        pinned.constraints,
        min_buffer_count=existing.buffer_count,
        max_buffer_count=existing.buffer_count,
    )
    return Participant(constraints, EXISTING, pinned=True)


def aggregate_attached(
    participants: Sequence[Participant], existing: Allocation, platform: Platform
) -> Allocation | Refusal:
    """Aggregate the participants allocated so far and the new ones, and compare the result with the existing one.

    The pin is added here, after the participants. On success, the result has the existing settings and count. A refusal
    contains the settings that would have to change.
    """
    case = Case((*participants, pin(existing)), platform, existing=existing)
    return run_attached(case)


def run_attached(case: Case, *, tolerate_absence: bool = False) -> Allocation | Refusal:
    """Aggregate a case with existing settings, and require an equal result."""
    assert case.existing is not None
    result = run(case, tolerate_absence=tolerate_absence)
    if isinstance(result, Refusal):
        return result
    differences = tuple(_differences(case.existing.settings, result.settings))
    # The count cannot differ, because the pin's minimum and maximum are the existing count.
    if not differences:
        return result
    fields = dict.fromkeys(name for each in differences for name in _asking_for(each))
    breach = Breach(Rule.SETTINGS_DIFFER, tuple(fields))
    breach.differences = differences
    image = case.existing.settings.image_format_constraints
    if image is not None:
        breach.pair = (int(image.pixel_format), int(image.pixel_format_modifier))
    return refuse(case, Stage.ATTACHED, breach)


_SIZES = {"$.buffer_settings.size_bytes", "$.buffer_settings.raw_vmo_size"}
_IMAGE = "image_format_constraints"
_MEMORY = "buffer_memory_constraints"
_ASKING = {
    "is_physically_contiguous": (f"{_MEMORY}.physically_contiguous_required",),
    "is_secure": (f"{_MEMORY}.secure_required",),
    _IMAGE: ("pixel_format",),
}


def _asking_for(difference: Difference) -> Iterator[str]:
    """Yield the fields of constraints that a setting depends on; none if it only depends on other settings."""
    parent, _, name = difference.path.rpartition(".")
    if not parent.endswith(_IMAGE):
        yield from _ASKING.get(name, ())
    elif isinstance(difference.existing, SizeU):
        for axis in ("width", "height"):
            if getattr(difference.existing, axis) != getattr(difference.wanted, axis):
                yield f"{name}.{axis}"
    else:
        yield name


def check_constraints(
    constraints: BufferCollectionConstraints | None,
    settings: SingleBufferSettings,
    platform: Platform,
) -> Refusal | None:
    """Check constraints for GetVmoInfo.constraints_to_check. Return None if they result in these settings again.

    Buffer counts are ignored, and so is whether any participant uses the buffers.
    """
    participants = (
        Participant(constraints, "constraints_to_check"),
        must_match(settings, EXISTING),
    )
    case = Case(participants, platform, settings_only=True, existing=Allocation(settings, 1))
    result = run_attached(case)
    return result if isinstance(result, Refusal) else None


def settings_match(a: SingleBufferSettings, b: SingleBufferSettings, *, ignore_size: bool) -> bool:
    """Return whether two collections' settings are equal, for GetVmoInfo.vmo_settings_to_check.

    With `ignore_size`, size_bytes and raw_vmo_size are ignored.
    """
    differing = {difference.path for difference in _differences(a, b)}
    return not differing - (_SIZES if ignore_size else set())


def _differences(existing: Table, wanted: Table, path: str = "$") -> Iterator[Difference]:
    """Yield the fields in which two tables differ. required_max_size_list is compared as a set."""
    for member in existing.members:
        a: Any = getattr(existing, member.name)
        b: Any = getattr(wanted, member.name)
        here = f"{path}.{member.name}"
        if isinstance(a, Table) and isinstance(b, Table):
            yield from _differences(a, b, here)
        elif member.name == "required_max_size_list":
            if {(s.width, s.height) for s in a or ()} != {(s.width, s.height) for s in b or ()}:
                yield Difference(here, a, b)
        elif a != b:
            yield Difference(here, a, b)
