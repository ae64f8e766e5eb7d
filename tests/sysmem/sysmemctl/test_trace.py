"""`sysmemctl trace`: each message as a line, at every width, and as JSON."""

from __future__ import annotations

import json
import re
import signal
from itertools import takewhile

import pytest

from sysmem import blocking
from sysmem.testing import Sysmemd

from .conftest import Ctl, Held, wants, watching


def negotiate(sysmemd: Sysmemd) -> None:
    with blocking.connect(sysmemd.runtime_dir, name="cam\x1bera", id=7) as camera:
        collection = camera.allocate_non_shared_collection()
        collection.set_constraints(wants(10))
        collection.wait_for_all_buffers_allocated().close()
        collection.release()


def traced(sysmemd: Sysmemd, *arguments: str, **environment: str) -> list[str]:
    """Trace a negotiation until its last message, and interrupt the command."""
    with watching(sysmemd, "trace", *arguments, **environment) as process:
        negotiate(sysmemd)
        assert process.stdout is not None
        lines = [*takewhile(lambda line: "Release" not in line, process.stdout)]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    return [line.rstrip("\n") for line in lines]


def test_each_message_is_a_line(sysmemd: Sysmemd) -> None:
    lines = traced(sysmemd)
    time, client = r"\d\d:\d\d:\d\d\.\d{6} +\d+", r"cam\\x1bera \(7\)"
    for expected in (
        rf"{time} – \(0\) +→   0 Allocator\.SetDebugClientInfo\(name, id\)",
        rf"{time} {client} +→   1 BufferCollection\.WaitForAllBuffersAllocated\(\)",
        rf"{time} {client} +←   1 BufferCollection\.WaitForAllBuffersAllocated"
        r"\(buffer_collection_info\) 2 descriptors",
    ):
        assert len([line for line in lines if re.fullmatch(expected, line)]) == 1


@pytest.mark.parametrize("columns", [80, 40])
def test_lines_fit_the_terminal(sysmemd: Sysmemd, columns: int) -> None:
    lines = traced(sysmemd, "--bodies", COLUMNS=str(columns))
    assert max(map(len, lines)) <= columns
    whole = "".join(line.strip() for line in lines)
    assert '"min_buffer_count":2' in whole
    assert '"size_bytes":4096' in whole or '"size_bytes":10' in whole


def test_json_has_the_events_themselves(sysmemd: Sysmemd) -> None:
    events = [json.loads(line) for line in traced(sysmemd, "--json", "--bodies")]
    assert {event["event"] for event in events} == {"message"}
    [constraints] = [event["body"] for event in events if event["method"] == "SetConstraints"]
    assert constraints["constraints"]["min_buffer_count"] == 2


def test_one_collection_is_traced_for_some_seconds(
    ctl: Ctl, collections: Held, sysmemd: Sysmemd
) -> None:
    with watching(sysmemd, "trace", "allocated", "--json", "--seconds", "0.3") as process:
        negotiate(sysmemd)
        assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == 0
    assert ctl("trace", "nobody's").status == 1
