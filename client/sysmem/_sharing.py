"""Support for multiprocessing, which duplicates memory, and moves nodes and events, to another process.

It works with multiprocessing's own pickler (`multiprocessing.reduction.ForkingPickler`): for the arguments of a process
that is started by spawn or forkserver, and for pipes, queues and pools. The descriptors in arguments are passed when
the process is started. Those in a pipe or a queue are passed by a thread of the sending process when the receiver
unpickles the object. Until then the sending process has them.
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

from ._buffers import BufferCollectionInfo, VmoBuffer, VmoInfo
from ._handles import EventPair, NodeRef
from ._vmo import Vmo

T = TypeVar("T")
#: The attribute in which a process that is being started keeps the objects that move to it.
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
    """Wait until the daemon knows a node. A pickler cannot await this."""
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
            f"late responses to {node!r} would reach its new owner: await its sync() first"
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
    """Return a kind of `Popen` that closes moved objects here once its process has been started with all descriptors.

    If the process can't be started, the objects stay open here.
    """

    class Starting(kind):  # type: ignore[misc]  # for any start method
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
    """Make multiprocessing move objects of these classes.

    Each module calls this for its own classes, because a process that unpickles an object may import only that
    module.
    """
    for kind in kinds:
        reduction.register(kind, _move if issubclass(kind, EventPair) else _move_node)


for _kind in (Vmo, NodeRef):
    reduction.register(_kind, _duplicate)
for _table in (VmoBuffer, BufferCollectionInfo, VmoInfo):
    reduction.register(_table, _duplicate_table)
