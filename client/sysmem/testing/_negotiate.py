"""A negotiation without a daemon: the tree and the constraint engine alone, on participants made up from data."""

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
from sysmemd.constraints import Participant, Rule
from sysmemd.daemon import heap_settings, platform
from sysmemd.explaining import Diagnosis, explain
from sysmemd.negotiation import Choice, Joining, Member, Negotiation
from sysmemd.tree import Allocated

from .._errors import SysmemError

#: A daemon's configuration: as its file's text, as the data of such a file, or None for the defaults.
Configuration: TypeAlias = Config | Mapping[str, Any] | str | None
#: Constraints by the name of the participant that sets them; None is a participant that uses nothing.
Constraints: TypeAlias = Mapping[str, BufferCollectionConstraints | None]
#: All participants of a negotiation.
Participants: TypeAlias = "Constraints | Sequence[Constraints | Group | Attached]"


class Group:
    """A token group: of its alternatives exactly one takes part, the first with which all others can agree."""

    def __init__(self, *alternatives: Participants) -> None:
        """`alternatives` in order of preference; each is one or several participants, as for :func:`negotiate`."""
        if not alternatives:
            raise ValueError("a group needs at least one alternative")
        self.alternatives = alternatives


class Attached:
    """Participants who join by an attached token once the others have their buffers, which they cannot change."""

    def __init__(self, participants: Participants) -> None:
        """`participants` as for :func:`negotiate`. They join together: all of them or, if one is refused, none."""
        self.participants = participants


@dataclass(frozen=True)
class Negotiated:
    """What the participants agreed on."""

    settings: SingleBufferSettings
    buffer_count: int
    #: The participants who have the buffers: all but those in alternatives that no group chose.
    participants: tuple[str, ...]
    #: For each of them the rights of its VMOs; none for a participant that gets no VMOs.
    rights: Mapping[str, Rights]
    #: Why the settings are what they are, and the table of what everybody asked for.
    explanation: str = field(repr=False)


def negotiate(participants: Participants, *, config: Configuration = None) -> Negotiated:
    """Return what participants agree on, as a daemon with this configuration would have it.

    Nothing is started, opened or allocated: the daemon's own tree and constraint engine work it out in this thread.

    Args:
        participants: Constraints by the participants' names, or a sequence of such mappings, :class:`Group` and
            :class:`Attached`. All but groups and attached ones are siblings in the tree, in this order.
        config: The daemon's configuration, as TOML text or as the data of such a text.

    Raises:
        SysmemError: They don't agree, or those who attach can't have what the others have. `reason` is the line in
            the daemon's log, `report` the table with the conflict marked.
        ConfigError: The configuration is at fault.
        ValueError: There is no participant, or two have the same name.
    """
    outcome = work_out(participants, config)
    if isinstance(outcome, Negotiated):
        return outcome
    raise outcome.exception()


@dataclass(frozen=True)
class Refused:
    """Why the participants did not agree."""

    error: Error
    reason: str
    #: What the engine says of the selection that was wanted most; None when only the memory was lacking.
    refusal: Diagnosis | None
    report: str | None

    @property
    def between(self) -> frozenset[str]:
        """The names of a smallest set of participants in conflict."""
        return frozenset(who.name for who in self.refusal.conflict) if self.refusal else frozenset()

    @property
    def rule(self) -> Rule | None:
        """The rule that was broken."""
        return self.refusal.rule if self.refusal else None

    def exception(self) -> SysmemError:
        """What a participant's wait for the buffers raises."""
        return SysmemError(self.error, self.reason, self.report)


def work_out(participants: Participants, config: Configuration) -> Negotiated | Refused:
    """What the negotiation comes to; raises as :func:`negotiate`, but for a refusal."""
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
    """Return a configuration in any of its forms. Raises `ConfigError`."""
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
    """The participants as the tree's driver wants them; `names` gets their names, and their numbers are their ids."""
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
    """Fail, with the report, unless the participants agree; what they agree on.

    Arguments and other errors as for :func:`negotiate`.
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
    """Fail, with the report, unless the participants do not agree, and for the expected reason; the error they get.

    Args:
        participants: As for :func:`negotiate`.
        between: The names of exactly those who must be in conflict: a smallest set without any one of whom this
            conflict would not exist.
        rule: The rule that must be broken, as a member of :class:`Rule`, as its name or as its text.
        config: As for :func:`negotiate`.

    Raises:
        AssertionError: They agree, or something else was the reason.
        ValueError: No rule has this name; and as for :func:`negotiate`.
    """
    __tracebackhide__ = True
    wanted = None if rule is None else _rule(rule)
    outcome = work_out(participants, config)
    if isinstance(outcome, Negotiated):
        raise AssertionError(f"the participants agree:\n\n{outcome.explanation}")
    if wanted is not None and outcome.rule is not wanted:
        found = outcome.rule.name if outcome.rule else outcome.error.name
        raise AssertionError(_told(f"expected a breach of {wanted.name}, not of {found}", outcome))
    expected = None if between is None else frozenset(_names(between))
    if expected is not None and outcome.between != expected:
        listed, found = (", ".join(sorted(names)) for names in (expected, outcome.between))
        told = f"expected a conflict between {listed}, not between {found or 'anybody'}"
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
    raise ValueError(f"there is no rule {rule!r}; they are {', '.join(one.name for one in Rule)}")


def _told(what: str, refused: Refused) -> str:
    return f"{what}:\n\n{refused.report or f'{refused.error.name}: {refused.reason}'}"
