"""What ends a channel, or answers a call with an error."""

from __future__ import annotations

from sysmem_protocol.sysmem2 import Error


class Refused(Exception):
    """A message broke a rule of the protocol: its channel closes, or its node fails. `str()` says which rule."""


class Failed(Exception):
    """A call is answered with an error and the channel goes on. `str()` says why, for the log."""

    def __init__(self, error: Error, reason: str) -> None:
        super().__init__(reason)
        self.error = error
