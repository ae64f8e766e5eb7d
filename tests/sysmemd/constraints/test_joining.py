"""Successive attached attempts have the same results as computing each one from scratch with all participants."""

from __future__ import annotations

from hypothesis import assume, event, given, settings

from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferUsage,
    ImageFormatConstraints,
    PixelFormatAndModifier,
    SizeU,
)
from sysmemd.constraints import (
    Allocation,
    Participant,
    Refusal,
    Rule,
    aggregate,
    aggregate_attached,
    must_match,
)
from sysmemd.constraints.joining import Joining

from .strategies import PEOPLE, PLATFORM, TIGHTENING, groups, plausible
from .support import told, wants


@given(PEOPLE, groups(TIGHTENING | plausible(), 4))
@settings(max_examples=300)
def test_joining_decides_as_aggregating_everybody_does(
    people: list[Participant], newcomers: list[Participant]
) -> None:
    existing = aggregate(people, PLATFORM)
    assume(isinstance(existing, Allocation))
    assert isinstance(existing, Allocation)
    newcomers.append(must_match(existing.settings, "pin", 99))
    joining = Joining(people, existing, PLATFORM)
    settled = list(people)
    for newcomer in newcomers:
        refusal = joining.attempt([newcomer])
        everybody = aggregate_attached([*settled, newcomer], existing, PLATFORM)
        assert (refusal is None) == isinstance(everybody, Allocation)
        if refusal is None:
            event("joined")
            joining.settle([newcomer])
            settled.append(newcomer)
        else:
            assert isinstance(everybody, Refusal)
            assert refusal == everybody
            assert told(refusal) == told(everybody)


@given(PEOPLE)
@settings(max_examples=30)
def test_what_exists_suits_nobody_and_those_who_made_it(people: list[Participant]) -> None:
    existing = aggregate(people, PLATFORM)
    assume(isinstance(existing, Allocation))
    assert isinstance(existing, Allocation)
    alone = Joining([], existing, PLATFORM)
    assert alone.attempt(people) is None
    assert Joining(people, existing, PLATFORM).attempt([]) is None


def test_a_newcomer_without_a_usage_is_refused() -> None:
    people = [Participant(wants(min_size_bytes=1))]
    existing = aggregate(people, PLATFORM)
    assert isinstance(existing, Allocation)
    newcomer = Participant(wants(usage=None, count=None, min_size_bytes=1))
    refusal = Joining(people, existing, PLATFORM).attempt([newcomer])
    assert refusal is not None
    assert refusal.rule is Rule.USAGE_MISSING


def images(*formats: int) -> Participant:
    """Return a participant that accepts these formats with any modifier."""
    anything = PixelFormatModifier.DO_NOT_CARE
    return Participant(
        BufferCollectionConstraints(
            usage=BufferUsage(cpu=1),
            min_buffer_count=1,
            image_format_constraints=[
                ImageFormatConstraints(
                    color_spaces=[ColorSpace.DO_NOT_CARE],
                    min_size=SizeU(16, 16),
                    pixel_format_and_modifiers=[
                        PixelFormatAndModifier(pixel_format, anything)
                        for pixel_format in formats[start : start + 64]
                    ],
                )
                for start in range(0, len(formats), 64)
            ],
        )
    )


def test_those_who_stay_may_be_too_many_formats_without_one_who_left() -> None:
    narrow = Participant(
        BufferCollectionConstraints(
            usage=BufferUsage(cpu=1),
            image_format_constraints=[
                ImageFormatConstraints(
                    pixel_format=PixelFormat.NV12,
                    pixel_format_modifier=PixelFormatModifier.LINEAR,
                    color_spaces=[ColorSpace.REC709],
                    min_size=SizeU(16, 16),
                )
            ],
        )
    )
    wide = images(PixelFormat.NV12, *range(10_000, 10_600))
    anything = images(PixelFormat.DO_NOT_CARE)
    existing = aggregate([narrow, wide, anything], PLATFORM)
    assert isinstance(existing, Allocation)
    joining = Joining([wide, anything], existing, PLATFORM)
    refusal = joining.attempt([narrow])
    assert refusal is not None
    assert refusal.rule is Rule.TOO_MANY_FORMATS
    joining.settle([narrow])
    assert joining.attempt([]) is not None
    assert Joining([narrow, wide, anything], existing, PLATFORM).attempt([]) is None
