"""The blocking face on a channel whose other end the test controls."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import random
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import sysmem
from sysmem import blocking
from sysmem._blocking import client_end
from sysmem_protocol import sysmem2 as m
from sysmem_protocol.message import Message

Ends = tuple[int, Any]  # the client end's descriptor, and the peer of conftest.py
Node = m.Node
Collection = m.BufferCollection


@pytest.fixture
def collection(ends: Ends) -> Iterator[blocking.BufferCollection]:
    with blocking.BufferCollection.from_fd(ends[0]) as made:
        yield made


@pytest.fixture
def peer(ends: Ends) -> Any:
    return ends[1]


class Running:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._call = call
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # passed to the test
            self.error = error

    @property
    def running(self) -> bool:
        """Return whether the call has not returned yet."""
        return self.thread.is_alive()

    def outcome(self) -> Any:
        """Wait for the call. Return its result, or raise its exception."""
        self.thread.join()
        if self.error is not None:
            raise self.error
        return self.result


# --- one call -------------------------------------------------------------------------------------------------------


def test_a_call_returns_when_it_is_answered(token: Any, peer: Any) -> None:
    peer.echo(3)
    for _ in range(3):
        token.sync()


def test_a_single_field_of_a_response_is_the_result(token: Any, peer: Any) -> None:
    def play() -> None:
        request = peer.receive()
        peer.answer(
            request,
            Node.get_buffer_collection_id,
            m.NodeGetBufferCollectionIdResponse(buffer_collection_id=77),
        )

    peer.run(play)
    assert token.get_buffer_collection_id() == 77


def test_an_error_is_raised(collection: Any, peer: Any) -> None:
    peer.run(
        lambda: peer.answer(
            peer.receive(), Collection.check_all_buffers_allocated, sysmem.Error.PENDING
        )
    )
    with pytest.raises(sysmem.SysmemError, match="PENDING") as caught:
        collection.check_all_buffers_allocated()
    assert caught.value.error is sysmem.Error.PENDING


def test_an_error_without_a_name_is_a_number(collection: Any, peer: Any) -> None:
    def play() -> None:
        request = peer.receive()
        peer.send(Message(request.txid, request.ordinal, b"\xa1\x02\x18\x63"))

    peer.run(play)
    with pytest.raises(sysmem.SysmemError, match="unknown error 99") as caught:
        collection.check_all_buffers_allocated()
    assert caught.value.error == 99
    assert repr(pickle.loads(pickle.dumps(caught.value))) == repr(caught.value)


def test_a_one_way_call_has_no_txid(token: Any, peer: Any) -> None:
    token.set_verbose_logging()
    message = peer.receive()
    assert (message.txid, message.ordinal) == (0, Node.set_verbose_logging.ordinal)


def test_what_the_daemon_left_out_breaks_the_channel(token: Any, peer: Any) -> None:
    peer.run(
        lambda: peer.answer(
            peer.receive(), Node.get_buffer_collection_id, m.NodeGetBufferCollectionIdResponse()
        )
    )
    with pytest.raises(sysmem.PeerClosedError, match="buffer_collection_id"):
        token.get_buffer_collection_id()
    with pytest.raises(sysmem.PeerClosedError):
        token.sync()


def test_an_answer_to_no_call_breaks_the_channel(token: Any, peer: Any, witness: Any) -> None:
    peer.send(Message(9, Node.sync.ordinal, b"", [witness.handle]))
    with pytest.raises(sysmem.PeerClosedError, match="txid 9"):
        token.sync()
    assert witness.gone()


def test_an_event_of_a_later_version_is_ignored(token: Any, peer: Any, witness: Any) -> None:
    peer.send(Message(0, 12345, b"", [witness.handle]))
    peer.echo(1)
    token.sync()
    assert witness.gone()


# --- answers in parts -----------------------------------------------------------------------------------------------


def _info(make_witness: Any, count: int) -> tuple[list[Any], m.BufferCollectionInfo]:
    witnesses = [make_witness() for _ in range(2 * count)]
    handles = [witness.handle for witness in witnesses]
    buffers = [
        m.VmoBuffer(vmo=vmo, vmo_usable_start=0, close_weak_asap=event)
        for vmo, event in zip(handles[::2], handles[1::2], strict=True)
    ]
    return witnesses, m.BufferCollectionInfo(buffers=buffers, buffer_collection_id=5)


def test_a_response_in_parts_is_put_together(collection: Any, peer: Any, make_witness: Any) -> None:
    witnesses, info = _info(make_witness, 128)
    inodes = [os.fstat(witness.handle.fileno()).st_ino for witness in witnesses]
    method = Collection.wait_for_all_buffers_allocated
    answer = m.BufferCollectionWaitForAllBuffersAllocatedResponse(buffer_collection_info=info)
    peer.run(lambda: peer.answer(peer.receive(), method, answer))
    with collection.wait_for_all_buffers_allocated() as got:
        assert isinstance(got, sysmem.BufferCollectionInfo)
        arrived = [
            os.fstat(handle.fileno()).st_ino
            for buffer in got.buffers
            for handle in (buffer.vmo, buffer.close_weak_asap)
            if handle is not None
        ]
        assert arrived == inodes
        assert isinstance(got.buffers[0].vmo, sysmem.Vmo)
        assert isinstance(got.buffers[0].close_weak_asap, sysmem.EventPair)
    peer.join()
    assert all(witness.gone() for witness in witnesses)


def test_parts_that_come_too_late_are_closed(collection: Any, peer: Any, make_witness: Any) -> None:
    with pytest.raises(TimeoutError):
        collection.wait_for_all_buffers_allocated(timeout=0)
    witnesses, info = _info(make_witness, 128)
    method = Collection.wait_for_all_buffers_allocated
    answer = m.BufferCollectionWaitForAllBuffersAllocatedResponse(buffer_collection_info=info)
    peer.answer(peer.receive(), method, answer)
    peer.echo(1)
    collection.sync()
    assert all(witness.gone() for witness in witnesses)


def test_parts_without_their_end_are_closed(collection: Any, peer: Any, witness: Any) -> None:
    waiting = Running(collection.wait_for_all_buffers_allocated)
    request = peer.receive()
    header = next(Message(request.txid, request.ordinal).datagrams())[0]
    peer.channel.send(header[:5] + b"\x01" + header[6:], [witness.handle])
    witness.handle.close()
    peer.close()
    with pytest.raises(sysmem.PeerClosedError):
        waiting.outcome()
    assert witness.gone()


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.01, -1])
def test_a_timeout_leaves_the_channel_usable(token: Any, peer: Any, timeout: float) -> None:
    with pytest.raises(TimeoutError, match="sync"):
        token.sync(timeout=timeout)
    peer.send(peer.receive())
    peer.echo(1)
    token.sync(timeout=10)


def test_a_late_answer_s_descriptors_are_closed(token: Any, peer: Any, witness: Any) -> None:
    with pytest.raises(TimeoutError):
        token.get_node_ref(timeout=0)
    answer = m.NodeGetNodeRefResponse(node_ref=witness.handle)
    peer.answer(peer.receive(), Node.get_node_ref, answer)
    assert not witness.gone(0)
    peer.echo(1)
    token.sync()
    assert witness.gone()


def test_a_keyboard_interrupt_leaves_the_channel_usable(
    token: Any, peer: Any, until_asleep: Any
) -> None:
    main = threading.get_ident()

    requests = []

    def interrupt() -> None:
        requests.append(peer.receive())
        until_asleep(threading.main_thread())
        signal.pthread_kill(main, signal.SIGINT)

    peer.run(interrupt)
    with pytest.raises(KeyboardInterrupt):
        token.sync()
    peer.join()
    peer.send(requests[0])
    peer.echo(1)
    token.sync()


def test_keyboard_interrupts_at_any_moment_leave_the_channel_usable(token: Any, peer: Any) -> None:
    main = threading.get_ident()

    def play() -> None:
        with contextlib.suppress(ConnectionError):  # the token is closed
            while True:
                peer.send(peer.receive())

    def interrupt() -> None:
        moment = random.Random(1)
        for _ in range(200):
            for _ in range(moment.randrange(400)):
                pass
            signal.pthread_kill(main, signal.SIGUSR1)
            handled.acquire()

    handled = threading.Semaphore(0)

    class Interrupt(BaseException):
        pass

    def handle(*_: object) -> None:
        handled.release()
        if calling:
            raise Interrupt

    calling = False
    before = signal.signal(signal.SIGUSR1, handle)
    peer.run(play)
    interrupting = Running(interrupt)
    try:
        while interrupting.running:
            try:
                calling = True
                token.sync(timeout=10)
                calling = False
            except Interrupt:
                calling = False
        interrupting.outcome()
        token.sync(timeout=10)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_full_queue_honours_the_timeout_and_sends_nothing(token: Any, peer: Any) -> None:
    count = 0

    def fill() -> None:
        nonlocal count
        while True:
            token.set_name(count, "x" * 64, timeout=0.01)
            count += 1

    with pytest.raises(TimeoutError, match="nothing was sent"):
        fill()
    with pytest.raises(TimeoutError):
        token.sync(timeout=0.01)
    for _ in range(count):
        assert peer.receive().ordinal == Node.set_name.ordinal
    peer.echo(1)
    token.sync()


def test_a_full_queue_is_no_deadlock_when_the_other_one_is_full_too(token: Any, peer: Any) -> None:
    abandoned = 0
    while True:  # calls whose responses fill the queue to the client
        with pytest.raises(TimeoutError) as caught:
            token.sync(timeout=0)
        if "nothing was sent" in str(caught.value):
            break
        abandoned += 1

    def play() -> None:
        for _ in range(abandoned + 50):
            peer.send(peer.receive())

    # the peer responds to one call at a time, and reads nothing while its own queue is full
    peer.run(play)
    for _ in range(50):
        token.sync()


def test_who_waits_for_room_receives_meanwhile(token: Any, peer: Any, until_asleep: Any) -> None:
    sent = True
    while sent:
        with pytest.raises(TimeoutError) as caught:
            token.sync(timeout=0)
        sent = "nothing was sent" not in str(caught.value)
    waiting = Running(lambda: token.sync(timeout=10))
    until_asleep(waiting.thread)
    following = Running(lambda: token.set_name(1, "x", timeout=10))
    until_asleep(waiting.thread, following.thread)
    first = peer.receive()
    for _ in range(100):  # responses for which no thread waits
        peer.send(Message(0, first.ordinal))
    while waiting.running or following.running:
        request = peer.receive() if peer.readable(0.01) else None
        if request is not None and request.txid:
            peer.send(request)
    waiting.outcome()
    following.outcome()


def test_a_non_blocking_descriptor_is_waited_for(ends: Ends, until_asleep: Any) -> None:
    fd, peer = ends
    os.set_blocking(fd, False)
    with blocking.BufferCollectionToken.from_fd(fd) as token:
        waiting = Running(token.sync)
        request = peer.receive()
        until_asleep(waiting.thread)
        peer.send(request)
        waiting.outcome()


@pytest.mark.parametrize("blocks", [True, False])
def test_the_only_thread_of_a_process_waits_where_it_receives(
    ends: Ends, until_asleep: Any, monkeypatch: pytest.MonkeyPatch, blocks: bool
) -> None:
    """This saves one system call. On an end that does not block, the thread polls from then on."""
    polls: list[int] = []
    poll = client_end._poll

    def counted(fd: int, *arguments: Any) -> int:
        polls.append(fd)
        return poll(fd, *arguments)

    monkeypatch.setattr("sysmem._blocking.client_end._thread._count", lambda: 0)
    monkeypatch.setattr(client_end, "_poll", counted)
    fd, peer = ends
    os.set_blocking(fd, blocks)
    with blocking.BufferCollectionToken.from_fd(fd) as token:
        for _ in range(2):
            waiting = Running(token.sync)
            request = peer.receive()
            until_asleep(waiting.thread)
            peer.send(request)
            waiting.outcome()
        waiting = Running(partial(token.sync, timeout=60))
        peer.send(peer.receive())
        waiting.outcome()
    assert polls == [fd] * (1 if blocks else 3)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_pending_call_sees_the_peer_close(token: Any, peer: Any) -> None:
    waiting = Running(token.sync)
    peer.receive()
    peer.close()
    with pytest.raises(sysmem.PeerClosedError):
        waiting.outcome()


def test_every_later_call_sees_it_one_way_ones_too(token: Any, peer: Any) -> None:
    peer.close()
    with pytest.raises(sysmem.PeerClosedError):
        token.set_dispensable()
    with pytest.raises(sysmem.PeerClosedError):
        token.sync()
    with pytest.raises(sysmem.PeerClosedError):
        token.duplicate()
    with pytest.raises(sysmem.PeerClosedError):
        token.release()
    assert token.closed


def test_answers_come_before_the_close(token: Any, peer: Any) -> None:
    waiting = Running(token.sync)
    request = peer.receive()
    token.set_verbose_logging()  # unread when the peer closes, which the kernel reports as a reset
    peer.send(request)
    peer.close()
    waiting.outcome()
    with pytest.raises(sysmem.PeerClosedError):
        token.sync()


def test_the_peer_s_shutdown_is_the_end(token: Any, peer: Any) -> None:
    peer.channel.shutdown_sending()
    assert token.wait_closed()
    with pytest.raises(sysmem.PeerClosedError):
        token.set_dispensable()


def test_release_sends_release_and_closes(token: Any, peer: Any) -> None:
    token.release()
    assert peer.receive().ordinal == Node.release.ordinal
    assert token.closed
    with pytest.raises(ConnectionError):
        peer.receive()


def test_after_close_every_use_is_refused(token: Any) -> None:
    token.close()
    token.close()
    for use in (
        token.sync,
        token.set_dispensable,
        token.fileno,
        token.detach,
        token.wait_closed,
        token.release,
        lambda: token.server_koid,
    ):
        with pytest.raises(sysmem.HandleClosedError):
            use()


def test_close_wakes_those_who_wait(token: Any, peer: Any, until_asleep: Any) -> None:
    waiting = [Running(token.sync), Running(token.wait_closed), Running(token.sync)]
    for _ in range(2):
        peer.receive()
    until_asleep(*(each.thread for each in waiting))
    token.close()
    for each in waiting:
        with pytest.raises(sysmem.HandleClosedError):
            each.outcome()
    with pytest.raises(ConnectionError):
        peer.receive()


def test_wait_closed_tells_whether_it_is(token: Any, peer: Any) -> None:
    assert token.wait_closed(0) is False
    assert token.wait_closed(timeout=0.01) is False
    peer.close()
    assert token.wait_closed(0) is True
    assert token.wait_closed() is True


def test_wait_closed_loses_no_answer(token: Any, peer: Any, until_asleep: Any) -> None:
    watching = Running(token.wait_closed)
    until_asleep(watching.thread)
    peer.echo(20)
    for _ in range(20):
        token.sync()
    peer.join()
    peer.close()
    assert watching.outcome() is True


# --- several threads -------------------------------------------------------------------------------------------------


def test_a_sync_is_answered_while_a_wait_is_pending(collection: Any, peer: Any) -> None:
    waiting = Running(collection.wait_for_all_buffers_allocated)
    wait = peer.receive()
    peer.echo(5)
    for _ in range(5):
        collection.sync()
    peer.join()
    peer.answer(
        wait, Collection.wait_for_all_buffers_allocated, sysmem.Error.CONSTRAINTS_INTERSECTION_EMPTY
    )
    with pytest.raises(sysmem.SysmemError, match="CONSTRAINTS_INTERSECTION_EMPTY"):
        waiting.outcome()


def test_answers_out_of_order_find_their_calls(token: Any, peer: Any) -> None:
    running = [Running(token.get_buffer_collection_id) for _ in range(8)]
    requests = [peer.receive() for _ in running]
    for request in reversed(requests):
        peer.answer(
            request,
            Node.get_buffer_collection_id,
            m.NodeGetBufferCollectionIdResponse(buffer_collection_id=request.txid),
        )
    assert sorted(each.outcome() for each in running) == sorted(r.txid for r in requests)


def test_a_leader_that_runs_out_of_time_hands_over(token: Any, peer: Any) -> None:
    leading = Running(lambda: token.sync(timeout=0.05))
    first = peer.receive()
    following = Running(lambda: token.sync(timeout=10))
    second = peer.receive()
    with pytest.raises(TimeoutError):
        leading.outcome()
    peer.send(second)
    following.outcome()
    peer.send(first)
    peer.echo(1)
    token.sync(timeout=10)


def test_many_threads_share_a_channel(token: Any, peer: Any) -> None:
    peer.echo(8 * 200)

    def many() -> None:
        for _ in range(200):
            token.sync(timeout=10)

    for each in [Running(many) for _ in range(8)]:
        each.outcome()


@pytest.mark.skipif(os.geteuid() != 0, reason="the same limit bounds what users may have in flight")
@pytest.mark.parametrize("buffers", [1, 128])  # one datagram, or several
def test_a_process_without_descriptors_loses_the_answer_and_no_more(
    collection: Any, peer: Any, make_witness: Any, buffers: int
) -> None:
    witnesses, info = _info(make_witness, buffers)
    method = Collection.wait_for_all_buffers_allocated
    answer = m.BufferCollectionWaitForAllBuffersAllocatedResponse(buffer_collection_info=info)
    waiting = Running(collection.wait_for_all_buffers_allocated)
    request = peer.receive()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        peer.answer(request, method, answer)
        with pytest.raises(OSError, match="no descriptors are left") as caught:
            waiting.outcome()
        assert caught.value.errno == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    peer.echo(1)
    collection.sync()
    assert all(witness.gone() for witness in witnesses)
