"""Tokens that are passed between all kinds of processes, threads and tasks, and the effects when one of them ends."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import forkserver, resource_tracker

import anyio
import pytest

import sysmem
from sysmem import Error, HandleClosedError, PeerClosedError, SysmemError, blocking
from sysmem.testing import Sysmemd

from ..users import as_root
from .conftest import Run
from .passing_processes import METHODS, ROOT, Actor
from .scenario import ENOUGH, SHORTLY, begin_wait, buffers, eventually, pool

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

method = pytest.mark.parametrize("method", METHODS)
way = pytest.mark.parametrize("way", ["take", "receive"])
numbers = itertools.count()
ARGUMENTS = ("--log-level", "debug")


@pytest.fixture(autouse=True, scope="module")
def helpers() -> None:
    """Start the helper processes that multiprocessing keeps for all tests."""
    resource_tracker.ensure_running()
    forkserver.ensure_running()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment for processes that import the function that they run."""
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture
def name() -> str:
    """Return a name under which no token is on offer."""
    return f"camera {next(numbers)}"


@pytest.fixture
def root(client: blocking.Allocator) -> Iterator[blocking.BufferCollectionToken]:
    with client.allocate_shared_collection() as token:
        yield token


def on_offer(daemon: Sysmemd, name: str) -> None:
    """Wait until a token is on offer under a name."""
    eventually(lambda: any("is on offer" in line and f"'{name}'" in line for line in said(daemon)))


def awaited(daemon: Sysmemd, name: str) -> None:
    """Wait until a process waits for a token under a name."""
    eventually(lambda: any("is awaited" in line and f"'{name}'" in line for line in said(daemon)))


def said(daemon: Sysmemd) -> list[str]:
    return daemon.log.splitlines()


def give(
    client: blocking.Allocator,
    actor: Actor,
    name: str,
    token: blocking.BufferCollectionToken,
    way: str,
) -> None:
    """Pass a token on to a process that waits for it."""
    if way == "take":
        client.offer(name, token, timeout=ENOUGH)
    else:
        actor.go_on()
        token.send(actor.link, name.encode(), timeout=ENOUGH)
    assert token.closed


def agree(
    token: blocking.BufferCollectionToken, client: blocking.Allocator
) -> blocking.BufferCollection:
    collection = client.bind_shared_collection(token)
    collection.set_constraints(buffers())
    return collection


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver(
    client: blocking.Allocator,
    daemon: Sysmemd,
    root: blocking.BufferCollectionToken,
    name: str,
    method: str,
    way: str,
) -> Iterator[Actor]:
    """A process, started by the test's `method`, to which a child of `root` was passed in the test's `way`."""
    with Actor(method, way, daemon.runtime_dir, name) as actor:
        give(client, actor, name, root.duplicate(), way)
        actor.hear("passed")
        yield actor


@method
@way
def test_a_process_takes_part_with_the_token_that_it_was_given(
    client: blocking.Allocator, root: blocking.BufferCollectionToken, receiver: Actor
) -> None:
    receiver.go_on()
    with agree(root, client) as collection:
        with collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
            receiver.hear(str(info.buffer_collection_id))
            with info.buffers[0].map() as view:
                assert bytes(view[:5]) == b"hello"
        collection.sync()


@method
@pytest.mark.parametrize("way", ["offer", "send"])
def test_a_process_gives_a_token_to_this_one(
    client: blocking.Allocator, daemon: Sysmemd, name: str, method: str, way: str
) -> None:
    with Actor(method, way, daemon.runtime_dir, name) as actor:
        if way == "offer":
            token = client.take(name, timeout=ENOUGH)
        else:
            token, data = blocking.BufferCollectionToken.receive(actor.link, timeout=ENOUGH)
            assert data == name.encode()
        actor.hear("passed")
        actor.go_on()
        with (
            agree(token, client) as collection,
            collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info,
        ):
            actor.hear(str(info.buffer_collection_id))


@method
def test_a_process_that_is_killed_while_it_waits_takes_nothing_along(
    client: blocking.Allocator,
    daemon: Sysmemd,
    root: blocking.BufferCollectionToken,
    name: str,
    method: str,
) -> None:
    with Actor(method, "take", daemon.runtime_dir, name) as first:
        awaited(daemon, name)
        with Actor(method, "take", daemon.runtime_dir, name) as second:
            first.kill()
            give(client, second, name, root.duplicate(), "take")
            second.hear("passed")
            root.sync()


@method
@way
def test_a_process_that_is_killed_with_a_token_fails_the_others(
    client: blocking.Allocator, root: blocking.BufferCollectionToken, receiver: Actor
) -> None:
    """The process that passed the token on no longer has it, and neither has the daemon."""
    with agree(root, client) as collection:
        wait = begin_wait(collection)
        receiver.kill()
        with pytest.raises(PeerClosedError):
            wait.result(ENOUGH)


@method
def test_a_process_that_is_killed_before_it_receives_fails_the_others(
    client: blocking.Allocator,
    daemon: Sysmemd,
    root: blocking.BufferCollectionToken,
    name: str,
    method: str,
) -> None:
    with Actor(method, "pause", daemon.runtime_dir, name) as actor:
        root.duplicate().send(actor.link)
        root.sync()
        actor.kill()
        assert root.wait_closed(ENOUGH)


@method
def test_a_process_that_is_killed_while_it_offers_leaves_the_name_free(
    client: blocking.Allocator, daemon: Sysmemd, name: str, method: str
) -> None:
    with Actor(method, "offer", daemon.runtime_dir, name) as actor:
        on_offer(daemon, name)
        actor.kill()
        offer = pool.submit(client.offer, name, client.allocate_shared_collection(), timeout=ENOUGH)
        with client.take(name, timeout=ENOUGH) as taken:
            taken.sync()
        offer.result(ENOUGH)


@method
def test_a_process_that_is_killed_after_it_sent_fails_the_receiver(
    client: blocking.Allocator, daemon: Sysmemd, name: str, method: str
) -> None:
    with Actor(method, "send", daemon.runtime_dir, name) as actor:
        eventually(lambda: bool(actor.link.recv(1, socket.MSG_PEEK)))
        actor.kill()
        token, _ = blocking.BufferCollectionToken.receive(actor.link, timeout=ENOUGH)
        assert token.wait_closed(ENOUGH)
        token.close()


# --- threads ----------------------------------------------------------------------------------------------------------


def test_many_threads_offer_and_take_at_once(client: blocking.Allocator, name: str) -> None:
    count = 40
    with ThreadPoolExecutor(2 * count) as threads, ExitStack() as stack:
        given = [stack.enter_context(client.allocate_shared_collection()) for _ in range(count)]
        for token in given:
            token.sync()
        koids = {token.server_koid for token in given}
        takes = [threads.submit(client.take, name, timeout=ENOUGH) for _ in range(count // 2)]
        takes += [
            threads.submit(client.take, f"{name} {i}", timeout=ENOUGH) for i in range(count // 2)
        ]
        offers = [
            threads.submit(client.offer, f"{name} {i}", token, timeout=ENOUGH)
            for i, token in enumerate(given[: count // 2])
        ]
        for token in given[count // 2 :]:  # one offer at a time for a name
            client.offer(name, token, timeout=ENOUGH)
        taken = [stack.enter_context(take.result(ENOUGH)) for take in takes]
        for offer in offers:
            offer.result(ENOUGH)
        assert {token.server_koid for token in taken} == koids


@pytest.fixture
def own(daemon: Sysmemd) -> Iterator[blocking.Allocator]:
    """Yield a connection that is closed at the end."""
    with blocking.connect(daemon.runtime_dir) as allocator:
        yield allocator


def test_closing_the_allocator_ends_what_others_offer_and_take_with_it(
    client: blocking.Allocator, own: blocking.Allocator, daemon: Sysmemd, name: str
) -> None:
    token = client.allocate_shared_collection()
    take = pool.submit(own.take, f"{name} to come", timeout=ENOUGH)
    offer = pool.submit(own.offer, name, token, timeout=ENOUGH)
    on_offer(daemon, name)
    awaited(daemon, f"{name} to come")
    own.close()
    for call in (take, offer):
        with pytest.raises(HandleClosedError):
            call.result(ENOUGH)
    with token:
        token.sync()
        # Neither call waits any more.
        for free in (name, f"{name} to come"):
            with pytest.raises(TimeoutError):
                client.offer(free, token, timeout=0.01)


def test_ctrl_c_ends_a_take_and_an_offer_and_leaves_nothing(
    client: blocking.Allocator, daemon: Sysmemd, root: blocking.BufferCollectionToken, name: str
) -> None:
    def interrupt(begun: Callable[[Sysmemd, str], None]) -> None:
        begun(daemon, name)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupting = pool.submit(interrupt, awaited)
    with pytest.raises(KeyboardInterrupt):
        client.take(name)
    interrupting.result(ENOUGH)
    interrupting = pool.submit(interrupt, on_offer)
    with pytest.raises(KeyboardInterrupt):
        client.offer(name, root)
    interrupting.result(ENOUGH)
    offer = pool.submit(client.offer, name, root, timeout=ENOUGH)
    with client.take(name, timeout=ENOUGH) as taken:
        taken.sync()
    offer.result(ENOUGH)


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_tasks_offer_several_at_once(run: Run, name: str) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        root = await allocator.allocate_shared_collection()
        async with anyio.create_task_group() as group:
            for index in range(10):
                group.start_soon(allocator.offer, f"{name} {index}", await root.duplicate())
            for index in reversed(range(10)):
                async with await allocator.take(f"{name} {index}") as token:
                    await token.sync()
                    await token.release()
        await root.release()

    run(scenario)


def test_a_cancelled_take_takes_nothing(run: Run, name: str) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        for delay in (0, 0.01):
            with anyio.move_on_after(delay) as scope:
                await allocator.take(name)
            assert scope.cancelled_caught
        async with anyio.create_task_group() as group:
            group.start_soon(allocator.offer, name, await allocator.allocate_shared_collection())
            (await allocator.take(name)).close()

    run(scenario)


def test_a_cancelled_offer_leaves_the_token_and_the_name(run: Run, name: str) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        token = await allocator.allocate_shared_collection()
        for delay in (0, 0.01):
            with anyio.move_on_after(delay) as scope:
                await allocator.offer(name, token)
            assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            await allocator.offer(name, token, timeout=0.01)
        with pytest.raises(TimeoutError):
            await allocator.take(name, timeout=0.01)
        async with anyio.create_task_group() as group:
            group.start_soon(allocator.offer, name, token)
            (await allocator.take(name)).close()

    run(scenario)


def test_a_task_of_asyncio_that_is_cancelled_by_itself(daemon: Sysmemd, name: str) -> None:
    async def main() -> None:
        async with sysmem.connect(daemon.runtime_dir) as allocator:
            token = await allocator.allocate_shared_collection()
            offering = asyncio.create_task(allocator.offer(name, token))
            await asyncio.sleep(0.01)
            offering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await offering
            assert not token.closed
            offering = asyncio.create_task(allocator.offer(name, token))
            (await allocator.take(name)).close()
            await offering

    asyncio.run(main())


def test_closing_the_allocator_ends_the_tasks_that_wait_with_it(run: Run, name: str) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        async def taking() -> None:
            with pytest.raises(HandleClosedError):
                await allocator.take(name)

        async with anyio.create_task_group() as group:
            group.start_soon(taking)
            await anyio.wait_all_tasks_blocked()
            allocator.close()

    run(scenario)


# --- offers that are refused, and tokens that are lost ---------------------------------------------------------------


def test_a_name_is_on_offer_once(
    client: blocking.Allocator, daemon: Sysmemd, root: blocking.BufferCollectionToken, name: str
) -> None:
    offer = pool.submit(client.offer, name, root.duplicate(), timeout=ENOUGH)
    on_offer(daemon, name)
    text = f"HANDLE_ACCESS_DENIED: another token is on offer as {name!r} between the same users"
    with pytest.raises(SysmemError, match=text) as caught:
        client.offer(name, root, timeout=ENOUGH)
    assert caught.value.error == Error.HANDLE_ACCESS_DENIED
    root.sync()  # the token still belongs to this process
    client.take(name, timeout=ENOUGH).close()
    offer.result(ENOUGH)


def test_who_offers_learns_that_the_collection_has_failed(
    client: blocking.Allocator, daemon: Sysmemd, root: blocking.BufferCollectionToken, name: str
) -> None:
    with root.duplicate() as token:
        offer = pool.submit(client.offer, name, token, timeout=ENOUGH)
        on_offer(daemon, name)
        root.close()
        with pytest.raises(SysmemError, match="the token can't be turned in") as caught:
            offer.result(ENOUGH)
    assert caught.value.error == Error.NOT_FOUND


def test_a_token_that_was_turned_in_elsewhere_is_not_offered(
    client: blocking.Allocator, root: blocking.BufferCollectionToken, name: str
) -> None:
    copy = blocking.BufferCollectionToken.from_fd(os.dup(root.fileno()))
    with copy, client.bind_shared_collection(root) as collection:
        collection.sync()
        with pytest.raises(SysmemError) as caught:
            client.offer(name, copy, timeout=ENOUGH)
        assert caught.value.error == Error.NOT_FOUND


@pytest.mark.sysmemd(arguments=ARGUMENTS)
def test_what_is_offered_when_the_daemon_ends(
    sysmemd: Sysmemd, allocator: blocking.Allocator
) -> None:
    with allocator.allocate_shared_collection() as token:
        offer = pool.submit(allocator.offer, "camera", token, timeout=ENOUGH)
        take = pool.submit(allocator.take, "display", timeout=ENOUGH)
        on_offer(sysmemd, "camera")
        sysmemd.faults.stop()
        for call in (offer, take):
            with pytest.raises(PeerClosedError):
                call.result(ENOUGH)
        with pytest.raises(sysmem.DaemonUnavailableError, match=r"sysmem\.Rendezvous"):
            allocator.take("display")


def test_an_allocator_that_came_from_elsewhere_finds_the_meeting_place_too(
    daemon: Sysmemd, own: blocking.Allocator, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSMEM_RUNTIME_DIR", str(daemon.runtime_dir))
    with blocking.Allocator.from_fd(own.detach()) as allocator:
        offer = pool.submit(allocator.offer, name, allocator.allocate_shared_collection())
        allocator.take(name, timeout=ENOUGH).close()
        offer.result(ENOUGH)


def test_a_directory_that_was_named_relatively_stays_the_same(
    daemon: Sysmemd, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(daemon.runtime_dir.parent)
    with blocking.connect(daemon.runtime_dir.name) as allocator:
        monkeypatch.chdir("/")
        with pytest.raises(TimeoutError):
            allocator.take(name, timeout=0)


# --- users ------------------------------------------------------------------------------------------------------------

TAKER = f"""
import os, sys
sys.path.insert(0, {os.fspath(ROOT)!r})
from sysmem import blocking
import tests.scenarios.other_process
runtime_dir, name, uid, offers_to = sys.argv[1:]
os.setgroups([]), os.setgid(int(uid)), os.setuid(int(uid))
with blocking.connect(runtime_dir) as allocator:
    if offers_to:
        allocator.offer(name, allocator.allocate_shared_collection(), to=int(offers_to))
    else:
        allocator.take(name).close()
"""


@as_root
@pytest.mark.sysmemd(arguments=["--mode", "0666"])
def test_a_token_goes_to_the_user_whom_it_is_for(sysmemd: Sysmemd) -> None:
    runtime_dir = sysmemd.runtime_dir
    for each in (runtime_dir, runtime_dir.parent):
        each.chmod(0o755)

    def process(uid: int, name: str, offers_to: str = "") -> subprocess.Popen[bytes]:
        words = [os.fspath(runtime_dir), name, str(uid), offers_to]
        return subprocess.Popen([sys.executable, "-c", TAKER, *words])

    with blocking.connect(runtime_dir) as allocator, process(4001, "camera") as taker:
        with allocator.allocate_shared_collection() as token:
            with pytest.raises(TimeoutError):
                allocator.offer("camera", token, timeout=SHORTLY)  # for root
            with pytest.raises(TimeoutError):
                allocator.offer("camera", token, to=4002, timeout=SHORTLY)
            allocator.offer("camera", token, to=4001, timeout=ENOUGH)
        assert taker.wait(ENOUGH) == 0
        with process(4001, "camera", "0") as offering, allocator.take("camera", timeout=ENOUGH):
            assert offering.wait(ENOUGH) == 0
