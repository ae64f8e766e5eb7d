"""The strict form of CBOR that a body must have, whatever it says (`spec/protocol.md`, What bad input gets).

cbor2 decodes more than that: indefinite lengths, integers longer than needed, tags with side effects, bytes left over.
So the bytes are walked once before they are decoded. The walk builds nothing; it finds the handles on its way.
"""

from __future__ import annotations

#: Around the index of a descriptor; no other tag may occur.
HANDLE_TAG = 0x7A5D
#: How deep maps and arrays may be nested, the body's own map included. The deepest declared table needs 6.
MAX_DEPTH = 16

_MAP = 5
_TAG = 6
_SIMPLE = 7
#: The least argument that needs 1, 2, 4 or 8 bytes, by the additional information that announces them.
_LEAST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}


class NotStrictError(ValueError):
    """The bytes aren't one item of strict CBOR; the text says what is wrong at which byte."""


def handle_indices(body: bytes) -> list[int]:
    """The descriptors' indices in the order in which a body refers to them.

    Raises :class:`NotStrictError` unless the body is exactly one well-formed item with definite lengths, integers and
    lengths no longer than needed, no tag but the handle's and no nesting deeper than :data:`MAX_DEPTH`.
    """
    indices: list[int] = []
    try:
        end = _walk(body, 0, 0, indices)
    except IndexError:
        raise NotStrictError(f"byte {len(body)}: the item isn't complete") from None
    if end != len(body):
        raise NotStrictError(f"byte {end}: {len(body) - end} bytes after the item")
    return indices


def _walk(body: bytes, position: int, depth: int, indices: list[int]) -> int:
    """Walk the item at `position`; where the next one begins."""
    start = position
    initial = body[position]
    position += 1
    major = initial >> 5
    argument = initial & 31
    if argument >= 24:
        least = _LEAST.get(argument)
        if least is None:
            what = "an indefinite length" if argument == 31 else "a reserved initial byte"
            raise NotStrictError(f"byte {start}: {what}")
        size = 1 << (argument - 24)
        end = position + size
        if end > len(body):
            raise IndexError
        argument = int.from_bytes(body[position:end], "big")
        position = end
        if major != _SIMPLE:
            if argument < least:
                raise NotStrictError(f"byte {start}: {argument} is written longer than needed")
        elif size == 1 and argument < 32:
            raise NotStrictError(
                f"byte {start}: simple value {argument} is written longer than needed"
            )
    if major <= 1 or major == _SIMPLE:
        return position
    if major < 4:  # byte and text strings; cbor2 checks the UTF-8
        if argument > len(body) - position:
            raise IndexError
        return position + argument
    if major == _TAG:
        if argument != HANDLE_TAG:
            raise NotStrictError(f"byte {start}: tag {argument:#x}, only {HANDLE_TAG:#x} may occur")
        content = position
        if body[content] >> 5:
            raise NotStrictError(f"byte {content}: a handle's index must be an unsigned integer")
        position = _walk(body, position, depth, indices)
        indices.append(_unsigned(body[content:position]))
        return position
    if depth == MAX_DEPTH:
        raise NotStrictError(f"byte {start}: nested deeper than {MAX_DEPTH}")
    items = argument * 2 if major == _MAP else argument
    if items > len(body) - position:  # each item has at least a byte
        raise IndexError
    depth += 1
    length = len(body)
    for _ in range(items):
        if position < length and body[position] < 24:  # small integers, without a call
            position += 1
        else:
            position = _walk(body, position, depth, indices)
    return position


def _unsigned(item: bytes) -> int:
    return item[0] if len(item) == 1 else int.from_bytes(item[1:], "big")
