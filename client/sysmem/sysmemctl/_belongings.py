"""The descriptors that the clients of a replay hold: ends of channels, buffers and others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Self

from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle, channel_pair, eventpair
from sysmem_protocol.library import HandleKind
from sysmem_protocol.rendezvous import RendezvousTakeResponse
from sysmem_protocol.sysmem2 import (
    BufferCollectionWaitForAllBuffersAllocatedResponse,
    CreateTokensResponse,
    NodeGetNodeRefResponse,
    VmoInfo,
)

from ._numbers import Numbers
from ._source import Data
from ._steps import Steps


class Belongings:
    """Channels and other descriptors, by their identity in the capture. Owns all of them."""

    def __init__(self, steps: Steps, numbers: Numbers) -> None:
        """Hold no descriptors yet."""
        self._steps = steps
        self._numbers = numbers
        self._ends: dict[int, Channel] = {}
        #: Client ends whose connection is not known yet, and spare ones.
        self._loose: list[Channel] = []
        self._vmos: dict[tuple[int, int], Handle] = {}
        self._refs: dict[tuple[int, int], Handle] = {}
        self._kept: list[Handle] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        owners: list[Channel | Handle] = [
            *self._ends.values(),
            *self._loose,
            *self._vmos.values(),
            *self._refs.values(),
            *self._kept,
        ]
        for owner in owners:
            owner.close()

    # --- channels -----------------------------------------------------------------------------------------------------

    def connected(self, connection: int, end: Channel) -> None:
        """Take ownership of the client's end of a connection to a service."""
        self._ends[connection] = end

    def end(self, connection: int) -> Channel | None:
        """Return the client's end of a connection, or None if there is none or it is closed."""
        if connection not in self._ends and connection in self._steps.koids:
            koid = self._numbers.koid(self._steps.koids[connection])
            for loose in self._loose:
                if koid is not None and loose.peer_name().endswith(b"/%d" % koid):
                    self._ends[connection] = loose
                    self._loose.remove(loose)
                    break
        end = self._ends.get(connection)
        return end if end is not None and end.fileno() >= 0 else None

    def ends(self) -> Iterator[tuple[int, Channel]]:
        """Yield each connection whose client's end is open, and that end."""
        for connection in self._steps.interfaces:
            if (end := self.end(connection)) is not None:
                yield connection, end

    def close_end(self, connection: int) -> None:
        """Close the client's end of a connection and all duplicates of it."""
        end = self.end(connection)
        if end is None:
            return
        name = end.peer_name()
        for other in self._loose:
            if name and other.peer_name() == name:
                other.close()
        self._loose = [other for other in self._loose if other.fileno() >= 0]
        end.close()

    # --- descriptors --------------------------------------------------------------------------------------------------

    def handle(self, kind: HandleKind, value: Data) -> Handle:
        """Return a descriptor that corresponds to one in the capture. The caller closes it."""
        known: Handle | Channel | None = None
        match kind:
            case HandleKind.SERVER_END:
                return self._new_end()
            case HandleKind.EVENTPAIR:
                ours, theirs = eventpair()
                self._kept.append(ours)
                return theirs
            case HandleKind.CLIENT_END:
                connection = self._steps.by_koid.get(value.get("koid") or 0)
                known = None if connection is None else self.end(connection)
            case HandleKind.VMO if "buffer" in value:
                known = self._vmos.get((value["collection"], value["buffer"]))
            case HandleKind.EVENT if "node" in value:
                known = self._refs.get((value["collection"], value["node"]))
        if known is not None:
            return Handle(os.dup(known.fileno()))
        # The daemon did not know the original either, so any new object of that kind corresponds to it.
        if kind is HandleKind.VMO:
            return Handle(os.memfd_create("unknown"))
        return Handle(os.eventfd(0)) if kind is HandleKind.EVENT else self._new_end()

    def _new_end(self) -> Handle:
        near, far = channel_pair()
        self._loose.append(Channel(near.detach()))
        return Handle(far.detach())

    def keep(self, connection: int, answer: object) -> None:
        """Take ownership of the descriptors in a response, so that later requests can use them."""
        match answer:
            case CreateTokensResponse():
                self._loose += [Channel(token.take()) for token in answer.tokens]
            case RendezvousTakeResponse() if answer.token is not None:
                self._loose.append(Channel(answer.token.take()))
            case NodeGetNodeRefResponse():
                self._refs[self._steps.nodes[connection]] = answer.node_ref
            case BufferCollectionWaitForAllBuffersAllocatedResponse():
                collection, _ = self._steps.nodes[connection]
                for index, buffer in enumerate(answer.buffer_collection_info.buffers or ()):
                    self._keep_buffer(collection, index, buffer.vmo, buffer.close_weak_asap)
            case VmoInfo():
                id = answer.buffer_collection_id
                collection = self._numbers.collection(id) or id
                self._keep_buffer(
                    collection, answer.buffer_index, answer.weak_vmo, answer.close_weak_asap
                )

    def _keep_buffer(
        self, collection: int, index: int, vmo: Handle | None, close_weak_asap: Handle | None
    ) -> None:
        if close_weak_asap is not None:
            self._kept.append(close_weak_asap)
        if vmo is not None and self._vmos.setdefault((collection, index), vmo) is not vmo:
            self._kept.append(vmo)

    def drop(self, collection: int) -> None:
        """Close the buffers of a collection."""
        for key in [key for key in self._vmos if key[0] == collection]:
            self._vmos.pop(key).close()
