"""Shared fixtures: no test may leave a descriptor open, and no test may fail because the machine is slow."""

from __future__ import annotations

import _thread
import gc
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("sysmem", deadline=None)
hypothesis.settings.load_profile("sysmem")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts background jobs with SIGINT ignored, and every child would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if threading.gettrace() is not None:
    # The daemon starts its threads so, and `make coverage` doesn't follow them.
    _start_new_thread = _thread.start_new_thread

    def _start_traced(function: Callable[..., object], *more: Any) -> int:
        def traced(*arguments: Any, **named: Any) -> object:
            sys.settrace(threading.gettrace())
            return function(*arguments, **named)

        return _start_new_thread(traced, *more)

    _thread.start_new_thread = _start_traced

_FAILED = pytest.StashKey[bool]()


def open_descriptors() -> dict[int, tuple[int, int, str]]:
    """Return the descriptors of this process, by number: device, inode, and the target that /proc shows."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            status = os.fstat(fd)
            found[fd] = (status.st_dev, status.st_ino, os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue  # the descriptor that reads the directory, or one of another thread
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


def _is_untraced(item: pytest.Item) -> bool:
    """Return whether a test must run without a tracer: it has the mark, or it draws random inputs."""
    # Hypothesis sets the second mark.
    return any(item.get_closest_marker(mark) for mark in ("untraced", "hypothesis"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run an untraced test without the tracer of `make coverage`, also in the threads and processes that it starts.

    Its fixtures keep the tracer, because other tests use some of them too.
    """
    if not _is_untraced(item):
        return (yield)
    tracer, threads_tracer = sys.gettrace(), threading.gettrace()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        sys.settrace(None)
        threading.settrace(None)
        try:
            return (yield)
        finally:
            threading.settrace(threads_tracer)
            sys.settrace(tracer)


#: The length of a directory's path that leaves room for the longest name of a socket in a socket's address.
_MAX_PATH_BYTES = 72


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """pytest's directory, or a shorter one if a socket's path would be too long in it."""
    if len(os.fsencode(tmp_path)) <= _MAX_PATH_BYTES:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user can reach; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="sysmem-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(autouse=True)
def no_leaked_descriptors(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Fail a test after which more descriptors are open than before.

    A test that has already failed is not blamed again, because its traceback keeps its objects alive.
    """
    before = open_descriptors()
    yield
    after = open_descriptors()
    if after.items() <= before.items() or request.node.stash.get(_FAILED, False):
        return
    gc.collect()  # close objects that are kept open by a reference cycle only, so that they warn if they should
    leaked = sorted(
        (fd, target)
        for fd, (device, inode, target) in open_descriptors().items()
        if before.get(fd) != (device, inode, target)
    )
    if leaked:
        listed = "\n".join(f"  {fd} -> {target}" for fd, target in leaked)
        pytest.fail(f"{len(leaked)} descriptors were left open:\n{listed}", pytrace=False)
