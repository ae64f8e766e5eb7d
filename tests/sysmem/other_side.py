"""The functions that other processes of `test_sharing.py` run."""

from __future__ import annotations

import os
from typing import Any

import sysmem


def write(vmo: Any, buffer: Any, info: Any, ref: Any) -> None:
    """Write into the first byte through each of the objects. No descriptor may be inherited any further."""
    with info, vmo, ref:
        for each in (vmo, buffer, info.buffers[0]):
            with each.map() as view:
                view[0] += 1
        assert not any(os.get_inheritable(each.fileno()) for each in (vmo, buffer.vmo, ref))


def hold(connection: Any, token: Any = None) -> None:
    """Use a token that was given or received, report that, and keep it until the other side sends a message."""
    with token or connection.recv() as token:
        token.sync(timeout=20)
        connection.send(type(token).__name__)
        connection.recv()


def first_byte(info: sysmem.BufferCollectionInfo) -> tuple[int, sysmem.Vmo | None]:
    """Return the first byte of the first buffer, and the buffer's memory."""
    with info.buffers[0].map() as view:
        return view[0], info.buffers[0].vmo


def answer(to: Any, back: Any) -> None:
    """Write into memory that arrives through a queue, and send it back, followed by the token."""
    with to.get() as vmo:
        with vmo.map() as view:
            view[0] += 1
        back.put(vmo)
        back.put(to.get())
        to.get()
