"""Buffers exported as dma-bufs: they share the memory, keep it alive, and can be imported by devices."""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import ExitStack

import pytest

import sysmem
from sysmem import blocking

from .conftest import WAIT, Vgem, needs_udmabuf, negotiated, references

pytestmark = [needs_udmabuf, pytest.mark.timeout(600)]
RAW = sysmem.constraints(cpu="read often, write often", size_bytes=8192, hold=1)


def test_a_dma_buf_is_the_buffer_s_memory(allocator: blocking.Allocator) -> None:
    with ExitStack() as stack:
        [place], [info] = negotiated(allocator, RAW)
        stack.enter_context(place)
        stack.enter_context(info)
        vmo = info.buffers[0].vmo
        assert vmo is not None
        dma_buf = stack.enter_context(vmo.dma_buf())
        assert isinstance(dma_buf, sysmem.DmaBuf)
        assert dma_buf.size == vmo.size == 8192
        with mmap.mmap(dma_buf.fileno(), dma_buf.size) as mapped, vmo.map() as view:
            with dma_buf.sync(write=True):
                view[:5] = b"hello"
            with dma_buf.sync():
                assert mapped[:5] == b"hello"
            with dma_buf.sync(False, True):
                mapped[0] = ord("j")
            assert bytes(view[:5]) == b"jello"
        with pytest.raises(ValueError, match="needs read=True, write=True, or both"):
            stack.enter_context(dma_buf.sync(read=False))


def test_a_dma_buf_may_be_a_part_of_the_buffer(allocator: blocking.Allocator) -> None:
    [place], [info] = negotiated(allocator, RAW)
    vmo = info.buffers[0].vmo
    assert vmo is not None
    with place, info, vmo.dma_buf(4096) as end, vmo.dma_buf(0, 4096) as begin, vmo.map() as view:
        for dma_buf, offset in ((begin, 0), (end, 4096)):
            assert dma_buf.size == 4096
            with mmap.mmap(dma_buf.fileno(), dma_buf.size) as mapped:
                mapped[5] = 7
            assert view[offset + 5] == 7


def test_the_buffer_lives_as_long_as_the_dma_buf(allocator: blocking.Allocator) -> None:
    [place], [info] = negotiated(allocator, RAW)
    vmo = info.buffers[0].vmo
    assert vmo is not None
    with place.attach_lifetime_tracking() as tracking:
        with vmo.dma_buf() as dma_buf:
            info.close()
            place.release()
            assert not tracking.wait_closed(0.2)
            assert os.fstat(dma_buf.fileno()).st_size == 8192
        assert tracking.wait_closed(WAIT)


def test_a_device_imports_what_was_negotiated(allocator: blocking.Allocator, vgem: Vgem) -> None:
    with ExitStack() as stack:
        [place], [info] = negotiated(
            allocator, sysmem.constraints("B8G8R8X8 64x64", cpu="write often", hold=1)
        )
        stack.enter_context(place)
        stack.enter_context(info)
        vmo = info.buffers[0].vmo
        assert vmo is not None
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            vgem.import_dma_buf(vmo.fileno())  # a plain memfd
        dma_buf = stack.enter_context(vmo.dma_buf())
        before = references(dma_buf.fileno())
        handle = vgem.import_dma_buf(dma_buf.fileno())
        assert references(dma_buf.fileno()) > before
        vgem.close_handle(handle)
        assert references(dma_buf.fileno()) == before


def test_rights_are_advisory_for_who_may_open_the_device(allocator: blocking.Allocator) -> None:
    with ExitStack() as stack:
        reader = sysmem.constraints(cpu="read", size_bytes=4096, hold=1)
        places, infos = negotiated(allocator, RAW, reader)
        for each in (*places, *infos):
            stack.enter_context(each)
        ours, theirs = infos[0].buffers[0].vmo, infos[1].buffers[0].vmo
        assert ours is not None
        assert theirs is not None
        assert not theirs.writable
        dma_buf = stack.enter_context(theirs.dma_buf())
        with mmap.mmap(dma_buf.fileno(), dma_buf.size) as mapped:
            mapped[0] = 7
        with ours.map() as view:
            assert view[0] == 7


def test_a_buffer_over_the_kernel_s_limit_is_refused_with_the_limit(
    allocator: blocking.Allocator,
) -> None:
    with open("/sys/module/udmabuf/parameters/size_limit_mb") as file:
        limit = int(file.read())
    if limit > 200:
        pytest.skip("this kernel has no limit worth the name")
    with ExitStack() as stack:
        large = sysmem.constraints(cpu="read, write", size_bytes=(limit << 20) + 1, hold=1)
        [place], [info] = negotiated(allocator, large)
        stack.enter_context(place)
        stack.enter_context(info)
        vmo = info.buffers[0].vmo
        assert vmo is not None
        with pytest.raises(
            OSError, match=f"more than the kernel's limit for a dma-buf, {limit} MiB"
        ):
            vmo.dma_buf()
