"""During an allocation attempt, messages to that collection wait in its channels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from tests.sysmemd.slow import SlowWork

from sysmem_protocol import codec, sysmem2
from sysmem_protocol.sysmem2 import Allocator, BufferCollection, BufferCollectionToken, Error, Node
from sysmemd import testing
from sysmemd.channels import connection

from .support import SAME_RIGHTS, Bench, Client, wanting


@pytest.fixture
def bench(work: SlowWork) -> Iterator[Bench]:
    with closing(Bench(do=work.do)) as made:
        yield made


def go_on(bench: Bench, work: SlowWork) -> None:
    """Finish all work that was started, and all work that follows from it."""
    while work.pending:
        work.go_on()
    bench.run()


def attempted(bench: Bench) -> tuple[Client, Client]:
    """A collection that an attempt to allocate holds, and a token attached to it."""
    root = bench.collection()
    token = bench.attach(root)
    root.send(BufferCollection.set_constraints, wanting())
    bench.run()
    return root, token


def is_known(bench: Bench, collection: Client) -> bool:
    """Return whether a collection's channel is open after one iteration of the loop."""
    bench.run()
    return not collection.is_closed()


def test_a_check_after_set_constraints_is_never_pending(bench: Bench, work: SlowWork) -> None:
    collection = bench.collection()
    collection.send(BufferCollection.set_constraints, wanting())
    txid = collection.send(BufferCollection.check_all_buffers_allocated)
    bench.run()
    assert collection.message() is None
    work.finish()
    bench.run()
    assert not isinstance(
        collection.answer(BufferCollection.check_all_buffers_allocated, txid), Error
    )


def test_all_its_channels_wait_and_no_other(bench: Bench, work: SlowWork) -> None:
    bystander = bench.collection()
    _, token = attempted(bench)
    txid = token.send(Node.sync)
    bench.run()
    assert token.message() is None
    bystander.sync()
    work.finish()
    bench.run()
    token.answer(Node.sync, txid)


def test_a_close_waits_too(bench: Bench, work: SlowWork) -> None:
    _, token = attempted(bench)
    token.close()
    bench.run()
    [collection] = bench.service.collections.values()
    assert len(list(collection.nodes())) == 2
    work.finish()
    bench.run()
    assert len(list(collection.nodes())) == 1


@pytest.mark.parametrize("messages", [0, 1, 600])
def test_a_token_that_waits_for_its_turn_can_be_bound(
    bench: Bench, work: SlowWork, messages: int
) -> None:
    """The messages on the token's channel are processed first, as always, even if its queue is full."""
    _, token = attempted(bench)
    sent = 0
    try:
        for number in range(messages):
            info = sysmem2.SetDebugClientInfoRequest(name=f"name {number}", id=0)
            token.send(Node.set_debug_client_info, info)
            sent += 1
    except AssertionError:
        pass  # full
    assert sent == messages or sent >= 10
    attached = bench.bind(token)
    attached.send(BufferCollection.set_constraints, wanting(camping=0))
    txid = attached.send(BufferCollection.check_all_buffers_allocated)
    assert is_known(bench, attached)
    for _ in range(2):
        work.finish()
        bench.run()
    answer = attached.answer(BufferCollection.check_all_buffers_allocated, txid)
    assert not isinstance(answer, Error)


def test_a_released_token_that_is_bound_fails_alone(bench: Bench, work: SlowWork) -> None:
    root, token = attempted(bench)
    token.send(Node.release)
    attached = bench.bind(token)
    assert attached.is_closed()
    txid = root.send(BufferCollection.check_all_buffers_allocated)
    work.finish()
    bench.run()
    root.answer(BufferCollection.check_all_buffers_allocated, txid)


def test_the_allocator_that_made_it_goes_on(bench: Bench, work: SlowWork) -> None:
    allocator = bench.allocator()
    collection = bench.collection(allocator)
    collection.send(BufferCollection.set_constraints, wanting())
    bench.run()
    request = sysmem2.AllocatorValidateBufferCollectionTokenRequest(token_server_koid=1)
    answer = allocator.call(Allocator.validate_buffer_collection_token, request)
    assert not answer.is_known
    work.finish()


def test_the_service_may_close_meanwhile(bench: Bench, work: SlowWork) -> None:
    collection = bench.collection()
    collection.send(BufferCollection.set_constraints, wanting())
    bench.run()
    bench.service.close()
    assert collection.is_closed()
    work.finish()
    assert not bench.service.collections


def test_a_token_duplicated_before_belongs_to_it_like_the_others(
    bench: Bench, work: SlowWork
) -> None:
    """A child that was created below an attached token waits too."""
    root = bench.collection()
    token = bench.attach(root)
    child = bench.duplicate(token)
    root.send(BufferCollection.set_constraints, wanting())
    bench.run()
    txid = child.send(Node.sync)
    bench.run()
    assert child.message() is None
    work.finish()
    bench.run()
    child.answer(Node.sync, txid)


def test_a_token_of_a_tree_that_fails_is_unknown_once_that_is_over(
    bench: Bench, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bench.token()
    child = bench.duplicate(token)
    for _ in range(3):
        bench.duplicate(token)
    monkeypatch.setattr("sysmemd.tree.failure.give_way", work.pause)
    token.close()
    bench.run()
    assert work.pending == 1
    allocator = bench.allocator()
    bound = bench.bind(child, allocator)
    assert not bound.is_closed()
    txid = allocator.send(
        Allocator.validate_buffer_collection_token,
        sysmem2.AllocatorValidateBufferCollectionTokenRequest(token_server_koid=1),
    )
    bench.run()
    assert allocator.message() is None  # the allocator waits too
    go_on(bench, work)
    assert bound.is_closed()
    assert not allocator.answer(Allocator.validate_buffer_collection_token, txid).is_known


def test_a_message_that_takes_long_to_decode_holds_up_its_channel_only(
    bench: Bench, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, other = bench.collection(), bench.collection()
    monkeypatch.setattr(connection, "_decoder", codec.Decoder(pause=work.pause))
    collection.send(BufferCollection.set_constraints, wanting())
    txid = collection.send(BufferCollection.check_all_buffers_allocated)
    bench.run()
    other.sync()
    assert collection.message() is None
    while work.pending:
        work.go_on()
        bench.run()
    assert collection.answer(BufferCollection.check_all_buffers_allocated, txid) is None


def test_a_node_that_fails_while_its_message_is_decoded_gets_no_message(
    bench: Bench, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = bench.token()
    child = bench.bind(bench.duplicate(root))
    monkeypatch.setattr(connection, "_decoder", codec.Decoder(pause=work.pause))
    child.send(BufferCollection.set_constraints, wanting())
    bench.run()
    assert work.pending
    root.close()
    bench.run()
    assert child.is_closed()
    go_on(bench, work)
    assert not bench.service.collections


def ask_for_tokens(bench: Bench, token: Client, count: int) -> int:
    """Ask for this many tokens. Return the call's txid."""
    request = sysmem2.CreateTokensRequest(rights_attenuation_masks=[SAME_RIGHTS] * count)
    txid = token.send(BufferCollectionToken.duplicate_sync, request)
    bench.run()
    return txid


def test_a_tree_that_fails_while_tokens_are_made_gets_none_of_them(
    bench: Bench, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bench.token()
    child = bench.duplicate(token)
    monkeypatch.setattr("sysmemd.channels.nodes.give_way", work.pause)
    ask_for_tokens(bench, token, 3)
    made = bench.reactor.served[-1]
    told: list[bool] = []
    made.when_served(lambda: told.append(made.closed))
    child.close()
    bench.run()
    assert told == []
    go_on(bench, work)
    assert told == [True]
    assert token.is_closed()
    assert not bench.service.collections
    assert not bench.service.tokens


def test_a_client_that_a_test_ends_while_its_tokens_are_made_ends_with_them(
    bench: Bench, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = testing.Faults()
    monkeypatch.setattr(bench.service, "_make_connection", testing.tested(faults).connection)
    token = bench.token()
    monkeypatch.setattr("sysmemd.channels.nodes.give_way", work.pause)
    ask_for_tokens(bench, token, 3)
    turns: deque[Callable[[], None]] = deque()
    monkeypatch.setattr(bench.reactor, "in_turn", lambda _, work: turns.append(work))
    for each in list(faults.connections):
        each.hang_up()
    while turns or work.pending:
        if turns:
            work.do(turns.popleft())
        else:
            work.go_on()
    bench.run()
    assert not bench.service.collections


def test_tokens_are_made_once_a_change_of_the_tree_is_over(
    bench: Bench, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = bench.token()
    token = bench.duplicate(root)
    attached = bench.attach(bench.bind(root))
    monkeypatch.setattr("sysmemd.channels.nodes.give_way", work.pause)
    txid = ask_for_tokens(bench, token, 1)
    monkeypatch.setattr("sysmemd.tree.failure.give_way", work.pause)
    attached.close()
    bench.run()
    work.go_on()  # with the tokens
    [collection] = bench.service.collections.values()
    assert collection.is_changing
    assert len(list(collection.nodes())) == 2
    go_on(bench, work)
    assert len(list(collection.nodes())) == 3
    [made] = token.answer(BufferCollectionToken.duplicate_sync, txid).tokens
    made.close()


def being_answered(
    bench: Bench, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> tuple[Client, Callable[[], bool]]:
    """Return a collection that is being given its buffers, and a function that flushes its channel again."""
    collection = bench.collection()
    collection.send(BufferCollection.set_constraints, wanting())
    bench.run()
    work.finish()
    collection.send(BufferCollection.wait_for_all_buffers_allocated, txid=1)
    bench.reactor.receive_all()
    [connection] = bench.reactor.to_flush
    bench.reactor.to_flush.clear()
    monkeypatch.setattr("sysmemd.channels.answering.give_way", work.pause)
    work.do(connection.flush)
    return collection, connection.flush


def test_an_answer_that_takes_long_to_make_comes_before_later_ones(
    bench: Bench, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, flush = being_answered(bench, work, monkeypatch)
    collection.send(Node.sync, txid=2)
    bench.reactor.receive_all()
    assert flush()  # it is being processed
    assert collection.message() is None
    while work.pending:
        work.go_on()
    answer = collection.answer(BufferCollection.wait_for_all_buffers_allocated, 1)
    for buffer in answer.buffer_collection_info.buffers:
        buffer.vmo.close()
    collection.answer(Node.sync, 2)


def test_an_answer_is_dropped_if_its_client_leaves_while_it_is_made(
    bench: Bench, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, _ = being_answered(bench, work, monkeypatch)
    collection.close()
    bench.reactor.receive_all()
    assert not bench.service.collections
    while work.pending:
        work.go_on()
    bench.memory.process_events()
    assert not bench.memory.statistics().collections
    assert not bench.service.lingering
    assert not bench.service.parties
    assert not bench.log.said("warning")


def test_two_who_want_the_same_token_have_their_turn_one_after_the_other(
    bench: Bench, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nonce of the second client waits in the token's channel while the earlier messages are being processed."""
    token = bench.token()
    info = sysmem2.SetDebugClientInfoRequest(name="late", id=0)
    token.send(Node.set_debug_client_info, info)
    monkeypatch.setattr(connection, "_decoder", codec.Decoder(pause=work.pause))
    bound = []
    for _ in range(2):
        client, far = bench.client()
        bench.allocator(name=None).send(
            Allocator.bind_shared_collection,
            sysmem2.AllocatorBindSharedCollectionRequest(
                token=token.duplicate_end(), buffer_collection_request=far
            ),
        )
        bench.run()
        bound.append(client)
    while work.pending:
        work.go_on()
        bench.run()
    assert [client.is_closed() for client in bound] == [False, True]
    bound[0].sync()


def test_a_channel_is_held_until_all_who_wait_for_it_have_had_their_turn(
    bench: Bench, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the daemon would read the channel and pause it again all the time."""
    allocator, token = bench.allocator(), bench.token()
    served = bench.reactor.served[-1]
    token.send(Node.set_debug_client_info, sysmem2.SetDebugClientInfoRequest(name="late", id=0))
    monkeypatch.setattr(connection, "_decoder", codec.Decoder(pause=work.pause))
    bench.reactor.receive_all()
    collection = bench.bind(token, allocator)
    while served._claims < 2:
        work.go_on(1)
    while served._processing:
        work.go_on()
    served.receive()
    assert served in bench.reactor.held
    while work.pending:
        work.go_on()
    assert served not in bench.reactor.held
    collection.sync()
