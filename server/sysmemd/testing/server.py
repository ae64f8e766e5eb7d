"""The server of a test's connections to the daemon under test."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import msgspec

from sysmem_protocol import testing
from sysmem_protocol.channel import Channel
from sysmem_protocol.library import Interface
from sysmem_protocol.sysmem2 import Error
from sysmem_protocol.testing import End

from ..channels import Service
from ..channels.connection import Connection
from ..channels.errors import Failed
from ..channels.server import Unattached, unnamed
from ..documents import Document
from ..ports import Peer
from ..quota import Exceeded
from .faults import Faults


class TestingServer(Unattached):
    """One connection of a test."""

    interface: ClassVar[type[Interface]] = testing.Testing

    def __init__(self, faults: Faults, service: Service, channel: Channel, peer: Peer) -> None:
        """Take ownership of `channel`, just accepted from the process `peer`."""
        self._faults = faults
        self._service = service
        self._peer = peer
        account = service.users.open_account(peer)
        self.connection: Connection = service.connect(channel, self, account)

    # --- interface for the connection ---

    def about(self) -> dict[str, Any]:
        return unnamed(self.interface, self._peer.pid)

    def refuse(self, reason: str) -> None:
        self._service.log.error(
            "a Testing channel was closed because of an error", reason=reason, **self.about()
        )
        self.connection.close()

    def failed(self, reason: str) -> None:
        self.refuse(f"the daemon failed: {reason}")

    def exceeded(self, error: Exceeded) -> None:
        self.connection.refuse(str(error))

    def peer_closed(self) -> None:
        self.connection.close()

    # --- Testing ---

    def refuse_next_allocation(self, request: testing.TestingRefuseNextAllocationRequest) -> None:
        assert request.error is not None
        assert request.times is not None
        self._faults.refuse_next_allocation(Error(request.error), request.times)

    def delay(self, request: testing.TestingDelayRequest) -> None:
        assert request.method is not None
        assert request.nanoseconds is not None
        self._faults.delay(request.method, request.nanoseconds / 1e9)

    def close(self, request: testing.TestingCloseRequest) -> testing.TestingCloseResponse:
        assert request.client_name is not None
        return testing.TestingCloseResponse(closed=self._faults.close(request.client_name))

    def fail_syscall(self, request: testing.TestingFailSyscallRequest) -> None:
        assert request.name is not None
        assert request.errno is not None
        assert request.times is not None
        try:
            self._faults.fail_syscall(request.name, request.errno, request.times)
        except KeyError:
            raise Failed(Error.NOT_FOUND, f"{request.name} can't be made to fail") from None

    def limit_heap(self, request: testing.TestingLimitHeapRequest) -> None:
        assert request.heap_type is not None
        try:
            self._faults.heap_limit(request.heap_type, request.max_bytes)
        except KeyError:
            raise Failed(Error.NOT_FOUND, f"there is no heap {request.heap_type}") from None

    def end_at(self, request: testing.TestingEndAtRequest) -> None:
        assert request.client_name is not None
        assert request.message is not None
        assert request.end is not None
        self._faults.end_at(request.client_name, request.message, End(request.end))

    def clear(self) -> None:
        self._faults.clear()

    def messages(self) -> testing.TestingMessagesResponse:
        told = {
            "clients": [dataclasses.asdict(client) for client in self._faults.clients()],
            "trace": self._faults.trace(),
        }
        document = Document("sysmem messages", [msgspec.json.encode(told)])
        try:
            return testing.TestingMessagesResponse(messages=document.open())
        finally:
            document.close()
