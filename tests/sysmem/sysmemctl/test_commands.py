"""Each command of sysmemctl, on a daemon with hanging, refused, allocated and ended collections at once."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import socket
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

import sysmem
from sysmem import blocking, sysmemctl
from sysmem.sysmemctl._commands import COMMANDS
from sysmem.sysmemctl._graph import Box, Graph, _dot, svg
from sysmem.sysmemctl._nodes import unseen
from sysmem.testing import Sysmemd
from sysmem_protocol.processes import Process

from .conftest import NAMES, Ctl, Held

ME = f"[{os.getpid()}]"


def test_list_has_a_line_for_each_collection(ctl: Ctl, collections: Held) -> None:
    header, *lines = ctl("list").out.splitlines()
    rows = {line.split()[1]: line for line in lines}
    assert header.split() == [
        "id",
        "name",
        "state",
        "age",
        "participants",
        "buffers",
        "waits",
        "for",
    ]
    assert "negotiating" in rows["hanging"]
    assert ME in rows["hanging"], "the process that has the token"
    assert "2 × 64 KiB" in rows["allocated"]
    assert "refused" not in rows
    [hanging] = [each for each in ctl("list", "--json").data if each["name"] == "hanging"]
    assert hanging["state"] == "negotiating"
    assert hanging["waiting_for"]


def test_tree_shows_who_is_waited_for(ctl: Ctl, collections: Held) -> None:
    printed = ctl("tree", "hanging").out
    assert "must turn in its token" in printed
    assert "allocated" not in printed
    [tree] = ctl("tree", "hanging", "--json").data
    [root] = tree["nodes"]
    assert [child["kind"] for child in root["children"]] == ["token"]
    assert {each["name"] for each in ctl("tree", "--json").data} >= {"hanging", "allocated"}


def test_tree_marks_isolation_and_weakness(ctl: Ctl, sysmemd: Sysmemd) -> None:
    with (
        blocking.connect(sysmemd.runtime_dir, name="camera", id=7) as camera,
        camera.allocate_shared_collection() as token,
    ):
        [weak, dispensable] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 2)
        with weak, dispensable, camera.bind_shared_collection(token) as collection:
            weak.set_weak()
            weak.sync()
            dispensable.set_dispensable()
            dispensable.sync()
            with collection.attach_token() as attached:
                attached.sync()
                lines = ctl("tree").out.splitlines()[1:]
    marks = [re.findall(r"\[(weak|dispensable|attached)\]", line) for line in lines]
    assert marks == [[], ["weak"], ["dispensable"], ["attached"]]


def test_one_that_lives_comes_before_one_that_has_ended(ctl: Ctl, sysmemd: Sysmemd) -> None:
    with blocking.connect(sysmemd.runtime_dir, name="camera", id=7) as camera:
        for _ in range(2):
            with camera.allocate_shared_collection() as first:
                first.set_name(1, "cam\x1bera")
        with camera.allocate_shared_collection() as token:
            token.set_name(1, "cam\x1bera")
            token.sync()
            assert "must turn in its token" in ctl("why", "cam\x1bera").out
            token.release()
        complaint = ctl("why", "cam").err
    assert "is not unique" in complaint
    assert "cam\\x1bera" in complaint


def test_show_puts_constraints_beside_the_result(ctl: Ctl, collections: Held) -> None:
    lines = ctl("show", "allocated").out.splitlines()
    [size] = [line for line in lines if line.startswith("buffer_memory_constraints.min_size")]
    assert size.split()[1:] == ["65536", "4096"]
    assert any(line.split() == ["buffer_settings.size_bytes", "65536"] for line in lines)
    assert "allocated:1" in "\n".join(lines)
    assert ctl("show", "allocated", "--json").data["buffer_count"] == 2
    assert "Nobody" not in ctl("show", "hanging").out


def test_why_without_a_collection_is_about_the_newest_that_failed(
    ctl: Ctl, collections: Held
) -> None:
    printed = ctl("why").out
    assert printed.startswith("refused (")
    assert "(65536 > 20)" in printed
    assert "> buffer_memory_constraints.max_size_bytes" in printed
    assert ctl("why", "--json").data["attempts"][-1]["outcome"] == "CONSTRAINTS_INTERSECTION_EMPTY"


def test_why_names_the_process_that_is_waited_for(ctl: Ctl, collections: Held) -> None:
    first, second, *_ = ctl("why", "hanging").out.splitlines()
    assert "has been waiting for" in first
    assert "must turn in its token" in second
    assert ME in second


def test_why_introduces_the_refusal_of_an_attached_participant(ctl: Ctl, sysmemd: Sysmemd) -> None:
    with blocking.connect(sysmemd.runtime_dir, name="camera", id=7) as camera:
        first = camera.allocate_non_shared_collection()
        first.set_name(1, "stream")
        first.set_constraints(sysmem.constraints("NV12 64x48", cpu="write", hold=1))
        first.wait_for_all_buffers_allocated().close()
        with first.attach_token() as token:
            late = camera.bind_shared_collection(token)
        late.set_constraints(sysmem.constraints("B8G8R8A8", cpu="read", hold=0))
        assert late.wait_closed(timeout=10)
        late.close()
        told = ctl("why", "stream").out
        first.release()
    assert "The last participant that attached was refused:\n2 fold: no format" in told


def test_why_says_who_decided_what(ctl: Ctl, collections: Held) -> None:
    printed = ctl("why", "allocated").out
    assert "agreed on 2 × 64 KiB" in printed
    assert "the largest min_size_bytes: camera (7)" in printed


def test_a_token_is_waited_for_from_the_process_that_has_it_now(
    ctl: Ctl, collections: Held
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()"],
        stdin=subprocess.PIPE,
        pass_fds=[collections.token.fileno()],
    ) as other:
        try:
            assert f"[{other.pid}]" in ctl("why", "hanging").out
        finally:
            other.kill()


def test_holders_find_a_released_buffer_in_another_process(ctl: Ctl, collections: Held) -> None:
    vmo = collections.ended.buffers[0].vmo
    assert vmo is not None
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[vmo.fileno()]
    ) as other:
        try:
            collections.ended.close()
            printed = ctl("holders", "ended")
            data = ctl("holders", "ended", "--json").data
        finally:
            other.kill()
    assert f"[{other.pid}] of user" in printed.out
    [collection] = data["collections"]
    [buffer] = collection["buffers"]
    holders = {each["pid"]: each for each in buffer["holders"] if not each["daemon"]}
    assert set(holders) == {other.pid}
    assert holders[other.pid]["how"] == "descriptor"
    assert holders[other.pid]["writable"] is True


def test_unread_messages_are_told_only_where_a_buffer_has_no_holder_that_could_be_seen(
    ctl: Ctl, collections: Held
) -> None:
    waiting = f"{ME} of user {os.getuid()}: in the queue of socket"
    [vmo] = [buffer.vmo for buffer in collections.ended.buffers[:1]]
    assert vmo is not None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [vmo.fileno()])
        assert waiting not in ctl("holders").out
        assert ctl("holders", "--json").data["messages"] == []
        collections.ended.close()
        printed = ctl("holders", "ended")
        assert "by no visible process" in printed.out
        assert f"{waiting} {theirs.fileno()}" in printed.out
        messages = ctl("holders", "ended", "--json").data["messages"]
        assert theirs.fileno() in [each["fd"] for each in messages if each["pid"] == os.getpid()]


def test_processes_that_may_not_be_looked_into_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = [Process(number, 1, f"one\x1b{number}") for number in range(2, 7)]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert unseen(processes) == (
        "5 processes could not be inspected (one\\x1b2 [2], one\\x1b3 [3], one\\x1b4 [4], …); "
        "run this as root to see all."
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert unseen(processes[:1]) == "1 process could not be inspected (one\\x1b2 [2])."


def test_dump_prints_the_snapshot(ctl: Ctl, collections: Held) -> None:
    data = ctl("dump").data
    assert data["schema"] == 1
    assert {"hanging", "allocated"} <= {each["name"] for each in data["collections"]}
    assert [each["how"] for each in data["ended"] if each["name"] == "refused"] == ["failed"]


@pytest.mark.parametrize("ending", ["dot", "svg", "png"])
def test_graph_draws_trees_processes_and_buffers(
    ctl: Ctl, collections: Held, tmp_path: Path, ending: str
) -> None:
    drawing = tmp_path / f"drawing.{ending}"
    printed = ctl("graph", "-o", str(drawing))
    assert (printed.status, printed.out, printed.err) == (0, "", "")
    content = drawing.read_bytes()
    if ending == "png":
        assert content.startswith(b"\x89PNG")
        return
    text = content.decode()
    if ending == "svg":
        drawn = xml.etree.ElementTree.fromstring(text)
        is_laid_out(drawn)
        text = "".join(drawn.itertext())
    for part in (
        "hanging",
        "camera (7)",
        "must turn in its token",
        f"pid {os.getpid()}",
        "buffer 1",
    ):
        assert part in text


def is_laid_out(drawn: xml.etree.ElementTree.Element) -> None:
    """Check that boxes do not touch and contain their texts, and that each line joins two boxes, from left to right."""

    def numbers(element: xml.etree.ElementTree.Element, *names: str) -> list[int]:
        return [int(element.attrib[name]) for name in names]

    width, height = numbers(drawn, "width", "height")
    _, *rectangles = drawn.findall("{*}rect")
    boxes = []
    for rectangle in rectangles:
        x, y, across, down = numbers(rectangle, "x", "y", "width", "height")
        boxes.append((x, y, x + across, y + down))
    assert {each.attrib["stroke-width"] for each in rectangles} == {"1", "3"}
    assert all(0 < x < right < width and 0 < y < bottom < height for x, y, right, bottom in boxes)
    for one, other in itertools.combinations(boxes, 2):
        assert any(one[i + 2] < other[i] or other[i + 2] < one[i] for i in range(2))
    for text in drawn.findall("{*}text"):
        x, y = numbers(text, "x", "y")
        assert any(
            left < x < x + 8 * len(str(text.text)) < right and top < y - 13 < y < bottom
            for left, top, right, bottom in boxes
        )
    begins = {(right, (y + bottom) // 2) for _, y, right, bottom in boxes}
    ends = {(x, (y + bottom) // 2) for x, y, _, bottom in boxes}
    lines = [
        list(map(int, re.findall(r"\d+", each.attrib["d"]))) for each in drawn.findall("{*}path")
    ]
    assert len(lines) > len(NAMES)
    for x1, y1, *bends, x2, y2 in lines:
        assert bends == [(x1 + x2) // 2, y1, (x1 + x2) // 2, y2]
        assert (x1, y1) in begins
        assert (x2, y2) in ends


DOT = r"""
digraph sysmem {
  rankdir=LR; node [shape=box, style="filled,rounded", fontname=monospace];
  "c1" [label="a \"b\" \\ <c>\nnegotiating", fillcolor="#e8eef7", color="#35507a", penwidth=1];
  "n1:1" [label="1 token\ncamera (7)\ntoken\nmust turn in its token", fillcolor="#fff6d6", color="#8a6d00", penwidth=3];
  "p5" [label="app\npid 5", fillcolor="#f2f2f2", color="#555555", penwidth=1];
  "c1" -> "n1:1" [dir=none];
  "n1:1" -> "p5" [style=dashed, dir=none];
}
"""
SVG = r"""
<svg xmlns="http://www.w3.org/2000/svg" width="508" height="124" viewBox="0 0 508 124" font-family="monospace" font-size="13">
<rect width="508" height="124" fill="#ffffff"/>
<path d="M124,62 C152,62 152,62 180,62" fill="none" stroke="#777777"/>
<path d="M376,62 C404,62 404,62 432,62" fill="none" stroke="#777777" stroke-dasharray="5 4"/>
<rect x="16" y="34" width="108" height="56" rx="6" fill="#e8eef7" stroke="#35507a" stroke-width="1"/>
<text x="26" y="57" font-weight="bold" fill="#222222">a &quot;b&quot; \ &lt;c&gt;</text>
<text x="26" y="75" fill="#222222">negotiating</text>
<rect x="180" y="16" width="196" height="92" rx="6" fill="#fff6d6" stroke="#8a6d00" stroke-width="3"/>
<text x="190" y="39" font-weight="bold" fill="#222222">1 token</text>
<text x="190" y="57" fill="#222222">camera (7)</text>
<text x="190" y="75" fill="#222222">token</text>
<text x="190" y="93" fill="#222222">must turn in its token</text>
<rect x="432" y="34" width="60" height="56" rx="6" fill="#f2f2f2" stroke="#555555" stroke-width="1"/>
<text x="442" y="57" font-weight="bold" fill="#222222">app</text>
<text x="442" y="75" fill="#222222">pid 5</text>
</svg>
"""  # noqa: E501 - as wide as it is


def test_a_drawing_in_both_languages() -> None:
    made = Graph()
    root = made.add(Box("c1", "collection", ['a "b" \\ <c>', "negotiating"], 0))
    waited = ["1 token", "camera (7)", "token", "must turn in its token"]
    token = made.add(Box("n1:1", "token", waited, 1, waited_for=True))
    app = made.add(Box("p5", "process", ["app", "pid 5"], 2))
    assert made.add(Box("p5", "process", [], 2)) is app
    made.connect(root, token)
    for _ in range(2):
        made.connect(token, app, dashed=True)
    assert _dot(made).decode() == DOT.lstrip()
    assert svg(made).decode() == SVG.lstrip()
    assert b'width="32" height="32"' in svg(Graph())


def test_a_timeout_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("soon", "nan"):
        with pytest.raises(SystemExit) as caught:
            sysmemctl.main([f"--timeout={wrong}", "ping"])
        assert caught.value.code == 2
        assert "argument --timeout: " in capsys.readouterr().err


def test_graph_refuses_other_endings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        sysmemctl.main(["graph", "-o", "drawing.txt"])
    assert caught.value.code == 2
    assert "must end in .dot, .svg or .png" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hanging", "allocated", "refused", "ended"])
def test_what_is_exported_comes_to_the_same_again(
    ctl: Ctl, collections: Held, name: str, tmp_path: Path
) -> None:
    exported = tmp_path / "case.json"
    exported.write_text(ctl("export", name).out)
    explained = ctl("explain", str(exported), "--json")
    assert explained.status == (1 if name == "refused" else 0)
    if name == "refused":
        assert "(65536 > 20)" in explained.data["line"]
        assert [who["name"] for who in explained.data["conflict"]] == ["camera", "display"]


def test_explain_reads_standard_input(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        printed = ctl("explain")
    assert printed.status == 2
    assert "sysmemctl: -:" in printed.err


@pytest.mark.parametrize(
    "what",
    [
        "Allocator.GetVmoInfo",
        "fuchsia.sysmem2.Allocator.GetVmoInfo",
        "fuchsia.sysmem2/Allocator.GetVmoInfo",
    ],
)
def test_introspect_describes_one_method(ctl: Ctl, what: str) -> None:
    assert "ordinal 0x21a881120aa0ddf9" in ctl("introspect", what).out
    [protocol] = ctl("introspect", what, "--json").data["protocols"]
    [method] = protocol["methods"]
    assert method["fallible"]
    assert [each["name"] for each in method["request"]["fields"]][:2] == ["vmo", "need_weak"]


def test_introspect_describes_calls_requests_and_events(ctl: Ctl) -> None:
    for what, lines in {
        "BufferCollectionToken.DuplicateSync": [
            "fuchsia.sysmem2.BufferCollectionToken",
            "  DuplicateSync(rights_attenuation_masks) -> (tokens)",
            "      Create one child token for each mask, and return their client ends in the order of the masks.",
            "      ordinal 0x1c1af9919d1ca45c",
            "      request 1 rights_attenuation_masks: vector of at most 64 Rights, required",
            "      response 1 tokens: vector of at most 64 handle: client end of BufferCollectionToken",
        ],
        "Watcher": [
            "sysmem.Watcher",
            "  OnEvents(json, lost)  [event]",
            "      Report events.",
            "      ordinal 0x1b02cdbf62fa257e",
            "      request 1 json: string of at most 49152 bytes",
            "      request 2 lost: uint64",
        ],
    }.items():
        assert ctl("introspect", what).out.splitlines() == lines
    lines = ctl("introspect").out.splitlines()
    assert "  CheckAllBuffersAllocated() -> () or Error" in lines
    assert "  SetName(priority, name)" in lines
    assert lines[-1] == "limits of a message: bytes 65536, handles 253, nesting 16"


def test_introspect_describes_all_that_is_served(ctl: Ctl) -> None:
    data = ctl("introspect", "--json").data
    names = {each["name"] for each in data["protocols"]}
    assert names >= {"Allocator", "Node", "Inspector", "Rendezvous"}
    assert (data["limits"]["bytes"], data["limits"]["handles"]) == (65536, 253)
    assert data["types"]["Rights"]["members"]["READ"] == 4
    kinds = {name: each["kind"] for name, each in data["types"].items()}
    shown = [kinds[name] for name in ("Rights", "Error", "SizeU", "Heap")]
    assert shown == ["flags", "enum", "struct", "table"]
    methods = {method["name"]: method for each in data["protocols"] for method in each["methods"]}
    kinds = {name: method["kind"] for name, method in methods.items()}
    assert (kinds["Sync"], kinds["SetWeak"], kinds["OnExplained"]) == (
        "two-way",
        "one-way",
        "event",
    )
    assert methods["Sync"]["declared_in"] == "Node"
    only = ctl("introspect", "BufferCollection.SetConstraints", "--json").data
    assert {"PixelFormat", "SizeU"} <= set(only["types"])
    assert not {"Error", "Rights"} & set(only["types"])
    printed = ctl("introspect", "Allocator.Nothing")
    assert printed.status == 1
    assert "it has AllocateNonSharedCollection" in printed.err
    printed = ctl("introspect", "Nothing")
    assert printed.status == 1
    assert "there is no protocol 'Nothing'; there are Allocator, Node, " in printed.err


def test_a_collection_is_called_by_id_name_or_a_unique_beginning(
    ctl: Ctl, collections: Held
) -> None:
    [id] = [each["id"] for each in ctl("list", "--json").data if each["name"] == "hanging"]
    for wanted in (str(id), "hanging", "hang"):
        assert ctl("show", wanted, "--json").data["id"] == id
    for wanted, complaint in (("", "is not unique"), ("nobody's", "has no collection")):
        printed = ctl("show", wanted)
        assert (printed.status, printed.out) == (1, "")
        assert complaint in printed.err


def test_commands_that_only_talk_load_nothing_of_the_daemon(
    sysmemd: Sysmemd, collections: Held, tmp_path: Path
) -> None:
    rest = {
        "show": ["hanging"],
        "export": ["hanging"],
        "graph": ["-o", "x.svg"],
        "trace": ["--seconds", "0"],
        "capture": ["x.jsonl", "--seconds", "0"],
        "replay": ["x.jsonl"],
        "report": ["-o", "x.html"],
    }
    talking = [each.name for each in COMMANDS if each.name not in ("explain", "kill-matrix", "top")]
    calls = [[name, *rest.get(name, ())] for name in talking]
    script = (
        "import sys; from sysmem import sysmemctl\n"
        f"for call in {calls!r}:\n"
        f"    assert sysmemctl.main(['--runtime-dir', {str(sysmemd.runtime_dir)!r}, *call]) == 0\n"
        "loaded = [name for name in sys.modules if name.startswith(('sysmemd', 'trio', 'structlog'))]\n"
        "assert loaded == [], loaded"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


#: Commands that need no daemon.
ALONE = {"explain", "introspect", "kill-matrix", "replay"}


@pytest.mark.parametrize("command", [each.name for each in COMMANDS if each.name not in ALONE])
def test_without_a_daemon(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = {
        "show": ["x"],
        "export": ["x"],
        "graph": ["-o", "x.svg"],
        "report": ["-o", "x.html"],
        "capture": [str(tmp_path / "capture.jsonl")],
    }.get(command, [])
    assert sysmemctl.main([command, "--runtime-dir", str(tmp_path), *rest]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert str(tmp_path) in printed.err


def test_a_reader_that_has_seen_enough_is_no_error(sysmemd: Sysmemd, collections: Held) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [
        sys.executable,
        "-m",
        "sysmem.sysmemctl",
        "--runtime-dir",
        str(sysmemd.runtime_dir),
        "dump",
    ]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("command", ["ping", "dump", "nonsense"])
def test_it_runs_without_stdout_and_stderr(sysmemd: Sysmemd, command: str) -> None:
    program = f"{shlex.quote(sys.executable)} -m sysmem.sysmemctl {command} <&- >&- 2>&-"
    environment = {**os.environ, "SYSMEM_RUNTIME_DIR": str(sysmemd.runtime_dir)}
    ended = subprocess.run(program, shell=True, env=environment)
    assert ended.returncode == (2 if command == "nonsense" else 0)


def test_the_commands_of_the_readme_answer_as_it_says(
    ctl: Ctl, collections: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    commands = re.findall(r"^sysmemctl (?!explain)(.*?)(?: +#.*)?$", readme, re.MULTILINE)
    assert [line.split()[0] for line in commands] == [
        *("why", "list", "tree", "holders", "report", "capture", "report")
    ]
    for command in commands:
        assert ctl(*command.replace("--seconds 10", "--seconds 0").split()).status == 0
    assert "was refused with" in (tmp_path / "now.html").read_text()
    assert "hanging" in (tmp_path / "viewfinder.html").read_text()
    [shown] = re.findall(r"^\$ sysmemctl why\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    printed = [line.rstrip() for line in ctl("why", columns=120).out.rstrip().splitlines()]
    assert printed[1:] == shown.splitlines()[1:]  # the first has the id and the time


def test_an_interrupt_ends_it_with_the_status_of_a_shell(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sysmem._inspector.Inspector.snapshot", interrupted)
    told = ctl("list")
    assert (told.status, told.out, told.err) == (130, "", "")
