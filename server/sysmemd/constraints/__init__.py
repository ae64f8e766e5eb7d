"""The constraint engine: what participants need goes in, settings or a refusal comes out (`docs/spec/constraints.md`).

Pure functions: no clock, no I/O, no logging, and nothing that is given is modified. The modules follow the sections::

    usage                     the facts: usage bits (formats and image arithmetic are sysmem_protocol.formats, .sizes)
    flatten, entry, normalise 1  one participant: defaults, checks
    fold                      2  several participants as one
    finish                    3  required sizes
    checks                    4  the aggregate
    settings, heaps,          5  count, heap, domain, format, size
    cost, padding
    attached                     what exists already: pins, must_match_vmo, GetVmoInfo
    joining                      one attached attempt after another
    aggregate                    the order of steps
    rules, refusal               why not, as data

Why they come to that, for people, is worked out by :mod:`sysmemd.explaining`, which nothing here knows of.
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
