"""The kernel's reports from inotify."""

from __future__ import annotations

import os
import struct

import pytest

from sysmem_protocol.handles import Handle
from sysmemd.inotify import Inotify
from sysmemd.memory import vmo, watch
from sysmemd.memory.watch import Hangups, InodeWatch

from .harness import PAGE, pair


@pytest.fixture
def own() -> Handle:
    return vmo.create("own", PAGE)


def test_the_end_is_reported_when_the_last_reference_is_gone(own: Handle) -> None:
    inodes = InodeWatch()
    number = inodes.watch_end(own.fileno())
    other = vmo.reopen(own.fileno(), writable=False)
    assert inodes.alive() == inodes.alive() == {number}
    own.close()
    assert inodes.read() == watch.Reports()
    other.close()
    assert inodes.alive() == set()
    assert inodes.read() == watch.Reports(ends={number})
    inodes.close()
    inodes.close()


def test_closings_are_reported_when_asked_for(own: Handle) -> None:
    inodes = InodeWatch()
    number = inodes.watch_end(own.fileno())
    vmo.reopen(own.fileno(), writable=True).close()
    assert inodes.read() == watch.Reports()
    assert inodes.watch_closings(own.fileno()) == number
    for writable in (False, True):
        vmo.reopen(own.fileno(), writable=writable).close()
        assert inodes.read() == watch.Reports(closings={number})
    assert inodes.watch_end(own.fileno()) == number
    vmo.reopen(own.fileno(), writable=True).close()
    assert inodes.read() == watch.Reports()
    own.close()
    inodes.close()


def test_many_reports_can_be_taken_some_at_a_time() -> None:
    inodes = InodeWatch()
    buffers = [vmo.create(str(index), PAGE) for index in range(20)]
    left = {inodes.watch_end(buffer.fileno()) for buffer in buffers}
    assert inodes.alive() == left
    for buffer in buffers:
        buffer.close()
    while left:
        ended = inodes.read(4).ends
        assert 1 <= len(ended) <= 4
        left -= ended
    assert not inodes.read(4)
    inodes.close()


def test_names_and_unknown_reports_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    event = struct.Struct("iIII")
    data = (
        event.pack(3, 0x8, 0, 16)
        + b"name".ljust(16, b"\0")
        + event.pack(4, 0x400, 0, 0)
        + event.pack(5, 0x10, 0, 0)
        + event.pack(-1, 0x4000, 0, 0)
    )
    inodes = InodeWatch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "read", lambda *_: data)
        assert inodes.read() == watch.Reports(closings={3, 5}, overflow=True)
    inodes.close()


def test_what_cannot_be_watched() -> None:
    inodes = InodeWatch()
    near, far = pair()
    near.close()
    with pytest.raises(OSError, match="No such file"):
        inodes.watch_end(1 << 20)
    far.close()
    inodes.close()


def test_a_denied_watch_is_tried_again_with_the_mode_put_right(
    own: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.fchmod(own.fileno(), 0)
    calls: list[str] = []
    really_watch = Inotify.watch

    def refuse_once(self: Inotify, path: str, mask: int) -> int:
        calls.append(path)
        if len(calls) == 1:
            raise PermissionError
        return really_watch(self, path, mask)

    inodes = InodeWatch()
    monkeypatch.setattr(Inotify, "watch", refuse_once)
    number = inodes.watch_end(own.fileno())
    assert len(calls) == 2
    assert inodes.alive() == {number}
    assert os.fstat(own.fileno()).st_mode & 0o777 == 0o600
    own.close()
    inodes.close()


def test_a_callback_may_remove_one_that_is_due() -> None:
    hangups = Hangups()
    (near_1, far_1), (near_2, far_2) = pair(), pair()
    calls = []

    def end() -> None:
        calls.append(1)
        hangups.remove(near_1.fileno())
        hangups.remove(near_2.fileno())

    hangups.add(near_1.fileno(), end)
    hangups.add(near_2.fileno(), end)
    hangups.process()
    assert not calls
    far_1.close()
    far_2.close()
    hangups.process()
    assert calls == [1]
    hangups.process()
    near_1.close()
    near_2.close()
    hangups.close()
