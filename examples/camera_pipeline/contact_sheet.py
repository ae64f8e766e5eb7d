"""The contact sheet: what the display showed, what is in the encoded file, and one buffer as it lies in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from report import ROWS, Column

COLUMNS = 4
THUMBNAIL = (320, 240)
MARGIN, GAP, CAPTION, HEADING, TITLE = 40, 16, 34, 56, 84
WIDTH = 2 * MARGIN + COLUMNS * THUMBNAIL[0] + (COLUMNS - 1) * GAP
MEMORY = (576, 540)
PAPER, INK, FAINT, GOOD, LINE = "#14171c", "#f2f2f2", "#98a1ae", "#5fd38d", "#3a414c"


@dataclass(frozen=True)
class Picture:
    """A picture, and the texts below it on the left and on the right."""

    file: Path
    caption: str
    remark: str


def place(number: int) -> tuple[int, int, int, int]:
    """Return the place of a thumbnail on the sheet: left, upper, right, lower. Those of the display come first."""
    row, column = divmod(number, COLUMNS)
    left = MARGIN + column * (THUMBNAIL[0] + GAP)
    # The file's row, the third, comes after a heading of its own.
    upper = TITLE + HEADING * (1 if row < 2 else 2) + row * (THUMBNAIL[1] + CAPTION)
    return left, upper, left + THUMBNAIL[0], upper + THUMBNAIL[1]


def draw(
    *,
    title: str,
    subtitle: str,
    shown: Sequence[Picture],
    encoded: Sequence[Picture],
    memory: Picture,
    columns: Mapping[str, Column],
    file: Path,
) -> None:
    """Write the sheet: eight pictures of the display, four of the file, a buffer and the table."""
    below = place(len(shown) + len(encoded) - 1)[3] + CAPTION
    sheet = Image.new("RGB", (WIDTH, below + HEADING + MEMORY[1] + CAPTION + MARGIN // 2), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 46), title, INK, _font(34), anchor="ls")
    pen.text((MARGIN, 76), subtitle, FAINT, _font(19), anchor="ls")

    _heading(pen, place(0)[1], "On the display", "NV12 from shared memory, converted to RGB")
    _heading(
        pen,
        place(len(shown))[1],
        "In the file",
        "compressed by the encoder where the camera wrote them, and decoded again",
    )
    for number, picture in enumerate([*shown, *encoded]):
        _thumbnail(sheet, pen, picture, place(number))

    top = below + HEADING
    _heading(pen, top, "In memory", "one buffer, a gray level a byte")
    _buffer(sheet, pen, memory, (MARGIN, top))
    left = MARGIN + MEMORY[0] + 3 * GAP
    _heading(pen, top, "In words", "what each asked for, and what came out", left)
    _table(pen, columns, (left, top, WIDTH - MARGIN, top + MEMORY[1]))
    sheet.save(file)


def _heading(
    pen: ImageDraw.ImageDraw, below: int, name: str, rest: str, left: int = MARGIN
) -> None:
    pen.text((left, below - 14), name, INK, _font(24), anchor="ls")
    pen.text(
        (left + pen.textlength(name, _font(24)) + 14, below - 14), rest, FAINT, _font(18), "ls"
    )


def _thumbnail(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    picture: Picture,
    box: tuple[int, int, int, int],
) -> None:
    with Image.open(picture.file) as opened:
        sheet.paste(opened.resize(THUMBNAIL, Image.Resampling.LANCZOS), box)
    left, _, right, lower = box
    pen.text((left, lower + 19), picture.caption, INK, _font(16), anchor="ls")
    pen.text((right, lower + 19), picture.remark, GOOD, _font(16), anchor="rs")


def _buffer(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, picture: Picture, corner: tuple[int, int]
) -> None:
    with Image.open(picture.file) as opened:
        sheet.paste(opened.resize(MEMORY, Image.Resampling.LANCZOS), corner)
    pen.rectangle((*corner, corner[0] + MEMORY[0], corner[1] + MEMORY[1]), outline=LINE)
    pen.text((corner[0], corner[1] + MEMORY[1] + 22), picture.caption, INK, _font(16), "ls")
    pen.text(
        (corner[0] + MEMORY[0], corner[1] + MEMORY[1] + 22), picture.remark, GOOD, _font(16), "rs"
    )


def _table(
    pen: ImageDraw.ImageDraw, columns: Mapping[str, Column], box: tuple[int, int, int, int]
) -> None:
    left, upper, right, lower = box
    rows = [(name, [column.get(name, []) for column in columns.values()]) for name in ROWS]
    lines = sum(max(len(cell) for cell in cells) for _, cells in rows)
    names, step = 150, (lower - upper - 44) / (lines + len(rows) * 0.3)
    width = (right - left - names) / len(columns)
    last = left + names + (len(columns) - 1) * width

    for number, title in enumerate(columns):
        colour = GOOD if number == len(columns) - 1 else INK
        pen.text((left + names + number * width, upper + 24), title, colour, _font(18), "ls")
    y = upper + 36.0
    for name, cells in rows:
        pen.line((left, y, right, y), LINE)
        y += step * 0.15
        pen.text((left, y + step * 0.75), name, FAINT, _font(15), "ls")
        for number, cell in enumerate(cells):
            x = left + names + number * width
            for line, text in enumerate(cell):
                pen.text(
                    (x, y + step * (line + 0.75)), text, GOOD if x == last else INK, _font(15), "ls"
                )
        y += step * (max(len(cell) for cell in cells) + 0.15)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
