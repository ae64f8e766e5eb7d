"""A daemon with a hanging, a refused, an allocated and an ended collection at once, and a way to run commands."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import sysmem
from sysmem import blocking, sysmemctl
from sysmem._inspector import Inspector
from sysmem.testing import Sysmemd

NAMES = ("hanging", "allocated", "refused", "ended")


@dataclass(frozen=True)
class Printed:
    """The output of a command, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Ctl = Callable[..., Printed]


@pytest.fixture
def ctl(
    sysmemd: Sysmemd, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Ctl:
    """A function that runs a command of sysmemctl against the test's daemon, with this many columns."""

    def run(*arguments: str, columns: int = 200) -> Printed:
        monkeypatch.setenv("COLUMNS", str(columns))
        capsys.readouterr()
        status = sysmemctl.main(["--runtime-dir", str(sysmemd.runtime_dir), *arguments])
        printed = capsys.readouterr()
        return Printed(status, printed.out, printed.err)

    return run


@contextlib.contextmanager
def watching(
    sysmemd: Sysmemd, *arguments: str, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a command that watches the daemon in its own process, and wait until it watches."""
    command = [sys.executable, "-m", "sysmem.sysmemctl", "--runtime-dir", str(sysmemd.runtime_dir)]
    with Inspector.connect(sysmemd.runtime_dir) as inspector, inspector.watch() as events:
        assert events.next(120)["event"] == "watching"
        with subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**{k: v for k, v in os.environ.items() if k != "COLUMNS"}, **environment},
        ) as process:
            try:
                while events.next(120).get("protocol") != "sysmem.Watcher":
                    pass
                yield process
            finally:
                process.kill()


def wants(smallest: int, largest: int | None = None) -> sysmem.BufferCollectionConstraints:
    return sysmem.BufferCollectionConstraints(
        usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ | sysmem.CpuUsage.WRITE),
        min_buffer_count=2,
        buffer_memory_constraints=sysmem.BufferMemoryConstraints(
            min_size_bytes=smallest, max_size_bytes=largest
        ),
    )


@dataclass
class Held:
    """Objects that the test keeps open, so that the collections stay as they are."""

    #: The token for which the hanging collection waits.
    token: blocking.BufferCollectionToken
    allocated: sysmem.BufferCollectionInfo
    #: The id of the ended collection.
    ended: sysmem.BufferCollectionInfo


@pytest.fixture
def collections(sysmemd: Sysmemd) -> Iterator[Held]:
    with contextlib.ExitStack() as stack:
        camera, display = (
            stack.enter_context(blocking.connect(sysmemd.runtime_dir, name=name, id=id))
            for name, id in (("camera", 7), ("display", 8))
        )

        def pair(name: str) -> tuple[blocking.BufferCollection, blocking.BufferCollectionToken]:
            token = camera.allocate_shared_collection()
            token.set_name(1, name)
            [other] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
            return stack.enter_context(camera.bind_shared_collection(token)), other

        hanging, token = pair("hanging")
        stack.enter_context(token)
        hanging.set_constraints(wants(10))
        hanging.sync()

        allocated, other = pair("allocated")
        shown = stack.enter_context(display.bind_shared_collection(other))
        allocated.set_constraints(wants(65536))
        shown.set_constraints(wants(4096))
        info = stack.enter_context(allocated.wait_for_all_buffers_allocated())

        refused, other = pair("refused")
        late = stack.enter_context(display.bind_shared_collection(other))
        refused.set_constraints(wants(65536))
        refused.sync()
        late.set_constraints(wants(10, 20))
        assert refused.wait_closed(10)

        alone = camera.allocate_non_shared_collection()
        alone.set_name(1, "ended")
        alone.set_constraints(wants(10))
        ended = stack.enter_context(alone.wait_for_all_buffers_allocated())
        alone.release()
        display.validate_buffer_collection_token(0)
        yield Held(token, info, ended)
