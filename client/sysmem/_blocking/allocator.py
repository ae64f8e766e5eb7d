# Made from _async/allocator.py by client/generate_blocking.py; change that one.

"""Connecting to the daemon, and the Allocator, the first object of every program."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from sysmem_protocol import rendezvous as r
from sysmem_protocol import sysmem2 as m
from sysmem_protocol.handles import Handle
from sysmem_protocol.runtime import runtime_dirs

from .._arguments import wrong_kind
from .._buffers import VmoInfo
from .._connect import Opener, Retries, connected, opener
from .._errors import DaemonUnavailableError, PeerClosedError, SysmemError
from .._timeouts import deadline, remaining
from .._vmo import Vmo, borrowed
from .channel_object import ChannelObject
from .client_end import CONNECT_MAY_WAIT
from .nodes import BufferCollection, BufferCollectionToken
from .passing import Rendezvous
from .readiness import sleep


class Allocator(ChannelObject):
    """A connection to the daemon, made by :func:`connect`. Nodes created through it stay when it is closed."""

    __slots__ = ("_meetings", "_open_service")
    _interface = m.Allocator

    def __init__(self, owned: int | socket.SocketType, open_service: Opener | None = None) -> None:
        """Take ownership of a descriptor or a socket. `open_service` connects to the daemon's other services."""
        super().__init__(owned)
        self._open_service = open_service or opener(runtime_dirs(), may_wait=CONNECT_MAY_WAIT)
        #: The outstanding calls of `offer` and `take`.
        self._meetings: set[Rendezvous] = set()

    def close(self) -> None:
        """Close the connection. Nodes that were created through it stay. Idempotent.

        Calls that wait on it, `offer()` and `take()` included, raise `HandleClosedError`.
        """
        super().close()
        for meeting in tuple(self._meetings):
            meeting.close()

    def allocate_non_shared_collection(self, *, timeout: float | None = None) -> BufferCollection:
        """Create a collection with one participant, and return that participant."""
        return self._open(BufferCollection, m.Allocator.allocate_non_shared_collection, timeout)

    def allocate_shared_collection(self, *, timeout: float | None = None) -> BufferCollectionToken:
        """Create a collection for several participants, and return its root token."""
        return self._open(BufferCollectionToken, m.Allocator.allocate_shared_collection, timeout)

    def bind_shared_collection(
        self, token: BufferCollectionToken, *, timeout: float | None = None
    ) -> BufferCollection:
        """Turn in a token, and return the participant that it stands for.

        The token is consumed: it is closed afterwards, unless this raises. After a `TimeoutError` nothing was sent, and
        the token can still be used. The daemon processes all messages that were sent on the token first. If the daemon
        does not know the token, it closes the channel of the new object, and the next call on that raises
        `PeerClosedError`.
        """
        if not isinstance(token, BufferCollectionToken):
            raise wrong_kind(token, BufferCollectionToken)
        with borrowed(token.fileno()) as client_end:
            collection = self._open(
                BufferCollection, m.Allocator.bind_shared_collection, timeout, token=client_end
            )
        collection._end.came_from(token._end.told_before())
        token.close()
        return collection

    def validate_buffer_collection_token(
        self, token_server_koid: int, *, timeout: float | None = None
    ) -> bool:
        """Return whether a token with this `server_koid` exists and has not been turned in yet.

        The call has no effect on the token.
        """
        answer = self._call(
            m.Allocator.validate_buffer_collection_token,
            m.AllocatorValidateBufferCollectionTokenRequest(token_server_koid=token_server_koid),
            timeout,
        )
        return self._field(answer, "is_known", bool)

    def set_debug_client_info(
        self, name: str, id: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Set the client's name and number in logs and reports, for nodes created through this connection from now on.

        `connect` has already sent the name and the pid of the process.

        Args:
            name: At most 256 bytes of UTF-8.
            id: A number, usually the pid. Un-set is 0.
            timeout: Seconds until `TimeoutError`.
        """
        self._send(
            m.Allocator.set_debug_client_info,
            m.SetDebugClientInfoRequest(name=name, id=id),
            timeout,
        )

    def get_vmo_info(
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
        """Return which buffer of which collection a VMO is. The caller closes the result.

        Args:
            vmo: The VMO, or its descriptor. It stays the caller's.
            need_weak: Whether to return a weak handle to the same buffer: `weak_vmo`, with `close_weak_asap`.
            need_single_buffer_settings: Whether to return the settings of the buffer.
            constraints_to_check: Constraints to compare with the settings; the result has `constraints_ok`.
            vmo_settings_to_check: Another VMO whose settings to compare; the result has `vmo_settings_match`. It stays
                the caller's.
            vmo_settings_to_check_ignore_size: Whether to leave sizes out of this comparison.
            timeout: Seconds until `TimeoutError`.

        Raises:
            SysmemError: NOT_FOUND for memory that the daemon did not allocate; NO_MORE_STRONG_VMO_HANDLES if
                `need_weak` is set and no strong handle is left.
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
            answer: VmoInfo = self._call(m.Allocator.get_vmo_info, request, timeout)
        return answer

    def offer(
        self,
        name: str,
        token: BufferCollectionToken,
        *,
        to: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Offer a token under a name, and wait until another process takes it with :meth:`take`.

        The token moves: it is closed here, as after `detach()`, unless this raises. If the daemon does not know the
        token yet, this syncs first. The offer lasts as long as this call: it ends with a timeout, with :meth:`close`,
        and with this process.

        Every user who may connect to the daemon can offer a token to any user under any name. Users who do not trust
        each other should agree on a secret name.

        Args:
            name: The name, at most 256 bytes of UTF-8. Processes of one user share all names.
            token: The token.
            to: The uid of the user who may take it; by default the user of this process. Root is a user like any
                other here.
            timeout: Seconds until `TimeoutError`. The token can still be used here then.

        Raises:
            SysmemError: HANDLE_ACCESS_DENIED if this user already offers a token to that user under this name.
                NOT_FOUND if the daemon does not know the token, or if the token fails while it is on offer, for example
                because its collection failed.
            PeerClosedError: The token has failed, or the daemon has ended.
            DaemonUnavailableError: No daemon serves offers where this Allocator's daemon was.
        """
        if not isinstance(token, BufferCollectionToken):
            raise wrong_kind(token, BufferCollectionToken)
        end = deadline(timeout)
        token._settle(remaining(end))
        meeting = self._meet(end)
        try:
            with borrowed(token.fileno()) as client_end:
                request = r.RendezvousOfferRequest(name=name, token=client_end, to_uid=to)
                meeting.ask(
                    r.Rendezvous.offer,
                    request,
                    remaining(end),
                    f"no process took the token on offer as {name!r} in time",
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

    def take(self, name: str, *, timeout: float | None = None) -> BufferCollectionToken:
        """Wait for a token that is offered to this process's user under a name, and return it.

        Waiting calls receive tokens in the order in which the calls were made. The caller closes the token or turns it
        in.

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
            answer = meeting.ask(
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
        """Connect to the Rendezvous service for one call."""
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
        return "the token can't be turned in: the daemon does not know it, or it was turned in, or its node has failed"
    return None


def connect(
    runtime_dir: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    id: int | None = None,
    wait: float | None = None,
    timeout: float | None = None,
) -> Allocator:
    """Connect to a daemon.

    Args:
        runtime_dir: The directory of the daemon's sockets. By default the first of these in which a daemon accepts
            connections: `SYSMEM_RUNTIME_DIR`, `$XDG_RUNTIME_DIR/sysmem`, `/run/sysmem`.
        name: The client's name in the daemon's logs, at most 256 bytes. By default the process's name.
        id: The number beside that name. By default the process's pid.
        wait: How many seconds to retry while the daemon starts or restarts. By default it does not retry.
        timeout: How many seconds a running daemon may take to accept. Ignored if `wait` is given.

    Raises:
        DaemonUnavailableError: There is no daemon. The message lists the places that were searched, and what to do.
        TimeoutError: A daemon is there, but did not accept within `timeout`.
    """

    def reach(timeout: float | None) -> Allocator:
        sock, directory = connected(
            runtime_dir, name, id, may_wait=CONNECT_MAY_WAIT, timeout=timeout
        )
        return Allocator(sock, opener([directory], may_wait=CONNECT_MAY_WAIT))

    if wait is None:
        return reach(timeout)
    retries = Retries(wait)
    return _answering(reach, retries)


def _answering(reach: Callable[[float | None], Allocator], retries: Retries) -> Allocator:
    """Connect to a daemon that answers."""
    while True:
        try:
            left = retries.left()
            allocator = reach(left)
            if left == 0:
                return allocator  # there is no time to wait for a response
            try:
                # A listening socket may accept without a daemon. A call with koid 0, which no token has, proves that
                # the daemon answers, and changes nothing.
                allocator.validate_buffer_collection_token(0, timeout=left)
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
        sleep(pause)
