"""Output of commands: with colours and fitted to the width on a terminal; plain and unwrapped otherwise."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from .._traffic import printable as printable
from ._trouble import Trouble

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

#: The error message if the drawing libraries are missing.
NEEDS_TOOLS: Final = (
    "this command needs the optional dependencies for tools: pip install 'sysmem[tools]'"
)
#: The width if the output is not a terminal and COLUMNS is not set, for programs and editors.
_PLAIN_WIDTH: Final = 200
#: The horizontal rule below a report's header.
_RULE: Final = re.compile(r"-+(\+-*)+")
#: The separator between cells of a report's table. Trailing spaces are left out.
_BETWEEN_CELLS: Final = re.compile(r" \|(?: |$)")
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def console() -> Console:
    """Return the console for tables and trees.

    Raises :class:`Trouble` if the drawing library, which is an optional dependency, is not installed.
    """
    try:
        from rich.console import Console
    except ImportError:
        raise Trouble(f"{NEEDS_TOOLS} (or use --json)") from None
    # Use colours only on terminals, whatever the environment variables say.
    terminal = sys.stdout.isatty()
    made = Console(
        force_terminal=terminal,
        color_system=None if os.environ.get("NO_COLOR") else "auto",  # no bold type either
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _PLAIN_WIDTH
    return made


def drawn(width: int, draw: Callable[[Console], None]) -> Text:
    """Return what `draw` prints to a console with this many columns, with its colours."""
    from rich.console import Console
    from rich.text import Text

    out = Console(
        width=width,
        file=io.StringIO(),
        force_terminal=True,
        color_system="standard",
        highlight=False,
        markup=False,
        emoji=False,
    )
    with out.capture() as capture:
        draw(out)
    return Text.from_ansi(capture.get())


def print_table(
    out: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print a table. If it is too wide for the terminal, print a block for each row, with a line for each cell."""
    from rich.table import Table
    from rich.text import Text

    if title:
        out.print(Text(title, style="bold"))
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    if sum(widths) + 2 * len(widths) <= out.width:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in header:
            table.add_column(name, no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))
        out.print(table)
        return
    for row in rows:
        out.print(Text(row[0], style="bold"))
        for name, cell in zip(header[1:], row[1:], strict=True):
            if cell:
                out.print(Text(f"  {name}: {cell}"))


def print_report(out: Console, text: str) -> None:
    """Print a daemon's report. Its table is printed as by :func:`print_table`."""
    from rich.text import Text

    for part in report_parts(text):
        if isinstance(part, str):
            out.print(Text(part))
        else:
            print_table(out, "", part[0], part[1:])


def report_parts(text: str) -> Iterator[str | list[list[str]]]:
    """Yield a report's lines and tables, in order. A table is a list of rows of cells; the first row is the header.

    The first cell of a row keeps the indentation of nested fields.
    """
    table: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        first, *others = _BETWEEN_CELLS.split(line)
        cells = [first.rstrip().removeprefix("  "), *(cell.strip() for cell in others)]
        if len(cells) > 2 and (not table or len(cells) == len(table[0])):
            table.append(cells)
        elif not (table and _RULE.fullmatch(line)):
            if table:
                yield table
                table = []
            yield line


def remark(text: str) -> None:
    """Print a remark to stderr, because it is not part of the data."""
    print(f"sysmemctl: {text}", file=sys.stderr)


def print_json(data: object) -> None:
    """Print JSON for programs."""
    json.dump(data, sys.stdout, indent=None if not sys.stdout.isatty() else 2, ensure_ascii=True)
    sys.stdout.write("\n")


def size(count: int) -> str:
    """Return a number of bytes with a suitable unit."""
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def age(seconds: float) -> str:
    """Return a duration as text."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def client(node: dict[str, Any]) -> str:
    """Return the name and id of a node's or connection's client, as set by the client."""
    name = printable(node["client_name"]) or "unnamed client"
    return f"{name} ({node['client_id']})"


def count(number: int, one: str, several: str | None = None) -> str:
    """Return a number of things with the noun `one` or `several`. By default the plural adds an s."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"
