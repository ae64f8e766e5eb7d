"""The content of a capture by collection: nodes, their states over time, messages, and outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sysmem_protocol.inspector import Inspector, Watcher

from ._recording import Recording
from ._source import ClientEnds, Data
from ._steps import CLOSED

#: The protocols of connections that only inspect.
_LOOKING: Final = (Inspector.service_name(), Watcher.service_name())
#: States in which a node blocks the allocation (`docs/spec/allocation.md`, Ready).
_NOT_READY: Final = frozenset(
    {"token", "collection", "group", "released_token", "released_collection"}
)
_GONE: Final = frozenset({"orphan", "failed"})
#: The state of a node that has its buffers. The daemon has no name for it.
HAS_BUFFERS: Final = "has buffers"
#: The assumed properties of a node until events say otherwise.
_NEW_NODE: Final = {
    "weak": False,
    "isolation": "propagate",
    "constraints": None,
    "must_match": False,
    "outcome": None,
    "pid": None,
    "uid": None,
    "command": None,
    "age_s": 0.0,
}


def seconds(time: str) -> float:
    """Convert a time in a capture to seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()


@dataclass
class Life:
    """A node from its beginning to its end."""

    #: Its last known data, as in a snapshot.
    node: Data
    #: Its states in order, each with its beginning in seconds since the epoch.
    states: list[tuple[float, str]] = field(default_factory=list)
    #: The event `left`, if the node left because of a failure.
    failure: Data | None = None

    @property
    def died(self) -> bool:
        """Whether its own client ended or closed the channel without Release."""
        failure = self.failure
        return bool(
            failure and failure["cause"] == CLOSED and failure["first"] == self.node["number"]
        )


@dataclass
class Connection:
    """A connection to a service, or the channel of a node."""

    number: int
    protocol: str
    client: Data
    opened: float
    closed: float | None = None
    #: The rule that its client violated.
    refused: str | None = None
    messages: list[Data] = field(default_factory=list)
    #: The process that opened it, and the collection if it belongs to a node.
    process: Data = field(default_factory=dict)
    collection: int | None = None


@dataclass
class Story:
    """The history of one collection."""

    id: int
    name: str = ""
    lives: dict[int, Life] = field(default_factory=dict)
    #: Messages about the collection, in order.
    messages: list[Data] = field(default_factory=list)
    #: The end of each allocation attempt, and the error's name or None.
    attempts: list[tuple[float, str | None]] = field(default_factory=list)
    explanation: Data | None = None
    #: Its end, as in a snapshot.
    ended: Data | None = None
    #: Its data in the last snapshot that contained it.
    seen: Data | None = None
    settings: Data | None = None
    buffer_count: int | None = None
    #: The first and last time at which something is known about it, in seconds since the epoch.
    began: float = 0.0
    until: float = 0.0

    @property
    def collection(self) -> Data:
        """The collection as in a snapshot, as far as it is known."""
        if self.seen is not None and self.ended is None:
            return self.seen
        nodes = [life.node for life in self.lives.values()]
        waiting = [node["number"] for node in nodes if not node["ready"]]
        return {
            "id": self.id,
            "name": self.name,
            "age_s": self.until - self.began,
            "state": "allocated" if self.settings else "negotiating",
            "waiting_for": [] if self.settings or self.ended else waiting,
            "settings": self.settings,
            "buffer_count": self.buffer_count,
            "buffers": [],
            "nodes": nodes,
        }


class Stories:
    """The whole content of a capture."""

    def __init__(self, recording: Recording) -> None:
        """Read the events of a capture, in order."""
        self.collections: dict[int, Story] = {}
        self.connections: dict[int, Connection] = {}
        #: Messages that belong to no collection.
        self.others: list[Data] = []
        self.ends = ClientEnds([])
        self.holders: Data | None = None
        self.began = self.until = seconds(recording.header["at"])
        #: The last request of each connection's client.
        self._asked: dict[int, Data] = {}
        #: Messages on service connections that turned out to belong to a collection, by identity.
        self._about_collections: set[int] = set()
        self._take_snapshot(recording.header["snapshot"], self.began)
        for event in recording.events:
            self._take(event)
        self.others = [each for each in self.others if id(each) not in self._about_collections]
        if recording.end is not None:
            self._finish(recording.end)
        for story in self.collections.values():
            story.until = max(story.began, story.until if story.ended else self.until)

    def _story(self, id: int, at: float) -> Story:
        return self.collections.setdefault(id, Story(id, began=at, until=at))

    def _take_snapshot(self, snapshot: Data, at: float, *, last: bool = False) -> None:
        for one in snapshot["connections"]:
            if one["protocol"] in _LOOKING:
                continue
            number = one["number"]
            process = {key: one[key] for key in ("pid", "uid", "command")}
            known = Connection(number, one["protocol"], one, at, process=process)
            self.connections.setdefault(number, known)
        for collection in snapshot["collections"]:
            story = self._story(collection["id"], at - collection["age_s"])
            story.began = min(story.began, at - collection["age_s"])
            story.name = collection["name"]
            story.seen = collection if last else None
            story.settings = collection["settings"]
            story.buffer_count = collection["buffer_count"]
            for node in collection["nodes"]:
                born = max(story.began, at - node["age_s"])
                new = Life(node, [(born, _state(node))])
                life = story.lives.setdefault(node["number"], new)
                life.node = node

    # --- events -------------------------------------------------------------------------------------------------------

    def _take(self, event: Data) -> None:
        at = seconds(event["at"])
        self.until = max(self.until, at)
        story = None if event.get("collection") is None else self._story(event["collection"], at)
        if story is not None and event["event"] != "explained":
            story.until = at
        match event["event"]:
            case "connected" if event["protocol"] not in _LOOKING:
                number = event["connection"]
                process = {key: event.get(key) for key in ("pid", "uid", "command")}
                opened = Connection(number, event["protocol"], event, at, process=process)
                self.connections[number] = opened
            case "closed" | "refused" if event["connection"] in self.connections:
                connection = self.connections[event["connection"]]
                if event["event"] == "closed":
                    connection.closed = at
                else:
                    connection.refused = event["reason"]
            case "message":
                self._take_message(story, event, at)
            case "node" if story is not None:
                self._take_node(story, event, at)
            case "left" if story is not None and event["node"] in story.lives:
                life = story.lives[event["node"]]
                life.failure = event if event["cause"] else None
                self._change(life, event["state"], at)
            case "said" if story is not None and event["text"] in _ATTEMPTS:
                story.attempts.append((at, event["fields"].get("error")))
            case "ended" if story is not None:
                story.ended, story.name = event, event["name"]
            case "explained" if story is not None:
                story.explanation = event["explanation"]
                story.name = story.name or event["explanation"]["name"]

    def _take_message(self, story: Story | None, event: Data, at: float) -> None:
        number = event["connection"]
        if number in self.connections:
            connection = self.connections[number]
            connection.messages.append(event)
            if event["client_name"]:
                connection.client = event
        if event["direction"] == "in":
            self._asked[number] = event
        if story is None:
            self.others.append(event)
            return
        story.messages.append(event)
        body = event.get("body") or {}
        life = story.lives.get(event["node"])
        if event["method"] == "SetName" and not story.name:
            story.name = body.get("name", "")
        if life is None:
            return
        if event["direction"] == "in" and event["method"] in _STATES_AFTER:
            # The message that completes the attempt may be reported only after the node has failed because of it.
            self._change(life, _STATES_AFTER[event["method"]], at)
        if event["method"] == "SetConstraints":
            life.node["constraints"] = body.get("constraints") or {}
        info = body.get("buffer_collection_info")
        if info and event["direction"] == "out":
            story.settings = info.get("settings")
            story.buffer_count = len(info.get("buffers", ()))
            life.node["outcome"] = "success"
            self._change(life, HAS_BUFFERS, at)
        elif event["direction"] == "out" and event["error"]:
            life.node["outcome"] = event["error"]

    def _take_node(self, story: Story, event: Data, at: float) -> None:
        maker = self.connections.get(event["by"]) if event["by"] is not None else None
        process = maker.process if maker else {}
        if event["by"] is not None:
            made = Connection(event["connection"], event["kind"], event, at, process=process)
            made.collection = story.id
            self.connections[event["connection"]] = made
            # The message that created the node also belongs to its collection.
            asked = self._asked.get(event["by"])
            if asked is not None and asked["collection"] is None:
                if id(asked) not in self._about_collections:
                    self._about_collections.add(id(asked))
                    story.messages.append(asked)
                story.began = min(story.began, seconds(asked["at"]))
        life = story.lives.get(event["node"])
        if life is None:
            life = story.lives[event["node"]] = Life(dict(_NEW_NODE))
        keys = ("parent", "kind", "client_name", "client_id", "koid")
        life.node |= {"number": event["node"], **{key: event[key] for key in keys}, **process}
        self._change(life, event["state"], at)

    def _change(self, life: Life, state: str, at: float) -> None:
        if state == "awaited" and life.states and life.states[-1][1] == HAS_BUFFERS:
            return
        if not life.states or life.states[-1][1] != state:
            life.states.append((at, state))
        if state == HAS_BUFFERS:
            return
        life.node |= {
            "state": state,
            "ready": state not in _NOT_READY,
            "connected": state not in _GONE,
            "released": state.startswith("released") or state == "orphan",
        }

    def _finish(self, end: Data) -> None:
        at = seconds(end["at"])
        self.until = max(self.until, at)
        if end["snapshot"] is not None:
            self._take_snapshot(end["snapshot"], at, last=True)
        if end.get("client_ends") is not None:
            self.ends = ClientEnds.from_data(end["client_ends"])
        self.holders = end.get("holders")


#: The state of a node after a message.
_STATES_AFTER: Final = {"SetConstraints": "constrained", "WaitForAllBuffersAllocated": "awaited"}
#: The log events at the end of an attempt.
_ATTEMPTS: Final = frozenset({"allocated", "allocation failed"})


def _state(node: Data) -> str:
    return HAS_BUFFERS if node["outcome"] == "success" and node["connected"] else node["state"]


def service_connections(stories: Stories) -> Iterator[Connection]:
    """Yield the service connections in the order in which they were opened."""
    for connection in stories.connections.values():
        if connection.collection is None:
            yield connection
