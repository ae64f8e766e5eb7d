"""The constraint engine: it computes settings or a refusal from participants' constraints (`docs/spec/constraints.md`).

It consists of pure functions: no clock, no I/O, no logging, and arguments are not modified. The modules follow the
sections of the specification::

    usage                     the facts: usage bits (formats and image arithmetic are sysmem_protocol.formats, .sizes)
    flatten, entry, normalise 1  one participant: defaults, checks
    fold                      2  several participants as one
    finish                    3  required sizes
    checks                    4  the aggregate
    settings, heaps,          5  count, heap, domain, format, size
    cost, padding
    attached                     comparison with existing buffers: pins, must_match_vmo, GetVmoInfo
    joining                      one attached attempt after another
    aggregate                    the order of steps
    rules, refusal               reasons of refusals, as data

:mod:`sysmemd.explaining` explains the results to people. Nothing here depends on it.
"""

from __future__ import annotations

from .aggregate import aggregate
from .attached import aggregate_attached, check_constraints, must_match, settings_match
from .cost import FormatCost, merge_format_costs
from .joining import Joining
from .model import NO_HANDLES, Access, Allocation, HeapProperties, Participant, Platform
from .refusal import Refusal
from .rules import Difference, Rule, Stage
from .usage import UsageBits, usage_writes

__all__ = [
    "NO_HANDLES",
    "Access",
    "Allocation",
    "Difference",
    "FormatCost",
    "HeapProperties",
    "Joining",
    "Participant",
    "Platform",
    "Refusal",
    "Rule",
    "Stage",
    "UsageBits",
    "aggregate",
    "aggregate_attached",
    "check_constraints",
    "merge_format_costs",
    "must_match",
    "settings_match",
    "usage_writes",
]
