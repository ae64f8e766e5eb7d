"""Participants that are created from data: the effects of each behaviour on others, and what remains."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import anyio
import pytest
import trio

import sysmem
from sysmem import blocking, testing
from sysmem.pytest_plugin import StartPeer
from sysmem.testing import PeerFailed, Sysmemd
from sysmem.testing._peers import start_peer
from sysmem.testing._watch import state
from sysmem_protocol.processes import find_holders

CAMERA = sysmem.constraints(cpu="write often, read often", size_bytes=4096, hold=1)
ENCODER = sysmem.constraints(cpu="read, write", size_bytes=4096, hold=1)


class Pair:
    """A collection in which the test itself has one place, and a token for another participant."""

    def __init__(self, allocator: blocking.Allocator) -> None:
        token = allocator.allocate_shared_collection()
        [self.token] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        self.collection = allocator.bind_shared_collection(token)

    def agree(self) -> sysmem.BufferCollectionInfo:
        self.collection.set_constraints(CAMERA)
        return self.collection.wait_for_all_buffers_allocated(timeout=20)


@pytest.fixture
def pair(allocator: blocking.Allocator, peer: StartPeer) -> Iterator[Pair]:  # it is closed first
    made = Pair(allocator)
    yield made
    made.collection.close()
    made.token.close()


@pytest.fixture
def peer(peer: StartPeer) -> Iterator[StartPeer]:
    """The plugin's. When the test closes the socket, each participant must end by itself, if nobody else keeps it."""
    started: list[testing.Peer] = []

    def start(*arguments: Any, **more: Any) -> testing.Peer:
        started.append(peer(*arguments, **more))
        return started[-1]

    yield start
    for each in started:
        each._control.shutdown(socket.SHUT_WR)
        for _ in range(100):
            each.resume()  # one that hangs may stop itself only now
            with contextlib.suppress(subprocess.TimeoutExpired):
                each._process.wait(0.2)
                break
        each._process.wait(0)


def test_a_peer_takes_part_and_stays(pair: Pair, peer: StartPeer) -> None:
    encoder = peer("encoder", ENCODER, token=pair.token, behaviour=testing.writes(b"abc"))
    with pair.agree() as info:
        encoder.wait("mapped")
        assert encoder.steps == ("turned_in", "constrained", "waiting", "allocated", "mapped")
        assert encoder.error is None
        with info.buffers[0].map() as ours, encoder.buffers[0].map() as theirs:
            assert bytes(ours[:6]) == b"abcabc"
            assert theirs[:6] == ours[:6]
            assert theirs.readonly
    encoder.release()
    encoder.wait("released")
    pair.collection.sync()  # nobody failed


def test_four_peers_cost_little(
    allocator: blocking.Allocator, sysmemd_session: Sysmemd, peer: StartPeer
) -> None:
    token = allocator.allocate_shared_collection()
    tokens = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 4)
    token.release()
    peers = [peer(f"peer {n}", CAMERA, token=each) for n, each in enumerate(tokens)]
    for each in peers:
        each.wait("mapped")
    assert len({each.pid for each in peers}) == 4
    assert all(len(each.buffers) == 4 for each in peers)


@pytest.mark.parametrize("step", testing.STEPS)
def test_it_dies_at_any_step(pair: Pair, peer: StartPeer, step: str) -> None:
    encoder = peer("encoder", ENCODER, token=pair.token, behaviour=testing.dies(at=step))
    if step in ("allocated", "mapped", "released"):
        pair.collection.set_constraints(CAMERA)
    encoder.wait(step)
    if step == "released":
        with pytest.raises(PeerFailed):
            encoder.wait("failed")
        pair.collection.sync()
    else:
        assert pair.collection.wait_closed(20)
    with pytest.raises(PeerFailed, match="its process ended by SIGKILL"):
        encoder.wait("failed")


def test_it_closes_without_release(pair: Pair, peer: StartPeer) -> None:
    encoder = peer("encoder", ENCODER, token=pair.token, behaviour="closes", at="mapped")
    with pair.agree() as info:
        assert pair.collection.wait_closed(20)
        assert not has_buffers(encoder, info)
    os.kill(encoder.pid, 0)  # it lives on


def has_buffers(peer: testing.Peer, info: sysmem.BufferCollectionInfo) -> bool:
    """Return whether a participant has a descriptor or a mapping of a buffer."""
    [vmo] = [buffer.vmo for buffer in info.buffers[:1]]
    assert vmo is not None
    status = os.fstat(vmo.fileno())
    holdings = find_holders({status.st_ino}, status.st_dev).holdings[status.st_ino]
    return peer.pid in [each.process.pid for each in holdings]


def test_it_releases(pair: Pair, peer: StartPeer) -> None:
    encoder = peer("encoder", ENCODER, token=pair.token)
    with pair.agree() as info:
        encoder.wait("mapped")
        assert has_buffers(encoder, info)
        encoder.release()
        encoder.wait("released")
        assert not has_buffers(encoder, info)
    pair.collection.sync()


def test_it_hangs_until_it_is_resumed(pair: Pair, peer: StartPeer) -> None:
    encoder = peer("encoder", ENCODER, token=pair.token, behaviour="hangs", at="turned_in")
    encoder.wait("turned_in")
    pair.collection.set_constraints(CAMERA)
    with pytest.raises(TimeoutError):
        pair.collection.wait_for_all_buffers_allocated(timeout=0.05)
    with pytest.raises(PeerFailed, match=r"'mapped' in 0 s: it was last at 'turned_in'$"):
        encoder.wait("mapped", timeout=0)
    encoder.resume()
    pair.collection.wait_for_all_buffers_allocated(timeout=20).close()
    encoder.wait("mapped")
    encoder.stop()
    while state(Path(f"/proc/{encoder.pid}")) != "T":
        time.sleep(0.001)
    assert encoder.buffers[0].vmo is not None


def test_it_never_constrains(pair: Pair, peer: StartPeer) -> None:
    encoder = peer("encoder", ENCODER, token=pair.token, behaviour=testing.never_constrains())
    encoder.wait("turned_in")
    pair.collection.set_constraints(CAMERA)
    with pytest.raises(sysmem.SysmemError) as pending:
        pair.collection.check_all_buffers_allocated()
    assert pending.value.error is sysmem.Error.PENDING


def test_it_is_late(pair: Pair, peer: StartPeer) -> None:
    began = time.monotonic()
    peer("encoder", ENCODER, token=pair.token, behaviour=testing.late(0.05))
    pair.agree().close()
    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize("constraints", [ENCODER, sysmem.constraints(cpu="read"), None])
def test_it_conflicts(
    pair: Pair,
    peer: StartPeer,
    sysmemd_session: Sysmemd,
    constraints: sysmem.BufferCollectionConstraints | None,
) -> None:
    encoder = peer("contrary", constraints, token=pair.token, behaviour=testing.conflicts())
    with pytest.raises((sysmem.SysmemError, sysmem.PeerClosedError)):
        pair.agree()
    encoder.wait("failed")
    assert isinstance(encoder.error, (sysmem.SysmemError, sysmem.PeerClosedError))
    with pytest.raises(PeerFailed, match="it failed with"):
        encoder.wait("mapped")
    assert "sysmem.testing/nowhere" in sysmemd_session.last_report()


def test_its_error_is_the_daemons(pair: Pair, peer: StartPeer) -> None:
    encoder = peer("encoder", ENCODER, token=pair.token)
    encoder.wait("waiting")
    pair.collection.set_constraints(sysmem.constraints(cpu="read", heap="none", size_bytes=1))
    encoder.wait("failed")
    error = encoder.error
    assert isinstance(error, sysmem.SysmemError)
    assert error.error is sysmem.Error.CONSTRAINTS_INTERSECTION_EMPTY
    assert "none" in (error.reason or "")
    assert "smallest conflicting set" in (error.report or "")


def test_one_that_is_killed_before_it_reads_a_command_has_reached_its_steps(
    pair: Pair, peer: StartPeer
) -> None:
    encoder = peer("encoder", ENCODER, token=pair.token, behaviour="hangs", at="turned_in")
    encoder.wait("turned_in")
    encoder.release()
    encoder.kill()
    assert encoder.steps == ("turned_in",)
    with pytest.raises(PeerFailed, match="its process ended by SIGKILL"):
        encoder.wait("mapped")


def test_one_that_cannot_be_started_leaves_nothing(
    pair: Pair, sysmemd_session: Sysmemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    zygote = Mock(spec=testing.Zygote, start=Mock(side_effect=OSError("no process")))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="no process"):
        start_peer(zygote, sysmemd_session, "encoder", ENCODER, pair.token, None)
    assert len(os.listdir("/proc/self/fd")) == len(before) - 1  # the token is closed
    assert pair.collection.wait_closed(20)


@pytest.mark.parametrize("behaviour", ["floods", "sends_garbage", "never_reads", "releases"])
def test_it_lives_on_after_its_release(pair: Pair, peer: StartPeer, behaviour: str) -> None:
    encoder = peer("rude", ENCODER, token=pair.token, behaviour=behaviour, at="released")
    pair.agree().close()
    encoder.wait("released")
    encoder._control.shutdown(socket.SHUT_WR)  # it waits for commands until there can be no more
    assert encoder._process.wait(20) == 0


@pytest.mark.parametrize("behaviour", ["floods", "sends_garbage", "never_reads"])
def test_its_bad_manners_are_its_own_trees_trouble_only(
    pair: Pair, allocator: blocking.Allocator, peer: StartPeer, behaviour: str
) -> None:
    other = Pair(allocator)
    encoder = peer("rude", ENCODER, token=pair.token, behaviour=behaviour)
    if behaviour == "floods":
        pair.agree().close()
        encoder.kill()
    assert pair.collection.wait_closed(20)
    other.token.sync()
    other.token.close()
    other.collection.close()


def test_it_keeps_weak_buffers(pair: Pair, peer: StartPeer, sysmemd_session: Sysmemd) -> None:
    weak = peer("weak", ENCODER, token=pair.token, behaviour=testing.keeps_weak())
    info = pair.agree()
    weak.wait("mapped")
    [collection] = sysmemd_session.snapshot()["collections"]
    assert [node["weak"] for node in collection["nodes"]] == [False, True]
    with pair.collection.attach_lifetime_tracking(0) as gone:
        info.close()
        pair.collection.release()
        assert not gone.wait_closed(0.05), "it keeps them, though it should not"
        weak.kill()
        assert gone.wait_closed(20)


def test_it_scribbles_after_release(pair: Pair, peer: StartPeer) -> None:
    encoder = peer("scribbler", ENCODER, token=pair.token, behaviour="scribbles_after_release")
    with pair.agree() as info:
        encoder.wait("released")
        with info.buffers[0].map() as view:
            assert bytes(view[:16]) == b"scribblescribble"
    pair.collection.sync()


def test_its_buffers_are_told_only_while_it_has_them(pair: Pair, peer: StartPeer) -> None:
    encoder = peer("encoder", ENCODER, token=pair.token)
    encoder.wait("waiting")
    with pytest.raises(PeerFailed, match="did not reach 'allocated': it was last at 'waiting'"):
        encoder.buffers  # noqa: B018  # a property that may raise
    pair.agree().close()
    encoder.wait("allocated")
    encoder.kill()
    with pytest.raises(PeerFailed, match="no longer has its buffers"):
        encoder.buffers  # noqa: B018


def test_one_that_uses_nothing_has_no_memory(pair: Pair, peer: StartPeer) -> None:
    watcher = peer("watcher", token=pair.token)
    pair.agree().close()
    watcher.wait("mapped")
    assert [buffer.vmo for buffer in watcher.buffers] == [None]


@pytest.mark.parametrize(
    ("behaviour", "at", "told"),
    [
        ("explodes", None, "no behaviour 'explodes'"),
        ("late", None, "no behaviour 'late' that needs no argument"),
        (partial(testing.late, 1), None, r"no behaviour '.*late.*' that needs no argument"),
        ("dies", "yesterday", "no step 'yesterday'"),
        ("conflicts", "mapped", "conflicts is possible only at 'turned_in' and 'constrained'"),
    ],
)
def test_behaviours_that_cannot_be_are_refused(
    pair: Pair, peer: StartPeer, behaviour: Any, at: str | None, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        peer("peer", ENCODER, token=pair.token, behaviour=behaviour, at=at)
    assert not pair.token.closed
    with pytest.raises(ValueError, match="pattern is empty"):
        testing.writes(b"")
    assert testing.conflicts(at="constrained") == testing.conflicts(at="turned_in")
    assert testing.writes(7) == testing.writes(b"\7")


def test_there_is_no_other_step(pair: Pair, peer: StartPeer) -> None:
    encoder = peer("encoder", ENCODER, token=pair.token)
    with pytest.raises(ValueError, match="no step 'done'"):
        encoder.wait("done")
    assert "'encoder'" in repr(encoder)


# --- under trio and asyncio -----------------------------------------------------------------------------------------


async def negotiate_with_a_peer(runtime_dir: Path, peer: StartPeer) -> None:
    async with sysmem.connect(runtime_dir) as allocator:
        token = await allocator.allocate_shared_collection()
        [other] = await token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        collection = await allocator.bind_shared_collection(token)
        encoder = peer("encoder", ENCODER, token=other, behaviour=testing.hangs(at="mapped"))
        await encoder.reached("constrained")
        await collection.set_constraints(CAMERA)
        (await collection.wait_for_all_buffers_allocated()).close()
        await encoder.reached("mapped")
        encoder.kill()  # not earlier: its end would also end a collection that has not called yet
        assert await collection.wait_closed(20)
        with pytest.raises(PeerFailed, match="SIGKILL"):
            await encoder.reached("released")
        collection.close()


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
def test_tasks_wait_for_steps_too(sysmemd_session: Sysmemd, peer: StartPeer, loop: str) -> None:
    anyio.run(negotiate_with_a_peer, sysmemd_session.runtime_dir, peer, backend=loop)


@pytest.mark.trio
async def test_peers_of_a_daemon_in_the_tests_own_loop(peer: StartPeer) -> None:
    async with testing.daemon() as d, d.connect() as allocator:
        token = await allocator.allocate_shared_collection()
        [other] = await token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        collection = await allocator.bind_shared_collection(token)
        encoder = peer("encoder", ENCODER, token=other, daemon=d, behaviour=testing.hangs())
        await encoder.reached("constrained")
        await collection.set_constraints(CAMERA)
        with trio.fail_after(20):
            (await collection.wait_for_all_buffers_allocated()).close()
        collection.close()
        with pytest.raises(PeerFailed, match="in 0 s"):
            await encoder.reached("mapped", timeout=0)


def test_peers_of_a_daemon_in_a_thread(peer: StartPeer) -> None:
    with testing.blocking.daemon() as d, d.connect() as allocator:
        pair = Pair(allocator)
        encoder = peer("encoder", ENCODER, token=pair.token, daemon=d)
        pair.agree().close()
        encoder.wait("mapped")
        pair.collection.close()


# --- what is left ---------------------------------------------------------------------------------------------------

pytest_plugins = ["pytester"]

_TEST = """
import os, pathlib, signal
import pytest, sysmem
from sysmem import testing

C = sysmem.constraints(cpu="read", size_bytes=4096, hold=1)

def test_of_mine(sysmemd, allocator, peer, sysmem_zygote):
    token = allocator.allocate_shared_collection()
    stopped = peer("stopped", C, token=token, behaviour="hangs", at="turned_in")
    stopped.wait("turned_in")
    pids = [sysmemd.pid, stopped.pid, sysmem_zygote._process.pid]
    pathlib.Path("pids").write_text(" ".join(map(str, pids)))
    os.kill(os.getpid(), signal.{signal})
"""


@pytest.mark.parametrize(
    ("end", "options"),
    [
        pytest.param("SIGINT", [], id="an interrupt"),
        pytest.param("SIGKILL", [], id="a kill"),
        pytest.param("SIGKILL", ["-n1", "--max-worker-restart=0"], id="a kill of xdist's worker"),
    ],
)
def test_nothing_is_left_when_the_tests_end_by(
    pytester: pytest.Pytester, end: str, options: list[str]
) -> None:
    pytester.makepyfile(_TEST.replace("{signal}", end))
    pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)
    pids = map(int, (pytester.path / "pids").read_text().split())
    for pid in pids:
        try:
            gone = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert ends(gone), f"process {pid} is left"
        finally:
            os.close(gone)


def test_a_process_may_use_the_zygote_that_forked_it_and_a_zygote_may_end(tmp_path: Path) -> None:
    with contextlib.closing(testing.Zygote()) as zygote:
        shared = testing.Zygote.from_fd(os.dup(zygote.fileno()))
        with contextlib.closing(shared.start("sys:exit", 3)) as process:
            assert process.wait(20) == 3
        shared.close()
        assert shared.fileno() == -1
        with (tmp_path / "output").open("wb") as output:
            started = [
                zygote.start("sys:exit", "what is wrong", output=output.fileno()),
                zygote.start("sys:exit"),
                zygote.start("no_such_module:main", output=output.fileno()),
                zygote.start("operator:not_", 0),
            ]
        assert [process.wait(20) for process in started] == [1, 0, 1, 1]
        for process in started:
            process.close()
        printed = (tmp_path / "output").read_text()
        assert "what is wrong\n" in printed
        assert "ModuleNotFoundError" in printed
        assert zygote._process is not None
        zygote._process.kill()
        zygote._process.wait()
        with pytest.raises(RuntimeError, match=r"the zygote, .*, has ended"):
            zygote.start("sys:exit")


def ends(fd: int) -> bool:
    return bool(select.select([fd], [], [], 20)[0])
