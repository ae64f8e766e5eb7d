"""The conformance suite: the Python and C clients pass it, and it finds the faults of others."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sysmem import blocking
from sysmem._calls import datagram
from sysmem.testing import Sysmemd, conformance
from sysmem.testing.conformance import (
    CHECKS,
    PATIENCE_SECONDS,
    Check,
    Flaw,
    _negotiations,
    run_check,
)
from sysmem.testing.conformance.__main__ import main
from sysmem.testing.conformance._bench import Bench
from sysmem_protocol.message import FLAGS_MORE, HEADER, MAGIC, SERVER_TXID
from sysmem_protocol.sysmem2 import (
    BufferCollection,
    BufferCollectionToken,
    Node,
)

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "examples" / "c_client" / "sysmem_client.c"
AGENT = Path(conformance.__file__).with_name("agent.py")
PYTHON_AGENT = [sys.executable, str(AGENT)]
CC = shutil.which("cc")
needs_cc = pytest.mark.skipif(CC is None, reason="a C compiler is needed")
BY_NAME = {check.name: check for check in CHECKS}


def build(source: str, directory: Path, *options: str) -> Path:
    """Return the program of a C source text."""
    assert CC is not None
    (directory / "client.c").write_text(source)
    command = [CC, "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", *options]
    subprocess.run([*command, "-o", "client", "client.c"], cwd=directory, check=True)
    return directory / "client"


@pytest.fixture(scope="module")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client in C. It exits with an error if it has leaked memory or has accessed memory out of bounds."""
    directory = tmp_path_factory.mktemp("c_client")
    return build(SOURCE.read_text(), directory, "-g", "-fsanitize=address,undefined")


@needs_cc
@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_the_client_in_c_is_right_and_does_not_leak(c_client: Path, check: Check) -> None:
    run_check(check, [str(c_client)])


def test_the_client_in_c_is_one_short_file() -> None:
    assert [path.name for path in SOURCE.parent.glob("*.c")] == [SOURCE.name]
    assert len(SOURCE.read_text().splitlines()) <= 600


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_the_client_in_python_is_right(check: Check) -> None:
    run_check(check, PYTHON_AGENT)


# --- what is wrong is found -----------------------------------------------------------------------------------------

FAULTS = {
    "keeps a copy of the server end": (
        "    close(pair[1]); /* or this end would never see the daemon's close */\n",
        "",
        "gives_the_server_end_away",
        "did not answer after 'wait_closed t'",
    ),
    "sets no flag that the method is flexible": (
        "[6] = 0x80",
        "[6] = 0x00",
        "makes_a_token",
        "flags 020000, expected 020080",
    ),
    "uses a txid twice": (
        "channel->last_txid % 0x7fffffff + 1",
        "channel->last_txid * 0 + 1",
        "calls_have_txids",
        "another call with txid 0x1 has no answer yet",
    ),
    "writes numbers in a long form": (
        "value < 24 ? 0 : value <= UINT8_MAX",
        "value <= UINT8_MAX",
        "sets_constraints",
        "is not in its shortest form",
    ),
    "leaves descriptors to what it executes": (
        "SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair",
        "SOCK_SEQPACKET, 0, pair",
        "keeps_descriptors_to_itself",
        "is not closed by exec",
    ),
    "keeps a token that it has turned in": (
        "        drop(find(words[2]));\n",
        "",
        "turns_in_a_token",
        "did not close its end of a token after it has turned it in",
    ),
    "says something after Release": (
        '        answer = send_message(first, &m) ? "ok" : "closed";\n        drop(first);\n',
        "        send_message(first, &m);\n"
        '        answer = send_message(first, &m) ? "ok" : "closed";\n        drop(first);\n',
        "releases",
        "sent Node.Release after Release",
    ),
    "takes the first part of an answer for all of it": (
        "if (data[5] == 0)",
        "if (true)",
        "puts_a_split_answer_together",
        "not with 'ok 128 4096'",
    ),
    "does not close the descriptors of an event": (
        "        close_all(fds, fd_count);\n        if (ordinal",
        "        if (ordinal",
        "ignores_events_that_it_does_not_know",
        "a descriptor in an event that the client doesn't know was not closed",
    ),
    "does not close what it does not know of an answer": (
        "    close_all(call->fds, call->fd_count);\n    free(call->body);",
        "    free(call->body);",
        "ignores_fields_that_it_does_not_know",
        "a descriptor in a field that the client doesn't know was not closed",
    ),
    "takes ECONNRESET for the end": (
        "errno == ECONNRESET",
        "errno == 0",
        "reads_what_came_before_the_end",
        "answered 'finish w' with 'closed', not with 'error 5'",
    ),
    "forgets reasons": (
        "if (ordinal == ON_EXPLAINED)",
        "if (ordinal == 7)",
        "keeps_a_reason",
        "not with 'ok the machine is full'",
    ),
    "asks for no reasons": (
        "put(&m, 7, 21);",
        "put(&m, 7, 20);",
        "keeps_a_reason",
        "SetExplain must ask for reasons",
    ),
    "leaks memory": (
        "    free(call->body);\n",
        "",
        "calls_have_txids",
        "detected memory leaks",
    ),
}


def assert_found(check: Check, command: list[str], told: str, *, patience: float) -> None:
    """Check that this flaw is found, with little patience, so that it is found quickly.

    A busy machine may need more time for something else. If so, the usual patience must find the flaw.
    """
    with pytest.raises(Flaw) as found:
        run_check(check, command, patience=patience)
    if not re.search(told, str(found.value)):
        with pytest.raises(Flaw, match=told):
            run_check(check, command)


@needs_cc
@pytest.mark.parametrize("fault", FAULTS)
def test_a_client_is_found_that(fault: str, tmp_path: Path) -> None:
    right, wrong, name, told = FAULTS[fault]
    source = SOURCE.read_text()
    assert source.count(right) == 1
    client = build(source.replace(right, wrong), tmp_path, "-fsanitize=address")
    assert_found(BY_NAME[name], [str(client)], told, patience=1.0)


#: Changes of the agent in Python, the checks that find them, and what they say.
AGENT_FAULTS = {
    "asks for other rights": (
        "duplicate(int(mask))",
        "duplicate(7)",
        "duplicates_a_token",
        "the mask was 7, not 2147483648",
    ),
    "asks for other rights of several": (
        "[int(mask)] * len(names)",
        "[9] * len(names)",
        "gets_tokens_in_order",
        r"the masks were \[9, 9, 9\], not \[7, 7, 7\]",
    ),
    "confuses the tokens of a response": (
        "zip(names, made",
        "zip(names, made[::-1]",
        "gets_tokens_in_order",
        "no message came on the channel of BufferCollectionToken",
    ),
    "turns in another channel": (
        "self._objects.pop(token)\n",
        "BufferCollectionToken.from_fd(socket.socketpair(1, 5)[0].detach())\n",
        "turns_in_a_token",
        "carried another channel than the token's client end",
    ),
    "sets no constraints": (
        "min_size_bytes=int(size)),\n            )",
        "min_size_bytes=int(size)),\n            ) and None",
        "sets_constraints",
        "got None",
    ),
    "leaves a table out": (
        "buffer_memory_constraints=",
        "buffer_memory_constraints=None and ",
        "sets_constraints",
        "expected CPU usage 10",
    ),
    "sets another usage": ("int(cpu)", "2", "sets_constraints", "expected CPU usage 10"),
    "sets another count": ("int(count)", "4", "sets_constraints", "expected CPU usage 10"),
    "sets another size": ("int(size)", "8192", "sets_constraints", "expected CPU usage 10"),
    "sends other priorities": ("int(priority)", "0", "sends_in_order", "message 1 was"),
    "sends other names": (", text)", ", 'n0')", "sends_in_order", "message 1 was"),
    "does not close": (
        "close(self, name: str) -> None:\n        self._let_go(name)",
        "close(self, name: str) -> None:\n        pass",
        "closes",
        "did not close its end when it was told to close",
    ),
    "keeps a token that it gives away": (
        "        os.close(fd)\n",
        "",
        "passes_a_token_on",
        "did not close its end of a token that it has given away",
    ),
    "gives no token away": (
        '        socket.send_fds(self._socket, [b"\\0"], [fd])\n',
        "",
        "passes_a_token_on",
        "no token came over the agent's socket",
    ),
    "gives two descriptors away": (
        "[fd])\n        os",
        "[fd, fd])\n        os",
        "passes_a_token_on",
        "a token is one descriptor; 2 came",
    ),
    "leaves a descriptor open": (
        "turned_in = ",
        "os.dup(0); turned_in = ",
        "keeps_descriptors_to_itself",
        "the agent has left open",
    ),
    "leaves its buffers open": (
        "self._infos.pop(name, [])",
        "self._infos.get(name, [])[1:]",
        "closes_what_it_was_given",
        "the agent has left open",
    ),
    "does not write": (
        "view[: len(data) // 2] = ",
        "",
        "gets_buffers",
        "the agent's writes are not visible",
    ),
    "does not write for others": (
        "view[: len(data) // 2] = ",
        "",
        "negotiates_as_a_participant",
        r"the agent wrote 'from the agent', the other one reads b'\\x00",
    ),
    "writes to read-only buffers": (
        'return "denied"',
        "return None",
        "respects_read_only_buffers",
        "answered 'write c 0 00' with 'ok', not with 'denied'",
    ),
}


@pytest.mark.parametrize("fault", AGENT_FAULTS)
def test_an_agent_is_found_that(fault: str) -> None:
    right, wrong, name, told = AGENT_FAULTS[fault]
    source = AGENT.read_text()
    assert source.count(right) == 1
    command = [sys.executable, "-c", source.replace(right, wrong)]
    waits = told.startswith(("did not close", "no message", "no token"))
    assert_found(BY_NAME[name], command, told, patience=1.0 if waits else PATIENCE_SECONDS)


def agent(*answers: str) -> list[str]:
    """Return an agent that gives these answers to any command, and starts fast."""
    return ["sh", "-c", 'printf "%s\\n" "$@"; read -r _', "sh", *answers]


def test_an_agent_that_is_none_is_found() -> None:
    connects = BY_NAME["connects"]
    with pytest.raises(Flaw, match="can't be started"):
        run_check(connects, ["/no/such/agent"])
    with pytest.raises(
        Flaw, match=r"(?s)the agent ended after 'hello'; it said:.*ZeroDivisionError"
    ):
        run_check(connects, [sys.executable, "-c", "1/0"])
    with pytest.raises(Flaw, match="must answer 'hello' with 'ok 1'"):
        run_check(connects, agent("ok 2"))
    with pytest.raises(Flaw, match="answered 'hello' with 'what', not with 'ok'"):
        run_check(connects, agent("what"))
    told = r"did not connect to \$SYSMEM_RUNTIME_DIR"
    assert_found(connects, agent("ok 1", "ok"), told, patience=0.3)
    starts = Check("starts", "It starts.", lambda bench: bench.agent.tell("go"))
    stays = ["sh", "-c", "echo ok 1; exec sleep 60"]
    assert_found(starts, stays, "the agent did not end after 'quit'", patience=0.3)
    with pytest.raises(Flaw, match=r"(?s)the agent ended with status 3; it said:\nwhat\?$"):
        run_check(starts, ["sh", "-c", "echo ok 1; echo what? >&2; exit 3"])


def test_a_channel_that_is_open_when_its_agent_has_died_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocking.BufferCollection, "wait_closed", lambda *_: False)
    with pytest.raises(Flaw, match="the killed agent's channel is still open in some process"):
        run_check(BY_NAME["is_noticed_when_it_dies"], PYTHON_AGENT)


_SYNC = datagram(Node.sync, b"", txid=1)
_DUPLICATE = BufferCollectionToken.duplicate
#: What a client sends instead of a Sync, and what the suite says about it.
WRONG_MESSAGES = {
    "is too long": (bytes(64 * 1024 + 1), "what the client sent is no message: a datagram is"),
    "is too short": (_SYNC[:8], "8 bytes are not a message"),
    "has a method of another protocol": (
        datagram(BufferCollection.wait_for_all_buffers_allocated, b"", txid=1),
        "BufferCollectionToken has no method with ordinal 0x",
    ),
    "is another request": (
        datagram(Node.release, b""),
        r"the client sent Node\.Release; expected Node\.Sync",
    ),
    "says that more follows than a descriptor": (
        HEADER.pack(1, FLAGS_MORE, MAGIC, Node.sync.ordinal),
        "a request must not be split",
    ),
    "is one-way with a txid": (
        datagram(Node.release, b"", txid=1),
        "a one-way request has txid 0, not 0x1",
    ),
    "is a call without a txid": (datagram(Node.sync, b""), "the txid of a call is from 1 to"),
    "is a call with a txid of the server's": (
        datagram(Node.sync, b"", txid=SERVER_TXID),
        "the txid of a call is from 1 to",
    ),
    "has a body that can't be read": (datagram(_DUPLICATE, b"\xff"), r"Duplicate, \w+: \$"),
    "lacks what is required": (
        datagram(_DUPLICATE, b"\xa0"),
        r"\$\.rights_attenuation_mask is required",
    ),
    "has a descriptor of a file for a channel": (
        datagram(_DUPLICATE, bytes.fromhex("a2 0101 02 d97a5d00")),
        r"\$\.token_request must be a server end, not a character device",
    ),
}


@pytest.mark.parametrize("fault", WRONG_MESSAGES)
def test_a_message_is_found_that(fault: str) -> None:
    data, told = WRONG_MESSAGES[fault]
    with Bench([], patience=0) as bench:
        daemons, client = bench.pair(BufferCollectionToken)
        with socket.socket(fileno=client.take()) as clients, open(os.devnull) as file:
            socket.send_fds(clients, [data], [file.fileno()] if "a descriptor" in fault else [])
            with pytest.raises(Flaw, match=told):
                daemons.receive(Node.sync)


def test_it_is_found_when_nothing_is_sent_or_closed_in_time() -> None:
    with Bench([], patience=0) as bench:
        daemons, client = bench.pair(BufferCollectionToken)
        with pytest.raises(Flaw, match="no message came on the channel of BufferCollectionToken"):
            daemons.receive(Node.sync)
        with pytest.raises(Flaw, match="did not close its end after Release"):
            daemons.expect_end("after Release")
        with socket.socket(fileno=client.take()) as clients:
            clients.send(datagram(Node.release, b""))
            with pytest.raises(Flaw, match=r"sent Node\.Release after Release"):
                daemons.expect_end("after Release")
        with pytest.raises(Flaw, match=r"the client closed the channel; expected Node\.Sync"):
            daemons.receive(Node.sync)
        with pytest.raises(Flaw, match="closed a channel on which it waits for an answer"):
            daemons.send(_SYNC)


def test_a_txid_may_be_used_again_after_the_answer_and_a_name_may_come_at_any_time() -> None:
    with Bench([], patience=20) as bench:
        daemons, client = bench.pair(BufferCollectionToken)
        with socket.socket(fileno=client.take()) as clients:
            for _ in range(2):
                clients.send(
                    datagram(Node.set_debug_client_info, bytes.fromhex("a2 01 61 63 02 01"))
                )
                clients.send(_SYNC)
                daemons.answer(daemons.receive(Node.sync))


def test_it_is_found_when_a_client_does_not_read() -> None:
    with Bench([]) as bench:
        daemons, _client = bench.pair(BufferCollectionToken)
        while daemons.channel.send(_SYNC):
            pass
        with pytest.raises(Flaw, match="the client does not read what is sent to it"):
            daemons.send(_SYNC)


def test_what_a_daemon_still_holds_is_the_clients_flaw(sysmemd_session: Sysmemd) -> None:
    with Bench([]) as bench, blocking.connect(sysmemd_session.runtime_dir) as allocator:
        allocator.validate_buffer_collection_token(0)
        with pytest.raises(Flaw, match="the connection of python to fuchsia"):
            _negotiations._check(bench, sysmemd_session)


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_report_has_a_line_for_each_check_and_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    only = ["--only", "connects", "--only", "closes", "--patience", "1"]
    assert main([*only, *agent("ok 1", "ok")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "FAILED It connects to the Allocator's socket in the runtime directory."
    assert lines[1].startswith("       the client did not connect to")
    assert lines[-1] == "0 of 2 passed"
    assert main(["--only", "connects", *PYTHON_AGENT]) == 0
    assert capsys.readouterr().out.endswith("1 of 1 passed\n")


def test_checks_are_listed_and_misspelt_ones_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CHECKS)
    with pytest.raises(SystemExit):
        main(["--only", "nonsense", "true"])
    with pytest.raises(SystemExit):
        main([])
    assert conformance.Report(()).ok
