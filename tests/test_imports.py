"""Imports between modules point one way.

There is no cycle, not even through hidden imports or imports for type checks.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["protocol/sysmem_protocol", "server/sysmemd", "client/sysmem"]
#: Modules that import other modules of the project below their top, with the reason. Only such imports may close a
#: cycle.
HIDDEN = {
    "sysmem": "a program that uses one face, or no plain constraints, does not load the rest",
    "sysmem.blocking": "a program that sends no frames does not load what does",
    "sysmem._sharing": "a process that uses one face does not load the other",
    "sysmem.sysmemctl._top": "without textual the command says what to install",
    "sysmem._trace": "a client that is not traced does not load what writes traces",
    "sysmem._buffers": "a process that maps no image as arrays loads neither numpy nor what describes planes",
    "sysmem._vmo": "a process that makes no dma-buf, and leaves no view behind, does not load what does",
    "sysmem.pytest_plugin": "pytest loads the plugin in every run, also in those that use nothing of it",
    "sysmemd.daemon": "a daemon that serves no metrics does not load an HTTP library",
    "sysmem_protocol.library": "users find to_dict() on every table",
}


def modules(package: str) -> dict[str, Path]:
    top = ROOT / package
    names = {
        ".".join((top.name, *path.relative_to(top).with_suffix("").parts)): path
        for path in top.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


MODULES = {name: path for package in PACKAGES for name, path in modules(package).items()}


def imports(name: str) -> Iterator[tuple[str, bool]]:
    """Yield the modules of the project that a module imports, and whether the import is at its top."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_bytes())
    for statement in ast.walk(tree):
        found: list[str] = []
        if isinstance(statement, ast.Import):
            found = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            above = package[: len(package) - statement.level + 1] if statement.level else []
            base = ".".join([*above, *filter(None, [statement.module])])
            members = [f"{base}.{alias.name}" for alias in statement.names]
            found = [member if member in MODULES else base for member in members]
        yield from ((each, statement in tree.body) for each in found if each in MODULES)


def test_no_circle() -> None:
    graph = {
        name: {other for other, at_top in imports(name) if at_top or name not in HIDDEN} - {name}
        for name in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" ← ".join(error.args[1]))


def test_no_hidden_import() -> None:
    hidden = {name for name in MODULES if not all(at_top for _, at_top in imports(name))}
    assert hidden == set(HIDDEN)


#: Packages above client and server, which use both.
ABOVE = ("sysmem.testing", "sysmem.pytest_plugin", "sysmem.sysmemctl")


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("sysmem_protocol", ("sysmem", "sysmemd")),
        ("sysmemd", ("sysmem",)),
        ("sysmem", ("sysmemd", *ABOVE)),
        ("sysmemd.constraints", ("sysmemd.explaining", "sysmemd.tree", "sysmemd.channels")),
        ("sysmemd.explaining", ("sysmemd.tree", "sysmemd.channels")),
        ("sysmemd.memory", ("sysmemd.tree", "sysmemd.channels", "sysmemd.constraints")),
        ("sysmemd.tree", ("sysmemd.channels", "sysmemd.memory")),
    ],
)
def test_what_is_lower_does_not_know_what_is_higher(lower: str, higher: tuple[str, ...]) -> None:
    found = [
        f"{name} imports {other}"
        for name in MODULES
        if within(name, lower) and not within(name, *ABOVE)
        for other, _ in imports(name)
        if within(other, *higher)
    ]
    assert not found


#: Modules that a program which imports the client, or one face of it, does not load. Each costs milliseconds at start.
NOT_LOADED = {
    "import sysmem": {"anyio", "multiprocessing", "difflib", "sysmem._async"},
    "import sysmem.blocking": {"anyio", "difflib", "random", "sysmem._async", "sysmem._frames"},
    "import sysmem; sysmem.connect": {"difflib", "random", "sysmem._blocking", "sysmem._frames"},
    "import sysmem.sysmemctl._ping": {"anyio", "rich", "sysmem._async", "sysmem._frames"},
    "import sysmem.frames, sysmem.blocking.frames": {
        "numpy",
        "PIL",
        "pytest",
        "structlog",
        "sysmemd",
    },
}


@pytest.mark.untraced  # the tracer loads modules
@pytest.mark.parametrize("program", NOT_LOADED)
def test_a_program_loads_what_it_uses(program: str) -> None:
    listing = f"import sys; {program}; print(*sys.modules, sep=chr(10))"
    command = [sys.executable, "-c", listing]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "sysmem" in loaded
    assert not loaded & NOT_LOADED[program]
