"""Why a call failed.

::

    SysmemError                  the daemon answered with an `Error`
    PeerClosedError              the daemon closed the channel            (a ConnectionError)
    DaemonUnavailableError       there is no daemon to connect to         (a ConnectionError)
    HandleClosedError            closed or given away by this program     (a ValueError)

And of the built-in ones `TimeoutError` for a call past its timeout, `TypeError` and `ValueError` for arguments that
can't be sent, `OSError` for what the kernel refuses (no descriptors left, say).
"""

from __future__ import annotations

from sysmem_protocol.channel import PeerClosedError
from sysmem_protocol.owner import HandleClosedError
from sysmem_protocol.sysmem2 import Error

__all__ = ["DaemonUnavailableError", "HandleClosedError", "PeerClosedError", "SysmemError"]

_MEANINGS = {
    Error.UNSPECIFIED: "the daemon says no more",
    Error.PROTOCOL_DEVIATION: "the request isn't what the protocol allows",
    Error.NOT_FOUND: "what was passed isn't known to the daemon",
    Error.HANDLE_ACCESS_DENIED: "the handle lacks a right",
    Error.NO_MEMORY: "the buffers couldn't be allocated",
    Error.CONSTRAINTS_INTERSECTION_EMPTY: "no settings satisfy all participants",
    Error.PENDING: "allocation wasn't attempted yet",
    Error.TOO_MANY_GROUP_CHILD_COMBINATIONS: "too many combinations of group children failed",
    Error.NO_MORE_STRONG_VMO_HANDLES: "only weak handles to the buffer are left",
}


class SysmemError(Exception):
    """The daemon answered with an error.

    Attributes:
        error: Which error; a plain int when it has no name here.
        reason: One line that says why, as the daemon's log does; None if it isn't known.
        report: The full text about a refusal: what everybody asked for, and the conflict; None if it isn't known.
    """

    def __init__(
        self, error: Error | int, reason: str | None = None, report: str | None = None
    ) -> None:
        super().__init__(error, reason, report)
        self.error = error
        self.reason = reason
        self.report = report

    def __str__(self) -> str:
        if not isinstance(self.error, Error):
            return f"unknown error {self.error}"
        return f"{self.error.name}: {self.reason or _MEANINGS.get(self.error, 'never sent')}"


class DaemonUnavailableError(ConnectionError):
    """No daemon accepts connections at the path that the message names."""
