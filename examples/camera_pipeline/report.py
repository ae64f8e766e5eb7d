"""The table of what each participant asked for, and of what was negotiated."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import sysmem

#: One column of the table: the lines of each cell, by the name of the row.
Column = dict[str, list[str]]

#: The names of the rows. The words in parentheses say how the daemon combines the participants' values.
ROWS = (
    "usage",
    "pixel format",
    "colour space",
    "image size",
    "size multiple (max)",
    "row multiple (lcm)",
    "bytes a row",
    "held buffers (sum)",
    "shared slack (max)",
    "buffers",
    "bytes a buffer",
    "coherency domain",
    "may",
    "buffer 0: inode",
)


def asked(needs: sysmem.BufferCollectionConstraints) -> Column:
    """Return the column of what a participant asks for."""
    column: Column = {
        "usage": _usage(needs.usage),
        "held buffers (sum)": [str(needs.min_buffer_count_for_camping or "")],
        "shared slack (max)": [str(needs.min_buffer_count_for_shared_slack or "")],
        "pixel format": [],
        "colour space": [],
    }
    for image in needs.image_format_constraints or []:
        column["pixel format"].append(sysmem.PixelFormat(image.pixel_format or 0).name)
        column["colour space"] += [sysmem.ColorSpace(c).name for c in image.color_spaces or []]
        if image.min_size:
            column["image size"] = [_size(image.min_size)]
        elif image.max_size:
            column["image size"] = [f"up to {_size(image.max_size)}"]
        if image.size_alignment:
            column["size multiple (max)"] = [_size(image.size_alignment)]
        column["row multiple (lcm)"] = [str(image.bytes_per_row_divisor)]
    return column


def got(info: sysmem.BufferCollectionInfo) -> dict[str, Any]:
    """Return what a participant got: the settings of all, its own column, and the inodes of its buffers.

    Two descriptors, even in different processes, are of the same memory if and only if their inodes are equal.
    """
    vmos = [buffer.vmo for buffer in info.buffers if buffer.vmo]
    inodes = [os.fstat(vmo.fileno()).st_ino for vmo in vmos]
    own: Column = {
        "may": ["read, write" if all(vmo.writable for vmo in vmos) else "read"],
        "buffer 0: inode": [str(inodes[0])],
    }
    return {"negotiated": negotiated(info), "column": own, "inodes": inodes}


def negotiated(info: sysmem.BufferCollectionInfo) -> Column:
    """Return the column of what was negotiated. It is the same for all participants."""
    memory, constraints = info.settings.buffer_settings, info.settings.image_format_constraints
    assert constraints is not None
    # The image follows from the settings. All participants have the same settings, and so the same image.
    image = info.image
    return {
        "pixel format": [image.pixel_format.name],
        "colour space": [image.color_space.name],
        "image size": [_size(image.size)],
        "size multiple (max)": [_size(constraints.size_alignment)],
        "row multiple (lcm)": [str(constraints.bytes_per_row_divisor)],
        "bytes a row": [str(image.bytes_per_row)],
        "buffers": [str(len(info.buffers))],
        "bytes a buffer": [f"{memory.size_bytes:,}"],
        "coherency domain": [sysmem.CoherencyDomain(memory.coherency_domain).name],
    }


def table(columns: Mapping[str, Column]) -> list[str]:
    """Return the lines of the table. The last column is what was negotiated."""
    titles = ["", *columns]
    rows = [[[name], *(column.get(name, []) for column in columns.values())] for name in ROWS]
    widths = [
        max(len(title), *(len(line) for row in rows for line in row[number]))
        for number, title in enumerate(titles)
    ]
    rule = "─" * (sum(widths) + 2 * len(widths))
    lines = [_line(titles, widths), rule]
    for row in rows:
        for number in range(max(len(cell) for cell in row)):
            lines.append(
                _line([cell[number] if number < len(cell) else "" for cell in row], widths)
            )
    return [*lines, rule]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _usage(usage: sysmem.BufferUsage | None) -> list[str]:
    kinds: dict[str, Any] = {
        "cpu": sysmem.CpuUsage((usage and usage.cpu) or 0),
        "video": sysmem.VideoUsage((usage and usage.video) or 0),
        "display": sysmem.DisplayUsage((usage and usage.display) or 0),
    }
    return [
        f"{kind} {flag.name}".lower().replace("_", " ") for kind in kinds for flag in kinds[kind]
    ]


def _size(size: sysmem.SizeU | None) -> str:
    return f"{size.width} x {size.height}" if size else ""
