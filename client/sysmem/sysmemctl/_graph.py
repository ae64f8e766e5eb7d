"""`sysmemctl graph`: nodes, processes and buffers as a drawing."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Final, Literal

from . import _holders
from ._nodes import marks, named, to_do, waited_for
from ._source import ClientEnds, Data, selected, snapshot
from ._text import client, printable, size
from ._trouble import Trouble

Kind = Literal["collection", "token", "group", "participant", "process", "buffer"]

#: Fill and outline colours by kind of box. They have enough contrast on white, and in greyscale.
_COLOURS: Final[dict[str, tuple[str, str]]] = {
    "collection": ("#e8eef7", "#35507a"),
    "token": ("#fff6d6", "#8a6d00"),
    "group": ("#f1e6f7", "#6b3d8a"),
    "participant": ("#e3f3e6", "#2c6b3a"),
    "process": ("#f2f2f2", "#555555"),
    "buffer": ("#fde8e0", "#9a4a24"),
}
_FONT: Final = 13
#: The width of a character of that font size in a monospaced font, rounded up.
_CHARACTER: Final = 8
_LINE: Final = 18
_PADDING: Final = 10
_GAP_X: Final = 56
_GAP_Y: Final = 16
#: Pixels of a PNG per unit of the drawing, so that the image can be enlarged.
_PNG_SCALE: Final = 2


@dataclass
class Box:
    """A box in the drawing."""

    key: str
    kind: Kind
    lines: list[str]
    column: int
    waited_for: bool = False
    x: int = 0
    y: int = 0

    @property
    def width(self) -> int:
        return max(map(len, self.lines)) * _CHARACTER + 2 * _PADDING

    @property
    def height(self) -> int:
        return len(self.lines) * _LINE + 2 * _PADDING


@dataclass
class Graph:
    """Boxes in columns, and lines between them."""

    boxes: dict[str, Box] = field(default_factory=dict)
    edges: list[tuple[str, str, bool]] = field(default_factory=list)

    def add(self, box: Box) -> Box:
        """Add a box unless there is one with the same key. Return the one in the drawing."""
        return self.boxes.setdefault(box.key, box)

    def connect(self, first: Box, second: Box, *, dashed: bool = False) -> None:
        """Draw a line between two boxes, unless there is one."""
        edge = (first.key, second.key, dashed)
        if edge not in self.edges:
            self.edges.append(edge)


def run(options: argparse.Namespace) -> int:
    """Draw one or all collections into a file."""
    path: Path = options.output
    drawn = {".dot": _dot, ".svg": svg, ".png": _png}[path.suffix]
    data = snapshot(options)
    collections = selected(data, options.collection)
    path.write_bytes(drawn(graph(collections, data["daemon"]["pid"])))
    return 0


def graph(collections: list[Data], daemon: int) -> Graph:
    """Return the drawing of collections: their trees, the holders of client ends, and the holders of buffers."""
    made = Graph()
    ends = ClientEnds(collections)
    found = _holders.find(collections)
    depths = [len(_path(c, node)) for c in collections for node in c["nodes"]]
    processes, buffers = max(depths, default=0) + 1, max(depths, default=0) + 2
    for collection in collections:
        root = made.add(
            Box(f"c{collection['id']}", "collection", [named(collection), collection["state"]], 0)
        )
        waited = {node["number"] for node in waited_for(collection)}
        boxes = {None: root}
        for node in collection["nodes"]:
            box = made.add(_node(collection, node, node["number"] in waited))
            boxes[node["number"]] = box
            made.connect(boxes.get(node["parent"], root), box)
            for process in ends.of(collection, node):
                end = made.add(_process(process.pid, process.command, daemon, processes))
                made.connect(box, end, dashed=True)
        for buffer in collection["buffers"]:
            title = f"{collection['id']}:{buffer['index']}"
            shown = made.add(
                Box(
                    f"b{title}",
                    "buffer",
                    [
                        f"buffer {buffer['index']}, {size(buffer['size'])}",
                        f"held: {buffer['state']}",
                    ],
                    buffers,
                )
            )
            for holding in found.holdings.get(buffer["inode"], []):
                who = holding.process
                made.connect(made.add(_process(who.pid, who.command, daemon, processes)), shown)
    return made


def _path(collection: Data, node: Data) -> list[int]:
    parents = {each["number"]: each["parent"] for each in collection["nodes"]}
    path = [node["number"]]
    while (parent := parents.get(path[-1])) is not None:
        path.append(parent)
    return path


def _node(collection: Data, node: Data, waited: bool) -> Box:
    kind: Kind = "participant" if node["kind"] == "collection" else node["kind"]
    title = "participant" if kind == "participant" else kind
    lines = [f"{node['number']} {title}", client(node), node["state"]]
    if found := marks(node):
        lines.append(", ".join(found))
    if waited:
        lines.append(f"must {to_do(node)}")
    key = f"n{collection['id']}:{node['number']}"
    return Box(key, kind, lines, len(_path(collection, node)), waited)


def _process(pid: int, command: str, daemon: int, column: int) -> Box:
    name = "the daemon" if pid == daemon else printable(command) or "process"
    return Box(f"p{pid}", "process", [name, f"pid {pid}"], column)


def _dot(made: Graph) -> bytes:
    lines = [
        "digraph sysmem {",
        '  rankdir=LR; node [shape=box, style="filled,rounded", fontname=monospace];',
    ]
    for box in made.boxes.values():
        fill, outline = _COLOURS[box.kind]
        label = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in box.lines)
        width = 3 if box.waited_for else 1
        lines.append(
            f'  "{box.key}" [label="{label}", fillcolor="{fill}", color="{outline}", penwidth={width}];'
        )
    for first, second, dashed in made.edges:
        lines.append(
            f'  "{first}" -> "{second}"{" [style=dashed, dir=none]" if dashed else " [dir=none]"};'
        )
    return ("\n".join(lines) + "\n}\n").encode()


def svg(made: Graph) -> bytes:
    width, height = _lay_out(made)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="monospace" font-size="{_FONT}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for first, second, dashed in made.edges:
        parts.append(_line(made.boxes[first], made.boxes[second], dashed))
    for box in made.boxes.values():
        fill, outline = _COLOURS[box.kind]
        stroke = 3 if box.waited_for else 1
        parts.append(
            f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="6" '
            f'fill="{fill}" stroke="{outline}" stroke-width="{stroke}"/>'
        )
        for index, line in enumerate(box.lines):
            weight = ' font-weight="bold"' if index == 0 else ""
            parts.append(
                f'<text x="{box.x + _PADDING}" y="{box.y + _PADDING + _LINE * index + _FONT}"{weight} '
                f'fill="#222222">{escape(line)}</text>'
            )
    return "\n".join([*parts, "</svg>\n"]).encode()


def _line(first: Box, second: Box, dashed: bool) -> str:
    x1, y1 = first.x + first.width, first.y + first.height // 2
    x2, y2 = second.x, second.y + second.height // 2
    middle = (x1 + x2) // 2
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}" fill="none" stroke="#777777"{dashes}/>'


def _lay_out(made: Graph) -> tuple[int, int]:
    """Place the boxes: one column for each depth, in the order in which boxes were added. Return the size."""
    columns: dict[int, list[Box]] = {}
    for box in made.boxes.values():
        columns.setdefault(box.column, []).append(box)
    x, tallest = _GAP_Y, 0
    for column in sorted(columns):
        y = _GAP_Y
        for box in columns[column]:
            box.x, box.y = x, y
            y += box.height + _GAP_Y
        tallest = max(tallest, y)
        x += max(box.width for box in columns[column]) + _GAP_X
    for boxes in columns.values():
        # Centre the column vertically, so that a root is beside its children.
        below = max(box.y + box.height for box in boxes) + _GAP_Y
        for box in boxes:
            box.y += (tallest - below) // 2
    return max(x - _GAP_X + _GAP_Y, 2 * _GAP_Y), max(tallest, 2 * _GAP_Y)


def _png(made: Graph) -> bytes:
    try:
        import resvg_py
    except ImportError:
        raise Trouble(
            "a PNG needs the extra of the tools: pip install 'sysmem[tools]' (.svg and .dot work without)"
        ) from None
    return bytes(resvg_py.svg_to_bytes(svg_string=svg(made).decode(), zoom=_PNG_SCALE))
