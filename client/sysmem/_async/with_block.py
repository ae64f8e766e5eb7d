"""The with-block of the async face's objects."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sysmem_protocol import owner


class WithBlock(owner.WithBlock):
    """A with-block, plain or async, whose end closes the object. Closing does not wait, so both are equivalent."""

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
