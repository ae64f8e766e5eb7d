"""Explanations of the engine's results, for logs, people and participants.

It consists of pure functions above the constraint engine, which does not depend on them::

    fields, involved        which participant set which value, and whose values decide
    conflict                a smallest set of participants that do not agree
    survey                  the result for each field and each format, also after a refusal
    words, report           values, and complete reports, as text
    diagnosis               the explanation of a refusal
    explanation             the explanation of a success
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
