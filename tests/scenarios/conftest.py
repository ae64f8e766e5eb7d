"""One daemon for a file of scenarios, an allocator for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import anyio
import pytest
import trio

import sysmem
from sysmem import blocking
from sysmem.testing import Sysmemd, Zygote, sysmemd

from .scenario import ENOUGH


@pytest.fixture(scope="module")
def daemon(request: pytest.FixtureRequest, sysmem_zygote: Zygote) -> Iterator[Sysmemd]:
    """A daemon with the file's `CONFIG` and `ARGUMENTS`, if it has any; checked for leaks at the end of the file."""
    config = getattr(request.module, "CONFIG", None)
    arguments = getattr(request.module, "ARGUMENTS", ())
    with sysmemd(config, arguments=arguments, zygote=sysmem_zygote) as running:
        yield running
        running.check_for_leaks()
        running.stop()


@pytest.fixture
def client(daemon: Sysmemd) -> Iterator[blocking.Allocator]:
    """A client's connection to the file's daemon."""
    with blocking.connect(daemon.runtime_dir, name="scenario", id=7) as connected:
        yield connected


Scenario = Callable[[sysmem.Allocator], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest, daemon: Sysmemd) -> Run:
    """Run a scenario with an async Allocator to its end under one of the two event loops."""

    async def main(scenario: Scenario) -> None:
        with anyio.fail_after(ENOUGH):
            async with sysmem.connect(daemon.runtime_dir) as allocator:
                await scenario(allocator)

    def in_loop(scenario: Scenario) -> None:
        if request.param == "trio":
            trio.run(main, scenario)
        else:
            asyncio.run(main(scenario))

    return in_loop
