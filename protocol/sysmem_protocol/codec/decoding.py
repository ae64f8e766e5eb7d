"""Conversion of bodies to tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import cbor2

from ..handles import Handle
from ..library import (
    Bool,
    Enumeration,
    HandleKind,
    HandleType,
    Integer,
    Member,
    Method,
    Nested,
    String,
    Struct,
    Table,
    Vector,
    WireType,
    table,
)
from ..strict import MAX_DEPTH, NotStrictError, examine, no_pause
from ..sysmem2 import Error
from .common import ERROR, SUCCESS, DecodeError, plain_range

#: The maximum size and number of remembered bodies. Most messages repeat earlier ones, such as the same constraints or
#: the same positions of descriptors.
_MAX_REMEMBERED_BYTES = 512
_MOST_REMEMBERED = 256

Name = TypeVar("Name", bound=Table)


@table
class _Empty(Table):
    """The response of a method that can fail and returns nothing."""


class _Arrived:
    """The handles of one message during decoding: those received, and those that were put into tables."""

    __slots__ = ("handles", "taken")

    def __init__(self, handles: list[Handle]) -> None:
        self.handles = handles
        self.taken: list[Handle] = []

    def take(self, index: int, kind: type[Handle]) -> Handle:
        """Return the handle with this index as an object of the class that the table needs."""
        taken = self.handles[index].move(kind)
        self.taken.append(taken)
        return taken


#: Takes a CBOR value and the message's handles. Returns the field's value.
_Decode = Callable[[Any, _Arrived], Any]


#: The result for a body that is not remembered.
_UNKNOWN = None, -1


def _remember(bodies: dict[Any, Any], key: object, value: object, size: int) -> None:
    if size <= _MAX_REMEMBERED_BYTES:
        if len(bodies) >= _MOST_REMEMBERED:
            bodies.clear()
        bodies[key] = value


class Decoder:
    """Decodes bodies to tables, with the caller's own classes for tables and handles.

    A program that needs its own subclass of a table names it once: `Decoder(tables={VmoBuffer: MyVmoBuffer})`. Handles
    become objects of the class in `handles` for their kind, or plain :class:`Handle` objects.
    """

    def __init__(
        self,
        *,
        tables: Mapping[type[Table], type[Table]] | None = None,
        handles: Mapping[HandleKind, type[Handle]] | None = None,
        pause: Callable[[], object] = no_pause,
        shared: bool = False,
    ) -> None:
        """Decode to these classes. `pause` is called regularly during the decoding of a large body.

        With `shared`, equal bodies without handles may be decoded to the same object, which must not be changed.
        """
        self._pause = pause
        self._shared: dict[tuple[type[Table], bytes], Table] | None = {} if shared else None
        self._tables = dict(tables or {})
        self._handles = dict(handles or {})
        self._decoders: dict[type, _Decode] = {}
        #: The values of recent bodies, which must not be changed, and the number of descriptors of each.
        self._parsed: dict[bytes, tuple[Any, int]] = {}

    @property
    def remembered(self) -> int:
        """The number of bodies that are remembered."""
        return len(self._parsed) + len(self._shared or ())

    def request(self, method: Method, body: bytes, handles: list[Handle]) -> Table | None:
        """Decode a method's request. Return None if the method has no request table.

        Takes ownership of the handles. Those of known fields are in the table, and all others are closed. If it raises
        :class:`DecodeError`, all handles are closed.
        """
        return self._payload(method.request, body, handles)

    def response(
        self, method: Method, body: bytes, handles: list[Handle]
    ) -> Table | Error | int | None:
        """Decode a method's response. Return its table, None if it has none, or the error (an int if it is unknown).

        Handles as in :meth:`request`.
        """
        if not method.fallible:
            return self._payload(method.response, body, handles)
        return cast(
            "Table | Error | int | None",
            self._checked(
                body, handles, lambda value, arrived: self._result(method, value, arrived)
            ),
        )

    def table(self, kind: type[Name], body: bytes, handles: list[Handle]) -> Name:
        """Decode a body as a table of this class. Handles as in :meth:`request`."""
        shared = self._shared
        found: Any = None
        if shared is None or handles:
            found = self._checked(body, handles, self._decoder_of(kind))
        elif (found := shared.get((kind, body))) is None:
            found = self._checked(body, handles, self._decoder_of(kind))
            _remember(shared, (kind, body), found, len(body))
        return found  # type: ignore[no-any-return] # of this kind, as its decoder makes it

    def _payload(
        self, kind: type[Table] | None, body: bytes, handles: list[Handle]
    ) -> Table | None:
        if kind is not None:
            return self.table(kind, body, handles)
        if body or handles:
            what = f"{len(body)} bytes and {len(handles)} descriptors"
            for handle in handles:
                handle.close()
            raise DecodeError(f"{what} in a message that has no payload")
        return None

    def _checked(self, body: bytes, handles: list[Handle], decode: _Decode) -> Any:
        arrived = _Arrived(handles)
        try:
            value, count = self._parsed.get(body, _UNKNOWN)
            if count != len(handles):
                value = self._parse(body, len(handles))
            result = decode(value, arrived)
        except BaseException:
            for taken in arrived.taken:
                taken.close()
            raise
        finally:
            for handle in handles:  # close those that no known field took
                handle.close()
        return result

    def _parse(self, body: bytes, count: int) -> Any:
        """Return the value of a body that arrived with this many descriptors."""
        try:
            decodable, indices = examine(body, self._pause)
            if sorted(indices) != list(range(count)):
                raise DecodeError(
                    f"the message has {count} descriptors, but the body refers to "
                    f"{indices!s:.80}; each must be referred to exactly once"
                )
            value = cbor2.loads(
                decodable,
                allow_indefinite=False,
                allow_duplicate_keys=False,
                max_depth=2 * MAX_DEPTH,
            )
        except NotStrictError as error:
            raise DecodeError(str(error)) from None
        except cbor2.CBORDecodeError as error:
            raise DecodeError(f"not CBOR: {error}") from None
        _remember(self._parsed, body, (value, count), len(body))
        return value

    def _result(self, method: Method, value: Any, arrived: _Arrived) -> Any:
        if type(value) is not dict or len(value) != 1:
            raise DecodeError("an answer must be a map with exactly one key, 1 or 2")
        [(key, payload)] = value.items()
        if type(key) is int and key == ERROR:
            number = _integer_decoder(0, 0xFFFF_FFFF, 32)(payload, arrived)
            return Error(number) if number in Error.__members__.values() else number
        if type(key) is not int or key != SUCCESS:
            raise DecodeError(
                f"an answer must be a map with exactly one key, 1 or 2, not {key!r:.80}"
            )
        if method.response is None:
            self._decoder_of(_Empty)(payload, arrived)
            return None
        return self._decoder_of(method.response)(payload, arrived)

    def _decoder_of(self, kind: type[Table] | type[Struct]) -> _Decode:
        found = self._decoders.get(kind)
        if found is None:
            made = self._tables.get(cast("Any", kind), kind)
            make = self._table_decoder if issubclass(kind, Table) else self._struct_decoder
            found = self._decoders[kind] = make(made)
        return found

    def _table_decoder(self, kind: type[Any]) -> _Decode:
        members: dict[int, tuple[str, int, int, _Decode]] = {
            m.field.number: (
                m.name,
                # Some numbers become members of their enumeration.
                *((0, -1) if isinstance(m.field.type, Enumeration) else plain_range(m.field.type)),
                self._decoder(m.field.type),
            )
            for m in kind.members
        }

        def decode_table(value: Any, arrived: _Arrived) -> Any:
            if type(value) is not dict:
                raise _not_declared("a map", value)
            fields = {}
            for number, item in value.items():
                if type(number) is not int or number <= 0:
                    raise DecodeError(
                        f"{number!r:.80} is not a field number; field numbers are integers from 1"
                    )
                member = members.get(number)
                if member is not None:
                    name, least, most, decode_member = member
                    if type(item) is int and least <= item <= most:
                        fields[name] = item  # as its decoder does, without a call
                        continue
                    try:
                        fields[name] = decode_member(item, arrived)
                    except DecodeError as error:
                        error.within(f".{name}")
                        raise
            return kind(**fields)

        return decode_table

    def _struct_decoder(self, kind: type[Any]) -> _Decode:
        members: list[tuple[str, _Decode]] = [
            (m.name, self._decoder(m.field.type)) for m in cast("tuple[Member, ...]", kind.members)
        ]

        def decode_struct(value: Any, arrived: _Arrived) -> Any:
            if type(value) is not list:
                raise _not_declared("an array", value)
            if len(value) != len(members):
                raise DecodeError(f"{len(value)} members, {kind.__name__} has {len(members)}")
            fields = []
            for item, (name, decode_member) in zip(value, members, strict=True):
                try:
                    fields.append(decode_member(item, arrived))
                except DecodeError as error:
                    error.within(f".{name}")
                    raise
            return kind(*fields)

        return decode_struct

    def _decoder(self, wire: WireType) -> _Decode:
        match wire:
            case Bool():
                return _decode_bool
            case Integer():
                return _integer_decoder(wire.minimum, wire.maximum, wire.bits)
            case Enumeration():
                return _enumeration_decoder(wire)
            case String():
                return _string_decoder(wire.max_bytes)
            case Vector():
                return _vector_decoder(self._decoder(wire.element), wire.max_count, self._pause)
            case Nested():
                return self._decoder_of(wire.type)
            case HandleType():
                return _handle_decoder(self._handles.get(wire.kind, Handle))


def _not_declared(expected: str, value: object) -> DecodeError:
    return DecodeError(f"expected {expected}, not {type(value).__name__} {value!r:.80}")


def _decode_bool(value: Any, _: _Arrived) -> bool:
    if type(value) is not bool:
        raise _not_declared("a bool", value)
    return value


def _integer_decoder(minimum: int, maximum: int, bits: int) -> _Decode:
    def decode_integer(value: Any, _: _Arrived) -> int:
        if type(value) is not int:
            raise _not_declared("an integer", value)
        if not minimum <= value <= maximum:
            raise DecodeError(f"{value} doesn't fit {bits} bits ({minimum} to {maximum})")
        return value

    return decode_integer


def _enumeration_decoder(wire: Enumeration) -> _Decode:
    """Return a decoder to members, or to integers for other numbers.

    A combination of flags stays an integer, because Python's enums keep every combination that was ever created: a peer
    that sends new combinations all the time could fill the memory.
    """
    decode_integer = _integer_decoder(0, (1 << wire.bits) - 1, wire.bits)
    known: dict[int, Any] = {int(member): member for member in wire.type}

    def decode_enumeration(value: Any, arrived: _Arrived) -> Any:
        number = decode_integer(value, arrived)
        return known.get(number, number)

    return decode_enumeration


def _string_decoder(max_bytes: int) -> _Decode:
    def decode_string(value: Any, _: _Arrived) -> str:
        if type(value) is not str:
            raise _not_declared("a text string", value)
        size = len(value.encode())
        if size > max_bytes:
            raise DecodeError(f"{size} bytes of UTF-8, at most {max_bytes} are allowed")
        return value

    return decode_string


def _vector_decoder(
    decode_element: _Decode, max_count: int, pause: Callable[[], object]
) -> _Decode:
    def decode_vector(value: Any, arrived: _Arrived) -> list[Any]:
        if type(value) is not list:
            raise _not_declared("an array", value)
        if len(value) > max_count:
            raise DecodeError(f"{len(value)} elements, at most {max_count} are allowed")
        decoded = []
        for index, item in enumerate(value):
            try:
                decoded.append(decode_element(item, arrived))
            except DecodeError as error:
                error.within(f"[{index}]")
                raise
            pause()
        return decoded

    return decode_vector


def _handle_decoder(kind: type[Handle]) -> _Decode:
    def decode_handle(value: Any, arrived: _Arrived) -> Handle:
        if type(value) is not cbor2.CBORTag:
            raise _not_declared("a handle", value)
        index: int = value.value
        return arrived.take(index, kind)

    return decode_handle
