"""Finds the processes that have the client ends of nodes, among those that the daemon may inspect.

A token can be passed on, so the process that is waited for may not be the one that created it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from sysmem_protocol.processes import find_holders, named_sockets

from ..channels.nodes import NodeServer
from ..text import printable
from ..threads import Ask
from ..tree import NodeData

#: Called with the processes that have the client ends of nodes, by the nodes' numbers.
Then: TypeAlias = Callable[[Mapping[int, str]], None]


class HolderSearch:
    """Searches for processes in a thread. One search at a time serves all requests so far."""

    def __init__(self, prefix: bytes, ask: Ask) -> None:
        """`prefix` is the common prefix of the names of all server ends."""
        self._prefix = prefix
        self._ask = ask
        self._waiting: list[tuple[dict[int, int], Then]] = []
        self._busy = False

    def who_has(self, nodes: Sequence[NodeData], then: Then) -> None:
        """Call `then`, now or later, with the processes that have these nodes' client ends, as far as found."""
        servers = [node.channel for node in nodes]
        koids = {
            server.koid: server.node.number for server in servers if isinstance(server, NodeServer)
        }
        self._waiting.append((koids, then))
        self._next()

    def _next(self) -> None:
        if self._busy or not self._waiting:
            return
        self._busy = True
        waiting, self._waiting = self._waiting, []
        koids = {koid for wanted, _ in waiting for koid in wanted}
        self._ask(partial(_search, self._prefix, koids), partial(self._found, waiting))

    def _found(
        self, waiting: list[tuple[dict[int, int], Then]], holders: Mapping[int, str]
    ) -> None:
        self._busy = False
        for koids, then in waiting:
            then({number: holders[koid] for koid, number in koids.items() if koid in holders})
        self._next()


def _search(prefix: bytes, koids: set[int]) -> dict[int, str]:
    """Return the processes that have the other ends of the server ends with these koids."""
    try:
        inodes = {
            inode: koid
            for name, inode in named_sockets(prefix).items()
            if (koid := int(name.removeprefix(prefix))) in koids
        }
        found = find_holders(set(inodes)).holdings
    except (OSError, ValueError):
        return {}  # the kernel, or a sandbox, does not allow it
    return {
        inodes[inode]: ", ".join(dict.fromkeys(printable(str(each.process)) for each in holdings))
        for inode, holdings in found.items()
    }
