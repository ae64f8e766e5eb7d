"""The specification in `docs/spec/`: citations of it resolve, and it agrees with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "docs" / "spec"
PAGES = {path.name: path.read_text() for path in sorted(SPEC.glob("*.md"))}
#: A page in backquotes, with the numbers or headings of sections, if any.
CITATION = re.compile(
    r"`docs/spec/(?P<page>[a-z-]+\.md)`"
    r"(?:, sections? (?P<numbers>\d[\d.]*(?:(?:, | and | to )\d[\d.]*)*)"
    r'|, (?P<headings>"[^"]+"(?:, "[^"]+")*(?: and "[^"]+")?))?'
)


def sources() -> list[Path]:
    folders = ("benchmarks", "client", "examples", "packaging", "protocol", "server", "tests")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if path != Path(__file__))


def prose(path: Path) -> str:
    """The text of a source file, without the line breaks of docstrings and comments."""
    return re.sub(r"\s*\n\s*(?:#:? )?", " ", path.read_text())


def sections(text: str) -> set[str]:
    """Headings, numbers of sections, and N.M for the M-th item of the numbered list in section N."""
    found: set[str] = set()
    section = ""
    for line in text.splitlines():
        if heading := re.match(r"#+ (?:(\d[\d.]*?)\.? )?(.*)", line):
            number, title = heading.groups()
            found |= {title} | ({number} if number else set())
            section = number or ""
        elif section and (item := re.match(r"(\d+)\. ", line)):
            found.add(f"{section}.{item[1]}")
    return found


SECTIONS = {page: sections(text) for page, text in PAGES.items()}


def faults(text: str) -> list[str]:
    """Citations that don't resolve, and mentions of the specification that are spelled differently."""
    found = [
        text[mention.start() - 40 : mention.end() + 40]
        for mention in re.finditer(r"(?<!`docs/)\bspec/\w|`docs/spec/[a-z-]+\.md` \d", text)
    ]
    for citation in CITATION.finditer(text):
        cited = re.findall(r"\d+(?:\.\d+)?", citation["numbers"] or "")
        cited += re.findall(r'"([^"]+)"', citation["headings"] or "")
        # The preamble of constraints.md is its section 0.
        if citation["page"] not in PAGES or set(cited) - SECTIONS[citation["page"]] - {"0"}:
            found.append(citation[0])
    return found


def test_citations_in_the_code_resolve() -> None:
    texts = {str(path.relative_to(ROOT)): prose(path) for path in sources()}
    assert {path: found for path, text in texts.items() if (found := faults(text))} == {}
    assert sum(len(CITATION.findall(text)) for text in texts.values()) > 100


@pytest.mark.parametrize(
    "text",
    [
        "see spec/constraints.md, 2",
        "`docs/spec/constraints.md` 2",
        "`docs/spec/constraints.md`, section 7",
        "`docs/spec/constraints.md`, sections 5.1 and 5.99",
        '`docs/spec/allocation.md`, "Ready" and "Steady"',
        "`docs/spec/nothing.md`",
    ],
)
def test_a_citation_that_does_not_resolve_is_found(text: str) -> None:
    assert faults(text)
