"""The events that watchers receive; `docs/spec/inspect.md`, "The Inspector protocol"."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sysmem_protocol import codec, sysmem2
from sysmem_protocol.channel import PeerClosedError
from sysmem_protocol.handles import Handle
from sysmem_protocol.inspector import (
    MAX_EVENTS_BYTES,
    Inspector,
    InspectorWatchRequest,
    Watcher,
    WatcherOnEventsEvent,
)
from sysmem_protocol.message import Message
from sysmem_protocol.sysmem2 import Allocator, BufferCollection, BufferCollectionToken, Node
from sysmemd.channels.connection import Tracer
from sysmemd.config import Limits
from sysmemd.inspection.watchers import Watcher as WatcherServer
from sysmemd.inspection.watchers import parts
from sysmemd.quota import Exceeded, Kind

from ..channels.support import Bench, Client, none_left, wanting
from .support import Look

_decoder = codec.Decoder()


class Watch:
    """A watcher of a bench."""

    def __init__(self, look: Look, **fields: Any) -> None:
        self._look = look
        self.client, far = look.bench.client()
        look.client.send(Inspector.watch, InspectorWatchRequest(watcher=far, **fields))
        look.run()
        self.lost: list[int | None] = []

    def events(self) -> list[Any]:
        """Return all events since the last call, with their parts joined."""
        self._look.run()
        found: list[Any] = []
        whole = ""
        for event in itertools.chain.from_iterable(self.messages()):
            if event["event"] != "part":
                found.append(event)
                continue
            whole += event["json"]
            if event["last"]:
                found.append(json.loads(whole))
                whole = ""
        return found

    def messages(self) -> Iterator[list[Any]]:
        while (message := self.client.message()) is not None:
            assert (message.txid, message.ordinal) == (0, Watcher.on_events.ordinal)
            content = _decoder.table(WatcherOnEventsEvent, message.body, message.handles)
            self.lost.append(content.lost)
            yield json.loads(content.json or "")
            self._look.run()

    def kinds(self) -> list[str]:
        return [event["event"] for event in self.events()]


def test_the_first_event_has_a_snapshot(look: Look) -> None:
    look.bench.allocated()
    [event] = Watch(look).events()
    assert event["event"] == "watching"
    assert event["at"].endswith("Z")
    assert event["snapshot"]["totals"]["collections"] == 1
    assert all("name" in user for user in event["snapshot"]["users"])
    [collection] = event["snapshot"]["collections"]
    assert len(collection["nodes"]) == 1


@pytest.mark.parametrize("stays", [True, False])
def test_what_happens_before_the_first_event_is_sent_after_it(
    look: Look, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    work: list[Callable[[], None]] = []
    with monkeypatch.context() as patch:
        patch.setattr(look.inspection, "_in_turn", lambda _, one: work.append(one))
        watch = Watch(look)
        look.bench.token(look.bench.allocator(None))
        if stays:
            assert watch.events() == []
        else:
            watch.client.close()
            look.run()
    for step in work:
        step()
    if stays:
        assert watch.kinds() == ["watching", "connected", "node"]
    assert nothing_is_queued(look)


def test_a_watch_that_can_not_be_served_is_not_charged(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(look.bench.service, "connect", none_left)
        watch = Watch(look)
    assert watch.client.is_closed()
    assert sum(user.tally[Kind.TRACKINGS] for user in look.bench.service.users) == 0


def nothing_is_queued(look: Look) -> bool:
    return not any(user.tally[Kind.QUEUED_BYTES] for user in look.bench.service.users)


def test_a_snapshot_that_is_too_large_has_no_details_and_then_no_collections(look: Look) -> None:
    allocator = look.bench.allocator()
    token = look.bench.token(allocator)
    tokens = [look.bench.duplicate(token) for _ in range(100)]
    [event] = Watch(look).events()
    [collection] = event["snapshot"]["collections"]
    assert (collection["nodes"], len(collection["waiting_for"])) == ([], 101)
    more = [look.bench.token(allocator) for _ in range(300)]
    event, *_ = Watch(look).events()  # if this takes long, collections are overdue
    assert list(event["snapshot"]) == ["schema", "daemon", "totals"]
    assert len(tokens) + len(more) == 400


def test_what_happens_to_nodes_and_collections(look: Look) -> None:
    watch = Watch(look)
    watch.events()
    allocator = look.bench.allocator("camera", 3)
    token = look.bench.token(allocator)
    child = look.bench.duplicate(token)
    collection = look.bench.bind(token, allocator)
    collection.send(BufferCollection.set_constraints, wanting())
    child.send(Node.release)
    look.run()
    child.close()
    events = watch.events()
    assert {event["client_name"] for event in events if event["event"] == "node"} == {"camera"}
    [id] = {event["collection"] for event in events if event["collection"]}
    told = [
        (event["event"], event.get("node"), event.get("state") or event.get("text"))
        for event in events
        if event["event"] != "closed"
    ]
    assert told[:4] == [
        ("connected", None, None),
        ("node", 1, "token"),
        ("node", 2, "token"),
        ("node", 1, "collection"),
    ]
    assert set(told[4:6]) == {("node", 1, "constrained"), ("node", 2, "released_token")}
    assert told[6:] == [("left", 2, "orphan"), ("said", None, "allocated")]
    connected, root, second, bound, *_ = (e for e in events if e["event"] != "closed")
    assert connected["protocol"] == "fuchsia.sysmem2.Allocator"
    assert (root["by"], second["by"]) == (connected["connection"], root["connection"])
    assert (second["parent"], second["kind"]) == (1, "token")
    assert bound["connection"] not in (root["connection"], second["connection"])
    [left] = [event for event in events if event["event"] == "left"]
    assert (left["cause"], left["line"], left["first"]) == (None, None, None)
    assert set(look.inspection.events._states) == {look.bench.service.collections[id].root}
    collection.close()
    left, *_ = [event for event in watch.events() if event["event"] == "left"]
    assert (left["cause"], left["first"]) == ("closed without Release", 1)
    assert look.inspection.events._states == {}
    assert "closed its collection without Release" in left["line"]
    collection = look.bench.collection(allocator)
    collection.close()
    [ended] = [event for event in watch.events() if event["event"] == "ended"]
    assert (ended["how"], ended["cause"]) == ("failed", "closed without Release")
    assert id != ended["collection"]
    collection = look.bench.collection(allocator)
    collection.send(BufferCollection.set_constraints, wanting(most=1))
    *_, left, _ended = [event for event in watch.events() if event["event"] != "closed"]
    assert (left["event"], left["first"]) == ("left", 1), "nothing more is told of the node"
    assert look.inspection.events._states == {}
    assert left["line"] == look.bench.log.said("error")[-1][1]["reason"]


def test_traffic_is_told_to_who_asks_for_it(look: Look) -> None:
    plain, traffic, bodies = (
        Watch(look),
        Watch(look, traffic=True),
        Watch(look, traffic=True, bodies=True),
    )
    for watch in (plain, traffic, bodies):
        own = {event.get("protocol") for event in watch.events()}
        assert own <= {None, "sysmem.Watcher"}
    collection = look.bench.collection()
    collection.send(BufferCollection.set_constraints, wanting())
    collection.send(BufferCollection.wait_for_all_buffers_allocated)
    assert "message" not in plain.kinds()
    messages = [event for event in traffic.events() if event["event"] == "message"]
    shown = [(event["direction"], event["protocol"], event["method"]) for event in messages]
    assert shown == [
        ("in", "Allocator", "SetDebugClientInfo"),
        ("in", "Allocator", "AllocateNonSharedCollection"),
        ("in", "BufferCollection", "SetConstraints"),
        ("in", "BufferCollection", "WaitForAllBuffersAllocated"),
        ("out", "BufferCollection", "WaitForAllBuffersAllocated"),
    ]
    assert messages[0]["fields"] == ["name", "id"]
    assert [event["descriptors"] for event in messages] == [0, 1, 0, 0, 2]
    assert (messages[4]["txid"], messages[4]["error"]) == (messages[3]["txid"], None)
    assert all("body" not in event for event in messages)
    told = [event["body"] for event in bodies.events() if event["event"] == "message"]
    assert told[0] == {"name": "tester", "id": 7}
    assert told[1] == {"collection_request": {"handle": "server end"}}
    assert told[2]["constraints"]["usage"] == {"cpu": ["READ_OFTEN"]}
    assert told[3] is None
    [id] = look.bench.service.collections
    buffers = told[4]["buffer_collection_info"]["buffers"]
    assert [buffer["vmo"] for buffer in buffers] == [
        {"handle": "vmo", "collection": id, "buffer": index} for index in range(2)
    ]


def test_handles_say_what_they_refer_to(look: Look) -> None:
    watch = Watch(look, traffic=True, bodies=True)
    token = look.bench.token()
    ref = token.call(Node.get_node_ref).node_ref
    token.call(Node.is_alternate_for, sysmem2.NodeIsAlternateForRequest(node_ref=ref))
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    token.call(Node.is_alternate_for, sysmem2.NodeIsAlternateForRequest(node_ref=Handle(fd)))
    koid = next(iter(look.bench.service.tokens))
    masks = sysmem2.CreateTokensRequest(rights_attenuation_masks=[0xFFFFFFFF] * 3)
    for end in token.call(BufferCollectionToken.duplicate_sync, masks).tokens:
        look.bench.adopt(end)
    foreign = Handle(os.memfd_create("foreign"))
    look.bench.allocator().send(
        Allocator.get_vmo_info, sysmem2.AllocatorGetVmoInfoRequest(vmo=foreign)
    )
    look.bench.bind(token)
    messages = [event for event in watch.events() if event["event"] == "message"]
    bodies = [event["body"] for event in messages]
    assert [e["descriptors"] for e in messages if e["method"] == "DuplicateSync"] == [0, 3]
    assert {"vmo": {"handle": "vmo"}} in bodies
    [id] = look.bench.service.collections
    known = {"handle": "event", "collection": id, "node": 1}
    assert {"node_ref": known} in bodies
    assert {"node_ref": {"handle": "event"}} in bodies
    [bound] = [body for body in bodies if body and "token" in body]
    assert bound["token"] == {"handle": "client end", "koid": koid}


def test_errors_and_refusals(look: Look) -> None:
    watch = Watch(look, traffic=True)
    token = look.bench.token()
    collection = look.bench.bind(token)
    collection.call(BufferCollection.check_all_buffers_allocated)
    collection.send_raw(Message(0, 4711))
    events = watch.events()
    [answer] = [event for event in events if event.get("direction") == "out"]
    assert answer["error"] == "PENDING" or answer["error"] is None
    [refused] = [event for event in events if event["event"] == "refused"]
    assert "no method with ordinal" in refused["reason"]


def test_one_collection_only(look: Look) -> None:
    look.bench.token()
    [first] = look.bench.service.collections
    watch = Watch(look, traffic=True, buffer_collection_id=first)
    watch.events()
    other = look.bench.token()
    other.sync()
    assert watch.events() == []


def test_a_long_event_comes_in_parts(look: Look) -> None:
    watch = Watch(look, traffic=True, bodies=True)
    watch.events()
    collection = look.bench.collection()
    request = wanting()
    assert request.constraints is not None
    request.constraints.image_format_constraints = [
        sysmem2.ImageFormatConstraints(
            pixel_format_and_modifiers=[
                sysmem2.PixelFormatAndModifier(1 << 24, 1 << 55) for _ in range(64)
            ]
        )
        for _ in range(60)
    ]
    collection.send(BufferCollection.set_constraints, request)
    look.run()
    found = [event for event in watch.events() if event.get("method") == "SetConstraints"]
    body = found[0]["body"]["constraints"]
    assert len(body["image_format_constraints"]) == 60
    for content in ("\\n", "\N{CAMERA}"):
        whole = '{"é": "' + content * 40_000 + '"}'
        told = list(parts(whole))
        assert "".join(json.loads(part)["json"] for part in told) == whole
        assert [json.loads(part)["last"] for part in told] == [False] * (len(told) - 1) + [True]
        assert max(len(part.encode()) for part in told) < MAX_EVENTS_BYTES < 5 * len(told[0])


def test_a_message_has_as_many_events_as_fit(look: Look) -> None:
    watch = Watch(look)
    watch.events()
    [watcher] = look.inspection.events._watchers
    assert isinstance(watcher, WatcherServer)
    half = "€" * 8190
    spare = MAX_EVENTS_BYTES - len(f'["{half}","{half}"]'.encode())
    for more, messages in ((spare, [2]), (spare + 1, [1, 1])):
        watcher._sending = True
        watcher.tell(f'"{half}"')
        watcher.tell(f'"{half}{"x" * more}"')
        watcher._sending = False
        watcher._send()
        look.run()
        assert list(map(len, watch.messages())) == messages


def test_who_does_not_read_loses_events_and_is_told_how_many() -> None:
    look = Look(limits=Limits(max_outbox_bytes=20_000))
    bench = look.bench
    watch = Watch(look, traffic=True)
    token = bench.token()
    for _ in range(2000):
        token.send(Node.set_name, sysmem2.NodeSetNameRequest(priority=1, name="x" * 64))
        bench.run()
    told = watch.events()
    names = [event for event in told if event.get("method") == "SetName"]
    lost = sum(filter(None, watch.lost))
    assert lost > 0
    assert len(names) + lost >= 2000
    # A loss is reported at its place in the sequence: no later event came before it.
    assert [count for count in watch.lost if count] == [lost]
    token.sync()
    assert "Sync" in [event.get("method") for event in watch.events()]
    look.close()


def test_a_user_whose_clients_do_not_read_at_all_loses_what_waits(look: Look) -> None:
    watch = Watch(look, traffic=True)
    [watcher] = look.inspection.events._watchers
    assert isinstance(watcher, WatcherServer)
    watcher._sending = True
    look.bench.token()
    waiting = len(watcher._waiting)
    assert waiting
    watcher._message()  # it is under way
    watcher.overflow(Exceeded(Kind.QUEUED_BYTES, 1, 1))
    assert (watcher.waiting_bytes, watcher._lost, len(watcher._waiting)) == (0, waiting, 0)
    watcher.tell("{}")
    waiting += 1
    assert watcher._lost == waiting, "no event comes before those that were lost"
    watcher._sent()
    watch.events()
    assert sum(filter(None, watch.lost)) == waiting


def watched(look: Look) -> bool:
    return look.bench.service.tracer.active


def test_a_watch_ends_with_its_channel(look: Look) -> None:
    watch = Watch(look, traffic=True)
    assert watched(look)
    watch.client.close()
    look.run()
    assert not watched(look)
    look.bench.token()
    with_message = Watch(look)
    look.bench.token()
    assert look.inspection.events._states
    assert sum(user.tally[Kind.TRACKINGS] for user in look.bench.service.users) == 1
    with_message.client.send_raw(Message(0, 4711))
    look.run()
    assert not watched(look)
    assert look.inspection.events._states == {}
    assert sum(user.tally[Kind.TRACKINGS] for user in look.bench.service.users) == 0
    fields = look.bench.log.refusal()
    assert "no method" in fields["reason"]
    assert (fields["channel"], fields["pid"]) == ("Watcher", os.getpid())


@pytest.mark.parametrize("how", ["limit", "broken"])
def test_a_watch_that_cannot_go_on_ends_alone(look: Look, how: str) -> None:
    watch = Watch(look, traffic=True)
    [watcher] = look.inspection.events._watchers
    assert isinstance(watcher, WatcherServer)
    watcher._sending = True
    look.bench.token()
    assert watcher.waiting_bytes
    if how == "limit":
        watcher.connection.exceeded(Exceeded(Kind.QUEUED_BYTES, 1, 1))
        assert look.bench.log.said("error") == []
    else:
        watcher.connection.fail("oh")
        assert look.bench.log.refusal()["reason"] == "the daemon failed: oh"
    assert (watcher.closed, watcher.waiting_bytes) == (True, 0)
    assert sum(user.tally[Kind.TRACKINGS] for user in look.bench.service.users) == 0
    assert sum(user.tally[Kind.QUEUED_BYTES] for user in look.bench.service.users) == 0
    with contextlib.suppress(PeerClosedError):
        while watch.client.message():
            pass
    assert watch.client.is_closed()
    assert look.snapshot()["schema"] == 1


def test_a_watcher_over_its_users_limit_ends_its_inspector(look: Look) -> None:
    look.bench.service.users.limit({Kind.TRACKINGS: 2}, {})
    allowed, beyond = Watch(look), Watch(look)
    assert look.client.is_closed()
    assert beyond.client.is_closed()
    assert allowed.kinds()[0] == "watching"
    assert len(look.inspection.events._watchers) == 1


def test_a_collections_log_entries_are_told_with_all_their_fields(look: Look) -> None:
    watch = Watch(look)
    watch.events()
    log = look.bench.service.collection_log.bind(collection_id=5, client_name="camera")
    levels = ("debug", "info", "warning", "error")
    for level in levels:
        getattr(log, level)("it happened", count=3, exc_info=True)
    told = watch.events()
    assert [event.pop("at") for event in told]
    assert told == [
        {
            "event": "said",
            "collection": 5,
            "level": level,
            "text": "it happened",
            "fields": {"client_name": "camera", "count": 3},
        }
        for level in levels
    ]
    fields = {"collection_id": 5, "client_name": "camera", "count": 3, "exc_info": True}
    for level in levels:
        assert ("it happened", fields) in look.bench.log.said(level)


def test_a_node_whose_channel_has_closed_before_leaves_too(look: Look) -> None:
    watch = Watch(look)
    look.bench.token()
    watch.events()
    [collection] = look.bench.service.collections.values()
    server: Any = collection.root.channel
    server.connection.close()
    collection.root.fail("it was not to be")
    assert watch.kinds() == ["closed", "said", "left", "ended"]
    assert "an error occurred while nodes ended" not in [
        event for _, event, _ in look.bench.log.entries
    ]


def test_one_that_closes_at_once_is_no_trouble(look: Look) -> None:
    client, far = look.bench.client()
    client.close()
    look.client.send(Inspector.watch, InspectorWatchRequest(watcher=far))
    look.run()
    assert not watched(look)
    assert look.snapshot()["schema"] == 1


def test_a_fault_in_an_event_is_nobody_elses_trouble(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(look, traffic=True)
    monkeypatch.setattr("sysmemd.inspection.tracing._encode", None)
    look.bench.token().sync()
    monkeypatch.undo()
    assert look.bench.log.said("error")[0][0] == "an event could not be sent to watchers"
    watch.events()


def test_without_watchers_nothing_is_told(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("somebody was told")

    for name in ("received", "processed", "sent", "refused", "opened", "served", "left", "closed"):
        monkeypatch.setattr(type(look.inspection.events), name, fail)
    look.bench.allocated().close()
    look.run()


def test_a_tracer_of_nobody_does_nothing() -> None:
    bench = Bench()
    tracer = Tracer()
    tracer.active = True
    bench.service.tracer = tracer
    client: Client = bench.allocated()
    client.call(BufferCollection.check_all_buffers_allocated)
    client.send_raw(Message(0, 4711))
    bench.run()
    assert client.is_closed()
    bench.close()
