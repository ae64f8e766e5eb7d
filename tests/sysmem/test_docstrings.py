"""Every public name has a meaningful docstring, which `help()` and editors show."""

from __future__ import annotations

import contextlib
import enum
import importlib
import inspect
import pkgutil
import pydoc
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import ModuleType, UnionType
from typing import Any

import pytest

import sysmem
from sysmem_protocol import sysmem2
from sysmem_protocol.docstrings import attribute_docstrings
from sysmem_protocol.library import Struct, Table

#: Loads a plugin of pytest. `pytest --fixtures` documents its fixtures.
APART = {"sysmem.pytest_plugin"}


def modules() -> Iterator[ModuleType]:
    """The public modules of the client."""
    yield sysmem
    for found in pkgutil.walk_packages(sysmem.__path__, "sysmem."):
        if not re.search(r"\._|\.__main__", found.name) and found.name not in APART:
            with contextlib.suppress(ImportError):  # GStreamer is missing here
                yield importlib.import_module(found.name)


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public attributes that a class of this project has: methods, properties, fields and enum members."""
    for name in dir(cls):
        owner = next((base for base in cls.__mro__ if name in vars(base)), None)
        if not name.startswith("_") and owner is not None and owner.__module__.startswith("sysmem"):
            yield name, getattr(cls, name)


def public() -> dict[str, Any]:
    """Yield every public name as a user would write it, and its object."""
    found: dict[str, Any] = {}
    for module in modules():
        found[module.__name__] = module
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            found[f"{module.__name__}.{name}"] = value
            if inspect.isclass(value):
                found |= {f"{module.__name__}.{name}.{each}": of for each, of in members(value)}
    return found


PUBLIC = public()
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
#: Objects that can't have a docstring. (A member of an enum whose value is a sentence needs none.)
CONSTANTS = (str, int, float, tuple, type(None), Table, UnionType)


def needs_docstring(value: Any) -> bool:
    if isinstance(value, enum.Enum):
        return not isinstance(value.value, str) or len(value.value.split()) < 3
    return not isinstance(value, CONSTANTS)


def complaint(name: str, value: Any) -> str | None:
    """Return the fault of a docstring, if it has one."""
    doc = inspect.getdoc(value)
    if doc and doc.startswith("Alias for field number"):  # all that help() shows for a named tuple
        owner, _, field = name.rpartition(".")
        doc = attribute_docstrings(PUBLIC[owner]).get(field)
    if not doc:
        return "none"
    if not isinstance(value, type | ModuleType) and doc == inspect.getdoc(type(value)):
        return "that of its class"
    summary = doc.split("\n\n")[0]
    if len(summary.split()) < 2:
        return f"too short: {doc}"
    if not re.match(r"[`A-Z0-9]", summary) or not re.search(r"[.:]$", summary):
        return f"no sentence: {summary}"
    return None


def test_the_names_are_found() -> None:
    for name in (
        "sysmem.VmoBuffer.planes",
        "sysmem.BufferCollectionInfo.image",
        "sysmem.PixelFormat.NV12",
        "sysmem.ImageFormatConstraints.min_size",
        "sysmem.blocking.BufferCollection.set_constraints",
        "sysmem.formats.from_drm",
    ):
        assert name in PUBLIC


def test_every_public_name_has_a_useful_docstring() -> None:
    lacking = {
        name: wrong
        for name, value in PUBLIC.items()
        if needs_docstring(value) and (wrong := complaint(name, value))
    }
    assert lacking == {}


def tables(module: str) -> list[type[Table]]:
    found = [v for v in vars(sysmem2).values() if isinstance(v, type) and issubclass(v, Table)]
    return [each for each in found if each.__module__ == f"sysmem_protocol.sysmem2.{module}"]


@pytest.mark.parametrize("table", tables("constraints"), ids=lambda t: t.__name__)
def test_a_field_of_constraints_tells_its_default_and_how_several_values_combine(
    table: type[Table],
) -> None:
    for name, doc in attribute_docstrings(table).items():
        told = " ".join(doc.split())
        assert re.search(r"[Uu]n-set|is required|without it", told), f"{name}: {told}"
        if table is not sysmem2.Heap:
            how = r"participants|participant that requires|combined|set value wins"
            assert re.search(how, told), f"{name}: {told}"


@pytest.mark.parametrize(
    ("field", "how"),
    [
        ("BufferCollectionConstraints.min_buffer_count_for_camping", "summed"),
        ("BufferCollectionConstraints.min_buffer_count_for_shared_slack", "greatest"),
        ("ImageFormatConstraints.bytes_per_row_divisor", "least common multiple"),
        ("BufferMemoryConstraints.permitted_heaps", "intersected"),
        ("BufferUsage.cpu", "or"),
    ],
)
def test_how_some_fields_combine(field: str, how: str) -> None:
    assert how in str(inspect.getdoc(PUBLIC[f"sysmem.{field}"]))


@pytest.mark.parametrize("name", CLASSES)
def test_help_is_readable(name: str) -> None:
    shown = pydoc.plain(pydoc.render_doc(CLASSES[name]))
    assert "Annotated[" not in shown
    assert "Field(number" not in shown
    if issubclass(CLASSES[name], Table | Struct | sysmem.ImageFormat):
        assert max(map(len, shown.splitlines())) <= 250, max(shown.splitlines(), key=len)


@pytest.mark.parametrize("name", [n for n, cls in CLASSES.items() if is_dataclass(cls)])
def test_the_signature_has_the_fields(name: str) -> None:
    cls: Any = CLASSES[name]
    named = [field.name for field in fields(cls) if field.init]
    assert list(inspect.signature(cls).parameters) == named


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_declared_anew_has_a_docstring_where_it_is(name: str) -> None:
    """Editors show the literal below the declaration that they find, and search for no other."""
    cls = CLASSES[name]
    if issubclass(cls, Table):
        for base in cls.__mro__:
            own = set(inspect.get_annotations(base)) if issubclass(base, Table) else set()
            public_fields = {each for each in own - {"members"} if not each.startswith("_")}
            mine = {each for each in public_fields if attribute_docstrings(base).get(each)}
            assert public_fields == mine, base
