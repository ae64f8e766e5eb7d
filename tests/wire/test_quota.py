"""Two real users: one at its limit, and one that must not be affected (`docs/spec/robustness.md`, "Who pays").

A single connection gets half of what its user may have, and the first row of every test fills that half.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sysmem import PeerClosedError, Rights, blocking
from sysmem import constraints as wishes
from sysmem._inspector import Inspector

from ..users import as_root, as_user
from .bystander import Bystander
from .process import Daemon
from .protocol import NO_MEMORY, constraints
from .raw import PeerClosed, Refused, Wire, until

pytestmark = as_root

GREEDY, QUIET = 1001, 1002
#: A limit of sixteen for everything, so that one connection gets eight.
LIMITS = """
[limits]
max_outbox_bytes = 16777216
max_outbox_messages = 1000000
[inspect]
mode = "0666"
[[quota.user]]
user = {user}
connections = 16
collections = {collections}
nodes = 16
trackings = 16
buffers = 16
bytes = 1048576
queued_bytes = 65536
"""


@pytest.fixture
def start_open(open_path: Path, start: Callable[..., Daemon]) -> Callable[..., Daemon]:
    """Start a daemon to which every user may connect."""
    config = open_path / "sysmemd.toml"

    def start_open(text: str = "", **more: Any) -> Daemon:
        config.write_text(text)
        arguments = ("--mode", "0666", "--config", str(config))
        return start(*arguments, directory=open_path / "own", **more)

    return start_open


@pytest.fixture
def daemon(start_open: Callable[..., Daemon]) -> Daemon:
    return start_open(LIMITS.format(user=GREEDY, collections=16))


@pytest.fixture
def greedy(daemon: Daemon) -> Iterator[Wire]:
    """The user at its limit. A second user notices nothing, and nothing is left over."""
    with Wire(daemon.runtime_dir) as quiet:
        with as_user(QUIET):
            bystander = Bystander(quiet)
        with Wire(daemon.runtime_dir) as wire, as_user(GREEDY):
            yield wire
        bystander.assert_finishes()
    daemon.assert_nothing_leaked()


def refused(daemon: Daemon, limit: str) -> dict[str, Any]:
    """Return the first log line about a refusal of the greedy user."""
    line = daemon.wait_log(lambda event: event.get("limit") == limit)
    assert line["level"] == "warning"
    assert line["user"] == GREEDY
    assert {"value", "client_name", "client_id"} <= line.keys()
    return line


def beyond(make: Callable[[], Any], most: int) -> list[Any]:
    """Create objects until one is refused. Return those that were created before."""
    made = []
    with contextlib.suppress(PeerClosed):
        while True:
            made.append(make())
            made[-1].sync()
    assert len(made) == most + 1
    return made[:-1]


def test_connections(daemon: Daemon, greedy: Wire) -> None:
    made = beyond(greedy.connect, 16)
    assert refused(daemon, "connections")["value"] == 16
    made[0].close()
    for _ in until():
        with contextlib.suppress(PeerClosed):
            greedy.connect().sync()
            break


@pytest.mark.parametrize("method", ["shared", "non_shared"])
def test_collections(daemon: Daemon, greedy: Wire, method: str) -> None:
    allocator = greedy.connect()
    allocator.set_debug_client_info("greedy", 5)
    made = beyond(getattr(allocator, method), 8)
    line = refused(daemon, "collections")
    assert (line["value"], line["client_name"], line["client_id"]) == (16, "greedy", 5)
    for one in made:
        one.sync()
    beyond(greedy.connect().shared, 4)  # half of the remainder
    for one in made[:3]:
        one.close()
    allocator.sync()
    getattr(allocator, method)().sync()


def test_nodes_by_an_allocators_method(start_open: Callable[..., Daemon]) -> None:
    daemon = start_open(LIMITS.format(user=GREEDY, collections=100))
    with Wire(daemon.runtime_dir) as wire:
        bystander = Bystander(wire)
        with as_user(GREEDY):
            allocator = wire.connect()
            kinds = (allocator.shared, allocator.non_shared)
            made = [kinds[number % 2]() for number in range(8)]
            for beyond in kinds:
                beyond().assert_closes()
            for one in made:
                one.sync()
        bystander.assert_finishes()
    line = refused(daemon, "nodes")
    assert line["value"] == 16
    daemon.assert_nothing_leaked()


def test_nodes(daemon: Daemon, greedy: Wire) -> None:
    allocator = greedy.connect()
    apart = allocator.shared()
    token = allocator.shared()
    token.set_debug_client_info("greedy", 5)
    token.duplicate_sync([0x80000000] * 6)
    token.duplicate_token()
    token.assert_closes()
    assert refused(daemon, "nodes")["client_name"] == "greedy"
    apart.sync()


def test_nodes_by_a_turn_in(daemon: Daemon, greedy: Wire) -> None:
    allocator = greedy.connect()
    made = beyond(allocator.shared, 8)
    with as_user(0), Wire(daemon.runtime_dir) as wire:
        giver = wire.connect()
        token, apart = giver.shared(), giver.shared()
        failed = token.track_node()
        token.sync()
        allocator.bind(token).assert_closes()
        failed.wait_closed()
        apart.sync()
    assert refused(daemon, "collections")
    assert refused(daemon, "nodes")
    made[0].sync()
    allocator.sync()


def usage(daemon: Daemon, uid: int) -> dict[str, Any]:
    """Return the snapshot's usage of a user."""
    with as_user(0), Inspector.connect(daemon.runtime_dir) as inspector:
        [user] = [user for user in inspector.snapshot()["users"] if user["uid"] == uid]
    return dict(user)


def test_a_node_handed_to_another_users_allocator_counts_there(
    daemon: Daemon, greedy: Wire
) -> None:
    with as_user(QUIET + 1), Wire(daemon.runtime_dir) as wire:
        giver = wire.connect()
        token = giver.shared()
        given = token.duplicate_token()
        given.sync()
        with as_user(GREEDY):
            taken = greedy.connect().bind(given)
            taken.attach().sync()
        assert usage(daemon, QUIET + 1)["nodes"] == 1
        assert usage(daemon, GREEDY)["nodes"] == 2, "with the child that was made since"
        for collection in (giver.bind(token), taken):
            collection.set_constraints(constraints())
        info = taken.wait()
        assert usage(daemon, QUIET + 1)["buffers"] == 2, "they count where the root does"
        assert usage(daemon, GREEDY)["buffers"] == 0
        token.close()
    taken.rest()  # the root has failed
    assert usage(daemon, QUIET + 1)["buffers"] == 2, "somebody holds them"
    info.close()
    for _ in until():
        with contextlib.suppress(ValueError):  # nothing of that user is left
            usage(daemon, QUIET + 1)
            continue
        break


@pytest.mark.parametrize("method", ["track_node", "track_lifetime"])
def test_trackings(daemon: Daemon, greedy: Wire, method: str) -> None:
    allocator = greedy.connect()
    apart, node = allocator.non_shared(), allocator.non_shared()
    kept = [getattr(node, method)() for _ in range(8)]
    node.sync()
    kept.append(getattr(node, method)())
    node.assert_closes()
    for tracking in kept:
        tracking.wait_closed()
    assert refused(daemon, "trackings")["value"] == 16
    apart.sync()


def test_watchers(daemon: Daemon, greedy: Wire) -> None:
    with as_user(QUIET), Inspector.connect(daemon.runtime_dir) as looking:
        undisturbed = looking.watch()
    with Inspector.connect(daemon.runtime_dir) as inspector, contextlib.ExitStack() as stack:
        stack.enter_context(undisturbed)
        watches = [stack.enter_context(inspector.watch()) for _ in range(8)]
        inspector.snapshot()
        beyond = stack.enter_context(inspector.watch())
        with pytest.raises(PeerClosedError):
            inspector.snapshot()
        with pytest.raises(PeerClosedError):
            beyond.next(20.0)
        assert refused(daemon, "trackings")["value"] == 16
        mine = usage(daemon, GREEDY)
        assert (mine["trackings"], mine["limits"]["trackings"]) == (8, 16)
        collection = greedy.connect().non_shared()
        collection.sync()
        for watch in (undisturbed, *watches):
            assert watch.next(20.0)["event"] == "watching"
        for watch in watches:
            watch.close()
        for _ in until():
            if usage(daemon, GREEDY)["trackings"] == 0:
                break


def test_a_client_is_told_what_limit_it_was(daemon: Daemon, greedy: Wire) -> None:
    with blocking.connect(daemon.runtime_dir) as allocator, contextlib.ExitStack() as stack:
        kept = stack.enter_context(allocator.allocate_non_shared_collection())
        kept.set_constraints(wishes(cpu="read", size_bytes=4096, hold=6))
        stack.enter_context(kept.wait_for_all_buffers_allocated())
        other = stack.enter_context(allocator.allocate_non_shared_collection())
        other.set_constraints(wishes(cpu="read", size_bytes=4096, hold=3))
        with pytest.raises(PeerClosedError, match="the user's limit of buffers is 16"):
            other.wait_for_all_buffers_allocated()
        token = stack.enter_context(allocator.allocate_shared_collection())
        with pytest.raises(PeerClosedError, match="the user's limit of nodes is 16"):
            token.duplicate_sync([Rights.SAME_RIGHTS] * 16)
        for _ in range(8):
            beyond = stack.enter_context(allocator.allocate_shared_collection())
        with pytest.raises(PeerClosedError, match="the user's limit of collections is 16"):
            beyond.sync()
        assert beyond.reason
        for _ in range(9):
            stack.enter_context(kept.attach_node_tracking())
        with pytest.raises(PeerClosedError, match="the user's limit of trackings is 16"):
            kept.sync()


def allocate(allocator: Any, **wanted: Any) -> Any:
    collection = allocator.non_shared()
    collection.set_constraints(constraints(**wanted))
    return collection


def test_buffers(daemon: Daemon, greedy: Wire) -> None:
    allocator = greedy.connect()
    kept = allocate(allocator, camping=6)
    info = kept.wait()
    allocate(allocator, camping=3).assert_closes()
    assert refused(daemon, "buffers")["value"] == 16
    kept.release_and_close()
    allocator.sync()
    allocate(allocator, camping=3).assert_closes()  # they are still held
    info.close()
    for _ in until():
        with contextlib.suppress(PeerClosed):
            allocate(allocator, camping=8).wait()
            break


def test_bytes(daemon: Daemon, greedy: Wire) -> None:
    allocator = greedy.connect()
    kept = allocate(allocator, camping=1, size=400 * 1024)
    kept.wait()
    token = allocator.shared()
    [second] = token.duplicate_sync([0x80000000])
    waits, other = allocator.bind(second), allocator.bind(token)
    answer = waits.request_with(constraints())
    other.set_constraints(constraints(size=200 * 1024))
    with pytest.raises(Refused) as error:
        waits.wait_answer(answer)
    assert error.value.error == NO_MEMORY
    assert refused(daemon, "bytes")["value"] == 1048576
    kept.sync()


def test_queued_bytes(daemon: Daemon, greedy: Wire) -> None:
    allocator = greedy.connect()
    silent, apart = allocator.shared(), allocator.shared()
    with contextlib.suppress(PeerClosed):
        for txid in range(1, 10_000):
            silent.send("Node.Sync", txid=txid)
    refused(daemon, "queued_bytes")
    apart.sync()


def test_a_flood_of_refusals_does_not_fill_the_log(daemon: Daemon, greedy: Wire) -> None:
    allocator = greedy.connect()
    beyond(allocator.shared, 8)
    for _ in range(300):
        allocator.shared().close()
    allocator.sync()
    daemon.wait_log(lambda event: event.get("left_out", 0) > 200)
    lines = [event for event in daemon.log() if event.get("limit") == "collections"]
    assert len(lines) <= 30, "ten a second"


@pytest.mark.parametrize("soft", [256])
def test_two_users_can_not_be_starved_of_descriptors_by_one(
    start_open: Callable[..., Daemon], soft: int
) -> None:
    daemon = start_open(prefix=["prlimit", f"--nofile={soft}:{soft}", "--"])
    with Wire(daemon.runtime_dir) as wire:
        with as_user(GREEDY):
            for _ in range(10):
                allocator = wire.connect()
                with contextlib.suppress(PeerClosed):
                    while True:
                        allocator.shared().sync()
        assert refused(daemon, "descriptors")["value"] <= soft // 2
        for uid in (GREEDY + 1, GREEDY + 2):
            with as_user(uid):
                bystander = Bystander(wire)
            bystander.assert_finishes()
    daemon.assert_nothing_leaked()


def test_who_may_not_connect_is_closed_and_others_are_served(
    start_open: Callable[..., Daemon],
) -> None:
    """The rule may name the user, the group of the process, or one of its other groups."""
    daemon = start_open(f"[access]\nallow_users = [0, {QUIET}]\nallow_groups = [3001, 3002]")
    with Wire(daemon.runtime_dir) as wire:
        for uid, gid, groups, allowed in (
            (QUIET, QUIET, [], True),
            (GREEDY, GREEDY, [], False),
            (GREEDY, 3001, [], True),
            (GREEDY, GREEDY, [44, 3002], True),
            (GREEDY, GREEDY, [44, 45], False),
        ):
            with as_user(uid, gid, groups):
                allocator = wire.connect()
            if allowed:
                allocator.sync()
            else:
                with pytest.raises(PeerClosed):
                    allocator.sync()
    line = refused(daemon, "access")
    assert line["value"] == f"users [0, {QUIET}], groups [3001, 3002]"
