"""Participants in processes of their own: shared memory, SIGKILL, passed tokens, and races."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ..companion import Companion
from .process import Daemon
from .protocol import SAME_RIGHTS, constraints
from .raw import PATIENCE, Collection, PeerClosed, Wire, until


class Process(Companion):
    """Another participating process. `call` sends it a command and waits for the answer."""

    def __init__(self, runtime_dir: Path) -> None:
        super().__init__(
            *(sys.executable, "-m", "tests.wire.participant", os.fspath(runtime_dir)),
            patience=PATIENCE,
            directory=Path(__file__).parents[2],
        )

    def start(self, do: str, *descriptors: Any, **arguments: Any) -> None:
        data = json.dumps({"do": do} | arguments).encode()
        socket.send_fds(self.link, [data], [d.fileno() for d in descriptors])
        for descriptor in descriptors:
            descriptor.close()

    def finish(self) -> Any:
        answer = self.link.recv(65536)
        assert answer, "the participant died"
        return json.loads(answer)

    def call(self, do: str, *descriptors: Any, **arguments: Any) -> Any:
        self.start(do, *descriptors, **arguments)
        return self.finish()


@pytest.fixture
def spawn(daemon: Daemon, unchanged: None) -> Iterator[Callable[[], Process]]:
    with ExitStack() as stack:

        def spawn() -> Process:
            return stack.enter_context(Process(daemon.runtime_dir))

        yield spawn


Spawn = Callable[[], Process]


def shared(wire: Wire, spawn: Spawn, count: int) -> tuple[Collection, list[Process]]:
    """Return a collection with a view here and one in each of `count` processes, which bind and wait at once."""
    allocator, root = wire.root()
    tokens = root.duplicate_sync([SAME_RIGHTS] * count)
    processes = [spawn() for _ in range(count)]
    for process, token in zip(processes, tokens, strict=True):
        process.call("take", token)
    collection = allocator.bind(root)
    collection.set_constraints(constraints())
    for process in processes:
        process.start("bind")
    for process in processes:
        process.finish()
        process.start("wait")
    assert [process.finish() for process in processes] == [count + 1] * count
    return collection, processes


def test_two_participants_in_different_processes_see_each_others_writes(
    wire: Wire, spawn: Spawn
) -> None:
    collection, (one, other) = shared(wire, spawn, 2)
    mapping = collection.wait().vmo(2).map()
    one.call("write", index=2, text="from one")
    assert other.call("read", index=2, length=8) == "from one"
    assert mapping[:8] == b"from one"
    mapping[:8] = b"and back"
    assert one.call("read", index=2, length=8) == "and back"


def test_sigkill_shows_the_others_peer_closed_at_once(wire: Wire, spawn: Spawn) -> None:
    collection, (one, other) = shared(wire, spawn, 2)
    other.start("closed")
    one.kill()
    collection.assert_closes()
    assert other.finish() is True


def test_sigkill_before_allocation_shows_peer_closed_too(wire: Wire, spawn: Spawn) -> None:
    allocator, root = wire.root()
    (token,) = root.duplicate_sync([SAME_RIGHTS])
    process = spawn()
    process.call("take", token)
    collection = allocator.bind(root)
    collection.set_constraints(constraints())
    collection.request_wait()
    collection.sync()
    process.kill()
    collection.assert_closes()


def test_a_process_killed_by_sigkill_releases_its_mappings(wire: Wire, spawn: Spawn) -> None:
    collection, (one,) = shared(wire, spawn, 1)
    gone = collection.track_lifetime(0)
    collection.sync()
    one.call("release")
    collection.release_and_close()
    wire.connect().sync()
    assert not gone.is_closed()
    assert one.call("read", index=0, length=1) == "\0"
    one.kill()
    gone.wait_closed()


def test_memory_lives_on_with_a_mapping_in_another_process(wire: Wire, spawn: Spawn) -> None:
    collection, (one, other) = shared(wire, spawn, 2)
    gone = collection.track_lifetime(0)
    collection.sync()
    one.call("write", index=0, text="kept")
    one.kill()
    collection.assert_closes()
    assert other.call("read", index=0, length=4) == "kept"
    assert not gone.is_closed()
    other.call("unmap")
    gone.wait_closed()


def test_handles_passed_on_to_a_third_process_count(wire: Wire, spawn: Spawn) -> None:
    """The only holder of a strong handle is a process that never connected to the daemon."""
    _, strong, weak = wire.strong_and_weak(camping=1)
    info, theirs = strong.wait(), weak.wait()
    holder = spawn()
    holder.call("hold", info.vmo())
    strong.release_and_close()
    weak.sync()
    assert not theirs.close_weak_asap().is_closed()
    holder.kill()
    theirs.close_weak_asap().wait_closed()
    weak.assert_closes()


def test_128_weak_buffers_hear_that_the_process_with_the_strong_handles_was_killed(
    wire: Wire, spawn: Spawn
) -> None:
    allocator, root = wire.root()
    child = root.duplicate_token()
    child.set_weak()
    (token,) = root.duplicate_sync([SAME_RIGHTS])
    child.sync()
    holder = spawn()
    holder.call("take", token)
    holder.call("bind", camping=128)
    weak = allocator.bind(child)
    weak.set_constraints(constraints(camping=0))
    gone = weak.track_lifetime(0)
    root.release_and_close()
    assert holder.call("wait") == 128
    info = weak.wait()
    first, *others = (info.close_weak_asap(index) for index in range(128))
    holder.call("release")
    weak.sync()
    assert not first.is_closed()
    holder.call("unmap", index=0)
    first.wait_closed()  # no node is strong any more: only the mappings keep the buffers
    weak.sync()
    assert not any(event.is_closed() for event in others)
    holder.kill()
    for event in others:
        event.wait_closed()
    weak.assert_closes()
    assert not gone.is_closed()
    info.close()
    gone.wait_closed()


def test_lifetimes_of_128_buffers_end_as_the_processes_that_hold_them_are_killed(
    wire: Wire, spawn: Spawn
) -> None:
    allocator = wire.connect()
    collection = allocator.non_shared()
    collection.set_constraints(constraints(camping=128))
    gone = {n: collection.track_lifetime(n) for n in (127, 65, 64, 1, 0)}
    released = collection.track_node()
    info = collection.wait()
    some, half = spawn(), spawn()
    some.call("hold", *(info.vmo(index) for index in range(2, 64)))
    half.call("hold", *(info.vmo(index) for index in range(64, 127)))
    collection.release_and_close()
    released.wait_closed()
    allocator.sync()
    assert not gone[127].is_closed()
    info.vmo(0).close()
    gone[127].wait_closed()
    some.kill()
    gone[65].wait_closed()
    assert not gone[64].is_closed()
    info.vmo(1).close()
    gone[64].wait_closed()
    half.kill()
    gone[1].wait_closed()
    assert not gone[0].is_closed()
    info.vmo(127).close()
    gone[0].wait_closed()


def test_a_token_travels_through_processes(wire: Wire, spawn: Spawn) -> None:
    allocator, root = wire.root()
    (token,) = root.duplicate_sync([SAME_RIGHTS])
    first, second = spawn(), spawn()
    kept = token.duplicate()
    first.call("take", token)
    assert first.call("validate") == [True]
    second.call("take", kept)
    first.kill()  # the second still holds a duplicate of the client end
    root.sync()
    assert second.call("validate") == [True]
    second.call("bind", camping=3)
    collection = allocator.bind(root)
    assert len(collection.allocate(camping=0).buffers) == 3
    assert second.call("wait") == 3


def test_a_killed_attached_participant_is_replaced(wire: Wire, spawn: Spawn) -> None:
    allocator = wire.connect()
    main = allocator.non_shared()
    main.allocate(camping=1, more={5: 2})
    for _ in range(3):
        token = main.attach()
        gone = token.track_node()
        token.sync()
        process = spawn()
        process.call("take", token)
        process.call("bind")
        assert process.call("wait") == 2
        process.kill()
        gone.wait_closed()
        main.sync()


def test_a_killed_dispensable_participant_after_allocation(wire: Wire, spawn: Spawn) -> None:
    allocator, root = wire.root()
    child = root.duplicate_token()
    child.set_dispensable()
    child.sync()
    process = spawn()
    process.call("take", child)
    process.call("bind")
    collection = allocator.bind(root)
    collection.set_constraints(constraints())
    assert process.call("wait") == 2
    process.kill()
    collection.sync()
    assert collection.check() is None


def test_a_client_stopped_in_the_middle_delays_nobody(wire: Wire, spawn: Spawn) -> None:
    collection, (one, other) = shared(wire, spawn, 2)
    one.process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(20):
            collection.sync()
        assert other.call("read", index=0, length=1) == "\0"
        wire.allocated()
    finally:
        one.process.send_signal(signal.SIGCONT)


def test_processes_race_to_bind_and_all_get_the_same_buffers(wire: Wire, spawn: Spawn) -> None:
    collection, processes = shared(wire, spawn, 6)
    for index, process in enumerate(processes):
        process.call("write", index=index, text=f"mine {index}")
    info = collection.wait()
    for index in range(6):
        assert info.vmo(index).map()[:6] == b"mine %d" % index


def test_processes_killed_at_any_moment_of_a_negotiation(wire: Wire, spawn: Spawn) -> None:
    """Whichever process is killed, at any time: the others get buffers or peer-closed, and never hang."""
    chance = random.Random(7)
    for _ in range(4):
        allocator, root = wire.root()
        tokens = root.duplicate_sync([SAME_RIGHTS] * 3)
        processes = [spawn() for _ in range(3)]
        for process, token in zip(processes, tokens, strict=True):
            process.call("take", token)
        collection = allocator.bind(root)
        collection.set_constraints(constraints())
        wait = collection.request_wait()
        for process in processes:
            process.start("bind")
        chance.choice(processes).kill()
        try:
            collection.wait_answer(wait)
        except PeerClosed:
            continue
        collection.assert_closes()


def test_many_participants_race_in_many_collections(wire: Wire, daemon: Daemon) -> None:
    """Threads with their own connections and seeds create trees and end them at any point."""
    failures: list[BaseException] = []

    def take_part(seed: int) -> None:
        try:
            with Wire(daemon.runtime_dir) as own:
                for round_number in range(12):
                    negotiate(own, random.Random(seed * 1000 + round_number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=take_part, args=[seed]) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def negotiate(wire: Wire, chance: random.Random) -> None:
    """Hold one random negotiation. Every wait is answered, or its channel closes."""
    allocator, root = wire.root()
    tokens = [root]
    groups = []
    for _ in range(chance.randrange(6)):
        parent = chance.choice(tokens)
        kind = chance.randrange(4)
        if kind == 0:
            group = parent.group()
            groups.append(group)
            tokens += [group.child() for _ in range(chance.randrange(1, 4))]
        elif kind == 1:
            tokens.append(parent.duplicate_token())
            tokens[-1].set_dispensable()
        else:
            tokens.append(parent.duplicate_token())
    for token in tokens:
        token.sync()
    for group in groups:
        group.all_children_present()
    waits: list[tuple[Collection, int]] = []
    chance.shuffle(tokens)
    ending = chance.choice(["all", "all", "all", "kill one", "garbage"])
    for index, token in enumerate(tokens):
        try:
            if chance.random() < 0.2 and token is not root:
                token.release_and_close()
                continue
            if ending == "kill one" and index == len(tokens) - 1:
                token.close()
                continue
            collection = allocator.bind(token)
            if ending == "garbage" and index == len(tokens) - 1:
                collection.send_bytes(b"garbage")
                continue
            collection.set_constraints(constraints(size=chance.choice([4096, 8192])))
            waits.append((collection, collection.request_wait()))
        except PeerClosed:
            continue
    for collection, wait in waits:
        try:
            body = collection.answer(wait).body
        except PeerClosed:
            continue
        assert set(body) in ({1}, {2})
        if 1 in body:
            for buffer in body[1][1][2]:
                buffer[1].close()
    for node in (*groups, *(collection for collection, _ in waits)):
        node.close()
    allocator.sync()
    allocator.close()


def test_clients_that_connect_and_vanish(wire: Wire, daemon: Daemon) -> None:
    for number in range(100):
        with Wire(daemon.runtime_dir) as own:
            allocator = own.connect()
            root = allocator.shared()
            for _ in range(number % 7):
                root = root.duplicate_token()
            if number % 2:
                allocator.bind(root)
    wire.connect().sync()


def test_a_forked_child_that_holds_a_client_end_keeps_the_node_alive(wire: Wire) -> None:
    """Peer-closed means that every descriptor of the end is closed, in every process."""
    allocator, root, child = wire.root_and_child()
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=[child.fileno()],
    )
    try:
        koid = child.koid()
        child.close()
        root.sync()
        assert allocator.validate(koid)
        process.communicate()
        root.assert_closes()
    finally:
        process.kill()
        process.communicate()


def test_thousands_of_round_trips_leave_nothing_behind(wire: Wire, daemon: Daemon) -> None:
    """This is not a benchmark: leftovers of each round trip would add up."""
    allocator = wire.connect()
    token = allocator.shared()
    for _ in range(2000):
        token.sync()
    for _ in range(50):
        collection = allocator.non_shared()
        collection.allocate(camping=16).close()
        gone = collection.track_lifetime(0)
        collection.release_and_close()
        gone.wait_closed()
        gone.close()
    token.close()
    allocator.close()
    for _ in until():
        daemon.observer.sync()
        if len(daemon.descriptors()) <= len(daemon.baseline) + 20:
            break
