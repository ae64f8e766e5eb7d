"""A daemon's report, as its client reads it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sysmem._calls import datagram
from sysmem._inspector import Events
from sysmem.sysmemctl._source import say_lost
from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.codec import encode
from sysmem_protocol.handles import channel_pair
from sysmem_protocol.inspector import Watcher, WatcherOnEventsEvent
from sysmem_protocol.sysmem2 import Node


class Report:
    """Both ends of a report's channel."""

    def __init__(self) -> None:
        ours, theirs = channel_pair()
        self.daemon = Channel(ours.detach())
        self.events = Events(Channel(theirs.detach()))

    def tell(self, *events: dict[str, Any], lost: int | None = None) -> None:
        body, _ = encode(WatcherOnEventsEvent(json=json.dumps(events), lost=lost))
        assert self.daemon.send(datagram(Watcher.on_events, body))


@pytest.fixture
def report() -> Iterator[Report]:
    made = Report()
    with contextlib.closing(made.daemon), made.events:
        yield made


def test_it_ends_when_the_daemon_ends_it(report: Report) -> None:
    report.tell({"event": "node"}, {"event": "left"})
    report.daemon.close()
    assert [each["event"] for each in report.events] == ["node", "left"]
    with pytest.raises(PeerClosedError):
        report.events.next()


def test_a_client_waits_for_an_event_as_long_as_it_says(report: Report) -> None:
    with pytest.raises(TimeoutError):
        report.events.next(0)


def test_an_event_of_a_later_version_is_ignored(report: Report) -> None:
    report.daemon.send(datagram(Node.sync, b""))
    report.tell({"event": "node"})
    assert report.events.next(10) == {"event": "node"}


def test_a_long_event_comes_in_parts(report: Report) -> None:
    whole = json.dumps({"event": "snapshot", "nodes": [1, 2]})
    for part, last in ((whole[:9], False), (whole[9:], True)):
        report.tell({"event": "part", "json": part, "last": last})
    assert report.events.next(10) == json.loads(whole)


def test_lost_events_are_told_once_and_counted(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest of an event of which a part is lost makes no event."""
    report.tell({"event": "part", "json": "{", "last": False})
    report.tell({"event": "node"}, lost=3)
    event = report.events.next(10)
    assert event == {"event": "lost", "count": 3}
    assert report.events.next(10) == {"event": "node"}
    assert (report.events.lost, report.events._parts) == (3, [])
    say_lost(event)
    assert capsys.readouterr().err == "sysmemctl: 3 events were lost\n"
