"""`docs/spec/constraints.md`, section 1: image entries are flattened first."""

from __future__ import annotations

import pytest

from sysmem_protocol.formats import is_specific, is_supported
from sysmem_protocol.sysmem2 import ImageFormatConstraints, PixelFormatAndModifier
from sysmemd.constraints import Participant, Rule
from sysmemd.constraints.flatten import combine_pairs, flatten
from sysmemd.constraints.rules import Breach
from sysmemd.explaining import Diagnosis

from .support import F, M, image, refused_by, size, told, wants

ANY, ANY_MODIFIER = F.DO_NOT_CARE, M.DO_NOT_CARE
Pair = tuple[int, int]


def entry(
    pixel_format: int | None, modifier: int | None = None, *pairs: Pair
) -> ImageFormatConstraints:
    return image(
        pixel_format,
        pixel_format_modifier=modifier,
        pixel_format_and_modifiers=[PixelFormatAndModifier(*pair) for pair in pairs] or None,
    )


def pairs_of(*entries: ImageFormatConstraints, uses: bool = True) -> list[tuple[int, int, int]]:
    return [flat[:3] for flat in flatten(entries, uses=uses)]


def test_one_entry_per_format() -> None:
    both = entry(F.NV12, M.LINEAR, (F.R8, M.LINEAR), (F.L8, M.ARM_LINEAR_TE))
    only_list = entry(None, None, (F.B8G8R8, M.LINEAR))
    assert pairs_of(both, only_list) == [
        (F.NV12, M.LINEAR, 0),
        (F.R8, M.LINEAR, 0),
        (F.L8, M.ARM_LINEAR_TE, 0),
        (F.B8G8R8, M.LINEAR, 1),
    ]


def test_neither_given() -> None:
    refusal = refused_by(Rule.FORMAT_MISSING, wants(image(min_size=size(1, 1)), entry(None)))
    assert (refusal.entry, Diagnosis(refusal).path) == (
        1,
        "$.image_format_constraints[1].pixel_format",
    )
    empty_list = image(None, pixel_format_and_modifiers=[], min_size=size(1, 1))
    refused_by(Rule.FORMAT_MISSING, wants(empty_list))


def test_a_modifier_without_a_format() -> None:
    modifier = entry(None, M.LINEAR, (F.R8, M.LINEAR))
    refusal = refused_by(Rule.MODIFIER_WITHOUT_FORMAT, wants(modifier, min_size_bytes=1))
    assert Diagnosis(refusal).path == "$.image_format_constraints[0].pixel_format_modifier"


@pytest.mark.parametrize(
    ("pixel_format", "uses", "modifier"),
    [
        (F.NV12, True, M.LINEAR),
        (F.NV12, False, M.DO_NOT_CARE),
        (ANY, True, M.DO_NOT_CARE),
        (ANY, False, M.DO_NOT_CARE),
    ],
)
def test_default_modifier(pixel_format: int, uses: bool, modifier: int) -> None:
    assert pairs_of(entry(pixel_format), uses=uses) == [(pixel_format, modifier, 0)]


@pytest.mark.parametrize("pair", [(F.INVALID, M.LINEAR), (F.R8, M.INVALID), (ANY, M.INVALID)])
def test_invalid_format_or_modifier(pair: Pair) -> None:
    refused_by(Rule.FORMAT_INVALID, wants(entry(*pair), min_size_bytes=1))
    listed = entry(F.L8, M.LINEAR, (F.R8G8, M.LINEAR), pair)
    refusal = refused_by(Rule.FORMAT_INVALID, wants(listed, min_size_bytes=1))
    assert Diagnosis(refusal).path == "$.image_format_constraints[0].pixel_format_and_modifiers[1]"


@pytest.mark.parametrize(
    "pair", [(F.MJPEG, M.LINEAR), (F.NV12, M.ARM_AFBC_16X16), (4711, M.LINEAR), (F.R8, 4711)]
)
def test_a_specific_format_must_be_supported(pair: Pair) -> None:
    refused_by(Rule.FORMAT_UNSUPPORTED, wants(entry(*pair), min_size_bytes=1))


def test_a_partly_open_format_of_unknown_number_is_no_specific_one() -> None:
    assert pairs_of(entry(4711, ANY_MODIFIER), entry(ANY, 4711)) == [
        (4711, ANY_MODIFIER, 0),
        (ANY, 4711, 1),
    ]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((F.R8, M.LINEAR), (F.R8, M.LINEAR)),
        ((ANY, ANY_MODIFIER), (ANY, ANY_MODIFIER)),
        ((ANY, ANY_MODIFIER), (F.R8, M.LINEAR)),
        ((ANY, ANY_MODIFIER), (4711, ANY_MODIFIER)),
        ((F.R8, ANY_MODIFIER), (F.R8, M.LINEAR)),
        ((ANY, M.LINEAR), (F.R8, M.LINEAR)),
        ((F.R8, ANY_MODIFIER), (ANY, M.LINEAR)),
        ((4711, ANY_MODIFIER), (4711, ANY_MODIFIER)),
    ],
)
def test_no_two_equal_or_combinable(a: Pair, b: Pair) -> None:
    assert combine_pairs(a, b) is not None
    for first, second in ((a, b), (b, a)):
        refusal = refused_by(
            Rule.FORMAT_DUPLICATE, wants(entry(*first), entry(*second), min_size_bytes=1)
        )
        assert refusal.entry == 1
    refused_by(Rule.FORMAT_DUPLICATE, wants(entry(None, None, a, b), min_size_bytes=1))


@pytest.mark.parametrize("first", [entry(F.R8, M.LINEAR), entry(None, None, (F.R8, M.LINEAR))])
def test_the_later_twin_is_named_where_it_was_sent(first: ImageFormatConstraints) -> None:
    pairs = [(F.L8, M.LINEAR), (F.R8, M.LINEAR)]
    for last in (entry(None, None, *pairs), entry(F.NV12, M.LINEAR, *pairs)):
        refusal = refused_by(Rule.FORMAT_DUPLICATE, wants(first, last, min_size_bytes=1))
        assert (
            Diagnosis(refusal).path == "$.image_format_constraints[1].pixel_format_and_modifiers[1]"
        )
        assert Diagnosis(refusal).path + " = R8 LINEAR" in told(refusal)
    both = wants(entry(F.R8, M.LINEAR, *pairs), min_size_bytes=1)
    assert Diagnosis(refused_by(Rule.FORMAT_DUPLICATE, both)).path.endswith(
        "[0].pixel_format_and_modifiers[1]"
    )
    wide = wants(entry(None, None, (ANY, ANY_MODIFIER), *pairs), min_size_bytes=1)
    assert Diagnosis(refused_by(Rule.FORMAT_DUPLICATE, wide)).path.endswith(
        "[0].pixel_format_and_modifiers[1]"
    )
    twice = wants(entry(None, None, *pairs), entry(F.R8, ANY_MODIFIER), min_size_bytes=1)
    assert Diagnosis(refused_by(Rule.FORMAT_DUPLICATE, twice)).path.endswith("[1].pixel_format")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((F.R8, M.LINEAR), (F.L8, M.LINEAR)),
        ((F.R8, M.LINEAR), (F.R8, M.ARM_LINEAR_TE)),
        ((F.R8, ANY_MODIFIER), (F.L8, ANY_MODIFIER)),
        ((F.R8, ANY_MODIFIER), (F.L8, M.LINEAR)),
        ((ANY, M.LINEAR), (F.L8, M.ARM_LINEAR_TE)),
        ((ANY, M.LINEAR), (ANY, M.ARM_LINEAR_TE)),
        ((F.R8, ANY_MODIFIER), (ANY, M.ARM_AFBC_16X16)),
        ((4711, ANY_MODIFIER), (ANY, M.LINEAR)),
        ((F.R8, ANY_MODIFIER), (ANY, 4711)),
    ],
)
def test_not_combinable(a: Pair, b: Pair) -> None:
    assert combine_pairs(a, b) is combine_pairs(b, a) is None
    assert len(pairs_of(entry(*a), entry(*b))) == 2


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        ((ANY, M.LINEAR), (F.R8, ANY_MODIFIER), (F.R8, M.LINEAR)),
        ((ANY, ANY_MODIFIER), (F.R8, ANY_MODIFIER), (F.R8, ANY_MODIFIER)),
        ((F.R8, M.LINEAR), (ANY, ANY_MODIFIER), (F.R8, M.LINEAR)),
    ],
)
def test_combined_pairs(a: Pair, b: Pair, both: Pair) -> None:
    assert combine_pairs(a, b) == combine_pairs(b, a) == both


def test_every_pair_of_a_long_list_agrees_with_comparing_each_with_each() -> None:
    numbers = (F.R8, F.NV12, 4711, ANY)
    modifiers = (M.LINEAR, M.ARM_AFBC_16X16, 4711, ANY_MODIFIER)
    pairs: list[Pair] = [(f, m) for f in numbers for m in modifiers]
    for a in pairs:
        for b in pairs:
            entries = [entry(*a), entry(*b)]
            specific = [pair for pair in (a, b) if is_specific(*pair)]
            if not all(is_supported(*pair) for pair in specific):
                continue
            if combine_pairs(a, b) is None:
                assert len(flatten(entries, uses=True)) == 2
            else:
                with pytest.raises(Breach):
                    flatten(entries, uses=True)


def test_the_first_of_the_participants_own_breaches_is_told() -> None:
    both = wants(entry(F.R8), entry(F.R8), min_size_bytes=1)
    assert str(refused_by(Rule.FORMAT_DUPLICATE, both).participant) == str(
        Participant(None, "p0", 0)
    )
