"""A channel of each kind, with the channels that must fail with it and those that must not."""

from __future__ import annotations

from dataclasses import dataclass

from .raw import Channel, Node, Wire

NODES = ("token", "collection", "group")
KINDS = ("allocator", *NODES, "released token", "released collection")


@dataclass(slots=True)
class Victim:
    kind: str
    channel: Channel
    relative: Node  # for a node its parent; for an Allocator a node that was created through it
    debug_info: str

    def assert_down(self) -> None:
        """Check that the channel closed without a response. A node failed; an Allocator's nodes continue."""
        self.channel.assert_closes()
        if self.kind == "allocator":
            self.relative.sync()
        else:
            self.relative.assert_closes()

    def assert_up(self) -> None:
        self.relative.sync()
        if self.kind == "allocator":
            assert (
                self.channel.call("Allocator.ValidateBufferCollectionToken", {1: 0}).body[1]
                is False
            )
        else:
            self.channel.call("Node.Sync")


def victim(wire: Wire, kind: str) -> Victim:
    allocator = wire.connect()
    root = allocator.shared()
    if kind == "allocator":
        return Victim(kind, allocator, root, "Allocator.SetDebugClientInfo")
    node: Node
    if kind == "group":
        node = root.group()
    else:
        node = token = root.duplicate_token()
        if kind.endswith("collection"):
            token.sync()
            node = allocator.bind(token)
    node.sync()
    if kind.startswith("released"):
        node.release()
        node.assert_closes()
        root.sync()
    return Victim(kind, node, root, "Node.SetDebugClientInfo")
