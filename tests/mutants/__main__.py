"""`make mutants`: change single places of the code, and see whether the tests of its package notice.

Places are drawn at random, the same number in each package, with one change each: a change of cosmic-ray's, or the
deletion of the statement. Only the tests that run the place are tried, the fastest first, until one fails. The work is
done in a copy of the source. The exit status is 1 if a mutant survived.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from difflib import unified_diff
from itertools import chain, count
from pathlib import Path

import coverage
import hypothesis.stateful  # noqa: F401 - here, for all forks
import parso
import pytest
import trio  # noqa: F401 - likewise
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

_ROOT = Path(__file__).parents[2]
#: The code of each package, and its tests.
_PACKAGES = {
    **{
        name: ([f"server/sysmemd/{name}/*.py"], [f"tests/sysmemd/{name}"])
        for name in ("constraints", "memory", "tree", "channels", "inspection")
    },
    # These tests cover the refusals of attached attempts.
    "explaining": (
        ["server/sysmemd/explaining/*.py"],
        ["tests/sysmemd/explaining", "tests/sysmemd/constraints/test_attached.py"],
    ),
    "server": (
        ["server/sysmemd/*.py", "server/sysmemd/testing/*.py"],
        # The tests of faults also run the daemon's modules for them.
        ["tests/sysmemd/test_*.py", "tests/sysmemd/testing", "tests/sysmem/testing/test_faults.py"],
    ),
    # The worked examples of images test both packages.
    "protocol": (
        ["protocol/sysmem_protocol/**/*.py"],
        ["tests/sysmem_protocol", "tests/sysmemd/constraints/test_worked_examples.py"],
    ),
    "client": (
        ["client/sysmem/*.py", *(f"client/sysmem/{face}/*.py" for face in ("_async", "_blocking"))],
        ["tests/sysmem/test_*.py"],
    ),
    "frames": (["client/sysmem/_frames/*.py"], ["tests/sysmem/frames"]),
    "sysmemctl": (["client/sysmem/sysmemctl/*.py"], ["tests/sysmem/sysmemctl"]),
    # The plugin's tests use the kit as the tests of other projects do.
    "testing": (
        ["client/sysmem/testing/**/*.py"],
        ["tests/sysmem/testing", "tests/sysmem/test_pytest_plugin.py"],
    ),
}
#: Operators that need arguments, and those whose changes almost never change what the code does.
_LEFT_OUT = ("Variable", "_Is_Eq", "_IsNot_NotEq", "_Eq_Is", "_NotEq_IsNot")
#: The timeout of a test of a mutant in seconds, and the CPU time for its tests in addition to twice the usual time.
_PATIENCE = 60
#: The limit of the address space for the tests of a mutant, in bytes.
_ADDRESS_SPACE = 16 << 30
#: How tests are run. Modules that this process has already imported are not rewritten, which does no harm.
_PYTEST = (
    *("-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
#: How coverage is recorded: which test runs which line, also in the processes that tests start.
_COVERAGE = """[run]
parallel = true
patch = _exit
concurrency = thread,greenlet
context = ${{SYSMEM_TEST-}}
data_file = {data}
include =
  {files}
"""
_TIMES = count(1)
#: Arguments of `dataclass`, `field`, `Struct` and `zip` that change only the cost, or only detect mistakes.
_OPTIONS = ("eq", "frozen", "gc", "init", "kw_only", "repr", "slots", "strict")
_COMPOUND = ("file_input", "suite", "if_stmt", "for_stmt", "while_stmt", "try_stmt", "with_stmt")

_Place = tuple[int, int]


class DeleteStatement(Operator):  # type: ignore[misc]  # cosmic-ray has no types
    """Replace a statement of a function by `pass`, unless that changes nothing or only leaves a name undefined."""

    def mutation_positions(self, node: parso.tree.NodeOrLeaf) -> Iterator[tuple[_Place, _Place]]:
        if node.type != "simple_stmt" or not parso.tree.search_ancestor(node, "funcdef"):
            return
        statement = ast.parse(node.get_code(include_prefix=False)).body[0]
        is_last = node.get_next_sibling() is None and node.parent.parent.type == "funcdef"
        match statement:
            case ast.Return(value=None | ast.Constant(value=None)) if is_last:
                pass
            case ast.Pass() | ast.Import() | ast.ImportFrom() | ast.Nonlocal() | ast.Global():
                pass
            case ast.Assign(targets=[ast.Name() | ast.Tuple()]) | ast.AnnAssign(target=ast.Name()):
                pass
            case ast.Expr(value=ast.Constant()) | ast.Assert():
                pass
            case _:
                yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: parso.tree.BaseNode, index: int) -> parso.tree.BaseNode:
        first = node.get_first_leaf()
        node.children[0] = parso.python.tree.Name("pass", first.start_pos, first.prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


_OPERATORS = [
    DeleteStatement(),
    *(get_operator(name)() for name in operator_names() if not any(map(name.count, _LEFT_OUT))),
]


def places(source: str) -> dict[_Place, list[tuple[Operator, int]]]:
    """Return the places (line, column) at which the source can be changed. Each has its changes: operator and index."""
    found = defaultdict(list)
    occurrences = Counter[Operator]()
    for node in ast_nodes(parso.parse(source)):
        for operator in _OPERATORS if node.type not in ("name", "newline", "string") else ():
            for begin, _end in operator.mutation_positions(node):
                if not is_declaration(node):
                    found[begin].append((operator, occurrences[operator]))
                occurrences[operator] += 1
    return found


def is_declaration(node: parso.tree.NodeOrLeaf) -> bool:
    """Return whether the node is part of a type annotation or of a class option."""
    while (parent := node.parent) is not None:
        if (
            (parent.type == "tfpdef" and node is not parent.children[0])
            or (parent.type == "annassign" and node is parent.children[1])
            or (parent.type == "funcdef" and node is parent.annotation)
            or (parent.type == "argument" and parent.children[0].get_code().strip() in _OPTIONS)
        ):
            return True
        node = parent
    return False


class Package:
    """A package in the copy, and which of its tests run which line."""

    def __init__(self, copy: Path, name: str) -> None:
        self.copy, self.name = copy, name
        code, tests = (
            sorted({str(path) for p in of for path in copy.glob(p)}) for of in _PACKAGES[name]
        )
        self.files = [Path(file) for file in code]
        data, durations = copy / f".coverage.{name}", copy / f".durations.{name}.json"
        if not durations.exists():
            options = copy / ".coveragerc"
            options.write_text(_COVERAGE.format(data=data, files="\n  ".join(code)))
            run = (sys.executable, "-m", "coverage", "run", "-m", "pytest", *_PYTEST)
            variables = {"COVERAGE_RCFILE": str(options), "SYSMEM_DURATIONS": str(durations)}
            variables |= {**os.environ, **environment(copy)}
            # Tests that fail under the tracer are left out.
            subprocess.run([*run, "-p", "tests.mutants.contexts", *tests], cwd=copy, env=variables)
            combine = (sys.executable, "-m", "coverage", "combine", "--quiet")
            subprocess.run(combine, cwd=copy, env=variables, check=True)
        self.durations: dict[str, float] = json.loads(durations.read_text())
        self.recorded = coverage.CoverageData(str(data))
        self.recorded.read()

    def tests_of(self, file: Path, lines: range) -> list[str]:
        """Return the tests that run one of the lines, fastest first.

        If the package's import runs a line, all tests follow.
        """
        by_line = {
            line: {context.rpartition("|")[2] for context in contexts}
            for line, contexts in self.recorded.contexts_by_lineno(str(file)).items()
        }
        found = {context for line in lines for context in by_line.get(line, ())}
        files = tuple(context for context in found if context.endswith("::"))
        found.update(test for test in self.durations if test.startswith(files))
        first = found
        if "" in found:
            first = set(chain.from_iterable(by_line.values()))
            found = set(self.durations)
        return sorted(
            found & self.durations.keys(),
            key=lambda test: (test not in first, self.durations[test]),
        )

    def survives(self, file: Path, mutated: str, tests: list[str]) -> bool:
        """Return whether all the tests pass with another text in the file."""
        if not tests:
            return True
        original = file.read_text()
        status = file.stat()
        seconds = _PATIENCE + 2 * sum(map(self.durations.__getitem__, tests))
        try:
            file.write_text(mutated)
            # Python distinguishes compiled files by this, so no stale file is used.
            os.utime(file, (0, next(_TIMES)))
            return passes(self.copy, tests, int(seconds))
        finally:
            file.write_text(original)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def environment(copy: Path) -> dict[str, str]:
    """Return the environment variables with which Python imports the copy."""
    paths = [str(copy / directory) for directory in ("client", "protocol", "server")]
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": ""}


def passes(copy: Path, tests: list[str], seconds: int) -> bool:
    """Run tests in a fork of this process, which has already imported the slow modules. Return whether all pass."""
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setpgid(0, 0)
            os.chdir(copy)
            os.environ.update(environment(copy))
            sys.dont_write_bytecode = False
            sys.path[:0] = [str(copy), *environment(copy)["PYTHONPATH"].split(os.pathsep)]
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
            with open(copy / ".output", "wb") as output:
                for fd in (1, 2):
                    os.dup2(output.fileno(), fd)
            status = pytest.main([*_PYTEST, "-x", f"--timeout={_PATIENCE}", *tests])
        finally:
            os._exit(status)
    with contextlib.suppress(ProcessLookupError):
        os.setpgid(child, child)
    ended = os.pidfd_open(child)
    select.select([ended], [], [], 2 * seconds)
    os.close(ended)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # a test that hangs, or leftovers of the tests
    _, status = os.waitpid(child, 0)
    return status == 0


def lines_around(source: str, place: _Place) -> range:
    """Return the lines of the statement at the place, or of that part of a compound statement's head."""
    node = parso.parse(source).get_leaf_for_position(place)
    while node.parent.type not in (*_COMPOUND, "funcdef", "classdef"):
        node = node.parent
    return range(node.start_pos[0], node.get_last_leaf().start_pos[0] + 1)


def draw(package: Package, count: int, seed: str) -> Iterator[tuple[Path, _Place, str]]:
    """Yield files of the package, each with a place and the text of the file with that place changed."""
    chance = random.Random(seed)
    sources = {file: file.read_text() for file in package.files}
    sites = [(file, place) for file in sources for place in places(sources[file])]
    for file, place in chance.sample(sites, len(sites)):
        operator, occurrence = chance.choice(places(sources[file])[place])
        mutated = mutate_code(sources[file], operator, occurrence)
        try:
            ast.parse(mutated)
        except SyntaxError:
            continue  # cosmic-ray does not support all of Python's syntax
        yield file, place, mutated
        count -= 1
        if not count:
            break


def main() -> int:
    """Try mutants. The exit status says whether any survived."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=30, help="mutants of each package")
    parser.add_argument("packages", nargs="*", help=f"some of {', '.join(_PACKAGES)}")
    arguments = parser.parse_args()
    survivors: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        copy = Path(directory) / "copy"
        hidden = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "out", "site")
        shutil.copytree(_ROOT, copy, ignore=hidden, symlinks=True)
        for name in arguments.packages or _PACKAGES:
            package = Package(copy, name)
            tried = Counter[str]()
            for file, place, mutated in draw(package, arguments.count, f"{name}{arguments.seed}"):
                source = file.read_text()
                tests = package.tests_of(file, lines_around(source, place))
                outcome = "survived" if package.survives(file, mutated, tests) else "killed"
                tried[outcome] += 1
                where = f"{file.relative_to(copy)}:{place[0]}"
                print(f"{outcome}\t{where}\t{len(tests)} tests", flush=True)
                if outcome == "survived":
                    lines = unified_diff(
                        source.splitlines(), mutated.splitlines(), where, where, n=1, lineterm=""
                    )
                    survivors.append("\n".join(lines))
                    print(survivors[-1], flush=True)
            print(f"{name}: {tried['killed']} of {tried.total()} killed", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
