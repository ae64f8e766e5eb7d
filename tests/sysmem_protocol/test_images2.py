"""Pixel formats, modifiers and colour spaces are those of `docs/spec/image-formats.md`, section 1."""

from __future__ import annotations

import enum

import pytest

from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier

from ..spec_pages import rows


@pytest.mark.parametrize(
    ("heading", "declared"),
    [
        ("1.1 PixelFormat (flexible enum, uint32)", PixelFormat),
        (
            "1.3 PixelFormatModifier (flexible enum, uint64; top 8 bits = vendor)",
            PixelFormatModifier,
        ),
        ("1.4 ColorSpace (flexible enum, uint32)", ColorSpace),
    ],
)
def test_every_name_has_its_number_and_there_are_no_others(
    heading: str, declared: type[enum.IntEnum]
) -> None:
    expected = {
        name.removesuffix(" (deprecated)"): int(number, 0)
        for name, number in rows("image-formats.md", heading)
    }
    assert {name: int(member) for name, member in declared.__members__.items()} == expected
