"""Golden negotiations: the result of a negotiation and its reasons, as text to store next to a test."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ._negotiate import Negotiated

#: Client ids after names. They are usually pids.
_ID = re.compile(r" \(\d+\)")
#: Horizontal rules of tables. Their width depends on the ids.
_RULE = re.compile(r"-[-+]{3,}-")
_SPACES = re.compile(r"(?<=\S) {2,}")


def normalised(text: str) -> str:
    """Return a report without the parts that differ between runs: ids, and column widths that depend on ids."""
    lines = [
        _RULE.sub("---", _SPACES.sub(" ", _ID.sub("", line))).rstrip() for line in text.split("\n")
    ]
    return "\n".join(lines).rstrip() + "\n"


def negotiated(explained: dict[str, Any]) -> str:
    """Return the report of a collection's last allocation attempt, from an Inspector's response to Explain.

    Raises `AssertionError` if there was no attempt.
    """
    if not explained["attempts"]:
        raise AssertionError("this collection has not been negotiated yet")
    text: str = explained["attempts"][-1]["text"]
    return text


class Reporting(Protocol):
    """A daemon under test."""

    def last_report(self) -> str:
        """Return the report of the newest negotiation. Raises `AssertionError` if there was none."""


#: What `negotiate` returned, a daemon (for its newest negotiation), or a report.
Negotiation: TypeAlias = "Negotiated | Reporting | str"


class Golden:
    """Compares negotiations with text files in a directory."""

    def __init__(self, directory: Path, *, update: bool) -> None:
        """Compare with the texts, or with `update` write them."""
        self._directory = directory
        self._update = update

    def compare(self, name: str, negotiation: Negotiation) -> None:
        """Compare a negotiation with the stored text of this name.

        Raises `AssertionError` with a diff if they differ.
        """
        __tracebackhide__ = True
        if isinstance(negotiation, Negotiated):
            report = negotiation.explanation
        else:
            report = negotiation if isinstance(negotiation, str) else negotiation.last_report()
        path, text = self._directory / f"{name}.txt", normalised(report)
        if self._update:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            return
        if not path.exists():
            raise AssertionError(
                f"there is no {path} yet: run pytest with --sysmem-update\n\n{text}"
            )
        before = path.read_text()
        if before != text:
            changed = difflib.unified_diff(
                before.splitlines(), text.splitlines(), "stored", "now", lineterm="", n=0
            )
            told = "\n".join(changed)
            raise AssertionError(
                f"the result of {name} differs; if this is intended, run pytest with --sysmem-update\n\n{told}"
            )
