"""The container image, as far as it can be run without an engine.

The instructions are read from the Dockerfile and carried out here: the installation from a copy of the sources, the
daemon as a user of its own over a runtime directory that only its group can reach, and the health check. The user is
not created, because a number is enough. The dependencies are not installed, because the tests' environment has them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import sysmem
from sysmem import blocking
from sysmem_protocol.runtime import SYSTEM_RUNTIME_DIR

from .users import as_root, user_process

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
UID = GID = 950
OTHER = 951


def instruction(name: str) -> str:
    found = re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)
    assert len(found) == 1, f"{name} once: {found}"
    return str(found[0])


def exec_form(text: str) -> list[str]:
    words = json.loads(text[text.index("[") :])
    assert all(isinstance(word, str) for word in words)
    return list(words)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of `COPY . /src` and `RUN python -m pip install … /src`. The dependencies are here already."""
    assert "python -m pip install --no-cache-dir /src" in DOCKERFILE
    directory = tmp_path_factory.mktemp("image")
    ignored = shutil.ignore_patterns(*(ROOT / ".dockerignore").read_text().split(), "__pycache__")
    shutil.copytree(ROOT, directory / "src", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [
            *pip,
            "--no-deps",
            "--no-build-isolation",
            "--target",
            directory / "site",
            directory / "src",
        ],
        check=True,
    )
    return directory / "site"


def test_the_image_has_the_commands_that_it_starts(installed: Path) -> None:
    commands = {
        exec_form(instruction("ENTRYPOINT"))[0],
        exec_form(instruction("HEALTHCHECK"))[0],
    }
    assert commands == {path.name for path in (installed / "bin").iterdir()}


def test_the_image_has_the_three_packages_typed_and_nothing_else(installed: Path) -> None:
    packages = {path.parent.name for path in installed.glob("*/__init__.py")}
    assert packages == {"sysmem", "sysmem_protocol", "sysmemd"}
    assert {path.parent.name for path in installed.glob("*/py.typed")} == packages


@pytest.mark.timeout(300)  # a new environment with packages from the index
def test_the_readmes_test_of_a_newcomer_passes_in_a_fresh_environment(tmp_path: Path) -> None:
    """`pip install 'sysmem[testing]'`, one file, and `pytest`."""
    readme = (ROOT / "README.md").read_text()
    [text] = re.findall(
        r"^```python\n(# test_camera\.py\n.*?)^```$", readme, re.MULTILINE | re.DOTALL
    )
    assert len([line for line in text.splitlines() if line]) <= 20
    assert "pip install 'sysmem[testing]'" in readme
    (tmp_path / "test_camera.py").write_text(text)

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON"))
        }
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "."]
    assert run(sys.executable, *pip, *wheel, ROOT).returncode == 0
    assert run(sys.executable, "-m", "venv", "new").returncode == 0
    [built] = tmp_path.glob("sysmem-*.whl")
    installing = run("new/bin/python", *pip, "install", f"{built}[testing]")
    if "NewConnectionError" in installing.stderr:
        pytest.skip("the package index cannot be reached")
    assert installing.returncode == 0, installing.stderr
    testing = run("new/bin/pytest", "-p", "no:cacheprovider")
    assert "2 passed" in testing.stdout, testing.stdout + testing.stderr
    assert testing.returncode == 0


@contextmanager
def container(site: Path, directory: Path) -> Iterator[dict[str, str]]:
    """The image's command, running as its user, and its environment."""
    runtime_dir = directory / "run"
    assert "install --directory --owner=sysmem --group=sysmem --mode=0750 /run/sysmem" in DOCKERFILE
    runtime_dir.mkdir()
    os.chown(runtime_dir, UID, GID)
    runtime_dir.chmod(0o750)
    assert instruction("ENV") == f"SYSMEM_RUNTIME_DIR={SYSTEM_RUNTIME_DIR}"
    environment = {
        **os.environ,
        "SYSMEM_RUNTIME_DIR": str(runtime_dir),
        "PYTHONPATH": str(site),
        "PYTHONSAFEPATH": "1",
    }
    words = [*exec_form(instruction("ENTRYPOINT")), *exec_form(instruction("CMD"))]
    with subprocess.Popen(
        user_process(UID, GID, *words),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
            assert json.loads(first)["event"] == "serving"
            yield environment
        finally:
            process.terminate()
            _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert "advisory" not in log, "the daemon has a user of its own"
    for line in log.splitlines():
        json.loads(line)


@as_root
def test_the_image_serves_its_group_and_nobody_else(installed: Path, open_path: Path) -> None:
    assert instruction("USER") == "sysmem"
    with container(installed, open_path) as environment:
        ping = exec_form(instruction("HEALTHCHECK"))

        def status(uid: int, gid: int) -> int:
            command = user_process(uid, gid, *ping)
            done = subprocess.run(command, env=environment, capture_output=True, check=False)
            return done.returncode

        assert status(UID, GID) == 0, "the health check"
        assert status(OTHER, GID) == 0, "a participant in the group"
        assert status(OTHER, OTHER) != 0, "a stranger"


#: A participant of a third user: it turns in the token that it inherits, and reports what it could do.
PARTICIPANT = """
import mmap, os, sys
import sysmem
from sysmem import blocking
uid, gid, fd, usage = map(int, sys.argv[1:])
os.setgroups([]), os.setgid(gid), os.setuid(uid)
with blocking.connect() as allocator:
    collection = allocator.bind_shared_collection(blocking.BufferCollectionToken.from_fd(fd))
    collection.set_constraints(
        sysmem.BufferCollectionConstraints(
            usage=sysmem.BufferUsage(cpu=usage),
            min_buffer_count_for_camping=1,
            buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=4096),
        )
    )
    with collection.wait_for_all_buffers_allocated() as info:
        vmo = info.buffers[0].vmo.fileno()
        attempts = {
            "reopen": lambda: os.close(os.open(f"/proc/self/fd/{vmo}", os.O_RDWR)),
            "chmod": lambda: os.fchmod(vmo, 0o666),
            "map": lambda: mmap.mmap(vmo, 4096, access=mmap.ACCESS_WRITE).close(),
        }
        for name, attempt in attempts.items():
            try:
                attempt()
            except PermissionError:
                continue
            print(name)
    collection.release()
"""


@as_root
def test_other_users_read_only_handles_cant_be_made_writable(
    installed: Path, open_path: Path
) -> None:
    """Three users take part: the daemon's, a writer and a reader."""
    with container(installed, open_path) as environment:
        with blocking.connect(environment["SYSMEM_RUNTIME_DIR"]) as allocator:
            token = allocator.allocate_shared_collection()
            tokens = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 2)
            token.release()
        usages = (sysmem.CpuUsage.WRITE, sysmem.CpuUsage.READ)
        participants = []
        for uid, child, usage in zip((OTHER, OTHER + 1), tokens, usages, strict=True):
            words = map(str, (uid, GID, child.fileno(), int(usage)))
            participants.append(
                subprocess.Popen(
                    [sys.executable, "-c", PARTICIPANT, *words],
                    env=environment,
                    pass_fds=[child.fileno()],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            child.close()
        could = [process.communicate(timeout=30)[0].split() for process in participants]
        assert [process.returncode for process in participants] == [0, 0]
    assert could == [["map"], []], "the writer may write to what it was given, the reader nothing"


@as_root
def test_the_health_check_fails_without_a_daemon(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "SYSMEM_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": str(installed)}
    command = user_process(0, 0, *exec_form(instruction("HEALTHCHECK")))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert str(tmp_path) in done.stderr
