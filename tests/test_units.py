"""The systemd units, as far as they can be tested without systemd as process 1.

The daemon's system calls are traced during a scenario and compared with those that its unit allows.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import urllib.request
from glob import glob
from pathlib import Path

import pytest

import sysmem
from sysmem import blocking
from sysmem_protocol.inspector import Inspector
from sysmem_protocol.library import Interface
from sysmem_protocol.rendezvous import Rendezvous
from sysmem_protocol.runtime import SYSTEM_RUNTIME_DIR, service_path
from sysmem_protocol.sysmem2 import Allocator
from sysmemd.__main__ import parser
from sysmemd.config import Config
from sysmemd.daemon import socket_permissions

from .users import as_root
from .wire.process import Daemon

ROOT = Path(__file__).parents[1]
PACKAGING = ROOT / "packaging"
INSTRUCTIONS = (PACKAGING / "README.md").read_text()


def unit(path: str) -> configparser.ConfigParser:
    """Return a unit. If a setting occurs twice, the last one counts."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # the documented way to keep case
    parser.read(PACKAGING / path)
    return parser


SOCKETS = {
    "sysmemd.socket": Allocator,
    "sysmemd-rendezvous.socket": Rendezvous,
    "sysmemd-inspector.socket": Inspector,
}
#: The directories of the units and their name for the runtime directory, for the whole system and for one user.
SYSTEM, USER = (".", str(SYSTEM_RUNTIME_DIR)), ("user", "%t/sysmem")
both = pytest.mark.parametrize(("place", "runtime_dir"), [SYSTEM, USER])


@both
@pytest.mark.parametrize(("name", "interface"), SOCKETS.items())
def test_a_socket_unit_hands_over_what_the_daemon_looks_for(
    place: str, runtime_dir: str, name: str, interface: type[Interface]
) -> None:
    socket_unit = unit(f"{place}/{name}")["Socket"]
    path = service_path(Path(runtime_dir), interface)
    assert socket_unit["ListenSequentialPacket"] == str(path)
    assert socket_unit["FileDescriptorName"] == interface.service_name()
    assert socket_unit.get("Service", name.replace(".socket", ".service")) == "sysmemd.service"


@both
def test_every_service_has_a_socket_unit_that_the_service_unit_starts_with(
    place: str, runtime_dir: str
) -> None:
    assert set(SOCKETS.values()) == set(socket_permissions(Config())), (
        "the daemon can't make one in root's directory"
    )
    service = unit(f"{place}/sysmemd.service")
    enabled = INSTRUCTIONS.split("--now ")[1 if place == "." else 2].splitlines()[0]
    for words in (
        service["Unit"]["Requires"],
        service["Unit"]["After"],
        service["Service"]["Sockets"],
        service["Install"]["Also"],
        enabled,
    ):
        assert words.split() == list(SOCKETS)


@both
def test_the_service_unit_runs_the_daemon_and_knows_when_it_is_ready_and_whether_it_answers(
    place: str, runtime_dir: str
) -> None:
    service = unit(f"{place}/sysmemd.service")["Service"]
    command, *arguments = shlex.split(service["ExecStart"])
    assert command.endswith("/sysmemd")
    parsed = parser().parse_args(arguments)
    assert parsed.runtime_dir == runtime_dir
    assert parsed.config == ("-/etc" if place == "." else "-%E") + "/sysmem/sysmemd.toml"
    assert service["Type"] == "notify-reload"
    assert int(service["WatchdogSec"]) > 0
    assert service.get("User") == ("sysmem" if place == "." else None)


def test_the_service_unit_takes_away_what_the_daemon_does_not_need() -> None:
    """The exposure that systemd finds alone would stay low enough without one or two of them."""
    service = unit("sysmemd.service")["Service"]
    kernel = ("Clock", "ControlGroups", "Hostname", "KernelLogs", "KernelModules", "KernelTunables")
    restricted = ("Namespaces", "Realtime", "SUIDSGID")
    names = [f"Protect{name}" for name in kernel] + [f"Restrict{name}" for name in restricted]
    names += [f"Private{name}" for name in ("Devices", "Mounts", "Tmp")]
    for name in ("LockPersonality", "MemoryDenyWriteExecute", "NoNewPrivileges", *names):
        assert service[name] == "yes", name
    assert service["UMask"] == "0077"


systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd isn't here")


@systemd
def test_the_service_units_exposure_is_low() -> None:
    """The score is 2.0 of 10. The unit says which settings are left out."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20"]
    done = subprocess.run(
        [*command, PACKAGING / "sysmemd.service"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@systemd
@both
def test_systemd_understands_the_units(place: str, runtime_dir: str, tmp_path: Path) -> None:
    names = [PACKAGING / place / name for name in ("sysmemd.service", *SOCKETS)]
    manager = "--system" if place == "." else "--user"
    done = subprocess.run(
        ["systemd-analyze", manager, "verify", "--man=no", *names],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    unknown = [
        line
        for line in done.stderr.splitlines()
        if "/usr/bin/sysmemd is not executable" not in line and "notify-reload" not in line
    ]
    assert unknown == []


def syscalls_of(*names: str) -> set[str]:
    """Return the system calls in systemd's sets."""
    command = ["systemd-analyze", "syscall-filter", *names]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {line.strip() for line in text.splitlines() if re.match(r" +[@\w-]+$", line)}
    nested = {name for name in found if name.startswith("@")}
    return (found - nested) | (syscalls_of(*nested) if nested else set())


@systemd
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace isn't installed")
@pytest.mark.untraced  # the tracer opens files for its data
def test_the_daemon_does_nothing_that_its_unit_forbids(tmp_path: Path) -> None:
    """systemd can't run here, so the daemon's system calls are traced and examined."""
    text = (PACKAGING / "sysmemd.service").read_text()
    allowed: set[str] = set()
    for forbid, words in re.findall(r"^SystemCallFilter=(~?)(.*)$", text, re.MULTILINE):
        named = syscalls_of(*words.split())
        allowed = allowed - named if forbid else allowed | named
    trace = tmp_path / "trace"
    # It runs as a daemon of its own, so that the daemon gets the signals.
    families = text.partition("\nRestrictAddressFamilies=")[2].splitlines()[0].split()
    prefix = ("strace", "--daemonize", "--follow-forks", "--quiet=all", "--output", str(trace))
    daemon = Daemon(tmp_path / "daemon", "--metrics", "127.0.0.1:0", prefix=prefix)
    try:
        use_everything(daemon.runtime_dir)
        [url] = [line["url"] for line in daemon.log() if line["event"] == "serving metrics"]
        assert b"sysmem_nodes" in urllib.request.urlopen(url).read()
        daemon.stop()
    finally:
        daemon.kill()
    lines = trace.read_text().splitlines()
    made = {match[1] for line in lines if (match := re.match(r"\d+ +(\w+)\(", line))}
    assert made - allowed == set()
    forbidden = {
        "MemoryDenyWriteExecute": r"PROT_WRITE\|PROT_EXEC|mprotect\(.*PROT_EXEC",
        "RestrictAddressFamilies": rf"socket(pair)?\((?!({'|'.join(families)}),)",
        "RestrictNamespaces": r"CLONE_NEW",
        "RestrictSUIDSGID": r"S_IS[UG]ID|chmod\(.*0[2467]\d{3}\)",
        # /run/sysmem belongs to root: the sockets are passed.
        "ProtectSystem": rf'open\w*\([^"]*"(?!/proc/self/|/dev/null|{tmp_path}).*O_(WRONLY|RDWR|CREAT)',
    }
    service = unit("sysmemd.service")["Service"]
    assert set(forbidden) <= set(service)
    assert (service["IPAddressAllow"], service["IPAddressDeny"]) == ("localhost", "any")
    for setting, pattern in forbidden.items():
        assert [line for line in lines if re.search(pattern, line)] == [], setting


def use_everything(runtime_dir: Path) -> None:
    """Make a daemon use all its features: negotiate, deliver, track, recognise, log, refuse, pass on."""
    with blocking.connect(runtime_dir) as allocator:
        token = allocator.allocate_shared_collection()
        token.set_verbose_logging()
        other = token.duplicate()
        token.sync()
        tracking = token.attach_node_tracking()
        collections = [allocator.bind_shared_collection(end) for end in (token, other)]
        collections[1].set_weak()
        for collection in collections:
            collection.set_constraints(
                sysmem.BufferCollectionConstraints(
                    usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ | sysmem.CpuUsage.WRITE),
                    min_buffer_count_for_camping=1,
                    buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=4096),
                )
            )
        infos = [collection.wait_for_all_buffers_allocated() for collection in collections]
        with collections[0].attach_lifetime_tracking() as gone:
            vmo = infos[0].buffers[0].vmo
            assert vmo is not None
            recognised = allocator.get_vmo_info(vmo, need_weak=True)
            assert recognised.weak_vmo is not None
            assert recognised.close_weak_asap is not None
            recognised.weak_vmo.close()
            recognised.close_weak_asap.close()
            collections[0].get_node_ref().close()
            for info in infos:
                info.close()
            for collection in collections:
                collection.release()
            assert gone.wait_closed(30)
        assert tracking.wait_closed(30)
        tracking.close()
        with allocator.allocate_non_shared_collection() as alone, pytest.raises(sysmem.SysmemError):
            alone.check_all_buffers_allocated()


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A root directory after the `install` commands of packaging/README.md."""
    block = re.findall(r"^```sh\n(.*?)^```$", INSTRUCTIONS, re.MULTILINE | re.DOTALL)[0]
    for line in block.splitlines():
        command, *words = shlex.split(line)
        if command == "install":
            words = [re.sub("^(--target-directory=)", rf"\1{tmp_path}", word) for word in words]
            words = [made for word in words for made in sorted(glob(word, root_dir=ROOT)) or [word]]
            subprocess.run([command, *words], cwd=ROOT, check=True)
    return tmp_path


def test_the_instructions_install_everything_there_is(system: Path) -> None:
    where = {
        ".": "usr/lib/systemd/system",
        "user": "usr/lib/systemd/user",
        "sysusers.d": "usr/lib/sysusers.d",
    }
    packaged = {path.relative_to(PACKAGING) for path in PACKAGING.rglob("*") if path.is_file()}
    expected = {
        Path(where[str(path.parent)], path.name): PACKAGING / path
        for path in packaged
        if path.suffix in (".service", ".socket", ".conf")
    }
    installed = {path.relative_to(system) for path in system.rglob("*") if path.is_file()}
    assert installed == expected.keys()
    for name, source in expected.items():
        assert (system / name).read_bytes() == source.read_bytes()
        assert (system / name).stat().st_mode & 0o777 == 0o644


def test_the_instructions_make_the_user_before_the_service_needs_it() -> None:
    made = INSTRUCTIONS.index("\nsystemd-sysusers sysmem.conf\n")
    assert INSTRUCTIONS.index("/usr/lib/sysusers.d") < made < INSTRUCTIONS.index("systemctl enable")


def test_the_user_and_the_group_of_the_units_are_made() -> None:
    lines = (PACKAGING / "sysusers.d" / "sysmem.conf").read_text().splitlines()
    # "u" also creates a group with the same name.
    users = {line.split()[1] for line in lines if line.startswith("u ")}
    service = unit("sysmemd.service")["Service"]
    assert {service["User"], service["Group"]} <= users
    for name in SOCKETS:
        socket = unit(name)["Socket"]
        assert {socket["SocketUser"], socket["SocketGroup"]} <= users


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd isn't installed")
@as_root
def test_systemd_makes_the_user(system: Path) -> None:
    (system / "etc").mkdir()
    command = ["systemd-sysusers", f"--root={system}", "sysmem.conf"]
    subprocess.run(command, check=True, capture_output=True)
    users = (system / "etc" / "passwd").read_text().splitlines()
    groups = (system / "etc" / "group").read_text().splitlines()
    [(name, _, uid, gid, *_, shell)] = [line.split(":") for line in users if "sysmem" in line]
    assert (name, uid != "0", shell.rsplit("/", 1)[-1]) == ("sysmem", True, "nologin")
    assert [line.split(":")[2] for line in groups if line.startswith("sysmem:")] == [gid]
