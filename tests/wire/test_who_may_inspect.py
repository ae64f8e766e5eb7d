"""Who may connect to the Inspector (`docs/spec/inspect.md`, "The Inspector protocol")."""

from __future__ import annotations

import grp
from collections.abc import Callable
from pathlib import Path

import pytest

from sysmem import DaemonUnavailableError, blocking
from sysmem._inspector import Inspector

from ..users import as_root, as_user
from .process import Daemon
from .raw import PeerClosed, Wire

pytestmark = as_root

SOMEBODY = 1001
GROUP = grp.getgrgid(1)

Start = Callable[[str], Daemon]


@pytest.fixture
def start_with(open_path: Path, start: Callable[..., Daemon]) -> Start:
    """Start a daemon to which every user may connect, with these settings of the Inspector."""

    def start_with(settings: str) -> Daemon:
        config = open_path / "sysmemd.toml"
        config.write_text(f"[inspect]\n{settings}")
        return start("--mode", "0666", "--config", str(config), directory=open_path / "own")

    return start_with


def may_look(daemon: Daemon, uid: int, groups: list[int] | None = None) -> bool:
    with as_user(uid, groups=groups or []):
        blocking.connect(daemon.runtime_dir).close()
        try:
            with Inspector.connect(daemon.runtime_dir) as inspector:
                assert inspector.snapshot(timeout=10)["schema"] == 1
        except DaemonUnavailableError:
            return False
    return True


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("", [True, False, False]),
        (f'mode = "0660"\ngroup = "{GROUP.gr_name}"', [True, False, True]),
        ('mode = "0666"', [True, True, True]),
        ("enabled = false", [False, False, False]),
    ],
    ids=["by default", "a group", "everybody", "nobody"],
)
def test_mode_and_group_say_who_may_inspect(
    start_with: Start, settings: str, expected: list[bool]
) -> None:
    daemon = start_with(settings)
    who: list[tuple[int, list[int]]] = [(0, []), (SOMEBODY, []), (SOMEBODY, [GROUP.gr_gid])]
    assert [may_look(daemon, uid, groups) for uid, groups in who] == expected


def test_whoever_may_not_connect_may_inspect(start_with: Start) -> None:
    """`[access]` concerns the other services. The Inspector's socket has its own mode."""
    daemon = start_with('mode = "0666"\n[access]\nallow_users = [0]')
    with Wire(daemon.runtime_dir) as wire, as_user(SOMEBODY):
        with pytest.raises(PeerClosed):
            wire.connect().sync()
        with Inspector.connect(daemon.runtime_dir) as inspector:
            assert inspector.snapshot(timeout=10)["schema"] == 1
