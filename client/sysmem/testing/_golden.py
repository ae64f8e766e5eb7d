"""Golden negotiations: what came out, and who decided it, as a text to keep next to a test."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from ._negotiate import Negotiated

#: Client ids, which are pids mostly, behind a name.
_ID = re.compile(r" \(\d+\)")
#: Rules of tables, whose width depends on the ids.
_RULE = re.compile(r"-[-+]{3,}-")
_SPACES = re.compile(r"(?<=\S) {2,}")


def normalised(text: str) -> str:
    """Return a report without what differs from run to run: ids, and widths of columns that come from them."""
    lines = [
        _RULE.sub("---", _SPACES.sub(" ", _ID.sub("", line))).rstrip() for line in text.split("\n")
    ]
    return "\n".join(lines).rstrip() + "\n"


def negotiated(explained: dict[str, Any]) -> str:
    """Return the report of a collection's last attempt, of what an Inspector answers to Explain.

    Raises `AssertionError` if there was none.
    """
    if not explained["attempts"]:
        raise AssertionError("this collection has not been negotiated yet")
    text: str = explained["attempts"][-1]["text"]
    return text


class Golden:
    """Compares negotiations with texts in a directory."""

    def __init__(self, directory: Path, *, update: bool) -> None:
        """With `update` the texts are written instead."""
        self._directory = directory
        self._update = update

    def compare(self, name: str, negotiation: Negotiated | str) -> None:
        """Compare a negotiation, or its report, with the stored text of this name.

        Raises `AssertionError` with the difference.
        """
        __tracebackhide__ = True
        report = negotiation.explanation if isinstance(negotiation, Negotiated) else negotiation
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
                f"{name} is negotiated differently; if that is right, run pytest with --sysmem-update\n\n{told}"
            )
