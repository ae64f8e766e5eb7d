"""`SYSMEM_TRACE`: a client's own trace (`docs/spec/inspect.md`, "sysmemctl")."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cbor2
import pytest

from sysmem._traced import _content
from sysmem.testing import Sysmemd
from sysmem_protocol.sysmem2 import BufferCollection

#: The columns of a message, which `sysmemctl trace` has too.
LINE = re.compile(
    r"(?P<time>\d\d:\d\d:\d\d\.\d{6}) +(?P<connection>\d+) (?P<client>.*?) +(?P<direction>[→←]) +(?P<txid>\d+) "
    r"(?P<protocol>\w+)\.(?P<method>\w+)\((?P<fields>[\w, ]*)\)(?: (?P<descriptors>\d+) descriptors?)?"
    r"(?: (?P<error>[A-Z_]+))?"
)
BLOCKING = """
import os, sys, sysmem
from sysmem import blocking
before = os.listdir("/proc/self/fd")
with blocking.connect(sys.argv[1], name="camera", id=7) as allocator:
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_constraints(sysmem.BufferCollectionConstraints(
            usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ_OFTEN), min_buffer_count=70,
            buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=1)))
        collection.wait_for_all_buffers_allocated().close()
        collection.release()
    memfd = os.memfd_create("other")
    try:
        allocator.get_vmo_info(memfd)
    except sysmem.SysmemError:
        os.close(memfd)
assert os.listdir("/proc/self/fd") == before
"""
ASYNC = """
import sys, sysmem, {library}
async def main():
    async with sysmem.connect(sys.argv[1], name="camera", id=7) as allocator:
        async with await allocator.allocate_shared_collection() as token:
            await token.sync()
            await token.release()
{library}.run(main{call})
"""
FORKS = """
import os, sys
from sysmem import blocking
def work(name):
    with blocking.connect(sys.argv[1], name=name) as allocator:
        for _ in range(50):
            allocator.validate_buffer_collection_token(0)
for number in range(4):
    if os.fork() == 0:
        work(f"child {number}")
        os._exit(0)
work("parent")
for _ in range(4):
    assert os.wait()[1] == 0
"""


def traced(script: str, sysmemd: Sysmemd, value: str | None) -> str:
    """Run a client with this environment. Return its stderr."""
    environment = {key: text for key, text in os.environ.items() if key != "SYSMEM_TRACE"}
    if value is not None:
        environment["SYSMEM_TRACE"] = value
    command = [sys.executable, "-c", script, str(sysmemd.runtime_dir)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    # asyncio's debug mode, which `-X dev` enables, also reports slow steps of tasks there.
    lines = done.stderr.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("Executing <"))


def parsed(text: str) -> list[dict[str, str]]:
    found = [LINE.fullmatch(line) for line in text.splitlines()]
    assert all(found), text
    return [match.groupdict() for match in found if match]


def test_each_message_is_a_line_with_the_columns_of_sysmemctl_trace(sysmemd: Sysmemd) -> None:
    written = parsed(traced(BLOCKING, sysmemd, "1"))
    assert [(m["connection"], m["direction"], m["protocol"], m["method"]) for m in written] == [
        ("1", "→", "Allocator", "SetDebugClientInfo"),
        ("1", "→", "Allocator", "SetExplain"),
        ("1", "→", "Allocator", "AllocateNonSharedCollection"),
        ("2", "→", "BufferCollection", "SetConstraints"),
        ("2", "→", "BufferCollection", "WaitForAllBuffersAllocated"),
        ("2", "←", "BufferCollection", "WaitForAllBuffersAllocated"),
        ("2", "→", "BufferCollection", "Release"),
        ("1", "→", "Allocator", "GetVmoInfo"),
        ("1", "←", "Allocator", "OnExplained"),
        ("1", "←", "Allocator", "GetVmoInfo"),
    ]
    assert {m["client"] for m in written} == {"camera (7)"}
    assert written[0]["fields"] == "name, id"
    assert (written[5]["fields"], written[5]["descriptors"]) == ("buffer_collection_info", "70")
    assert (written[7]["fields"], written[7]["descriptors"]) == ("vmo", "1")
    assert (written[9]["fields"], written[9]["error"]) == ("", "NOT_FOUND")
    assert written[4]["txid"] == written[5]["txid"] != "0"


@pytest.mark.parametrize(("library", "call"), [("trio", ""), ("asyncio", "()")])
def test_the_async_face_is_traced_too(sysmemd: Sysmemd, library: str, call: str) -> None:
    written = parsed(traced(ASYNC.format(library=library, call=call), sysmemd, "1"))
    assert [(m["direction"], m["method"]) for m in written] == [
        ("→", "SetDebugClientInfo"),
        ("→", "SetExplain"),
        ("→", "AllocateSharedCollection"),
        ("→", "Sync"),
        ("←", "Sync"),
        ("→", "Release"),
    ]
    assert {m["client"] for m in written} == {"camera (7)"}


def test_several_processes_append_whole_lines_to_one_file(sysmemd: Sysmemd, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("")
    for _ in range(2):
        assert traced(FORKS, sysmemd, str(path)) == ""
    written = parsed(path.read_text())
    assert len(written) == 2 * 5 * (2 + 2 * 50)
    clients = [m["client"].partition(" (")[0] for m in written]
    assert {clients.count(name) for name in ("parent", *(f"child {i}" for i in range(4)))} == {204}


def test_a_file_that_can_not_be_written_is_told_once_and_harms_nothing(
    sysmemd: Sysmemd, tmp_path: Path
) -> None:
    [told] = traced(BLOCKING, sysmemd, str(tmp_path / "no" / "trace")).splitlines()
    assert told.startswith("sysmem: the trace could not be written: ")
    assert str(tmp_path) in told


@pytest.mark.parametrize("value", [None, "", "0"])
def test_nothing_is_written_or_loaded_without_it(sysmemd: Sysmemd, value: str | None) -> None:
    check = "import sys\nassert 'sysmem._traced' not in sys.modules\n"
    assert traced(BLOCKING + check, sysmemd, value) == ""


@pytest.mark.parametrize("body", [[0], 5, "text", {}])
def test_a_body_that_is_no_answer_is_left_to_whoever_reads_it(body: object) -> None:
    method = BufferCollection.wait_for_all_buffers_allocated
    assert _content(method, "out", cbor2.dumps(body)) == ({}, None)
