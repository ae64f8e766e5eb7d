"""Fixtures for tests of participants: real daemons, and other participants in processes of their own.

The plugin is installed with the package, and pytest finds it automatically. The fixtures start nothing unless a test
requests them::

    def test_the_camera_survives_a_dying_encoder(sysmemd, allocator, peer):
        token = allocator.allocate_shared_collection()
        [for_encoder] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        encoder = peer("encoder", CONSTRAINTS, token=for_encoder, behaviour=dies(at="mapped"))
        camera = start_camera(token, runtime_dir=sysmemd.runtime_dir)
        ...

`@pytest.mark.sysmemd(config={...}, arguments=[...])` configures the daemon of a test.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    import os

    from . import BufferCollectionConstraints
    from .blocking import Allocator
    from .testing import (
        Behaviours,
        ByPath,
        InProcess,
        Matrix,
        Negotiation,
        Peer,
        Sysmemd,
        Token,
        Zygote,
    )

_failed = pytest.StashKey[bool]()
#: The daemons that a test has used.
_daemons = pytest.StashKey[list["Sysmemd"]]()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "sysmemd(config=None, arguments=()): configuration, as data or TOML text, and command line of the "
        "daemon that the fixture `sysmemd` starts.",
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option."""
    parser.addoption(
        "--sysmem-update",
        action="store_true",
        help="write the golden negotiations of the tests that run, instead of comparing with them",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Mark a failed test, because its leaks are not reported, and add its daemons' reports."""
    report = yield
    if report.failed:
        item.stash[_failed] = True
        if call.when == "call":
            for daemon in item.stash.get(_daemons, []):
                if daemon.process.poll() is None:
                    report.sections += [
                        (f"sysmemd: {title}", told) for title, told in daemon.story()
                    ]
            if (kit := sys.modules.get("sysmem.testing._daemon")) is not None:
                while kit.stories:
                    report.sections += [
                        (f"sysmemd: {title}", told) for title, told in kit.stories.popleft()
                    ]
    return report


@pytest.fixture(scope="session")
def sysmem_zygote() -> Iterator[Zygote]:
    """The process that forks daemons and participants. They end with it."""
    from .testing import Zygote

    with contextlib.closing(Zygote()) as zygote:
        yield zygote


class Factory(Protocol):
    """Starts daemons."""

    def __call__(
        self,
        *,
        config: Mapping[str, Any] | str | None = None,
        arguments: Sequence[str | os.PathLike[str]] = (),
    ) -> Sysmemd:
        """Start another daemon with a configuration, as TOML data or text, and further command line arguments."""
        ...


@pytest.fixture
def sysmemd_factory(request: pytest.FixtureRequest, sysmem_zygote: Zygote) -> Iterator[Factory]:
    """Start further daemons with the checks of `sysmemd`: `sysmemd_factory(config={...}, arguments=[...])`."""
    from .testing import sysmemd

    with contextlib.ExitStack() as stack:

        def start(
            *,
            config: Mapping[str, Any] | str | None = None,
            arguments: Sequence[str | os.PathLike[str]] = (),
        ) -> Sysmemd:
            daemon = stack.enter_context(sysmemd(config, arguments, zygote=sysmem_zygote))
            stack.callback(_end, request, daemon)
            request.node.stash.setdefault(_daemons, []).append(daemon)
            return daemon

        yield start


def _end(request: pytest.FixtureRequest, daemon: Sysmemd) -> None:
    """Check a daemon for leaks and stop it, unless the test has stopped it or has failed."""
    if daemon.process.poll() is None and not request.node.stash.get(_failed, False):
        with _told():
            daemon.check_for_leaks()
            daemon.stop()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Fail with the text of an assertion of the kit, without its traceback."""
    told: str | None = None
    try:
        yield
    except AssertionError as error:
        told = str(error)
    if told is not None:
        pytest.fail(told, pytrace=False)


@pytest.fixture
def sysmemd(request: pytest.FixtureRequest, sysmemd_factory: Factory) -> Sysmemd:
    """A real daemon for one test, with `.runtime_dir`, `.pid` and `.log`.

    At the end of the test all clients must be closed. The fixture then checks that the daemon holds nothing for
    clients, stops on SIGTERM with status 0 and removes its sockets. If the test has stopped or killed the daemon
    itself, the fixture checks nothing.
    """
    marker = request.node.get_closest_marker("sysmemd")
    return sysmemd_factory(**(marker.kwargs if marker else {}))


class _Shared:
    """A daemon for many tests. It is started when a test needs it and it does not run."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self._stack = contextlib.ExitStack()
        self._daemon: Sysmemd | None = None

    def daemon(self) -> Sysmemd:
        from .testing import sysmemd

        if self._daemon is None or self._daemon.process.poll() is not None:
            self._stack.close()
            self._daemon = self._stack.enter_context(sysmemd(zygote=self._zygote))
        return self._daemon

    def close(self) -> None:
        with self._stack:
            if self._daemon is not None and self._daemon.process.poll() is None:
                with _told():
                    self._daemon.stop()


@pytest.fixture(scope="session")
def _sysmemd_of_session(sysmem_zygote: Zygote) -> Iterator[_Shared]:
    with contextlib.closing(_Shared(sysmem_zygote)) as shared:
        shared.daemon()  # start it here, not during the first test that needs it
        yield shared


@pytest.fixture
def sysmemd_session(
    request: pytest.FixtureRequest, _sysmemd_of_session: _Shared
) -> Iterator[Sysmemd]:
    """One daemon for all tests of the session that request it; with pytest-xdist, one for each worker.

    After each test it must hold nothing for clients that it did not hold before.
    """
    daemon = _sysmemd_of_session.daemon()
    daemon.begin()
    request.node.stash.setdefault(_daemons, []).append(daemon)
    yield daemon
    if daemon.process.poll() is None:
        daemon.faults.end_of_test()
        if not request.node.stash.get(_failed, False):
            with _told():
                daemon.check_for_leaks()


def _daemon_of(request: pytest.FixtureRequest) -> Sysmemd:
    """Return the test's daemon: the session's if the test requests that one and no other."""
    asked = request.fixturenames
    shared = "sysmemd_session" in asked and "sysmemd" not in asked
    daemon: Sysmemd = request.getfixturevalue("sysmemd_session" if shared else "sysmemd")
    return daemon


@pytest.fixture
def allocator(request: pytest.FixtureRequest, sysmem_zygote: Zygote) -> Iterator[Allocator]:
    """A blocking Allocator, connected to the test's daemon: `sysmemd`, or `sysmemd_session` if that is requested."""
    # Requesting the zygote here starts it before the test begins, so that it does not count as a leak of the test.
    from . import blocking

    with blocking.connect(_daemon_of(request).runtime_dir) as connected:
        yield connected


@pytest.fixture
def kill_matrix(sysmem_zygote: Zygote) -> Callable[..., Matrix]:
    """Run a pipeline repeatedly and end each participant at each of its steps: :func:`sysmem.testing.kill_matrix`."""
    from .testing import kill_matrix

    return partial(kill_matrix, zygote=sysmem_zygote)


class CompareGolden(Protocol):
    """Compares negotiations with stored texts."""

    def __call__(self, name: str, negotiation: Negotiation | None = None) -> None:
        """Compare a negotiation with `golden/NAME.txt` next to the test; with `--sysmem-update`, write that file.

        Args:
            name: The stored text's name.
            negotiation: What `negotiate` returned; or a daemon, for its newest negotiation, or its `last_report()`. The
                default is the test's `sysmemd` or `sysmemd_session`.
        """
        ...


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> CompareGolden:
    """Compare the result of a negotiation with a stored text: `golden(name)` fails with a diff if it is different."""
    from .testing import Golden

    update = request.config.getoption("--sysmem-update")
    kept = Golden(request.path.parent / "golden", update=update)

    def compare(name: str, negotiation: Negotiation | None = None) -> None:
        __tracebackhide__ = True
        kept.compare(name, _daemon_of(request) if negotiation is None else negotiation)

    return compare


class StartPeer(Protocol):
    """Starts participants."""

    def __call__(
        self,
        name: str,
        constraints: BufferCollectionConstraints | None = None,
        *,
        token: Token,
        behaviour: Behaviours | None = None,
        at: str | None = None,
        daemon: ByPath | InProcess | None = None,
    ) -> Peer:
        """Start a participant in a process of its own.

        It turns in the token, sets the constraints, waits for the buffers, maps them, and stays.

        Args:
            name: The client name that it sends to the daemon.
            constraints: Its constraints; None for a participant that sets none of its own.
            token: Its token, from either face of the client. The function takes ownership.
            behaviour: Further actions: one or several of `sysmem.testing`'s behaviours (`dies`, `hangs`, `writes`,
                …), or names of them.
            at: The step of behaviours that are given by name.
            daemon: The daemon to connect to; by default the test's `sysmemd` or `sysmemd_session`. It may also be a
                daemon of `sysmem.testing.daemon()`.
        """
        ...


@pytest.fixture
def peer(request: pytest.FixtureRequest, sysmem_zygote: Zygote) -> Iterator[StartPeer]:
    """Start other participants: `peer(name, constraints, token=…, behaviour=…)`. They are ended after the test."""
    from .testing import start_peer

    with contextlib.ExitStack() as stack:

        def start(
            name: str,
            constraints: BufferCollectionConstraints | None = None,
            *,
            token: Token,
            behaviour: Behaviours | None = None,
            at: str | None = None,
            daemon: ByPath | InProcess | None = None,
        ) -> Peer:
            where = _daemon_of(request) if daemon is None else daemon
            made = start_peer(sysmem_zygote, where, name, constraints, token, behaviour, at)
            return stack.enter_context(contextlib.closing(made))

        yield start


def __getattr__(name: str) -> Any:
    if name == "Daemon":  # a former name, from before `sysmem.testing` existed
        from .testing import Sysmemd

        return Sysmemd
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
