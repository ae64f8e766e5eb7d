"""One daemon for a file of scenarios, an allocator for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sysmem import blocking
from sysmem.testing import Sysmemd, Zygote, sysmemd


@pytest.fixture(scope="module")
def daemon(request: pytest.FixtureRequest, sysmem_zygote: Zygote) -> Iterator[Sysmemd]:
    """A daemon with the file's `ARGUMENTS`, if it has any; found without a leak at the end of the file."""
    arguments = getattr(request.module, "ARGUMENTS", ())
    with sysmemd(arguments=arguments, zygote=sysmem_zygote) as running:
        yield running
        running.check_for_leaks()
        running.stop()


@pytest.fixture
def client(daemon: Sysmemd) -> Iterator[blocking.Allocator]:
    """A client's connection to the file's daemon."""
    with blocking.connect(daemon.runtime_dir, name="scenario", id=7) as connected:
        yield connected
