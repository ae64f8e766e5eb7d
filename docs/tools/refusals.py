"""The page about refusals: each rule with its meaning, an example, the daemon's answer, and advice.

The page is written by hand, except for the answers: the engine's answer follows each example.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from sysmemd.cases import read_case
from sysmemd.constraints import Rule
from sysmemd.explaining import Diagnosis
from sysmemd.negotiation import Negotiation

PAGE = Path(__file__).parents[1] / "refusals.md"

#: A section: the rule's text, the example in the form that `sysmemctl explain` reads, the answer, and the rule's name.
_SECTION = re.compile(
    r"^### (?P<text>[^\n]+)\n(?:(?!^###? ).)*?"
    r"^```json\n(?P<case>.*?)^```\n\n"
    r"^```text\n(?P<answer>.*?)^```\n(?:(?!^###? ).)*?"
    r"^`(?P<name>[A-Z0-9_]+)`$",
    re.MULTILINE | re.DOTALL,
)


class Section(NamedTuple):
    """The page's section about one rule."""

    rule: Rule
    #: The heading, which is the rule's text.
    text: str
    #: The participants of the example and, where it matters, the daemon's settings and heaps.
    case: dict[str, Any]


def sections() -> list[Section]:
    """Return the page's sections, in order."""
    return [
        Section(Rule[found["name"]], found["text"], json.loads(found["case"]))
        for found in _SECTION.finditer(PAGE.read_text())
    ]


def refusal(case: dict[str, Any]) -> Diagnosis:
    """Return the engine's refusal of an example."""
    members, platform = read_case(case)
    attempt = Negotiation(members, platform).attempt
    assert attempt.refused, "the participants agree"
    refused = attempt.refused[0].refusal
    assert isinstance(refused, Diagnosis)
    return refused


def page() -> str:
    """Return the page with the engine's answer below each example."""

    def answered(found: re.Match[str]) -> str:
        start, end = (place - found.start() for place in found.span("answer"))
        answer = refusal(json.loads(found["case"])).line()
        return f"{found[0][:start]}{answer}\n{found[0][end:]}"

    return _SECTION.sub(answered, PAGE.read_text())
