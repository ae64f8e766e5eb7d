"""Where everything begins: connecting to the daemon, and what its Allocator can do."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Self

from sysmem_protocol import sysmem2 as m

from .._arguments import wrong_kind
from .._connect import connected
from .._vmo import Vmo, VmoInfo, borrowed
from .channel_object import ChannelObject
from .client_end import CONNECT_MAY_WAIT
from .nodes import BufferCollection, BufferCollectionToken


class Allocator(ChannelObject):
    """A connection to the daemon, from :func:`connect`. Closing it has no effect on what was made through it."""

    __slots__ = ()
    _interface = m.Allocator

    # of the async face only
    def __await__(self) -> Generator[None, None, Self]:
        """Give the Allocator itself: `connect()` has connected already, and `await connect()` says the same."""
        yield from ()
        return self

    async def allocate_non_shared_collection(
        self, *, timeout: float | None = None
    ) -> BufferCollection:
        """Make a collection with one participant."""
        return BufferCollection(
            await self._open(m.Allocator.allocate_non_shared_collection, timeout)
        )

    async def allocate_shared_collection(
        self, *, timeout: float | None = None
    ) -> BufferCollectionToken:
        """Make a collection for several participants, and get its root token."""
        return BufferCollectionToken(
            await self._open(m.Allocator.allocate_shared_collection, timeout)
        )

    async def bind_shared_collection(
        self, token: BufferCollectionToken, *, timeout: float | None = None
    ) -> BufferCollection:
        """Turn in a token, and get its participant's view of the collection.

        The token is consumed: it is closed afterwards, unless this raises. Everything sent on it before counts. When
        the daemon doesn't know the token, the new collection's channel closes, and its next call says so.
        """
        if not isinstance(token, BufferCollectionToken):
            raise wrong_kind(token, BufferCollectionToken)
        with borrowed(token.fileno()) as client_end:
            collection = BufferCollection(
                await self._open(m.Allocator.bind_shared_collection, timeout, token=client_end)
            )
        token.close()
        return collection

    async def validate_buffer_collection_token(
        self, token_server_koid: int, *, timeout: float | None = None
    ) -> bool:
        """Ask whether a token with this `server_koid` lives and wasn't turned in yet. It has no effect on it."""
        answer = await self._call(
            m.Allocator.validate_buffer_collection_token,
            m.AllocatorValidateBufferCollectionTokenRequest(token_server_koid=token_server_koid),
            timeout,
        )
        return self._field(answer, "is_known", bool)

    async def set_debug_client_info(
        self, name: str, id: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Say who uses this connection, for logs: a name of at most 256 bytes of UTF-8 and a number, a pid usually.

        Holds for nodes made through it from now on. `connect` has said the process's name and pid already.
        """
        await self._send(
            m.Allocator.set_debug_client_info,
            m.SetDebugClientInfoRequest(name=name, id=id),
            timeout,
        )

    async def get_vmo_info(
        self,
        vmo: Vmo | int,
        *,
        need_weak: bool | None = None,
        need_single_buffer_settings: bool | None = None,
        constraints_to_check: m.BufferCollectionConstraints | None = None,
        vmo_settings_to_check: Vmo | int | None = None,
        vmo_settings_to_check_ignore_size: bool | None = None,
        timeout: float | None = None,
    ) -> VmoInfo:
        """Ask which buffer of which collection a VMO is. The VMOs passed aren't consumed; the caller closes the info.

        On request also: a weak handle to the same buffer (`weak_vmo`, with `close_weak_asap`), its settings, whether
        they satisfy `constraints_to_check` (`constraints_ok`), and whether the collection of
        `vmo_settings_to_check` has the same ones (`vmo_settings_match`), sizes left out with the last argument.

        Raises `SysmemError` with NOT_FOUND for memory that the daemon didn't allocate.
        """
        with borrowed(vmo, Vmo) as one, borrowed(vmo_settings_to_check, Vmo) as other:
            request = m.AllocatorGetVmoInfoRequest(
                vmo=one,
                need_weak=need_weak,
                need_single_buffer_settings=need_single_buffer_settings,
                constraints_to_check=constraints_to_check,
                vmo_settings_to_check=other,
                vmo_settings_to_check_ignore_size=vmo_settings_to_check_ignore_size,
            )
            answer: VmoInfo = await self._call(m.Allocator.get_vmo_info, request, timeout)
        return answer


def connect(
    runtime_dir: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    id: int | None = None,
    timeout: float | None = None,
) -> Allocator:
    """Connect to the daemon whose sockets are in `runtime_dir`.

    By default that is `SYSMEM_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/sysmem`, else `/run/sysmem`. `name` and `id` say
    who connects, for the daemon's logs: the process's name and pid unless given; a name is cut after 256 bytes.

    Raises `DaemonUnavailableError`, which names the path, when no daemon is there. It doesn't wait for the daemon, so
    that it needs no await and `timeout` is never reached: `async with connect() as allocator`, `allocator = await
    connect()` and `allocator = connect()` are the same.
    """
    fd = connected(runtime_dir, name, id, may_wait=CONNECT_MAY_WAIT, timeout=timeout)
    return Allocator(fd)
