"""The reference page: it is complete, its links work, and the committed page is that of the declarations."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sysmem_protocol import reference, sysmem2
from sysmem_protocol.docstrings import attribute_docstrings
from sysmem_protocol.library import Interface
from sysmem_protocol.sysmem2 import Error, PixelFormatAndModifier, Rights

COMMITTED = Path(__file__).parents[2] / "docs" / "protocol.md"


@pytest.fixture(scope="module")
def page() -> str:
    return reference.page()


def anchors(page: str) -> list[str]:
    """Return the anchors of headings: lower case, hyphens for blanks, no other punctuation."""
    heads = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]


def test_the_committed_page_is_current(page: str) -> None:
    assert COMMITTED.read_text(encoding="utf-8") == page, (
        "run: python -m sysmem_protocol.reference > docs/protocol.md"
    )


def test_the_module_prints_the_page(page: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sysmem_protocol.reference"], capture_output=True, check=True
    )
    assert done.stdout.decode() == page
    assert done.stderr == b""


def test_every_link_leads_to_one_heading(page: str) -> None:
    there = anchors(page)
    assert len(there) == len(set(there))
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= set(there)


@pytest.mark.parametrize("interface", reference.INTERFACES)
def test_every_method_is_there_with_its_ordinal(page: str, interface: type[Interface]) -> None:
    for method in interface.methods.values():
        assert f"### {method}\n" in page
        assert f"`{method.ordinal:#018x}`" in page


def test_every_field_of_a_message_is_there(page: str) -> None:
    for interface in reference.INTERFACES:
        for method in interface.methods.values():
            for table in filter(None, (method.request, method.response)):
                for member in table.members:
                    assert f"| {member.field.number} | `{member.name}` |" in page


def test_every_number_with_a_name_is_there(page: str) -> None:
    for error in Error:
        assert f"| {error.name} | {error.value} |" in page
    for right in Rights:
        assert f"| {right.name} | `{right.value:#x}` |" in page
    for member in PixelFormatAndModifier.members:
        assert f"`{member.name}`" in page


@pytest.mark.parametrize("kind", [sysmem2.ImageFormatConstraints, sysmem2.SizeU, Rights])
def test_every_docstring_is_there(page: str, kind: type) -> None:
    for doc in attribute_docstrings(kind).values():
        assert f"| {' '.join(doc.split())} |" in page


@pytest.mark.parametrize(
    "example",
    [
        "0100000002008001545b57cf5525ac11",
        "00000000020080014d9c503f9af1686fa2016663616d6572610207",
        "0000000002008001c1490b1ff59fa111a101d97a5d00",
        "000000000200800187b87fee928fe773a2011a8000000002d97a5d00",
        "00000000020080017b1950d6190fde1fa101a401a1020a020207a1011a000100000881a3011868038106048219"
        "0100190100",
        "09000000020080014e40614b34002306a10206",
        "030000000200800125087e15008ea503a101a101f5",
    ],
)
def test_the_examples_are_there(page: str, example: str) -> None:
    assert f"`{example}`" in page


def test_rows_have_as_many_cells_as_their_heads(page: str) -> None:
    width = 0
    for line in page.splitlines():
        cells = line.count(" | ")
        if not line.startswith("|"):
            width = 0
        elif width:
            assert cells == width, line
        else:
            width = cells


def test_importing_the_package_imports_nothing_else() -> None:
    program = (
        "import sys; before = set(sys.modules); import sysmem_protocol; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == ["sysmem_protocol"]
