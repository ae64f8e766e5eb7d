"""Tests of dma-bufs that need no device; the others are in tests/devices."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from sysmemd.memory import DmaHeap, HeapSettings, dma_buf_users


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = HeapSettings("x", device=str(tmp_path / "no-such-heap"))
    with pytest.raises(OSError, match="the kernel has no dma-heap of this name") as caught:
        DmaHeap(settings)
    assert caught.value.filename == settings.device


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EACCES, f"user {os.geteuid()} has no permission to open this dma-heap"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_what_else_keeps_a_device_closed_is_named(
    monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("sysmemd.memory.dma_heap.os.open", refuse)
    with pytest.raises(OSError, match=told):
        DmaHeap(HeapSettings("x", device="/dev/dma_heap/system"))


@pytest.mark.parametrize(("writable", "access"), [(True, os.O_RDWR), (False, os.O_RDONLY)])
def test_a_buffer_is_asked_for_and_named_in_the_kernels_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool, access: int
) -> None:
    asked: list[tuple[int, bytes]] = []

    def ioctl(fd: int, number: int, argument: bytes | bytearray) -> None:
        asked.append((number, bytes(argument)))
        if isinstance(argument, bytearray):
            struct.pack_into("=I", argument, 8, os.memfd_create("made"))

    monkeypatch.setattr("sysmemd.memory.dma_heap.fcntl", SimpleNamespace(ioctl=ioctl))
    (tmp_path / "device").touch()
    heap = DmaHeap(HeapSettings("x", device=str(tmp_path / "device")))
    with heap._create("n" * 40, 8192, writable=writable) as made:
        assert "made" in os.readlink(f"/proc/self/fd/{made.fileno()}")
    heap.close()
    assert asked == [
        (0xC0184800, struct.pack("=QIIQ", 8192, 0, access | os.O_CLOEXEC, 0)),
        (0x40086201, b"n" * 31 + b"\0"),
    ]


@pytest.mark.parametrize(
    ("mode", "group", "users"),
    [
        (0o600, 0, None),
        (0o611, 104, None),
        (0o660, 0, None),
        (0o640, 104, "the group 104"),
        (0o620, 104, "the group 104"),
        (0o604, 104, "every user"),
        (0o602, 0, "every user"),
    ],
)
def test_who_may_make_dma_bufs(tmp_path: Path, mode: int, group: int, users: str | None) -> None:
    device = tmp_path / "udmabuf"
    assert dma_buf_users(str(device)) is None
    device.touch()
    device.chmod(mode)
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to others")
    os.chown(device, 0, group)
    assert dma_buf_users(str(device)) == users


def test_a_user_of_its_own_may_make_them(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to others")
    (tmp_path / "udmabuf").touch(0o600)
    os.chown(tmp_path / "udmabuf", 1000, 0)
    assert dma_buf_users(str(tmp_path / "udmabuf")) == "the user 1000"
