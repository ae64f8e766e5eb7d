"""The with-block of the async face's objects."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sysmem_protocol import owner


class WithBlock(owner.WithBlock):
    """A with-block, plain or async, that closes at its end. Closing doesn't wait, so both are the same."""

    __slots__ = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self: owner.Closes,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
