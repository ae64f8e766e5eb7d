"""Check that a release works: build it, and use each built file in its own environment.

    python packaging/release.py [--no-demo] DIRECTORY

Writes the source distribution and the wheel into DIRECTORY, which must be new. Each is checked by twine, installed into
a fresh virtual environment, and used from there: the commands, a negotiation, the README's test, and the demo.
A tag on this commit must be the version, as `v1.2.3`, and the changelog must have its date; without a tag this is a
rehearsal.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: The packages that the demo and the README's test need.
EXTRAS = "av,pillow,testing,tools"
SMOKE = """
import sysmem, sysmemd
from sysmem.testing import blocking
with blocking.daemon() as daemon, daemon.connect() as allocator:
    collection = allocator.allocate_non_shared_collection()
    collection.set_constraints(sysmem.constraints("NV12 64x48", cpu="read, write", hold=2))
    with collection.wait_for_all_buffers_allocated(timeout=20) as info:
        info.buffers[0].planes()[0][:] = 16
        assert len(info.buffers) == 2
    collection.release()
assert {root!r} not in sysmem.__file__ + sysmemd.__file__, "the sources were used, not the installation"
print("sysmem", sysmem.__version__, "works from", sysmem.__file__)
"""


def main() -> int:
    """Build and check. Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--no-demo", action="store_true", help="leave out the demo")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    directory: Path = options.directory.absolute()
    if directory.exists() and any(directory.iterdir()):
        print(f"{directory} is not empty", file=sys.stderr)
        return 1
    run(sys.executable, "-m", "build", "--outdir", directory, ROOT)
    built = sorted(directory.iterdir())
    version = check_names(built)
    check_tag(version)
    run(sys.executable, "-m", "twine", "check", "--strict", *built)
    for each in built:
        with tempfile.TemporaryDirectory() as environment:
            use(each, Path(environment), demo=not options.no_demo)
    print(f"{version} is ready: " + " ".join(str(each) for each in built))
    return 0


def run(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Print and run a command. Raises an error if it fails."""
    words = [str(word) for word in command]
    print("+", *words, flush=True)
    subprocess.run(words, cwd=cwd, env=env, check=True)


def check_names(built: Sequence[Path]) -> str:
    """Return the version in the names of both files."""
    found = {
        match[1]
        for each in built
        if (match := re.fullmatch(r"sysmem-([^-]+?)(?:\.tar\.gz|-py3-none-any\.whl)", each.name))
    }
    if len(built) != 2 or len(found) != 1:
        raise SystemExit(f"not one wheel and one source distribution: {built}")
    [version] = found
    return version


def check_tag(version: str) -> None:
    """Refuse a tag that differs from the version, and under a tag other files than its own and an undated changelog."""
    command = ["git", "describe", "--exact-match", "--tags", "HEAD"]
    tag = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if tag.returncode:
        print("this commit has no tag: a rehearsal")
        return
    if tag.stdout.strip() != f"v{version}":
        raise SystemExit(f"the tag is {tag.stdout.strip()}, but the version is {version}")
    command = ["git", "status", "--porcelain"]
    changed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if changed:
        raise SystemExit(f"files that are not committed:\n{changed}")
    heading = rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$"
    if not re.search(heading, (ROOT / "CHANGELOG.md").read_text(), re.M):
        raise SystemExit(f"CHANGELOG.md has no heading '## {version} (YYYY-MM-DD)'")


def use(built: Path, directory: Path, *, demo: bool) -> None:
    """Install one file in a fresh environment, and use it there."""
    venv.create(directory / "venv", with_pip=True)
    binaries = directory / "venv" / "bin"
    python = binaries / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, f"{built}[{EXTRAS}]", *(["matplotlib>=3.9"] if demo else []))
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONSAFEPATH": "1",
    }
    for command in ("sysmemd", "sysmemctl"):
        run(binaries / command, "--version", cwd=directory, env=environment)
    run(python, "-c", SMOKE.format(root=str(ROOT)), cwd=directory, env=environment)
    [test] = re.findall(
        r"^```python\n(# test_camera\.py\n.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S
    )
    (directory / "test_camera.py").write_text(test)
    run(python, "-m", "pytest", "-q", "test_camera.py", cwd=directory, env=environment)
    if demo:
        pipeline = ROOT / "examples" / "camera_pipeline"
        environment.pop("PYTHONSAFEPATH")  # the example is a directory of modules
        run(python, pipeline, "--out", directory / "out", cwd=directory, env=environment)


if __name__ == "__main__":
    sys.exit(main())
