"""One daemon for each file of scenarios, and an allocator for each scenario."""

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
    """A daemon with the file's `CONFIG` and `ARGUMENTS`, if any. At the end of the file it is checked for leaks."""
    config = getattr(request.module, "CONFIG", None)
    arguments = getattr(request.module, "ARGUMENTS", ())
    with sysmemd(config, arguments=arguments, zygote=sysmem_zygote) as running:
        yield running
        running.check_for_leaks()
        running.stop()


@pytest.fixture
def client(daemon: Sysmemd) -> Iterator[blocking.Allocator]:
    """A connection of a client to the file's daemon."""
    with blocking.connect(daemon.runtime_dir, name="scenario", id=7) as connected:
        yield connected


Scenario = Callable[[sysmem.Allocator], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest, daemon: Sysmemd) -> Run:
    """Run an async scenario with an Allocator under one of the two event loops."""

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
