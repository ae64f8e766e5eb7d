"""The search for a token by its client end, proofs of nodes, and ids."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sysmem_protocol import sysmem2
from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle, channel_pair, eventpair
from sysmem_protocol.sysmem2 import BufferCollection, Node
from sysmemd.channels import Connection
from sysmemd.channels.node_refs import is_event
from sysmemd.channels.service import CollectionIds, Token

from .support import Bench, header, wanting


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """The process can't open any descriptor."""
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def server_end() -> tuple[Handle, Handle]:
    near, far = channel_pair()
    return Handle(near.detach()), Handle(far.detach())


# --- find_token -------------------------------------------------------------------------------------------------------


def find(bench: Bench, end: Handle) -> Token | None:
    """Return the result of a search. The end stays the caller's meanwhile."""
    with end:
        found = bench.service.find_token(end)
        assert not end.closed
        os.fstat(end.fileno())
    return found


def test_the_token_of_a_client_end_is_found_after_what_it_sent(bench: Bench) -> None:
    token = bench.token()
    number = token.koid()
    token.send(Node.sync)
    end = token.duplicate_end()
    found = find(bench, end)
    assert found is bench.service.tokens[number]
    message = token.message()
    assert message is not None
    assert message.ordinal == Node.sync.ordinal


def test_an_end_that_the_server_does_not_have_is_unknown(bench: Bench) -> None:
    near, far = server_end()
    with far:
        assert find(bench, near) is None
        with socket.socket(fileno=os.dup(far.fileno())) as sock:
            assert sock.recv(100) == b""  # no nonce, which would later be read as a message


@pytest.mark.parametrize("kind", ["collection", "other server's", "no number", "unknown number"])
def test_an_end_that_is_no_tokens_is_unknown(bench: Bench, kind: str) -> None:
    prefix = bench.token().channel.peer_name().rpartition(b"/")[0]
    names = {
        "other server's": b"\0sysmem/0123456789abcdef/1",
        "no number": prefix + b"/one",
        "unknown number": prefix + b"/1",
    }
    if kind == "collection":
        end = bench.collection().duplicate_end()
    else:
        near, far = channel_pair()
        far.bind(names[kind])
        end = Handle(near.detach())
        far.close()
    assert find(bench, end) is None


def test_a_descriptor_that_is_not_connected_is_unknown(bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        end = Handle(sock.detach())
    assert find(bench, end) is None


def test_a_look_alike_is_unknown_and_harms_nobody(bench: Bench) -> None:
    """In another network namespace any process can use the name. Here a process uses it with leading zeros."""
    token = bench.token()
    prefix, _, number = token.channel.peer_name().rpartition(b"/")
    near, far = channel_pair()
    far.bind(prefix + b"/0" + number)
    token.send(Node.sync)
    assert find(bench, Handle(near.detach())) is None
    assert len(far.recv(100)) == 32  # the nonce
    far.close()
    message = token.message()
    assert message is not None  # the messages of the real token were processed, and it stays open
    token.sync()


def test_a_server_end_is_no_client_end(bench: Bench) -> None:
    """A former owner of the server end turns in the other end of the token."""
    token, far = bench.client()
    copy = far.duplicate()
    find(bench, copy)
    far.close()
    token.close()


def test_a_full_queue_is_emptied_for_the_nonce(bench: Bench) -> None:
    token = bench.token()
    body = bytes.fromhex("a201010278 40".replace(" ", "")) + b"n" * 64
    count = 0
    while token.channel.send(header(0, Node.set_name.ordinal) + body):
        count += 1
    assert count > 10
    end = token.duplicate_end()
    assert find(bench, end) is bench.service.tokens[token.koid()]


def test_a_queue_that_stays_full_makes_the_token_unknown(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bench.token()
    monkeypatch.setattr(Channel, "send", lambda *_: False)
    assert find(bench, token.duplicate_end()) is None
    end = token.duplicate_end()
    asked: list[bytes | None] = []

    def end_it(_: Connection, nonce: bytes | None) -> None:
        asked.append(nonce)
        end.close()

    monkeypatch.setattr(Connection, "receive_until", end_it)
    assert bench.service.find_token(end) is None
    assert asked == [None], "its owner has ended meanwhile"
    monkeypatch.undo()
    token.sync()


def test_a_token_that_fails_by_what_it_sent_is_unknown(bench: Bench) -> None:
    token = bench.token()
    token.channel.send(b"nonsense")
    assert find(bench, token.duplicate_end()) is None
    assert token.is_closed()
    assert bench.service.tokens == {}


def test_a_token_that_failed_behind_a_full_queue_is_unknown(bench: Bench) -> None:
    token = bench.token()
    token.channel.send(b"nonsense")
    while token.channel.send(b"x" * 1000):
        pass
    assert find(bench, token.duplicate_end()) is None
    assert token.is_closed()


def test_a_token_that_failed_for_another_reason_is_unknown(bench: Bench) -> None:
    token = bench.token()
    child = bench.duplicate(token)
    end = token.duplicate_end()
    child.close()
    bench.run()
    assert find(bench, end) is None


def test_a_nonce_that_somebody_else_reads_is_no_proof(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A former owner of the server end reads from it. The token is then unknown, and stays usable."""
    client, far = bench.client()
    former = socket.socket(fileno=os.dup(far.fileno()))
    send = Channel.send

    def send_and_lose(self: Channel, *message: object) -> int:
        sent = send(self, *message)  # type: ignore[arg-type] # passed on
        former.recv(100)
        return sent

    bench.allocator().send(
        sysmem2.Allocator.allocate_shared_collection,
        sysmem2.AllocatorAllocateSharedCollectionRequest(token_request=far),
    )
    bench.run()
    end = client.duplicate_end()
    monkeypatch.setattr(Channel, "send", send_and_lose)
    assert find(bench, end) is None
    monkeypatch.undo()
    client.sync()
    former.close()


# --- proofs of nodes --------------------------------------------------------------------------------------------------


def test_a_node_has_one_ref_for_life(bench: Bench) -> None:
    allocator = bench.allocator()
    token = bench.token(allocator)
    refs = bench.service.node_refs
    node = bench.service.tokens[token.koid()].node
    with token.call(Node.get_node_ref).node_ref as first:
        collection = bench.bind(token, allocator)
        with collection.call(Node.get_node_ref).node_ref as second:
            assert os.path.sameopenfile(first.fileno(), second.fileno())
            assert refs.node(first) is refs.node(second) is node
            assert not os.get_blocking(first.fileno())
        ref: Any = node.ref
        assert not os.get_inheritable(ref.handle.fileno())
        collection.close()
        bench.run()
        assert refs.node(first) is None  # it has left the tree


def test_a_ref_may_be_closed_twice(bench: Bench) -> None:
    token = bench.token()
    token.call(Node.get_node_ref).node_ref.close()
    ref = bench.service.tokens[token.koid()].node.ref
    assert ref is not None
    ref.close()
    ref.close()


def test_a_foreign_object_proves_nothing(bench: Bench) -> None:
    read, write = map(Handle, os.pipe())
    with read, write, Handle(os.eventfd(0)) as event:
        for handle in (read, event):
            assert bench.service.node_refs.node(handle) is None
            assert is_event(handle)


def test_what_is_no_event() -> None:
    near, far = eventpair()
    with near, far, Handle(os.memfd_create("x")) as memory:
        assert not is_event(near)
        assert not is_event(memory)


def test_a_ref_that_can_not_be_made_fails_the_node_alone(bench: Bench) -> None:
    token, other = bench.token(), bench.token()
    token.send(Node.get_node_ref)
    with no_descriptors_left():
        bench.run()
    assert token.is_closed()
    other.sync()
    [(_, fields), *_] = bench.log.said("error")
    assert fields["client_name"] == "tester"
    assert "Too many open files" in fields["reason"]


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_collection_ids_are_unique_and_those_of_a_later_daemon_are_others() -> None:
    ids = CollectionIds()
    first = [next(ids) for _ in range(1000)]
    assert first == sorted(set(first))
    assert min(first) > 1
    assert next(CollectionIds()) > first[-1]


def test_collection_ids_go_on_when_the_clock_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.clock_gettime_ns", lambda clock: 5)
    ids = CollectionIds()
    assert [next(ids) for _ in range(3)] == [5, 6, 7]


def test_collections_are_known_until_their_last_node_has_left(bench: Bench) -> None:
    collection = bench.allocated()
    [known] = bench.service.collections.values()
    assert known.is_allocated
    collection.send(Node.release)
    bench.run()
    collection.close()
    bench.run()
    assert bench.service.collections == {}


def test_whoever_inspects_is_told_of_attempts_failures_and_ends(bench: Bench) -> None:
    told: list[tuple[str, int]] = []
    service = bench.service
    service.on_attempt = lambda collection, _: told.append(("attempt", collection.id))
    service.on_failure = lambda collection: told.append(("failure", collection.id))
    service.on_ended = lambda collection: told.append(("ended", collection.id))
    collection = bench.allocated()
    [id] = service.collections
    collection.close()
    bench.run()
    assert told == [("attempt", id), ("failure", id), ("ended", id)]


def test_closing_the_service_ends_all_collections_quietly(bench: Bench) -> None:
    clients = [bench.token(), bench.allocated()]
    waiting = bench.collection()
    waiting.send(BufferCollection.set_constraints, wanting(camping=1))
    bench.service.close()
    bench.run()
    assert all(client.is_closed() for client in [*clients, waiting])
    assert bench.service.collections == {}
    assert bench.log.said("warning", "error") == []


def test_rights_are_said_to_be_advisory_once(bench: Bench) -> None:
    for uid in (4711, os.geteuid(), os.geteuid()):
        bench.service.say_if_advisory(uid)
    [(event, fields)] = bench.log.said("warning")
    assert "advisory" in event
    assert fields == {"uid": os.geteuid()}


def test_that_root_may_do_anything_is_said_apart(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 950)
    for uid in (0, 950, 0, 950, 951):
        bench.service.say_if_advisory(uid)
    said = [(event, fields["uid"]) for event, fields in bench.log.said("warning")]
    assert [uid for _, uid in said] == [0, 950]
    assert "run as root" in said[0][0]
    assert "a user of its own" in said[1][0]


def test_a_daemon_that_runs_as_root_is_told_to_have_a_user_of_its_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    bench.service.say_if_advisory(0)
    [(event, _)] = bench.log.said("warning")
    assert "a user of its own" in event
