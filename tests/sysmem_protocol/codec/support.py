"""Short ways to write bodies down, and to compare what came of them."""

from __future__ import annotations

import os
from typing import Any

import cbor2
import pytest

from sysmem_protocol.codec import (
    DecodeError,
    Decoder,
)
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import (
    Table,
)
from sysmem_protocol.strict import HANDLE_TAG

from ..drawn import HERE

DECODER = Decoder()
#: A field that no table has, and the CBOR of its number.
UNKNOWN = 999
MEMBERLESS = b"\xa0"


def handle() -> Handle:
    return Handle(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))


def handles(count: int) -> list[Handle]:
    return [handle() for _ in range(count)]


def refused(
    kind: type[Table], body: bytes, why: str, given: list[Handle] | None = None
) -> DecodeError:
    """Check that decoding raises, and that every descriptor of the message is closed."""
    given = given or []
    with pytest.raises(DecodeError, match=why) as caught:
        DECODER.table(kind, body, given)
    assert all(h.closed for h in given)
    return caught.value


def cbor(value: object) -> bytes:
    return cbor2.dumps(value)


def tag(index: object) -> cbor2.CBORTag:
    return cbor2.CBORTag(HANDLE_TAG, index)


def comparable(value: Any) -> Any:
    """Return a table as plain values, with descriptors as the objects to which they refer."""
    match value:
        case Table():
            return {m.name: comparable(v) for m, v in value.set_fields()}
        case list():
            return [comparable(v) for v in value]
        case Handle():
            status = os.fstat(value.fileno())
            return ("handle", status.st_dev, status.st_ino)
        case _:
            return value


def opened(value: Any) -> Any:
    """Return a drawn table with open descriptors."""
    match value:
        case Table():
            for member, field in value.set_fields():
                setattr(value, member.name, opened(field))
        case list():
            return [opened(element) for element in value]
    return handle() if value is HERE else value


def close_all(value: Any) -> None:
    match value:
        case Table():
            for _, field in value.set_fields():
                close_all(field)
        case list():
            for element in value:
                close_all(element)
        case Handle():
            value.close()
