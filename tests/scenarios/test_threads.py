"""Objects used from several threads at once (`docs/spec/client-api.md`)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

import sysmem
from sysmem import PeerClosedError, blocking

from .scenario import ENOUGH, begin_wait, buffers, participants, pool, vmo_of

T = TypeVar("T")


def together(count: int, work: Callable[[int], T]) -> list[T]:
    """Call the same function in several threads that start at the same moment."""
    barrier = threading.Barrier(count)

    def run(index: int) -> T:
        barrier.wait(ENOUGH)
        return work(index)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count), timeout=ENOUGH))


def test_a_sync_is_answered_while_a_wait_is_pending(client: blocking.Allocator) -> None:
    with participants(client, 1) as (gate, (collection,)):
        collection.set_constraints(buffers())
        waits = [begin_wait(collection) for _ in range(3)]
        for _ in range(20):
            collection.sync(timeout=ENOUGH)
            assert collection.get_buffer_collection_id(timeout=ENOUGH) > 1
        assert not any(wait.done() for wait in waits)
        gate.release()
        infos = [wait.result(ENOUGH) for wait in waits]
        assert len({vmo_of(info).fileno() for info in infos}) == 3
        for info in infos:
            info.close()


def test_a_sync_first_and_a_wait_after_it_in_other_threads(client: blocking.Allocator) -> None:
    with participants(client, 1) as (gate, (collection,)):
        collection.set_constraints(buffers())

        def work(index: int) -> int:
            if index < 8:
                with collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
                    assert info.buffers is not None
                    return len(info.buffers)
            if index == 8:
                for _ in range(50):
                    collection.sync(timeout=ENOUGH)
                gate.release()
                return 1
            for _ in range(100):
                collection.sync(timeout=ENOUGH)
            return 1

        assert set(together(16, work)) == {1}


def test_one_allocator_serves_many_threads(client: blocking.Allocator) -> None:
    def work(index: int) -> int | None:
        for _ in range(5):
            with client.allocate_non_shared_collection() as collection:
                collection.set_constraints(buffers(1000 + index))
                with collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
                    found = client.get_vmo_info(vmo_of(info), need_single_buffer_settings=True)
                    assert found.single_buffer_settings == info.settings
                    assert info.settings is not None
                    assert info.settings.buffer_settings is not None
                    assert info.settings.buffer_settings.size_bytes == 1000 + index
                collection.release()
        return info.buffer_collection_id

    assert len(set(together(12, work))) == 12


def test_one_token_is_duplicated_by_many_threads(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token:

        def work(index: int) -> int:
            made = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * (index + 1))
            made += [token.duplicate() for _ in range(3)]
            for child in made:
                child.release()
            return len(made)

        assert together(10, work) == [index + 4 for index in range(10)]
        token.sync()


def test_one_threads_timeout_is_its_own(client: blocking.Allocator) -> None:
    with participants(client, 1) as (gate, (collection,)):
        collection.set_constraints(buffers())

        def work(index: int) -> str:
            try:
                with collection.wait_for_all_buffers_allocated(
                    timeout=0.02 if index % 2 else ENOUGH
                ):
                    return "answered"
            except TimeoutError:
                if index == 1:
                    for _ in range(10):
                        collection.sync(timeout=ENOUGH)
                    gate.release()
                return "too late"

        assert together(8, work) == ["answered", "too late"] * 4
        collection.sync()


def test_the_servers_close_reaches_every_waiting_thread(client: blocking.Allocator) -> None:
    with participants(client, 2) as (gate, (one, two)):
        one.set_constraints(buffers())

        def work(index: int) -> str:
            if index == 0:
                for _ in range(20):
                    one.sync(timeout=ENOUGH)
                two.close()
                return "closed"
            if index % 2:
                return str(one.wait_closed(timeout=ENOUGH))
            try:
                one.wait_for_all_buffers_allocated(timeout=ENOUGH)
            except PeerClosedError:
                return "peer closed"
            return "answered"

        found = together(9, work)
        assert found[0] == "closed"
        assert set(found[1::2]) == {"True"}
        assert set(found[2::2]) == {"peer closed"}
        assert gate.wait_closed(timeout=ENOUGH)


def test_a_close_in_another_thread_ends_a_wait(client: blocking.Allocator) -> None:
    with participants(client, 1) as (_, (collection,)):
        collection.set_constraints(buffers())
        waits = [begin_wait(collection) for _ in range(2)]
        closed = pool.submit(collection.wait_closed, timeout=ENOUGH)
        collection.close()
        for wait in waits:
            with pytest.raises((sysmem.HandleClosedError, PeerClosedError)):
                wait.result(ENOUGH)
        assert closed.exception(ENOUGH) is not None or closed.result() in (True, False)


def test_event_pairs_are_waited_for_by_many(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token, token.attach_node_tracking() as tracking:

        def work(index: int) -> bool:
            if index == 0:
                token.sync()
                token.close()
            return tracking.wait_closed(timeout=ENOUGH)

        assert together(8, work) == [True] * 8


def test_many_threads_map_one_buffer(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(buffers())
        with collection.wait_for_all_buffers_allocated() as info:

            def work(index: int) -> int:
                for _ in range(20):
                    with vmo_of(info).map() as view, vmo_of(info).duplicate() as copy:
                        view[index] = index
                        assert copy.size == 4096
                return index

            together(8, work)
            with vmo_of(info).map() as view:
                assert bytes(view[:8]) == bytes(range(8))


def test_a_wait_can_be_tried_again_and_again(client: blocking.Allocator) -> None:
    # More than the number of outstanding calls that the daemon allows on one channel (`docs/spec/protocol.md`: 1,024).
    with participants(client, 1) as (gate, (collection,)):
        collection.set_constraints(buffers())
        for _ in range(1100):
            with pytest.raises(TimeoutError):
                collection.wait_for_all_buffers_allocated(timeout=0)
        collection.sync(timeout=ENOUGH)
        gate.release()
        collection.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
        collection.sync(timeout=ENOUGH)


def test_messages_one_way_in_any_number(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token:
        for priority in range(3000):
            token.set_name(priority, f"name {priority}", timeout=ENOUGH)
        token.sync(timeout=ENOUGH)
