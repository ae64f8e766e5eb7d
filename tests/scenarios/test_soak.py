"""Ten thousand buffers are allocated and freed. The daemon and the client must not keep any memory for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sysmem import blocking
from sysmem.testing import Sysmemd

from ..mapping import BareMapping
from .scenario import ENOUGH, buffers, descriptors, event_of, eventually, vmo_of

CYCLES = 10_000
WARM_UP = 2000
#: The permitted growth of caches and of the interpreter's heap after the warm-up.
SLACK_KIB = 4096


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def shared_kib() -> int:
    """Return the shared memory (memfds and others) of the whole machine, in KiB."""
    return int(Path("/proc/meminfo").read_text().partition("Shmem:")[2].split()[0])


def allocate_weak_use_close(allocator: blocking.Allocator) -> None:
    """Use a weak participant, its event, lifetime tracking, and a mapping that outlives its descriptor."""
    with allocator.allocate_shared_collection() as token, token.duplicate() as other:
        other.set_weak()
        other.sync()
        strong = allocator.bind_shared_collection(token)
        weak = allocator.bind_shared_collection(other)
        for collection in (strong, weak):
            collection.set_constraints(buffers(8192))
        with weak.attach_lifetime_tracking() as tracking:
            strong.wait_for_all_buffers_allocated().close()
            info = weak.wait_for_all_buffers_allocated()
            vmo = vmo_of(info)
            with BareMapping(vmo.fileno()) as mapping:
                vmo.close()
                mapping[:8] = bytes(8)
                strong.release()
                assert event_of(info).wait_closed(ENOUGH)
                assert not tracking.is_closed()
            info.close()
            assert tracking.wait_closed(ENOUGH)
        weak.close()


def allocate_use_close(allocator: blocking.Allocator, number: int) -> None:
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_constraints(buffers(8192))
        with collection.wait_for_all_buffers_allocated() as info, info.buffers[0].map() as view:
            view[:8] = number.to_bytes(8, "little")
        if number % 2:
            collection.release()


@pytest.mark.timeout(400)  # the test waits for nothing else, so a busy machine only makes it longer
def test_ten_thousand_cycles_leave_nothing(client: blocking.Allocator, daemon: Sysmemd) -> None:
    for number in range(WARM_UP):
        allocate_use_close(client, number)
    allocate_weak_use_close(client)
    client.validate_buffer_collection_token(0)
    before = resident_kib(daemon.pid), resident_kib(os.getpid())
    descriptors_before = descriptors(daemon), len(os.listdir("/proc/self/fd"))
    shared = shared_kib()
    for number in range(CYCLES):
        allocate_use_close(client, number)
        if number % 50 == 0:
            allocate_weak_use_close(client)
    # The daemon notices the last closes, and closes its own descriptors, a moment later.
    eventually(lambda: descriptors(daemon) <= descriptors_before[0])
    assert len(os.listdir("/proc/self/fd")) == descriptors_before[1]
    eventually(lambda: shared_kib() < shared + 4 * SLACK_KIB)
    after = resident_kib(daemon.pid), resident_kib(os.getpid())
    assert after[0] < before[0] + SLACK_KIB, "the daemon's memory"
    assert after[1] < before[1] + SLACK_KIB, "the client's memory"
