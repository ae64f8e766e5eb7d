"""Smallest conflicting sets."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem_protocol.sysmem2 import BufferUsage
from sysmemd.constraints import (
    Participant,
    Platform,
    Refusal,
    Rule,
    aggregate,
    aggregate_attached,
)
from sysmemd.constraints.aggregate import run
from sysmemd.constraints.model import Case
from sysmemd.explaining import Diagnosis, conflict, diagnosis

from ..constraints.support import (
    PLATFORM,
    C,
    F,
    agree,
    diagnosed,
    image,
    memory,
    people,
    size,
    wants,
)


def names(refusal: Diagnosis) -> list[str]:
    return [who.name for who in refusal.conflict]


def test_two_of_three() -> None:
    low = wants(image(min_size=size(50, 50)))
    high = wants(image(max_size=size(40, 40)))
    assert names(diagnosed(low, wants(image()), high)) == ["p0", "p2"]


def test_three_of_whom_no_two_conflict() -> None:
    parts = [
        wants(image(a, min_size=size(1, 1)), image(b))
        for a, b in ((F.R8, F.L8), (F.L8, F.B8G8R8), (F.B8G8R8, F.R8))
    ]
    assert names(diagnosed(*parts)) == ["p0", "p1", "p2"]
    assert names(diagnosed(parts[0], wants(), *parts[1:], None)) == ["p0", "p2", "p3"]


def test_a_conflict_on_the_other_axis_is_another_one() -> None:
    low = wants(image(required_min_size=size(1, 32), min_size=size(1, 1)))
    wide, high = wants(image(size_alignment=size(32, 1))), wants(image(min_size=size(1, 640)))
    refusal = diagnosed(low, wide, high)
    assert refusal.path.endswith("required_min_size.width")
    assert names(refusal) == ["p0", "p1"]
    # Without p1, the other two conflict on the other axis.
    low, steps = wants(image(min_size=size(70, 50))), wants(image(size_alignment=size(64, 1)))
    refusal = diagnosed(low, steps, wants(image(max_size=size(100, 40))))
    assert refusal.path.endswith("min_size.width")
    assert names(refusal) == ["p0", "p1", "p2"]


def test_a_set_is_refused_in_the_words_of_the_refusal() -> None:
    """p1 and p2 can't agree either: they have no common colour space for R8."""
    l8 = wants(image(F.L8, [C.SRGB], min_size=size(1, 1)))
    both = wants(image(F.R8, [C.REC709]), image(F.L8, [C.SRGB]))
    refusal = diagnosed(l8, both, wants(image(F.R8, [C.SRGB])))
    assert refusal.rule is Rule.NO_COMMON_FORMAT
    assert names(refusal) == ["p0", "p2"]


def test_a_set_is_smallest_although_it_is_refused_in_other_words() -> None:
    """Of the three, only p1 and p2 conflict. p0 only changes which loss of the last format is reported."""
    parts = [
        wants(image(F.L8, min_size=size(1, 1)), image(F.B8G8R8)),
        wants(image(F.L8), image(F.R8, [C.SRGB])),
        wants(image(F.B8G8R8), image(F.R8, [C.REC709])),
    ]
    refusal = diagnosed(*parts)
    assert refusal.rule is Rule.NO_COMMON_FORMAT
    assert diagnosed(*parts[1:], wants(min_size_bytes=1)).rule is Rule.NO_COMMON_COLOR_SPACE
    assert names(refusal) == ["p1", "p2"]


def test_two_of_many_take_few_aggregations(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd: list[Any] = [wants(image(min_size=size(5, 5))) for _ in range(100)]
    crowd[33] = wants(image(F.R8, [C.SRGB]))
    crowd[77] = wants(image(F.R8, [C.REC709]))
    crowd = [
        each if i in (33, 77) else wants(image(F.R8, [C.SRGB, C.REC709]), count=0)
        for i, each in enumerate(crowd)
    ]
    crowd.append(wants(min_size_bytes=1))
    refusal = diagnosed(*crowd)
    assert refusal.rule is Rule.NO_COMMON_COLOR_SPACE
    assert names(refusal) == ["p33", "p77"]
    monkeypatch.setattr(conflict, "MAX_AGGREGATIONS", 40)
    assert names(diagnosed(*crowd)) == ["p33", "p77"]
    counts = [{33: 64, 77: 65}.get(i, 1) for i in range(100)]
    monkeypatch.setattr(conflict, "MAX_AGGREGATIONS", 25)
    refusal = diagnosed(*(wants(count=count, min_size_bytes=1) for count in counts))
    assert len(refusal.values) == 100
    assert names(refusal) == ["p33", "p77"]


def test_a_search_takes_a_bounded_number_of_aggregations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[Case] = []

    def counting(case: Case, *, tolerate_absence: bool) -> Any:
        taken.append(case)
        return run(case, tolerate_absence=tolerate_absence)

    monkeypatch.setattr(conflict, "run", counting)
    refusal = diagnosed(*(wants(count=1, min_size_bytes=1) for _ in range(1000)))
    assert not taken
    assert refusal.rule is Rule.COUNT_OVER_128
    assert len(refusal.conflict) >= 129
    assert 0 < len(taken) <= conflict.MAX_AGGREGATIONS
    assert f"{refusal.conflict[0]} $." in refusal.line()


def test_a_search_that_must_end_gives_a_conflicting_set(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = [wants(count=2, min_size_bytes=1) for _ in range(70)]
    monkeypatch.setattr(conflict, "MAX_AGGREGATIONS", 3)
    refusal = diagnosed(*crowd)
    assert refusal.rule is Rule.COUNT_OVER_128
    assert 65 <= len(refusal.conflict) <= 70
    monkeypatch.setattr(conflict, "MAX_AGGREGATIONS", 0)
    assert len(diagnosed(*crowd).conflict) == 70


def test_a_third_who_asks_for_size_and_use_is_not_to_blame() -> None:
    """Without it, another rule would be broken: somebody must ask for a size or usage."""
    nobody = BufferUsage(none=1)
    low = wants(usage=nobody, count=None, min_buffer_count=9)
    high = wants(usage=nobody, count=None, max_buffer_count=8)
    assert names(diagnosed(low, wants(min_size_bytes=1), high)) == ["p0", "p2"]


def test_what_nobody_said_has_no_conflicting_set() -> None:
    assert names(diagnosed(None, wants())) == []
    assert names(diagnosed(wants(image(F.R8, [C.DO_NOT_CARE], min_size=size(1, 1))))) == []


def test_one_whose_own_constraints_break_a_rule() -> None:
    assert names(diagnosed(wants(min_size_bytes=1), wants(usage=None), wants())) == ["p1"]


def test_one_who_alone_is_too_much_for_the_platform() -> None:
    assert names(diagnosed(wants(), wants(min_size_bytes=1 << 40))) == ["p1"]


def test_a_conflict_that_is_there_without_anybody() -> None:
    """The daemon's own limit may be so small that no participant is to blame."""

    refusal = diagnosed(wants(min_size_bytes=1), wants(), platform=Platform(max_buffer_bytes=0))
    assert refusal.rule is Rule.BUFFER_LIMIT
    assert names(refusal) == []


def test_a_participant_that_takes_part_twice() -> None:
    twice = Participant(wants(count=70, min_size_bytes=1), "twice", 2)
    result = aggregate([twice, Participant(wants(), "other"), twice], PLATFORM)
    assert isinstance(result, Refusal)
    assert names(Diagnosis(result)) == ["twice", "twice"]


def test_what_exists_takes_part_in_a_conflict_of_those_who_attach() -> None:
    existing = agree(wants(image(min_size=size(4, 4)), count=3, min_size_bytes=9000))
    kept = [wants(count=2), wants(count=None), wants(count=2)]
    wide = [wants(image(min_size=size(width, 1)), count=None) for width in (30, 20)]
    for newcomers, blamed in ((kept, ["p0", "p2"]), (wide, ["p0"])):
        refusal = aggregate_attached(people(*newcomers), existing, PLATFORM)
        assert isinstance(refusal, Refusal)
        assert names(Diagnosis(refusal)) == [*blamed, "the existing buffers"]


def test_it_is_worked_out_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Refusal] = []

    def counting(refusal: Refusal, involved: list[Participant]) -> tuple[Participant, ...]:
        asked.append(refusal)
        return ()

    monkeypatch.setattr(diagnosis, "smallest_conflict", counting)
    limit = wants(buffer_memory_constraints=memory(max_size_bytes=3))
    refusal = diagnosed(wants(min_size_bytes=4), limit)
    assert refusal.line(conflict=False)
    assert not asked
    assert refusal.conflict == refusal.conflict == ()
    assert len(asked) == 1


def test_who_only_chose_a_format_has_no_part_in_a_conflict_about_something_else() -> None:
    """Without them no participant chooses a format. That is another conflict, which the search ignores."""
    open_format = wants(image(F.DO_NOT_CARE, min_size=size(1, 1)), max_buffer_count=2)
    many = wants(count=4)
    assert names(diagnosed(open_format, many, wants(image(F.R8)))) == ["p0", "p1"]
    no_space = wants(image(F.R8, [C.DO_NOT_CARE], min_size=size(1, 1)), max_buffer_count=2)
    assert names(diagnosed(no_space, many, wants(image(F.R8)))) == ["p0", "p1"]
