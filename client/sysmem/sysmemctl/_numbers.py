"""The mapping between the numbers of a replay and those of its capture, because a daemon assigns new numbers."""

from __future__ import annotations

from collections import Counter

from ._differences import translated
from ._source import Data
from ._steps import Steps


class Numbers:
    """The daemon's numbers of connections, collections and koids, and the corresponding ones of the capture."""

    def __init__(self, steps: Steps) -> None:
        """Map no numbers yet."""
        self._steps = steps
        #: Connections of the capture, by the daemon's numbers.
        self.connections: dict[int, int] = {}
        #: Collections and koids of the capture, by the daemon's.
        self._captured: dict[int, int] = {}
        #: The daemon's koids, by those of the capture.
        self._koids: dict[int, int] = {}
        self._made: Counter[int] = Counter()

    def koid(self, captured: int) -> int | None:
        """Return the daemon's koid for one of the capture."""
        return self._koids.get(captured)

    def collection(self, id: int) -> int | None:
        """Return the collection of the capture for one of the daemon's."""
        return self._captured.get(id)

    def pair(self, event: Data) -> int | None:
        """Find the capture's node for a new node: the one that the same connection created at the same position.

        Returns the node's connection in the capture, or None if there was no such node.
        """
        by = self.connections[event["by"]]
        place = self._made[by]
        self._made[by] += 1
        made = self._steps.made.get(by, [])
        if place >= len(made):
            return None
        connection = made[place]
        koid = self._steps.koids[connection]
        self.connections[event["connection"]] = connection
        self._captured[event["koid"]] = koid
        self._captured[event["collection"]] = self._steps.nodes[connection][0]
        self._koids[koid] = event["koid"]
        return connection

    def translated(self, event: Data) -> Data:
        """Return an event with the numbers of the capture."""
        told: Data = translated(event, self._captured)
        if "connection" in event:
            told["connection"] = self.connections[event["connection"]]
        return told
