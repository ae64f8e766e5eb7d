"""Proofs of nodes, which clients get and give back: the descriptors of `GetNodeRef`."""

from __future__ import annotations

import os
import stat
from typing import cast

from sysmem_protocol.handles import Handle, status

from ..quota import Kind
from ..tree import Node
from ..users import Account, Charge

#: Which object a descriptor refers to.
_Identity = tuple[int, int]


class NodeRefs:
    """Proofs of nodes: for each node that was asked for one an unforgeable object, the read end of a pipe."""

    def __init__(self) -> None:
        self._nodes: dict[_Identity, Node] = {}

    def of(self, node: Node, account: Account) -> Handle:
        """Return a node's ref, a descriptor to give to a client. A node has one ref for life, through bind and release.

        Raises `OSError` when the daemon has no descriptor left, :class:`.Exceeded` when `account` can't have one.
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
        """Return the node that a ref proves; None for any other object, and for a node that has left the tree."""
        return self._nodes.get(_identity(handle.fileno()))


class _Ref:
    """What the tree keeps for a node and closes when that leaves."""

    def __init__(
        self, handle: Handle, node: Node, nodes: dict[_Identity, Node], charge: Charge
    ) -> None:
        """Take over `handle` and `charge`, also when this raises (`OSError`), and be found in `nodes`."""
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
    """Return whether a descriptor is of the type of a node_ref, or an eventfd."""
    fd = handle.fileno()
    return (
        stat.S_ISFIFO(status(fd).mode)
        or os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"
    )


def _identity(fd: int) -> _Identity:
    _, device, inode = status(fd)
    return device, inode
