"""Strong, weak and gone: the kernel's reports on handles, mappings and processes; `docs/spec/allocation.md`."""

from __future__ import annotations

import errno
import mmap
import os
import socket
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from sysmemd.memory import locks
from sysmemd.memory.buffer import LEAK_NS, RECHECK_NS, Buffer
from sysmemd.memory.watch import InodeWatch
from sysmemd.ports import ClientInfo

from .harness import (
    CAMERA,
    PAGE,
    READ,
    READ_WRITE,
    VIEWER,
    Bench,
    Peer,
    is_closed,
    present,
)

# --- close_weak_asap ----------------------------------------------------------------------------------------------


def test_close_weak_asap_closes_when_the_last_strong_handle_is_gone(bench: Bench) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    ((_, close_weak_asap),) = bench.weak(buffers)
    bench.quiet()
    assert not is_closed(close_weak_asap)
    buffers.drop_strong()
    bench.quiet()
    assert not is_closed(close_weak_asap)
    assert bench.no_strong == []
    strong.close()
    bench.wait_closed(close_weak_asap)
    bench.quiet()
    assert bench.no_strong == [42]


def test_a_strong_node_keeps_buffers_without_any_handle(bench: Bench) -> None:
    buffers = bench.allocate()
    ((weak, close_weak_asap),) = bench.weak(buffers)
    bench.strong(buffers)[0].close()
    weak.close()
    bench.quiet()
    assert not is_closed(close_weak_asap)
    assert bench.states() == {"server": 1}


def test_dropping_the_strong_hold_twice_is_harmless(bench: Bench) -> None:
    buffers = bench.allocate(2)
    bench.weak(buffers)
    buffers.drop_strong()
    buffers.drop_strong()
    bench.quiet()
    buffers.drop_strong()
    bench.quiet()
    assert bench.no_strong == [42]
    assert bench.states() == {"weak": 2}


def test_the_end_of_a_buffer_is_not_stopped_by_a_watch_that_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    buffers.drop_strong()
    bench.quiet()
    with monkeypatch.context() as patch:
        fails = Mock(side_effect=OSError(errno.ENOMEM, "Cannot allocate memory"))
        patch.setattr(InodeWatch, "watch_end", fails)
        strong.close()
        bench.wait(lambda: bench.no_strong == [42])
    bench.wait(lambda: bench.states() == {})
    assert bench.log.events("error") == []


def test_no_strong_is_said_later_and_once_even_when_it_is_so_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Mock()
    monkeypatch.setattr(InodeWatch, "watch_closings", watch)
    buffers = bench.allocate()
    buffers.drop_strong()
    assert watch.mock_calls == [], "there is nothing to watch"
    assert bench.no_strong == []
    bench.quiet()
    assert bench.no_strong == [42]
    assert bench.states() == {}


def test_the_root_hears_only_when_no_buffer_has_a_strong_handle(bench: Bench) -> None:
    buffers = bench.allocate(3)
    first, second, third = bench.strong(buffers)
    events = [event for _, event in bench.weak(buffers)]
    buffers.drop_strong()
    second.close()
    bench.wait_closed(events[1])
    third.close()
    bench.wait_closed(events[2])
    bench.quiet()
    assert not is_closed(events[0])
    assert bench.no_strong == []
    first.close()
    bench.wait_closed(events[0])
    bench.quiet()
    assert bench.no_strong == [42]


def test_a_strong_handle_passed_to_a_third_process_counts(bench: Bench, peer: Peer) -> None:
    close_weak_asap = bench.given_away(peer)
    bench.quiet()
    assert not is_closed(close_weak_asap)
    peer.run("os.close(fds[0])")
    bench.wait_closed(close_weak_asap)


def test_a_strong_handle_in_flight_counts(bench: Bench, new_peer: Callable[..., Peer]) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    ((_, close_weak_asap),) = bench.weak(buffers)
    near, far = socket.socketpair()
    with near, far:
        socket.send_fds(near, [b"x"], [strong.fileno()])
        strong.close()
        buffers.drop_strong()
        bench.quiet()
        assert not is_closed(close_weak_asap)
    bench.wait_closed(close_weak_asap)


def test_a_mapping_whose_descriptor_is_closed_counts(bench: Bench, peer: Peer) -> None:
    close_weak_asap = bench.given_away(peer)
    peer.run("maps.append(mmap.mmap(fds[0], 4096)); os.close(fds[0])")
    # mmap keeps a duplicate of its own, which is closed too:
    peer.run(
        "import ctypes\n"
        "for n in os.listdir('/proc/self/fd'):\n"
        "    if 'frames:0' in os.path.realpath('/proc/self/fd/' + n): os.close(int(n))"
    )
    bench.quiet()
    assert not is_closed(close_weak_asap)
    assert peer.run("result = 'frames:0' in open('/proc/self/maps').read()")
    assert (
        peer.run(
            "result = [n for n in os.listdir('/proc/self/fd')"
            " if 'frames:0' in os.path.realpath('/proc/self/fd/' + n)]"
        )
        == []
    )
    peer.kill()
    bench.wait_closed(close_weak_asap)


def test_duplicates_are_one_handle(bench: Bench, peer: Peer) -> None:
    close_weak_asap = bench.given_away(peer)
    peer.run("fds.append(os.dup(fds[0])); os.close(fds[0])")
    bench.quiet()
    assert not is_closed(close_weak_asap)
    peer.run("os.close(fds[1])")
    bench.wait_closed(close_weak_asap)


def test_a_forked_process_holds_what_its_parent_held(bench: Bench, peer: Peer) -> None:
    close_weak_asap = bench.given_away(peer)
    child = peer.run("import signal\nresult = os.fork()\nif not result: signal.pause()")
    peer.kill()
    bench.quiet()
    assert not is_closed(close_weak_asap)
    os.kill(child, 9)
    bench.wait_closed(close_weak_asap)


def test_a_killed_process_releases_all_it_held(bench: Bench, peer: Peer) -> None:
    buffers = bench.allocate(2)
    peer.give(*bench.strong(buffers))
    peer.run("maps.append(mmap.mmap(fds[0], 4096))")
    events = [event for _, event in bench.weak(buffers)]
    buffers.drop_strong()
    bench.quiet()
    assert not any(map(is_closed, events))
    peer.kill()
    bench.wait(lambda: all(map(is_closed, events)))


# --- lifetime -----------------------------------------------------------------------------------------------------


def test_a_buffer_exists_until_every_handle_is_gone_strong_or_weak(bench: Bench) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    ((weak, _),) = bench.weak(buffers)
    gone = bench.tracker(buffers)
    buffers.drop_strong()
    strong.close()
    bench.quiet()
    assert not is_closed(gone)
    weak.close()
    bench.wait_closed(gone)
    assert bench.states() == {}


def test_the_servers_own_hold_counts(bench: Bench) -> None:
    buffers = bench.allocate()
    gone = bench.tracker(buffers)
    bench.quiet()
    assert not is_closed(gone)
    buffers.drop_strong()
    bench.wait_closed(gone)


@pytest.mark.parametrize("weak", [False, True])
def test_every_mapping_in_every_process_counts(
    bench: Bench, new_peer: Callable[..., Peer], weak: bool
) -> None:
    buffers = bench.allocate()
    entries = bench.keep(buffers.hand_out(READ_WRITE, weak=weak, client=CAMERA))
    vmo = present(entries[0].vmo)
    gone = bench.tracker(buffers)
    mapping = mmap.mmap(vmo.fileno(), PAGE)
    other = new_peer()
    other.send(vmo)
    other.run("maps.append(mmap.mmap(fds[0], 4096)); os.close(fds[0])")
    vmo.close()
    buffers.drop_strong()
    bench.quiet()
    mapping.close()
    bench.quiet()
    assert not is_closed(gone)
    other.kill()
    bench.wait_closed(gone)


def test_memory_is_reclaimed_before_the_event_closes(bench: Bench, peer: Peer) -> None:
    size = 64 << 20
    buffers = bench.allocate(size=size)
    peer.give(*bench.strong(buffers))
    before = shared_memory()
    peer.run(f"m = mmap.mmap(fds[0], {size}); m[::4096] = b'x' * ({size} // 4096); m.close()")
    assert shared_memory() - before > size // 2
    gone = bench.tracker(buffers)
    buffers.drop_strong()
    peer.run("os.close(fds[0])")
    bench.wait_closed(gone)
    assert abs(shared_memory() - before) < size // 2


def shared_memory() -> int:
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Shmem:"))


def test_an_o_path_descriptor_keeps_a_buffer_in_existence(bench: Bench, peer: Peer) -> None:
    buffers = bench.allocate()
    peer.give(*bench.strong(buffers))
    gone = bench.tracker(buffers)
    peer.run("fds.append(os.open(f'/proc/self/fd/{fds[0]}', os.O_PATH)); os.close(fds[0])")
    buffers.drop_strong()
    bench.quiet()
    assert bench.states() == {"unknown": 1}
    assert not is_closed(gone)
    peer.run("os.close(fds[1])")
    bench.wait_closed(gone)


# --- leaks --------------------------------------------------------------------------------------------------------


def test_weak_handles_still_open_5_s_after_close_weak_asap_are_logged(
    bench: Bench, peer: Peer
) -> None:
    buffers = bench.allocate(2, name="preview")
    strong = bench.strong(buffers)
    for handle, _ in bench.weak(buffers, client=ClientInfo("without leaks")):
        handle.close()
    ((weak, event), (other, _)) = bench.weak(buffers)
    bench.weak(buffers, client=CAMERA)[1][0].close()
    peer.give(weak)
    other.close()
    bench.clock.advance(2 * LEAK_NS)
    buffers.drop_strong()
    bench.clock.advance(2 * LEAK_NS)
    for handle in strong:
        handle.close()
    bench.wait_closed(event)
    bench.clock.advance(LEAK_NS - 100_000_000)
    assert bench.log.errors() == []
    bench.clock.advance(200_000_000)
    assert bench.log.errors() == [
        {
            "collection_id": 42,
            "collection_name": "preview",
            "buffer_index": 0,
            "client_name": client.name,
            "client_id": client.id,
            "handles": 1,
        }
        for client in (VIEWER, CAMERA)
    ]
    bench.clock.advance(10 * LEAK_NS)
    assert len(bench.log.errors()) == 2, "once is loud enough"


def test_weak_handles_closed_in_time_are_not_logged(bench: Bench) -> None:
    buffers = bench.allocate(2)
    first, second = bench.weak(buffers)
    buffers.drop_strong()
    first[0].close()
    bench.clock.advance(LEAK_NS // 2)
    # The last close is noticed even if its report was not read.
    second[0].close()
    bench.clock.advance(2 * LEAK_NS)
    assert bench.log.errors() == []


def test_memory_held_by_a_handle_opened_anew_is_logged_as_leaked(bench: Bench, peer: Peer) -> None:
    buffers = bench.allocate()
    peer.give(*bench.strong(buffers))
    peer.run("fds.append(reopen(fds[0])); os.close(fds[0])")
    buffers.drop_strong()
    bench.quiet()
    bench.clock.advance(2 * LEAK_NS)
    assert bench.log.errors() == [
        {"collection_id": 42, "collection_name": "frames", "buffer_index": 0}
    ]


def test_many_weak_handles_are_sifted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens rarely enough that each new one costs little."""
    asked: list[int] = []
    is_left = locks.is_left

    def note(fd: int, kind: locks.Kind, number: int) -> bool:
        asked.append(number)
        return is_left(fd, kind, number)

    monkeypatch.setattr(locks, "is_left", note)
    buffers = bench.allocate()
    kept = bench.weak(buffers)
    for number in range(1, 501):
        if number == 31:
            assert asked == []
        assert len(asked) <= 2 * number
        ((weak, event),) = bench.weak(buffers, READ)
        weak.close()
        event.close()
    [buffer] = buffers.buffers
    assert isinstance(buffer, Buffer)
    assert len(buffer._weak_clients) <= 64
    buffers.drop_strong()
    bench.clock.advance(2 * LEAK_NS)
    assert [error["handles"] for error in bench.log.errors()] == [1]
    assert kept


# --- wake-ups -----------------------------------------------------------------------------------------------------


def test_nothing_polls_when_idle(bench: Bench) -> None:
    buffers = bench.allocate()
    bench.strong(buffers)
    bench.weak(buffers)
    assert bench.clock.next_due() is None, "a strong node exists"
    buffers.drop_strong()
    bench.clock.advance(2 * sum(RECHECK_NS))
    assert bench.clock.next_due() is None, "strong handles are left"
    assert not bench.is_awake()
    for entry in bench._handles[:1]:
        entry.close()
    bench.wait(lambda: bench.states() == {"weak": 1})
    bench.clock.advance(2 * sum(RECHECK_NS))
    assert bench.clock.next_due() is None, "weak handles are left"
    assert not bench.is_awake()


def test_a_handle_whose_lock_goes_a_moment_after_the_report_is_noticed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel reports a close before it releases the lock, and the closing process may be preempted in between.
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    ((_, event),) = bench.weak(buffers)
    buffers.drop_strong()
    monkeypatch.setattr(locks, "any_left", lambda *_: True)
    strong.close()
    bench.memory.process_events()
    assert not bench.is_awake()
    monkeypatch.undo()
    assert not is_closed(event)
    bench.clock.advance(RECHECK_NS[0])
    assert is_closed(event)


def test_a_report_during_late_rechecks_starts_them_afresh(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers = bench.allocate()
    strong = bench.strong(buffers)
    bench.strong(buffers)
    buffers.drop_strong()
    bench.clock.advance(RECHECK_NS[0] + RECHECK_NS[1])
    strong[0].close()
    bench.memory.process_events()
    due = bench.clock.next_due()
    assert due is not None
    assert due <= bench.clock.now() + RECHECK_NS[0]
    asked = Mock(side_effect=locks.any_left)
    monkeypatch.setattr(locks, "any_left", asked)
    bench.clock.advance(2 * sum(RECHECK_NS))
    assert len(asked.mock_calls) == len(RECHECK_NS)
