"""What all tests share: no test leaves a descriptor open, and none fails because the machine is slow."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("sysmem", deadline=None)
hypothesis.settings.load_profile("sysmem")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts background jobs with SIGINT ignored, and every child would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_FAILED = pytest.StashKey[bool]()


def open_descriptors() -> dict[int, tuple[int, int, str]]:
    """The descriptors of this process: device, inode and what /proc shows, by number."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            status = os.fstat(fd)
            found[fd] = (status.st_dev, status.st_ino, os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue  # the descriptor with which the directory was read, or another thread's
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
    """Whether no tracer may follow a test: it is marked so, or draws its inputs, so that what it covers is chance."""
    return item.get_closest_marker("untraced") is not None or hypothesis.is_hypothesis_test(
        getattr(item, "obj", None)
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run an untraced test without the tracer of `make coverage`, also in the threads and processes that it starts."""
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


#: Bytes of a directory's path that leave room for the longest name of a socket in a socket's address.
_MAX_PATH_BYTES = 72


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """pytest's, or one whose path has room for a socket's name where that hasn't."""
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

    A test that failed already isn't blamed again: its traceback keeps alive what it had open.
    """
    before = open_descriptors()
    yield
    after = open_descriptors()
    if after.items() <= before.items() or request.node.stash.get(_FAILED, False):
        return
    gc.collect()  # close objects that only a reference cycle keeps open, so that they warn if they should
    leaked = sorted(
        (fd, target)
        for fd, (device, inode, target) in open_descriptors().items()
        if before.get(fd) != (device, inode, target)
    )
    if leaked:
        listed = "\n".join(f"  {fd} -> {target}" for fd, target in leaked)
        pytest.fail(f"{len(leaked)} descriptors were left open:\n{listed}", pytrace=False)
