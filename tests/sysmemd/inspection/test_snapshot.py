"""The state of the daemon; `docs/spec/inspect.md`, "Snapshot"."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from sysmem_protocol import __version__, sysmem2
from sysmem_protocol.inspector import Inspector, InspectorSnapshotRequest
from sysmem_protocol.message import Message
from sysmem_protocol.sysmem2 import BufferCollection, BufferCollectionToken, Error, Node
from sysmemd.channels import Connection
from sysmemd.documents import Document
from sysmemd.inspection.answers import document, encoded
from sysmemd.inspection.processes import Commands, command, descriptor_limit
from sysmemd.inspection.snapshot import Snapshot
from sysmemd.quota import Kind

from ..channels.support import STRANGER, wanting
from .support import Look, read


def test_the_daemon_and_its_totals(look: Look) -> None:
    look.bench.allocated()
    snapshot = look.snapshot()
    assert snapshot["schema"] == 1
    about = snapshot["daemon"]
    assert (about["pid"], about["uid"]) == (os.getpid(), os.geteuid())
    assert (about["version"], about["runtime_dir"]) == (__version__, None)
    elsewhere = replace(look.inspection.daemon, runtime_dir=Path("/run/there"))
    assert Snapshot(elsewhere).numbers()["daemon"]["runtime_dir"] == "/run/there"
    assert about["started"].endswith("Z")
    assert 0 <= about["uptime_s"] < 60
    snapshot_now = Snapshot(look.inspection.daemon)
    assert snapshot_now._seconds(snapshot_now._now - 1_234_567_890) == 1.235
    assert about["limits"]["max_group_selections"] == 64
    assert 0 < about["descriptors"]["open"] < about["descriptors"]["limit"]
    assert snapshot["totals"] == {
        "connections": 2,
        "collections": 1,
        "nodes": 1,
        "buffers": 2,
        "bytes": 8192,
    }
    [heap] = snapshot["heaps"]
    assert (heap["bytes"], heap["buffers"], heap["max_bytes"]) == (8192, 2, None)
    assert heap["domains"] == ["cpu", "inaccessible", "ram"]


def test_users_have_what_they_pay_for(look: Look) -> None:
    look.bench.allocated()
    token = look.bench.token()
    look.bench.bind(look.bench.duplicate(token), look.bench.allocator(uid=0))
    look.bench.service.users.limit({Kind.NODES: 100}, {})
    users = {user["uid"]: user for user in look.snapshot()["users"]}
    limits = dict.fromkeys(map(str, Kind)) | {"nodes": 100}
    for user in look.bench.service.users:
        counted = {name: user.tally[Kind(name)] for name in users[user.uid] if name in limits}
        assert counted.items() <= users[user.uid].items()
    assert users[STRANGER] == {
        "uid": STRANGER,
        "name": None,
        "connections": 2,
        "collections": 2,
        "nodes": 2,
        "buffers": 2,
        "bytes": 8192,
        "trackings": 0,
        "queued_bytes": 0,
        "descriptors": 6,
        "limits": limits,
    }
    assert users[0]["name"] == "root"
    assert users[0]["nodes"] == 1


def test_connections(look: Look) -> None:
    allocator = look.bench.allocator("camera", 12)
    look.bench.token(allocator)
    [first, second] = look.snapshot()["connections"]
    assert (first["protocol"], second["protocol"]) == (
        "sysmem.Inspector",
        "fuchsia.sysmem2.Allocator",
    )
    assert (first["received"], first["unanswered"]) == (1, 1)
    assert (second["pid"], second["uid"]) == (os.getpid(), STRANGER)
    assert (second["client_name"], second["client_id"]) == ("camera", 12)
    assert (second["received"], second["sent"], second["queued"]) == (2, 0, 0)
    assert second["command"] == command(os.getpid())
    assert second["number"] > first["number"]
    for connection in look.bench.service.reactor.connections():
        connection.since -= 10**18  # this process did not exist then
    assert [each["command"] for each in look.snapshot()["connections"]] == [None, None]


def test_an_allocated_collection(look: Look) -> None:
    collection = look.bench.collection()
    collection.send(Node.set_name, sysmem2.NodeSetNameRequest(priority=1, name="pictures"))
    collection.send(BufferCollection.set_constraints, wanting())
    look.run()
    [described] = look.snapshot()["collections"]
    [node] = described.pop("nodes")
    settings = described.pop("settings")
    [server] = look.bench.service.collections.values()
    assert settings["buffer_settings"]["size_bytes"] == 4096
    assert settings["buffer_settings"]["coherency_domain"] == "CPU"
    assert [buffer.pop("inode") > 0 for buffer in described["buffers"]] == [True, True]
    assert 0 <= described.pop("age_s") < 60
    assert described == {
        "id": server.id,
        "name": "pictures",
        "uid": STRANGER,
        "state": "allocated",
        "waiting_for": [],
        "buffer_count": 2,
        "buffers": [
            {"index": index, "size": 4096, "name": f"pictures:{index}", "state": "server"}
            for index in range(2)
        ],
    }
    assert 0 <= node.pop("age_s") < 60
    assert node.pop("koid") == server.root.channel.koid  # type: ignore[attr-defined] # a NodeServer
    assert node == {
        "number": 1,
        "parent": None,
        "kind": "collection",
        "state": "constrained",
        "ready": True,
        "connected": True,
        "released": False,
        "weak": False,
        "isolation": "propagate",
        "rights_mask": 0xFFFFFFFF,
        "client_name": "tester",
        "client_id": 7,
        "pid": os.getpid(),
        "uid": os.getuid(),
        "command": command(os.getpid()),
        "constraints": {
            "usage": {"cpu": ["READ_OFTEN"]},
            "min_buffer_count_for_camping": 2,
            "buffer_memory_constraints": {"min_size_bytes": 4096},
        },
        "must_match": False,
        "outcome": "success",
        "received": 2,
        "sent": 0,
        "queued": 0,
    }


def test_a_negotiating_collection_says_who_is_waited_for(look: Look) -> None:
    token = look.bench.token()
    child = look.bench.duplicate(token)
    look.bench.duplicate(child)
    collection = look.bench.bind(token)
    collection.send(BufferCollection.set_constraints, wanting())
    look.run()
    [described] = look.snapshot()["collections"]
    assert (described["state"], described["waiting_for"]) == ("negotiating", [2, 3])
    assert (described["settings"], described["buffer_count"], described["buffers"]) == (
        None,
        None,
        [],
    )
    nodes = described["nodes"]
    assert [(node["number"], node["parent"], node["state"]) for node in nodes] == [
        (1, None, "constrained"),
        (2, 1, "token"),
        (3, 2, "token"),
    ]
    assert [node["constraints"] is None for node in nodes] == [False, True, True]
    assert [one["node"] for one in look.explain(described["id"])["waiting_for"]] == [2, 3]
    assert [(node["outcome"], node["ready"]) for node in nodes] == [
        (None, True),
        (None, False),
        (None, False),
    ]


def test_an_end_that_the_daemon_made_is_of_who_asked_for_it(look: Look) -> None:
    token = look.bench.token()
    request = sysmem2.CreateTokensRequest(rights_attenuation_masks=[0xFFFFFFFF])
    answer = token.call(BufferCollectionToken.duplicate_sync, request)
    made = [look.bench.adopt(handle) for handle in answer.tokens]
    [collection] = look.bench.service.collections.values()
    root, child = collection.nodes()
    asker = look.bench.service.parties[collection.id].owner.peer
    root.channel.peer = asker  # type: ignore[attr-defined] # a NodeServer
    made += [
        look.bench.adopt(handle)
        for handle in token.call(BufferCollectionToken.duplicate_sync, request).tokens
    ]
    *_, last = look.snapshot()["collections"][0]["nodes"]
    assert (last["pid"], last["uid"]) == (asker.pid, asker.uid)
    assert child.in_tree


def test_an_orphan_is_still_described(look: Look) -> None:
    collection = look.bench.allocated()
    _, far = look.bench.client()
    collection.send(
        BufferCollection.attach_token,
        sysmem2.BufferCollectionAttachTokenRequest(rights_attenuation_mask=1, token_request=far),
    )
    collection.send(Node.release)
    look.run()
    collection.close()
    look.run()
    root, attached = look.snapshot()["collections"][0]["nodes"]
    assert (root["state"], root["connected"], root["released"]) == ("orphan", False, True)
    assert root["pid"] == os.getpid()
    assert (attached["isolation"], attached["state"]) == ("do not propagate", "token")


def test_buffers_that_somebody_holds_after_the_end_are_failing(look: Look) -> None:
    collection = look.bench.allocated()
    info = collection.call(BufferCollection.wait_for_all_buffers_allocated).buffer_collection_info
    first, second = (buffer.vmo for buffer in info.buffers)
    attached = look.bench.bind(look.bench.attach(collection))
    attached.send(BufferCollection.set_constraints, wanting(camping=0, vmo=first.duplicate()))
    look.run()
    [alive] = look.snapshot()["collections"]
    assert [node["must_match"] for node in alive["nodes"]] == [False, True]
    collection.close()
    look.run()
    snapshot = look.snapshot()
    [described] = snapshot["collections"]
    assert (described["state"], described["nodes"]) == ("failing", [])
    assert [buffer["state"] for buffer in described["buffers"]] == ["strong", "strong"]
    assert described["buffers"][0]["inode"] == os.fstat(first.fileno()).st_ino
    assert (snapshot["totals"]["collections"], snapshot["totals"]["bytes"]) == (1, 8192)
    [ended] = snapshot["ended"]
    assert ended["id"] == described["id"]
    assert (ended["how"], ended["cause"]) == ("failed", "closed without Release")
    assert [one["state"] for one in look.snapshot(ended["id"])["collections"]] == ["failing"]
    look.bench.token().close()
    look.run()
    assert [one["id"] for one in look.snapshot(ended["id"])["ended"]] == [ended["id"]]
    first.close()
    look.bench.memory.process_events()
    [described] = look.snapshot()["collections"]
    assert [buffer["index"] for buffer in described["buffers"]] == [1]
    second.close()
    look.bench.memory.process_events()
    look.run()
    assert look.snapshot()["collections"] == []
    assert look.snapshot(described["id"]) is Error.NOT_FOUND


def test_one_collection(look: Look) -> None:
    look.bench.token()
    look.bench.allocated()
    first, second = look.bench.service.collections
    snapshot = look.snapshot(second)
    assert [one["id"] for one in snapshot["collections"]] == [second]
    assert snapshot["totals"]["collections"] == 2
    assert look.snapshot(1) is Error.NOT_FOUND
    assert first != second


def test_what_ended(look: Look) -> None:
    peaceful = look.bench.allocated()
    peaceful.send(Node.release)
    look.run()
    peaceful.close()
    look.bench.token().close()
    refused = look.bench.collection()
    refused.send(BufferCollection.set_constraints, wanting(most=1))
    look.run()
    newest, middle, oldest = look.snapshot()["ended"]
    assert (oldest["how"], oldest["cause"]) == ("released", "no connected client left")
    assert (oldest["line"], oldest["error"]) == (None, None)
    assert (middle["how"], middle["cause"], middle["error"]) == (
        "failed",
        "closed without Release",
        None,
    )
    assert middle["line"] == "tester (7), token 1, closed its token without Release, or ended"
    assert (newest["how"], newest["cause"]) == ("failed", "allocation failed")
    assert newest["error"] == "CONSTRAINTS_INTERSECTION_EMPTY"
    assert "max_buffer_count = 1" in newest["line"]
    assert (newest["node"], newest["client_name"]) == (1, "tester")
    assert newest["ended"].endswith("Z")
    hour_ago = look.inspection.daemon.wall_time(look.bench.clock.now() - 3600 * 10**9)
    seconds = datetime.fromisoformat(hour_ago).timestamp()
    assert seconds == pytest.approx(time.time() - 3600, abs=60)


def test_an_answer_is_sealed_and_for_reading(look: Look) -> None:
    look.client.send(Inspector.snapshot, InspectorSnapshotRequest())
    look.run()
    message = look.client.message()
    assert message is not None
    [vmo] = message.handles
    with vmo:
        fd = vmo.fileno()
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_WRITE
        assert seals & fcntl.F_SEAL_SEAL


def test_questions_that_wait_share_an_answer_but_not_with_those_under_way(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: deque[Callable[[], None]] = deque()
    monkeypatch.setattr(look.inspection, "_in_turn", lambda _, one: work.append(one))
    clients = [look.connect() for _ in range(3)]
    request = InspectorSnapshotRequest()
    txids = [client.send(Inspector.snapshot, request) for client in clients[:1]]
    look.run()
    work.popleft()()  # it is under way
    look.bench.token()
    txids += [client.send(Inspector.snapshot, request) for client in clients[1:]]
    look.run()
    while work:
        work.popleft()()
    before, *after = (
        read(client, Inspector.snapshot, txid) for client, txid in zip(clients, txids, strict=True)
    )
    assert before["collections"] == []
    assert after[0] == after[1]
    assert len(after[0]["collections"]) == 1


def test_who_leaves_while_others_are_described_is_left_out(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    [*others, leaves] = [look.bench.allocator() for _ in range(3)]

    def others_go_on(connections: list[Connection]) -> Iterator[Connection]:
        for connection in connections:
            yield connection
            if not connections[-1].closed:
                connections[-1].close()

    monkeypatch.setattr("sysmemd.inspection.snapshot.giving_way", others_go_on)
    assert len(look.snapshot()["connections"]) == 1 + len(others)
    leaves.close()


def test_a_node_that_leaves_while_others_are_described_is_left_out(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = look.bench.collection()
    leaves, _ = (look.bench.attach(root) for _ in range(2))

    def others_go_on(items: Iterable[object], every: int = 16) -> Iterator[object]:
        for item in list(items):
            yield item
            if every == 8:  # nodes
                leaves.close()
                look.bench.run()

    monkeypatch.setattr("sysmemd.inspection.snapshot.giving_way", others_go_on)
    [described] = look.inspection.described(None)["collections"]
    assert [node["number"] for node in described["nodes"]] == [1, 3]


def test_who_leaves_before_the_answer_is_no_trouble(look: Look) -> None:
    client = look.connect()
    client.send(Inspector.snapshot, InspectorSnapshotRequest())
    look.bench.run()
    client.close()
    look.run()
    assert look.snapshot()["totals"]["connections"] == 1


def test_an_inspector_that_breaks_the_protocol_loses_its_channel(look: Look) -> None:
    client = look.connect()
    client.send_raw(Message(0, 5))
    look.run()
    assert client.is_closed()
    fields = look.bench.log.refusal()
    assert "no method with ordinal" in fields["reason"]
    assert (fields["channel"], fields["pid"]) == ("Inspector", os.getpid())


def test_an_inspector_that_the_daemon_cannot_serve_loses_its_channel(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise KeyError("oh")

    monkeypatch.setattr(look.inspection, "check_snapshot", fail)
    look.client.send(Inspector.snapshot, InspectorSnapshotRequest())
    look.run()
    assert look.client.is_closed()
    assert look.bench.log.said("error")[-1][1]["reason"] == "the daemon failed: KeyError('oh')"


def test_a_daemon_that_ends_answers_no_more_questions(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: deque[Callable[[], None]] = deque()
    monkeypatch.setattr(look.inspection, "_in_turn", lambda _, one: work.append(one))
    for _ in range(2):
        look.client.send(Inspector.snapshot, InspectorSnapshotRequest())
        look.run()
    look.inspection.close()
    while work:
        work.popleft()()
    message = look.client.message()  # it was under way
    assert message is not None
    message.close()
    assert look.client.message() is None


def test_a_daemon_that_runs_short_says_so(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    error = OSError("no descriptor is left")
    with monkeypatch.context() as patch:
        patch.setattr(Document, "open", fail)
        assert look.snapshot() is Error.UNSPECIFIED
    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", fail)
        assert look.snapshot() is Error.UNSPECIFIED
    with monkeypatch.context() as patch:
        patch.setattr("sysmemd.inspection.snapshot.open_descriptors", fail)
        assert look.snapshot() is Error.UNSPECIFIED
    assert look.snapshot()["schema"] == 1
    assert (
        look.bench.log.said("error")
        == [
            (
                "a response to an inspector could not be created",
                {"reason": repr(error), "exc_info": error},
            )
        ]
        * 3
    )


def test_json_comes_in_parts_of_a_few_elements() -> None:
    parts = [*encoded({"a": [*range(40)], "b": [{"c": []}] * 40})]
    assert 8 <= max(part.count(b",") for part in parts) < 16
    assert max(part.count(b'"c"') for part in parts) == 1, "what has parts itself comes alone"


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"a": [1, 2], "b": {"c": [{"d": 1}, {"e": [{"f": "é\n"}]}, 3]}},
        [{"a": number} for number in range(200)],
        [*range(100), {"a": []}, *range(100)],
    ],
)
def test_json_in_parts_is_the_json(value: object) -> None:
    assert json.loads(b"".join(encoded(value))) == value
    assert len([*encoded({"a": value})]) >= len([*encoded(value)])


def test_a_document_of_a_snapshot_leaves_no_nodes_to_free_at_one_time(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = look.bench.token()
    for _ in range(20):
        look.bench.duplicate(token)
    data = look.inspection.described(None)
    [collection] = data["collections"]
    assert len(collection["nodes"]) == 21
    left: list[int] = []
    monkeypatch.setattr(
        "sysmemd.inspection.answers.give_way", lambda: left.append(len(collection["nodes"]))
    )
    document(data).close()
    assert left == [5, 0]


def test_the_command_of_a_process_that_is_gone_or_another_one_by_now() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    assert command(pid) is None
    assert command(0) is None
    assert command(os.getpid(), since=0.0) is None


def test_a_process_must_have_existed_at_that_time_and_is_looked_up_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, float]] = []

    def record(pid: int, since: float) -> str:
        asked.append((pid, since))
        return "camera"

    monkeypatch.setattr("sysmemd.inspection.processes.command", record)
    commands = Commands()
    assert [commands.of(7, 3600.0) for _ in range(2)] == ["camera"] * 2
    [(pid, since)] = asked
    then = time.clock_gettime(time.CLOCK_BOOTTIME) - 3600
    assert pid == 7
    assert since == pytest.approx(then, abs=60)


def test_a_process_is_the_same_if_it_started_at_most_a_tick_later() -> None:
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    ticks = int(Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19])
    name = command(os.getpid())
    assert name
    for late, found in ((-1, name), (0, name), (0.5, name), (2, None)):
        assert command(os.getpid(), since=(ticks - late) / ticks_per_second) == found


def test_the_limit_of_descriptors_is_that_which_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (7, 9))
    assert descriptor_limit() == 7
