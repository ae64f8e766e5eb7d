"""`docs/spec/protocol.md`, Allocator.GetVmoInfo: its answers about a VMO, and its errors."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Any

import pytest

from .protocol import METHODS, NOT_FOUND, PROTOCOL_DEVIATION, constraints, header
from .raw import Allocator, Collection, Descriptor, Info, Refused, Wire


def allocated(wire: Wire, **table: Any) -> tuple[Allocator, Collection, Info]:
    allocator = wire.connect()
    collection = allocator.non_shared()
    return allocator, collection, collection.allocate(**table)


def refused(allocator: Allocator, vmo: Any, **fields: Any) -> int:
    with pytest.raises(Refused) as caught:
        allocator.vmo_info(vmo, **fields)
    return caught.value.error


def test_id_and_index_and_nothing_that_was_not_asked_for(wire: Wire) -> None:
    allocator, _, info = allocated(wire, camping=5)
    for index in range(5):
        assert allocator.vmo_info(info.vmo(index)) == {1: info.collection_id, 2: index}
        assert allocator.vmo_info(
            info.vmo(index), need_weak=False, need_settings=False, ignore_size=False
        ) == {1: info.collection_id, 2: index}


def test_single_buffer_settings(wire: Wire) -> None:
    allocator, _, info = allocated(wire, size=7777)
    assert allocator.vmo_info(info.vmo(), need_settings=True)[5] == info.settings


def test_constraints_ok(wire: Wire) -> None:
    allocator, _, info = allocated(wire, size=5000)
    vmo = info.vmo()

    def ok(table: dict[int, Any]) -> bool:
        answer = allocator.vmo_info(vmo, constraints=table)[6]
        assert isinstance(answer, bool)
        return answer

    assert ok({})
    assert ok(constraints(size=5000))
    assert ok(constraints(size=1))
    assert not ok(constraints(size=5001))
    assert not ok(constraints(size=None, memory={2: 4999}))
    assert ok(constraints(size=5000, camping=100))  # counts are ignored
    assert ok(constraints(size=5000, more={6: 1, 5: 1}))
    assert not ok(constraints(size=1, memory={3: True}))  # not contiguous
    assert not ok(constraints(size=1, memory={8: [{1: "example.other.HEAP"}]}))
    # whether anybody uses the buffers is ignored too
    assert ok({1: {1: 1}, 7: {1: 1}})
    # the collection has no image format
    assert not ok(constraints(size=1, more={8: [{1: 101, 2: 0, 3: [1], 4: [1, 1]}]}))


def test_constraints_ok_with_a_required_max_size_that_does_not_fit(wire: Wire) -> None:
    entry: dict[int, Any] = {1: 101, 2: 0, 3: [1], 4: [64, 64], 18: [[100, 100]]}
    allocator, _, info = allocated(wire, size=None, more={8: [entry]})

    def ok(**more: Any) -> bool:
        numbers = {"color_spaces": 3, "required_max_size": 12, "required_max_size_list": 18}
        table = entry | {numbers[name]: value for name, value in more.items()}
        table = constraints(size=None, more={8: [table]})
        return bool(allocator.vmo_info(info.vmo(), constraints=table)[6])

    assert ok()
    assert ok(required_max_size_list=[[64, 64], [100, 100]])  # this compares the same settings
    assert not ok(required_max_size=[101, 100])
    assert not ok(required_max_size_list=[[1000, 1000]])
    assert not ok(color_spaces=[2])


def test_constraints_to_check_that_break_a_check_are_false(wire: Wire) -> None:
    allocator, _, info = allocated(wire)
    assert allocator.vmo_info(info.vmo(), constraints=constraints(memory={2: 1}))[6] is False
    assert allocator.vmo_info(info.vmo(), constraints={7: {9: 4096}})[6] is False


def test_vmo_settings_match(wire: Wire) -> None:
    allocator, _, small = allocated(wire, size=4096)
    other = allocated(wire, size=4096, camping=4)[2]
    large = allocated(wire, size=9000)[2]
    image = allocated(wire, more={8: [{1: 101, 2: 0, 3: [1], 4: [16, 16]}]})[2]

    def match(of: Info, **more: Any) -> bool:
        answer = allocator.vmo_info(small.vmo(), settings_of=of.vmo().duplicate(), **more)[7]
        assert isinstance(answer, bool)
        return answer

    assert match(other)
    assert match(small)
    assert not match(large)
    assert not match(large, ignore_size=False)
    assert match(large, ignore_size=True)
    assert not match(image, ignore_size=True)


def test_everything_at_once(wire: Wire) -> None:
    allocator, _, info = allocated(wire)
    answer = allocator.vmo_info(
        info.vmo(),
        need_weak=True,
        need_settings=True,
        constraints={},
        settings_of=info.vmo().duplicate(),
        ignore_size=True,
    )
    assert set(answer) == {1, 2, 3, 4, 5, 6, 7}
    assert answer[5] == info.settings
    assert answer[6] is answer[7] is True


def test_works_as_long_as_any_handle_is_open_also_after_the_collection_failed(wire: Wire) -> None:
    allocator, collection, info = allocated(wire)
    collection.close()
    only = Descriptor(wire, os.dup(info.vmo().fileno()))
    info.close()
    assert allocator.vmo_info(only, need_settings=True) == {
        1: info.collection_id,
        2: 0,
        5: info.settings,
    }


def test_the_handle_passed_in_counts(wire: Wire) -> None:
    allocator, collection, info = allocated(wire)
    gone = collection.track_lifetime(0)
    collection.sync()
    vmo = info.vmo().duplicate()
    info.close()
    collection.close()
    answer = allocator.request("Allocator.GetVmoInfo", {1: vmo, 3: True})
    assert allocator.answer(answer).result()[1] == info.collection_id
    gone.wait_closed()


def test_field_5_that_is_no_sysmem_vmo(wire: Wire) -> None:
    allocator, _, info = allocated(wire)
    assert refused(allocator, info.vmo(), settings_of=wire.memfd()) == NOT_FOUND
    assert refused(allocator, info.vmo(), settings_of=wire.eventfd()) == PROTOCOL_DEVIATION
    assert refused(allocator, info.vmo(), settings_of=wire.pair()[1]) == PROTOCOL_DEVIATION
    allocator.sync()


def test_a_copy_is_no_sysmem_vmo(wire: Wire) -> None:
    allocator, _, info = allocated(wire)
    copy = wire.memfd(info.vmo().size())
    copy.map()[:] = info.vmo().map()[:]
    assert refused(allocator, copy) == NOT_FOUND


def test_a_child_made_by_reopening_is_answered_one_way_or_the_other(wire: Wire) -> None:
    """Only a participant with the daemon's uid can reopen. No other participant's memory is affected."""
    allocator, collection, info = allocated(wire)
    reopened = wire.file(f"/proc/self/fd/{info.vmo().fileno()}", os.O_RDWR)
    answer = allocator.call("Allocator.GetVmoInfo", {1: reopened}).body
    assert answer == {2: NOT_FOUND} or answer[1][1] == info.collection_id
    collection.sync()


def test_un_set_vmo_is_a_protocol_deviation(wire: Wire) -> None:
    allocator, _, info = allocated(wire)
    assert refused(allocator, None) == PROTOCOL_DEVIATION
    assert refused(allocator, None, settings_of=info.vmo().duplicate()) == PROTOCOL_DEVIATION
    allocator.sync()


def test_a_path_descriptor_of_a_vmo_is_refused(wire: Wire) -> None:
    allocator, _, info = allocated(wire)
    path = wire.file(f"/proc/self/fd/{info.vmo().fileno()}", os.O_PATH)
    with pytest.raises(Refused):
        allocator.vmo_info(path)
    allocator.sync()


def test_malformed_get_vmo_info_closes_the_allocator(wire: Wire) -> None:
    allocator, collection, info = allocated(wire)
    ordinal = METHODS["Allocator.GetVmoInfo"][0]
    allocator.send_bytes(header(1, ordinal) + b"\xa2\x01\xd9\x7a\x5d\x00\x02\x01", [info.vmo()])
    allocator.assert_closes()
    collection.sync()


def test_handles_are_consumed_also_when_refused(wire: Wire) -> None:
    allocator, _, info = allocated(wire)
    mine, theirs = wire.eventpair()
    assert refused(allocator, theirs, settings_of=info.vmo().duplicate()) == PROTOCOL_DEVIATION
    theirs.close()
    mine.wait_closed()


def test_a_client_that_plays_with_its_locks_harms_nobody(wire: Wire) -> None:
    """`docs/spec/linux.md`, "Who still holds a buffer": the client sets its own locks on the whole range."""
    allocator, collection, info = allocated(wire, camping=2)
    gone = collection.track_lifetime(0)
    collection.sync()
    vmo = info.vmo()

    def lock(kind: int) -> None:
        request = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(vmo.fileno(), fcntl.F_OFD_SETLK, request)

    strong = {1: info.collection_id, 2: 0}
    assert allocator.vmo_info(vmo) == strong
    lock(fcntl.F_UNLCK)
    dropped = allocator.vmo_info(vmo)
    event = dropped.pop(3)
    assert dropped == strong
    assert not event.is_closed(), "a strong node is left"
    lock(fcntl.F_RDLCK)
    assert allocator.vmo_info(vmo) == strong
    with pytest.raises(BlockingIOError):
        lock(fcntl.F_WRLCK)
    assert allocator.vmo_info(vmo) == strong
    assert allocator.vmo_info(info.vmo(1)) == {1: info.collection_id, 2: 1}
    collection.sync()
    collection.close()
    allocator.sync()
    assert not event.is_closed()
    assert not gone.is_closed()
    info.close()
    event.wait_closed()
    gone.wait_closed()
