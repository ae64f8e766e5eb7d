"""`sysmemctl replay`: a capture gives the same result again, or the differences are listed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sysmem
from sysmem import blocking
from sysmem.pytest_plugin import Factory
from sysmem.sysmemctl._belongings import Belongings
from sysmem.sysmemctl._differences import differences, short, translated
from sysmem.sysmemctl._numbers import Numbers
from sysmem.sysmemctl._recording import read
from sysmem.sysmemctl._steps import Steps
from sysmem.sysmemctl._trouble import Trouble
from sysmem.testing import Sysmemd
from sysmem_protocol.channel import Channel
from sysmem_protocol.explained import Allocator
from sysmem_protocol.handles import Handle, channel_pair
from sysmem_protocol.library import HandleKind
from sysmem_protocol.sysmem2 import BufferCollectionToken, Node

from .conftest import Ctl, wants, watching

EXAMPLES = Path(__file__).parents[3] / "examples"

Story = Callable[[Sysmemd, Path], object]


def example(name: str, *arguments: str) -> Story:
    def run(sysmemd: Sysmemd, out: Path) -> None:
        directory = str(sysmemd.runtime_dir)
        more = [argument.format(out=out) for argument in arguments]
        command = [sys.executable, str(EXAMPLES / name), "--runtime-dir", directory, *more]
        # On a busy machine an example may give up, which is tested elsewhere. The events before that were captured.
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)

    return run


def pair(
    allocator: blocking.Allocator, name: str
) -> tuple[blocking.BufferCollection, blocking.BufferCollectionToken]:
    token = allocator.allocate_shared_collection()
    token.set_name(1, name)
    [other] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
    return allocator.bind_shared_collection(token), other


def refused(sysmemd: Sysmemd, out: Path) -> None:
    with (
        blocking.connect(sysmemd.runtime_dir, name="camera", id=7) as camera,
        blocking.connect(sysmemd.runtime_dir, name="display", id=8) as display,
    ):
        first, token = pair(camera, "refused")
        token.set_debug_client_info("on its way", 9)  # processed when the token is turned in
        with first, display.bind_shared_collection(token) as second:
            first.set_constraints(wants(65536))
            second.set_constraints(wants(10, 20))
            assert first.wait_closed(10)
            assert second.wait_closed(10)


def used(sysmemd: Sysmemd, out: Path) -> None:
    """Use descriptors for all purposes, and numbers that each daemon draws anew."""
    with blocking.connect(sysmemd.runtime_dir, name="camera", id=7) as camera:
        first, token = pair(camera, "used")
        with first, camera.bind_shared_collection(token) as second, second.get_node_ref() as ref:
            assert first.is_alternate_for(ref) is False
            first.set_constraints(wants(10))
            second.set_constraints(wants(20))
            with first.wait_for_all_buffers_allocated() as info:
                vmo = info.buffers[1].vmo
                assert vmo is not None
                with camera.get_vmo_info(vmo) as known:
                    assert known.buffer_index == 1
            attached = first.attach_token()
            camera.validate_buffer_collection_token(attached.server_koid)
            attached.release()
            second.release()
            first.release()


needs_av = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("av", "matplotlib"))), reason="the demo's packages"
)
STORIES = [
    pytest.param(example("fallback"), id="fallback"),
    pytest.param(example("camera_pipeline", "--out", "{out}"), id="camera", marks=needs_av),
    refused,
    used,
]


def capture(sysmemd: Sysmemd, story: Story, directory: Path) -> Path:
    file = directory / "capture.jsonl"
    with watching(sysmemd, "capture", str(file)) as process:
        story(sysmemd, directory)
        while '"event":"ended"' not in file.read_text():
            pass  # only the writing process knows when
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    return file


@pytest.mark.parametrize("story", STORIES)
def test_nothing_differs_in_another_daemon_and_after_a_restart(
    ctl: Ctl, sysmemd: Sysmemd, story: Story, tmp_path: Path
) -> None:
    file = capture(sysmemd, story, tmp_path)
    for _ in range(2):
        sysmemd.stop()
        sysmemd.start()
        printed = ctl("replay", str(file))
        assert printed.out == ""
        assert printed.status == 0
        assert "not sent" not in printed.err


def test_changed_limits_show_what_differs(
    sysmemd: Sysmemd, sysmemd_factory: Factory, ctl: Ctl, tmp_path: Path
) -> None:
    def alone(sysmemd: Sysmemd, out: Path) -> None:
        with blocking.connect(sysmemd.runtime_dir, name="camera", id=7) as camera:
            collection = camera.allocate_non_shared_collection()
            collection.set_constraints(wants(65536))
            collection.wait_for_all_buffers_allocated().close()
            collection.release()

    file = capture(sysmemd, alone, tmp_path)
    other = str(sysmemd_factory(config={"limits": {"max_allocation_bytes": 4096}}).runtime_dir)
    printed = ctl("replay", str(file), "--runtime-dir", other, "--json")
    assert printed.status == 1
    found = {(each["what"], each["path"]): (each["was"], each["now"]) for each in printed.data}
    assert {what for what, _ in found} == {
        "OnExplained",
        "WaitForAllBuffersAllocated",
        "left",
        "ended",
    }
    # This participant alone makes the collection fail, before its next message can arrive.
    assert found["WaitForAllBuffersAllocated", "$"][1] is None
    explained = found["OnExplained", "$"][1]
    assert explained["body"]["error"] == "CONSTRAINTS_INTERSECTION_EMPTY"
    assert found["ended", "$.how"] == ("released", "failed")
    assert "65536 > 4096" in found["left", "$.line"][1]
    printed_again = ctl("replay", str(file), "--runtime-dir", other)
    text = printed_again.out
    assert 'camera (7): left $.state was "orphan", is "failed"' in text
    assert "not sent, because their channels had closed" in printed_again.err
    assert len(text.splitlines()) == len(printed.data)


def test_a_capture_that_lacks_events_is_refused(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "capture.jsonl"
    header = {"capture": 1, "version": "0", "at": "", "snapshot": {}}
    lines = (header, {"event": "lost", "count": 3})
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert read(file).lost == 3
    printed = ctl("replay", str(file))
    assert (printed.status, printed.out) == (1, "")
    assert "lacks 3 events" in printed.err


def test_descriptors_are_closed_when_the_captured_ones_were() -> None:
    unused: Any = None
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far, Belongings(unused, unused) as owner:
        far.bind(b"\0sysmemctl-test/%d" % os.getpid())
        ends = [Channel(os.dup(near.fileno())) for _ in range(3)]
        others = [Channel(end.detach()) for end in channel_pair()]
        near.close()
        owner.connected(1, ends[0])
        owner._loose += [*ends[1:], *others]
        owner.close_end(1)
        assert [each.fileno() >= 0 for each in (*ends, *others)] == [False] * 3 + [True] * 2
        assert far.recv(1) == b""
        assert owner._loose == others
        vmos = [Handle(os.memfd_create("test")) for _ in range(3)]
        for vmo, place in zip(vmos, ((3, 0), (3, 1), (4, 0)), strict=True):
            owner._keep_buffer(*place, vmo, None)
        owner.drop(3)
        assert [vmo.closed for vmo in vmos] == [True, True, False]
        owner._keep_buffer(4, 0, spare := Handle(os.memfd_create("test")), None)
    assert spare.closed
    assert [each.fileno() for each in others] == [-1, -1]
    assert vmos[2].closed


def request(connection: int, method: str, body: Any = None, protocol: str = "Allocator") -> Any:
    how = {"direction": "in", "txid": 0, "method": method, "protocol": protocol, "body": body}
    return {"event": "message", "connection": connection, "client_name": "", **how}


def node(connection: int, by: int, number: int) -> dict[str, Any]:
    about = {"collection": 3, "node": number, "koid": 50 + number, "client_name": "camera"}
    return {"event": "node", "connection": connection, "by": by, **about, "client_id": 7}


def left(connection: int, number: int, cause: str | None, first: int | None = None) -> Any:
    about = {"collection": 3, "node": number, "cause": cause, "first": first}
    return {"event": "left", "connection": connection, **about}


SERVED = {"event": "connected", "connection": 1, "protocol": "fuchsia.sysmem2.Allocator"}


def steps(*events: dict[str, Any]) -> tuple[Steps, list[tuple[str, int | None, str]]]:
    """Return the steps of events, and each one's kind, connection, and method or event."""
    made = Steps([SERVED, *events])
    shown = [
        (each.kind.name, each.connection, each.event.get("method") or each.event["event"])
        for each in made.steps
    ]
    return made, shown


def test_messages_on_a_token_come_before_its_turn_in() -> None:
    bind = request(1, "BindSharedCollection", {"token": {"koid": 51}})
    name = request(2, "SetName", protocol="BufferCollectionToken")
    unknown = request(1, "BindSharedCollection", {"token": {"koid": 99}})
    made, shown = steps(node(2, 1, 1), bind, name, node(4, 1, 2), name, unknown, request(9, "Sync"))
    assert shown == [
        ("CONNECT", 1, "connected"),
        ("TOLD", 2, "node"),
        ("SEND", 2, "SetName"),
        ("SEND", 2, "SetName"),
        ("SEND", 1, "BindSharedCollection"),
        ("TOLD", 4, "node"),
        ("SEND", 1, "BindSharedCollection"),
    ]
    assert made.unknown == 1
    assert made.interfaces == {1: Allocator, 2: BufferCollectionToken, 4: Node}
    assert made.clients == {2: ("camera", 7), 4: ("camera", 7)}
    assert (made.by_koid, made.koids) == ({51: 2, 52: 4}, {2: 51, 4: 52})
    assert (made.by_node, made.nodes) == ({(3, 1): 2, (3, 2): 4}, {2: (3, 1), 4: (3, 2)})
    assert made.made == {1: [2, 4]}
    with pytest.raises(Trouble, match=r"^line 3: the message has an invalid body: KeyError"):
        steps(request(1, "BindSharedCollection", {}))


def test_a_close_comes_before_all_that_it_ends() -> None:
    explained = {**request(2, "OnExplained"), "direction": "out"}
    _, shown = steps(
        *(node(2, 1, 1), node(4, 1, 2)),
        *(explained, left(2, 1, "closed without Release", 2)),
        left(4, 2, "closed without Release", 2),
        {"event": "closed", "connection": 2},
        {"event": "refused", "connection": 1, "reason": ""},
        *({"event": "ended", "collection": 3}, {"event": "ended", "collection": 4}),
    )
    assert shown[3:] == [
        ("CLOSE", 4, "left"),
        ("TOLD", 2, "OnExplained"),
        ("TOLD", 2, "left"),
        ("TOLD", 4, "left"),
        ("CLOSE", 2, "closed"),
        ("TOLD", 2, "closed"),
        ("TOLD", 1, "refused"),
        ("TOLD", None, "ended"),
    ]
    _, shown = steps(
        *(node(2, 1, 1), node(4, 1, 2)),
        left(2, 1, None),
        left(4, 2, "no strong handle to any buffer left"),
        left(9, 3, None),
        {"event": "closed", "connection": 9},
    )
    assert shown[3:] == [
        ("CLOSE", 2, "left"),
        ("TOLD", 2, "left"),
        ("DROP", None, "left"),
        ("TOLD", 4, "left"),
    ]


def test_nodes_correspond_by_their_order_on_a_connection() -> None:
    made, _ = steps(node(2, 1, 1), node(4, 1, 2))
    numbers = Numbers(made)
    numbers.connections[21] = 1
    again = [{**node(20 + n, 21, n), "koid": 70 + n, "collection": 13} for n in (1, 2, 3)]
    again[0]["connection"], again[1]["connection"], again[2]["connection"] = 22, 24, 25
    assert [numbers.pair(each) for each in again] == [2, 4, None]
    assert [numbers.koid(koid) for koid in (51, 52, 53)] == [71, 72, None]
    assert [numbers.collection(id) for id in (13, 14)] == [3, None]
    found = numbers.translated(again[1])
    assert (found["connection"], found["koid"], found["collection"]) == (4, 52, 3)


def test_a_descriptor_that_the_daemon_did_not_know_is_a_new_one() -> None:
    made = Steps([])
    with Belongings(made, Numbers(made)) as owner:
        owner.close_end(7)  # nobody has it
        for kind, value, target in (
            (HandleKind.VMO, {}, "/memfd:unknown"),
            (HandleKind.VMO, {"collection": 1, "buffer": 0}, "/memfd:unknown"),
            (HandleKind.EVENT, {}, "anon_inode:[eventfd]"),
            (HandleKind.EVENT, {"collection": 1, "node": 0}, "anon_inode:[eventfd]"),
            (HandleKind.CLIENT_END, {"koid": None}, "socket:"),
            (HandleKind.CLIENT_END, {"koid": 7}, "socket:"),
        ):
            with owner.handle(kind, value) as handle:
                assert os.readlink(f"/proc/self/fd/{handle.fileno()}").startswith(target)


def told(what: str, txid: int, body: Any = None) -> dict[str, Any]:
    return {"event": "message", "connection": 1, "method": what, "txid": txid, "body": body}


def test_differences_are_missing_and_new_things_values_and_order() -> None:
    was = [told("A", 1, {"x": [1, 2]}), told("B", 2)]
    assert [*differences(was, was)] == []
    [order] = differences(was, was[::-1])
    assert (order.what, order.was, order.now) == ("order", ["A", "B"], ["B", "A"])
    [value] = differences(was, [told("A", 1, {"x": [1, 3]}), was[1]])
    assert (value.what, value.path, value.was, value.now) == ("A", "$.body.x[1]", 2, 3)
    [missing] = differences(was, was[:1])
    assert (missing.what, missing.now) == ("B", None)
    [new] = differences(was[:1], was)
    assert (new.what, new.was) == ("B", None)
    left = {"event": "left", "connection": 1}
    assert [*differences([*was, left], [left, *was])] == []  # a message may be sent later


def test_a_value_is_cut_to_fit_into_a_line() -> None:
    assert short("x" * 58) == f'"{"x" * 58}"'
    assert short("x" * 59) == f'"{"x" * 58}…'
    assert short({"ü": None}) == '{"\\u00fc": null}'


def test_numbers_are_translated_in_fields_and_texts() -> None:
    event = {"koid": 1234567, "count": 1234567, "line": "collection 1234567 of 7654321"}
    assert translated(event, {1234567: 9}) == {
        "koid": 9,
        "count": 1234567,
        "line": "collection 9 of 7654321",
    }
