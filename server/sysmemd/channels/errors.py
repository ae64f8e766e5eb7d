"""Exceptions that end a channel, or answer a call with an error."""

from __future__ import annotations

from sysmem_protocol.sysmem2 import Error


class Refused(Exception):
    """A message broke a rule of the protocol: its channel closes, or its node fails. `str()` says which rule."""


class Failed(Exception):
    """The response to a call is an error, and the channel continues. `str()` is the reason for the log."""

    def __init__(self, error: Error, reason: str) -> None:
        super().__init__(reason)
        self.error = error
