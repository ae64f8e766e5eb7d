"""Why constraints come to what they come to: for logs, for people and for the participants.

Pure functions above the constraint engine, which knows nothing of them::

    fields, involved        who brought which value, and whose values decide
    conflict                a smallest set of participants who can't agree
    survey                  what each field and each format comes to, also of what was refused
    words, report           values, and everything at once, as text
    diagnosis               all of that about a refusal
    explanation             the same about a success
"""

from __future__ import annotations

from .conflict import MAX_AGGREGATIONS
from .diagnosis import Diagnosis
from .explanation import Because, Explanation, explain
from .fields import Brought
from .words import listing

__all__ = [
    "MAX_AGGREGATIONS",
    "Because",
    "Brought",
    "Diagnosis",
    "Explanation",
    "explain",
    "listing",
]
