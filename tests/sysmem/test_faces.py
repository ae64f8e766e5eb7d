"""Both faces have the same interface, and little code of their own."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sysmem
from sysmem import blocking
from sysmem_protocol import sysmem2
from sysmem_protocol.library import Interface

ROOT = Path(__file__).parents[2]


def test_the_blocking_face_is_what_the_script_makes() -> None:
    script = ROOT / "client" / "generate_blocking.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_blocking_face_says_nothing_about_tasks() -> None:
    for path in (ROOT / "client" / "sysmem" / "_blocking").glob("*.py"):
        assert re.findall(r"\bawait.*|\basync\b.*", path.read_text()) == [], path


@pytest.mark.parametrize(
    "name",
    [
        "Allocator",
        "BufferCollection",
        "BufferCollectionToken",
        "BufferCollectionTokenGroup",
        "connect",
        "EventPair",
    ],
)
def test_both_faces_have_the_same_names_and_arguments(name: str) -> None:
    one = sysmem.AsyncEventPair if name == "EventPair" else getattr(sysmem, name)
    other = getattr(blocking, name)
    if not inspect.isclass(one):
        assert str(inspect.signature(one)) == str(inspect.signature(other))
        return
    for attribute in dir(one):
        if not attribute.startswith("_") and callable(getattr(one, attribute)):
            mine, theirs = (inspect.signature(getattr(face, attribute)) for face in (one, other))
            assert list(mine.parameters.values()) == list(theirs.parameters.values()), attribute
    public = {attribute for attribute in dir(one) if not attribute.startswith("_")}
    assert public == {attribute for attribute in dir(other) if not attribute.startswith("_")}


@pytest.mark.parametrize("interface", [sysmem2.Allocator, *sysmem2.NODES])
def test_every_declared_method_has_its_call(interface: type[Interface]) -> None:
    for face in (sysmem, blocking):
        made = getattr(face, interface.__name__)
        for method in interface.methods.values():
            call = getattr(made, method.name)
            assert call.__doc__
            assert "timeout" in inspect.signature(call).parameters
            assert inspect.iscoroutinefunction(call) == (face is sysmem)


@pytest.mark.parametrize("module", ["sysmem", "sysmem.blocking"])
def test_importing_needs_neither_daemon_nor_event_loop(module: str) -> None:
    heavy = ["sysmemd", "structlog", "trio", "asyncio", "numpy", "pytest"]
    program = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_the_blocking_face_is_imported_when_it_is_asked_for() -> None:
    program = """if True:
        import sys, sysmem
        assert "sysmem.blocking" not in sys.modules
        assert sysmem.blocking.connect is sys.modules["sysmem.blocking"].connect
        sysmem.nothing
    """
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "AttributeError: module 'sysmem' has no attribute 'nothing'" in result.stderr
