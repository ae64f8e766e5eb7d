"""Write the completions and manual pages of the commands, from their parsers: `python packaging/generate.py DIRECTORY`.

The directory is laid out like `/usr/share`. The wheel installs what is in `packaging/share/`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

import sysmem.sysmemctl
import sysmemd.__main__


def main(directory: Path) -> None:
    """Write all files below `directory`."""
    for parser in (sysmem.sysmemctl.parser(), sysmemd.__main__.parser()):
        name = parser.prog
        files = {
            f"bash-completion/completions/{name}": shtab.complete(parser, "bash"),
            f"zsh/site-functions/_{name}": shtab.complete(parser, "zsh"),
            f"man/man1/{name}.1": manual_page(parser),
        }
        for place, text in files.items():
            path = directory / place
            path.parent.mkdir(parents=True, exist_ok=True)
            # shtab leaves blanks at the ends of lines.
            lines = [line.rstrip() for line in text.splitlines()]
            path.write_text("\n".join(lines) + "\n")


def manual_page(parser: argparse.ArgumentParser) -> str:
    """Return a page of section 1. It has no date, so that the same parser always gives the same page."""
    parser.man_short_description = (parser.description or "").split(".")[0]  # type: ignore[attr-defined]  # read by Manpage
    page = Manpage(parser, format="pretty")
    page.date = ""
    page.manual = "sysmem"
    return str(page)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
