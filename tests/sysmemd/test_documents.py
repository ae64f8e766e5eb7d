"""Texts that clients receive as a VMO."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import closing
from unittest.mock import Mock

import pytest

from sysmem_protocol.handles import Handle
from sysmemd.documents import Document


def test_readers_have_a_file_each_and_can_change_nothing() -> None:
    with closing(Document("sysmem text", [b"one, ", b"two"])) as document:
        handles = [document.open() for _ in range(2)]
        document.close()
    for handle in handles:
        with handle:
            fd = handle.fileno()
            assert os.read(fd, 100) == b"one, two"
            assert "sysmem text" in os.readlink(f"/proc/self/fd/{fd}")
            assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o400
            assert not os.get_inheritable(fd)
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & seals == seals


def test_a_text_that_can_not_be_finished_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Handle] = []

    def note(fd: int) -> Handle:
        made.append(Handle(fd))
        return made[-1]

    monkeypatch.setattr("sysmemd.documents.Handle", note)
    monkeypatch.setattr(os, "fchmod", Mock(side_effect=OSError("no memory")))
    with pytest.raises(OSError, match="no memory"):
        Document("sysmem text", [b"one"])
    assert made[0].closed
