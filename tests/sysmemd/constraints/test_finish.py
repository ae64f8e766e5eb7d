"""`docs/spec/constraints.md`, section 3: required sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sysmem_protocol.sysmem2 import BufferCollectionConstraints
from sysmemd.constraints import Rule, Stage
from sysmemd.constraints.finish import undominated

from .support import agree, image, image_of, refused_by, size, wants

Size = tuple[int, int]


def required(*entries: Size, **fields: Size) -> list[Size]:
    """Return the delivered required_max_size_list."""
    sizes = {name: size(*value) for name, value in fields.items()}
    entry = image(min_size=size(1, 1), required_max_size_list=[size(*e) for e in entries])
    for name, value in sizes.items():
        setattr(entry, name, value)
    delivered = image_of(agree(wants(entry))).required_max_size_list
    assert delivered is not None
    return [(each.width, each.height) for each in delivered]


def test_required_max_size_is_appended_if_both_members_are_set() -> None:
    assert required((3, 9), required_max_size=(5, 7)) == [(3, 9), (5, 7)]
    assert required((3, 9), required_max_size=(5, 0)) == [(3, 9)]
    assert required(required_max_size=(0, 5)) == []
    assert required(required_max_size=(5, 7)) == [(5, 7)]


def test_required_max_sizes_of_several_make_one() -> None:
    parts = [
        wants(image(min_size=size(1, 1), required_max_size=size(*each)))
        for each in ((5, 0), (0, 7))
    ]
    assert image_of(agree(*parts)).required_max_size_list == [size(5, 7)]


@pytest.mark.parametrize(
    ("entries", "left"),
    [
        ([(3, 9), (5, 7)], [(3, 9), (5, 7)]),
        ([(5, 7), (3, 9)], [(3, 9), (5, 7)]),
        ([(3, 7), (5, 9)], [(5, 9)]),
        ([(5, 7), (5, 9)], [(5, 9)]),
        ([(3, 9), (5, 9)], [(5, 9)]),
        ([(5, 9), (5, 9)], [(5, 9)]),
    ],
)
def test_covered_entries_and_duplicates_go_and_the_rest_is_sorted(
    entries: list[Size], left: list[Size]
) -> None:
    assert required(*entries) == left


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12))
def test_undominated_is_what_the_definition_says(sizes: list[Size]) -> None:
    distinct = set(sizes)
    kept = {
        a for a in distinct if not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in distinct)
    }
    assert list(undominated(tuple(sizes))) == sorted(kept)


def staircase(start: int, count: int) -> list[Size]:
    return [(start + i, 1000 - start - i) for i in range(count)]


def test_more_than_64_left() -> None:
    def asking(*entries: Size) -> BufferCollectionConstraints:
        return wants(
            image(required_max_size_list=[size(*e) for e in entries]),
        )

    parts = [staircase(1, 64), staircase(65, 1)]
    refusal = refused_by(Rule.TOO_MANY_REQUIRED_SIZES, *(asking(*p) for p in parts))
    assert refusal.stage is Stage.FINISH
    assert refusal.pair is not None
    same = [staircase(1, 64), staircase(64, 1)]
    delivered = image_of(agree(*(asking(*p) for p in same)))
    assert len(delivered.required_max_size_list or ()) == 64
