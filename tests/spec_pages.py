"""The specification as the tests read it: pages, sections and the rows of their tables."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "docs" / "spec"
PAGES = {path.name: path.read_text() for path in sorted(SPEC.glob("*.md"))}


def section(page: str, heading: str) -> str:
    """Return the text below a heading, up to the next heading of any level."""
    parts = re.split(rf"^#+ {re.escape(heading)}$", PAGES[page], flags=re.MULTILINE)
    assert len(parts) == 2, f"{page} has not one heading {heading!r}"
    return re.split(r"^#+ ", parts[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(page: str, heading: str, columns: int = 2) -> list[list[str]]:
    """Return the first cells of each row of all tables in a section, without the heads."""
    found: list[list[str]] = []
    head = True
    for line in section(page, heading).splitlines():
        if not line.startswith("|"):
            head = True
        elif set(line) <= set("|- "):
            head = False
        elif not head:
            found.append([cell.strip() for cell in line.strip("|").split(" | ")][:columns])
    assert found, f"{page}, {heading!r} has no table"
    return found
