"""The example `fallback`, run as a reader would run it."""

from __future__ import annotations

import re
import runpy
from typing import TYPE_CHECKING

from sysmem.pytest_plugin import CompareGolden
from sysmem.testing import Sysmemd

from . import agreement
from .conftest import EXAMPLES

if TYPE_CHECKING:
    from .conftest import Runner


def said(output: str, who: str) -> list[str]:
    """Return the output of one participant."""
    return re.findall(rf"^  {who}  +(.*)$", output, re.MULTILINE)


def test_the_second_choice_gets_the_buffers_and_the_first_ones_channel_closes(
    example: Runner,
) -> None:
    run = example.run("fallback")
    assert (run.returncode, run.stderr) == (0, "")
    assert said(run.stdout, "plane") == ["can do B8G8R8A8", "no buffers: my channel was closed"]
    for winner in ("camera", "encoder", "compositor"):
        assert said(run.stdout, winner)[1] == "got 5 buffers of NV12"


def test_a_dispensable_camera_is_replaced_and_nobody_else_is_interrupted(example: Runner) -> None:
    run = example.run("fallback")
    assert (run.returncode, run.stderr) == (0, "")
    first = said(run.stdout, "camera")[-1].removeprefix("wrote ")
    assert "killed the camera" in said(run.stdout, "initiator")[1]
    assert said(run.stdout, "new camera")[1] == "got 5 buffers of NV12"
    second = said(run.stdout, "new camera")[-1].removeprefix("wrote ")
    assert first != second
    open_still = "my channel is open, as it always was"
    assert said(run.stdout, "encoder")[2:] == [
        f"read {first}",
        f"read {first}",
        f"read {second}",
        open_still,
    ]
    assert said(run.stdout, "compositor")[2:] == [f"read {first}", f"read {second}", open_still]


def test_its_negotiation_comes_out_as_it_did(golden: CompareGolden) -> None:
    participant = runpy.run_path(str(EXAMPLES / "fallback" / "participant.py"))
    needs = {role: participant["needs"](role) for role in participant["ROLES"]}
    plane, compositor = ({role: needs.pop(role)} for role in ("plane", "compositor"))
    agreement.check(golden, "fallback", ({"initiator": None, **needs}, [plane, compositor]))


def test_it_uses_a_running_daemon(example: Runner, sysmemd: Sysmemd, golden: CompareGolden) -> None:
    run = example.run("fallback", "--runtime-dir", str(sysmemd.runtime_dir))
    assert (run.returncode, run.stderr) == (0, "")
    golden("fallback")


def test_without_a_daemon_it_says_where_it_looked(example: Runner) -> None:
    run = example.run("fallback", "--runtime-dir", "/nowhere")
    assert run.returncode == 1
    assert run.stderr.startswith("fallback: ")
    assert "/nowhere" in run.stderr
