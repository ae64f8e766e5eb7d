"""The memory of a buffer: rights, mappings, and the search for users of a mapping."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sysmem

from .conftest import VMO_BYTES


@pytest.fixture
def read_only(vmo: sysmem.Vmo) -> Iterator[sysmem.Vmo]:
    with sysmem.Vmo(os.open(f"/proc/self/fd/{vmo.fileno()}", os.O_RDONLY)) as made:
        yield made


def mappings() -> int:
    """Return how many mappings of the test's memory this process has."""
    return Path("/proc/self/maps").read_text().count("/memfd:vmo")


def test_size_and_rights(vmo: sysmem.Vmo, read_only: sysmem.Vmo) -> None:
    assert (vmo.size, vmo.writable) == (VMO_BYTES, True)
    assert (read_only.size, read_only.writable) == (VMO_BYTES, False)


def test_a_view_is_writable_iff_the_rights_allow(vmo: sysmem.Vmo, read_only: sysmem.Vmo) -> None:
    with vmo.map() as view, read_only.map() as other:
        assert len(view) == VMO_BYTES
        view[:5] = b"hello"
        assert bytes(other[:5]) == b"hello"
        assert other.readonly
        with pytest.raises(TypeError):
            other[0] = 1
    assert mappings() == 0


def test_a_length_may_be_given(vmo: sysmem.Vmo) -> None:
    with vmo.map(10) as view:
        assert len(view) == 10
    for length in (0, -1, VMO_BYTES + 1):
        with pytest.raises(ValueError, match=str(length)):
            vmo.map(length)


def test_closing_the_vmo_leaves_the_mapping(vmo: sysmem.Vmo) -> None:
    with vmo.map() as view:
        vmo.close()
        view[0] = 7
        assert view[0] == 7
    assert mappings() == 0
    with pytest.raises(sysmem.HandleClosedError):
        vmo.map()


def test_a_slice_that_lives_on_is_told_and_keeps_the_mapping(vmo: sysmem.Vmo) -> None:
    kept: list[memoryview] = []
    with (
        pytest.raises(BufferError, match="by a memoryview of 100 bytes in a list; it stays"),
        vmo.map() as view,
    ):
        kept.append(view[:100])
    assert mappings() == 1
    kept[0][0] = 1
    kept.clear()
    gc.collect()
    assert mappings() == 0


def test_the_search_for_a_holder_does_not_touch_what_asyncio_keeps_for_reuse(
    vmo: sysmem.Vmo,
) -> None:
    """CPython 3.12 would free these objects twice, and the next garbage collection would never end."""
    asyncio.run(asyncio.sleep(0.001))
    kept: list[memoryview] = []
    with pytest.raises(BufferError), vmo.map() as view:
        kept.append(view[:100])
    kept.clear()
    gc.collect()
    assert mappings() == 0


def test_an_array_that_lives_on_is_told_and_keeps_the_mapping(vmo: sysmem.Vmo) -> None:
    kept: list[np.ndarray[tuple[int], np.dtype[np.uint8]]] = []
    with (
        pytest.raises(
            BufferError,
            match=r"by a numpy array of shape \(8192,\) and type uint8 in a list; it stays",
        ),
        vmo.map() as view,
    ):
        kept.append(np.frombuffer(view, np.uint8))
    assert mappings() == 1
    kept[0][0] = 1
    kept.clear()
    gc.collect()
    assert mappings() == 0


class Picture:
    """Something that keeps an array."""

    pixels: np.ndarray[tuple[int], np.dtype[np.uint8]]


def test_who_holds_a_mapping_is_told_by_name(vmo: sysmem.Vmo) -> None:
    def work(picture: Picture) -> None:
        with vmo.map() as view:
            whole = np.frombuffer(view, np.uint8)
            every_other = whole.reshape(64, 128)[::2]
            picture.pixels = whole
        del whole, every_other

    picture = Picture()
    with pytest.raises(BufferError) as raised:
        work(picture)
    told = str(raised.value)
    name = "test_who_holds_a_mapping_is_told_by_name.<locals>.work()"
    assert (
        f"a numpy array of shape (8192,) and type uint8 in 'whole' of {name} and a Picture" in told
    )
    assert f"a numpy array of shape (32, 128) and type uint8 in 'every_other' of {name}" in told
    del picture, raised
    gc.collect()
    assert mappings() == 0


def test_to_tell_it_keeps_nothing(vmo: sysmem.Vmo) -> None:
    with pytest.raises(BufferError, match=r"memoryview of 1 bytes in 'kept' of"), vmo.map() as view:
        kept = view[:1]
    assert mappings() == 1
    del kept
    assert mappings() == 0


def test_to_tell_it_leaves_variables_that_the_caller_asked_for(vmo: sysmem.Vmo) -> None:
    other = object()
    scope = locals()
    with pytest.raises(BufferError, match=r"memoryview of 1 bytes in 'kept' of"), vmo.map() as view:
        kept = view[:1]
    assert scope["other"] is other
    del kept
    assert mappings() == 0


class Hermit:
    """An object that raises when its class is asked for."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise ReferenceError


def test_to_tell_it_asks_other_objects_nothing(
    vmo: sysmem.Vmo, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            raise ImportError(name)

    hermit = Hermit()
    monkeypatch.setitem(sys.modules, "numpy", Lazy("numpy"))
    kept: list[memoryview] = []
    with pytest.raises(BufferError, match=r"1 bytes in a list"), vmo.map() as view:
        kept.append(view[:1])
    del kept, hermit


def test_many_holders_are_counted(vmo: sysmem.Vmo) -> None:
    kept = []
    with (
        pytest.raises(BufferError, match=r"(a memoryview.* in a list, ){4}3 more;"),
        vmo.map() as view,
    ):
        kept += [view[:i] for i in range(1, 8)]
    del kept


def test_a_holder_that_can_not_be_looked_into(vmo: sysmem.Vmo) -> None:
    with pytest.raises(BufferError, match="by a memoryview of 8192 bytes"), vmo.map() as view:
        kept = (ctypes.c_char * 8).from_buffer(view)
    del kept


def test_another_error_comes_first_with_a_note_of_who_holds_the_mapping(vmo: sysmem.Vmo) -> None:
    def look(view: memoryview) -> None:
        first = view[:1]
        raise ZeroDivisionError(first[0])

    def work() -> None:
        with vmo.map() as view:
            rest = view[1:]
            look(rest)

    with pytest.raises(ZeroDivisionError) as raised:
        work()
    name = "test_another_error_comes_first_with_a_note_of_who_holds_the_mapping.<locals>"
    assert raised.value.__notes__ == [
        "the mapping is still in use after its with-block,"
        f" by a memoryview of 8191 bytes in 'rest' of {name}.work() and 'view' of {name}.look(),"
        f" a memoryview of 1 bytes in 'first' of {name}.look();"
        " it stays until the last of those is gone"
    ]
    assert mappings() == 1
    gc.disable()
    try:
        raised.value.__traceback__ = None
        del raised
        assert mappings() == 0
    finally:
        gc.enable()


def test_another_error_is_not_held_up_by_a_look_at_all_objects(
    vmo: sysmem.Vmo, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[memoryview] = []

    def fail() -> None:
        with vmo.map() as view:
            kept.append(view[:1])
            raise ZeroDivisionError

    monkeypatch.setattr(gc, "get_objects", None)
    with pytest.raises(ZeroDivisionError) as raised:
        fail()
    assert raised.value.__notes__ == [
        "the mapping is still in use after its with-block, by an unknown object;"
        " it stays until the last of those is gone"
    ]
    kept.clear()
    assert mappings() == 0


def test_another_error_alone_gets_no_note(vmo: sysmem.Vmo) -> None:
    with pytest.raises(ZeroDivisionError) as raised, vmo.map():
        raise ZeroDivisionError
    assert not hasattr(raised.value, "__notes__")
    assert mappings() == 0


def test_a_duplicate_has_a_life_of_its_own(vmo: sysmem.Vmo) -> None:
    with vmo.duplicate() as other:
        assert isinstance(other, sysmem.Vmo)
        vmo.close()
        assert other.size == VMO_BYTES
