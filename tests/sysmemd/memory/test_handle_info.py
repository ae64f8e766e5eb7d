"""Recognising a descriptor, and creating weak handles from it: the memory's part of GetVmoInfo.

See `docs/spec/protocol.md`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
from unittest.mock import Mock

import pytest

from sysmem_protocol.handles import Handle
from sysmemd.memory import HandleInfo, NoMoreStrongHandlesError, locks
from sysmemd.memory.buffer import LEAK_NS
from sysmemd.memory.locks import FIRST_BYTE, RANGE_BYTES
from sysmemd.ports import NoMemoryError

from .harness import (
    CAMERA,
    PAGE,
    READ,
    READ_WRITE,
    VIEWER,
    Bench,
    Peer,
    few_descriptors,
    is_closed,
    present,
)


@pytest.fixture(params=["asked", "listed"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Since Linux 6.6 the kernel reports the locks of a file description; older kernels list them in /proc."""
    if request.param == "listed":
        monkeypatch.setattr(locks, "holds_lock", refuse)


def refuse(*_: object) -> bool:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def identify(bench: Bench, handle: Handle) -> HandleInfo:
    info = bench.memory.identify(handle.fileno())
    assert info is not None
    return info


def test_a_handle_is_recognised(bench: Bench) -> None:
    bench.allocate(2, collection_id=7)
    buffers = bench.allocate(3, collection_id=8)
    info = identify(bench, bench.strong(buffers)[2])
    assert (info.collection_id, info.buffer_index, info.count) == (8, 2, 3)
    assert info.settings is buffers.settings
    assert info.buffers is buffers


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("rights", [READ, READ_WRITE])
def test_strong_and_weak_handles_are_told_apart(bench: Bench, rights: int) -> None:
    buffers = bench.allocate(2)
    for _ in range(3):
        bench.strong(buffers)
        bench.weak(buffers)
    assert not identify(bench, bench.strong(buffers, READ & rights)[1]).is_weak
    assert identify(bench, bench.weak(buffers, READ & rights)[1][0]).is_weak


def test_a_kernel_that_can_not_answer_now_is_no_older_kernel(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (strong,) = bench.strong(bench.allocate())
    fails = Mock(side_effect=OSError(errno.ENOMEM, "Cannot allocate memory"))
    monkeypatch.setattr(locks, "holds_lock", fails)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        assert identify(bench, strong).is_weak


def test_a_duplicate_is_the_same_handle(bench: Bench) -> None:
    (strong,) = bench.strong(bench.allocate())
    with strong.duplicate() as copy:
        assert not identify(bench, copy).is_weak


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_PATH])
def test_a_handle_opened_anew_is_recognised_but_no_strong_one(bench: Bench, flags: int) -> None:
    (strong,) = bench.strong(bench.allocate())
    with Handle(os.open(f"/proc/self/fd/{strong.fileno()}", flags)) as anew:
        assert identify(bench, anew).is_weak


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("length", [0, RANGE_BYTES + 1])
def test_a_strong_handle_that_also_took_a_weak_byte_is_called_weak(
    bench: Bench, peer: Peer, length: int
) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    bench.weak(buffers)
    peer.send(strong)
    peer.run(f"lock(fds[0], fcntl.F_RDLCK, {FIRST_BYTE}, {length})")
    assert identify(bench, strong).is_weak
    peer.run(f"lock(fds[0], fcntl.F_UNLCK, {FIRST_BYTE + RANGE_BYTES}, 0)")
    assert not identify(bench, strong).is_weak


@pytest.mark.usefixtures("kernel")
def test_a_byte_that_no_handle_was_given_counts_for_nothing(bench: Bench, peer: Peer) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    bench.weak(buffers)
    peer.send(strong)
    peer.run(f"lock(fds[0], fcntl.F_RDLCK, {FIRST_BYTE + RANGE_BYTES + 1}, 1)")
    assert not identify(bench, strong).is_weak


@pytest.mark.usefixtures("kernel")
def test_locks_that_do_not_concern_us_change_nothing(bench: Bench, peer: Peer) -> None:
    buffers = bench.allocate()
    ((weak, _),) = bench.weak(buffers)
    (strong,) = bench.strong(buffers)
    peer.send(weak)
    peer.run("for n in range(0, 200, 2): lock(fds[0], fcntl.F_RDLCK, n, 1)")
    for handle in (weak, strong):
        fcntl.flock(handle.fileno(), fcntl.LOCK_SH)
        fcntl.lockf(handle.fileno(), fcntl.LOCK_SH, 10, 1)
    assert identify(bench, weak).is_weak
    assert not identify(bench, strong).is_weak


def test_a_handle_stays_what_it_is_however_many_locks_its_owner_adds(
    bench: Bench, peer: Peer
) -> None:
    (strong,) = bench.strong(bench.allocate())
    peer.send(strong)
    peer.run("for n in range(10000, 0, -2): lock(fds[0], fcntl.F_RDLCK, n, 1)")
    assert not identify(bench, strong).is_weak


def test_what_is_no_sysmem_vmo_is_not_recognised(bench: Bench) -> None:
    (strong,) = bench.strong(bench.allocate())
    with (
        tempfile.TemporaryFile() as file,
        Handle(os.memfd_create("frames:0")) as foreign,
        socket.socket() as sock,
    ):
        os.sendfile(foreign.fileno(), strong.fileno(), 0, PAGE)  # a copy
        for fd in (file.fileno(), foreign.fileno(), sock.fileno(), 0):
            assert bench.memory.identify(fd) is None


def test_a_handle_is_recognised_after_the_collection_failed(bench: Bench) -> None:
    buffers = bench.allocate()
    ((weak, _),) = bench.weak(buffers)
    (strong,) = bench.strong(buffers)
    buffers.drop_strong()
    bench.quiet()
    assert not identify(bench, strong).is_weak
    strong.close()
    bench.quiet()
    info = identify(bench, weak)
    assert (info.collection_id, info.is_weak) == (42, True)


def test_a_handle_is_recognised_while_any_reference_is_left(bench: Bench) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    with Handle(os.open(f"/proc/self/fd/{strong.fileno()}", os.O_RDWR)) as anew:
        strong.close()
        buffers.drop_strong()
        bench.quiet()
        assert bench.states() == {"unknown": 1}
        info = identify(bench, anew)
        assert info.collection_id == 42
        with info.close_weak_asap() as event:
            assert is_closed(event)
        with pytest.raises(NoMoreStrongHandlesError):
            info.make_weak(VIEWER)


def test_close_weak_asap_of_a_weak_handle(bench: Bench) -> None:
    buffers = bench.allocate()
    ((weak, _),) = bench.weak(buffers)
    (strong,) = bench.strong(buffers)
    buffers.drop_strong()
    info = identify(bench, weak)
    with info.close_weak_asap() as event:
        assert not is_closed(event)
        strong.close()
        with info.close_weak_asap() as later:  # this has not been reported yet
            assert is_closed(later)
        bench.wait_closed(event)
    with identify(bench, weak).close_weak_asap() as event:
        assert is_closed(event)


def test_the_handle_passed_in_counts_as_a_holder(bench: Bench) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    buffers.drop_strong()
    bench.quiet()
    (made,) = bench.keep([identify(bench, strong).make_weak(VIEWER)])
    event = present(made.close_weak_asap)
    assert not is_closed(event)
    assert identify(bench, present(made.vmo)).is_weak
    strong.close()
    bench.wait_closed(event)
    assert bench.states() == {"weak": 1}


def test_no_weak_handle_without_a_strong_one(bench: Bench) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    ((weak, _),) = bench.weak(buffers)
    buffers.drop_strong()
    strong.close()
    # No report was processed: the kernel is asked.
    with pytest.raises(NoMoreStrongHandlesError, match="buffer 0 of 42"):
        identify(bench, weak).make_weak(VIEWER)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (os.O_RDONLY, os.O_RDONLY),
        (os.O_RDWR, os.O_RDWR),
        (os.O_WRONLY, None),
        (os.O_PATH, None),
    ],
)
def test_a_weak_handle_has_no_more_rights_than_the_handle_passed_in(
    bench: Bench, flags: int, expected: int | None
) -> None:
    (strong,) = bench.strong(bench.allocate())
    with Handle(os.open(f"/proc/self/fd/{strong.fileno()}", flags)) as passed:
        (made,) = bench.keep([identify(bench, passed).make_weak(VIEWER)])
        if expected is None:
            assert made.vmo is None
        else:
            mode = fcntl.fcntl(present(made.vmo).fileno(), fcntl.F_GETFL) & os.O_ACCMODE
            assert mode == expected


def test_a_leaked_handle_made_by_get_vmo_info_is_logged_with_its_client(bench: Bench) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    bench.keep([identify(bench, strong).make_weak(VIEWER)])
    strong.close()
    buffers.drop_strong()
    bench.clock.advance(2 * LEAK_NS)
    assert [error["client_name"] for error in bench.log.errors()] == [VIEWER.name]
    assert CAMERA.name not in str(bench.log.errors())


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_out_of_descriptors(bench: Bench, spare: int) -> None:
    (strong,) = bench.strong(bench.allocate())
    info = identify(bench, strong)
    with few_descriptors(spare), pytest.raises(NoMemoryError, match="Too many open files"):
        info.make_weak(VIEWER)
    with few_descriptors(spare):
        assert not info.is_weak, "which takes no descriptor"
    if spare < 2:
        with few_descriptors(spare), pytest.raises(NoMemoryError, match="Too many open files"):
            info.close_weak_asap()


def test_a_new_vmo_with_the_number_of_a_gone_one_is_not_taken_for_it(bench: Bench) -> None:
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    kept = os.fstat(strong.fileno())
    strong.close()
    buffers.drop_strong()
    # The kernel's report is queued, and is read before any comparison.
    assert bench.memory._by_identity
    with Handle(os.memfd_create("other")) as other:
        assert bench.memory.identify(other.fileno()) is None
    assert not bench.memory._by_identity
    assert kept
