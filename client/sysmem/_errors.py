"""The exceptions of the client.

::

    SysmemError                  the daemon answered with an `Error`
    PeerClosedError              the daemon closed the channel            (a ConnectionError)
    DaemonUnavailableError       there is no daemon to connect to         (a ConnectionError)
    HandleClosedError            closed or given away by this program     (a ValueError)

Built-in exceptions are raised too: `TimeoutError` by a call past its timeout, `TypeError` and `ValueError` for
arguments that can't be sent, and `OSError` if the kernel refuses, for example because no descriptor is left.
"""

from __future__ import annotations

from sysmem_protocol.channel import PeerClosedError
from sysmem_protocol.owner import HandleClosedError
from sysmem_protocol.sysmem2 import Error

__all__ = ["DaemonUnavailableError", "HandleClosedError", "PeerClosedError", "SysmemError"]

_MEANINGS = {
    Error.UNSPECIFIED: "the daemon gives no details",
    Error.PROTOCOL_DEVIATION: "the request violates a rule of the protocol",
    Error.NOT_FOUND: "the daemon does not know the given object",
    Error.HANDLE_ACCESS_DENIED: "the handle lacks a right",
    Error.NO_MEMORY: "the buffers could not be allocated",
    Error.CONSTRAINTS_INTERSECTION_EMPTY: "no settings satisfy all participants",
    Error.PENDING: "the allocation was not attempted yet",
    Error.TOO_MANY_GROUP_CHILD_COMBINATIONS: "too many combinations of group children failed",
    Error.NO_MORE_STRONG_VMO_HANDLES: "only weak handles to the buffer are left",
}


class SysmemError(Exception):
    """The daemon answered with an error.

    Attributes:
        error: The error; a plain int if it has no name in this version.
        reason: The reason in one line, as in the daemon's log; None if it is not known.
        report: The full report of a refusal, with all constraints and the conflict marked; None if there is none.
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
    """No daemon accepts connections. The message lists the paths that were tried."""
