"""The sources of the commands' data: a daemon's Inspector, and the kernel's information about processes."""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from select import POLLIN, poll
from typing import Any, Self, TypeAlias

from sysmem_protocol.channel import PeerClosedError
from sysmem_protocol.processes import Process, find_holders, named_sockets

from .._inspector import Events, Inspector
from .._timeouts import deadline, milliseconds, remaining
from .._traffic import printable
from ._trouble import Trouble

#: JSON as the Inspector returns it (`docs/spec/inspect.md`, "Snapshot").
Data: TypeAlias = dict[str, Any]

#: The maximum number of collections that an error lists.
_MAX_LISTED = 8


@contextlib.contextmanager
def inspector(options: argparse.Namespace) -> Iterator[Inspector]:
    """Connect to the Inspector of the daemon that the command line selects.

    Raises :class:`Trouble` if the daemon ends within the block.
    """
    try:
        with Inspector.connect(options.runtime_dir, timeout=options.timeout) as connected:
            yield connected
    except PeerClosedError:
        raise Trouble("the daemon has ended") from None


def snapshot(options: argparse.Namespace) -> Data:
    """Return everything that the daemon holds."""
    with inspector(options) as connected:
        return connected.snapshot(timeout=options.timeout)


def happening(
    events: Events, seconds: float | None = None, *, timeout: float | None = None
) -> Iterator[Data]:
    """Yield the events that a daemon reports during this many seconds, or without end for None.

    Raises:
        Trouble: The daemon has ended.
        TimeoutError: No first event has arrived within `timeout` seconds.
        KeyboardInterrupt: The user interrupts. The interpreter raises it too, but it ignores exceptions in some
            places, for example in finalizers.
    """
    end = deadline(seconds)
    begun = deadline(timeout)
    sources = poll()
    sources.register(events.fileno(), POLLIN)
    with _signals() as signals:
        sources.register(signals, POLLIN)
        while True:
            left, to_begin = remaining(end), remaining(begun)
            late = to_begin is not None and (left is None or to_begin < left)
            wait = 0 if events.pending else milliseconds(to_begin if late else left)
            ready = [fd for fd, _ in sources.poll(wait)]
            if signals.fileno() in ready and signal.SIGINT in signals.recv(64):
                raise KeyboardInterrupt
            try:
                event = events.next(0)
            except TimeoutError:
                if ready:
                    continue
                if late:
                    raise
                return
            except PeerClosedError:
                raise Trouble("the daemon has ended") from None
            begun = None
            yield event


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """Yield a socket. In the main thread it receives the number of each signal that the interpreter handles."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        if threading.current_thread() is not threading.main_thread():
            yield near
            return
        previous = signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
        try:
            yield near
        finally:
            signal.set_wakeup_fd(previous)


def say_lost(event: Data) -> None:
    """Report that the daemon has dropped events because this process did not read them in time."""
    print(f"sysmemctl: {event['count']} events were lost", file=sys.stderr)


def select(data: Data, wanted: str, *, ended: bool = False) -> Data:
    """Return the one collection that `wanted` identifies: by its id, its name, or a unique prefix of either.

    Args:
        data: A snapshot.
        wanted: The text from the command line.
        ended: Whether to search the ended collections too.

    Raises:
        Trouble: No collection matches, or several do.
    """
    # An ended collection is also among the living ones while its buffers are held.
    everything = [*data["collections"], *(data["ended"] if ended else ())]
    candidates: list[Data] = list({each["id"]: each for each in everything}.values())
    gone = {each["id"] for each in data["ended"]}
    living = [each for each in candidates if each["id"] not in gone]
    for matches, among in ((_is_called, living), (_is_called, candidates), (_begins, candidates)):
        found = [each for each in among if matches(each, wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            newest_first = sorted(found, key=lambda each: int(each["id"]), reverse=True)
            raise Trouble(
                f"{wanted!r} is not unique; give an id, the newest is the first: {_listing(newest_first)}"
            )
    for each in [] if ended else data["ended"]:
        if _begins(each, wanted):
            raise Trouble(
                f"{_listing([each])} ended at {each['ended']}; for the reason see `sysmemctl why {each['id']}`"
            )
    known = _listing(candidates) if candidates else "it has none"
    raise Trouble(f"the daemon has no collection {wanted!r}: {known}")


def selected(data: Data, wanted: str | None) -> list[Data]:
    """Return the living collections that a command is about: the given one, or all."""
    return data["collections"] if wanted is None else [select(data, wanted)]


def _is_called(collection: Data, wanted: str) -> bool:
    return wanted in (str(collection["id"]), collection["name"])


def _begins(collection: Data, wanted: str) -> bool:
    return str(collection["id"]).startswith(wanted) or collection["name"].startswith(wanted)


def _listing(collections: list[Data]) -> str:
    names = [
        f"{each['id']} ({printable(each['name']) or 'no name'})"
        for each in collections[:_MAX_LISTED]
    ]
    more = len(collections) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


class ClientEnds:
    """The processes that currently have the client ends of nodes.

    A token can be passed on, so the process that has it may not be the one that created it. The kernel has the
    information: the name of a node's server end contains its koid, sock_diag(7) returns the inode of the other end,
    and /proc lists the processes that have it open.
    """

    def __init__(self, collections: list[Data]) -> None:
        """Find the processes for the connected nodes of these collections, among those that the caller may inspect."""
        koids = {
            node["koid"]: (collection["id"], node["number"])
            for collection in collections
            for node in collection["nodes"]
            if node["connected"]
        }
        #: Processes that the caller may not inspect.
        self.unseen: list[Process] = []
        #: By the collection's id and the node's number.
        self._holders: dict[tuple[int, int], list[Process]] = {}
        if not koids:
            return
        try:
            peers = named_sockets(b"\0sysmem/")
        except OSError:
            return  # a kernel without sock_diag: only the processes that the daemon knows are available
        nodes = {
            inode: koids[int(koid)]
            for name, inode in peers.items()
            if (koid := name.rpartition(b"/")[2]).isdigit() and int(koid) in koids
        }
        found = find_holders(set(nodes))
        self.unseen = found.unseen
        for inode, holdings in found.holdings.items():
            self._holders[nodes[inode]] = list(dict.fromkeys(each.process for each in holdings))

    def of(self, collection: Data, node: Data) -> list[Process]:
        """Return the processes that have a node's client end; empty if none is visible."""
        return self._holders.get((collection["id"], node["number"]), [])

    def as_data(self) -> Data:
        """Return the processes as data for programs."""
        held = [
            {"collection": id, "node": number, **asdict(process)}
            for (id, number), processes in self._holders.items()
            for process in processes
        ]
        return {"held": held, "unseen": [asdict(process) for process in self.unseen]}

    @classmethod
    def from_data(cls, data: Data) -> Self:
        """Return the result of an earlier :meth:`as_data`."""
        ends = cls([])
        for one in data["held"]:
            place = one["collection"], one["node"]
            ends._holders.setdefault(place, []).extend(processes([one]))
        ends.unseen = processes(data["unseen"])
        return ends


def processes(data: list[Data]) -> list[Process]:
    """Return processes from data for programs."""
    return [Process(each["pid"], each["uid"], each["command"]) for each in data]
