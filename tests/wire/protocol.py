"""The protocol's numbers, headers and bodies, written from `docs/spec/protocol.md` alone.

It shares no code with the package. Tables are plain dictionaries from field number to value. An object that owns a
descriptor takes the place of a handle.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import cbor2

HANDLE_TAG = 0x7A5D
MAX_MESSAGE = 64 * 1024
MAX_DESCRIPTORS = 253
SAME_RIGHTS = 0x80000000
READ, WRITE = 0x4, 0x8
SYSTEM_RAM = "fuchsia.sysmem.heap.HEAP_TYPE.SYSTEM_RAM"

# `docs/spec/protocol.md`, the tables of methods: name -> (ordinal, answered)
METHODS: dict[str, tuple[int, bool]] = {
    "Allocator.AllocateNonSharedCollection": (0x5CA681F025A80E44, False),
    "Allocator.AllocateSharedCollection": (0x11A19FF51F0B49C1, False),
    "Allocator.BindSharedCollection": (0x550916B0DC1D5B4E, False),
    "Allocator.ValidateBufferCollectionToken": (0x4C5EE91B02A7E68D, True),
    "Allocator.SetDebugClientInfo": (0x6F68F19A3F509C4D, False),
    "Allocator.GetVmoInfo": (0x21A881120AA0DDF9, True),
    "Node.Sync": (0x11AC2555CF575B54, True),
    "Node.Release": (0x6A5CAE7D6D6E04C6, False),
    "Node.SetName": (0x0B41F1624F48C1E9, False),
    "Node.SetDebugClientInfo": (0x5CDE8914608D99B1, False),
    "Node.SetDebugTimeoutLogDeadline": (0x716B0AF13D5C0806, False),
    "Node.SetVerboseLogging": (0x5209C77415B4DFAD, False),
    "Node.GetNodeRef": (0x5B3D0E51614DF053, True),
    "Node.IsAlternateFor": (0x03A58E00157E0825, True),
    "Node.GetBufferCollectionId": (0x77D19A494B78BA8C, True),
    "Node.SetWeak": (0x22DD3EA514EEFFE1, False),
    "Node.SetWeakOk": (0x38A44FC4D7724BE9, False),
    "Node.AttachNodeTracking": (0x3F22F2A293D3CDAC, False),
    "BufferCollectionToken.DuplicateSync": (0x1C1AF9919D1CA45C, True),
    "BufferCollectionToken.Duplicate": (0x73E78F92EE7FB887, False),
    "BufferCollectionToken.SetDispensable": (0x228ACF979254DF8B, False),
    "BufferCollectionToken.CreateBufferCollectionTokenGroup": (0x30F8D48E77BD36F2, False),
    "BufferCollection.SetConstraints": (0x1FDE0F19D650197B, False),
    "BufferCollection.WaitForAllBuffersAllocated": (0x062300344B61404E, True),
    "BufferCollection.CheckAllBuffersAllocated": (0x35A5FE77CE939C10, True),
    "BufferCollection.AttachToken": (0x46AC7D0008492982, False),
    "BufferCollection.AttachLifetimeTracking": (0x3ECB510113116DCF, False),
    "BufferCollectionTokenGroup.CreateChild": (0x41A0075D419F30C5, False),
    "BufferCollectionTokenGroup.CreateChildrenSync": (0x15DEA448C536070A, True),
    "BufferCollectionTokenGroup.AllChildrenPresent": (0x5C327E4A23391312, False),
    # `docs/spec/client-api.md`, "Passing tokens": methods of the library sysmem
    "Rendezvous.Offer": (0x68ED6F6857F22A4D, True),
    "Rendezvous.Take": (0x1ABD0AA3B8AE7F36, True),
}

UNSPECIFIED = 1
PROTOCOL_DEVIATION = 2
NOT_FOUND = 3
HANDLE_ACCESS_DENIED = 4
NO_MEMORY = 5
CONSTRAINTS_INTERSECTION_EMPTY = 6
PENDING = 7
TOO_MANY_GROUP_CHILD_COMBINATIONS = 8
NO_MORE_STRONG_VMO_HANDLES = 9


def hashed_ordinal(name: str) -> int:
    """Return the ordinal of `<Protocol>.<Method>` as `docs/spec/protocol.md` derives it."""
    library = "sysmem" if name.startswith("Rendezvous.") else "fuchsia.sysmem2"
    digest = hashlib.sha256(f"{library}/{name}".encode()).digest()
    return int(struct.unpack("<Q", digest[:8])[0]) & ~(1 << 63)


def header(txid: int, ordinal: int, flags: bytes = b"\x02\x00\x80", magic: int = 1) -> bytes:
    return struct.pack("<I3sBQ", txid, flags, magic, ordinal)


def encode(table: Mapping[int, Any] | None) -> tuple[bytes, list[Any]]:
    """Return the body and the objects whose descriptors are sent with it, in order."""
    handles: list[Any] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if hasattr(value, "fileno"):
            handles.append(value)
            return cbor2.CBORTag(HANDLE_TAG, len(handles) - 1)
        return value

    body = b"" if table is None else cbor2.dumps(plain(table))
    return body, handles


def decode(body: bytes, descriptors: Sequence[Any]) -> Any:
    """Return a table, with the descriptors in the places of handles."""
    used: list[int] = []

    def with_handles(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: with_handles(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [with_handles(item) for item in value]
        if isinstance(value, cbor2.CBORTag):
            assert value.tag == HANDLE_TAG
            used.append(value.value)
            return descriptors[value.value]
        return value

    value = cbor2.loads(body)
    assert cbor2.dumps(value) == body, "not minimal, or not definite"
    table = with_handles(value)
    assert sorted(used) == list(range(len(descriptors))), "each descriptor is referred to once"
    return table


# Constraints

CPU_READ, CPU_READ_OFTEN, CPU_WRITE, CPU_WRITE_OFTEN = 1, 2, 4, 8


def constraints(
    *,
    cpu: int | None = CPU_READ_OFTEN | CPU_WRITE_OFTEN,
    camping: int | None = 1,
    size: int | None = 4096,
    usage: Mapping[int, int] | None = None,
    memory: Mapping[int, Any] | None = None,
    more: Mapping[int, Any] | None = None,
) -> dict[int, Any]:
    """Return BufferCollectionConstraints: by default of a reader and writer of one page that camps on one buffer."""
    table: dict[int, Any] = {}
    uses = ({} if cpu is None else {2: cpu}) | dict(usage or {})
    if uses:
        table[1] = uses
    if camping is not None:
        table[2] = camping
    limits = ({} if size is None else {1: size}) | dict(memory or {})
    if limits:
        table[7] = limits
    return table | dict(more or {})


def only_sizes(low: int, high: int) -> dict[int, Any]:
    """Return constraints that only sizes from `low` to `high` meet. Two with disjoint ranges conflict."""
    return constraints(camping=1, size=low, memory={2: high})


READER = constraints(cpu=CPU_READ_OFTEN, camping=0, size=None)
NO_USAGE: dict[int, Any] = {1: {1: 1}}
