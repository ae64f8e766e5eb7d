"""Is a client of another language right? Give it an agent, and this tells what is wrong.

The agent is a program that does with the client what it is told: one command a line on stdin, one line on stdout for
each, in order. `docs/conformance.md` describes the commands, and :mod:`.agent` is one over the Python client. The
suite plays the daemon, in raw messages that a daemon may send though it seldom does, and looks at every byte and
descriptor of the agent's. Then it has the agent negotiate with Python participants at a real daemon::

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

#: Every check, in an order in which the earlier ones explain the later ones.
CHECKS: tuple[Check, ...] = (*_requests.CHECKS, *_answers.CHECKS, *_negotiations.CHECKS)


@dataclass(frozen=True)
class Report:
    """What a run of checks came to."""

    #: Each check, and what is wrong; None for one that passed.
    results: tuple[tuple[Check, str | None], ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(flaw is None for _, flaw in self.results)

    def __str__(self) -> str:
        """Return a line for each check, and below those that failed what is wrong."""
        lines = []
        for check, flaw in self.results:
            lines.append(f"{'ok    ' if flaw is None else 'FAILED'} {check.rule}")
            lines += [f"       {line}" for line in (flaw or "").splitlines()]
        passed = sum(flaw is None for _, flaw in self.results)
        return "\n".join([*lines, f"{passed} of {len(self.results)} passed"])


def run_check(check: Check, command: Sequence[str], *, patience: float = PATIENCE_SECONDS) -> None:
    """Run one check against an agent of its own.

    Args:
        check: One of :data:`CHECKS`.
        command: What starts the agent.
        patience: How long the agent may take for anything, in seconds.

    Raises:
        Flaw: The client is wrong; the text says in what.
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
    """Run checks, all by default, and report what is wrong. Arguments as for :func:`run_check`."""
    results: list[tuple[Check, str | None]] = []
    for check in checks:
        try:
            run_check(check, command, patience=patience)
        except Flaw as flaw:
            results.append((check, str(flaw)))
        else:
            results.append((check, None))
    return Report(tuple(results))
