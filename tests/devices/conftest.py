"""Fixtures of the tests with real devices. `make devices` runs them in a virtual machine that has the devices."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import sysmem
from sysmem import blocking
from sysmem.testing.blocking import daemon

WAIT = 120.0  # an emulated processor is slow
HEAP = Path("/dev/dma_heap/system")
needs_udmabuf = pytest.mark.skipif(
    not os.access("/dev/udmabuf", os.R_OK | os.W_OK), reason="no /dev/udmabuf: run `make devices`"
)
needs_heap = pytest.mark.skipif(
    not os.access(HEAP, os.R_OK | os.W_OK), reason=f"no {HEAP}: run `make devices`"
)


@pytest.fixture
def allocator() -> Iterator[blocking.Allocator]:
    """A connection to a daemon in a thread: another process would take seconds to import things."""
    with daemon() as running, running.connect() as connected:
        yield connected


def references(fd: int) -> int:
    """Return the number of references to a dma-buf."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("count:")))


class Vgem:
    """A virtual graphics device that imports dma-bufs (PRIME)."""

    def __init__(self) -> None:
        cards = sorted(Path("/dev/dri").glob("card*")) if Path("/dev/dri").exists() else []
        if not cards:
            pytest.skip("no graphics device: run `make devices`")
        self._fd = os.open(cards[0], os.O_RDWR | os.O_CLOEXEC)

    def import_dma_buf(self, fd: int) -> int:
        """Take a dma-buf, and return the device's handle for it."""
        return self._ioctl(3, 0x2E, "IIi", 0, 0, fd)[0]

    def close_handle(self, handle: int) -> None:
        """Close a handle to an imported dma-buf."""
        self._ioctl(1, 0x09, "II", handle, 0)

    def close(self) -> None:
        """Close the device."""
        os.close(self._fd)

    def _ioctl(self, direction: int, number: int, layout: str, *values: int) -> tuple[int, ...]:
        request = bytearray(struct.pack(layout, *values))
        fcntl.ioctl(
            self._fd, direction << 30 | len(request) << 16 | ord("d") << 8 | number, request
        )
        return struct.unpack(layout, request)


@pytest.fixture
def vgem() -> Iterator[Vgem]:
    """A graphics device."""
    device = Vgem()
    yield device
    device.close()


def negotiated(
    allocator: blocking.Allocator, *participants: sysmem.BufferCollectionConstraints
) -> tuple[list[blocking.BufferCollection], list[sysmem.BufferCollectionInfo]]:
    """The collections and buffers of the participants of one collection. The caller closes them."""
    with ExitStack() as undo, allocator.allocate_shared_collection() as root:
        tokens = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * len(participants), timeout=WAIT)
        places = [undo.enter_context(allocator.bind_shared_collection(each)) for each in tokens]
        for place, constraints in zip(places, participants, strict=True):
            place.set_constraints(constraints)
        root.release()
        infos = [place.wait_for_all_buffers_allocated(timeout=WAIT) for place in places]
        undo.pop_all()
    return places, infos
