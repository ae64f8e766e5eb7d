"""Docstrings of fields and members: the string literals below them in the source.

Editors show such a literal for the attribute above it, but Python discards it. So this module reads the source again,
once for each module and only on demand: importing costs nothing. ``help()`` and `inspect.getdoc` find the docstrings at
the usual places:

- those of fields in the class's ``__slots__``, which is a :class:`Docstrings`;
- that of an enum's member in its ``__doc__``, and those of all members in the enum's ``__doc__``.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import inspect
import itertools
import re
import sys
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def attribute_docstrings(cls: type) -> Mapping[str, str]:
    """Return the docstrings of a class's attributes by their names, inherited ones included.

    The result is empty for a class without source.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _of_module(base.__module__).get(base.__qualname__, {})
    return found


@functools.cache
def _of_module(name: str) -> Mapping[str, Mapping[str, str]]:
    """Return the attributes' docstrings of each class at a module's top level."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[name]))
    except (KeyError, OSError, TypeError):
        return {}  # the module is not loaded, has no source, or is built in
    return {
        node.name: dict(_of_body(node.body)) for node in tree.body if isinstance(node, ast.ClassDef)
    }


def _of_body(body: list[ast.stmt]) -> Iterable[tuple[str, str]]:
    for statement, below in itertools.pairwise(body):
        match statement:
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                pass
            case _:
                continue
        match below:
            case ast.Expr(ast.Constant(str(text))):
                yield name, inspect.cleandoc(text)


class Docstrings(dict[str, str]):
    """A class's ``__slots__`` with a docstring for each slot, read on demand."""

    def __init__(self, cls: type, slots: Iterable[str]) -> None:
        super().__init__(dict.fromkeys(slots, ""))
        self._class = cls

    def __getitem__(self, name: str) -> str:
        return attribute_docstrings(self._class).get(name, "")


class _DeclaredAnew:
    """A field that a derived class declares again over the inherited slot, to give it a docstring of its own."""

    def __init__(self, cls: type, name: str) -> None:
        self._slot = getattr(cls, name)
        self.__objclass__ = cls
        self.__name__ = name

    def __get__(self, instance: object, cls: type) -> Any:
        return self if instance is None else self._slot.__get__(instance, cls)

    def __set__(self, instance: object, value: object) -> None:
        self._slot.__set__(instance, value)

    @property
    def __doc__(self) -> str:  # type: ignore[override]  # a property, to read it on demand
        return attribute_docstrings(self.__objclass__).get(self.__name__, "")


class _EnumDoc(str):
    """The ``__doc__`` of an enum and of its members.

    It is a str because pydoc takes it from the enum's ``__dict__``. In that case pydoc lists the members itself.
    """

    __slots__ = ()

    def __get__(self, member: enum.Enum | None, cls: type[enum.Enum]) -> str:
        docs = attribute_docstrings(cls)
        if member is not None:
            return docs.get(member.name, str(self))  # a combination of flags is not a member
        return "\n\n".join([self, *(f"{name}: {doc}" for name, doc in docs.items())])


def documented(cls: type[T]) -> type[T]:
    """Give each member of an enum, or each attribute of a class with slots, the docstring below it."""
    made: Any = cls
    if issubclass(cls, enum.Enum):
        made.__doc__ = _EnumDoc(inspect.cleandoc(cls.__doc__ or ""))
        return cls
    if dataclasses.is_dataclass(cls):
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in inspect.get_annotations(cls).keys() & (set(fields) - set(made.__slots__)):
            setattr(cls, name, _DeclaredAnew(cls, name))
        made._fields = tuple(fields)  # pydoc lists fields in this order
        made.__init__.__signature__ = _INIT_SIGNATURE
        if not hasattr(cls, "__signature__"):
            made.__signature__ = FieldsSignature()
    made.__slots__ = Docstrings(cls, made.__slots__)
    return cls


def summary(cls: type) -> str:
    """Return a class's own docstring, without those of its members."""
    return inspect.cleandoc(str(vars(cls)["__doc__"]))


# --- signatures ---------------------------------------------------------------------------------------------------


#: A longer signature is printed with one line for each parameter.
_MAX_WIDTH = 80
#: Prefixes of types and type variables, and the quotes of forward references.
_MODULES = r"['~]|\b(?:\w+\.)+(?=\w)"


class FieldsSignature:
    """The `__signature__` of dataclasses, computed on demand."""

    def __get__(self, instance: object, cls: type[Any]) -> inspect.Signature | None:
        if not dataclasses.is_dataclass(cls):
            return None  # a base class of the dataclasses
        types = {
            variable: chosen
            for base in cls.__mro__
            for generic in vars(base).get("__orig_bases__", ())
            for variable, chosen in zip(
                getattr(typing.get_origin(generic), "__parameters__", ()),
                typing.get_args(generic),
                strict=False,  # Generic itself has no parameters
            )
        }
        return _Signature([_parameter(f, types) for f in dataclasses.fields(cls) if f.init])


def _parameter(field: dataclasses.Field[Any], types: Mapping[Any, Any]) -> inspect.Parameter:
    kind = (
        inspect.Parameter.KEYWORD_ONLY if field.kw_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
    )
    is_required = field.default is dataclasses.MISSING
    default = inspect.Parameter.empty if is_required else field.default
    annotation: Any = field.type
    variables = getattr(annotation, "__parameters__", ())
    if variables:
        annotation = annotation[tuple(types.get(each, each) for each in variables)]
    return inspect.Parameter(field.name, kind, default=default, annotation=annotation)


class _Signature(inspect.Signature):
    """A signature that is printed in short lines, without module names of types."""

    def __str__(self) -> str:
        shown = [re.sub(_MODULES, "", str(parameter)) for parameter in self.parameters.values()]
        if any(p.kind is inspect.Parameter.KEYWORD_ONLY for p in self.parameters.values()):
            shown.insert(0, "*")
        line = f"({', '.join(shown)})"
        return line if len(line) <= _MAX_WIDTH else "(\n    " + ",\n    ".join(shown) + ",\n)"

    def format(self, **_: object) -> str:
        """Return the text for the fixed width, although pydoc requests another (from Python 3.13 on)."""
        return str(self)


#: The signature of all their `__init__` methods. The signature of the class is more precise.
_INIT_SIGNATURE = inspect.Signature(
    [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY),
        inspect.Parameter("fields", inspect.Parameter.VAR_KEYWORD),
    ]
)
