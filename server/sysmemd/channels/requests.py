"""Checks of requests beyond their tables: headers of messages without a body, and kinds of handles."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from sysmem_protocol.handles import Handle
from sysmem_protocol.kinds import describe, is_kind, is_nameless_end
from sysmem_protocol.library import HandleKind, HandleType, Interface, Member, Method, Table
from sysmem_protocol.message import FLAGS, HEADER, MAGIC

#: The number of header bytes before those that are the same in each message of a method.
TXID_BYTES = 4


def bare_methods(interface: type[Interface]) -> Mapping[bytes, Method]:
    """Return the methods whose requests are only a header, by the bytes that follow the txid."""
    found = _bare_methods.get(interface)
    if found is None:
        found = _bare_methods[interface] = {
            HEADER.pack(0, FLAGS, MAGIC, method.ordinal)[TXID_BYTES:]: method
            for method in interface.methods.values()
            if method.request is None
        }
    return found


_bare_methods: dict[type[Interface], Mapping[bytes, Method]] = {}


_members_with_handles: dict[Method, tuple[Member, ...]] = {}


def handle_members(method: Method) -> tuple[Member, ...]:
    found = _members_with_handles.get(method)
    if found is None:
        members = method.request.members if method.request else ()
        found = tuple(m for m in members if isinstance(m.field.type, HandleType))
        _members_with_handles[method] = found
    return found


def flaw(method: Method, request: Table) -> str | None:
    """Return what is wrong with a decoded request: an un-set required field, or a handle of the wrong kind."""
    for name in request.missing():
        return f"$.{name} is required"
    for member in handle_members(method):
        handle = getattr(request, member.name)
        kind = member.field.type
        assert isinstance(kind, HandleType)
        if handle is not None and not _may_be(handle, kind.kind):
            return flaw_of(member.name, handle, kind.kind)
    return None


def _may_be(handle: Handle, kind: HandleKind) -> bool:
    """Return whether a handle can be of a field's kind. Kinds that the method checks itself pass."""
    match kind:
        case HandleKind.CLIENT_END:
            return True  # its method looks for the token first; see `Service.find_token`
        case HandleKind.SERVER_END:
            return is_nameless_end(
                handle, socket.SOCK_SEQPACKET
            )  # the daemon binds it to a name next
        case _:
            return is_kind(handle.fileno(), kind)


def flaw_of(field: str, handle: Handle, kind: HandleKind) -> str:
    """Return the message about a handle that is not of its field's kind."""
    return f"$.{field} must be {_WANTED[kind]}, not {describe(handle.fileno())}"


_WANTED = {
    HandleKind.CLIENT_END: "a SOCK_SEQPACKET Unix socket",
    HandleKind.SERVER_END: "one end of a connected, nameless SOCK_SEQPACKET pair",
    HandleKind.EVENTPAIR: "one end of a connected, nameless SOCK_STREAM or SOCK_SEQPACKET pair",
    HandleKind.VMO: "a memfd or regular file",
    HandleKind.EVENT: "an event",
}
