"""The public interface, the README and the examples as pyright sees them. `make pyright` installs it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/*/__main__.py"))

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("basedpyright") is None,
        reason="basedpyright isn't installed: make pyright",
    ),
]


def pyright(*arguments: str | Path) -> dict[str, Any]:
    """Return pyright's report on this environment, which is the first one in PATH."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert done.stdout, done.stderr
    reported: dict[str, Any] = json.loads(done.stdout)
    return reported


def test_every_type_of_the_public_interface_is_known() -> None:
    found = pyright("--verifytypes", "sysmem", "--ignoreexternal")["typeCompleteness"]
    unknown = [
        f"{symbol['name']}: {'; '.join(each['message'] for each in symbol['diagnostics'])}"
        for symbol in found["symbols"]
        if symbol["isTypeAmbiguous"] or not symbol["isTypeKnown"]
    ]
    assert not unknown
    assert found["completenessScore"] == 1
    assert found["exportedSymbolCounts"]["withKnownType"] > 100


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The errors of pyright's basic mode by directory, all found in one run."""
    directory = tmp_path_factory.mktemp("typed")
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    files = {
        "readme": "".join(blocks),
        "public": Path(__file__).with_name("public_interface.py").read_text(),
        "wrong": "import sysmem\nsysmem.SizeU('wide', 2)\n",
    }
    for name, text in files.items():
        (directory / name).mkdir()
        (directory / name / f"{name}.py").write_text(text)
    for example in EXAMPLES:
        shutil.copytree(example, directory / example.name)
    roots = [*files, *(example.name for example in EXAMPLES)]
    settings = {
        "include": roots,
        "typeCheckingMode": "basic",
        # Modules of an example import each other by their names.
        "executionEnvironments": [{"root": root} for root in roots],
    }
    (directory / "pyrightconfig.json").write_text(json.dumps(settings))
    found: dict[str, list[str]] = {root: [] for root in roots}
    for each in pyright("--project", directory)["generalDiagnostics"]:
        file = Path(each["file"]).relative_to(directory)
        if each["severity"] == "error":
            line = each["range"]["start"]["line"] + 1
            found[file.parts[0]].append(f"{file.name}:{line}: {each['message']}")
    return found


#: Imports of examples that are too large to install by default, or come with the system.
NEEDED = {"gstreamer": "gi", "cuda": "torch"}


@pytest.mark.parametrize("checked", ["readme", "public", *(path.name for path in EXAMPLES)])
def test_basic_mode_finds_no_error(errors: dict[str, list[str]], checked: str) -> None:
    if needed := NEEDED.get(checked):
        pytest.importorskip(
            needed, reason=f"{needed} isn't installed, whose types the example uses"
        )
    assert errors[checked] == []


def test_basic_mode_finds_an_error(errors: dict[str, list[str]]) -> None:
    [error] = errors["wrong"]
    assert error.startswith("wrong.py:2: ")
