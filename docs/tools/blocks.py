"""The code blocks of a page, as one program that runs from top to bottom.

Python blocks share one namespace. Blocks of `sh` run in bash. Configuration (`toml`) and cases (`json`) are read.
A block of `text` after a Python block that prints must be its output, apart from numbers and blanks.
A comment before a block says why it does not run: `<!-- not run: needs root -->`. A comment after a block draws a
collection as it is at that moment: `<!-- picture: NAME of COLLECTION -->`.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Container
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from sysmem import blocking
from sysmemd import config
from sysmemd.cases import read_case

_STEP = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n+)?```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$"
    r"|^<!-- picture: (?P<picture>\S+) of (?P<collection>.+?) -->$",
    re.MULTILINE | re.DOTALL,
)


class Step(NamedTuple):
    """A block, or a picture to draw."""

    language: str
    text: str
    #: The reason why the block does not run, if any.
    reason: str | None = None
    line: int = 0


def steps(page: Path) -> list[Step]:
    """Return the blocks and pictures of a page, in order."""
    text = page.read_text()
    found = []
    for match in _STEP.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["picture"]:
            found.append(Step("picture", f"{match['picture']} {match['collection']}", None, line))
        else:
            found.append(Step(match["language"], match["text"], match["reason"], line))
    return found


def run(
    page: Path,
    draw: Callable[[str, str], None] = lambda name, collection: None,
    *,
    without: Container[str] = (),
) -> None:
    """Run the blocks of a page, in the current directory and with the daemon that the environment names.

    Args:
        page: The page.
        draw: Draws a picture, given its name and a collection's name.
        without: The languages whose blocks are not run.
    """
    names: dict[str, Any] = {"__name__": page.stem}
    printed = ""
    for language, text, reason, line in steps(page):
        expected, printed = printed, ""
        if reason is not None or language in without:
            continue
        if language == "python":
            with redirect_stdout(io.StringIO()) as output:
                exec(compile("\n" * line + text, str(page), "exec"), names)
            printed = output.getvalue()
        elif language == "text" and expected:
            assert _words(text) == _words(expected), f"{page}:{line}: the output is\n{expected}"
        elif language == "sh":
            _shell(text)
        elif language == "toml":
            config.parse(text, f"{page}:{line}")
        elif language == "json":
            read_case(json.loads(text))
        elif language == "picture":
            for node in list(names.values()):
                if isinstance(node, blocking.Node) and not node.closed:
                    node.sync()  # wait until the daemon has processed all messages of the page so far
            draw(*text.split(" ", 1))


def _words(text: str) -> list[str]:
    """Return the words, with 0 for each number and one dash for each line of dashes."""
    return re.sub(r"\d+", "0", re.sub("-{2,}", "-", text)).split()


def _shell(text: str) -> None:
    """Run commands. Their output is shown only if one fails."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{text}\n{done.stdout}{done.stderr}")
