"""What other processes of `test_sharing.py` do."""

from __future__ import annotations

import os
from typing import Any

import sysmem


def write(vmo: Any, buffer: Any, info: Any, ref: Any) -> None:
    """Write into the first byte by each of them; no descriptor may be inherited further."""
    with info, vmo, ref:
        for each in (vmo, buffer, info.buffers[0]):
            with each.map() as view:
                view[0] += 1
        assert not any(os.get_inheritable(each.fileno()) for each in (vmo, buffer.vmo, ref))


def hold(connection: Any, token: Any = None) -> None:
    """Use a token, given or received, say so, and have it until there is word from the other side."""
    with token or connection.recv() as token:
        token.sync(timeout=20)
        connection.send(type(token).__name__)
        connection.recv()


def first_byte(info: sysmem.BufferCollectionInfo) -> tuple[int, sysmem.Vmo | None]:
    """The first byte of the first buffer, and its memory."""
    with info.buffers[0].map() as view:
        return view[0], info.buffers[0].vmo


def answer(to: Any, back: Any) -> None:
    """Write into the memory that comes through a queue, and send it back, and the token after it."""
    with to.get() as vmo:
        with vmo.map() as view:
            view[0] += 1
        back.put(vmo)
        back.put(to.get())
        to.get()
