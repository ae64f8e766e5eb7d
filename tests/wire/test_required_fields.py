"""`docs/spec/protocol.md`, "What bad input gets": required fields that are un-set, or as good as that."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from .protocol import METHODS, SAME_RIGHTS
from .raw import Descriptor, Wire
from .victims import NODES, victim

REQUIRED: dict[str, dict[str, dict[int, str]]] = {
    "allocator": {
        "Allocator.AllocateNonSharedCollection": {1: "channel"},
        "Allocator.AllocateSharedCollection": {1: "channel"},
        "Allocator.BindSharedCollection": {1: "token", 2: "channel"},
        "Allocator.ValidateBufferCollectionToken": {1: "number"},
        "Allocator.SetDebugClientInfo": {1: "string"},
    },
    **{
        kind: {
            "Node.SetName": {1: "number", 2: "string"},
            "Node.SetDebugClientInfo": {1: "string"},
            "Node.SetDebugTimeoutLogDeadline": {1: "number"},
            "Node.IsAlternateFor": {1: "event"},
            "Node.AttachNodeTracking": {1: "eventpair"},
        }
        for kind in NODES
    },
}
REQUIRED["token"] |= {
    "BufferCollectionToken.DuplicateSync": {1: "masks"},
    "BufferCollectionToken.Duplicate": {1: "mask", 2: "channel"},
    "BufferCollectionToken.CreateBufferCollectionTokenGroup": {1: "channel"},
}
REQUIRED["collection"] |= {
    "BufferCollection.AttachToken": {1: "mask", 2: "channel"},
    "BufferCollection.AttachLifetimeTracking": {1: "eventpair", 2: "number"},
}
REQUIRED["group"] |= {
    "BufferCollectionTokenGroup.CreateChild": {1: "channel"},
    "BufferCollectionTokenGroup.CreateChildrenSync": {1: "masks"},
}


def good_value(wire: Wire, kind: str) -> Any:
    match kind:
        case "channel":
            return wire.pair()[1]
        case "eventpair":
            return wire.eventpair()[1]
        case "token":
            token = wire.connect().shared()
            token.sync()
            return token
        case "number":
            return 0
        case "string":
            return "n"
        case "mask":
            return SAME_RIGHTS
        case "masks":
            return [SAME_RIGHTS]
        case _:
            raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "method", "missing"),
    [
        (kind, method, field)
        for kind, methods in REQUIRED.items()
        for method, fields in methods.items()
        for field in fields
    ],
)
def test_required_field_un_set(wire: Wire, kind: str, method: str, missing: int) -> None:
    one = victim(wire, kind)
    fields = REQUIRED[kind][method]
    table = {field: good_value(wire, what) for field, what in fields.items() if field != missing}
    one.channel.send(method, table, txid=int(METHODS[method][1]))
    one.assert_down()


# Handles of the wrong kind


def stream(wire: Wire) -> Descriptor:
    return wire.pair(socket.SOCK_STREAM)[1]


def listening(wire: Wire, kind: int = socket.SOCK_SEQPACKET) -> Descriptor:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(b"\0wire-listening-%d-%d" % (os.getpid(), sock.fileno()))
    sock.listen()
    return Descriptor(wire, sock.detach())


def unconnected(wire: Wire) -> Descriptor:
    return Descriptor(wire, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).detach())


def named(wire: Wire) -> Descriptor:
    """Return one end of a pair that already has a name."""
    _, server = wire.pair()
    with socket.socket(fileno=os.dup(server.fileno())) as sock:
        sock.bind(b"\0wire-named-%d-%d" % (os.getpid(), server.fileno()))
    return server


def connected_by_name(wire: Wire) -> Descriptor:
    return wire.connect().duplicate()


def internet(wire: Wire) -> Descriptor:
    return Descriptor(wire, socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach())


def pipe(wire: Wire) -> Descriptor:
    reader, writer = os.pipe()
    os.close(reader)
    return Descriptor(wire, writer)


NO_CHANNEL: dict[str, Callable[[Wire], Descriptor]] = {
    "a regular file": lambda wire: wire.file(__file__, os.O_RDONLY),
    "a device": lambda wire: wire.file(),
    "a memfd": lambda wire: wire.memfd(),
    "an eventfd": lambda wire: wire.eventfd(),
    "a pipe": pipe,
    "a path": lambda wire: wire.file("/", os.O_PATH),
    "a stream socket": stream,
    "a datagram socket": lambda wire: wire.pair(socket.SOCK_DGRAM)[1],
    "an internet socket": internet,
    "a listening socket": listening,
    "a listening stream socket": lambda wire: listening(wire, socket.SOCK_STREAM),
    "an unconnected socket": unconnected,
    "a bound end": named,
    "an end connected by name": connected_by_name,
}
NO_EVENTPAIR = {
    what: make
    for what, make in NO_CHANNEL.items()
    if what not in ("a stream socket", "a bound end", "an end connected by name")
}
NO_TOKEN = {
    what: make
    for what, make in NO_CHANNEL.items()
    if make not in (listening, unconnected, named, connected_by_name)
}


@pytest.mark.parametrize(
    ("kind", "method", "field", "wrong"),
    [
        (kind, method, field, wrong)
        for kind, methods in REQUIRED.items()
        for method, fields in methods.items()
        for field, what in fields.items()
        for wrong in {
            "channel": NO_CHANNEL,
            "token": NO_TOKEN,
            "eventpair": NO_EVENTPAIR,
        }.get(what, ())
    ],
)
def test_handle_of_the_wrong_kind_is_as_a_required_field_un_set(
    wire: Wire, kind: str, method: str, field: int, wrong: str
) -> None:
    one = victim(wire, kind)
    table = {
        number: NO_CHANNEL[wrong](wire) if number == field else good_value(wire, what)
        for number, what in REQUIRED[kind][method].items()
    }
    one.channel.send(method, table, txid=int(METHODS[method][1]))
    one.assert_down()


@pytest.mark.parametrize("wrong", ["a listening socket", "an unconnected socket", "a bound end"])
def test_a_seqpacket_socket_that_is_no_token_is_an_unknown_token(wire: Wire, wrong: str) -> None:
    allocator = wire.connect()
    collection = allocator.bind(NO_CHANNEL[wrong](wire))
    collection.assert_closes()
    allocator.sync()


def test_a_connection_to_the_daemon_is_an_unknown_token(wire: Wire) -> None:
    allocator, other = wire.connect(), wire.connect()
    collection = allocator.bind(other.duplicate())
    collection.assert_closes()
    allocator.sync()
    other.sync()
