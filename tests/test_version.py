"""Each command and each package reports the version of the distribution."""

from __future__ import annotations

import importlib.metadata

import pytest

import sysmem
from sysmem import sysmemctl
from sysmemd import __main__ as sysmemd


def test_the_packages_have_the_version_of_the_distribution() -> None:
    assert sysmem.__version__ == importlib.metadata.version("sysmem")


@pytest.mark.parametrize("command", [sysmemd, sysmemctl], ids=["sysmemd", "sysmemctl"])
def test_a_command_tells_its_version(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    main = command.main  # type: ignore[attr-defined]  # both modules have one
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.endswith(f" {sysmem.__version__}\n")
