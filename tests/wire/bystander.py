"""Another client, which must not notice what a test does to the daemon."""

from __future__ import annotations

from .protocol import constraints
from .raw import Wire


class Bystander:
    """A client with a collection in use and another one in negotiation."""

    def __init__(self, wire: Wire) -> None:
        self._allocator = wire.connect()
        self._user = self._allocator.non_shared()
        self._user.set_constraints(constraints())
        info = self._user.wait()
        self._memory = info.vmo().map()
        self._memory[:5] = b"quiet"
        token = self._allocator.shared()
        self._other = token.duplicate_token()
        token.sync()
        self._pending = self._allocator.bind(token)
        self._pending.set_constraints(constraints())
        self._wait = self._pending.request_wait()

    def assert_unharmed(self) -> None:
        """Check that its channels answer and that its memory is unchanged."""
        for node in (self._user, self._pending, self._other):
            node.sync()
        assert self._allocator.validate(self._other.koid())
        assert self._memory[:5] == b"quiet"

    def assert_finishes(self) -> None:
        """Check that it is unharmed and that its negotiation ends well."""
        self.assert_unharmed()
        other = self._allocator.bind(self._other)
        other.set_constraints(constraints())
        assert len(self._pending.wait_answer(self._wait).buffers) == 2
        assert len(other.wait().buffers) == 2
