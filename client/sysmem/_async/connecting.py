"""The result of :func:`sysmem.connect` with `wait`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from sysmem_protocol.owner import Closes

C = TypeVar("C", bound=Closes)


class Connecting(Generic[C]):
    """A connection that is not established yet. Await it, or enter it by an `async with`, whose end closes it.

    Cancellation: nothing is left open.
    """

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, C]]) -> None:
        """Take `connect`, which is called each time this object is awaited."""
        self._connect = connect

    def __await__(self) -> Generator[Any, Any, C]:
        return self._connect().__await__()

    async def __aenter__(self) -> C:
        self._connected = await self
        return self._connected

    async def __aexit__(self, *_: object) -> None:
        self._connected.close()
