"""Hooks of the site, for features that neither Markdown nor the theme has."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
_ONE_LINE = re.compile(r'(<div class=")(highlight"><pre><span></span><code>[^<\n]*\n</code>)')
_LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s#]*)(?:#(\w+))?\)")


def on_config(config: Any) -> None:
    """Leave out the theme's page for status 404: it finds its styles only at the root of a web server."""
    config.theme.static_templates.discard("404.html")


def on_page_content(html: str, **_: Any) -> str:
    """Return the page with a class for each block that is one line of plain text, so that the line is wrapped."""
    return _ONE_LINE.sub(r"\1line \2", html)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return the page with links that leave `docs/` rewritten to the repository; a link to a test gets its line."""
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
