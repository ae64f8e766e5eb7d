"""The example of containers, with namespaces instead of a container engine.

Users, volume, groups and commands come from the compose file. Each container has its own mounts, processes, network and
other namespaces, and no capability. One run also uses user namespaces, as engines do that map a container's users to
unused users of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..users import as_root
from .conftest import EXAMPLES

COMPOSE = yaml.safe_load((EXAMPLES / "containers" / "compose.yaml").read_text())
DOCKERFILE = (EXAMPLES.parent / "Dockerfile").read_text().replace("\\\n", " ")
#: The user and group of the image, as numbers.
SYSMEM = 950

#: Becomes a container. It imports everything first, because only root may be able to read the interpreter; then it
#: leaves the machine's namespaces and changes its user. Its parent maps the users, and passes SIGTERM on.
_CONTAINER = """
import ctypes, json, os, runpy, signal, sys
import sysmem.blocking, sysmem.sysmemctl, sysmemd.__main__
sysmem.constraints  # loads its module
spec = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def mount(source, target, kind, flags):
    check(libc.mount(source.encode(), target.encode(), kind.encode(), flags, None))
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
BIND, REC, PRIVATE = 4096, 16384, 1 << 18
ready, mapped = os.pipe(), os.pipe()
parent = os.getpid()
child = os.fork()
if child:
    os.read(ready[0], 1)
    if spec["first_id"]:
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(f"0 {spec['first_id']} 65536")
    os.write(mapped[1], b"x")
    init = int(os.read(ready[0], 20))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(init, signal.SIGTERM))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
check(libc.unshare(NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET | (NEWUSER if spec["first_id"] else 0)))
os.write(ready[1], b"x")
os.read(mapped[0], 1)
if spec["first_id"]:
    os.setgid(0), os.setuid(0)
init = os.fork()
if init:
    os.write(ready[1], str(init).encode())
    os._exit(os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]))
mount("none", "/", "none", REC | PRIVATE)
mount("proc", "/proc", "proc", 0)
volume = os.open(spec["volume"], os.O_PATH)
mount("tmpfs", "/run", "tmpfs", 0)
os.mkdir("/run/sysmem")
mount(f"/proc/self/fd/{volume}", "/run/sysmem", "none", BIND)
os.setgroups(spec["groups"]), os.setgid(spec["gid"]), os.setuid(spec["uid"])
check(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
os.environ["SYSMEM_RUNTIME_DIR"] = "/run/sysmem"
command, *arguments = spec["command"]
sys.argv = [command, *arguments]
if command == "sysmemd":
    sys.exit(sysmemd.__main__.main(arguments))
exec(compile(spec["script"], command, "exec"))
"""


def instruction(name: str) -> list[str]:
    [text] = re.findall(rf"^{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    words = json.loads(text)
    assert isinstance(words, list)
    return words


@contextlib.contextmanager
def container(service: str, volume: Path, first_id: int) -> Iterator[subprocess.Popen[str]]:
    """Run a service of the file, and end it after the with-block if it still runs."""
    described: dict[str, Any] = COMPOSE["services"][service]
    assert described["volumes"] == ["sockets:/run/sysmem"]
    assert described["network_mode"] == "none"
    uid, _, gid = described.get("user", f"{SYSMEM}:{SYSMEM}").partition(":")
    script = None
    if service == "sysmemd":
        command = [*instruction("ENTRYPOINT"), *instruction("CMD")]
    else:
        command = described["command"]
        [config] = described["configs"]
        assert command[0] == f"/{config}"
        script = (EXAMPLES / "containers" / COMPOSE["configs"][config]["file"]).read_text()
    spec = {
        "volume": str(volume),
        "first_id": first_id,
        "uid": int(uid),
        "gid": int(gid),
        "groups": [int(group) for group in described.get("group_add", [])],
        "command": command,
        "script": script,
    }
    with subprocess.Popen(
        [sys.executable, "-c", _CONTAINER, json.dumps(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


@pytest.fixture
def volume(open_path: Path) -> Path:
    """The volume, with the content of the image's directory."""
    made = "install --directory --owner=sysmem --group=sysmem --mode=0750 /run/sysmem"
    assert made in DOCKERFILE
    assert f"--gid {SYSMEM} sysmem" in DOCKERFILE
    directory = open_path / "volume"
    directory.mkdir()
    directory.chmod(0o750)
    return directory


namespaces = ("--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "--user", "--map-root-user")


@as_root
@pytest.mark.untraced  # what a container sees of the machine has no place for the data
@pytest.mark.skipif(
    subprocess.run(["unshare", *namespaces, "true"], check=False, capture_output=True).returncode
    != 0,
    reason="namespaces can't be made here",
)
@pytest.mark.parametrize(
    "first_id", [0, 100_000], ids=["the machine's users", "users of their own"]
)
def test_two_users_in_containers_share_a_buffer(volume: Path, first_id: int) -> None:
    os.chown(volume, first_id + SYSMEM, first_id + SYSMEM)
    users = {COMPOSE["services"][name]["user"] for name in ("camera", "display")}
    assert len(users) == 2
    with container("sysmemd", volume, first_id) as daemon:
        assert daemon.stderr is not None
        assert json.loads(daemon.stderr.readline())["event"] == "serving"
        with container("display", volume, first_id) as display:
            with container("camera", volume, first_id) as camera:
                assert camera.communicate(timeout=40) == ("", "")
                assert display.communicate(timeout=40) == ("hello read-only\n", "")
            assert (camera.returncode, display.returncode) == (0, 0)
        daemon.send_signal(signal.SIGTERM)
        out, log = daemon.communicate(timeout=40)
    assert (daemon.returncode, out) == (0, "")
    events = [json.loads(line) for line in log.splitlines()]
    assert [event["event"] for event in events] == ["stopping"], "nothing to complain of"
