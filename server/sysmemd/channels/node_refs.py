"""Node refs: the objects that identify nodes, for `GetNodeRef` and `IsAlternateFor`."""

from __future__ import annotations

import os
import stat
from typing import cast

from sysmem_protocol.handles import Handle
from sysmem_protocol.kinds import status

from ..quota import Kind
from ..tree import Node
from ..users import Account, Charge

#: The identity of a descriptor's object.
_Identity = tuple[int, int]


class NodeRefs:
    """Node refs: an unforgeable object, the read end of a pipe, for each node whose ref was requested."""

    def __init__(self) -> None:
        self._nodes: dict[_Identity, Node] = {}

    def of(self, node: Node, account: Account) -> Handle:
        """Return a node's ref, a descriptor to send to a client. A node has one ref for life, through bind and release.

        Raises `OSError` if the daemon has no descriptor left, and :class:`.Exceeded` if `account` is over its quota.
        """
        if node.ref is None:
            charge = account.charge(Kind.DESCRIPTORS)
            try:
                near, far = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                charge.close()
                raise
            os.close(far)
            node.ref = _Ref(Handle(near), node, self._nodes, charge)
        return cast("_Ref", node.ref).handle.duplicate()

    def node(self, handle: Handle) -> Node | None:
        """Return the node of a ref; None for any other object, and for a node that has left the tree."""
        return self._nodes.get(_identity(handle.fileno()))


class _Ref:
    """An object that the tree keeps for a node, and closes when the node leaves."""

    def __init__(
        self, handle: Handle, node: Node, nodes: dict[_Identity, Node], charge: Charge
    ) -> None:
        """Take ownership of `handle` and `charge`, even if this raises `OSError`. Register the node in `nodes`."""
        self.handle = handle
        self._nodes = nodes
        self._charge = charge
        try:
            self._identity = _identity(handle.fileno())
        except OSError:
            handle.close()
            charge.close()
            raise
        nodes[self._identity] = node

    def close(self) -> None:
        if not self.handle.closed:
            del self._nodes[self._identity]
            self.handle.close()
            self._charge.close()


def is_event(handle: Handle) -> bool:
    """Return whether a descriptor has the type of a node_ref, or is an eventfd."""
    fd = handle.fileno()
    return (
        stat.S_ISFIFO(status(fd).mode)
        or os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"
    )


def _identity(fd: int) -> _Identity:
    _, device, inode = status(fd)
    return device, inode
