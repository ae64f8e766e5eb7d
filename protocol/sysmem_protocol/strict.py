"""The check that a body is strict CBOR, whatever it contains (`docs/spec/protocol.md`, "What bad input gets").

cbor2 accepts more than that: indefinite lengths, integers longer than needed, tags with side effects, trailing bytes.
So the bytes are walked once before they are decoded. The walk builds no values, and finds the handles on its way.
"""

from __future__ import annotations

from collections.abc import Callable

#: The tag around the index of a descriptor. No other tag is allowed.
HANDLE_TAG = 0x7A5D
#: The maximum nesting of maps and arrays, including the body's own map. The deepest declared table needs 6.
MAX_DEPTH = 16

_ARRAY = 4
_MAP = 5
_TAG = 6
_SIMPLE = 7
_NULL = b"\xf6"
#: The minimum argument that needs 1, 2, 4 or 8 bytes, by the additional information of the initial byte.
_LEAST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}


#: The size of items that their initial byte tells, and that may always be there: integers below 24, texts and bytes
#: shorter than that, simple values. 0 for those that have to be looked at.
_SIZES = bytes(
    1 + initial % 32 * (initial >> 5 in (2, 3))
    if initial % 32 < 24 and initial >> 5 in (0, 1, 2, 3, _SIMPLE)
    else 0
    for initial in range(256)
)

#: An item takes less than a microsecond and has at least a byte; a pause is offered after about so many bytes.
_PAUSE_BYTES = 128


class NotStrictError(ValueError):
    """The bytes are not one item of strict CBOR. The text says what is wrong at which byte."""


def no_pause() -> None:
    """Do not pause."""


def examine(body: bytes, pause: Callable[[], object] = no_pause) -> tuple[bytes, list[int]]:
    """Check a body. Return the bytes to decode, and the indices of the descriptors in the order of the references.

    A map with a key that is neither an integer nor a string cannot be a table. Such maps are replaced by null: two of
    their keys may be equal in Python but not in CBOR (1 and true), and hashing them could be made slow deliberately.

    `pause` is called regularly.

    Raises :class:`NotStrictError` unless the body is exactly one well-formed item with definite lengths, shortest
    integers and lengths, no duplicate key in a map, no tag except the handle's, and no nesting deeper than
    :data:`MAX_DEPTH`. Keys are equal if their bytes are.
    """
    pause()
    walk = _Walk(body, pause)
    try:
        end = walk.item(0, 0)
    except IndexError:
        raise NotStrictError(f"byte {len(body)}: the item is incomplete") from None
    if end != len(body):
        raise NotStrictError(f"byte {end}: {len(body) - end} bytes after the item")
    return walk.decodable(), walk.indices


class _Walk:
    """One pass over a body, and what it found."""

    __slots__ = ("_body", "_odd_maps", "_pause", "_pause_at", "indices")

    def __init__(self, body: bytes, pause: Callable[[], object]) -> None:
        self._body = body
        self._pause = pause
        #: From where on the next pause is due.
        self._pause_at = _PAUSE_BYTES
        self._odd_maps: list[tuple[int, int]] = []
        self.indices: list[int] = []

    def decodable(self) -> bytes:
        """Return the body with null in place of each map that cannot be a table."""
        if not self._odd_maps:
            return self._body
        parts = []
        done = 0
        for start, end in sorted(self._odd_maps):  # an outer map comes before the maps in it
            if start >= done:
                parts += [self._body[done:start], _NULL]
                done = end
        return b"".join([*parts, self._body[done:]])

    def item(self, start: int, depth: int) -> int:
        """Walk the item at `start`, and return where the next one begins."""
        body = self._body
        initial = body[start]
        major = initial >> 5
        argument = initial & 31
        position = start + 1
        if argument >= 24:
            position, argument = self._argument(start, major, argument)
        if major <= 1 or major == _SIMPLE:
            return position
        if major == _TAG:
            return self._handle(start, position, argument)
        if major < _ARRAY:  # byte and text strings; cbor2 checks the UTF-8
            if argument > len(body) - position:
                raise IndexError
            return position + argument
        if depth == MAX_DEPTH:
            raise NotStrictError(f"byte {start}: nested deeper than {MAX_DEPTH}")
        if argument > len(body) - position:  # each element has at least one byte
            raise IndexError
        if major == _MAP:
            return self._map(start, position, argument, depth + 1)
        for _ in range(argument):
            size = _SIZES[body[position]]
            position = position + size if size else self.item(position, depth + 1)
            if position >= self._pause_at:
                self._pause_before(position)
        if position > len(body):
            raise IndexError
        return position

    def _pause_before(self, position: int) -> None:
        self._pause_at = position + _PAUSE_BYTES
        self._pause()

    def _argument(self, start: int, major: int, information: int) -> tuple[int, int]:
        """Return the argument in the bytes after the initial byte, and the position after them."""
        least = _LEAST.get(information)
        if least is None:
            what = "an indefinite length" if information == 31 else "a reserved initial byte"
            raise NotStrictError(f"byte {start}: {what}")
        end = start + 1 + (1 << (information - 24))
        if end > len(self._body):
            raise IndexError
        argument = int.from_bytes(self._body[start + 1 : end], "big")
        if major != _SIMPLE:
            if argument < least:
                raise NotStrictError(f"byte {start}: {argument} is not in its shortest form")
        elif information == 24 and argument < 32:
            raise NotStrictError(
                f"byte {start}: simple value {argument} is not in its shortest form"
            )
        return end, argument

    def _map(self, start: int, position: int, pairs: int, depth: int) -> int:
        body = self._body
        keys = set()
        odd = False
        for _ in range(pairs):
            if position >= self._pause_at:
                self._pause_before(position)
            key = position
            if body[key] < 24:  # most of them
                position += 1
            else:
                odd |= body[key] >> 5 >= _ARRAY
                position = self.item(key, depth)
            keys.add(body[key:position])
            size = _SIZES[body[position]]
            position = position + size if size else self.item(position, depth)
        if position > len(body):
            raise IndexError
        if len(keys) != pairs:
            raise NotStrictError(f"byte {start}: a key of this map occurs twice")
        if odd:
            self._odd_maps.append((start, position))
        return position

    def _handle(self, start: int, content: int, tag: int) -> int:
        if tag != HANDLE_TAG:
            raise NotStrictError(f"byte {start}: tag {tag:#x}, only {HANDLE_TAG:#x} is allowed")
        body = self._body
        if body[content] >> 5:
            raise NotStrictError(f"byte {content}: a handle's index must be an unsigned integer")
        end = self.item(content, 0)
        index = body[content:end]
        self.indices.append(index[0] if len(index) == 1 else int.from_bytes(index[1:], "big"))
        return end
