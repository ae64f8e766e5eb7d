"""The daemon under trio: it waits, accepts and stops, and no failure stops it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from sysmem import testing
from sysmem_protocol import codec, sysmem2
from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.handles import Handle, channel_pair
from sysmem_protocol.inspector import Inspector
from sysmem_protocol.library import Interface, Method, Table
from sysmem_protocol.message import Message, parse
from sysmem_protocol.sysmem2 import (
    Allocator,
    BufferCollection,
    Node,
)
from sysmemd import daemon, process
from sysmemd.channels import Connection
from sysmemd.clock import TrioClock
from sysmemd.config import (
    AccessSection,
    Config,
    InspectSection,
    Limits,
    QuotaSection,
    UserQuotaSection,
)
from sysmemd.fair_queue import Queue
from sysmemd.pause import give_way
from sysmemd.quota import Kind
from sysmemd.reactor import FRUITLESS_SECONDS, TrioReactor, readable
from sysmemd.sockets import Listeners, Permissions
from sysmemd.tree.choose import Question
from sysmemd.turns import Turns

from .recording import RecordingLog

pytestmark = pytest.mark.usefixtures("descriptor_limit")


class Client:
    """The client end of a channel, with trio."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def send(self, method: Method, request: Table | None = None, txid: int = 0) -> None:
        body, handles = (b"", []) if request is None else codec.encode(request)
        message = Message(txid, method.ordinal, body, handles)
        for data, attached in message.datagrams():
            assert self.channel.send(data, attached)
        message.close()

    async def receive(self) -> Message:
        """Return the next message. Raises `PeerClosedError`."""
        while (received := self.channel.receive()) is None:
            await trio.lowlevel.wait_readable(self.channel.fileno())
        return parse(*received)

    async def sync(self, txid: int = 1) -> None:
        self.send(Node.sync, txid=txid)
        assert (await self.receive()).txid == txid

    async def closed(self) -> None:
        """Wait until the server end is closed."""
        with contextlib.suppress(PeerClosedError):
            while True:
                (await self.receive()).close()


class Daemon:
    """A daemon in this process."""

    def __init__(self, directory: Path, log: RecordingLog) -> None:
        self.directory = directory
        self.log = log
        self.clients: list[Client] = []

    def connect(self) -> Client:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(str(self.directory / Allocator.service_name()))
        return self._client(Channel(sock.detach()))

    def collection(self, allocator: Client) -> Client:
        near, far = channel_pair()
        allocator.send(
            Allocator.allocate_non_shared_collection,
            sysmem2.AllocatorAllocateNonSharedCollectionRequest(
                collection_request=Handle(far.detach())
            ),
        )
        return self._client(Channel(near.detach()))

    def _client(self, channel: Channel) -> Client:
        self.clients.append(Client(channel))
        return self.clients[-1]


@asynccontextmanager
async def running(
    directory: Path, log: RecordingLog, config: Config | None = None
) -> AsyncIterator[Daemon]:
    """Run a daemon within the block. At the end it is cancelled if it has not stopped by then."""
    made = Daemon(directory, log)
    ready = trio.Event()
    config = config or Config(runtime_dir=str(directory))
    try:
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await process.run(config, log, on_ready=ready.set)

            nursery.start_soon(run)
            await ready.wait()
            yield made
            nursery.cancel_scope.cancel()
    finally:
        for client in made.clients:
            client.channel.close()


@pytest.fixture
def log() -> RecordingLog:
    return RecordingLog()


# --- serving ----------------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_it_serves_a_socket_pair_and_changes_nothing_of_the_process(
    log: RecordingLog,
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 512), limits[1]))
    before = (sys.getswitchinterval(), signal.getsignal(signal.SIGTERM))
    async with daemon.serving(Config(), log, TrioClock(log)) as server:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server.connect(Allocator, far)
        client = Client(Channel(near.detach()))
        with contextlib.closing(client.channel):
            made = Daemon(Path(), log)
            collection = made.collection(client)
            with contextlib.closing(collection.channel):
                await collection.sync()
            assert (sys.getswitchinterval(), signal.getsignal(signal.SIGTERM)) == before
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(limits[0], 512)


@pytest.mark.trio
async def test_other_limits_are_those_of_the_service_and_of_its_engine(log: RecordingLog) -> None:
    limits = Limits(max_unanswered_calls=1, max_buffer_bytes=7)
    async with daemon.serving(Config(), log, TrioClock(log)) as server:
        server.reconfigure(Config(limits=limits))
        assert server.service.limits == limits
        assert server.service.platform.max_buffer_bytes == 7


@pytest.mark.trio
async def test_every_user_has_a_quota_of_descriptors(log: RecordingLog) -> None:
    config = Config(quota=QuotaSection(user=[UserQuotaSection(user=7, nodes=1)]))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with daemon.serving(config, log, TrioClock(log)) as server:
        one, other = (server.service.users.limits_of(uid) for uid in (7, 8))
    assert (one[Kind.NODES], other[Kind.NODES]) == (1, QuotaSection().nodes)
    assert limit // 4 < (one[Kind.DESCRIPTORS] or 0) < limit // 2
    assert one[Kind.DESCRIPTORS] == other[Kind.DESCRIPTORS]


def test_the_inspectors_socket_has_permissions_of_its_own() -> None:
    config = Config(mode="0666", group="x", inspect=InspectSection(mode="0660", group="7"))
    permissions = daemon.socket_permissions(config)
    assert permissions.pop(Inspector) == Permissions(0o660, "7")
    assert permissions == dict.fromkeys(daemon.SERVICES, Permissions(0o666, "x"))
    assert Inspector not in daemon.socket_permissions(Config(inspect=InspectSection(enabled=False)))


@pytest.mark.trio
async def test_who_may_not_connect_or_has_too_many_connections_sees_them_closed(
    log: RecordingLog,
) -> None:
    """The Inspector's socket has permissions of its own."""

    def is_closed(interface: type[Interface]) -> bool:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        clients.append(near)
        server.connect(interface, far)
        try:
            return near.recv(1, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    clients: list[socket.socket] = []
    async with daemon.serving(Config(), log, TrioClock(log)) as server:
        server.reconfigure(Config(quota=QuotaSection(connections=1)))
        assert [is_closed(Allocator), is_closed(Allocator)] == [False, True]
        server.reconfigure(Config(access=AccessSection(allow_users=[])))
        assert [is_closed(Allocator), is_closed(Inspector)] == [True, False]
    for client in clients:
        client.close()


@pytest.mark.trio
async def test_connections_and_reports_of_the_kernel_have_turns(
    tmp_path: Path, log: RecordingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's turn ends when one comes."""
    enter, entered = Queue.enter, list[int]()

    def note(queue: Queue, fd: int) -> None:
        entered.append(fd)
        enter(queue, fd)

    monkeypatch.setattr(Queue, "enter", note)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        async with daemon.serving(Config(), log, TrioClock(log)) as server:
            stop = server.listen(Allocator, listener)
            for listens in (True, False):
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                    client.connect(listener.getsockname())
                    assert server._queue.others_wait(-1, 0) is listens
                    await wait_all_tasks_blocked()
                    assert not server._queue.others_wait(-1, 0)
                stop()
                await wait_all_tasks_blocked()
            service = server.service
            assert {service.memory.fileno(), service.in_flight.fileno()} < set(entered)


@pytest.mark.trio
async def test_a_user_who_is_gone_when_settings_are_applied_changes_nothing(
    log: RecordingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(limits=Limits(max_buffer_bytes=7), access=AccessSection(allow_users=["root"]))
    async with daemon.serving(Config(), log, TrioClock(log)) as server:
        monkeypatch.setattr("sysmemd.config.user_id", Mock(side_effect=ValueError("no user")))
        with pytest.raises(ValueError, match="no user"):
            server.reconfigure(config)
        assert server.service.limits == Limits()


@pytest.mark.trio
async def test_what_the_block_raises_comes_out_as_it_is(log: RecordingLog) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with daemon.serving(Config(), log, TrioClock(log)):
            raise KeyError("mine")


@pytest.mark.trio
async def test_it_serves_from_the_moment_it_is_ready(tmp_path: Path, log: RecordingLog) -> None:
    async with running(tmp_path, log) as made:
        collection = made.collection(made.connect())
        await collection.sync()
        collection.send(Node.release)
        await collection.closed()
    assert os.listdir(tmp_path) == []
    assert log.events("error") == []
    serving = next(fields for _, event, fields in log.entries if event == "serving")
    assert serving == {"runtime_dir": str(tmp_path), "pid": os.getpid()}


@pytest.mark.trio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_in_order(
    tmp_path: Path, log: RecordingLog, number: signal.Signals
) -> None:
    async with running(tmp_path, log) as made:
        allocator = made.connect()
        collection = made.collection(allocator)
        await collection.sync()
        os.kill(os.getpid(), number)
        await allocator.closed()
        await collection.closed()
    assert ("info", "stopping", {"signal": number.name}) in log.entries
    assert os.listdir(tmp_path) == []
    assert log.events("error") == []


@pytest.mark.trio
async def test_a_signal_that_comes_with_the_sockets_stops_it_in_order(
    tmp_path: Path, log: RecordingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return Listeners(*arguments, **options)

    monkeypatch.setattr(process, "Listeners", signalled)
    await process.run(Config(runtime_dir=str(tmp_path)), log)
    assert "stopping" in log.events("info")
    assert os.listdir(tmp_path) == []


@pytest.mark.trio
async def test_it_stops_with_a_thousand_connections(tmp_path: Path, log: RecordingLog) -> None:
    async with running(tmp_path, log) as made:
        allocators = [made.connect() for _ in range(500)]
        collections = [made.collection(allocator) for allocator in allocators]
        for collection in collections:
            await collection.sync()
        os.kill(os.getpid(), signal.SIGTERM)
        for client in made.clients:
            await client.closed()
    assert log.events("error", "warning") == [log.events("warning")[0]]  # that rights are advisory


@pytest.mark.trio
async def test_answers_that_nobody_reads_do_not_hold_it_up(
    tmp_path: Path, log: RecordingLog
) -> None:
    async with running(tmp_path, log) as made:
        lazy = made.collection(made.connect())
        for txid in range(1, 600):
            lazy.send(Node.sync, txid=txid)
            if txid % 100 == 0:
                await wait_all_tasks_blocked()
        await made.collection(made.connect()).sync()
        for txid in range(1, 600):  # now the client reads: nothing was lost
            assert (await lazy.receive()).txid == txid
        for txid in range(600, 1200):
            lazy.send(Node.sync, txid=txid)
            if txid % 100 == 0:
                await wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGTERM)
        await lazy.closed()


@pytest.mark.trio
async def test_it_serves_others_and_stops_in_the_midst_of_an_attempt(
    tmp_path: Path, log: RecordingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    unwound = trio.Event()

    def endless(question: Question) -> Exception:
        try:
            while True:
                give_way()
        finally:
            unwound.set()

    monkeypatch.setattr(Question, "answer", endless)
    async with running(tmp_path, log) as made:
        bystander = made.collection(made.connect())
        collection = made.collection(made.connect())
        collection.send(
            BufferCollection.set_constraints, sysmem2.BufferCollectionSetConstraintsRequest()
        )
        for _ in range(3):
            await bystander.sync()  # meanwhile
        os.kill(os.getpid(), signal.SIGTERM)
        await collection.closed()
        assert unwound.is_set()
    assert log.events("error") == []


@pytest.mark.trio
async def test_a_wait_is_answered_by_who_comes_later(tmp_path: Path, log: RecordingLog) -> None:
    """The response is sent in a turn of its own, and the event closes when its holders are gone."""
    async with running(tmp_path, log) as made:
        collection = made.collection(made.connect())
        near, far = (Handle(sock.detach()) for sock in socket.socketpair())
        collection.send(
            BufferCollection.attach_lifetime_tracking,
            sysmem2.BufferCollectionAttachLifetimeTrackingRequest(
                server_end=far, buffers_remaining=0
            ),
        )
        constraints = sysmem2.BufferCollectionConstraints(
            usage=sysmem2.BufferUsage(cpu=1),
            min_buffer_count=1,
            buffer_memory_constraints=sysmem2.BufferMemoryConstraints(min_size_bytes=1),
        )
        collection.send(
            BufferCollection.set_constraints,
            sysmem2.BufferCollectionSetConstraintsRequest(constraints=constraints),
        )
        collection.send(BufferCollection.wait_for_all_buffers_allocated, txid=2)
        answer = await collection.receive()
        assert answer.txid == 2
        collection.channel.close()
        for handle in answer.handles:
            handle.close()
        await trio.lowlevel.wait_readable(near.fileno())
        near.close()


@pytest.mark.trio
async def test_an_allocator_that_can_not_be_waited_for_is_closed_and_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the end the daemon has logged no internal error."""
    right, errors = Turns.serve, [OSError(errno.ENOMEM, "no memory")]

    def serve(turns: Turns, connection: Connection) -> None:
        if errors:
            raise errors.pop()
        right(turns, connection)

    monkeypatch.setattr(Turns, "serve", serve)
    async with testing.daemon() as d:
        async with d.connect() as refused:
            with pytest.raises(PeerClosedError):
                await refused.validate_buffer_collection_token(0)
        async with d.connect() as served:
            assert not await served.validate_buffer_collection_token(0)
            assert d.snapshot()["totals"]["connections"] == 1


# --- what fails -------------------------------------------------------------------------------------------------------


class Listener:
    """Accepts or fails as the test says. It is always readable."""

    def __init__(self, *outcomes: OSError | socket.socket) -> None:
        self._outcomes = list(outcomes)
        self._readable, self._far = socket.socketpair()
        self._far.send(b"x")
        self.accepting: list[float] = []

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def fileno(self) -> int:
        return self._readable.fileno()

    def accept(self) -> tuple[socket.socket, None]:
        self.accepting.append(trio.current_time())
        outcome = self._outcomes.pop(0)
        if not self._outcomes:
            self._readable.recv(1)  # no more
        if isinstance(outcome, OSError):
            raise outcome
        return outcome, None

    def close(self) -> None:
        self._readable.close()
        self._far.close()


async def accepting(
    nursery: trio.Nursery,
    log: RecordingLog,
    between: Callable[[TrioReactor], object],
    *outcomes: OSError | None,
) -> list[float]:
    """Return the times at which the accepting task saw each of these results. None is a connection."""
    served: list[Channel] = []
    near, far = channel_pair()

    class Service:
        """The part of a service that accepting needs."""

    def admit(accepted: socket.socket) -> None:
        served.append(Channel(accepted.detach()))

    service: Any = Service()
    service.log = log
    reactor = TrioReactor(nursery, Queue(), log)
    listener = Listener(*(far.dup() if outcome is None else outcome for outcome in outcomes))
    stands_in: Any = listener
    nursery.start_soon(daemon._accept, stands_in, admit, service, reactor)
    await wait_all_tasks_blocked()
    between(reactor)
    await trio.sleep(10)
    nursery.cancel_scope.cancel()
    for channel in served:
        channel.close()
    far.close()
    near.close()
    listener.close()
    return listener.accepting


@pytest.mark.trio
async def test_accepting_pauses_without_descriptors_and_says_so_once(
    nursery: trio.Nursery, autojump_clock: MockClock, log: RecordingLog
) -> None:
    full = OSError(errno.EMFILE, "Too many open files")
    times = await accepting(nursery, log, lambda _: None, full, full, full, None)
    assert [round(time - times[0]) for time in times] == [0, 1, 2, 3]
    assert [(level, event) for level, event, _ in log.entries] == [
        ("error", "new connections cannot be accepted now"),
        ("info", "new connections are accepted again"),
    ]


@pytest.mark.trio
async def test_a_peer_that_is_always_gone_is_not_asked_after_without_end(
    nursery: trio.Nursery, autojump_clock: MockClock, log: RecordingLog
) -> None:
    gone = OSError(errno.ECONNABORTED, "Software caused connection abort")
    connected = [gone] * 16 + [None]
    times = await accepting(nursery, log, lambda _: None, *connected, *[gone] * 20, None)
    assert [round(time - times[0]) for time in times] == [0] * 34 + [1, 2, 3, 4]
    assert "new connections cannot be accepted now" in log.events("error")


@pytest.mark.trio
@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOSPC])
async def test_what_can_not_be_waited_for_is_tried_after_a_while(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    async def fail(fd: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(trio.lowlevel, "wait_readable", fail)
    before = trio.current_time()
    await readable(0)
    assert 0 < trio.current_time() - before <= 1


@pytest.mark.trio
async def test_accepting_goes_on_when_a_channel_closed(
    nursery: trio.Nursery, autojump_clock: MockClock, log: RecordingLog
) -> None:
    full = OSError(errno.ENFILE, "Too many open files in system")
    times = await accepting(
        nursery, log, lambda reactor: reactor.closed_one.set(), full, full, None
    )
    assert [round(time - times[0]) for time in times] == [0, 0, 1]


@pytest.mark.trio
async def test_whatever_accepting_fails_with_it_does_not_spin(
    nursery: trio.Nursery, autojump_clock: MockClock, log: RecordingLog
) -> None:
    times = await accepting(
        nursery, log, lambda _: None, OSError(errno.EINVAL, "Invalid argument"), None
    )
    assert times[1] - times[0] == 1


@pytest.mark.trio
async def test_a_connection_that_is_gone_is_nothing_to_wait_for(
    nursery: trio.Nursery, autojump_clock: MockClock, log: RecordingLog
) -> None:
    gone = OSError(errno.EAGAIN, "Resource temporarily unavailable")
    times = await accepting(nursery, log, lambda _: None, gone, None)
    assert times[1] == times[0]
    assert log.entries == []


@pytest.mark.trio
async def test_connections_wait_while_the_process_has_no_descriptors(
    tmp_path: Path, log: RecordingLog
) -> None:
    async with running(tmp_path, log) as made:
        first = made.connect()
        await made.collection(first).sync()
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        second = made.connect()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        await wait_all_tasks_blocked(0.01)
        assert log.events("error") == ["new connections cannot be accepted now"]
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        first.channel.close()  # wakes it
        await made.collection(second).sync()
        assert "new connections are accepted again" in log.events("info")


@pytest.mark.parametrize(
    ("follow", "call", "event", "error"),
    [
        (daemon._follow_memory, "process_events", "events about buffers", KeyError("oh")),
        (daemon._follow_in_flight, "take", "events about descriptors in flight", KeyError("oh")),
        (daemon._follow_threads, "take", "results of worker threads", OSError("oh")),
    ],
)
@pytest.mark.trio
async def test_news_that_can_not_be_processed_do_not_stop_it_nor_spin(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    log: RecordingLog,
    follow: Callable[..., Any],
    call: str,
    event: str,
    error: Exception,
) -> None:
    readable, far = socket.socketpair()
    far.send(b"x")
    times: list[float] = []

    def process() -> None:
        times.append(trio.current_time())
        if len(times) < 3:
            raise error
        readable.recv(1)

    news = SimpleNamespace(is_fruitless=False, fileno=readable.fileno, **{call: process})
    nursery.start_soon(follow, news, log)
    await trio.sleep(10)
    assert [round(time - times[0]) for time in times] == [0, 1, 2]
    assert [entry[0] for entry in log.entries] == ["error"] * 2
    for _, said, fields in log.entries:
        assert said.startswith(f"{event} c")
        assert "oh" in fields["reason"]
        assert fields.get("exc_info", False) == isinstance(error, KeyError)
    nursery.cancel_scope.cancel()
    readable.close()
    far.close()


@pytest.mark.trio
async def test_reports_about_buffers_that_reveal_nothing_are_read_with_pauses(
    nursery: trio.Nursery, autojump_clock: MockClock, log: RecordingLog
) -> None:
    near, far = socket.socketpair()
    times: list[float] = []

    def process() -> None:
        times.append(trio.current_time())
        if len(times) == 3:
            near.recv(1)

    with near, far:
        far.send(b"x")
        memory: Any = SimpleNamespace(is_fruitless=True, fileno=near.fileno, process_events=process)
        nursery.start_soon(daemon._follow_memory, memory, log)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [time - times[0] for time in times] == pytest.approx(
        [0, FRUITLESS_SECONDS, 2 * FRUITLESS_SECONDS]
    )
