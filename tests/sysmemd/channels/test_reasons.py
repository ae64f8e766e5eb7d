"""The reason for a failed call or a closed channel (`docs/spec/inspect.md`, "What a refused participant learns")."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from sysmem_protocol import codec, sysmem2
from sysmem_protocol.explained import (
    MAX_REASON_BYTES,
    Explained,
    ExplainedOnExplainedEvent,
    ExplainedSetExplainRequest,
)
from sysmem_protocol.handles import Handle
from sysmem_protocol.message import Message
from sysmem_protocol.sysmem2 import (
    Allocator,
    BufferCollection,
    BufferCollectionTokenGroup,
    Error,
    Node,
)
from sysmemd.channels import reasons
from sysmemd.channels.reasons import Reason
from sysmemd.config import InspectSection
from sysmemd.memory import Buffers
from sysmemd.ports import NoMemoryError
from sysmemd.quota import Kind
from sysmemd.tree import Cause, Failure

from .support import SAME_RIGHTS, STRANGER, Bench, Client, none_left, wanting


@dataclass
class Told:
    """The content of an event. `report` is None if no descriptor came with it."""

    error: Error | None
    line: str
    report: str | None


def told(message: Message | None) -> Told:
    assert message is not None
    assert (message.txid, message.ordinal) == (0, Explained.on_explained.ordinal)
    content = codec.Decoder().table(ExplainedOnExplainedEvent, message.body, message.handles)
    report = None
    if content.report is not None:
        with content.report as vmo:
            report = os.pread(vmo.fileno(), 1 << 20, 0).decode()
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(vmo.fileno(), b"x")
    error = None if content.error is None else Error(content.error)
    return Told(error, content.line or "", report)


def asking(bench: Bench, name: str = "tester", uid: int = STRANGER) -> Client:
    allocator = bench.allocator(name, uid=uid)
    allocator.send(Explained.set_explain, ExplainedSetExplainRequest(explain=True))
    bench.run()
    return allocator


def refused(bench: Bench, *allocators: Client) -> list[Client]:
    """Return collections of this many participants, which wait. The first camps on two buffers and allows one."""
    token = bench.token(allocators[0])
    tokens = [token, *(bench.duplicate(token) for _ in allocators[1:])]
    clients = [bench.bind(one, by) for one, by in zip(tokens, allocators, strict=True)]
    for client, most in zip(clients, [1, *[None] * len(clients)], strict=False):
        client.send(BufferCollection.set_constraints, wanting(most=most))
        client.send(BufferCollection.wait_for_all_buffers_allocated)
    bench.run()
    return clients


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_refusal_is_told_before_the_answer_and_before_the_end(bench: Bench) -> None:
    one, two = refused(bench, asking(bench, "one"), asking(bench, "two"))
    reason = told(one.message())
    assert reason.error is Error.CONSTRAINTS_INTERSECTION_EMPTY
    assert "one (7) $.max_buffer_count = 1" in reason.line
    assert "two (7) $.min_buffer_count_for_camping = 2" in reason.line
    assert reason.line == bench.log.refusal()["reason"]
    assert reason.report is not None
    assert "max_buffer_count" in reason.report
    answer = one.answer(BufferCollection.wait_for_all_buffers_allocated, 1)
    assert answer is Error.CONSTRAINTS_INTERSECTION_EMPTY
    again = told(one.message())
    assert (again.error, again.line, again.report) == (reason.error, reason.line, None)
    assert one.is_closed()
    # The last participant had not asked for a response yet.
    assert told(two.message()) == reason
    assert two.is_closed()


def test_a_report_that_no_descriptor_is_left_for_is_missing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysmemd.documents.Document.open", none_left)
    [client, _] = refused(bench, asking(bench), asking(bench))
    reason = told(client.message())
    assert (reason.error, reason.report) == (Error.CONSTRAINTS_INTERSECTION_EMPTY, None)
    assert "$.max_buffer_count = 1" in reason.line


def test_a_report_is_one_document_for_all_who_receive_it_in_one_turn(bench: Bench) -> None:
    received: list[Handle] = []
    connection: Any = SimpleNamespace(
        explained=True, explain=lambda _error, _line, report: received.append(report)
    )
    one, other = "one report", "other report"
    for text in (one, one, other):
        bench.service.explain(connection, Reason(None, "no", text))
    bench.clock.run_due()
    bench.service.explain(connection, Reason(None, "no", other))
    found = [(os.fstat(vmo.fileno()).st_ino, os.pread(vmo.fileno(), 99, 0)) for vmo in received]
    assert [text for _, text in found] == [b"one report"] * 2 + [b"other report"] * 2
    assert found[0] == found[1]
    assert found[2] != found[3], "it is not kept longer"
    for vmo in received:
        vmo.close()


def test_a_reason_that_cannot_be_sent_changes_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bench.token(asking(bench))
    token.send(Node.release, txid=1)
    monkeypatch.setattr("sysmemd.channels.answering.explanation", none_left)
    bench.run()
    assert token.is_closed()
    [(_, fields)] = bench.log.said("error")
    assert "Release" in fields["reason"]


def test_who_did_not_ask_sees_no_difference(bench: Bench) -> None:
    one, two = refused(bench, bench.allocator(), asking(bench))
    answer = one.answer(BufferCollection.wait_for_all_buffers_allocated, 1)
    assert answer is Error.CONSTRAINTS_INTERSECTION_EMPTY
    assert one.is_closed()
    assert told(two.message())


def test_who_spoke_last_and_waits_after_the_end_finds_the_reason_too(bench: Bench) -> None:
    collection = bench.collection(asking(bench))
    collection.send(BufferCollection.set_constraints, wanting(most=1))
    bench.run()
    reason = told(collection.message())
    assert "max_buffer_count" in reason.line
    assert reason.report is not None
    assert collection.is_closed()


@pytest.mark.parametrize(
    ("to_participants", "asker", "other", "named"),
    [
        ("same-user", 1, 1, True),
        ("same-user", 1, 2, False),
        ("same-user", 0, 2, True),
        ("all", 1, 2, True),
        ("none", 1, 1, False),
    ],
)
def test_others_are_named_where_the_settings_allow_it(
    to_participants: str, asker: int, other: int, named: bool
) -> None:
    bench = Bench(inspect=InspectSection(to_participants=to_participants))  # type: ignore[arg-type] # a parameter
    allocators = asking(bench, "one", other), asking(bench, "two", asker)
    _, client = refused(bench, *allocators)
    reason = told(client.message())
    assert "two (7) $.min_buffer_count_for_camping = 2" in reason.line
    assert ("one (7)" in reason.line) is named
    assert (reason.report is not None) is named
    assert "the buffer count must be at most max_buffer_count" in reason.line
    bench.close()


def test_too_little_memory_is_told_without_a_report(bench: Bench) -> None:
    collection = bench.collection(asking(bench))
    request = wanting()
    assert request.constraints is not None
    assert request.constraints.buffer_memory_constraints is not None
    request.constraints.buffer_memory_constraints.permitted_heaps = None
    bench.memory._heaps.clear()
    collection.send(BufferCollection.set_constraints, request)
    bench.run()
    reason = told(collection.message())
    assert reason.error is Error.NO_MEMORY
    assert "there is no heap" in reason.line
    assert reason.report is None


def test_what_keeps_buffers_from_being_handed_out_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hand_out(*_: object, **__: object) -> None:
        raise NoMemoryError("out of descriptors")

    collection = bench.collection(asking(bench))
    collection.send(BufferCollection.set_constraints, wanting())
    bench.run()
    monkeypatch.setattr(Buffers, "hand_out", hand_out)
    txid = collection.send(BufferCollection.wait_for_all_buffers_allocated)
    bench.run()
    assert told(collection.message()) == Told(
        Error.NO_MEMORY, "no descriptors can be created for the buffers: out of descriptors", None
    )
    answer = collection.answer(BufferCollection.wait_for_all_buffers_allocated, txid)
    assert answer is Error.NO_MEMORY


def pending(bench: Bench, collection: Client) -> str:
    """Return the reason why a collection has no buffers yet."""
    collection.send(BufferCollection.check_all_buffers_allocated)
    bench.run()
    reason = told(collection.message())
    assert reason.error is Error.PENDING
    return reason.line


def test_pending_says_who_is_waited_for(bench: Bench) -> None:
    allocator = asking(bench)
    token = bench.token(allocator)
    child = bench.duplicate(token)
    collection = bench.bind(token, allocator)
    assert pending(bench, collection) == (
        "tester (7) has to set its constraints (collection 1); "
        "tester (7) has to turn in its token (token 2)"
    )
    token = bench.attach(collection)
    attached = bench.bind(token, allocator)
    assert (
        pending(bench, attached)
        == "the node that this participant is attached to has no buffers yet"
    )
    child.close()


def test_pending_of_others_is_told_without_them_where_nobody_is_named() -> None:
    bench = Bench(inspect=InspectSection(to_participants="none"))
    allocator = asking(bench)
    token = bench.token(allocator)
    bench.duplicate(token)
    collection = bench.bind(token, allocator)
    lines = []
    for ready in (False, True):
        if ready:
            collection.send(BufferCollection.set_constraints, wanting())
        collection.send(BufferCollection.check_all_buffers_allocated)
        bench.run()
        lines.append(told(collection.message()).line)
        collection.message()
    assert lines == [
        "tester (7) has to set its constraints (collection 1)",
        "others are not ready yet",
    ]
    bench.close()


@pytest.mark.parametrize(
    ("is_refused", "error", "names", "line"),
    [
        (True, Error.CONSTRAINTS_INTERSECTION_EMPTY, True, "all names"),
        (True, Error.CONSTRAINTS_INTERSECTION_EMPTY, False, "own name"),
        (True, Error.NO_MEMORY, False, "all names"),
        (False, Error.NO_MEMORY, False, "all names"),
        (False, Error.UNSPECIFIED, False, "all names"),
    ],
)
def test_an_attempt_is_told_without_others_only_if_constraints_were_refused(
    is_refused: bool, error: Error, names: bool, line: str
) -> None:
    diagnosis = SimpleNamespace(line_for=lambda _: "own name")
    refused = (SimpleNamespace(refusal=diagnosis),) if is_refused else ()
    attempt: Any = SimpleNamespace(
        refused=refused, error=error, reason="all names", report="with all names"
    )
    node: Any = SimpleNamespace(participants=tuple)
    reason = reasons.of_attempt(attempt, node, names=names)
    assert (reason.error, reason.line) == (error, line)
    assert (reason.report is not None) == (line == "all names")


# --- ends -------------------------------------------------------------------------------------------------------------


def closing_reason(client: Client) -> str:
    reason = told(client.message())
    assert reason.error is None
    assert reason.report is None
    assert client.is_closed()
    return reason.line


@pytest.mark.parametrize(
    ("cause", "all_names", "no_names"),
    [
        (
            Cause.MISUSE,
            "tester (7), token 1, broke the protocol: why",
            "another participant broke the protocol",
        ),
        (
            Cause.LIMIT,
            "tester (7), token 1, exceeded its user's quota: why",
            "another participant exceeded its user's quota",
        ),
        (
            Cause.CLOSED,
            "tester (7), token 1, closed its token without Release, or ended",
            "another participant closed its token without Release, or ended",
        ),
        (Cause.NO_CLIENTS, "no client is left that uses token 1 or a node below it", None),
        (
            Cause.NO_STRONG_NODES,
            "only weak participants are left, so the buffers can no longer be allocated",
            None,
        ),
        (Cause.NO_STRONG_HANDLES, "no strong handle to any of the buffers is left", None),
        (Cause.SHUT_DOWN, "the daemon is stopping", None),
        (Cause.BROKEN, "the daemon failed: why", None),
    ],
)
def test_each_cause_has_its_words(
    bench: Bench, cause: Cause, all_names: str, no_names: str | None
) -> None:
    bench.duplicate(bench.token())
    first, other = (server.node for server in bench.service.tokens.values())
    failure = Failure(cause, first.who(), "why")
    assert reasons.told(failure) == reasons.told(failure, other) == all_names
    assert reasons.told(failure, other, names=False) == (no_names or all_names)
    assert reasons.told(Failure(Cause.BROKEN, first.who(), "")) == "the daemon failed"


def test_an_end_after_the_allocation_is_not_told_as_its_outcome(bench: Bench) -> None:
    allocator = asking(bench)
    token = bench.token(allocator)
    tokens = token, bench.duplicate(token)
    one, other = (bench.bind(each, allocator) for each in tokens)
    for collection in (one, other):
        collection.send(BufferCollection.set_constraints, wanting())
    bench.run()
    other.close()
    bench.run()
    assert closing_reason(one) == (
        "tester (7), collection 2, closed its collection without Release, or ended"
    )


def test_a_breach_is_told_with_the_path_of_the_field(bench: Bench) -> None:
    allocator = asking(bench)
    token = bench.token(allocator)
    child = bench.duplicate(token)
    token.send(Node.set_name, sysmem2.NodeSetNameRequest(priority=1))
    bench.run()
    assert closing_reason(token) == (
        "this participant broke the protocol: Node.SetName: $.name is required"
    )
    assert closing_reason(child) == (
        "tester (7), token 1, broke the protocol: Node.SetName: $.name is required"
    )


def test_a_crash_is_told_to_the_others(bench: Bench) -> None:
    token = bench.token(asking(bench))
    child = bench.duplicate(token)
    child.close()
    bench.run()
    assert (
        closing_reason(token) == "tester (7), token 2, closed its token without Release, or ended"
    )


def test_a_group_that_chose_otherwise(bench: Bench) -> None:
    allocator = asking(bench)
    token = bench.token(allocator)
    group = bench.group(token)
    children = [bench.group_child(group, SAME_RIGHTS) for _ in range(2)]
    group.send(BufferCollectionTokenGroup.all_children_present)
    bench.run()
    collections = [bench.bind(each, allocator) for each in (token, *children)]
    for collection in collections:
        collection.send(BufferCollection.set_constraints, wanting())
    bench.run()
    assert closing_reason(collections[2]) == (
        "group 2 selected collection 3 of tester (7), not collection 4"
    )


def test_nobody_left_and_only_weak_ones_left(bench: Bench) -> None:
    token = bench.token(asking(bench))
    token.send(Node.set_weak)
    bench.run()
    assert "only weak participants are left" in closing_reason(token)


def test_a_daemon_that_stops_says_so(bench: Bench) -> None:
    allocator = asking(bench)
    token = bench.token(allocator)
    bench.service.close()
    assert closing_reason(token) == "the daemon is stopping"


def test_a_release_needs_no_reason(bench: Bench) -> None:
    token = bench.token(asking(bench))
    child = bench.duplicate(token)
    child.send(Node.release)
    bench.run()
    assert child.is_closed()
    assert token.message() is None


# --- what isn't a node (yet) ------------------------------------------------------------------------------------------


def bind(bench: Bench, allocator: Client, token: Client) -> Client:
    client, far = bench.client()
    allocator.send(
        Allocator.bind_shared_collection,
        sysmem2.AllocatorBindSharedCollectionRequest(
            token=token.duplicate_end(), buffer_collection_request=far
        ),
    )
    bench.run()
    return client


def test_an_unknown_token_closes_the_collection_with_what_that_may_come_from(bench: Bench) -> None:
    allocator = asking(bench)
    stranger, far = bench.client()
    line = closing_reason(bind(bench, allocator, stranger))
    assert line.startswith("the token to bind is unknown: it was not created by this daemon")
    far.close()
    line = closing_reason(bind(bench, allocator, stranger))
    assert line.endswith("its node has failed, or it was turned in before")
    line = closing_reason(bind(bench, allocator, bench.collection()))
    assert line.endswith("it is the client end of a channel that is not a token's")
    assert bind(bench, bench.allocator(), stranger).is_closed()


def test_a_line_about_an_unknown_token_that_cannot_be_sent_changes_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocator = asking(bench)
    (stranger, far), (collection, server_end) = bench.client(), bench.client()
    far.close()
    request = sysmem2.AllocatorBindSharedCollectionRequest(
        token=stranger.duplicate_end(), buffer_collection_request=server_end
    )
    allocator.send(Allocator.bind_shared_collection, request)
    with monkeypatch.context() as patch:
        patch.setattr("sysmemd.channels.service.Channel.send", none_left)
        bench.run()
    assert collection.is_closed()
    assert not bench.token(allocator).is_closed(), "the Allocator goes on"


def test_a_child_that_could_not_be_made_is_told_why(bench: Bench) -> None:
    token = bench.token(asking(bench))
    token.send(Node.release)
    child = bench.duplicate(token)
    assert child.is_closed()  # no message of it was processed
    allocator = asking(bench)
    token = bench.token(allocator)
    client, far = bench.client()
    token.send(Node.release)
    allocator.send(
        Allocator.bind_shared_collection,
        sysmem2.AllocatorBindSharedCollectionRequest(
            token=token.duplicate_end(), buffer_collection_request=far
        ),
    )
    bench.run()
    assert (
        closing_reason(client) == "BindSharedCollection: BindSharedCollection on a released token"
    )


def test_an_allocator_that_is_refused_is_told_why(bench: Bench) -> None:
    allocator = asking(bench)
    request = sysmem2.AllocatorValidateBufferCollectionTokenRequest()
    allocator.send(Allocator.validate_buffer_collection_token, request)
    bench.run()
    assert closing_reason(allocator) == (
        "Allocator.ValidateBufferCollectionToken: $.token_server_koid is required"
    )


def test_a_call_that_is_answered_with_an_error_is_told_why(bench: Bench) -> None:
    token = bench.token(asking(bench))
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    token.send(Node.is_alternate_for, sysmem2.NodeIsAlternateForRequest(node_ref=Handle(fd)))
    bench.run()
    reason = told(token.message())
    assert (reason.error, reason.report) == (Error.NOT_FOUND, None)
    assert reason.line == "$.node_ref does not refer to a node in a tree"
    assert token.answer(Node.is_alternate_for, 1) is Error.NOT_FOUND


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_is_not_waited_for(bench: Bench) -> None:
    token = bench.token(asking(bench))
    [server] = bench.service.tokens.values()
    long = ExplainedOnExplainedEvent(line="x" * MAX_REASON_BYTES)
    while server.connection.send_event(Explained.on_explained, long, wait=False):
        pass
    server.connection.refuse("it floods")
    assert server.connection.closed
    assert told(token.message()).line == long.line


def test_a_line_is_cut_between_characters() -> None:
    assert Reason(None, "x" * MAX_REASON_BYTES).line == "x" * MAX_REASON_BYTES
    line = Reason(None, "é" * MAX_REASON_BYTES).line
    assert line.endswith("é…")
    assert len(line.encode()) in (MAX_REASON_BYTES - 1, MAX_REASON_BYTES)


def test_from_then_on_means_for_later_nodes(bench: Bench) -> None:
    allocator = bench.allocator()
    before = bench.token(allocator)
    allocator.send(Explained.set_explain, ExplainedSetExplainRequest(explain=True))
    between = bench.token(allocator)
    allocator.send(Explained.set_explain, ExplainedSetExplainRequest(explain=False))
    after = bench.token(allocator)
    bench.service.close()
    assert before.is_closed()
    assert after.is_closed()
    assert closing_reason(between) == "the daemon is stopping"


# --- limits -----------------------------------------------------------------------------------------------------------


def test_which_limit_was_met_is_told(bench: Bench) -> None:
    bench.service.users.limit({Kind.COLLECTIONS: 2, Kind.NODES: 4}, {})
    allocator = asking(bench)
    token = bench.token(allocator)
    beyond = bench.token(allocator)
    assert told(beyond.message()).line == (
        "the user's limit of collections is 2, of which its other connections leave this one 1"
    )
    bench.duplicate(token)
    child = bench.duplicate(token)
    for client in (child, token):
        line = told(client.message()).line
        assert line.endswith("nodes is 4, of which its other connections leave this one 2")
    assert line.startswith("this participant exceeded its user's quota: ")


def test_others_do_not_learn_which_limit_it_was_where_they_learn_no_names() -> None:
    bench = Bench(inspect=InspectSection(to_participants="none"))
    bench.service.users.limit({Kind.NODES: 4}, {})
    token = bench.token(asking(bench))
    child = bench.duplicate(token)
    bench.duplicate(token)
    assert told(child.message()).line == "another participant exceeded its user's quota"
    own = told(token.message()).line
    assert own.startswith("this participant exceeded its user's quota: the user's limit of nodes")
    bench.close()
