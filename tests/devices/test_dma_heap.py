"""Buffers in a dma-heap of the kernel: they are negotiated, shared, imported by a device, and freed when unused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import sysmem
from sysmem import blocking
from sysmem.testing import ConfigError
from sysmem.testing.blocking import daemon
from sysmem_protocol.kinds import is_dma_buf

from .conftest import HEAP, WAIT, Vgem, needs_heap, negotiated, references

pytestmark = [needs_heap, pytest.mark.timeout(600)]
DMA = sysmem.Heap(heap_type="test.dma", id=0)
SECTION: dict[str, Any] = {"type": "test.dma", "kind": "dma-heap", "device": str(HEAP)}


@pytest.fixture
def allocator() -> Iterator[blocking.Allocator]:
    """A connection to a daemon with a dma-heap that is configured as contiguous."""
    with daemon({"heap": [{**SECTION, "contiguous": True}]}) as running, running.connect() as made:
        yield made


def writes(**more: Any) -> sysmem.BufferCollectionConstraints:
    return sysmem.constraints(
        cpu="read often, write often", size_bytes=8192, hold=1, heap="test.dma", **more
    )


def reads() -> sysmem.BufferCollectionConstraints:
    return sysmem.constraints(cpu="read", size_bytes=4096, heap="test.dma", hold=1)


def test_participants_share_a_dma_buf(allocator: blocking.Allocator) -> None:
    with ExitStack() as stack:
        places, infos = negotiated(allocator, writes(), writes())
        for each in (*places, *infos):
            stack.enter_context(each)
        assert infos[0].settings.buffer_settings.heap == DMA
        ours, theirs = infos[0].buffers[0].vmo, infos[1].buffers[0].vmo
        assert ours is not None
        assert theirs is not None
        assert is_dma_buf(ours.fileno())
        with pytest.raises(ValueError, match="can't be divided"):
            ours.dma_buf(4096)
        assert (ours.size, ours.writable, theirs.writable) == (8192, True, True)
        with ours.map() as view:
            assert bytes(view[:5]) == bytes(5)
            view[:5] = b"hello"
        with theirs.map() as view:
            assert bytes(view[:5]) == b"hello"
        assert infos[1].buffers[0].mapping()[0] == ord("h")
        found = allocator.get_vmo_info(theirs, timeout=WAIT)
        assert found.buffer_index == 0
        assert found.close_weak_asap is None
        found.close()


def test_the_memory_is_given_back_when_the_last_reference_is_gone(
    allocator: blocking.Allocator, vgem: Vgem
) -> None:
    [place], [info] = negotiated(allocator, writes())
    vmo = info.buffers[0].vmo
    assert vmo is not None
    with place.attach_lifetime_tracking(1) as one_left, place.attach_lifetime_tracking() as none:
        dma_buf = vmo.dma_buf()
        handle = vgem.import_dma_buf(dma_buf.fileno())
        assert references(dma_buf.fileno()) > 2
        assert one_left.wait_closed(WAIT)
        dma_buf.close()
        info.close()
        place.release()
        assert not none.wait_closed(1.5)  # the device holds it
        vgem.close_handle(handle)
        assert none.wait_closed(WAIT)


def test_readers_and_writers_or_weak_participants_do_not_go_together(
    allocator: blocking.Allocator,
) -> None:
    with pytest.raises(sysmem.SysmemError) as caught:
        negotiated(allocator, writes(), reads())
    assert caught.value.error is sysmem.Error.CONSTRAINTS_INTERSECTION_EMPTY
    with allocator.allocate_shared_collection() as root:
        [strong, weak] = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 2, timeout=WAIT)
        weak.set_weak()
        with (
            allocator.bind_shared_collection(strong) as ours,
            allocator.bind_shared_collection(weak) as theirs,
        ):
            theirs.set_weak_ok()
            ours.set_constraints(writes())
            theirs.set_constraints(writes())
            root.release()
            with pytest.raises(sysmem.SysmemError):
                ours.wait_for_all_buffers_allocated(timeout=WAIT)


def test_readers_alone_get_memory_that_none_can_write(allocator: blocking.Allocator) -> None:
    with ExitStack() as stack:
        [place], [info] = negotiated(allocator, reads())
        stack.enter_context(place)
        stack.enter_context(info)
        vmo = info.buffers[0].vmo
        assert vmo is not None
        assert not vmo.writable
        with vmo.map() as view:
            assert view.readonly


def test_contiguous_memory_comes_from_the_heap_that_has_it(allocator: blocking.Allocator) -> None:
    with ExitStack() as stack:
        wish = sysmem.constraints(cpu="write", size_bytes=4096, hold=1, contiguous=True)
        [place], [info] = negotiated(allocator, wish)
        stack.enter_context(place)
        stack.enter_context(info)
        assert info.settings.buffer_settings.heap == DMA
        assert info.settings.buffer_settings.is_physically_contiguous


def test_a_device_that_is_not_there_stops_the_daemon_with_its_name() -> None:
    section = {**SECTION, "device": "/dev/dma_heap/no-such-heap"}
    with (
        pytest.raises(ConfigError, match="no-such-heap: the kernel has no dma-heap of this name"),
        daemon({"heap": [section]}),
    ):
        pass


def test_nothing_stays_open(allocator: blocking.Allocator) -> None:
    before = len(os.listdir("/proc/self/fd"))
    [place], [info] = negotiated(allocator, writes())
    with place.attach_lifetime_tracking() as gone:
        info.close()
        place.release()
        assert gone.wait_closed(WAIT)
    allocator.validate_buffer_collection_token(1, timeout=WAIT)
    assert len(os.listdir("/proc/self/fd")) <= before
