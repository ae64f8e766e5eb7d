"""Hooks of the site: links to files that are no pages lead to the repository, where they can be read."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
_LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s#]*)(?:#(\w+))?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return the page with links that leave `docs/` led to the repository, those to a test to its line."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def led(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / match[2]))
        if target.is_relative_to(ROOT / "docs"):
            return match[0]
        kind = "tree" if target.is_dir() else "blob"
        line = f"#L{_line(target, match[3])}" if match[3] else ""
        return f"{match[1]}{SOURCE}/{kind}/main/{target.relative_to(ROOT).as_posix()}{line})"

    return _LINK.sub(led, markdown)


def _line(path: Path, name: str) -> int:
    lines = path.read_text().splitlines()
    return 1 + next(
        i for i, line in enumerate(lines) if re.match(rf"\s*(async )?def {name}\(", line)
    )
