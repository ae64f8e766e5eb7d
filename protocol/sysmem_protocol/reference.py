"""Generates the reference page from the declarations: `python -m sysmem_protocol.reference > docs/protocol.md`.

Every table, enum, method, limit and example on the page is derived. :mod:`.reference_prose` has the text between
them.
"""

from __future__ import annotations

import enum
import sys
import textwrap
from collections.abc import Iterable, Iterator

from . import reference_prose as prose
from .codec import encode, encode_response
from .docstrings import attribute_docstrings, summary
from .explained import Explained
from .handles import Handle
from .images2 import ColorSpace, PixelFormat
from .inspector import Inspector, Watcher
from .library import (
    LIBRARY,
    Bool,
    Enumeration,
    Event,
    HandleType,
    Integer,
    Interface,
    Method,
    Nested,
    String,
    Struct,
    Table,
    Vector,
    WireType,
    declared,
)
from .message import MAX_HANDLES, MAX_MESSAGE_BYTES, Message
from .rendezvous import Rendezvous
from .strict import MAX_DEPTH
from .sysmem2 import (
    DISCOVERABLE,
    NODES,
    Allocator,
    AllocatorAllocateSharedCollectionRequest,
    BufferCollection,
    BufferCollectionConstraints,
    BufferCollectionSetConstraintsRequest,
    BufferCollectionToken,
    BufferCollectionTokenDuplicateRequest,
    BufferMemoryConstraints,
    BufferUsage,
    CpuUsage,
    Error,
    ImageFormatConstraints,
    Node,
    NodeIsAlternateForResponse,
    Rights,
    SetDebugClientInfoRequest,
    SizeU,
)

#: The interfaces that are reached by connecting to a socket of their name.
SERVICES: tuple[type[Interface], ...] = (*DISCOVERABLE, Rendezvous, Inspector)
#: The interfaces in the order of the page. `Node` has no channel of its own; its methods are declared there.
INTERFACES: tuple[type[Interface], ...] = (
    *(*DISCOVERABLE, Node, *NODES),
    *(Explained, Rendezvous, Inspector, Watcher),
)


def page() -> str:
    """Return the whole page in Markdown."""
    body = "\n".join(
        [
            prose.SERVICES,
            prose.CHANNELS,
            prose.MESSAGE,
            prose.BODY,
            prose.SPLIT,
            *_limits(),
            prose.BAD_INPUT,
            prose.RIGHTS,
            *_examples(),
            *(line for interface in INTERFACES for line in _interface(interface)),
            prose.TABLES,
            *(line for kind in _kinds(Table) for line in _table(kind)),
            "## Structs\n",
            *(line for kind in _kinds(Struct) for line in _table(kind)),
            prose.FLEXIBLE,
            *(line for kind in _enums() for line in _enum(kind)),
        ]
    )
    heads = [line.removeprefix("## ") for line in body.splitlines() if line.startswith("## ")]
    contents = "".join(f"- {_link(head)}\n" for head in heads)
    return f"{prose.INTRODUCTION}\n{contents}\n{body}"


# --- contents -----------------------------------------------------------------------------------------------------


def _methods() -> Iterator[Method]:
    """Yield every method once, with the interface that declares it."""
    for interface in INTERFACES:
        yield from _own(interface)


def _own(interface: type[Interface]) -> list[Method]:
    declared = (*interface.methods.values(), *interface.events.values())
    return [m for m in declared if m.interface == interface.__name__]


def _types(kind: type[Table | Struct]) -> Iterator[WireType]:
    """Yield the wire types in a table, including those of nested tables."""
    for member in kind.members:
        wire = member.field.type
        if isinstance(wire, Vector):
            wire = wire.element
        yield wire
        if isinstance(wire, Nested):
            yield from _types(wire.type)


def _all_types() -> list[WireType]:
    messages = [kind for m in _methods() for kind in (m.request, m.response) if kind is not None]
    return [wire for kind in messages for wire in _types(kind)]


def _kinds(base: type[Table | Struct]) -> list[type[Table | Struct]]:
    """Return the tables or structs that are nested in messages, each once, in order of first use."""
    nested = [declared(wire.type) for wire in _all_types() if isinstance(wire, Nested)]
    return [kind for kind in dict.fromkeys(nested) if issubclass(kind, base)]


def _enums() -> list[type[enum.IntEnum | enum.IntFlag]]:
    return list(
        dict.fromkeys([Error, *(w.type for w in _all_types() if isinstance(w, Enumeration))])
    )


# --- pieces of Markdown -------------------------------------------------------------------------------------------


def _rows(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _link(name: str, target: str | None = None) -> str:
    return f"[{name}](#{(target or name).lower().replace('.', '').replace(' ', '-')})"


def spelled(wire: WireType) -> tuple[str, str]:
    """Return a wire type in words, and its limit. Links lead to headings of the page."""
    match wire:
        case Bool():
            return "bool", ""
        case Integer():
            return f"{'' if wire.signed else 'u'}int{wire.bits}", ""
        case Enumeration():
            return f"{_link(wire.type.__name__)}, uint{wire.bits}", ""
        case String():
            return "string", f"{wire.max_bytes} bytes"
        case Vector():
            return f"vector of {spelled(wire.element)[0]}", f"{wire.max_count} elements"
        case Nested():
            return _link(declared(wire.type).__name__), ""
        case HandleType():
            of = f" of {_link(wire.interface)}" if wire.interface else ""
            return f"handle: {wire.kind.value}{of}", ""


def _members(kind: type[Table | Struct], *, request: bool = False) -> str:
    heads = ["field" if issubclass(kind, Table) else "place", "name", "type", "at most"]
    rows: list[list[object]] = [
        [m.field.number, f"`{m.name}`", *spelled(m.field.type)] for m in kind.members
    ]
    if request:
        heads.append("required")
        for row, member in zip(rows, kind.members, strict=True):
            row.append("required" if member.field.required else "")
    heads.append("meaning")
    docs = attribute_docstrings(kind)
    for row, member in zip(rows, kind.members, strict=True):
        row.append(_line(docs[member.name]))
    return _rows(heads, rows)


def _line(text: str) -> str:
    return " ".join(text.split())


def _paragraph(text: str | None) -> str:
    return textwrap.fill(_line(text or ""), 120, break_on_hyphens=False) + "\n"


# --- sections -----------------------------------------------------------------------------------------------------


def _limits() -> Iterator[str]:
    yield "## Limits\n"
    yield _rows(
        ["what", "at most"],
        [
            ["header and body of one datagram", f"{MAX_MESSAGE_BYTES} bytes"],
            ["descriptors in one datagram", MAX_HANDLES],
            ["nesting depth of maps and arrays", MAX_DEPTH],
        ],
    )
    yield "Strings and vectors have limits of their own, which are in the tables below.\n"


class _Sent(Handle):
    """Stands for a descriptor that an example would send."""

    __slots__ = ()

    closed = True

    def fileno(self) -> int:
        return -1


def _examples() -> Iterator[str]:
    yield "## Examples\n"
    yield "Whole messages, in hexadecimal.\n"
    sent = _Sent(-1)
    constraints = BufferCollectionConstraints(
        usage=BufferUsage(cpu=CpuUsage.READ_OFTEN | CpuUsage.WRITE_OFTEN),
        min_buffer_count_for_camping=2,
        buffer_memory_constraints=BufferMemoryConstraints(min_size_bytes=65536),
        image_format_constraints=[
            ImageFormatConstraints(
                pixel_format=PixelFormat.NV12,
                color_spaces=[ColorSpace.REC709],
                min_size=SizeU(256, 256),
            )
        ],
    )
    requests: list[tuple[str, Method, int, Table | None]] = [
        ("request, txid 1", Node.sync, 1, None),
        (
            "name `camera`, id 7",
            Allocator.set_debug_client_info,
            0,
            SetDebugClientInfoRequest(name="camera", id=7),
        ),
        (
            "the server end as descriptor 0",
            Allocator.allocate_shared_collection,
            0,
            AllocatorAllocateSharedCollectionRequest(token_request=sent),
        ),
        (
            "SAME_RIGHTS, the server end as descriptor 0",
            BufferCollectionToken.duplicate,
            0,
            BufferCollectionTokenDuplicateRequest(
                rights_attenuation_mask=Rights.SAME_RIGHTS, token_request=sent
            ),
        ),
        (
            "CPU READ_OFTEN and WRITE_OFTEN, 2 for camping, at least 65536 bytes; one image format: NV12, REC709, "
            "at least 256 × 256",
            BufferCollection.set_constraints,
            0,
            BufferCollectionSetConstraintsRequest(constraints=constraints),
        ),
    ]
    responses: list[tuple[str, Method, int, Table | Error | None]] = [
        ("response, txid 1", Node.sync, 1, None),
        (
            "response, txid 9: CONSTRAINTS_INTERSECTION_EMPTY",
            BufferCollection.wait_for_all_buffers_allocated,
            9,
            Error.CONSTRAINTS_INTERSECTION_EMPTY,
        ),
        (
            "response, txid 3: success, true",
            Node.is_alternate_for,
            3,
            NodeIsAlternateForResponse(is_alternate=True),
        ),
    ]
    bodies = [
        (what, method, txid, b"" if table is None else encode(table)[0])
        for what, method, txid, table in requests
    ] + [
        (what, method, txid, encode_response(method, answer)[0])
        for what, method, txid, answer in responses
    ]
    yield _rows(
        ["message", "bytes"],
        [
            [f"{_link(str(method))}: {what}", f"`{data.hex()}`"]
            for what, method, txid, body in bodies
            for data, _ in Message(txid, method.ordinal, body).datagrams()
        ],
    )


def _interface(interface: type[Interface]) -> Iterator[str]:
    name = interface.__name__
    yield f"## {name}\n"
    yield _paragraph(interface.__doc__)
    if interface in SERVICES:
        of = "" if interface.library == LIBRARY else f", of the library `{interface.library}`"
        yield f"Reached by connecting to the service `{interface.service_name()}`{of}.\n"
    elif interface in NODES:
        yield f"A {_link('Node')}: it has the methods of that interface, with the same ordinals, and these:\n"
    elif interface is Node:
        yield _paragraph(
            f"This is not a channel of its own: {_listed(NODES)} have its methods too."
        )
    yield _rows(
        ["method", "ordinal", "kind"],
        [[_link(m.wire_name, str(m)), f"`{m.ordinal:#018x}`", _kind(m)] for m in _own(interface)],
    )
    for method in _own(interface):
        yield from _method(method)


def _listed(kinds: Iterable[type]) -> str:
    *first, last = [_link(kind.__name__) for kind in kinds]
    return f"{', '.join(first)} and {last}"


def _kind(method: Method) -> str:
    if isinstance(method, Event):
        return "event"
    if not method.two_way:
        return "one-way"
    return "two-way, can fail" if method.fallible else "two-way"


def _method(method: Method) -> Iterator[str]:
    yield f"### {method}\n"
    yield _paragraph(method.doc)
    if isinstance(method, Event):
        assert method.request is not None
        yield "Sent by the server, with txid 0:\n"
        yield _members(method.request)
        return
    if method.request is None:
        yield "Request: empty body.\n"
    else:
        yield "Request:\n"
        yield _members(method.request, request=True)
    if not method.two_way:
        yield "One-way: there is no response.\n"
        return
    kind = "Response, or an " + _link("Error") if method.fallible else "Response"
    if method.response is not None:
        yield f"{kind}:\n"
        yield _members(method.response)
    else:
        yield f"{kind}: {'an empty table' if method.fallible else 'empty body'}.\n"


def _table(kind: type[Table | Struct]) -> Iterator[str]:
    yield f"### {kind.__name__}\n"
    yield _paragraph(kind.__doc__)
    yield _members(kind)


def _enum(kind: type[enum.IntEnum | enum.IntFlag]) -> Iterator[str]:
    yield f"### {kind.__name__}\n"
    yield _paragraph(summary(kind))
    flags = issubclass(kind, enum.IntFlag)
    docs = attribute_docstrings(kind)
    yield _rows(
        ["name", "flag" if flags else "number", "meaning"],
        [
            [name, f"`{member:#x}`" if flags or member > 0xFFFF else int(member), _line(docs[name])]
            for name, member in kind.__members__.items()
        ],
    )


if __name__ == "__main__":
    sys.stdout.write(page())
