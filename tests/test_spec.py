"""The specification in `docs/spec/`: citations of it can be resolved, and it agrees with the code."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

import sysmem
from sysmem import blocking, testing
from sysmem._inspector import Inspector
from sysmem.pytest_plugin import Daemon
from sysmem.sysmemctl._commands import COMMANDS
from sysmem.testing._sysmemd import DaemonFaults
from sysmem_protocol.images2 import PixelFormat
from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    BufferUsage,
    ImageFormatConstraints,
)
from sysmemd.config import Config, parse

from .spec_pages import PAGES, ROOT, rows, section

#: A page in backquotes, with the numbers or headings of sections, if any.
CITATION = re.compile(
    r"`docs/spec/(?P<page>[a-z-]+\.md)`"
    r"(?:, sections? (?P<numbers>\d[\d.]*(?:(?:, | and | to )\d[\d.]*)*)"
    r'|, (?P<headings>"[^"]+"(?:, "[^"]+")*(?: and "[^"]+")?))?'
)
NAMES = "|".join(name.removesuffix(".md") for name in PAGES if name != "README.md")
MISSPELT = re.compile(
    rf"(?<!`docs/)\bspec/\w|`docs/spec/[a-z-]+\.md` \d|(?<![/`\w-])({NAMES})\.md[:,;. ]"
)


def sources() -> list[Path]:
    folders = ("benchmarks", "client", "examples", "packaging", "protocol", "server", "tests")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if path != Path(__file__))


def prose(path: Path) -> str:
    """Return the text of a source file, without the line breaks of docstrings and comments."""
    return re.sub(r"\s*\n\s*(?:#:? )?", " ", path.read_text())


def sections(text: str) -> set[str]:
    """Return headings, numbers of sections, and N.M for the M-th item of the numbered list in section N."""
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
    """Yield citations that can't be resolved, and unusual spellings of mentions of the specification."""
    found = [text[m.start() - 40 : m.end() + 40] for m in MISSPELT.finditer(text)]
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
        "protocol.md, Node",
        "`docs/spec/constraints.md` 2",
        "`docs/spec/constraints.md`, section 7",
        "`docs/spec/constraints.md`, sections 5.1 and 5.99",
        '`docs/spec/allocation.md`, "Ready" and "Steady"',
        "`docs/spec/nothing.md`",
    ],
)
def test_a_citation_that_does_not_resolve_is_found(text: str) -> None:
    assert faults(text)


# --- tables of the specification against the code -----------------------------------------------------------------


def keys(page: str, heading: str) -> dict[str, set[str]]:
    """Return the keys of JSON objects, by the page's name of the object."""
    return {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows(page, heading)}


FORMAT = {"pixel_format", "pixel_format_modifier", "pixel_format_and_modifiers"}


@pytest.mark.parametrize(
    ("heading", "elsewhere"),
    [
        (
            "1. Per participant",
            {*FORMAT, "image_format_constraints", "require_bytes_per_row_at_pixel_boundary"},
        ),
        ("2. Fold", FORMAT),
    ],
)
def test_every_field_of_constraints_is_in_the_tables(heading: str, elsewhere: set[str]) -> None:
    """The exceptions are the fields that the text around the tables explains."""
    tables = (BufferCollectionConstraints, BufferMemoryConstraints, ImageFormatConstraints)
    fields = {member.name for table in tables for member in table.members} - elsewhere
    listed = " ".join(cell for cell, _ in rows("constraints.md", heading))
    told = set(re.findall(r"[a-z_]+", listed)) - {"usage"} - {m.name for m in BufferUsage.members}
    assert told - {"again"} == fields - {"usage", "buffer_memory_constraints"}


def objects(data: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the objects in a snapshot or an explanation, by their names on the page."""
    return {
        f"each of `{name}`": value for name, value in data.items() if isinstance(value, list)
    } | {f"`{name}`": [value] for name, value in data.items() if isinstance(value, dict)}


def test_the_keys_of_a_snapshot(sysmemd: Daemon, allocator: blocking.Allocator) -> None:
    with allocator.allocate_non_shared_collection() as lost:
        lost.sync()
    collection = allocator.allocate_non_shared_collection()
    collection.set_constraints(sysmem.constraints("NV12 64x48", cpu="read", hold=1))
    with collection.wait_for_all_buffers_allocated():
        snapshot = sysmemd.snapshot()
    collection.release()
    told = keys("inspect.md", "Snapshot")
    found = {"the snapshot": [snapshot], **objects(snapshot)}
    found["`daemon.descriptors`"] = [snapshot["daemon"]["descriptors"]]
    found["each of its `buffers`"] = snapshot["collections"][0]["buffers"]
    found["each of its `nodes`"] = snapshot["collections"][0]["nodes"]
    assert found.keys() == told.keys()
    for name, values in found.items():
        assert values
        for value in values:
            assert value.keys() == told[name], name


def test_the_keys_of_an_explanation(sysmemd: Daemon, allocator: blocking.Allocator) -> None:
    refused = allocator.allocate_non_shared_collection()
    refused.set_constraints(sysmem.constraints("NV12 64x48", cpu="read", hold=0))
    assert refused.wait_closed(timeout=20)
    refused.close()
    token = allocator.allocate_shared_collection()
    [waiting] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
    agreed = allocator.bind_shared_collection(token)
    waiting.release()
    agreed.set_constraints(sysmem.constraints("NV12 64x48", cpu="read", hold=1))
    agreed.wait_for_all_buffers_allocated().close()
    late = agreed.attach_token()
    late.sync()
    with Inspector.connect(sysmemd.runtime_dir) as inspector:
        [ended] = inspector.snapshot()["ended"]
        failure = inspector.explain(ended["id"])
        success = inspector.explain(agreed.get_buffer_collection_id())
    late.close()
    agreed.release()
    refusal = failure["attempts"][0]["selections"][0]["refusal"]
    [selection] = success["attempts"][0]["selections"]
    found = {
        "the explanation": [failure, success],
        "each of `attempts`": failure["attempts"] + success["attempts"],
        "each of its `selections`": [selection],
        "a `refusal`": [refusal],
        "each of its `values`": refusal["values"],
        "an `explanation`": [selection["explanation"]],
        "each of `waiting_for`": success["waiting_for"],
    }
    told = keys("inspect.md", "Explain")
    assert found.keys() == told.keys()
    for name, values in found.items():
        for value in values:
            assert (
                value.keys() <= told[name]
                if name == "an `explanation`"
                else value.keys() == told[name]
            )


def test_the_defaults_of_settings() -> None:
    for page, heading in (("robustness.md", "Who pays"), ("linux.md", "Settings")):
        blocks = re.findall(
            r"^```toml\n(.*?)^```$", section(page, heading), re.MULTILINE | re.DOTALL
        )
        defaults, other = blocks
        parse(other)
        told = tomllib.loads(defaults)
        default = msgspec.to_builtins(Config())
        assert {name: {key: default[name][key] for key in told[name]} for name in told} == told
    assert Config().quota.bytes is None
    assert Config().limits.max_allocation_bytes is None


def test_the_names_of_formats_elsewhere() -> None:
    for name, *names in rows("pictures-and-devices.md", "Names of formats", 5):
        if "," in name:
            continue  # L8 and R8 share a row, which a sentence explains
        pixel_format = PixelFormat[name]
        fourccs = (pixel_format.drm_fourcc, pixel_format.v4l2_fourcc)
        found = [code and code.to_bytes(4, "little").decode().strip() for code in fourccs]
        found += [pixel_format.gst_format, pixel_format.ffmpeg_name]
        assert [name or "–" for name in found] == names


def test_every_command_is_there() -> None:
    told = {re.split(r"[` ]", cell)[1] for cell, _ in rows("inspect.md", "sysmemctl")}
    assert {command.name for command in COMMANDS} <= told


def test_the_names_of_the_client() -> None:
    for name, cell in rows("client-api.md", "The Python client"):
        faces: dict[str, list[Any]] = {
            "module": [sysmem, blocking],
            "every node": [sysmem.Node, blocking.Node],
        }
        classes = faces.get(name) or [
            getattr(face, name) for face in (sysmem, blocking) if hasattr(face, name)
        ]
        calls = re.findall(r"`(\w+)\(([^`]*)\)`", cell)
        assert classes
        assert calls or "attributes" in cell
        for call, parameters in calls:
            told = re.findall(r"(\w+)(?:=\w+)?(?:, |$)", parameters)
            for each in classes:
                known = [
                    p for p in inspect.signature(getattr(each, call)).parameters if p != "self"
                ]
                assert known in (told, [*told, "timeout"]), f"{name}.{call}"


@pytest.mark.parametrize("folder", ["docs/spec", "docs/api"])
def test_every_public_name_of_the_client_is_on_a_page(folder: str) -> None:
    text = "".join(page.read_text() for page in (ROOT / folder).glob("*.md"))
    names = {*sysmem.__all__, *blocking.__all__}
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


def test_the_names_of_the_kit() -> None:
    text = section("testing.md", "Fixtures")
    behaviours = re.findall(
        r"`(\w+)(?:\(\w+\))?`", text[text.index("Behaviours") :].split("A peer has")[0]
    )
    behaviours = [name for name in behaviours if name not in testing.STEPS]
    assert len(behaviours) > 10
    for name in behaviours:
        assert hasattr(testing, name), name
    faults = re.findall(r"`\.(\w+)\(", section("testing.md", "Faults of the daemon's"))
    assert len(faults) > 8
    for name in faults:
        assert hasattr(DaemonFaults, name), name


def test_every_worked_example_of_images_has_its_test() -> None:
    numbers = [int(cell.split()[0]) for cell, _ in rows("image-formats.md", "5. Worked examples")]
    text = (ROOT / "tests/sysmemd/constraints/test_worked_examples.py").read_text()
    tests = [int(number) for number in re.findall(r"^def test_(\d+)_", text, re.MULTILINE)]
    assert numbers == tests == list(range(1, len(tests) + 1))


def test_the_examples_of_messages_are_those_that_are_tested() -> None:
    told = set(re.findall(r"`([\da-f]{32,})`", section("protocol.md", "Examples")))
    text = (ROOT / "tests/sysmem_protocol/test_message.py").read_text()
    assert len(told) == 7
    assert {example for example in told if example not in re.sub(r'"\s+"', "", text)} == set()


# --- links from rules to the tests that hold them -----------------------------------------------------------------

LINK = re.compile(r"\[✓\]\(\.\./\.\./(tests/[\w/]+\.py)#(test_\w+)\)")


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"README.md"}))
def test_every_section_links_to_the_tests_that_hold_its_rules(page: str) -> None:
    assert re.findall(r"✓(?!\]\(\.\./\.\./tests/)", PAGES[page]) == []
    for path, name in LINK.findall(PAGES[page]):
        text = (ROOT / path).read_text()
        assert re.search(rf"^\s*(async )?def {name}\(", text, re.MULTILINE), f"{path}#{name}"
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    chapters = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    parts = [part for each in chapters for part in re.split(r"^### ", each, flags=re.MULTILINE)[1:]]
    # The sentence above several tables of a chapter is about all of them.
    parts = [part for part in parts if re.search(r"^[^|\n]", part.partition("\n")[2], re.MULTILINE)]
    assert [part.splitlines()[0] for part in chapters + parts if not LINK.search(part)] == []


#: An item of a list, without what follows after a blank line.
ITEM = re.compile(r"^(?:- |\d+\. ).*(?:\n(?!- |\d+\. |[#|]).+)*", re.MULTILINE)


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"README.md"}))
def test_every_item_of_a_list_of_rules_links_to_its_tests(page: str) -> None:
    assert [item for item in ITEM.findall(PAGES[page]) if not LINK.search(item)] == []


@pytest.mark.parametrize("page", ["allocation.md", "constraints.md"])
def test_every_row_of_rules_links_to_its_tests(page: str) -> None:
    for title in re.findall(r"^##+ (.*)$", PAGES[page], re.MULTILINE):
        for line in section(page, title).splitlines():
            if line.startswith("|") and not set(line) <= set("|- ") and "| --- |" not in line:
                head = re.match(r"\| (field|image field|node|situation) \|", line)
                assert head or LINK.search(line), line
