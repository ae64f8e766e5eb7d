"""The pages of docs/ are true: their blocks run, their links lead somewhere, and generated ones are current."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Awaitable
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml
from docs.tools import generate, refusals
from docs.tools.blocks import run, steps

import sysmem
from sysmem import blocking, frames, testing
from sysmem.pytest_plugin import Daemon
from sysmemd.constraints import Rule

from .gstreamer import run_with_gstreamer

DOCS = Path(__file__).parents[1] / "docs"
CLIENT = DOCS.parent / "client" / "sysmem"
PAGES = {str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md"))}
#: Packages that the blocks of some pages need.
NEEDED = {"opencv.md": "cv2", "pyav.md": "av", "torch.md": "torch"}
#: Blocks that are run by other tests, and by which.
ELSEWHERE = {
    ("devices.md", "python"): "tests/devices/test_docs.py",
    ("gstreamer.md", "python"): "below, with the system's Python",
    ("metrics.md", "yaml"): "tests/sysmem_protocol/test_metrics.py",
    ("testing.md", "python"): "below, as tests",
    ("testing.md", "yaml"): "below, the commands",
}
PROGRAMS = [
    page
    for page, path in PAGES.items()
    if any(step.reason is None and (page, step.language) not in ELSEWHERE for step in steps(path))
]


def blocks(page: str) -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)
    assert found
    return found


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_blocks_run_one_after_the_other(
    page: str, sysmemd: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Blocks of Python and of the shell are run. Configurations and cases must be readable."""
    if page in NEEDED:
        pytest.importorskip(NEEDED[page], reason=f"{NEEDED[page]} isn't installed")
    monkeypatch.setenv("SYSMEM_RUNTIME_DIR", str(sysmemd.runtime_dir))
    monkeypatch.chdir(tmp_path)
    run(PAGES[page], without={language for name, language in ELSEWHERE if name == page})


def test_every_block_is_of_a_language_that_runs_or_is_just_text() -> None:
    """Otherwise it must give a reason."""
    known = {"python", "sh", "toml", "json", "text", "picture"}
    unknown = {
        (page, step.language)
        for page, path in PAGES.items()
        for step in steps(path)
        if step.language not in known and (page, step.language) not in ELSEWHERE
    }
    assert unknown == set()
    assert len(PROGRAMS) >= 20


def test_a_block_that_fails_fails_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for language, text in (
        ("python", "1 / 0"),
        ("sh", "false"),
        ("toml", "[no]"),
        ("json", "{}"),
        ("python", "print('a (7)')\n```\n\n```text\nother (8)"),
    ):
        page.write_text(f"```{language}\n{text}\n```\n")
        with pytest.raises(Exception, match=r"division|false|no|participants|a \(7\)"):
            run(page)


@pytest.mark.parametrize("page", generate.PAGES)
def test_generated_pages_are_current(page: str) -> None:
    assert PAGES[page].read_text() == generate.PAGES[page](), "run: make docs"


def test_every_rule_has_a_section_under_its_text() -> None:
    sections = refusals.sections()
    assert [section.rule for section in sections] == list(Rule)
    assert [section.text for section in sections] == [rule.value for rule in Rule]


@pytest.mark.parametrize("section", refusals.sections(), ids=lambda section: section.rule.name)
def test_the_example_of_a_rule_breaks_that_rule(section: refusals.Section) -> None:
    assert refusals.refusal(section.case).refusal.rule is section.rule


def test_every_drawing_is_committed_and_shown() -> None:
    named = {
        step.text.split()[0]
        for path in PAGES.values()
        for step in steps(path)
        if step.language == "picture"
    }
    committed = {path.stem: path.name for path in (DOCS / "images" / "concepts").iterdir()}
    assert named == committed.keys()
    shown = "".join(path.read_text() for path in PAGES.values())
    assert [name for name in committed.values() if f"images/concepts/{name})" not in shown] == []


def test_every_drawing_is_what_sysmemctl_draws(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "docs.tools.pictures", tmp_path], cwd=DOCS.parent, check=True
    )
    for committed in (DOCS / "images" / "concepts").iterdir():
        drawn = (tmp_path / committed.name).read_text()
        assert drawn == committed.read_text(), "run: make pictures"


def test_the_site_has_every_page_once() -> None:
    nav = (DOCS.parent / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    assert sorted(re.findall(r"[\w/.-]+\.md", nav)) == sorted(PAGES)


def test_the_program_of_gstreamer_runs_with_the_system_s_python(
    sysmemd: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSMEM_RUNTIME_DIR", str(sysmemd.runtime_dir))
    run_with_gstreamer("\n".join(blocks("gstreamer.md")))


def test_the_figures_of_other_services_are_the_same_on_both_pages() -> None:
    pages = [PAGES[page].read_text() for page in ("performance.md", "compared.md")]
    [first], [second] = (
        re.findall(r"^<!-- figures: peers -->\n((?:\|.*\n)+)", page, re.M) for page in pages
    )
    assert first == second


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (DOCS / page).read_text())
    folder = (DOCS / page).parent
    assert [t for t in targets if "://" not in t and not (folder / t).exists()] == []


_TESTING = """
import os, subprocess
import pytest, sysmem, trio
from sysmem.testing import *

CAMERA = sysmem.constraints("NV12 64x48", cpu="write often", hold=2)
ENCODER = sysmem.constraints("NV12", cpu="read", hold=1)

def start_my_camera(token):
    token.close()

"""


#: Files of the client whose docstrings have other examples than Python.
NOT_PYTHON = {"_errors.py": "a table", "testing/conformance/__init__.py": "as docs/conformance.md"}


def examples() -> dict[str, list[str]]:
    """Return the code in docstrings of the client, by file."""
    found: dict[str, list[str]] = {}
    for path in sorted(CLIENT.rglob("*.py")):
        name = str(path.relative_to(CLIENT))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = f"{ast.get_docstring(node)}\n"
                for block in re.findall(r"::\n\n((?: {4}.*\n|\n)+)", text):
                    found.setdefault(name, []).append(textwrap.dedent(block))
    return {name: blocks for name, blocks in found.items() if name not in NOT_PYTHON}


async def _result(awaited: Awaitable[None]) -> None:
    await awaited


@pytest.mark.parametrize(("file", "texts"), examples().items(), ids=list(examples()))
def test_the_examples_in_docstrings_run(
    file: str,
    texts: list[str],
    sysmemd: Daemon,
    allocator: Any,
    peer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of a file run one after the other, and tests that they define are called."""
    monkeypatch.setenv("SYSMEM_RUNTIME_DIR", str(sysmemd.runtime_dir))
    needs = sysmem.constraints("NV12 64x48", cpu="read, write", hold=1, count=5)
    collection = allocator.allocate_non_shared_collection()
    collection.set_constraints(needs)

    def start_camera(token: Any, runtime_dir: Path) -> None:
        assert runtime_dir == sysmemd.runtime_dir
        token.close()

    ends = blocking.frames.pair()
    fixtures = {"sysmemd": sysmemd, "allocator": allocator, "peer": peer}
    with collection.wait_for_all_buffers_allocated(timeout=20) as info:
        names: dict[str, Any] = dict.fromkeys(("CAMERA", "ENCODER", "CONSTRAINTS"), needs)
        names |= {"sysmem": sysmem, "dies": testing.dies, "start_camera": start_camera}
        names |= {"info": info, "frames": blocking.frames if "blocking" in file else frames}
        for text, names["sock"] in zip_longest(texts, ends):
            once = (text or "").replace("while recording:", "for _ in range(1):")
            awaited = eval(compile(once, file, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
            if awaited is not None:
                trio.run(partial(_result, awaited))
    for name, value in names.items():
        if name.startswith("test_"):
            value(*(fixtures[each] for each in inspect.signature(value).parameters))
    for end in ends:
        end.close()
    collection.release()


#: A program that a reader could write.
_PROGRAM = """#!{python}
import pathlib, sys
from sysmem import blocking
with blocking.connect(name=pathlib.Path(sys.argv[0]).name) as allocator:
    allocator.allocate_non_shared_collection().release()
"""


@pytest.mark.timeout(300)  # it starts many processes
def test_the_tests_of_the_page_about_testing_pass(tmp_path: Path) -> None:
    """They are run with the commands that the page gives for CI."""
    [workflow] = re.findall(r"^```yaml\n(.*?)^```$", PAGES["testing.md"].read_text(), re.M | re.S)
    install, *command = (shlex.split(step["run"]) for step in yaml.safe_load(workflow)["steps"])
    assert install == ["pip", "install", "sysmem[testing]", "pytest-xdist"]
    assert command == [["pytest", "-n", "auto"]]
    (tmp_path / "test_page.py").write_text(_TESTING + "\n\n".join(blocks("testing.md")))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("camera", "encoder"):
        (programs / name).write_text(_PROGRAM.format(python=sys.executable))
        (programs / name).chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", *command[0], "-q", "-p", "no:cacheprovider", "--sysmem-update"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "golden" / "pipeline.txt").exists()
