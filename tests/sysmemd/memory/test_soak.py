"""10,000 rounds leave nothing behind."""

from __future__ import annotations

import gc
import mmap
import os
import resource

from .harness import PAGE, Bench


def test_10000_rounds_of_allocate_use_close(bench: Bench) -> None:
    def one_round(number: int) -> None:
        buffers = bench.allocate(size=16 * PAGE, collection_id=number)
        bench.tracker(buffers)
        (strong,) = bench.strong(buffers)
        ((weak, event),) = bench.weak(buffers)
        with mmap.mmap(strong.fileno(), PAGE) as memory:
            memory[:4] = b"used"
        info = bench.memory.identify(strong.fileno())
        assert info is not None
        assert info.collection_id == number
        assert not info.is_weak
        buffers.drop_strong()
        for handle in (strong, weak, event):
            handle.close()
        bench.memory.process_events()
        bench.memory.process_events()
        bench.clock.run_due()
        for made in bench._handles:
            made.close()
        bench._handles.clear()

    for number in range(200):
        one_round(number)
    gc.collect()
    descriptors, memory = set(os.listdir("/proc/self/fd")), resident_bytes()
    for number in range(10_000):
        one_round(number)
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert resident_bytes() - memory < 4 << 20
    assert bench.states() == {}
    assert bench.memory.statistics().heaps[0].used_bytes == 0
    assert bench.memory._by_watch == {}
    assert bench.memory._watch.alive() == set()
    assert bench.clock.next_due() is None
    assert sorted(bench.no_strong[200:]) == list(range(10_000))


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
