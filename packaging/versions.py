"""Run the tests with each installed CPython that pyproject.toml names.

    python packaging/versions.py [--python PATH]... [-- PYTEST OPTIONS AND PATHS]

Looks for `python3.N` on the PATH, among pyenv's versions, and at each PATH that is given. Each interpreter gets a
virtual environment of its own, `.venv-3.N`, which is kept. The exit status is 1 if a test failed with any of them.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLASSIFIER = "Programming Language :: Python :: 3."


def main() -> int:
    """Run the tests with each version, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", action="append", default=[], help="an interpreter to use too")
    parser.add_argument("pytest", nargs="*", help="options and paths for pytest")
    options = parser.parse_args()
    outcomes: dict[str, str] = {}
    for version in supported():
        interpreter = find(version, options.python)
        if interpreter is None:
            outcomes[version] = "not tested: there is no such interpreter"
            continue
        print(f"--- {interpreter}", flush=True)
        failed = run(environment(version, interpreter), options.pytest)
        outcomes[version] = f"{'failed' if failed else 'passed'}: {interpreter}"
    for version, outcome in outcomes.items():
        print(f"{version:6}{outcome}")
    return any(outcome.startswith("failed") for outcome in outcomes.values())


def supported() -> list[str]:
    """Return the versions that pyproject.toml names, such as 3.11."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [name.rpartition(" ")[2] for name in project["classifiers"] if CLASSIFIER in name]


def find(version: str, given: list[str]) -> str | None:
    """Return the first interpreter that runs and has a version."""
    for path in candidates(version, given):
        asked = [path, "-c", "import sys; print(sys.implementation.name, *sys.version_info[:2])"]
        try:
            told = subprocess.run(asked, capture_output=True, text=True).stdout
        except OSError:
            continue
        if told.split() == ["cpython", *version.split(".")]:
            return path
    return None


def candidates(version: str, given: list[str]) -> Iterator[str]:
    """Yield the possible paths of an interpreter. One on the PATH may be a shim of pyenv that does not run."""
    yield from given
    if found := shutil.which(f"python{version}"):
        yield found
    for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), reverse=True):
        yield str(path)


def environment(version: str, interpreter: str) -> Path:
    """Return the interpreter of an environment for the tests. It is recreated when pyproject.toml has changed."""
    directory = ROOT / f".venv-{version}"
    python, ready = directory / "bin" / "python", directory / ".ready"
    project = ROOT / "pyproject.toml"
    if not ready.exists() or ready.stat().st_mtime < project.stat().st_mtime:
        # Not every interpreter has pip. The pip of this interpreter installs into all of them.
        subprocess.run(
            [interpreter, "-m", "venv", "--clear", "--without-pip", directory], check=True
        )
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        subprocess.run([*pip, "pip>=25.1"], check=True)
        subprocess.run([*pip, "--group", "dev", "--editable", "."], check=True, cwd=ROOT)
        ready.touch()
    return python


def run(python: Path, options: list[str]) -> int:
    """Run the tests. Return the exit status."""
    # A separate, short path: the address of a socket has little room.
    with tempfile.TemporaryDirectory(prefix="v.", dir="/tmp") as directory:
        command = [str(python), "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider"]
        return subprocess.run(
            [*command, f"--basetemp={directory}/t", *options], cwd=ROOT
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
