"""The files around the code: makefile, packaging metadata, forms for reports, and what CONTRIBUTING.md says of them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCE = PROJECT["project"]["urls"]["Source"]


def test_every_target_that_is_named_is_in_the_list_of_targets() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = dict(re.findall(r"^([a-z-]+) +(.+)$", listed.stdout, re.MULTILINE))
    assert {"check", "demo", "docs", "lowest", "release", "site", "test"} <= targets.keys()
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    named = set(re.findall(r"`make ([a-z-]+)(?=[` ])", text)) - {"help"}
    assert named - targets.keys() == set()


def test_what_contributing_names_in_a_module_is_there() -> None:
    """As `Terms` of [terms.py](…): the name, and the module that the link leads to."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`(\w+)`(?: and `(\w+)`)? (?:of|in|beside) \[[^]]+\]\(([^)]+\.py)\)", text)
    assert len(named) >= 10
    missing = [
        (name, path)
        for *names, path in named
        for name in filter(None, names)
        if not re.search(rf"\b{name}\b", (ROOT / path).read_text())
    ]
    assert missing == []


@pytest.mark.parametrize("file", [".ci/run", "Makefile"])
def test_the_tests_that_a_command_names_are_there(file: str) -> None:
    named = re.findall(r"(?<![\w/])tests/[\w/.-]+", (ROOT / file).read_text())
    assert len(named) >= 5
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_address_of_the_repository_is_one() -> None:
    files = subprocess.run(
        ["git", "grep", "-hIoE", r"(github|raw\.githubusercontent)\.com/sysmem/[A-Za-z0-9_-]+"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = {re.sub(r"^raw\.githubusercontent", "github", line) for line in files.stdout.split()}
    assert found == {SOURCE.removeprefix("https://")}


def test_the_readme_of_the_package_index_has_addresses_only() -> None:
    readme = (ROOT / "README.md").read_text()
    for rule in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        readme = re.sub(rule["pattern"], rule["replacement"], readme)
    targets = re.findall(r"\]\(([^)]+)\)", readme)
    assert len(targets) > 10
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    images = re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme)
    assert all(image.startswith("https://raw.githubusercontent.com/") for image in images)


def test_a_report_of_a_bug_asks_for_a_capture() -> None:
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    fields = {field["id"]: field for field in form["body"] if "id" in field}
    assert fields["capture"]["validations"]["required"]
    commands = re.findall(r"`sysmemctl ([a-z]+)", str(form))
    assert {"capture", "export", "report", "why"} <= set(commands)


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")))
def test_forms_can_be_read(form: Path) -> None:
    assert yaml.safe_load(form.read_text())


def test_owners_are_of_paths_that_are_there() -> None:
    lines = (ROOT / ".github/CODEOWNERS").read_text().splitlines()
    paths = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert [path for path in paths if path != "*" and not (ROOT / path.strip("/")).exists()] == []


def test_the_hooks_of_pre_commit_run_what_make_check_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    assert [entry.split()[0].removeprefix(".venv/bin/") for entry in entries] == [
        "ruff",
        "ruff",
        "mypy",
        "python",
    ]
    named = re.findall(r"(tests/\S+?\.py)::(\w+)", " ".join(entries))
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text()


@pytest.mark.parametrize(
    ("sources", "tag", "new", "complaint"),
    [
        ([], "v1.2.3", "", "not one wheel"),
        (["sysmem-1.2.4.tar.gz"], "v1.2.3", "", "not one wheel"),
        (["sysmem-1.2.3.tar.gz"], "v9.9.9", "", "the tag is v9.9.9"),
        (["sysmem-1.2.3.tar.gz"], "v1.2.3", "new.py", "not committed:\n?? new.py"),
        (["sysmem-1.2.3.tar.gz"], "v1.2.3", "", "no heading '## 1.2.3 (YYYY-MM-DD)'"),
    ],
)
def test_a_release_of_other_files_or_another_version_is_refused(
    tmp_path: Path, sources: list[str], tag: str, new: str, complaint: str
) -> None:
    """The script's checks are run in a repository with its own tag."""
    files = ["sysmem-1.2.3-py3-none-any.whl", *sources]
    (tmp_path / "CHANGELOG.md").write_text("## 1.2.3 (not released yet)\n")
    program = f"""
import sys; sys.path.insert(0, {str(ROOT / "packaging")!r})
import pathlib, release
release.ROOT = pathlib.Path.cwd()
release.check_tag(release.check_names([pathlib.Path(each) for each in {files!r}]))
"""
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["commit", "-q", "-m", "m"],
        ["tag", tag],
    ):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    if new:
        (tmp_path / new).touch()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert complaint in done.stderr
