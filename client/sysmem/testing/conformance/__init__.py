"""A conformance suite for clients in other languages. It runs checks against an agent, and reports what is wrong.

The agent is a program that controls the client: it reads one command per line from stdin, and writes one line to
stdout for each, in order. `docs/conformance.md` describes the commands; :mod:`.agent` is an agent for the Python
client. The suite plays the daemon with raw messages, including valid ones that the daemon rarely sends, and checks
every byte and descriptor of the agent. Then the agent negotiates with Python participants at a real daemon::

    python -m sysmem.testing.conformance ./my-agent --with-options

In a test::

    @pytest.mark.parametrize("check", conformance.CHECKS, ids=str)
    def test_my_client(check):
        conformance.run_check(check, ["./my-agent"])
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import _answers, _negotiations, _requests
from ._bench import PATIENCE_SECONDS, Bench, Check, Flaw, NotClaimed

__all__ = ["CHECKS", "PATIENCE_SECONDS", "Check", "Flaw", "Report", "run", "run_check"]

#: Every check. The order is such that an earlier failure can explain later ones.
CHECKS: tuple[Check, ...] = (*_requests.CHECKS, *_answers.CHECKS, *_negotiations.CHECKS)


@dataclass(frozen=True)
class Report:
    """The result of a run of checks."""

    #: Each check with its flaw; None if the check passed.
    results: tuple[tuple[Check, str | None], ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(flaw is None for _, flaw in self.results)

    def __str__(self) -> str:
        """Return a line for each check, and the flaw below each that failed."""
        lines = []
        for check, flaw in self.results:
            lines.append(f"{'ok    ' if flaw is None else 'FAILED'} {check.rule}")
            lines += [f"       {line}" for line in (flaw or "").splitlines()]
        passed = sum(flaw is None for _, flaw in self.results)
        return "\n".join([*lines, f"{passed} of {len(self.results)} passed"])


def run_check(check: Check, command: Sequence[str], *, patience: float = PATIENCE_SECONDS) -> None:
    """Run one check against a new agent.

    Args:
        check: One of :data:`CHECKS`.
        command: The command that starts the agent.
        patience: How long the agent may take for each answer, in seconds.

    Raises:
        Flaw: The client is wrong; the text says why.
    """
    __tracebackhide__ = True
    with Bench(command, patience) as bench:
        with contextlib.suppress(NotClaimed):
            check.run(bench)
        bench.finish()


def run(
    command: Sequence[str],
    *,
    checks: Iterable[Check] = CHECKS,
    patience: float = PATIENCE_SECONDS,
) -> Report:
    """Run checks, by default all, and return a report. Arguments are those of :func:`run_check`."""
    results: list[tuple[Check, str | None]] = []
    for check in checks:
        try:
            run_check(check, command, patience=patience)
        except Flaw as flaw:
            results.append((check, str(flaw)))
        else:
            results.append((check, None))
    return Report(tuple(results))
