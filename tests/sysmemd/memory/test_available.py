"""The amount of memory that can be reserved."""

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


UNLIMITED = {"max": "max", "limit_in_bytes": "9223372036854771712"}


@pytest.mark.parametrize(
    ("own_cgroup", "group", "limit_file", "usage_file"),
    [
        pytest.param("0::/app\n", "app", "max", "current", id="version 2"),
        pytest.param("0::/unified\n", "unified", "max", "current", id="2, a group named so"),
        pytest.param("0::/a:b\n", "a:b", "max", "current", id="2, a colon in the name"),
        pytest.param(
            "4:memory:/app/daemon\n1:cpu:/\n",
            "memory/app",
            "limit_in_bytes",
            "usage_in_bytes",
            id="version 1",
        ),
        pytest.param(
            "4:cpuset,memory:/app\n",
            "memory/app",
            "limit_in_bytes",
            "usage_in_bytes",
            id="1, a controller beside it",
        ),
        pytest.param(
            "4:memory:/docker/5c0f\n",
            "memory",
            "limit_in_bytes",
            "usage_in_bytes",
            id="1, a container that sees its group as the root",
        ),
        pytest.param(
            "4:memory:/app\n0::/\n",
            "memory/app",
            "limit_in_bytes",
            "usage_in_bytes",
            id="both, memory in 1",
        ),
        pytest.param("1:cpu:/\n0::/app\n", "unified/app", "max", "current", id="both, memory in 2"),
    ],
)
def test_every_version_of_control_groups(
    tmp_path: Path, own_cgroup: str, group: str, limit_file: str, usage_file: str
) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable:    1000 kB\n")
    (tmp_path / "cgroup").write_text(own_cgroup)
    root = tmp_path / "fs"
    (root / group).mkdir(parents=True)
    if "memory:" not in own_cgroup and "cpu:" not in own_cgroup:
        (root / "cgroup.controllers").write_text("memory\n")
    else:
        (root / "unified").mkdir(exist_ok=True)
    (root / group / f"memory.{usage_file}").write_text("5000\n")
    (root / group / f"memory.{limit_file}").write_text("9000\n")
    assert left(tmp_path) == 4000
    (root / group / f"memory.{limit_file}").write_text(f"{UNLIMITED[limit_file]}\n")
    assert left(tmp_path) == 1000 * 1024


def test_another_groups_limit_is_not_ours(machine: Path) -> None:
    (machine / "cgroup").write_text("4:memory:/app\n3:cpu:/busy\n0::/\n")
    for other in ("memory/other", "memory/busy", "unified/app", "app"):
        (machine / "fs" / other).mkdir(parents=True, exist_ok=True)
        limit(machine / "fs" / other, "2", "1")
        (machine / "fs" / other / "memory.limit_in_bytes").write_text("2\n")
        (machine / "fs" / other / "memory.usage_in_bytes").write_text("1\n")
    assert left(machine) == 1000 * 1024


def test_what_cannot_be_read_is_no_limit(machine: Path, tmp_path: Path) -> None:
    for name in ("meminfo", "cgroup"):
        (machine / name).unlink()
    assert left(machine) == UNKNOWN
    (machine / "meminfo").write_text("MemTotal: 9 kB\n")
    (machine / "cgroup").write_text("0::/elsewhere/../..\n")
    assert left(machine) == UNKNOWN


def test_this_machine_has_some() -> None:
    assert 1 << 20 < available.memory_bytes() < UNKNOWN
