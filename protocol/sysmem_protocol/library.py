'''Declarations of FIDL-like libraries.

A library consists of tables, structs, enums and interfaces. Each is declared once, as an ordinary Python class whose
annotations contain the wire types::

    @table
    class Heap(Table):
        heap_type: Annotated[str | None, Field(1, String(128))] = None
        """The kind of memory."""
        id: Annotated[int | None, Field(2, UINT64)] = None
        """Which heap of this kind."""

    class Node(Interface):
        sync = Method("Respond when all earlier messages have been processed.", two_way=True)

The codec (:mod:`.codec`), the client's methods, the server's dispatch, `repr()`, `help()` (:mod:`.docstrings`) and the
reference page (:mod:`.reference`) are derived from these declarations. No property of a table, a limit or a method is
repeated anywhere else.
'''

from __future__ import annotations

import dataclasses
import enum
import hashlib
import inspect
import operator
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeVar, dataclass_transform

from .docstrings import FieldsSignature, documented

#: The library of most interfaces. An interface of another library names it.
LIBRARY = "fuchsia.sysmem2"


# --- wire types ---------------------------------------------------------------------------------------------------


class _Wire:
    """The type of a value on the wire."""

    __slots__ = ()

    def written(self, value: Any) -> str:
        """Return a value as Python source, for the `repr` of the object that contains it."""
        return repr(value)


@dataclass(frozen=True, slots=True)
class Bool(_Wire):
    """true or false."""


@dataclass(frozen=True, slots=True)
class Integer(_Wire):
    """An integer of a declared width; only `deadline` is signed."""

    bits: int
    signed: bool = False

    @property
    def minimum(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        return (1 << (self.bits - self.signed)) - 1

    def written(self, value: Any) -> str:
        """Return the number; the maximum, which often means that there is no limit, as a power of two."""
        return f"2**{self.bits - self.signed} - 1" if value == self.maximum else repr(value)


@dataclass(frozen=True, slots=True)
class Enumeration(_Wire):
    """A member of an enum, or a combination of flags, encoded as its number.

    All of them are flexible: a number without a name is decoded as a plain integer.
    """

    type: type[enum.IntEnum] | type[enum.IntFlag]
    bits: int = 32

    def parts(self, value: int) -> list[enum.IntEnum | enum.IntFlag | int]:
        """Return the members that a number consists of, followed by the rest without a name."""
        if not issubclass(self.type, enum.IntFlag):
            known = {int(member): member for member in self.type}
            return [known.get(value, int(value))]
        flags = [flag for flag in self.type if flag & value]
        rest = int(value) & ~sum(flags)
        return [*flags, rest] if rest else [*flags]

    def written(self, value: Any) -> str:
        """Return the names of a member or of flags. Unknown numbers, and flags given as a number, are a number."""
        is_number = type(value) is int and not issubclass(self.type, enum.IntFlag)
        if not is_number and not isinstance(value, self.type):
            return repr(value)
        names = [
            f"{self.type.__name__}.{part.name}"
            if isinstance(part, enum.Enum)
            else (f"{part:#x}" if part > 0xFFFF else repr(part))
            for part in self.parts(value)
        ]
        return " | ".join(names) or "0"


@dataclass(frozen=True, slots=True)
class String(_Wire):
    """Text of at most `max_bytes` bytes of UTF-8."""

    max_bytes: int


@dataclass(frozen=True, slots=True)
class Vector(_Wire):
    """An array of at most `max_count` elements."""

    element: WireType
    max_count: int

    def written(self, value: Any) -> str:
        """Return the list of the elements, each as Python source."""
        if not isinstance(value, Sequence) or isinstance(value, str):
            return repr(value)
        return f"[{', '.join(map(self.element.written, value))}]"


@dataclass(frozen=True, slots=True)
class Nested(_Wire):
    """A table or a struct inside a table."""

    type: type[Table] | type[Struct]


class HandleKind(enum.Enum):
    """The kind of object that a descriptor must refer to (`docs/spec/protocol.md`, "Kinds of handles")."""

    CLIENT_END = "client end"
    SERVER_END = "server end"
    EVENTPAIR = "eventpair"
    VMO = "vmo"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class HandleType(_Wire):
    """A descriptor; for a channel end, also the interface of the channel."""

    kind: HandleKind
    interface: str | None = None


WireType = Bool | Integer | Enumeration | String | Vector | Nested | HandleType

BOOL = Bool()
UINT32 = Integer(32)
UINT64 = Integer(64)
INT64 = Integer(64, signed=True)


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a table: its number and type on the wire, and whether it is required in a request."""

    number: int
    type: WireType
    required: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A table's or struct's field with its Python name."""

    name: str
    field: Field

    def __repr__(self) -> str:
        return f"<{self.field.number} {self.name}>"


# --- tables and structs -------------------------------------------------------------------------------------------

T = TypeVar("T")

#: The default of a field that the server sets in every response. Its type does not include `None`, so that readers need
#: not check for it. In a table that a program created itself, the field is un-set like any other.
ALWAYS_SET: Any = None


class _Record:
    """The common part of tables and structs: members with a number and a type, and `repr`."""

    __slots__ = ()
    __signature__: ClassVar[FieldsSignature] = FieldsSignature()
    members: ClassVar[tuple[Member, ...]] = ()

    def set_fields(self) -> Iterator[tuple[Member, Any]]:
        """Yield the fields that are set, in the order of their declaration."""
        for member in self.members:
            value = getattr(self, member.name)
            if value is not None:
                yield member, value

    def __repr__(self) -> str:
        shown = (f"{m.name}={m.field.type.written(value)}" for m, value in self.set_fields())
        return f"{type(self).__name__}({', '.join(shown)})"


class Table(_Record):
    """A message or a part of one in which every field is optional; `None` means un-set.

    Tables are equal if they have the same fields and values. `repr` shows the fields that are set.
    """

    __slots__ = ()

    def missing(self) -> Iterator[str]:
        """Yield the names of required fields that are un-set."""
        for member in self.members:
            if member.field.required and getattr(self, member.name) is None:
                yield member.name

    def to_dict(self) -> dict[str, Any]:
        """Return the set fields as JSON data, by name; enum members by name too (:mod:`.json_data`).

        Raises:
            ValueError: A handle is set. It has no meaning outside this process.
        """
        from .json_data import write_table

        return write_table(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the table that JSON data represent, from `to_dict()` or written by hand.

        Raises:
            ValueError: A key is unknown or a value has the wrong type. The message begins with its path.
        """
        from .json_data import read

        table: Self = read(Nested(cls), data)
        return table

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table) or declared(type(self)) is not declared(type(other)):
            return NotImplemented
        return all(getattr(self, m.name) == getattr(other, m.name) for m in self.members)

    __hash__: ClassVar[None]  # type: ignore[assignment]  # unhashable, because it is compared by value


class Struct(_Record):
    """A value in which all members are present, in order."""

    __slots__ = ()


def declared(kind: type[Any]) -> type[Any]:
    """Return the table or struct that the interface declares: `kind`, or the class that it is derived from."""
    *_, oldest = (kind, *(base for base in kind.__mro__ if vars(base).get("members")))
    return oldest


@dataclass_transform(kw_only_default=True)
def table(cls: type[T]) -> type[T]:
    """Make a class a table: keyword-only, compared by value, with its members from the annotations.

    A table that is derived from another one is equivalent to it for the interface, but may have narrower types, and
    methods.
    """
    members = _read_members(cls)
    base = declared(cls)
    if base is not cls and base.members != members:
        raise TypeError(f"{cls.__name__}: a derived table must have the fields of {base.__name__}")
    numbers = [member.field.number for member in members]
    if len(set(numbers)) != len(numbers) or not all(numbers):
        raise TypeError(f"{cls.__name__}: field numbers must be unique and not 0: {numbers}")
    return documented(dataclasses.dataclass(kw_only=True, slots=True, repr=False, eq=False)(cls))


@dataclass_transform(frozen_default=True)
def struct(cls: type[T]) -> type[T]:
    """Make a class a struct: positional or keyword, immutable, with its members in the order of declaration.

    Numbers of other libraries (numpy's integers) are converted to Python's, whose arithmetic does not overflow.
    """
    members = _read_members(cls)
    numbers = [m.name for m in members if isinstance(m.field.type, Integer | Enumeration)]

    def plain_numbers(self: Any) -> None:
        for name in numbers:
            value = getattr(self, name)
            if type(value) is not int:
                object.__setattr__(self, name, plain_int(value))

    cls.__post_init__ = plain_numbers  # type: ignore[attr-defined]  # called by dataclass
    return documented(dataclasses.dataclass(frozen=True, slots=True, repr=False)(cls))


def _read_members(cls: Any) -> tuple[Member, ...]:
    """Return the members of a class, those of its base classes first. Its annotations keep only the Python types.

    A member is annotated `Annotated[…, Field(…)]`. A derived class may annotate a member again with only a type.
    """
    members = {member.name: member for member in cls.members}
    scope = vars(sys.modules[cls.__module__])
    types = {}
    for name, annotation in inspect.get_annotations(cls).items():
        hint = eval(annotation, scope) if isinstance(annotation, str) else annotation
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, Field):
                members[name] = Member(name, extra)
        types[name] = hint.__origin__ if typing.get_origin(hint) is Annotated else hint
    cls.__annotations__ = types
    cls.members = found = tuple(members.values())
    return found


def plain_int(value: Any) -> Any:
    """Convert an integer of any library (an object with `__index__`) to Python's. Return other objects unchanged."""
    if isinstance(value, bool | enum.Enum) or not hasattr(type(value), "__index__"):
        return value
    try:
        return operator.index(value)
    except TypeError:  # numpy's booleans and arrays have an `__index__` that raises
        return value


# --- interfaces ---------------------------------------------------------------------------------------------------


def camel_case(name: str) -> str:
    """Return a Python name as the interface spells it: `get_vmo_info` → `GetVmoInfo`."""
    return "".join(word.capitalize() for word in name.split("_"))


def ordinal(interface: str, method: str, library: str = LIBRARY) -> int:
    """Return a method's ordinal: the first 8 bytes of SHA-256 of its full name, little-endian, top bit cleared."""
    digest = hashlib.sha256(f"{library}/{interface}.{method}".encode()).digest()
    return int.from_bytes(digest[:8], "little") & 0x7FFF_FFFF_FFFF_FFFF


class Method:
    """A method of an interface, declared as an attribute of its class.

    A method is one-way unless it has a `response`, is `two_way` (the response is then empty) or is `fallible` (the
    response is then the response table or an `Error`).
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

    doc: str
    request: type[Table] | None
    response: type[Table] | None
    two_way: bool
    fallible: bool
    interface: str
    name: str
    wire_name: str
    ordinal: int

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
        """Compute the ordinal. The interface calls this when its library is known."""
        self.ordinal = ordinal(self.interface, self.wire_name, library)

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return f"{self.interface}.{self.wire_name}"


class Event(Method):
    """A message that the server sends without a request, with txid 0; an attribute of its interface's class."""

    __slots__ = ()

    def __init__(self, doc: str, content: type[Table]) -> None:
        """Declare an event whose body is the table `content`."""
        super().__init__(doc, content)


class Interface:
    """A protocol: the messages of one kind of channel.

    Composition is inheritance: a composed method keeps the interface that declares it, and so its ordinal. A class of
    another library names it: `class Inspector(Interface, library="sysmem")`.
    """

    library: ClassVar[str] = LIBRARY
    #: The messages that a client may send, by ordinal.
    methods: ClassVar[Mapping[int, Method]] = {}
    #: The messages that the server may send without a request, by ordinal.
    events: ClassVar[Mapping[int, Event]] = {}

    def __init_subclass__(cls, *, library: str | None = None) -> None:
        composed = [base for base in cls.__bases__ if issubclass(base, Interface)]
        cls.library = library or composed[0].library
        own = [member for member in vars(cls).values() if isinstance(member, Method)]
        for member in own:
            member.declared_in(cls.library)
        methods = [method for base in composed for method in base.methods.values()]
        events = [event for base in composed for event in base.events.values()]
        methods += [member for member in own if not isinstance(member, Event)]
        events += [member for member in own if isinstance(member, Event)]
        cls.methods = {method.ordinal: method for method in methods}
        cls.events = {event.ordinal: event for event in events}

    @classmethod
    def service_name(cls) -> str:
        """Return the full name, which is also the file name of the service's socket."""
        return f"{cls.library}.{cls.__name__}"
