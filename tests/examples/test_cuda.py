"""The example `cuda`: what it says without a GPU, and that it works with one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import Runner


def test_it_reads_a_buffer_on_the_gpu_or_says_what_is_missing(example: Runner) -> None:
    run = example.run("cuda")
    assert (run.returncode, run.stderr) == (0, "")
    assert "bytes where they are" in run.stdout or run.stdout.startswith(
        ("skipped: PyTorch isn't installed", "skipped: there is no GPU")
    )
