"""Tokens, collections and groups on their channels: messages reach the tree, and each descriptor has one owner."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from sysmem_protocol import sysmem2
from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle, eventpair
from sysmem_protocol.library import Method, Table
from sysmem_protocol.sysmem2 import (
    BufferCollection,
    BufferCollectionToken,
    BufferCollectionTokenGroup,
    Error,
    Node,
)
from sysmemd.channels import Connection
from sysmemd.channels.connection import Tracer
from sysmemd.channels.server import Server
from sysmemd.config import Limits
from sysmemd.memory import Buffers, Hold
from sysmemd.ports import NoMemoryError, Peer

from .support import SAME_RIGHTS, Bench, Client, is_closed, wanting

WAIT = BufferCollection.wait_for_all_buffers_allocated


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Limit the number of further descriptors that the process can open."""
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def sync_tokens(bench: Bench, client: Client, method: Method, *masks: int) -> list[Client]:
    request = sysmem2.CreateTokensRequest(rights_attenuation_masks=list(masks))
    return [bench.adopt(handle) for handle in client.call(method, request).tokens]


def buffers(client: Client) -> sysmem2.BufferCollectionInfo:
    info: sysmem2.BufferCollectionInfo = client.call(WAIT).buffer_collection_info
    return info


def close(info: sysmem2.BufferCollectionInfo) -> None:
    for buffer in info.buffers or []:
        for handle in (buffer.vmo, buffer.close_weak_asap):
            if handle is not None:
                handle.close()


class Recorder(Tracer):
    """Records what it is told: the kind, the number of the connection, and details."""

    active = True

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[Any, ...]] = []

    def received(self, connection: Connection, method: Method, txid: int, request: Any) -> None:
        fields = None if request is None else [member.name for member, _ in request.set_fields()]
        self.told.append(("received", connection.number, method.wire_name, txid, fields))

    def processed(self, connection: Connection) -> None:
        self.told.append(("processed", connection.number))

    def sent(self, connection: Connection, method: Method, txid: int, answer: Any) -> None:
        what = type(answer).__name__ if isinstance(answer, Table) else answer
        self.told.append(("sent", connection.number, method.wire_name, txid, what))

    def refused(self, connection: Connection, reason: str) -> None:
        self.told.append(("refused", connection.number, reason))

    def opened(self, connection: Connection) -> None:
        self.told.append(("opened", connection.number))

    def served(self, connection: Connection, by: int) -> None:
        self.told.append(("served", connection.number, by))

    def left(self, connection: Connection, server: Server) -> None:
        assert server is connection.server
        self.told.append(("left", connection.number))

    def closed(self, connection: Connection) -> None:
        assert connection.server.about()
        self.told.append(("closed", connection.number))

    def take(self) -> list[tuple[Any, ...]]:
        """Return what it was told since the last call."""
        told, self.told = self.told, []
        return told


def test_a_watcher_is_told_what_happens_in_its_order(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer = bench.service.tracer = Recorder()
    allocator = bench.allocator(None)
    collection = bench.collection(allocator)
    made = "AllocateNonSharedCollection"
    assert tracer.take() == [
        ("opened", 1),
        ("received", 1, made, 0, ["collection_request"]),
        ("opened", 2),
        ("served", 2, 1),
        ("processed", 1),
    ]
    collection.sync()
    collection.send(BufferCollection.set_constraints, wanting())
    assert collection.call(BufferCollection.check_all_buffers_allocated) is None
    assert tracer.take() == [
        ("received", 2, "Sync", 1, None),
        ("processed", 2),
        ("sent", 2, "Sync", 1, None),
        ("received", 2, "SetConstraints", 0, ["constraints"]),
        ("processed", 2),
        ("received", 2, "CheckAllBuffersAllocated", 2, None),
        ("processed", 2),
        ("sent", 2, "CheckAllBuffersAllocated", 2, None),
    ]
    txid = collection.send(WAIT)
    bench.reactor.receive_all()
    with monkeypatch.context() as patch:
        patch.setattr(Channel, "send", lambda *_: 0)
        bench.run()
        assert bench.reactor.to_flush
    bench.run()  # the response is created again
    close(collection.answer(WAIT, txid).buffer_collection_info)
    response = "BufferCollectionWaitForAllBuffersAllocatedResponse"
    assert tracer.take() == [
        ("received", 2, "WaitForAllBuffersAllocated", txid, None),
        ("processed", 2),
        ("sent", 2, "WaitForAllBuffersAllocated", txid, response),
    ]
    token = bench.attach(collection)
    token.send(Node.release)
    bench.run()
    token.close()
    bench.run()
    bench.reactor.served[1].explained = True
    collection.channel.send(b"nonsense")
    bench.run()
    assert tracer.take() == [
        ("received", 2, "AttachToken", 0, ["rights_attenuation_mask", "token_request"]),
        ("opened", 3),
        ("served", 3, 2),
        ("processed", 2),
        ("received", 3, "Release", 0, None),
        ("processed", 3),
        ("left", 3),
        ("closed", 3),
        ("refused", 2, "8 bytes are not a message: a header has 16 bytes"),
        ("sent", 2, "OnExplained", 0, "ExplainedOnExplainedEvent"),
        ("left", 2),
        ("closed", 2),
    ]


# --- what every node understands ------------------------------------------------------------------------------------


def test_release_lets_the_client_see_the_end_and_its_close_be_in_peace(bench: Bench) -> None:
    token = bench.token()
    child = bench.duplicate(token)
    child.send(Node.release)
    bench.run()
    assert child.is_closed()
    child.close()
    bench.run()
    token.sync()
    assert bench.log.said("warning", "error") == []


@pytest.mark.parametrize("is_child", [False, True])
def test_a_node_whose_channel_can_not_be_waited_for_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, is_child: bool
) -> None:
    """The node fails after it was created."""
    allocator = bench.allocator()
    parent = bench.token(allocator) if is_child else None
    later: list[Callable[[], None]] = []

    def serve(connection: Connection) -> None:
        fail = partial(connection.fail, "the daemon can't wait for it")
        connection.when_served(partial(later.append, fail))
        assert not later

    monkeypatch.setattr(bench.reactor, "serve", serve)
    child = bench.duplicate(parent) if parent else bench.token(allocator)
    assert bench.service.collections
    for work in later:
        work()
    assert child.is_closed()
    bench.run()
    assert bench.service.collections == {}
    assert parent is None or parent.is_closed()


def test_whoever_waits_for_a_served_object_that_exists_is_called_at_once(bench: Bench) -> None:
    bench.token()
    called: list[int] = []
    allocator, token = bench.reactor.served
    for connection in (allocator, token):
        connection.when_served(partial(called.append, connection.number))
    assert called == [allocator.number, token.number]
    token.close()
    token.when_served(partial(called.append, 0))
    assert called[-1] == 0


def test_a_message_after_release_fails_the_node(bench: Bench) -> None:
    token = bench.token()
    child = bench.duplicate(token)
    child.send(Node.release)
    child.send(Node.sync)
    bench.run()
    assert token.is_closed()
    assert "on a released token" in bench.log.refusal()["reason"]


def test_a_close_without_release_fails_the_node(bench: Bench) -> None:
    token = bench.token()
    bench.duplicate(token).close()
    bench.run()
    assert token.is_closed()
    assert bench.service.tokens == {}


def test_what_is_said_about_a_node_reaches_the_tree(bench: Bench) -> None:
    token = bench.token()
    [server] = bench.service.tokens.values()
    token.send(Node.set_name, sysmem2.NodeSetNameRequest(priority=1, name="frames"))
    token.send(Node.set_debug_client_info, sysmem2.SetDebugClientInfoRequest(name="camera"))
    token.send(
        Node.set_debug_timeout_log_deadline,
        sysmem2.NodeSetDebugTimeoutLogDeadlineRequest(deadline=-1),
    )
    token.send(Node.set_verbose_logging)
    token.send(Node.set_weak_ok, sysmem2.NodeSetWeakOkRequest(for_child_nodes_also=True))
    token.send(BufferCollectionToken.set_dispensable)
    token.sync()
    assert bench.clock.run_due()
    assert [event for event, _ in bench.log.said("warning")] == ["allocation is taking a while"]
    node = server.node
    assert node.collection.name == "frames"
    assert (node.client.name, node.client.id) == ("camera (was tester)", 0)
    assert node.collection.verbose
    assert node.is_weak_ok
    assert node.isolation.value == "propagate before allocation"
    assert token.call(Node.get_buffer_collection_id).buffer_collection_id == node.collection.id


def test_a_weak_tree_without_strong_nodes_fails(bench: Bench) -> None:
    token = bench.token()
    token.send(Node.set_weak)
    bench.run()
    assert token.is_closed()


def test_node_tracking_is_closed_when_the_node_has_left(bench: Bench) -> None:
    token = bench.token()
    watched, given = eventpair()
    token.send(Node.attach_node_tracking, sysmem2.NodeAttachNodeTrackingRequest(server_end=given))
    bench.run()
    assert not is_closed(watched)
    with socket.socket(fileno=os.dup(watched.fileno())) as end, pytest.raises(BrokenPipeError):
        end.send(b"the daemon receives nothing on it")
    token.close()
    bench.run()
    assert is_closed(watched)
    watched.close()


def test_a_refusal_is_logged_with_whose_it_was(bench: Bench) -> None:
    token = bench.token()
    token.channel.send(b"nonsense")
    bench.run()
    fields = bench.log.refusal()
    assert (fields["client_name"], fields["client_id"]) == ("tester", 7)
    assert fields["reason"] == "8 bytes are not a message: a header has 16 bytes"


# --- IsAlternateFor ---------------------------------------------------------------------------------------------------


def is_alternate(client: Client, ref: Handle) -> Any:
    return client.call(Node.is_alternate_for, sysmem2.NodeIsAlternateForRequest(node_ref=ref))


def test_children_of_a_group_are_alternates(bench: Bench) -> None:
    token = bench.token()
    one, other = sync_tokens(
        bench,
        bench.group(token),
        BufferCollectionTokenGroup.create_children_sync,
        SAME_RIGHTS,
        SAME_RIGHTS,
    )
    assert is_alternate(one, other.call(Node.get_node_ref).node_ref).is_alternate is True
    assert is_alternate(one, token.call(Node.get_node_ref).node_ref).is_alternate is False


@pytest.mark.parametrize("which", ["another collection's", "one that has left", "foreign"])
def test_a_ref_of_no_node_of_the_collection_is_not_found(bench: Bench, which: str) -> None:
    token = bench.token()
    if which == "foreign":
        ref = Handle(os.eventfd(0))
    else:
        other = bench.token()
        ref = other.call(Node.get_node_ref).node_ref
        if which == "one that has left":
            other.close()
            bench.run()
    assert is_alternate(token, ref) is Error.NOT_FOUND
    [(event, fields)] = bench.log.said("info")
    assert event == "a call was answered with an error"
    assert (fields["client_name"], fields["error"]) == ("tester", "NOT_FOUND")
    assert "$.node_ref" in fields["reason"]


def test_what_is_no_event_is_a_deviation(bench: Bench) -> None:
    token = bench.token()
    assert is_alternate(token, Handle(os.memfd_create("x"))) is Error.PROTOCOL_DEVIATION
    [(_, fields)] = bench.log.said("info")
    assert fields["reason"] == "$.node_ref must be an event, not a regular file or memfd"


# --- children ---------------------------------------------------------------------------------------------------------


def test_a_child_may_be_used_before_its_parent_was_heard(bench: Bench) -> None:
    token = bench.token()
    client, far = bench.client()
    txid = client.send(Node.sync)
    token.send(
        BufferCollectionToken.duplicate,
        sysmem2.BufferCollectionTokenDuplicateRequest(
            rights_attenuation_mask=SAME_RIGHTS, token_request=far
        ),
    )
    bench.run()
    assert client.answer(Node.sync, txid) is None


def test_tokens_made_in_sync_are_in_order_and_can_be_used(bench: Bench) -> None:
    token = bench.token()
    children = sync_tokens(
        bench, token, BufferCollectionToken.duplicate_sync, SAME_RIGHTS, 0x4, 0xFFFFFFFF
    )
    for child in children:
        child.sync()
    [root, *others] = bench.service.tokens.values()
    assert [child.node for child in others] == list(root.node.children)
    assert [child.node.rights_mask & 0xFF for child in others] == [0xFF, 0x4, 0xFF]
    assert sync_tokens(bench, token, BufferCollectionToken.duplicate_sync) == []


def test_an_attached_token_does_not_take_its_parent_with_it(bench: Bench) -> None:
    collection = bench.collection()
    client = bench.attach(collection)
    client.sync()
    client.close()
    bench.run()
    collection.sync()


def test_children_of_a_group(bench: Bench) -> None:
    made = bench.group(bench.token())
    for mask in (None, SAME_RIGHTS):
        bench.group_child(made, mask).sync()
    made.send(BufferCollectionTokenGroup.all_children_present)
    made.sync()
    made.send(BufferCollectionTokenGroup.all_children_present)
    bench.run()
    assert made.is_closed()


def _create(bench: Bench, kind: str, far: Handle) -> tuple[Client, Method, Table]:
    """Create a node. Return it, and a request to it that can be decoded but is refused."""
    token = bench.token()
    if kind == "duplicate":
        token.send(Node.release)
        return (
            token,
            BufferCollectionToken.duplicate,
            sysmem2.BufferCollectionTokenDuplicateRequest(
                rights_attenuation_mask=SAME_RIGHTS, token_request=far
            ),
        )
    if kind == "attach":
        return (
            bench.bind(token),
            BufferCollection.attach_token,
            sysmem2.BufferCollectionAttachTokenRequest(
                rights_attenuation_mask=0, token_request=far
            ),
        )
    return (
        bench.group(token),
        BufferCollectionTokenGroup.create_child,
        sysmem2.BufferCollectionTokenGroupCreateChildRequest(
            token_request=far, rights_attenuation_mask=0
        ),
    )


@pytest.mark.parametrize("kind", ["duplicate", "attach", "create child"])
def test_the_channel_of_a_refused_child_closes(bench: Bench, kind: str) -> None:
    child, far = bench.client()
    client, method, request = _create(bench, kind, far)
    client.send(method, request)
    bench.run()
    assert child.is_closed()
    assert client.is_closed()
    assert bench.service.tokens == {}


@pytest.mark.parametrize(
    "method",
    [BufferCollectionToken.duplicate_sync, BufferCollectionTokenGroup.create_children_sync],
    ids=str,
)
def test_refused_tokens_leave_nothing(bench: Bench, method: Method) -> None:
    token = bench.token()
    client = token if method.interface == "BufferCollectionToken" else bench.group(token)
    request = sysmem2.CreateTokensRequest(rights_attenuation_masks=[SAME_RIGHTS, 0])
    client.send(method, request)
    bench.run()
    assert client.is_closed()
    assert bench.service.tokens == {}


@pytest.mark.parametrize("left", range(6))
def test_tokens_that_can_not_be_had_leave_nothing(bench: Bench, left: int) -> None:
    """The process runs out of descriptors at each step."""
    token, other = bench.token(), bench.token()
    request = sysmem2.CreateTokensRequest(rights_attenuation_masks=[SAME_RIGHTS] * 4)
    token.send(BufferCollectionToken.duplicate_sync, request)
    with descriptors_left(left):
        bench.run()
    assert token.is_closed()
    other.sync()
    assert len(bench.service.tokens) == 1
    assert any(
        event == "an error occurred while a message was processed"
        for event, _ in bench.log.said("error")
    )


# --- collections ------------------------------------------------------------------------------------------------------


def test_buffers_come_with_descriptors_of_their_own(bench: Bench) -> None:
    collection = bench.allocated()
    first, second = buffers(collection), buffers(collection)
    assert (
        first.buffer_collection_id
        == collection.call(Node.get_buffer_collection_id).buffer_collection_id
    )
    for info in (first, second):
        assert info.buffers is not None
        assert len(info.buffers) == 2
        assert all(buffer.vmo is not None for buffer in info.buffers)
        assert all(buffer.vmo_usable_start == 0 for buffer in info.buffers)
        close(info)


def test_waits_are_answered_when_the_last_participant_is_ready(bench: Bench) -> None:
    one, other = bench.root_and_child()
    one.send(BufferCollection.set_constraints, wanting(camping=1))
    txids = [one.send(WAIT) for _ in range(2)]
    bench.run()
    assert one.message() is None
    assert one.call(BufferCollection.check_all_buffers_allocated) is Error.PENDING
    other.send(BufferCollection.set_constraints, wanting(camping=1))
    bench.run()
    for txid in txids:
        info = one.answer(WAIT, txid).buffer_collection_info
        assert len(info.buffers) == 2
        close(info)
    assert one.call(BufferCollection.check_all_buffers_allocated) is None


def test_a_failed_allocation_is_answered_and_then_the_channel_closes(bench: Bench) -> None:
    one, other = bench.root_and_child()
    one.send(BufferCollection.set_constraints, wanting(camping=2))
    txid = one.send(WAIT)
    other.send(BufferCollection.set_constraints, wanting(camping=2, most=1))
    bench.run()
    assert one.answer(WAIT, txid) is Error.CONSTRAINTS_INTERSECTION_EMPTY
    assert one.is_closed()
    assert other.is_closed()


def test_an_error_waits_for_who_does_not_read_before_the_channel_closes(bench: Bench) -> None:
    one, other = bench.root_and_child()
    one.send(BufferCollection.set_constraints, wanting(camping=2))
    txid = one.send(WAIT)
    syncs = 0
    while not bench.reactor.to_flush:
        syncs += 1
        one.send(Node.sync)
        bench.run()
    other.send(BufferCollection.set_constraints, wanting(camping=2, most=1))
    bench.run()
    for number in range(syncs):
        one.answer(Node.sync, txid + 1 + number)
        bench.run()
    assert one.answer(WAIT, txid) is Error.CONSTRAINTS_INTERSECTION_EMPTY
    bench.run()
    assert one.is_closed()


def test_buffers_that_can_not_be_handed_out_are_no_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hand_out(*_: object, **__: object) -> None:
        raise NoMemoryError("out of descriptors")

    collection = bench.allocated()
    monkeypatch.setattr(Buffers, "hand_out", hand_out)
    assert collection.call(WAIT) is Error.NO_MEMORY
    assert bench.log.refusal()["reason"] == "out of descriptors"
    monkeypatch.undo()
    close(buffers(collection))  # the client can ask again


def test_a_client_that_reads_nothing_holds_no_descriptors_in_the_daemon(bench: Bench) -> None:
    collection = bench.allocated()
    while not bench.reactor.to_flush:
        collection.send(WAIT)
        bench.run()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        collection.send(WAIT)
    bench.run()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_answer_of_a_weak_participant_does_not_keep_the_buffers(bench: Bench) -> None:
    root = bench.token()
    child = bench.duplicate(root)
    child.send(Node.set_weak)
    weak, strong = bench.bind(child), bench.bind(root)
    for collection in (weak, strong):
        collection.send(BufferCollection.set_constraints, wanting(camping=1))
    bench.run()
    while not bench.reactor.to_flush:
        weak.send(WAIT)
        bench.run()
    strong.send(Node.release)
    strong.close()
    bench.run()
    bench.memory.process_events()
    [known] = bench.service.collections.values()
    kept: Any = known.buffers
    assert [buffer.hold for buffer in kept.buffers] == [Hold.WEAK] * 2


def test_a_wait_that_may_not_come_fails_the_node(bench: Bench) -> None:
    collection = bench.collection()
    collection.send(WAIT)
    bench.run()
    assert collection.is_closed()


def test_lifetime_tracking_is_closed_when_the_buffers_are_gone(bench: Bench) -> None:
    collection = bench.allocated()
    watched, given = eventpair()
    collection.send(
        BufferCollection.attach_lifetime_tracking,
        sysmem2.BufferCollectionAttachLifetimeTrackingRequest(
            server_end=given, buffers_remaining=2
        ),
    )
    bench.run()
    assert is_closed(watched)
    watched.close()


def test_must_match_takes_the_settings_of_a_vmo(bench: Bench) -> None:
    allocator = bench.allocator()
    info = buffers(bench.allocated(allocator))
    assert info.buffers is not None
    assert info.buffers[0].vmo is not None
    vmo = info.buffers[0].vmo.duplicate()
    other = bench.collection(allocator)
    other.send(BufferCollection.set_constraints, wanting(vmo=vmo))
    matched = buffers(other)
    assert matched.settings == info.settings
    close(info)
    close(matched)


def test_must_match_with_a_foreign_file_fails_the_node(bench: Bench) -> None:
    collection = bench.collection()
    collection.send(
        BufferCollection.set_constraints, wanting(vmo=Handle(os.memfd_create("foreign")))
    )
    bench.run()
    assert collection.is_closed()
    assert bench.log.refusal()["reason"] == "$.must_match_vmo is not a VMO of this daemon"


# --- when something fails in between ----------------------------------------------------------------------------------


def test_nothing_fails_while_the_tree_goes_through_its_nodes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event answers two waits, and one response can't be sent: that node fails after the other has its response."""
    allocator = bench.allocator()
    token = bench.token(allocator)
    child = bench.duplicate(token)
    child.send(BufferCollectionToken.set_dispensable)
    bench.run()
    one, other = bench.bind(child, allocator), bench.bind(token, allocator)
    one.send(BufferCollection.set_constraints, wanting(camping=1))
    one.send(WAIT)
    bench.run()
    hand_out = Buffers.hand_out
    calls: list[None] = []

    def fail_once(self: Buffers, *arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 1:
            raise RuntimeError("oh")
        return hand_out(self, *arguments, **options)

    monkeypatch.setattr(Buffers, "hand_out", fail_once)
    other.send(BufferCollection.set_constraints, wanting(camping=1))
    txid = other.send(WAIT)
    bench.run()
    bench.run()
    answered = other.answer(WAIT, txid)
    close(answered.buffer_collection_info)
    assert one.is_closed()
    other.sync()


def test_a_client_that_is_gone_before_its_call_was_answered(bench: Bench) -> None:
    collection = bench.allocated()
    txid = collection.send(WAIT)
    collection.close()
    bench.run()
    assert txid
    assert bench.service.collections == {}


def test_more_unread_answers_than_the_bound_fail_the_node() -> None:
    bench = Bench(Limits(max_outbox_messages=4))
    token = bench.token()
    child = bench.duplicate(token)
    while not bench.reactor.to_flush:
        token.send(Node.sync)
        bench.run()
    for _ in range(4):
        token.send(Node.sync)
    bench.run()
    assert child.is_closed()
    assert "responses of 80 bytes are unread" in bench.log.refusal()["reason"]
    bench.close()


def test_the_process_of_a_channel_that_is_closed_is_the_one_that_connected(bench: Bench) -> None:
    bench.token()
    connection = bench.reactor.served[-1]
    server = connection.server
    connection.close()
    assert server.peer == server.account.peer  # type: ignore[attr-defined]  # of nodes' servers


def test_the_process_of_a_channel_is_kept_when_its_client_has_released_and_closed_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = bench.duplicate(bench.token())
    server = bench.service.tokens[child.koid()]
    monkeypatch.setattr(Channel, "peer_credentials", lambda _: (1, 2, 3))
    child.send(Node.release)
    child.close()
    bench.run()
    monkeypatch.undo()
    assert bench.log.said("error") == []
    assert server.peer == Peer(1, 2, 3)  # type: ignore[attr-defined]  # of nodes' servers


def test_the_process_of_tokens_that_the_daemon_has_made_is_the_one_that_asked_for_them(
    bench: Bench,
) -> None:
    token = bench.token()
    [parent] = bench.service.tokens.values()
    parent.peer = Peer(5, 6, 7)  # type: ignore[attr-defined]  # of nodes' servers
    sync_tokens(bench, token, BufferCollectionToken.duplicate_sync, SAME_RIGHTS)
    made: Any = bench.reactor.served[-1].server
    assert made.peer == Peer(5, 6, 7)
