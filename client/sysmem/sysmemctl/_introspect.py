"""`sysmemctl introspect`: the interface, from its declarations."""

from __future__ import annotations

import argparse
import enum
from typing import Any, Final

from sysmem_protocol import explained, inspector, rendezvous, sysmem2
from sysmem_protocol.library import (
    Bool,
    Enumeration,
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
)
from sysmem_protocol.message import MAX_HANDLES, MAX_MESSAGE_BYTES
from sysmem_protocol.strict import MAX_DEPTH

from ._source import Data
from ._text import console, print_json
from ._trouble import Trouble

#: All served protocols, and the one that those of nodes are composed of.
PROTOCOLS: tuple[type[Interface], ...] = (
    sysmem2.Allocator,
    sysmem2.Node,
    *sysmem2.NODES,
    explained.Explained,
    rendezvous.Rendezvous,
    inspector.Inspector,
    inspector.Watcher,
)

#: The limits of every message. Those of fields are part of their types; those of a daemon are in its snapshot.
LIMITS: Final = {"bytes": MAX_MESSAGE_BYTES, "handles": MAX_HANDLES, "nesting": MAX_DEPTH}


def run(options: argparse.Namespace) -> int:
    """Print the whole interface, one protocol or one method."""
    described = [protocol(each) for each in PROTOCOLS]
    if options.what is not None:
        described = _only(described, options.what)
    if options.json:
        found = types(described)
        print_json({"schema": 1, "protocols": described, "types": found, "limits": LIMITS})
        return 0
    out = console()
    for each in described:
        out.print(f"{each['library']}.{each['name']}", style="bold")
        for method in each["methods"]:
            out.print(f"  {_signature(method)}")
            if options.what is not None:
                out.print(f"      {method['doc']}")
                out.print(f"      ordinal {method['ordinal']:#018x}")
                for part in ("request", "response"):
                    for member in (method[part] or {}).get("fields", ()):
                        required = ", required" if member["required"] else ""
                        out.print(
                            f"      {part} {member['number']} {member['name']}: {member['type']}{required}"
                        )
    if options.what is None:
        limits = ", ".join(f"{name} {value}" for name, value in LIMITS.items())
        out.print(f"limits of a message: {limits}")
    return 0


def protocol(interface: type[Interface]) -> Data:
    """Return a protocol as JSON data."""
    members = [*interface.methods.values(), *interface.events.values()]
    return {
        "name": interface.__name__,
        "library": interface.library,
        "doc": " ".join((interface.__doc__ or "").split()),
        "methods": [_method(each) for each in members],
    }


def _method(method: Method) -> Data:
    return {
        "name": method.wire_name,
        "declared_in": method.interface,
        "ordinal": method.ordinal,
        "kind": "two-way" if method.two_way else "event" if _is_event(method) else "one-way",
        "fallible": method.fallible,
        "doc": method.doc,
        "request": _record(method.request),
        "response": _record(method.response),
    }


def _is_event(method: Method) -> bool:
    return any(method.ordinal in interface.events for interface in PROTOCOLS)


def _record(kind: type[Table] | type[Struct] | None) -> Data | None:
    if kind is None:
        return None
    return {
        "name": kind.__name__,
        "fields": [
            {
                "number": member.field.number,
                "name": member.name,
                "type": spelled(member.field.type),
                "required": member.field.required,
            }
            for member in kind.members
        ],
    }


def spelled(wire: WireType) -> str:
    """Return a wire type in words, with its limit."""
    match wire:
        case Bool():
            return "bool"
        case Integer():
            return f"{'' if wire.signed else 'u'}int{wire.bits}"
        case Enumeration():
            return wire.type.__name__
        case String():
            return f"string of at most {wire.max_bytes} bytes"
        case Vector():
            return f"vector of at most {wire.max_count} {spelled(wire.element)}"
        case Nested():
            return wire.type.__name__
        case HandleType():
            return f"handle: {wire.kind.value}" + (
                f" of {wire.interface}" if wire.interface else ""
            )


def types(described: list[Data]) -> Data:
    """Return the tables, structs and enums that the methods use."""
    wanted = {
        method["name"] + method["declared_in"] for each in described for method in each["methods"]
    }
    found: dict[str, Any] = {}
    for interface in PROTOCOLS:
        for method in (*interface.methods.values(), *interface.events.values()):
            if method.wire_name + method.interface in wanted:
                for kind in (method.request, method.response):
                    if kind is not None:
                        _collect(kind, found)
    return found


def _collect(kind: type[Table] | type[Struct], found: dict[str, Any]) -> None:
    for member in kind.members:
        wire = member.field.type
        while isinstance(wire, Vector):
            wire = wire.element
        if isinstance(wire, Enumeration) and wire.type.__name__ not in found:
            found[wire.type.__name__] = {
                "kind": "flags" if issubclass(wire.type, enum.IntFlag) else "enum",
                "members": {name: int(each) for name, each in wire.type.__members__.items()},
            }
        if isinstance(wire, Nested) and wire.type.__name__ not in found:
            record = _record(wire.type)
            assert record is not None
            found[wire.type.__name__] = {
                "kind": "struct" if issubclass(wire.type, Struct) else "table",
                "fields": record["fields"],
            }
            _collect(wire.type, found)


def _only(described: list[Data], what: str) -> list[Data]:
    for each in described:
        for library in ("", f"{each['library']}.", f"{each['library']}/"):
            if what == library + each["name"]:
                return [each]
            prefix = f"{library}{each['name']}."
            if not what.startswith(prefix):
                continue
            methods = [m for m in each["methods"] if m["name"] == what.removeprefix(prefix)]
            if methods:
                return [{**each, "methods": methods}]
            known = ", ".join(m["name"] for m in each["methods"])
            raise Trouble(f"{each['name']} has no method {what!r}; it has {known}")
    raise Trouble(
        f"there is no protocol {what!r}; there are {', '.join(e['name'] for e in described)}"
    )


def _signature(method: Data) -> str:
    fields = ", ".join(member["name"] for member in (method["request"] or {}).get("fields", ()))
    answer = ""
    if method["kind"] == "two-way":
        names = ", ".join(m["name"] for m in (method["response"] or {}).get("fields", ()))
        answer = f" -> ({names})" + (" or Error" if method["fallible"] else "")
    return f"{method['name']}({fields}){answer}" + (
        "  [event]" if method["kind"] == "event" else ""
    )
