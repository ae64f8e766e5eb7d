"""Information that a capture adds to a daemon's events: explanations of collections, and holders of descriptors."""

from __future__ import annotations

import argparse
import contextlib
import queue
import threading
from collections.abc import Callable, Container, Iterator
from typing import Self

from sysmem_protocol.channel import PeerClosedError

from .._errors import SysmemError
from .._inspector import Inspector
from . import _holders
from ._recording import now
from ._source import ClientEnds, Data


class Explainer:
    """Asks the daemon to explain collections, in parallel to the capture, which must go on reading events.

    It has a connection and a thread of its own, and asks for one collection at a time.
    """

    def __init__(self, options: argparse.Namespace, write: Callable[[Data], None]) -> None:
        """Connect. Each explanation is written as the event `explained`."""
        self._connected = Inspector.connect(options.runtime_dir, timeout=options.timeout)
        self._timeout = options.timeout
        self._write = write
        self._wanted: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        # A daemon thread: a second interrupt of the capture does not wait for it.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.finish()
            self._connected.close()

    def explain(self, id: int) -> None:
        """Ask for the explanation of a collection in the background."""
        self._wanted.put(id)

    def finish(self) -> None:
        """Wait until all requested explanations are written."""
        self._wanted.put(None)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(PeerClosedError, TimeoutError):
            while (id := self._wanted.get()) is not None:
                if event := explained(self._connected, id, self._timeout):
                    self._write(event)


def explained(connected: Inspector, id: int, timeout: float | None) -> Data | None:
    """Return the event that explains a collection, or None if the daemon no longer knows the collection."""
    try:
        explanation = connected.explain(id, timeout=timeout)
    except SysmemError:
        return None
    return {"event": "explained", "at": now(), "collection": id, "explanation": explanation}


def explicable(snapshot: Data, ended: Container[int]) -> Iterator[int]:
    """Yield the collections that had an allocation attempt: the living ones, and those of `ended` in the snapshot."""
    for collection in snapshot["ended"]:
        if collection["id"] in ended:
            yield collection["id"]
    for collection in snapshot["collections"]:
        if collection["state"] != "negotiating":
            yield collection["id"]


def end(why: str, snapshot: Data | None) -> Data:
    """Return the event that ends a capture. `snapshot` is None if the daemon has ended."""
    event: Data = {"event": "end", "at": now(), "why": why, "snapshot": snapshot}
    if snapshot is None:
        return {**event, "holders": None, "client_ends": None}
    daemon = snapshot["daemon"]["pid"]
    collections = [each for each in snapshot["collections"] if each["buffers"]]
    return {
        **event,
        "holders": _holders.as_data(collections, _holders.find(collections), daemon),
        "client_ends": ClientEnds(snapshot["collections"]).as_data(),
    }
