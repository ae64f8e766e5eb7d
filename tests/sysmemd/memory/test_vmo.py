"""Sealed memory, and handles by rights; `docs/spec/linux.md`, "VMOs"."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from unittest.mock import Mock

import pytest

from sysmem_protocol.sysmem2 import Rights
from sysmemd.memory import attenuation_is_advisory, vmo

from .harness import CAMERA, PAGE, READ, READ_WRITE, Bench, present, run_as


def test_memory_is_zero(bench: Bench) -> None:
    (handle,) = bench.strong(bench.allocate(size=3 * PAGE))
    with mmap.mmap(handle.fileno(), 3 * PAGE) as memory:
        assert memory[:] == bytes(3 * PAGE)


@pytest.mark.parametrize("size", [0, PAGE, 7 * PAGE])
def test_the_size_is_sealed(bench: Bench, size: int) -> None:
    (handle,) = bench.strong(bench.allocate(size=4 * PAGE))
    with pytest.raises(PermissionError):
        os.ftruncate(handle.fileno(), size if size != 4 * PAGE else 0)
    with pytest.raises(PermissionError):
        os.pwrite(handle.fileno(), b"x", 4 * PAGE)
    assert os.fstat(handle.fileno()).st_size == 4 * PAGE


def test_no_further_seal_can_be_put(bench: Bench) -> None:
    (handle,) = bench.strong(bench.allocate())
    seals = fcntl.fcntl(handle.fileno(), fcntl.F_GET_SEALS)
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    assert seals & wanted == wanted
    assert not seals & fcntl.F_SEAL_WRITE
    with pytest.raises(PermissionError):
        fcntl.fcntl(handle.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_mode_is_0600_and_never_executable(bench: Bench) -> None:
    (handle,) = bench.strong(bench.allocate())
    assert os.fstat(handle.fileno()).st_mode & 0o7777 == 0o600
    with pytest.raises(PermissionError):
        os.fchmod(handle.fileno(), 0o700)


def test_a_kernel_without_noexec_seal_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    create = os.memfd_create

    def old_kernel(name: str, flags: int) -> int:
        if flags & 0x8:
            raise OSError(errno.EINVAL, "unknown flag")
        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", old_kernel)
    with vmo.create("old", PAGE) as handle:
        assert os.fstat(handle.fileno()).st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE])
def test_any_other_error_is_no_reason_to_try_again(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    create = Mock(side_effect=OSError(number, os.strerror(number)))
    monkeypatch.setattr(os, "memfd_create", create)
    with pytest.raises(OSError, match=os.strerror(number)):
        vmo.create("none", PAGE)
    assert len(create.mock_calls) == 1


@pytest.mark.parametrize(("name", "shown"), [("frames", "frames:1"), ("", "sysmem:1")])
def test_memory_shows_the_collections_name_and_the_index(
    bench: Bench, name: str, shown: str
) -> None:
    _, handle = bench.strong(bench.allocate(2, name=name))
    assert os.readlink(f"/proc/self/fd/{handle.fileno()}") == f"/memfd:{shown} (deleted)"


def test_a_name_of_64_bytes_fits(bench: Bench) -> None:
    handle = bench.strong(bench.allocate(101, name="ü" * 32))[100]
    assert os.readlink(f"/proc/self/fd/{handle.fileno()}") == f"/memfd:{'ü' * 32}:100 (deleted)"


def test_rights_without_write_deliver_a_read_only_handle(bench: Bench) -> None:
    buffers = bench.allocate()
    (writer,) = bench.strong(buffers)
    (reader,) = bench.strong(buffers, READ)
    for handle, mode in ((writer, os.O_RDWR), (reader, os.O_RDONLY)):
        assert fcntl.fcntl(handle.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == mode
    with pytest.raises(PermissionError):
        mmap.mmap(reader.fileno(), PAGE)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(reader.fileno(), b"x", 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(reader.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    os.pwrite(writer.fileno(), b"x", 0)
    with mmap.mmap(reader.fileno(), PAGE, prot=mmap.PROT_READ) as memory:
        assert memory[:1] == b"x"


@pytest.mark.parametrize("weak", [False, True])
def test_rights_without_read_deliver_no_descriptor(bench: Bench, weak: bool) -> None:
    rights = READ_WRITE & ~Rights.READ
    (entry,) = bench.keep(bench.allocate().hand_out(rights, weak=weak, client=CAMERA))
    assert entry.vmo is None
    assert (entry.close_weak_asap is not None) == weak


def test_every_handle_is_its_own_description(bench: Bench) -> None:
    buffers = bench.allocate()
    (first,), (second,) = bench.strong(buffers), bench.strong(buffers)
    os.lseek(first.fileno(), 17, os.SEEK_SET)
    fcntl.fcntl(first.fileno(), fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)
    assert os.lseek(second.fileno(), 0, os.SEEK_CUR) == 0
    assert not fcntl.fcntl(second.fileno(), fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK)


def test_descriptors_are_not_inherited_by_programs(bench: Bench) -> None:
    ((weak, event),) = bench.weak(bench.allocate())
    for fd in (weak.fileno(), event.fileno(), bench.memory.fileno()):
        assert not os.get_inheritable(fd)


def test_attenuation_is_advisory_for_the_daemons_uid_and_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert [uid for uid in (0, 1, 999, 1000, 1001) if attenuation_is_advisory(uid)] == [0, 1000]


def test_a_mode_that_denies_access_is_put_right(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (handle,) = bench.strong(bench.allocate())
    os.fchmod(handle.fileno(), 0)
    right, denied = os.open, []

    def denies(path: str, flags: int) -> int:
        if not os.fstat(handle.fileno()).st_mode & 0o600:
            denied.append(path)
            raise PermissionError
        return right(path, flags)

    monkeypatch.setattr(os, "open", denies)
    with vmo.reopen(handle.fileno(), writable=True) as other:
        assert vmo.access(other.fileno()) == (True, True)
    assert len(denied) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_a_participant_with_our_uid_cannot_lock_others_out_by_changing_the_mode() -> None:
    source = """
from sysmemd.memory import vmo
from sysmemd.memory.watch import InodeWatch
with vmo.create("x", 4096) as own, vmo.reopen(own.fileno(), writable=False) as theirs:
    os.fchmod(theirs.fileno(), 0)
    vmo.reopen(own.fileno(), writable=True).close()
    os.fchmod(theirs.fileno(), 0)
    watch = InodeWatch()
    watch.watch_closings(own.fileno())
    watch.close()
"""
    run_as(65534, source)


def test_access_of_descriptions_of_every_kind(bench: Bench) -> None:
    (handle,) = bench.strong(bench.allocate())
    path = f"/proc/self/fd/{handle.fileno()}"
    for flags, expected in (
        (os.O_RDONLY, (True, False)),
        (os.O_RDWR, (True, True)),
        (os.O_WRONLY, (False, True)),
        (os.O_PATH, (False, False)),
    ):
        fd = os.open(path, flags)
        try:
            assert vmo.access(fd) == expected
        finally:
            os.close(fd)
    assert present(handle)
