"""Generate the pages that are derived from the code: `python -m docs.tools.generate`."""

# ruff: noqa: E501 - sentences of pages

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Collection
from pathlib import Path

import sysmem.sysmemctl
import sysmemd.__main__
from sysmem_protocol import reference, sysmem2
from sysmem_protocol.docstrings import attribute_docstrings

from . import refusals

DOCS = Path(__file__).parents[1]

FIELDS = """\
# Constraints, field by field

This page lists every field of the constraints that a participant can set, and how the values of several participants combine. Every field may
be left out; the text says what this means. `sysmem.constraints` ([API](api/tables.md#sysmem.constraints)) makes these tables from a plain description.

The [specification](spec/constraints.md) has the exact order of defaults, checks and combinations. [Why did it fail?](refusals.md) explains
each refusal.
"""


def fields() -> str:
    """Return the page about the fields of constraints."""
    parts = [FIELDS]
    for table in (
        sysmem2.BufferCollectionConstraints,
        sysmem2.BufferUsage,
        sysmem2.BufferMemoryConstraints,
        sysmem2.ImageFormatConstraints,
        sysmem2.Heap,
    ):
        parts.append(f"## {table.__name__}\n\n{_doc(table.__doc__)}\n")
        docs = attribute_docstrings(table)
        for member in table.members:
            kind, bound = reference.spelled(member.field.type)
            kind = kind.replace("(#", "(protocol.md#") + (f", at most {bound}" if bound else "")
            parts.append(f"### {member.name}\n\nType: {kind}\n\n{_doc(docs[member.name])}\n")
    return "\n".join(parts)


def _doc(text: str | None) -> str:
    return re.sub(r":\w+:`([^`]+)`", r"`\1`", inspect.cleandoc(text or ""))


COMMANDS = """\
# Commands

`sysmemd` is the daemon. `sysmemctl` inspects it. Both have manual pages, and completions for bash and zsh.
"""


def commands() -> str:
    """Return the page about the commands, from their parsers."""
    top = sysmem.sysmemctl.parser()
    common = {action.dest for action in top._actions}
    parts = [COMMANDS, _command("sysmemd", sysmemd.__main__.parser()), _command("sysmemctl", top)]
    parts.append("Each command below takes these arguments too.\n")
    [choices] = [a.choices for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    for name, parser in choices.items():
        parts.append(_command(f"sysmemctl {name}", parser, common))
    return "\n".join(parts)


def _command(name: str, parser: argparse.ArgumentParser, common: Collection[str] = ()) -> str:
    rows = []
    for action in parser._actions:
        if action.dest in ("help", "version", *common) or isinstance(
            action, argparse._SubParsersAction
        ):
            continue
        value = action.metavar or ", ".join(map(str, sorted(action.choices or ())))
        shown = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        if action.option_strings and action.nargs != 0 and value:
            shown += f" {value}"
        rows.append(f"| `{shown}` | {action.help or ''} |")
    table = "\n".join(["| argument | meaning |", "| --- | --- |", *rows]) if rows else ""
    parts = (f"## {name}", parser.description, table, parser.epilog)
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands,
    "fields.md": fields,
    "protocol.md": reference.page,
    "refusals.md": refusals.page,
}


def main() -> None:
    """Write all these pages."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make())


if __name__ == "__main__":
    main()
