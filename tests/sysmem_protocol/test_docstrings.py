"""Docstrings of fields and members are read from the source, and shown where Python shows docstrings."""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
import pydoc
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import Annotated

import pytest

import sysmem_protocol
from sysmem_protocol.docstrings import attribute_docstrings, documented, summary
from sysmem_protocol.library import (
    UINT32,
    Enumeration,
    Field,
    Nested,
    Struct,
    Table,
    Vector,
    struct,
    table,
)


@documented
class Colour(enum.IntEnum):
    """What one sees."""

    RED = 1
    """Like a tomato."""
    GREEN = 2


@documented
class Mood(enum.IntFlag):
    """How one feels."""

    GOOD = 1
    """All is well."""
    TIRED = 2
    """It is
    late."""


@struct
class Point(Struct):
    """A place."""

    x: Annotated[int, Field(1, UINT32)]
    """To the right."""
    y: Annotated[int, Field(2, UINT32)]
    """Down."""


@table
class Shape(Table):
    """A thing with corners."""

    corners: Annotated[int | None, Field(1, UINT32)] = None
    """How many corners it has."""
    bare: Annotated[int | None, Field(2, UINT32)] = None


@table
class Square(Shape):
    """A shape with four corners."""

    corners: int = 4
    """Always four."""


@table
class Large(Table):
    """A thing with more to say."""

    a_long_name: Annotated[Point | None, Field(1, Nested(Point))] = None
    """Where it begins."""
    another_long_name: Annotated[
        Sequence[Colour | int] | None, Field(2, Vector(Enumeration(Colour), 3))
    ] = None
    """All of its colours."""


@dataclass(frozen=True)
class Plain:
    """A class that is not part of a library."""

    size: int = 0
    """How large it is."""


def shown(cls: type) -> str:
    """Return what `help()` shows of a class, in one line."""
    text = pydoc.plain(pydoc.render_doc(cls))
    return " ".join(text.replace(" |", " ").split())


def test_a_docstring_is_the_literal_below_its_attribute() -> None:
    assert attribute_docstrings(Point) == {"x": "To the right.", "y": "Down."}
    assert attribute_docstrings(Colour) == {"RED": "Like a tomato."}
    assert attribute_docstrings(Mood)["TIRED"] == "It is\nlate."
    assert attribute_docstrings(Plain) == {"size": "How large it is."}


def test_docstrings_are_inherited_and_replaced() -> None:
    assert attribute_docstrings(Square) == {"corners": "Always four."}
    assert attribute_docstrings(Shape) == {"corners": "How many corners it has."}


def test_fields_have_theirs() -> None:
    assert inspect.getdoc(Shape.corners) == "How many corners it has."
    assert inspect.getdoc(Point.y) == "Down."
    assert not inspect.getdoc(Shape.bare)


def test_members_have_theirs_and_the_enum_all() -> None:
    assert Colour.RED.__doc__ == "Like a tomato."
    assert Colour.GREEN.__doc__ == "What one sees."
    assert (Mood.GOOD | Mood.TIRED).__doc__ == "How one feels."
    assert Mood.__doc__ == "How one feels.\n\nGOOD: All is well.\n\nTIRED: It is\nlate."
    assert (summary(Mood), summary(Point)) == ("How one feels.", "A place.")


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (Shape, "corners How many corners it has. bare"),  # in the order of the declaration
        (Point, "x To the right. y Down."),
        (Colour, "What one sees. Method resolution order"),
        (Colour, "RED = <Colour.RED: 1> Like a tomato."),
    ],
)
def test_help_shows_them(cls: type, text: str) -> None:
    assert text in shown(cls)


def test_a_signature_is_short_and_has_a_line_for_each_field_when_it_is_not() -> None:
    assert str(inspect.signature(Point)) == "(x: int, y: int)"
    assert (
        str(inspect.signature(Shape)) == "(*, corners: int | None = None, bare: int | None = None)"
    )
    assert str(inspect.signature(Large)) == (
        "(\n"
        "    *,\n"
        "    a_long_name: Point | None = None,\n"
        "    another_long_name: Sequence[Colour | int] | None = None,\n"
        ")"
    )


def test_every_declaration_shows_its_own() -> None:
    modules = [
        info.name for info in pkgutil.walk_packages(sysmem_protocol.__path__, "sysmem_protocol.")
    ]
    for name in modules:
        for cls in vars(importlib.import_module(name)).values():
            declares = isinstance(cls, type) and (issubclass(cls, enum.Enum) or is_dataclass(cls))
            if declares and cls.__module__ == name:
                for attribute, doc in attribute_docstrings(cls).items():
                    assert inspect.getdoc(getattr(cls, attribute)) == doc, f"{cls}.{attribute}"


def test_a_class_without_source_has_none() -> None:
    made = type("Made", (), {"__module__": "nowhere"})
    assert attribute_docstrings(made) == attribute_docstrings(int) == {}


def test_importing_reads_no_source() -> None:
    program = """
import sysmem_protocol.docstrings, sysmem_protocol.sysmem2
read = sysmem_protocol.docstrings._of_module.cache_info
print(read().misses, sysmem_protocol.sysmem2.Error.PENDING.__doc__ is not None, read().misses > 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0 True True\n"
