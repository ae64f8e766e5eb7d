"""Where everything begins: connecting to the daemon, and what its Allocator can do."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator
from typing import Self, overload

from sysmem_protocol import rendezvous as r
from sysmem_protocol import sysmem2 as m
from sysmem_protocol.handles import Handle
from sysmem_protocol.runtime import runtime_dirs

from .._arguments import wrong_kind
from .._connect import Opener, Retries, connected, opener
from .._errors import DaemonUnavailableError, PeerClosedError, SysmemError
from .._timeouts import deadline, remaining
from .._vmo import Vmo, VmoInfo, borrowed
from .channel_object import ChannelObject
from .client_end import CONNECT_MAY_WAIT
from .connecting import Connecting
from .nodes import BufferCollection, BufferCollectionToken
from .passing import Rendezvous
from .readiness import sleep


class Allocator(ChannelObject):
    """A connection to the daemon, from :func:`connect`. Closing it has no effect on what was made through it."""

    __slots__ = ("_meetings", "_open_service")
    _interface = m.Allocator

    def __init__(self, owned: int | socket.SocketType, open_service: Opener | None = None) -> None:
        """Become the owner of a descriptor or a socket. `open_service` connects to the daemon's other services."""
        super().__init__(owned)
        self._open_service = open_service or opener(runtime_dirs(), may_wait=CONNECT_MAY_WAIT)
        #: The calls of `offer` and `take` that wait.
        self._meetings: set[Rendezvous] = set()

    def close(self) -> None:
        """Close the connection. What was made through it stays. Idempotent.

        Whoever waits on it, in `offer()` and `take()` too, gets a `HandleClosedError`.
        """
        super().close()
        for meeting in tuple(self._meetings):
            meeting.close()

    # of the async face only
    def __await__(self) -> Generator[None, None, Self]:
        """Give the Allocator itself: `connect()` has connected already, and `await connect()` says the same."""
        yield from ()
        return self

    async def allocate_non_shared_collection(
        self, *, timeout: float | None = None
    ) -> BufferCollection:
        """Make a collection with one participant."""
        return await self._open(
            BufferCollection, m.Allocator.allocate_non_shared_collection, timeout
        )

    async def allocate_shared_collection(
        self, *, timeout: float | None = None
    ) -> BufferCollectionToken:
        """Make a collection for several participants, and get its root token."""
        return await self._open(
            BufferCollectionToken, m.Allocator.allocate_shared_collection, timeout
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
            collection = await self._open(
                BufferCollection, m.Allocator.bind_shared_collection, timeout, token=client_end
            )
        collection._end.came_from(token._end.told_before())
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

    async def offer(
        self,
        name: str,
        token: BufferCollectionToken,
        *,
        to: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Offer a token to whoever takes it by this name, in any process, and wait until somebody has.

        The token moves: it is closed here, as after `detach()`, unless this raises. A token that was made here and that
        the daemon has not heard of yet is synced first. The offer lasts as long as this call: it ends with a timeout,
        with :meth:`close`, and with this process.

        Anybody who may connect to the daemon can offer a token to any user under any name. Among users who don't trust
        each other, agree on a name that nobody can guess.

        Cancellation: nothing is offered any more, and the token is still usable here, unless it was taken at the last
        moment and so is closed.

        Args:
            name: The name, at most 256 bytes of UTF-8. Processes of one user share all names.
            token: The token.
            to: The user who may take it, by uid; the own one by default. Root is a user like any other here.
            timeout: Seconds until `TimeoutError`. The token is still usable here then.

        Raises:
            SysmemError: HANDLE_ACCESS_DENIED if the own user offers a token to this user under this name already.
                NOT_FOUND if the daemon does not know the token, or if the token is lost while it is on offer, because
                its collection has failed, say.
            PeerClosedError: The token has failed, or the daemon has ended.
            DaemonUnavailableError: No daemon serves offers where this Allocator's daemon was.
        """
        if not isinstance(token, BufferCollectionToken):
            raise wrong_kind(token, BufferCollectionToken)
        end = deadline(timeout)
        await token._settle(remaining(end))
        meeting = self._meet(end)
        try:
            with borrowed(token.fileno()) as client_end:
                request = r.RendezvousOfferRequest(name=name, token=client_end, to_uid=to)
                await meeting.ask(
                    r.Rendezvous.offer,
                    request,
                    remaining(end),
                    f"nobody took the token that is on offer as {name!r} in time",
                )
        except SysmemError as error:
            raise SysmemError(
                error.error, _offer_refused(error.error, name) or error.reason
            ) from None
        finally:
            self._meetings.discard(meeting)
            meeting.close()
            if meeting.answered:
                token.close()

    async def take(self, name: str, *, timeout: float | None = None) -> BufferCollectionToken:
        """Take a token that is offered to this process's user under a name, and wait until there is one.

        Who waits longest gets the next token. The caller closes the token or turns it in.

        Cancellation: nothing is awaited any more. A token that came at the last moment is closed, and so is lost to its
        collection, as if this process had ended.

        Args:
            name: The name.
            timeout: Seconds until `TimeoutError`. No token is lost then.

        Raises:
            PeerClosedError: The daemon has ended.
            DaemonUnavailableError: No daemon serves offers where this Allocator's daemon was.
        """
        end = deadline(timeout)
        meeting = self._meet(end)
        try:
            request = r.RendezvousTakeRequest(name=name)
            answer = await meeting.ask(
                r.Rendezvous.take,
                request,
                remaining(end),
                f"no token was offered as {name!r} in time",
            )
        finally:
            self._meetings.discard(meeting)
            meeting.close()
        return BufferCollectionToken._of(self._field(answer, "token", Handle))

    def _meet(self, deadline: float | None) -> Rendezvous:
        """Connect to the meeting place, for one call."""
        self.fileno()
        meeting = Rendezvous(self._open_service(r.Rendezvous, remaining(deadline)))
        self._meetings.add(meeting)
        if self.closed:
            meeting.close()
        return meeting


def _offer_refused(error: m.Error | int, name: str) -> str | None:
    if error == m.Error.HANDLE_ACCESS_DENIED:
        return f"another token is on offer as {name!r} between the same users"
    if error == m.Error.NOT_FOUND:
        return "the token can't be turned in: it is unknown to this daemon, was turned in, or its node has failed"
    return None


# of the async face only
@overload
def connect(
    runtime_dir: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    id: int | None = None,
    wait: None = None,
    timeout: float | None = None,
) -> Allocator: ...
@overload
def connect(
    runtime_dir: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    id: int | None = None,
    wait: float | None,
    timeout: float | None = None,
) -> Allocator | Connecting[Allocator]: ...


def connect(
    runtime_dir: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    id: int | None = None,
    wait: float | None = None,
    timeout: float | None = None,
) -> Allocator:
    """Connect to a daemon.

    It doesn't wait for the daemon unless `wait` is given, so that it needs no await and `timeout` is never reached:
    `async with connect() as allocator`, `allocator = await connect()` and `allocator = connect()` are the same. With
    `wait` it must be awaited, or entered by an `async with`.

    Args:
        runtime_dir: Where the daemon's sockets are. By default the first of these where a daemon accepts connections:
            `SYSMEM_RUNTIME_DIR`, `$XDG_RUNTIME_DIR/sysmem`, `/run/sysmem`.
        name: Who connects, for the daemon's logs: the process's name by default, cut after 256 bytes.
        id: A number beside the name, the process's pid by default.
        wait: For how many seconds to try again until a daemon answers: one that is being started or restarted.
            Un-set: it must be there now.
        timeout: For how many seconds to wait for a daemon that is there and has no time to accept. With `wait`, that
            counts instead.

    Raises:
        DaemonUnavailableError: No daemon is there. The message lists where it was looked for, and what would help.
        TimeoutError: A daemon is there and didn't accept within `timeout`.
    """

    def reach(timeout: float | None) -> Allocator:
        sock, directory = connected(
            runtime_dir, name, id, may_wait=CONNECT_MAY_WAIT, timeout=timeout
        )
        return Allocator(sock, opener([directory], may_wait=CONNECT_MAY_WAIT))

    if wait is None:
        return reach(timeout)
    retries = Retries(wait)
    return Connecting(lambda: _answering(reach, retries))  # type: ignore[return-value]  # as the overloads say


async def _answering(reach: Callable[[float | None], Allocator], retries: Retries) -> Allocator:
    """Connect to a daemon that answers."""
    while True:
        try:
            left = retries.left()
            allocator = reach(left)
            if left == 0:
                return allocator  # nobody can answer in no time
            try:
                # The kernel accepts for a daemon. No token has koid 0: this is an answer, and leaves no trace.
                await allocator.validate_buffer_collection_token(0, timeout=left)
            except BaseException:
                allocator.close()
                raise
            return allocator
        except (DaemonUnavailableError, PeerClosedError, TimeoutError) as error:
            pause = retries.pause()
            if pause is None:
                if isinstance(error, DaemonUnavailableError):
                    raise
                raise DaemonUnavailableError(
                    f"no sysmem daemon answered in time: {error}"
                ) from error
        await sleep(pause)
