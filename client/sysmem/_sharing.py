"""What multiprocessing carries to another process: duplicates of memory, and nodes and events themselves.

Its own pickler does that (`multiprocessing.reduction.ForkingPickler`): for the arguments of a process that is started
by spawn or forkserver, and for pipes, queues and pools. A descriptor goes to a process that is being started together
with it. Through a pipe or a queue it goes when the receiver unpickles the object, from a thread of the sending process.
Until then the sending process has it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from multiprocessing import context, reduction
from typing import Any, TypeVar

from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Table
from sysmem_protocol.owner import CLOSED, channel_of

from ._handles import EventPair, NodeRef
from ._vmo import BufferCollectionInfo, Vmo, VmoBuffer, VmoInfo

T = TypeVar("T")
#: Where a process that is being started remembers what it takes away from this one.
_MOVING = "_sysmem_moving"


def _duplicate(handle: Handle) -> tuple[Any, ...]:
    return _received, (type(handle), reduction.DupFd(handle.fileno()))


def _duplicate_table(table: Table) -> tuple[Any, ...]:
    fields = {
        member.name: value.duplicate() if isinstance(value, EventPair) else value
        for member, value in table.set_fields()
    }
    return _received_table, (type(table), fields, getattr(table, "_settings", None))


def _move_node(node: Any) -> tuple[Any, ...]:
    node._check_unused()
    if not node._is_settled():
        _settle(node)
    return _move(node)


def _settle(node: Any) -> None:
    """Wait until the daemon knows a node; a pickler can't await that."""
    from ._async.channel_object import ChannelObject
    from ._blocking.nodes import Node

    if isinstance(node, Node):
        node.sync()
    elif ChannelObject._is_settled(node):
        made = channel_of(node.fileno())
        with Node(made.made[0]) as same:
            same.sync()
    else:
        raise RuntimeError(
            f"late answers to {node!r} would come to its new owner: await its sync() first"
        )


def _move(owner: Any) -> tuple[Any, ...]:
    owner._check_unused()
    starting: Any = context.get_spawning_popen()
    if starting is None:
        fd = owner.detach()
        try:
            sent = reduction.DupFd(fd)
        finally:
            os.close(fd)
        return _received, (type(owner).from_fd, sent)
    if _MOVING not in starting.__dict__:
        starting.__dict__[_MOVING] = []
        kind: Any = type(starting)
        starting.__class__ = _starting(kind)
    starting.__dict__[_MOVING].append(owner)
    return _received, (type(owner).from_fd, reduction.DupFd(owner.fileno()))


@cache
def _starting(kind: Any) -> Any:
    """Return a kind of `Popen` that closes here what moves, once its process has been started with all descriptors.

    If the process can't be started the objects stay.
    """

    class Starting(kind):  # type: ignore[misc]  # of any method to start processes
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "sentinel":
                self.__class__ = kind
                for owner in self.__dict__.pop(_MOVING):
                    owner._lose(CLOSED)

    return Starting


def _received(kind: Callable[[int], T], sent: Any) -> T:
    fd: int = sent.detach()
    os.set_inheritable(fd, False)
    return kind(fd)


def _received_table(kind: Callable[..., Any], fields: dict[str, Any], settings: Any) -> Any:
    table = kind(**fields)
    if settings is not None:
        table._settings = settings
    return table


def moves(*kinds: type[Any]) -> None:
    """Have multiprocessing move nodes, or events.

    Each module says so of its own classes: a process that has unpickled one may not have imported more.
    """
    for kind in kinds:
        reduction.register(kind, _move if issubclass(kind, EventPair) else _move_node)


for _kind in (Vmo, NodeRef):
    reduction.register(_kind, _duplicate)
for _table in (VmoBuffer, BufferCollectionInfo, VmoInfo):
    reduction.register(_table, _duplicate_table)
