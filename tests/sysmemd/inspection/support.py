"""A client of the Inspector on the bench."""

from __future__ import annotations

import json
import os
from typing import Any

from sysmem_protocol import codec
from sysmem_protocol.channel import Channel
from sysmem_protocol.inspector import (
    Inspector,
    InspectorExplainRequest,
    InspectorSnapshotRequest,
)
from sysmem_protocol.library import Method, Table
from sysmem_protocol.sysmem2 import Error
from sysmemd.config import InspectSection, Limits
from sysmemd.inspection import Inspection, InspectorServer
from sysmemd.ports import Peer

from ..channels.support import Bench, Client

_decoder = codec.Decoder()


class Look:
    """A bench with an Inspector."""

    def __init__(self, inspect: InspectSection | None = None, limits: Limits | None = None) -> None:
        self.bench = Bench(limits=limits, inspect=inspect)
        self.inspection = Inspection(self.bench.service)
        self.client = self.connect()

    def close(self) -> None:
        self.inspection.close()
        self.bench.close()

    def connect(self) -> Client:
        """Another connection to the Inspector."""
        client, far = self.bench.client()
        peer = Peer(os.getpid(), os.getuid(), os.getgid())
        InspectorServer(self.inspection, Channel(far.take()), peer)
        return client

    def run(self) -> None:
        """Let the service do all work that is possible now."""
        self.bench.run()
        while self.bench.clock.run_due():
            self.bench.run()

    def snapshot(self, id: int | None = None) -> Any:
        request = InspectorSnapshotRequest(buffer_collection_id=id)
        return self.answer(Inspector.snapshot, request)

    def explain(self, id: int) -> Any:
        request = InspectorExplainRequest(buffer_collection_id=id)
        return self.answer(Inspector.explain, request)

    def answer(self, method: Method, request: Table) -> Any:
        """Return the JSON of a response, or its error."""
        txid = self.client.send(method, request)
        self.run()
        return read(self.client, method, txid)


def read(client: Client, method: Method, txid: int) -> Any:
    message = client.message()
    assert message is not None
    assert message.txid == txid
    answer = _decoder.response(method, message.body, message.handles)
    if isinstance(answer, Error):
        return answer
    assert isinstance(answer, Table)
    [(_, vmo)] = answer.set_fields()
    with vmo:
        size = os.fstat(vmo.fileno()).st_size
        return json.loads(os.pread(vmo.fileno(), size, 0))
