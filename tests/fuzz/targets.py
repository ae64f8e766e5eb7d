"""The fuzz targets: a function of bytes for each parser of foreign data.

Each function returns if the input is accepted, after it has checked the result, and if the input is refused as
documented. Any other exception is a find.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cbor2
import msgspec

from sysmem.sysmemctl._differences import differences
from sysmem.sysmemctl._recording import parse as parse_capture
from sysmem.sysmemctl._steps import Kind, Steps
from sysmem.sysmemctl._trouble import Trouble
from sysmem_protocol import codec, message, strict
from sysmem_protocol.codec import Decoder
from sysmem_protocol.explained import Explained
from sysmem_protocol.handles import Handle
from sysmem_protocol.inspector import Inspector
from sysmem_protocol.library import Method
from sysmem_protocol.message import HEADER, Message
from sysmem_protocol.rendezvous import Rendezvous
from sysmem_protocol.sysmem2 import (
    Allocator,
    BufferCollection,
    BufferCollectionConstraints,
    BufferCollectionSetConstraintsRequest,
    BufferCollectionToken,
    BufferCollectionTokenGroup,
)
from sysmemd import config, explain
from sysmemd.access import Access
from sysmemd.configured import platform
from sysmemd.daemon import socket_permissions

ROOT = Path(__file__).parents[2]

METHODS: list[Method] = [
    method
    for interface in (
        Allocator,
        BufferCollectionToken,
        BufferCollection,
        BufferCollectionTokenGroup,
        Rendezvous,
        Inspector,
        Explained,
    )
    for method in interface.methods.values()
]
#: The maximum number of descriptors with an input.
_MAX_HANDLES = 3
#: The maximum cost of a case: explaining a refusal tries very many smaller cases.
_MAX_CASE_BYTES = 4000


class _Arriving:
    """Descriptors that arrive with some bytes. Each must be closed exactly once."""

    def __init__(self, number: int) -> None:
        self.closed: list[int] = []
        self.handles = [Handle(fd, self.closed.append) for fd in range(1000, 1000 + number)]

    def assert_closed(self) -> None:
        """Check that each descriptor was closed exactly once."""
        expected = list(range(1000, 1000 + len(self.handles)))
        assert sorted(self.closed) == expected, f"closed {self.closed}, arrived {expected}"


def fuzz_message(data: bytes) -> None:
    """The first byte is the number of descriptors."""
    arriving = _Arriving(data[0] % (_MAX_HANDLES + 1) if data else 0)
    data = data[1:]
    try:
        parsed = message.parse(data, arriving.handles)
    except message.MalformedMessage:
        arriving.assert_closed()
        return
    if not parsed.more:
        assert [sent for sent, _ in parsed.datagrams()] == [data]
    parsed.close()
    arriving.assert_closed()


def fuzz_strict(data: bytes) -> None:
    """An accepted body can be decoded and is accepted again, unless one of its texts is not UTF-8."""
    try:
        decodable, _ = strict.examine(data)
    except strict.NotStrictError:
        return
    assert strict.examine(decodable)[0] == decodable
    try:
        cbor2.loads(decodable, allow_indefinite=False, allow_duplicate_keys=False)
    except cbor2.CBORDecodeError as error:
        if not isinstance(error.__cause__, UnicodeDecodeError):
            raise


def fuzz_codec(data: bytes) -> None:
    """The first byte selects the method and direction, the second is the number of descriptors."""
    if len(data) < 2:
        return
    method = METHODS[data[0] // 2 % len(METHODS)]
    arriving = _Arriving(data[1] % (_MAX_HANDLES + 1))
    decode = Decoder().response if data[0] % 2 else Decoder().request
    try:
        table = decode(method, data[2:], arriving.handles)
    except codec.DecodeError:
        arriving.assert_closed()
        return
    if table is None or isinstance(table, int):
        return
    body, handles = codec.encode(table)
    again = Decoder().table(type(table), body, handles)
    assert codec.encode(again)[0] == body
    for _, value in again.set_fields():
        if isinstance(value, Handle):
            value.close()


def fuzz_config(data: bytes) -> None:
    """A file is refused, or its settings can be used and written."""
    try:
        read = config.parse_bytes(data)
        socket_permissions(read)
        platform(read)
        Access.of(read.access)
        read.quota.limits_by_uid()
    except config.ConfigError:
        return
    assert config.parse(msgspec.to_builtins(read)) == read


def fuzz_explain(data: bytes) -> None:
    """A case is refused, or has a result that can be printed."""
    if len(data) > _MAX_CASE_BYTES:
        return
    try:
        result = explain.work_out(json.loads(data), 36)
    except (ValueError, RecursionError):
        return
    assert result.agreed == (not result.line)
    json.dumps(result.data)
    io.StringIO().write(result.report)


def fuzz_capture(data: bytes) -> None:
    """A capture is refused, or can be compared with itself."""
    try:
        recording = parse_capture(data, "fuzzed")
        steps = Steps(recording.events)
    except Trouble:
        return
    assert isinstance(recording.lost, int)
    told = [step.event for step in steps.steps if step.kind is Kind.TOLD]
    assert list(differences(told, told)) == []


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "message": fuzz_message,
    "strict": fuzz_strict,
    "codec": fuzz_codec,
    "config": fuzz_config,
    "explain": fuzz_explain,
    "capture": fuzz_capture,
}


# --- what to begin with -------------------------------------------------------------------------------------------


def seeds(target: str) -> Iterator[bytes]:
    """Yield valid inputs of a target, as a start."""
    cases = sorted((ROOT / "examples" / "constraints").glob("*.json"))
    match target:
        case "message":
            yield from (b"\0" + data for data, _ in Message(1, 2, b"body").datagrams())
            yield b"\1" + HEADER.pack(1, message.FLAGS_MORE, message.MAGIC, 2)
        case "strict" | "codec":
            for case in cases:
                for participant in json.loads(case.read_text())["participants"]:
                    if "constraints" in participant:
                        constraints = BufferCollectionConstraints.from_dict(
                            participant["constraints"]
                        )
                        request = BufferCollectionSetConstraintsRequest(constraints=constraints)
                        body, _ = codec.encode(request)
                        number = METHODS.index(BufferCollection.set_constraints)
                        yield bytes([2 * number, 0]) + body if target == "codec" else body
            if target == "codec":
                # a descriptor
                for number in range(len(METHODS)):
                    yield bytes([2 * number, 1]) + cbor2.dumps(
                        {1: cbor2.CBORTag(strict.HANDLE_TAG, 0)}
                    )
                    yield bytes([2 * number + 1, 0]) + cbor2.dumps({2: 1})
        case "config":
            pages = ROOT / "docs" / "configuration.md"
            blocks = pages.read_text().split("```toml\n")[1:]
            yield from (block.partition("```")[0].encode() for block in blocks)
        case "explain":
            yield from (case.read_bytes() for case in cases)
        case "capture":
            header = {"capture": 1, "version": "0", "at": "", "snapshot": {}}
            events = [
                {"event": "connected", "connection": 1, "protocol": Allocator.service_name()},
                {"event": "node", "connection": 2, "by": 1, "collection": 5, "node": 1, "koid": 7},
                {
                    "event": "message",
                    "connection": 1,
                    "direction": "in",
                    "protocol": "Allocator",
                    "method": "BindSharedCollection",
                    "body": {"token": {"koid": 7}},
                },
                {"event": "left", "connection": 2, "collection": 5, "first": 1, "cause": None},
                {"event": "closed", "connection": 2},
                {"event": "lost", "count": 3},
                {"event": "end", "why": "time", "snapshot": None},
            ]
            yield "".join(f"{json.dumps(line)}\n" for line in (header, *events)).encode()


def corpus(target: str) -> list[Path]:
    """Return the files of inputs that were finds."""
    directory = Path(__file__).with_name("corpus") / target
    return sorted(directory.iterdir()) if directory.is_dir() else []


def assert_found_nothing(target: str, data: bytes) -> None:
    """Try one input; it may leave no descriptor open."""
    before = os.listdir("/proc/self/fd")
    TARGETS[target](data)
    assert os.listdir("/proc/self/fd") == before
