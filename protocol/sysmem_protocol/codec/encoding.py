"""Conversion of tables to bodies."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, cast

import cbor2

from ..handles import Handle
from ..library import (
    Bool,
    Enumeration,
    HandleType,
    Integer,
    Method,
    Nested,
    String,
    Struct,
    Table,
    Vector,
    WireType,
    declared,
    plain_int,
)
from ..message import HEADER, MAX_MESSAGE_BYTES
from ..owner import HandleClosedError
from ..strict import HANDLE_TAG
from ..sysmem2 import Error
from .common import ERROR, SUCCESS, EncodeTypeError, EncodeValueError, Located, plain_range

_MAX_BODY_BYTES = MAX_MESSAGE_BYTES - HEADER.size

#: Takes a value and the list of handles so far. Returns the CBOR value.
_Encode = Callable[[Any, list[Handle]], Any]
_encoders: dict[type, _Encode] = {}


def encode(table: Table) -> tuple[bytes, list[Handle]]:
    """Return a table's body and its handles. The table keeps ownership of the handles.

    Raises :class:`EncodeTypeError` or :class:`EncodeValueError`; the latter also if the table is larger than a message.
    """
    handles: list[Handle] = []
    return _dumps(_encoder_of(type(table))(table, handles)), handles


def encode_response(method: Method, answer: Table | Error | None) -> tuple[bytes, list[Handle]]:
    """Return the body of a method's response and its handles. The table keeps ownership of the handles.

    `answer` is the response table, an error of a fallible method, or None if the method returns nothing.
    """
    if method.fallible:
        handles: list[Handle] = []
        if isinstance(answer, Error):
            return _dumps({ERROR: int(answer)}), handles
        value = {} if answer is None else _encoder_of(type(answer))(answer, handles)
        return _dumps({SUCCESS: value}), handles
    return (b"", []) if answer is None else encode(cast("Table", answer))


def _dumps(value: dict[int, Any]) -> bytes:
    body = cbor2.dumps(value)
    if len(body) > _MAX_BODY_BYTES:
        raise EncodeValueError(f"{len(body)} bytes, at most {_MAX_BODY_BYTES} fit into a message")
    return body


def _encoder_of(kind: type[Table] | type[Struct]) -> _Encode:
    found = _encoders.get(kind)
    if found is None:
        make = _table_encoder if issubclass(kind, Table) else _struct_encoder
        found = _encoders[kind] = make(kind)
    return found


def _table_encoder(kind: type[Any]) -> _Encode:
    members = [
        (m.name, m.field.number, *plain_range(m.field.type), _encoder(m.field.type))
        for m in kind.members
    ]

    def encode_table(value: Any, handles: list[Handle]) -> dict[int, Any]:
        body = {}
        for name, number, least, most, encode_member in members:
            member = getattr(value, name)
            if type(member) is int and least <= member <= most:
                body[number] = member  # as its encoder does, without a call
            elif member is not None:
                try:
                    body[number] = encode_member(member, handles)
                except Located as error:
                    error.within(f".{name}")
                    raise
        return body

    return encode_table


def _struct_encoder(kind: type[Any]) -> _Encode:
    members = [(m.name, _encoder(m.field.type)) for m in kind.members]

    def encode_struct(value: Any, handles: list[Handle]) -> list[Any]:
        body = []
        for name, encode_member in members:
            try:
                body.append(encode_member(getattr(value, name), handles))
            except Located as error:
                error.within(f".{name}")
                raise
        return body

    return encode_struct


def _encoder(wire: WireType) -> _Encode:
    match wire:
        case Bool():
            return _encode_bool
        case Integer():
            return _integer_encoder(wire.minimum, wire.maximum, wire.bits)
        case Enumeration():
            return _enumeration_encoder(wire)
        case String():
            return _string_encoder(wire.max_bytes)
        case Vector():
            return _vector_encoder(_encoder(wire.element), wire.max_count)
        case Nested():
            return _nested_encoder(wire.type)
        case HandleType():
            return _encode_handle


def _wrong_type(expected: str, value: object) -> EncodeTypeError:
    return EncodeTypeError(f"expected {expected}, not {type(value).__name__} {value!r:.80}")


def _encode_bool(value: Any, _: list[Handle]) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type("a bool", value)
    return value


def _integer_encoder(minimum: int, maximum: int, bits: int) -> _Encode:
    def encode_integer(value: Any, _: list[Handle]) -> int:
        number = value if type(value) is int else plain_int(value)
        if not isinstance(number, int) or isinstance(number, bool):
            raise _wrong_type("an int", value)
        if not minimum <= number <= maximum:
            raise EncodeValueError(f"{number} doesn't fit {bits} bits ({minimum} to {maximum})")
        return int(number)

    return encode_integer


def _enumeration_encoder(wire: Enumeration) -> _Encode:
    """Return an encoder for integers and the enum's own members. Members of other enums mean something else."""
    encode_integer = _integer_encoder(0, (1 << wire.bits) - 1, wire.bits)

    def encode_enumeration(value: Any, handles: list[Handle]) -> Any:
        if isinstance(value, enum.Enum) and not isinstance(value, wire.type):
            raise _wrong_type(f"a {wire.type.__name__} or a plain int", value)
        return encode_integer(value, handles)

    return encode_enumeration


def _string_encoder(max_bytes: int) -> _Encode:
    def encode_string(value: Any, _: list[Handle]) -> str:
        if not isinstance(value, str):
            raise _wrong_type("a str", value)
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise EncodeValueError(f"{value!r:.80} can't be written as UTF-8") from error
        if size > max_bytes:
            raise EncodeValueError(f"{size} bytes of UTF-8, at most {max_bytes} are allowed")
        return str(value)

    return encode_string


def _vector_encoder(encode_element: _Encode, max_count: int) -> _Encode:
    def encode_vector(value: Any, handles: list[Handle]) -> list[Any]:
        if type(value) is not list and (
            not isinstance(value, Sequence) or isinstance(value, str | bytes)
        ):
            raise _wrong_type("a list", value)
        if len(value) > max_count:
            raise EncodeValueError(f"{len(value)} elements, at most {max_count} fit")
        body = []
        for index, element in enumerate(value):
            try:
                body.append(encode_element(element, handles))
            except Located as error:
                error.within(f"[{index}]")
                raise
        return body

    return encode_vector


def _nested_encoder(kind: type[Table] | type[Struct]) -> _Encode:
    kind = declared(kind)

    def encode_nested(value: Any, handles: list[Handle]) -> Any:
        if not isinstance(value, kind):
            raise _wrong_type(f"a {kind.__name__}", value)
        return _encoder_of(kind)(value, handles)

    return encode_nested


def _encode_handle(value: Any, handles: list[Handle]) -> cbor2.CBORTag:
    if not isinstance(value, Handle):
        raise _wrong_type("a Handle", value)
    try:
        value.fileno()
    except HandleClosedError as error:
        raise EncodeValueError(str(error)) from error
    handles.append(value)
    return cbor2.CBORTag(HANDLE_TAG, len(handles) - 1)
