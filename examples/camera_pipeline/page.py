"""The page: the video, the contact sheet and the table, to open in a browser."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path

from report import ROWS, Column

STYLE = """
body { background: #14171c; color: #f2f2f2; font: 16px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; }
p, th { color: #98a1ae; } a { color: #5fd38d; } img, video { max-width: 100%; border: 1px solid #3a414c; }
table { border-collapse: collapse; } td, th { border-top: 1px solid #3a414c; padding: .2em 1em; text-align: left; }
td:last-child { color: #5fd38d; }
"""


def write(
    file: Path, *, title: str, lines: Mapping[str, str], columns: Mapping[str, Column]
) -> None:
    """Write the page next to `encoded.mp4` and `contact_sheet.png`, which it shows."""
    told = "".join(
        f"<tr><th>{html.escape(what)}<td>{html.escape(text)}" for what, text in lines.items()
    )
    head = "".join(f"<th>{html.escape(name)}" for name in columns)
    rows = "".join(
        f"<tr><th>{html.escape(name)}"
        + "".join(
            f"<td>{'<br>'.join(map(html.escape, column.get(name, [])))}"
            for column in columns.values()
        )
        for name in ROWS
    )
    file.write_text(
        f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>
<h1>{html.escape(title)}</h1>
<video src="encoded.mp4" controls autoplay loop muted></video>
<table>{told}</table>
<h2>What each asked for, and what came out</h2>
<table><tr><th>{head}{rows}</table>
<h2>Contact sheet</h2>
<img src="contact_sheet.png" alt="frames of the display and of the file, and one buffer as it lies in memory">
</html>
""",
        encoding="utf-8",
    )
