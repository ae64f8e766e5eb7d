"""Runs the steps of `docs/spec/constraints.md` in order, from constraints to settings or a refusal."""

from __future__ import annotations

from collections.abc import Sequence

from ..pause import giving_way
from .checks import check_aggregate
from .finish import finish
from .fold import fold
from .model import Allocation, Case, Participant, Platform
from .normalise import Needs, asks_for_a_size, normalise
from .refusal import Refusal
from .rules import Breach, Rule, Stage
from .settings import choose_settings


def aggregate(participants: Sequence[Participant], platform: Platform) -> Allocation | Refusal:
    """Return what the participants, in breadth-first order of the tree, agree on, or the refusal.

    Equal arguments have equal results. Arguments are not modified.
    """
    return run(Case(tuple(participants), platform))


def run(case: Case, *, tolerate_absence: bool = False) -> Allocation | Refusal:
    """Aggregate a case. With `tolerate_absence`, ignore the rules that something must be set (ABSENCES)."""
    stage = Stage.REQUEST
    who: Participant | None = None
    try:
        if not tolerate_absence and not any(
            asks_for_a_size(participant.constraints) for participant in case.participants
        ):
            raise Breach(Rule.NOBODY_ASKS_FOR_A_SIZE)
        stage = Stage.PARTICIPANT
        needs: list[Needs] = []
        for who in giving_way(case.participants, 1):
            needs.append(normalise(who, case.platform, settings_only=case.settings_only))
        who = None
        stage = Stage.FOLD
        total = fold(needs or [normalise(Participant(None), case.platform)])
        stage = Stage.FINISH
        total.entries = finish(total.entries)
        stage = Stage.AGGREGATE
        pinned = [
            entry
            for participant, own in zip(case.participants, needs, strict=True)
            if participant.pinned
            for entry in own.entries
        ]
        check_aggregate(
            total,
            case.platform.page_size,
            pinned,
            settings_only=case.settings_only,
            tolerate_absence=tolerate_absence,
        )
        stage = Stage.SETTINGS
        settings, count = choose_settings(
            total,
            case.platform,
            settings_only=case.settings_only,
            tolerate_absence=tolerate_absence,
        )
    except Breach as breach:
        return refuse(case, stage, breach, who)
    return Allocation(settings, count, total.access, case)


def refuse(case: Case, stage: Stage, breach: Breach, who: Participant | None = None) -> Refusal:
    """Return the refusal for a breach."""
    return Refusal(
        stage,
        breach.rule,
        breach.fields,
        breach.pair,
        breach.detail,
        who,
        breach.entry if who is not None else None,
        breach.image,
        breach.differences,
        case=case,
    )
