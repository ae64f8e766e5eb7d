"""Errors without `/dev/udmabuf`, or without permission to open it. tests/devices tests the working cases."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import sysmem
from sysmem import _dma_buf

from .images import buffer


@pytest.fixture
def vmo() -> Iterator[sysmem.Vmo]:
    with closing(buffer()) as made:
        assert made.vmo is not None
        yield made.vmo


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOENT, "needs a kernel with CONFIG_UDMABUF"),
        (errno.ENODEV, "modprobe udmabuf"),
        (errno.EACCES, f"user {os.geteuid()} has no permission to open the device"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_a_missing_device_or_permission_is_named(
    vmo: sysmem.Vmo, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("sysmem._dma_buf.os.open", refuse)
    with pytest.raises(OSError, match=told) as caught:
        vmo.dma_buf()
    assert caught.value.errno == number
    assert caught.value.filename == "/dev/udmabuf"


@pytest.mark.parametrize(
    ("size", "number", "told"),
    [
        (
            3 << 20,
            errno.EINVAL,
            "3145728 bytes are more than the kernel's limit for a dma-buf, 2 MiB",
        ),
        (5000, errno.EINVAL, "a dma-buf consists of whole pages, and the VMO has 5000 bytes"),
        (4096, errno.EINVAL, "sealed against shrinking"),
        (4096, errno.ENOMEM, "makes no dma-buf of this VMO: Cannot allocate memory"),
    ],
)
def test_what_the_kernel_refuses_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int, number: int, told: str
) -> None:
    def refuse(fd: int, request: int, argument: object) -> int:
        raise OSError(number, os.strerror(number))

    (tmp_path / "limit").write_text("2\n")
    monkeypatch.setattr(_dma_buf, "DEVICE", os.devnull)
    monkeypatch.setattr(_dma_buf, "_SIZE_LIMIT", str(tmp_path / "limit"))
    monkeypatch.setattr("sysmem._dma_buf.fcntl.ioctl", refuse)
    with closing(buffer(size)) as made:
        assert made.vmo is not None
        with pytest.raises(OSError, match=told) as caught:
            made.vmo.dma_buf()
    assert caught.value.errno == number


def test_a_memfd_is_no_dma_buf_yet(vmo: sysmem.Vmo) -> None:
    from sysmem_protocol.kinds import is_dma_buf, is_vmo

    assert is_vmo(vmo.fileno())
    assert not is_dma_buf(vmo.fileno())


@pytest.mark.parametrize(
    ("offset", "size", "told"),
    [
        (0, 4097, "aren't a part of 4096 bytes"),
        (4096, None, "0 bytes from byte 4096 aren't a part"),
        (-4096, 4096, "aren't a part"),
        (2048, None, "has whole pages of 4096 bytes, and can't be 2048 bytes from byte 2048"),
        (0, 100, "whole pages"),
    ],
)
def test_a_part_that_is_no_pages_of_the_buffer_is_refused(
    offset: int, size: int | None, told: str
) -> None:
    with closing(buffer(4096)) as made:
        assert made.vmo is not None
        with pytest.raises(ValueError, match=told):
            made.vmo.dma_buf(offset, size)
