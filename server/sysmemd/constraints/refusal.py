"""The reason of a refusal, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from .model import Case, Participant
from .rules import Difference, RequiredImage, Rule, Stage


@dataclass(frozen=True, slots=True)
class Refusal:
    """An empty intersection: CONSTRAINTS_INTERSECTION_EMPTY and its reason, as data.

    :class:`sysmemd.explaining.Diagnosis` finds out which participant set which value, and which are in conflict.
    """

    stage: Stage
    rule: Rule
    #: The fields involved, as in the tables, without indices.
    fields: tuple[str, ...] = ()
    #: Format and modifier of the image entry concerned.
    pair: tuple[int, int] | None = None
    #: The numbers that violate the rule.
    detail: str = ""
    #: The participant whose own constraints violate a rule (section 1); None if several participants are needed.
    participant: Participant | None = None
    #: Index of that participant's image entry, as sent.
    entry: int | None = None
    #: The required image that is too large or impossible.
    image: RequiredImage | None = None
    #: The settings that an attached attempt would have to change.
    differences: tuple[Difference, ...] = ()
    case: Case = field(kw_only=True, repr=False, compare=False)
