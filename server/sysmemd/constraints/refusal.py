"""Why there is no common ground, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from .model import Case, Participant
from .rules import Difference, RequiredImage, Rule, Stage


@dataclass(frozen=True, slots=True)
class Refusal:
    """An empty intersection: CONSTRAINTS_INTERSECTION_EMPTY and its reason, as data.

    :class:`sysmemd.explaining.Diagnosis` works out who brought what and who conflicts with whom.
    """

    stage: Stage
    rule: Rule
    #: The fields involved, as in the tables, without indices.
    fields: tuple[str, ...] = ()
    #: Format and modifier of the image entry that it is about.
    pair: tuple[int, int] | None = None
    #: The numbers that broke the rule.
    detail: str = ""
    #: The participant whose own constraints break a rule (section 1); None if it takes more than one.
    participant: Participant | None = None
    #: Index of that participant's image entry, as sent.
    entry: int | None = None
    #: The required image that is too big, or can't be.
    image: RequiredImage | None = None
    #: What an attached attempt would have had to change.
    differences: tuple[Difference, ...] = ()
    case: Case = field(kw_only=True, repr=False, compare=False)
