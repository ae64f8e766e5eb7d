"""Why constraints come to what they come to: for logs, for people and for the participants.

Pure functions above the constraint engine, which knows nothing of them::

    fields, involved        who brought which value, and whose values decide
    conflict                a smallest set of participants who can't agree
    survey                  what each field and each format comes to, also of what was refused
    words, report           values, and everything at once, as text
    diagnosis               all of that about a refusal
    explanation             the same about a success
    from_json               a case from a file, for `python -m sysmemd.explain`
"""

from __future__ import annotations

from sysmem_protocol.json_data import JsonError

from .conflict import MAX_AGGREGATIONS
from .diagnosis import Diagnosis
from .explanation import Because, Explanation, explain
from .fields import Brought
from .from_json import read_case
from .words import listing

__all__ = [
    "MAX_AGGREGATIONS",
    "Because",
    "Brought",
    "Diagnosis",
    "Explanation",
    "JsonError",
    "explain",
    "listing",
    "read_case",
]
