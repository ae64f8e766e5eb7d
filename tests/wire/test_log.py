"""The log: one JSON object a line with client names and ids, and the two warnings of a long allocation."""

from __future__ import annotations

import json
import re
from typing import Any

from .process import Daemon
from .protocol import CONSTRAINTS_INTERSECTION_EMPTY, SAME_RIGHTS, constraints, only_sizes
from .raw import Collection, Token, Wire


def mentions(*texts: object) -> Any:
    return lambda event: all(str(text) in json.dumps(event, ensure_ascii=False) for text in texts)


def named_root(wire: Wire, name: str) -> tuple[Token, int]:
    allocator = wire.connect()
    allocator.set_debug_client_info(f"{name} client", 4242)
    root = allocator.shared()
    root.set_name(1, name)
    return root, root.collection_id()


def overdue(event: dict[str, Any]) -> bool:
    return event["level"] == "warning" and "taking a while" in event["event"]


# One event a line


def test_every_line_is_an_event_with_level_and_timestamp(wire: Wire, daemon: Daemon) -> None:
    root, collection_id = named_root(wire, "one\nevent a line")
    root.send_bytes(b"bad")
    root.assert_closes()
    daemon.wait_log(mentions(collection_id))
    for event in daemon.log():
        assert isinstance(event["event"], str)
        assert event["level"] in ("debug", "info", "warning", "error")
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", event["timestamp"])


def test_a_broken_rule_is_logged_with_collection_node_and_client(
    wire: Wire, daemon: Daemon
) -> None:
    root, collection_id = named_root(wire, "broken rule")
    root.send_bytes(b"bad")
    root.assert_closes()
    event = daemon.wait_log(mentions(collection_id, "broken rule client"))
    assert event["collection_id"] == collection_id
    assert "broken rule" in str(event.get("collection_name", event.get("collection")))
    assert "4242" in str(event)
    assert "node" in event


def test_a_refused_allocation_is_one_line_with_the_reason(wire: Wire, daemon: Daemon) -> None:
    allocator = wire.connect()
    root, collection_id = named_root(wire, "refused")
    child = root.duplicate_token()
    root.sync()
    one, other = allocator.bind(root), allocator.bind(child)
    one.set_debug_client_info("small client", 11)
    other.set_debug_client_info("large client", 12)
    wait = one.request_with(only_sizes(1, 10))
    other.sync()
    other.set_constraints(only_sizes(20, 30))
    assert one.answer(wait).body == {2: CONSTRAINTS_INTERSECTION_EMPTY}
    event = daemon.wait_log(mentions(collection_id, "size_bytes"))
    assert mentions("small client", "large client", "20", "10")(event)
    matching = [e for e in daemon.log() if mentions(collection_id, "size_bytes")(e)]
    assert len(matching) == 1


def test_a_name_in_the_log_cannot_forge_lines(wire: Wire, daemon: Daemon) -> None:
    forged = '"}\n{"event": "forged", "level": "info"}\x1b[31m'
    allocator = wire.connect()
    allocator.set_debug_client_info(forged, 1)
    root = allocator.shared()
    collection_id = root.collection_id()
    root.send_bytes(b"bad")
    root.assert_closes()
    daemon.wait_log(mentions(collection_id))
    assert not [event for event in daemon.log() if event["event"] == "forged"]
    assert "\x1b" not in daemon.log_path.read_text()


# Debug client info


def client_of(daemon: Daemon, collection_id: int) -> str:
    return json.dumps(daemon.wait_log(mentions(collection_id)), ensure_ascii=False)


def break_and_read(daemon: Daemon, node: Token | Collection) -> str:
    collection_id = node.collection_id()
    node.send_bytes(b"bad")
    node.assert_closes()
    return client_of(daemon, collection_id)


def test_a_new_name_is_recorded_with_the_old_one(wire: Wire, daemon: Daemon) -> None:
    root, _ = named_root(wire, "renamed")
    root.set_debug_client_info("second", 2)
    text = break_and_read(daemon, root)
    assert "second (was renamed client)" in text


def test_the_history_of_names_is_bounded(wire: Wire, daemon: Daemon) -> None:
    root = wire.connect().shared()
    for number in range(100):
        root.set_debug_client_info(f"{number:03}" + "n" * 253, number)
    text = break_and_read(daemon, root)
    assert "099n" in text
    assert len(text) < 4096 + 1024


def test_children_inherit_the_name_at_creation(wire: Wire, daemon: Daemon) -> None:
    root, _ = named_root(wire, "parent")
    (child,) = root.duplicate_sync([SAME_RIGHTS])
    root.set_debug_client_info("changed later", 9)
    root.sync()
    text = break_and_read(daemon, child)
    assert "parent client" in text
    assert "4242" in text


def test_bind_replaces_the_name_when_the_allocator_has_one(wire: Wire, daemon: Daemon) -> None:
    root, _ = named_root(wire, "token")
    root.sync()
    named = wire.connect()
    named.set_debug_client_info("binder", 77)
    text = break_and_read(daemon, named.bind(root))
    assert "binder" in text
    assert "77" in text


def test_bind_keeps_the_tokens_name_when_the_allocator_has_none(wire: Wire, daemon: Daemon) -> None:
    root, _ = named_root(wire, "kept")
    root.sync()
    assert "kept client" in break_and_read(daemon, wire.connect().bind(root))


def test_an_un_set_id_is_0(wire: Wire, daemon: Daemon) -> None:
    root, _ = named_root(wire, "no id")
    root.send("Node.SetDebugClientInfo", {1: "anonymous"})
    text = break_and_read(daemon, root)
    assert "anonymous" in text
    assert "4242" not in text


def test_an_attached_token_is_named_after_its_parent(wire: Wire, daemon: Daemon) -> None:
    root, _ = named_root(wire, "attaching")
    root.sync()
    collection = wire.connect().bind(root)
    attached = collection.attach()
    attached.sync()
    assert "attaching client then AttachToken()" in break_and_read(daemon, attached)
    plain = wire.connect().non_shared()
    attached = plain.attach()
    attached.sync()
    assert "from AttachToken()" in break_and_read(daemon, attached)


# Taking a while


def test_the_first_warning_comes_at_the_deadline_and_lists_who_is_missing(
    wire: Wire, daemon: Daemon
) -> None:
    allocator = wire.connect()
    allocator.set_debug_client_info("initiator", 100)
    root = allocator.shared()
    root.set_name(1, "slow")
    collection_id = root.collection_id()
    late_token, late_view, ready = root.duplicate_sync([SAME_RIGHTS] * 3)
    late_token.set_debug_client_info("late token", 101)
    group = root.group()
    group.set_debug_client_info("open group", 104)
    child = group.child()
    child.set_debug_client_info("group child", 105)
    other = wire.connect()
    view, done = other.bind(late_view), other.bind(ready)
    view.set_debug_client_info("late view", 102)
    done.set_debug_client_info("done view", 103)
    done.set_constraints(constraints())
    attached = done.attach()
    attached.set_debug_client_info("attached aside", 106)
    for node in (late_token, group, child, view, done, attached):
        node.sync()
    root.send("Node.SetDebugTimeoutLogDeadline", {1: 0})
    event = daemon.wait_log(lambda e: overdue(e) and mentions(collection_id)(e))
    assert mentions("slow", collection_id)(event)
    for text in ("late token", "101", "late view", "102", "done view", "103", "open group", "104"):
        assert mentions(text)(event), text
    for text in ("initiator", "group child"):
        assert mentions(text)(event), text
    assert not mentions("attached aside")(event)


def test_the_deadline_is_ignored_once_the_warning_was_logged(wire: Wire, daemon: Daemon) -> None:
    root, collection_id = named_root(wire, "warned once")
    for _ in range(5):
        root.send("Node.SetDebugTimeoutLogDeadline", {1: 0})
        root.sync()
    daemon.wait_log(lambda e: overdue(e) and mentions(collection_id)(e))
    for _ in range(5):
        root.send("Node.SetDebugTimeoutLogDeadline", {1: 0})
        root.sync()
    assert len([e for e in daemon.log() if overdue(e) and mentions(collection_id)(e)]) == 1


def test_no_warning_after_allocation(wire: Wire, daemon: Daemon) -> None:
    collection = wire.connect().non_shared()
    collection_id = collection.collection_id()
    collection.allocate()
    collection.send("Node.SetDebugTimeoutLogDeadline", {1: 0})
    collection.sync()
    sentinel, sentinel_id = named_root(wire, "sentinel")
    sentinel.send("Node.SetDebugTimeoutLogDeadline", {1: 0})
    daemon.wait_log(lambda e: overdue(e) and mentions(sentinel_id)(e))
    assert not [e for e in daemon.log() if overdue(e) and mentions(collection_id)(e)]


def test_the_default_deadline_is_five_seconds_after_creation(wire: Wire, daemon: Daemon) -> None:
    import time

    root, collection_id = named_root(wire, "five seconds")
    begin = time.monotonic()
    root.sync()
    daemon.wait_log(lambda e: overdue(e) and mentions(collection_id)(e))
    assert time.monotonic() - begin > 4.0


# Verbose logging


def test_verbose_logging_shows_constraints_tree_and_result(wire: Wire, daemon: Daemon) -> None:
    allocator = wire.connect()
    root, collection_id = named_root(wire, "verbose")
    child = root.duplicate_token()
    root.send("Node.SetVerboseLogging")
    root.sync()
    one, other = allocator.bind(root), allocator.bind(child)
    other.set_debug_client_info("talkative", 808)
    one.set_constraints(constraints(size=12345))
    other.set_constraints(constraints(size=54321))
    one.wait()
    daemon.wait_log(lambda e: e["level"] == "info" and mentions(collection_id, "12345")(e))
    events = [e for e in daemon.log() if mentions(collection_id)(e)]
    assert [e for e in events if mentions("54321", "talkative")(e)]
    assert [e for e in events if mentions("verbose client", "talkative")(e)]  # the tree
    assert all(e["level"] == "info" for e in events)


def test_verbose_logging_names_who_closed_first_and_how_far_it_went(
    wire: Wire, daemon: Daemon
) -> None:
    allocator = wire.connect()
    root, collection_id = named_root(wire, "closing")
    root.send("Node.SetVerboseLogging")
    (child,) = root.duplicate_sync([SAME_RIGHTS])
    child.set_debug_client_info("closed first", 909)
    child.sync()
    allocator.sync()
    child.close()
    root.assert_closes()
    daemon.wait_log(mentions(collection_id, "closed first", "909"))


def test_without_verbose_logging_constraints_are_not_logged(wire: Wire, daemon: Daemon) -> None:
    collection = wire.connect().non_shared()
    collection_id = collection.collection_id()
    collection.allocate(size=13579)
    daemon.observer.sync()
    assert not [e for e in daemon.log() if mentions(collection_id, "13579")(e)]
