"""Negotiation without a daemon: runs only the node tree and the constraint engine, for participants given as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    Error,
    Rights,
    SingleBufferSettings,
)
from sysmemd.config import Config, parse
from sysmemd.configured import heap_settings, platform
from sysmemd.constraints import Participant, Rule
from sysmemd.explaining import Diagnosis, explain
from sysmemd.negotiation import Choice, Joining, Member, Negotiation
from sysmemd.tree import Allocated

from .._errors import SysmemError

#: A daemon's configuration: TOML text, parsed TOML data, or None for the defaults.
Configuration: TypeAlias = Config | Mapping[str, Any] | str | None
#: Constraints by participant name. None stands for a participant that sets no constraints of its own.
Constraints: TypeAlias = Mapping[str, BufferCollectionConstraints | None]
#: All participants of a negotiation.
Participants: TypeAlias = "Constraints | Sequence[Constraints | Group | Attached]"


class Group:
    """A token group. Exactly one alternative is selected: the first that is compatible with all other participants."""

    def __init__(self, *alternatives: Participants) -> None:
        """Take `alternatives` in order of preference; each is one or several participants, as for :func:`negotiate`."""
        if not alternatives:
            raise ValueError("a group needs at least one alternative")
        self.alternatives = alternatives


class Attached:
    """Participants that join by an attached token after the others have their buffers, which they cannot change."""

    def __init__(self, participants: Participants) -> None:
        """Take `participants` as for :func:`negotiate`. All of them join, or none if one is refused."""
        self.participants = participants


@dataclass(frozen=True)
class Negotiated:
    """The result of a successful negotiation."""

    settings: SingleBufferSettings
    buffer_count: int
    #: The participants that have the buffers. Alternatives that no group selected are not included.
    participants: tuple[str, ...]
    #: The rights of each participant's VMOs; empty for a participant that gets no VMOs.
    rights: Mapping[str, Rights]
    #: The reasons for the settings, and the table of all participants' constraints.
    explanation: str = field(repr=False)


def negotiate(participants: Participants, *, config: Configuration = None) -> Negotiated:
    """Return the result of a negotiation between participants, as a daemon with this configuration would compute it.

    The function starts, opens and allocates nothing: the daemon's node tree and constraint engine run in this thread.

    Args:
        participants: Constraints by participant name, or a sequence of such mappings, :class:`Group` and
            :class:`Attached`. All except groups and attached participants are siblings in the tree, in this order.
        config: The daemon's configuration, as TOML text or as parsed TOML data.

    Raises:
        SysmemError: The participants do not agree, or the attached ones are incompatible with the others. `reason` is
            the line from the daemon's log; `report` is the table with the conflict marked.
        ConfigError: The configuration is invalid.
        ValueError: There is no participant, or two have the same name.
    """
    outcome = work_out(participants, config)
    if isinstance(outcome, Negotiated):
        return outcome
    raise outcome.exception()


@dataclass(frozen=True)
class Refused:
    """The reason why the participants did not agree."""

    error: Error
    reason: str
    #: The engine's diagnosis of the group selection with the highest preference; None if only memory was lacking.
    refusal: Diagnosis | None
    report: str | None

    @property
    def between(self) -> frozenset[str]:
        """The names of a smallest set of participants in conflict."""
        return frozenset(who.name for who in self.refusal.conflict) if self.refusal else frozenset()

    @property
    def rule(self) -> Rule | None:
        """The rule that was violated."""
        return self.refusal.rule if self.refusal else None

    def exception(self) -> SysmemError:
        """Return the exception that a participant's wait for buffers raises."""
        return SysmemError(self.error, self.reason, self.report)


def work_out(participants: Participants, config: Configuration) -> Negotiated | Refused:
    """Return the result of a negotiation, also a refusal. Other errors are raised as by :func:`negotiate`."""
    settings = configuration(config)
    return _outcome(
        Negotiation(
            _members(participants, set()),
            platform(settings),
            heaps=heap_settings(settings),
            max_group_selections=settings.limits.max_group_selections,
        )
    )


def configuration(config: Configuration) -> Config:
    """Return the `Config` for a configuration in any of its forms. Raises `ConfigError` if it is invalid."""
    if config is None:
        return Config()
    return config if isinstance(config, Config) else parse(config)


def _outcome(negotiation: Negotiation) -> Negotiated | Refused:
    attempt = negotiation.attempt
    if attempt.error is not None:
        refusal = attempt.refused[0].refusal if attempt.refused else None
        no_memory = attempt.error is Error.NO_MEMORY
        kept = refusal if isinstance(refusal, Diagnosis) and not no_memory else None
        report = kept.report() if kept else None
        return Refused(attempt.error, attempt.reason, kept, report)
    allocation = negotiation.collection.allocation
    assert allocation is not None
    have = {
        who.name: node.outcome
        for who, node in negotiation.nodes
        if node.in_tree and isinstance(node.outcome, Allocated)
    }
    return Negotiated(
        allocation.settings,
        allocation.buffer_count,
        tuple(have),
        {name: Rights(got.rights if got.delivers_vmo else 0) for name, got in have.items()},
        explain(allocation).report(),
    )


def _members(participants: Participants, names: set[str]) -> list[Member]:
    """Return the participants as members of the tree. Add their names to `names`; their numbers are their ids."""
    made: list[Member] = []
    if isinstance(participants, Mapping):
        for name, constraints in participants.items():
            if name in names:
                raise ValueError(f"two participants are called {name!r}")
            names.add(name)
            made.append(Participant(constraints, name=name, id=len(names)))
        return made
    for one in participants:
        if isinstance(one, Group):
            made.append(Choice([_members(each, names) for each in one.alternatives]))
        elif isinstance(one, Attached):
            made.append(Joining(_members(one.participants, names)))
        else:
            made += _members(one, names)
    return made


# --- assertions -----------------------------------------------------------------------------------------------------


def assert_agree(participants: Participants, *, config: Configuration = None) -> Negotiated:
    """Check that the participants agree, and return what they agree on. Raises `AssertionError` with the report if not.

    Arguments and other errors are those of :func:`negotiate`.
    """
    __tracebackhide__ = True
    outcome = work_out(participants, config)
    if isinstance(outcome, Refused):
        raise AssertionError(_told("the participants do not agree", outcome))
    return outcome


def assert_conflict(
    participants: Participants,
    *,
    between: Iterable[str] | None = None,
    rule: Rule | str | None = None,
    config: Configuration = None,
) -> SysmemError:
    """Check that the participants do not agree, for the expected reason. Return the error that each would get.

    Args:
        participants: As for :func:`negotiate`.
        between: The names of exactly the participants that must be in conflict. They must be a smallest set: the
            conflict must disappear without any one of them.
        rule: The rule that must be violated, as a member of :class:`Rule`, its name or its text.
        config: As for :func:`negotiate`.

    Raises:
        AssertionError: The participants agree, or the reason is a different one. The text contains the report.
        ValueError: There is no rule with this name; also as for :func:`negotiate`.
    """
    __tracebackhide__ = True
    wanted = None if rule is None else _rule(rule)
    outcome = work_out(participants, config)
    if isinstance(outcome, Negotiated):
        raise AssertionError(f"the participants agree:\n\n{outcome.explanation}")
    if wanted is not None and outcome.rule is not wanted:
        found = outcome.rule.name if outcome.rule else outcome.error.name
        raise AssertionError(
            _told(f"expected a violation of {wanted.name}, not of {found}", outcome)
        )
    expected = None if between is None else frozenset(_names(between))
    if expected is not None and outcome.between != expected:
        listed, found = (", ".join(sorted(names)) for names in (expected, outcome.between))
        told = f"expected a conflict between {listed}, not between {found or 'no participants'}"
        raise AssertionError(_told(told, outcome))
    return outcome.exception()


def _names(between: Iterable[str]) -> Iterable[str]:
    return [between] if isinstance(between, str) else between


def _rule(rule: Rule | str) -> Rule:
    if isinstance(rule, Rule):
        return rule
    for one in Rule:
        if rule in (one.name, one.value):
            return one
    raise ValueError(
        f"there is no rule {rule!r}; the rules are {', '.join(one.name for one in Rule)}"
    )


def _told(what: str, refused: Refused) -> str:
    return f"{what}:\n\n{refused.report or f'{refused.error.name}: {refused.reason}'}"
