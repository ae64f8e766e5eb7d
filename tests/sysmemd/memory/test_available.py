"""How much memory can be reserved."""

from __future__ import annotations

from pathlib import Path

import pytest

from sysmemd.memory import available

UNKNOWN = 1 << 63


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    1000 kB\nShmem: 1 kB\n")
    (tmp_path / "cgroup").write_text("1:name=systemd:/old\n0::/app/daemon\n")
    (tmp_path / "fs" / "app" / "daemon").mkdir(parents=True)
    return tmp_path


def left(machine: Path) -> int:
    return available.memory_bytes(
        meminfo=machine / "meminfo", own_cgroup=machine / "cgroup", cgroup_root=machine / "fs"
    )


def limit(group: Path, limit: str, current: str) -> None:
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{current}\n")


def test_what_the_machine_has(machine: Path) -> None:
    assert left(machine) == 1000 * 1024


@pytest.mark.parametrize("group", ["fs", "fs/app", "fs/app/daemon"])
def test_a_control_group_above_can_be_the_limit(machine: Path, group: str) -> None:
    limit(machine / "fs" / "app", "max", "5")
    limit(machine / group, "9000", "5000")
    assert left(machine) == 4000


def test_a_control_group_over_its_limit_has_nothing_left(machine: Path) -> None:
    limit(machine / "fs" / "app", "9000", "9001")
    assert left(machine) == 0


def test_what_cannot_be_read_is_no_limit(machine: Path, tmp_path: Path) -> None:
    for name in ("meminfo", "cgroup"):
        (machine / name).unlink()
    assert left(machine) == UNKNOWN
    (machine / "meminfo").write_text("MemTotal: 9 kB\n")
    (machine / "cgroup").write_text("0::/elsewhere/../..\n")
    assert left(machine) == UNKNOWN


def test_this_machine_has_some() -> None:
    assert 1 << 20 < available.memory_bytes() < UNKNOWN
