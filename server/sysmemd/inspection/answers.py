"""Responses to inspectors: JSON data as documents."""

from __future__ import annotations

import itertools
import pwd
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from ..documents import Document
from ..pause import give_way, giving_way
from .snapshot import Shown

#: Elements of a list that are encoded in a row; then others may go on.
_CHUNK: Final = 16


def _plain(value: Any) -> Any:
    """Convert what msgspec does not know: tables, in the format that `sysmemd.explain` reads."""
    if isinstance(value, Shown):
        return value.table.to_dict()
    raise TypeError(f"{value!r} has no JSON")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


def encoded(value: Any) -> Iterator[bytes]:
    """Yield the JSON of a value in parts that each take little time."""
    if isinstance(value, dict) and not _is_flat(value):
        yield b"{"
        for position, (key, member) in enumerate(value.items()):
            yield b"," * (position > 0) + _encode(key) + b":"
            yield from encoded(member)
        yield b"}"
    elif isinstance(value, list):
        yield b"["
        separator = b""
        for flat, group in itertools.groupby(value, _is_flat):
            elements = iter(group)
            while chunk := list(itertools.islice(elements, _CHUNK if flat else 1)):
                yield separator
                separator = b","
                if flat:
                    yield _encode(chunk)[1:-1]
                else:
                    yield from encoded(chunk[0])
        yield b"]"
    else:
        yield _encode(value)


def _is_flat(value: Any) -> bool:
    """Return whether a value is not an object that contains lists or objects."""
    members = value.values() if isinstance(value, dict) else ()
    return not any(isinstance(member, list | dict) for member in members)


def document(data: dict[str, Any]) -> Document:
    """Return JSON data as a document; the nodes in it are gone then. Raises `OSError`."""
    made = Document("sysmem inspection", giving_way(encoded(data), every=2))
    for collection in data.get("collections", ()):
        nodes = collection["nodes"]
        while nodes:  # to free thousands of them at one time takes milliseconds
            del nodes[-_CHUNK:]
            give_way()
    return made


def name_users(data: dict[str, Any]) -> dict[str, Any]:
    """Add users' names to a snapshot, and return it. The lookup may ask another machine."""
    for user in data.get("users", ()):
        user["name"] = _user_name(user["uid"])
    return data


def _user_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
