"""A client that misuses its descriptors harms nobody's memory (`docs/spec/linux.md`, "Who still holds a buffer")."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from sysmemd.memory.locks import FIRST_BYTE, RANGE_BYTES, Kind

from .harness import READ, Bench, Peer, few_descriptors, is_closed, pair

EVERYTHING = f"{FIRST_BYTE}, {2 * RANGE_BYTES}"
STRONG_BYTE = f"{Kind.STRONG.first_byte}, 1"


def test_a_weak_owner_that_drops_its_lock_keeps_its_memory(bench: Bench, peer: Peer) -> None:
    buffers = bench.allocate()
    ((weak, event),) = bench.weak(buffers)
    gone = bench.tracker(buffers)
    peer.give(weak)
    peer.run("maps.append(mmap.mmap(fds[0], 4096)); maps[0][:4] = b'mine'")
    peer.run(f"lock(fds[0], fcntl.F_UNLCK, {EVERYTHING})")
    buffers.drop_strong()
    bench.wait_closed(event)
    bench.quiet()
    assert bench.states() == {"unknown": 1}
    assert not is_closed(gone), "it exists, whatever the locks say"
    assert peer.run("result = maps[0][:4]") == b"mine"
    peer.kill()
    bench.wait_closed(gone)


def test_a_strong_owner_that_drops_its_lock_only_brings_signals_early(
    bench: Bench, new_peer: Callable[..., Peer]
) -> None:
    buffers = bench.allocate(2)
    trickster, honest = new_peer(), new_peer()
    first, second = bench.strong(buffers)
    trickster.give(first)
    honest.give(second)
    events = [event for _, event in bench.weak(buffers)]
    gone = bench.tracker(buffers, 1)
    trickster.run(f"lock(fds[0], fcntl.F_UNLCK, {EVERYTHING})")
    buffers.drop_strong()
    bench.wait_closed(events[0])
    bench.quiet()
    assert not is_closed(events[1]), "the other buffer is not concerned"
    assert bench.no_strong == []
    trickster.run("maps.append(mmap.mmap(fds[0], 4096)); maps[0][:4] = b'mine'")
    bench._handles[-2].close()
    bench._handles[-3].close()
    bench.quiet()
    assert not is_closed(gone)
    assert trickster.run("result = maps[0][:4]") == b"mine"


def test_one_strong_owner_cannot_drop_anothers_lock(
    bench: Bench, new_peer: Callable[..., Peer]
) -> None:
    buffers = bench.allocate()
    trickster, honest = new_peer(), new_peer()
    trickster.give(*bench.strong(buffers))
    honest.give(*bench.strong(buffers))
    ((_, event),) = bench.weak(buffers)
    buffers.drop_strong()
    trickster.run(f"lock(fds[0], fcntl.F_UNLCK, {EVERYTHING}); os.close(fds[0])")
    bench.quiet()
    assert not is_closed(event)
    honest.run("os.close(fds[0])")
    bench.wait_closed(event)


@pytest.mark.parametrize(
    "where",
    [
        STRONG_BYTE,
        EVERYTHING,
        f"{FIRST_BYTE + 9}, 1",
        f"{FIRST_BYTE}, 0",
        f"{Kind.WEAK.first_byte + RANGE_BYTES - 1}, 1",
    ],
)
def test_nobody_can_put_a_write_lock_among_the_handles(
    bench: Bench, peer: Peer, where: str
) -> None:
    buffers = bench.allocate()
    peer.give(*bench.strong(buffers))
    assert peer.run(f"result = refused(lock, fds[0], fcntl.F_WRLCK, {where})") == "EAGAIN"
    posix = f"result = refused(lock, fds[0], fcntl.F_WRLCK, {where}, fcntl.F_SETLK)"
    assert peer.run(posix) == "EAGAIN"
    bench.strong(buffers)


def test_locks_on_bytes_that_were_not_given_out_are_ignored(bench: Bench, peer: Peer) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    ((weak, event),) = bench.weak(buffers)
    gone = bench.tracker(buffers)
    peer.send(strong)
    peer.run(
        "fds.append(reopen(fds[0])); os.close(fds[0])\n"
        f"lock(fds[1], fcntl.F_RDLCK, {Kind.STRONG.first_byte + 1}, {RANGE_BYTES - 1})\n"
        f"lock(fds[1], fcntl.F_RDLCK, {Kind.WEAK.first_byte + 1}, {RANGE_BYTES - 1})\n"
        "lock(fds[1], fcntl.F_WRLCK, 0, 4096)"
    )
    buffers.drop_strong()
    bench.quiet()
    assert not is_closed(event)
    strong.close()
    bench.wait_closed(event)
    weak.close()
    bench.wait(lambda: bench.states() == {"unknown": 1})
    assert not is_closed(gone)
    peer.kill()
    bench.wait_closed(gone)


def test_a_weak_owner_that_takes_a_strong_byte_counts_as_the_strong_holder_it_plays(
    bench: Bench, new_peer: Callable[..., Peer]
) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    (trickster_weak, _), (honest_weak, event) = bench.weak(buffers) + bench.weak(buffers)
    trickster, honest = new_peer(), new_peer()
    trickster.give(trickster_weak)
    honest.give(honest_weak)
    trickster.run(f"lock(fds[0], fcntl.F_RDLCK, {STRONG_BYTE})")
    buffers.drop_strong()
    strong.close()
    bench.quiet()
    assert not is_closed(event)
    trickster.run("os.close(fds[0])")
    bench.wait_closed(event)
    honest.run("maps.append(mmap.mmap(fds[0], 4096)); maps[0][0] = 1")


def test_a_waiting_write_lock_gets_nothing_from_the_servers_hands(bench: Bench, peer: Peer) -> None:
    # A waiting lock request is served as soon as a byte is free. The guard never leaves a byte free.
    buffers = bench.allocate()
    peer.give(*bench.strong(buffers))
    peer.run(
        "import threading\n"
        f"threading.Thread(target=lock, args=(fds[0], fcntl.F_WRLCK, {Kind.STRONG.first_byte + 1},"
        " 100, fcntl.F_OFD_SETLKW), daemon=True).start()"
    )
    for _ in range(50):
        bench.strong(buffers)


def test_a_handle_opened_anew_holds_the_memory_but_no_signal(bench: Bench, peer: Peer) -> None:
    buffers = bench.allocate()
    ((weak, event),) = bench.weak(buffers, READ)
    gone = bench.tracker(buffers)
    peer.give(*bench.strong(buffers))
    peer.run("fds.append(reopen(fds[0])); os.pwrite(fds[1], b'kept', 0); os.close(fds[0])")
    weak.close()
    buffers.drop_strong()
    bench.wait_closed(event)
    bench.quiet()
    assert bench.no_strong == [42]
    assert not is_closed(gone)
    assert peer.run("result = os.pread(fds[1], 4, 0)") == b"kept"
    peer.run("os.close(fds[1])")
    bench.wait_closed(gone)


def test_opening_and_closing_does_not_wake_the_daemon_while_a_strong_node_lives(
    bench: Bench, peer: Peer
) -> None:
    buffers = bench.allocate()
    peer.give(*bench.strong(buffers))
    peer.run("for _ in range(100): os.close(reopen(fds[0])); os.close(reopen(fds[0], os.O_RDONLY))")
    assert not bench.is_awake()


def test_a_full_queue_of_reports_loses_nothing(bench: Bench, new_peer: Callable[..., Peer]) -> None:
    with open("/proc/sys/fs/inotify/max_queued_events") as limit:
        queue_length = int(limit.read())
    flooded, quiet, lingering = (bench.allocate(collection_id=n) for n in (1, 2, 3))
    flooder = new_peer()
    flooder.give(*bench.strong(flooded))
    (strong,) = bench.strong(quiet)
    ((weak, event),) = bench.weak(quiet)
    gone = bench.tracker(quiet)
    (held,) = bench.strong(lingering)
    lingering_gone = bench.tracker(lingering)
    again = os.open(f"/proc/self/fd/{held.fileno()}", os.O_RDONLY)
    held.close()
    for buffers in (flooded, quiet, lingering):
        buffers.drop_strong()
    bench.quiet()
    assert bench.states() == {"strong": 2, "unknown": 1}
    # They alternate, because the kernel merges equal reports in a row.
    flooder.run(
        f"for _ in range({queue_length}):\n"
        " os.close(reopen(fds[0])); os.close(reopen(fds[0], os.O_RDONLY))"
    )
    strong.close()
    os.close(again)
    with few_descriptors(0):
        bench.memory.process_events()
    bench.wait_closed(event)
    bench.wait_closed(lingering_gone)
    assert [level for level, _, _ in bench.log.entries] == ["warning"]
    weak.close()
    bench.wait_closed(gone)
    assert bench.states() == {"strong": 1}


def test_a_flood_costs_one_timer_at_a_time(bench: Bench, peer: Peer) -> None:
    buffers = bench.allocate()
    peer.give(*bench.strong(buffers))
    buffers.drop_strong()
    for _ in range(20):
        peer.run("os.close(reopen(fds[0])); os.close(reopen(fds[0], os.O_RDONLY))")
        bench.memory.process_events()
    assert sum(bool(call) for _, _, call in bench.clock._calls) == 1


def test_one_call_reads_at_most_a_full_queue(bench: Bench, peer: Peer) -> None:
    buffers = bench.allocate()
    peer.give(*bench.strong(buffers))
    buffers.drop_strong()
    peer.run(
        "import threading\n"
        "def flood():\n"
        " while True: os.close(reopen(fds[0])); os.close(reopen(fds[0], os.O_RDONLY))\n"
        "threading.Thread(target=flood, daemon=True).start()"
    )
    for _ in range(100):
        bench.memory.process_events()  # returns, however fast the other side is
    peer.kill()
    bench.wait(lambda: bench.states() == {})


def test_a_lease_taken_with_our_uid_does_not_hold_up_the_server(bench: Bench, peer: Peer) -> None:
    buffers = bench.allocate()
    peer.give(*bench.strong(buffers, READ))
    for kind in ("fcntl.F_RDLCK", "fcntl.F_WRLCK"):
        attempt = f"result = refused(fcntl.fcntl, fds[0], fcntl.F_SETLEASE, {kind})"
        assert peer.run(attempt) == "EAGAIN"
    bench.strong(buffers)


def test_writing_to_or_shutting_down_an_event_harms_nobody(bench: Bench, peer: Peer) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    ((_, honest_event),) = bench.weak(buffers)
    ((_, event),) = bench.weak(buffers)
    tracker = bench.tracker(buffers)
    peer.give(event)
    peer.send(tracker)
    peer.run(
        "for fd in fds:\n"
        " with socket.socket(fileno=os.dup(fd)) as s:\n"
        "  s.setblocking(False)\n"
        "  refused(lambda: [s.send(b'x' * 4096) for _ in range(1000)])"
    )
    assert not bench.is_awake()
    peer.run(
        "for fd in fds:\n with socket.socket(fileno=os.dup(fd)) as s: s.shutdown(socket.SHUT_RDWR)"
    )
    bench.quiet()
    assert not bench.is_awake()
    assert not is_closed(honest_event)
    buffers.drop_strong()
    strong.close()
    bench.wait_closed(honest_event)


def test_dropped_events_cost_the_server_no_descriptors(bench: Bench) -> None:
    buffers = bench.allocate(4)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        for vmo, event in bench.weak(buffers):
            vmo.close()
            event.close()
        bench.tracker(buffers).close()
        bench.quiet()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_tracker_whose_server_end_the_client_kept_is_forgotten(bench: Bench) -> None:
    # The duplicate keeps the description registered, unless it is removed before it is closed.
    buffers = bench.allocate()
    near, far = pair()
    copy = near.duplicate()
    with copy:
        buffers.track_lifetime(bench.memory.event(near), 0)
        far.close()
        bench.quiet()
        assert near.closed
        assert not bench.is_awake()


def test_one_clients_end_is_not_the_end_of_anothers_mapping(
    bench: Bench, new_peer: Callable[..., Peer]
) -> None:
    buffers = bench.allocate()
    victim, trickster = new_peer(), new_peer()
    victim.give(*bench.strong(buffers))
    trickster.give(*bench.strong(buffers))
    victim.run("maps.append(mmap.mmap(fds[0], 4096)); maps[0][:6] = b'victim'; os.close(fds[0])")
    buffers.drop_strong()
    attempt = "result = refused(os.ftruncate, fds[0], 0)"
    assert trickster.run(attempt) == "EPERM"
    trickster.run(f"lock(fds[0], fcntl.F_UNLCK, {EVERYTHING})")
    trickster.kill()
    bench.quiet()
    assert victim.run("result = maps[0][:6]") == b"victim"
    assert bench.states() == {"strong": 1}
