"""A participant in a process of its own, which follows commands over an inherited socket.

`python -m tests.wire.participant RUNTIME_DIR FD`, in the root of the sources. A command is one line of JSON, and its
descriptors come with it. The answer is one line too.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

from ..mapping import BareMapping
from .protocol import constraints
from .raw import Collection, Descriptor, PeerClosed, Refused, Wire, token_of


class Participant:
    """The state between commands: at most one collection and its mappings."""

    def __init__(self, wire: Wire) -> None:
        self.allocator = wire.connect()
        self.wire = wire
        self.tokens: list[Descriptor] = []
        self.collections: list[Collection] = []
        self.maps: list[BareMapping] = []

    def take(self, descriptors: list[Descriptor]) -> None:
        self.tokens = descriptors

    def bind(self, camping: int = 1, size: int = 4096) -> None:
        """Bind every token, and set constraints."""
        for token in self.tokens:
            collection = self.allocator.bind(token_of(token))
            collection.set_constraints(constraints(camping=camping, size=size))
            self.collections.append(collection)

    def validate(self) -> list[bool]:
        return [self.allocator.validate(token_of(t.duplicate()).koid()) for t in self.tokens]

    def wait(self) -> str | int:
        """Wait for the buffers and map them. Descriptors are closed, mappings are kept."""
        for collection in self.collections:
            try:
                info = collection.wait()
            except PeerClosed:
                return "closed"
            except Refused as refused:
                return f"error {refused.error}"
            self.maps = [info.vmo(index).map() for index in range(len(info.buffers))]
            info.close()
        return len(self.maps)

    def write(self, index: int, text: str) -> None:
        self.maps[index][: len(text)] = text.encode()

    def read(self, index: int, length: int) -> str:
        return bytes(self.maps[index][:length]).decode()

    def release(self) -> None:
        for collection in self.collections:
            collection.release_and_close()

    def unmap(self, index: int | None = None) -> None:
        for mapping in self.maps if index is None else [self.maps[index]]:
            mapping.close()

    def hold(self, descriptors: list[Descriptor]) -> None:
        self.tokens += descriptors

    def closed(self) -> bool:
        """Wait until the server closes every collection."""
        return all(collection.rest() == [] for collection in self.collections)


def main(runtime_dir: str, fd: int) -> None:
    with socket.socket(fileno=fd) as control, Wire(runtime_dir) as wire:
        participant = Participant(wire)
        while True:
            data, fds, _, _ = socket.recv_fds(control, 65536, 64)
            if not data:
                return
            command: dict[str, Any] = json.loads(data)
            if fds:
                command["descriptors"] = [Descriptor(wire, one) for one in fds]
            answer = getattr(participant, command.pop("do"))(**command)
            control.send(json.dumps(answer).encode())


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except BrokenPipeError:
        os._exit(1)
