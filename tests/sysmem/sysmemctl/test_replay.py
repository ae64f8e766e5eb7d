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
from sysmem.sysmemctl._differences import differences, translated
from sysmem.sysmemctl._recording import read
from sysmem.testing import Sysmemd
from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle, channel_pair

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
    assert [each.fileno() for each in others] == [-1, -1]
    assert vmos[2].closed


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


def test_numbers_are_translated_in_fields_and_texts() -> None:
    event = {"koid": 1234567, "count": 1234567, "line": "collection 1234567 of 7654321"}
    assert translated(event, {1234567: 9}) == {
        "koid": 9,
        "count": 1234567,
        "line": "collection 9 of 7654321",
    }
