"""How a library is declared: the results of declarations, and the declarations that are refused."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pytest

from sysmem_protocol.library import (
    ALWAYS_SET,
    BOOL,
    INT64,
    UINT32,
    UINT64,
    Enumeration,
    Event,
    Field,
    Integer,
    Interface,
    Method,
    Nested,
    Struct,
    Table,
    Vector,
    camel_case,
    declared,
    ordinal,
    struct,
    table,
)


class Colour(enum.IntEnum):
    RED = 1


@struct
class Point(Struct):
    x: Annotated[int, Field(1, UINT32)]
    y: Annotated[int, Field(2, UINT32)]


class Finish(enum.IntFlag):
    MATT = 1
    SMOOTH = 4


@table
class Shape(Table):
    corners: Annotated[int | None, Field(1, UINT32, required=True)] = None
    colour: Annotated[Colour | int | None, Field(3, Enumeration(Colour))] = None
    filled: Annotated[bool | None, "whatever else", Field(2, BOOL)] = None
    finish: Annotated[Finish | int | None, Field(4, Enumeration(Finish))] = None
    layout: Annotated[Colour | int | None, Field(5, Enumeration(Colour, 64))] = None
    middle: Annotated[Point | None, Field(6, Nested(Point))] = None
    colours: Annotated[Sequence[Colour | int] | None, Field(7, Vector(Enumeration(Colour), 3))] = (
        None
    )
    side: Annotated[int | None, Field(8, UINT64)] = None


@table
class Square(Shape):
    corners: int = ALWAYS_SET


class Drawing(Interface):
    clear = Method("Begin again.")
    sync = Method("Wait.", two_way=True)
    count_all_shapes = Method("Count.", response=Shape)
    add = Method("Add.", Shape, fallible=True)


class Painting(Drawing):
    varnish = Method("Finish.")


@pytest.mark.parametrize(
    ("wire", "minimum", "maximum"),
    [
        (UINT32, 0, 4294967295),
        (UINT64, 0, 18446744073709551615),
        (INT64, -9223372036854775808, 9223372036854775807),
        (Integer(8, signed=True), -128, 127),
    ],
)
def test_an_integers_range_follows_from_its_width(
    wire: Integer, minimum: int, maximum: int
) -> None:
    assert (wire.minimum, wire.maximum) == (minimum, maximum)


def test_a_tables_members_are_its_declarations_in_their_order() -> None:
    assert [(m.name, m.field.number) for m in Shape.members] == [
        ("corners", 1),
        ("colour", 3),
        ("filled", 2),
        ("finish", 4),
        ("layout", 5),
        ("middle", 6),
        ("colours", 7),
        ("side", 8),
    ]
    assert [(m.name, m.field.number) for m in Point.members] == [("x", 1), ("y", 2)]


def test_a_tables_fields_are_un_set_until_they_are_given() -> None:
    shape = Shape()
    assert (shape.corners, shape.colour, shape.filled) == (None, None, None)
    assert list(shape.set_fields()) == []


def test_false_and_zero_are_set() -> None:
    shape = Shape(corners=0, filled=False)
    assert [(m.name, value) for m, value in shape.set_fields()] == [
        ("corners", 0),
        ("filled", False),
    ]


def test_missing_names_the_required_fields_that_are_un_set() -> None:
    assert list(Shape(filled=True).missing()) == ["corners"]
    assert list(Shape(corners=0).missing()) == []


def test_tables_take_keywords_only() -> None:
    with pytest.raises(TypeError):
        Shape(1)  # type: ignore[call-arg] # that is the point
    with pytest.raises(TypeError, match="sides"):
        Shape(sides=1)  # type: ignore[call-arg] # that too


def test_a_table_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        Shape().sides = 3  # type: ignore[attr-defined] # a misspelt field isn't lost silently


def test_tables_are_equal_when_the_same_fields_are_set_to_the_same() -> None:
    assert Shape(corners=3) == Shape(corners=3)
    assert Shape(corners=3) != Shape(corners=3, filled=False)
    other: object = Point(0, 0)
    assert Shape() != other
    with pytest.raises(TypeError, match="unhashable"):
        hash(Shape())


def test_a_derived_table_has_the_same_members() -> None:
    assert Square.members == Shape.members
    assert Square().corners is None
    with pytest.raises(TypeError, match="Round: a derived table must have the fields of Shape"):

        @table
        class Round(Shape):
            radius: Annotated[int | None, Field(9, UINT32)] = None


def test_a_derived_table_is_the_same_to_the_interface() -> None:
    assert declared(Square) is declared(Shape) is Shape
    assert declared(Point) is Point
    assert Square(corners=4, filled=True) == Shape(corners=4, filled=True)
    assert Shape(corners=4) != Square(corners=3)


def test_annotations_keep_the_python_types() -> None:
    assert Shape.__annotations__["corners"] == int | None
    assert Square.__annotations__ == {"corners": int}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Shape(), "Shape()"),
        (Shape(filled=False, corners=3), "Shape(corners=3, filled=False)"),
        (Shape(corners=0xFFFF_FFFF), "Shape(corners=2**32 - 1)"),
        (Shape(side=0xFFFF_FFFF_FFFF_FFFF), "Shape(side=2**64 - 1)"),
        (Shape(side=0xFFFF_FFFF), "Shape(side=4294967295)"),  # not the limit of its type
        (Shape(colour=1), "Shape(colour=Colour.RED)"),
        (Shape(colour=2), "Shape(colour=2)"),
        (Shape(layout=1), "Shape(layout=Colour.RED)"),
        (Shape(layout=0x0800_0000_0000_0811), "Shape(layout=0x800000000000811)"),
        (Shape(finish=0), "Shape(finish=0)"),
        (Shape(finish=Finish.MATT), "Shape(finish=Finish.MATT)"),
        (Shape(finish=5), "Shape(finish=5)"),  # as it was given
        (Shape(finish=Finish(5)), "Shape(finish=Finish.MATT | Finish.SMOOTH)"),
        (Shape(finish=Finish(6)), "Shape(finish=Finish.SMOOTH | 2)"),
        (Shape(finish=Finish(0x20004)), "Shape(finish=Finish.SMOOTH | 0x20000)"),
        (Shape(finish=Finish(0)), "Shape(finish=0)"),
        (Shape(colours=[1, 2]), "Shape(colours=[Colour.RED, 2])"),
        (Shape(middle=Point(1, 0xFFFF_FFFF)), "Shape(middle=Point(x=1, y=2**32 - 1))"),
    ],
)
def test_repr_shows_the_fields_that_are_set_by_their_names(value: Table, shown: str) -> None:
    assert repr(value) == shown


def test_repr_shows_what_cannot_be_sent_too() -> None:
    wrong: Any = Shape
    shape = wrong(corners="no", colour="red", finish=Colour.RED, colours="red", middle=1.5)
    assert repr(shape) == (
        "Shape(corners='no', colour='red', finish=<Colour.RED: 1>, middle=1.5, colours='red')"
    )


def test_the_numbers_of_a_struct_become_pythons_own() -> None:
    width: Any = np.uint8(200)
    point = Point(width, 3)
    assert (type(point.x), type(point.y)) == (int, int)
    assert point.x * 2 == 400
    text: Any = "a"
    assert (Point(text, True).x, Point(text, True).y) == (
        text,
        True,
    )  # refused when it is encoded, and the error names the place


def test_structs_are_positional_or_keyword_immutable_and_complete() -> None:
    assert Point(1, 2) == Point(x=1, y=2)
    assert hash(Point(1, 2)) == hash(Point(1, 2))
    with pytest.raises(AttributeError):
        Point(1, 2).x = 3  # type: ignore[misc] # that is the point
    with pytest.raises(TypeError):
        Point(1)  # type: ignore[call-arg] # that too


@pytest.mark.parametrize("numbers", [(1, 1), (0, 1)])
def test_field_numbers_must_be_unique_and_not_0(numbers: tuple[int, int]) -> None:
    class Wrong(Table):
        a: int | None = None
        b: int | None = None

    Wrong.__annotations__ = {
        name: Annotated[int | None, Field(number, UINT32)]
        for name, number in zip("ab", numbers, strict=True)
    }
    with pytest.raises(TypeError, match="unique and not 0"):
        table(Wrong)


@pytest.mark.parametrize(
    ("python", "wire"),
    [("sync", "Sync"), ("get_vmo_info", "GetVmoInfo"), ("set_weak_ok", "SetWeakOk")],
)
def test_a_name_in_pythons_spelling_becomes_the_interfaces(python: str, wire: str) -> None:
    assert camel_case(python) == wire


def test_an_ordinal_is_the_hash_of_the_full_name_with_the_top_bit_cleared() -> None:
    assert ordinal("Node", "Sync") == 0x11AC2555CF575B54
    assert all(ordinal("Node", str(n)) >> 63 == 0 for n in range(64))


def test_a_method_knows_its_names_and_ordinal() -> None:
    method = Drawing.count_all_shapes
    assert (method.name, method.wire_name, method.interface) == (
        "count_all_shapes",
        "CountAllShapes",
        "Drawing",
    )
    assert method.ordinal == ordinal("Drawing", "CountAllShapes")
    assert str(method) == "Drawing.CountAllShapes"
    assert repr(method) == "<Drawing.CountAllShapes>"


def test_a_method_is_two_way_when_something_comes_back() -> None:
    assert not Drawing.clear.two_way
    assert Drawing.sync.two_way
    assert Drawing.count_all_shapes.two_way
    assert Drawing.add.two_way
    assert [m.fallible for m in Drawing.methods.values()] == [False, False, False, True]


def test_a_composed_method_keeps_the_interface_it_was_declared_in() -> None:
    assert list(Painting.methods.values()) == [*Drawing.methods.values(), Painting.varnish]
    assert Painting.methods[Drawing.sync.ordinal] is Drawing.sync
    assert Painting.varnish.ordinal not in Drawing.methods


def test_a_service_is_named_in_full() -> None:
    assert Painting.service_name() == "fuchsia.sysmem2.Painting"


class Easel(Interface, library="studio"):
    """An interface of another library."""

    unfold = Method("Open it.")
    on_fallen = Event("It fell.", Shape)


def test_an_interface_of_another_library_is_named_after_it() -> None:
    assert Easel.service_name() == "studio.Easel"
    assert Easel.unfold.ordinal == ordinal("Easel", "Unfold", "studio")
    assert Easel.unfold.ordinal != ordinal("Easel", "Unfold")


def test_an_event_is_nothing_that_a_client_may_send() -> None:
    assert list(Easel.methods.values()) == [Easel.unfold]
    assert list(Easel.events.values()) == [Easel.on_fallen]
    assert not Easel.on_fallen.two_way
    assert Easel.events[ordinal("Easel", "OnFallen", "studio")] is Easel.on_fallen


def test_an_interface_may_be_composed_of_several_of_different_libraries() -> None:
    class Exhibited(Interface, library="museum"):
        label = Method("Hang a label beside it.")
        on_sold = Event("Report that it is sold.", Shape)

    class Work(Painting, Exhibited):
        """A painting in a museum."""

    assert [*Work.methods.values()] == [*Painting.methods.values(), Exhibited.label]
    assert [*Work.events.values()] == [Exhibited.on_sold]
    assert Work.service_name() == "fuchsia.sysmem2.Work"
    assert Exhibited.label.ordinal == ordinal("Exhibited", "Label", "museum")
