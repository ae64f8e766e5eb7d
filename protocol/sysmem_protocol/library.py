"""How a FIDL-like library is declared.

A library is tables, structs, enums and interfaces. Each is written down once, as an ordinary Python class whose
annotations carry what the wire needs::

    @table
    class Heap(Table):
        heap_type: Annotated[str | None, Field(1, String(128))] = None
        id: Annotated[int | None, Field(2, UINT64)] = None

    class Node(Interface):
        sync = Method("Wait until everything sent before has been processed.", two_way=True)

From these declarations come the codec (:mod:`.codec`), the client's methods, the server's dispatch and the reference
page (:mod:`.reference`). Nothing about a table, a limit or a method is said a second time anywhere else.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import operator
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

#: The library whose interfaces most of ours are; an interface of another one says so.
LIBRARY = "fuchsia.sysmem2"


# --- wire types ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bool:
    """true or false."""


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer of a declared width; only `deadline` is signed."""

    bits: int
    signed: bool = False

    @property
    def minimum(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        return (1 << (self.bits - self.signed)) - 1


@dataclass(frozen=True, slots=True)
class Enumeration:
    """A member of an enum, or a combination of flags, as its number.

    All of them are flexible: a number without a name decodes, as a plain integer.
    """

    type: type[enum.IntEnum] | type[enum.IntFlag]
    bits: int = 32


@dataclass(frozen=True, slots=True)
class String:
    """Text of at most `max_bytes` bytes of UTF-8."""

    max_bytes: int


@dataclass(frozen=True, slots=True)
class Vector:
    """An array of at most `max_count` elements."""

    element: WireType
    max_count: int


@dataclass(frozen=True, slots=True)
class Nested:
    """A table or a struct inside a table."""

    type: type[Table] | type[Struct]


class HandleKind(enum.Enum):
    """What a descriptor is asked to be; `spec/protocol.md`, "Kinds, as far as Linux can tell"."""

    CLIENT_END = "client end"
    SERVER_END = "server end"
    EVENTPAIR = "eventpair"
    VMO = "vmo"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class HandleType:
    """A descriptor; for a channel end, also the interface that is spoken on it."""

    kind: HandleKind
    interface: str | None = None


WireType = Bool | Integer | Enumeration | String | Vector | Nested | HandleType

BOOL = Bool()
UINT32 = Integer(32)
UINT64 = Integer(64)
INT64 = Integer(64, signed=True)


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a table: its number and type on the wire, and whether a request without it is refused."""

    number: int
    type: WireType
    required: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A table's or struct's field together with its Python name."""

    name: str
    field: Field


# --- tables and structs -------------------------------------------------------------------------------------------

T = TypeVar("T")


def _members(cls: type) -> Iterator[Member]:
    """The declared members of a class: annotations of the form `Annotated[…, Field(…)]`, base classes first."""
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, Field):
                yield Member(name, extra)


class Table:
    """A message or part of one in which every field may be left out; `None` is un-set.

    Equality and `repr` show the fields that are set.
    """

    __slots__ = ()
    members: ClassVar[tuple[Member, ...]] = ()

    def set_fields(self) -> Iterator[tuple[Member, Any]]:
        """The fields that are set, in the order of their declaration."""
        for member in self.members:
            value = getattr(self, member.name)
            if value is not None:
                yield member, value

    def missing(self) -> Iterator[str]:
        """The names of required fields that are un-set."""
        for member in self.members:
            if member.field.required and getattr(self, member.name) is None:
                yield member.name

    def to_dict(self) -> dict[str, Any]:
        """Return the set fields as JSON data, by name; enum members by name too (:mod:`.json_data`).

        Raises:
            ValueError: A handle is set, which has no value outside this process.
        """
        from .json_data import write_table

        return write_table(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the table that JSON data stand for: what `to_dict()` gives, or what was written by hand.

        Raises:
            ValueError: A key is unknown or a value has the wrong type; the message begins with its path.
        """
        from .json_data import read

        table: Self = read(Nested(cls), data)
        return table

    def __repr__(self) -> str:
        shown = ", ".join(f"{member.name}={value!r}" for member, value in self.set_fields())
        return f"{type(self).__name__}({shown})"


class Struct:
    """A value whose members are all present, in order."""

    __slots__ = ()
    members: ClassVar[tuple[Member, ...]] = ()


@dataclass_transform(kw_only_default=True)
def table(cls: type[T]) -> type[T]:
    """Make a class a table: keyword-only, compared by value, its members read from the annotations."""
    made: Any = dataclasses.dataclass(kw_only=True, slots=True, repr=False)(cls)
    made.members = tuple(_members(made))
    numbers = [member.field.number for member in made.members]
    if len(set(numbers)) != len(numbers) or not all(numbers):
        raise TypeError(f"{cls.__name__}: field numbers must be unique and not 0: {numbers}")
    return typing.cast("type[T]", made)


@dataclass_transform(frozen_default=True)
def struct(cls: type[T]) -> type[T]:
    """Make a class a struct: positional or keyword, immutable, its members in order of declaration.

    Numbers of other libraries (numpy's integers) become Python's, whose arithmetic doesn't overflow.
    """
    declared: Any = cls
    declared.members = tuple(_members(cls))
    numbers = [
        member.name
        for member in declared.members
        if isinstance(member.field.type, Integer | Enumeration)
    ]

    def plain_numbers(self: Any) -> None:
        for name in numbers:
            value = getattr(self, name)
            if type(value) is not int:
                object.__setattr__(self, name, plain_int(value))

    declared.__post_init__ = plain_numbers
    made: Any = dataclasses.dataclass(frozen=True, slots=True)(declared)
    return typing.cast("type[T]", made)


def plain_int(value: Any) -> Any:
    """An integer of any library (whatever has `__index__`) as Python's; members of enums and all else unchanged."""
    if isinstance(value, bool | enum.Enum) or not hasattr(type(value), "__index__"):
        return value
    try:
        return operator.index(value)
    except TypeError:  # numpy's booleans and arrays have one that refuses
        return value


# --- interfaces ---------------------------------------------------------------------------------------------------


def camel_case(name: str) -> str:
    """`get_vmo_info` → `GetVmoInfo`: a Python name as the interface spells it."""
    return "".join(word.capitalize() for word in name.split("_"))


def ordinal(interface: str, method: str, library: str = LIBRARY) -> int:
    """Return a method's ordinal: the first 8 bytes of SHA-256 of its full name, little-endian, top bit cleared."""
    digest = hashlib.sha256(f"{library}/{interface}.{method}".encode()).digest()
    return int.from_bytes(digest[:8], "little") & 0x7FFF_FFFF_FFFF_FFFF


class Method:
    """A method of an interface, an attribute of its class.

    A method is one-way unless it has a `response`, is `two_way` (its answer is then empty) or `fallible` (its answer is
    then the response table or an `Error`).
    """

    __slots__ = (
        "doc",
        "fallible",
        "interface",
        "name",
        "ordinal",
        "request",
        "response",
        "two_way",
        "wire_name",
    )

    def __init__(
        self,
        doc: str,
        request: type[Table] | None = None,
        response: type[Table] | None = None,
        *,
        two_way: bool = False,
        fallible: bool = False,
    ) -> None:
        self.doc = doc
        self.request = request
        self.response = response
        self.two_way = two_way or fallible or response is not None
        self.fallible = fallible

    def __set_name__(self, owner: type[Interface], name: str) -> None:
        self.interface = owner.__name__
        self.name = name
        self.wire_name = camel_case(name)

    def declared_in(self, library: str) -> None:
        """Compute the ordinal. The interface calls this once it knows its library."""
        self.ordinal = ordinal(self.interface, self.wire_name, library)

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return f"{self.interface}.{self.wire_name}"


class Event(Method):
    """A message that the server sends unasked, with txid 0; an attribute of its interface's class."""

    __slots__ = ()

    def __init__(self, doc: str, content: type[Table]) -> None:
        """Declare an event whose body is the table `content`."""
        super().__init__(doc, content)


class Interface:
    """A protocol: what may be said on one kind of channel.

    Composition is inheritance: a composed method keeps the interface that it was declared in, and so its ordinal.
    A class of another library names it: `class Inspector(Interface, library="sysmem")`.
    """

    library: ClassVar[str] = LIBRARY
    #: What a client may send, by ordinal.
    methods: ClassVar[Mapping[int, Method]] = {}
    #: What the server may send unasked, by ordinal.
    events: ClassVar[Mapping[int, Event]] = {}

    def __init_subclass__(cls, *, library: str | None = None) -> None:
        if library is not None:
            cls.library = library
        own = [member for member in vars(cls).values() if isinstance(member, Method)]
        for member in own:
            member.declared_in(cls.library)
        cls.methods = {**cls.methods, **{m.ordinal: m for m in own if not isinstance(m, Event)}}
        cls.events = {**cls.events, **{m.ordinal: m for m in own if isinstance(m, Event)}}

    @classmethod
    def service_name(cls) -> str:
        """Return the full name, which is also the file name of a service's socket."""
        return f"{cls.library}.{cls.__name__}"
