"""`docs/spec/image-formats.md`, section 4: cases that the worked examples do not cover."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem_protocol.formats import Traits, traits
from sysmem_protocol.images2 import PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import SizeU
from sysmemd.constraints.padding import padded_size
from sysmemd.constraints.terms import read_terms

from .support import U32, U64, image

R8 = traits(PixelFormat.R8, PixelFormatModifier.LINEAR)
BGRA = traits(PixelFormat.B8G8R8A8, PixelFormatModifier.LINEAR)


def padded(size_bytes: int, block: SizeU, of: Traits = R8, **fields: Any) -> int | None:
    sizes: dict[str, Any] = {
        name: SizeU(*value) if isinstance(value, tuple) else value for name, value in fields.items()
    }
    return padded_size(size_bytes, read_terms(image(pad_for_block_size=block, **sizes)), of)


def test_an_image_narrower_than_min_size_contributes_nothing() -> None:
    assert padded(5, SizeU(1, 4), min_size=(10, 1), max_size=(20, 20)) == 5


def test_the_widest_image_has_rows_within_max_bytes_per_row() -> None:
    """The width is 20, not 22, because rows are multiples of 4. Blocks add 3 rows."""
    limits: dict[str, Any] = {"min_size": (1, 1), "max_size": (200, 200)}
    rows: dict[str, Any] = {"max_bytes_per_row": 22, "bytes_per_row_divisor": 4}
    assert padded(100, SizeU(1, 4), **limits, **rows) == 160


def test_the_widest_image_is_a_multiple_of_size_alignment() -> None:
    """The width is 20, not 22. Blocks add 3 rows."""
    limits: dict[str, Any] = {"min_size": (1, 1), "max_size": (22, 1), "size_alignment": (4, 1)}
    assert padded(100, SizeU(1, 4), **limits) == 160


def test_rows_of_whole_blocks_may_exceed_max_bytes_per_row() -> None:
    """The width is 20. Rows of 2 blocks of 16 pixels add 12 bytes each, at most to 2 rows."""
    limits: dict[str, Any] = {"min_size": (1, 1), "max_size": (200, 200)}
    assert padded(100, SizeU(16, 1), **limits, max_bytes_per_row=20) == 124


@pytest.mark.parametrize(
    ("min_height", "max_height", "total"),
    [(4, 4, 100), (4, 5, 130), (4, 6, 130), (2, 4, 120), (2, 5, 130)],
)
def test_a_height_beyond_the_first_blocks_counts_if_max_size_permits_it(
    min_height: int, max_height: int, total: int
) -> None:
    """A height of 4 needs no padding. 5 is the first height that reaches into the next blocks."""
    sizes: dict[str, Any] = {"min_size": (1, min_height), "max_size": (10, max_height)}
    assert padded(100, SizeU(1, 4), **sizes) == total


def test_heights_over_32_bits_have_no_padded_size() -> None:
    tall: dict[str, Any] = {"min_size": (1, U32), "max_size": (1, U32)}
    assert padded(100, SizeU(1, 1), **tall) is None
    assert padded(100, SizeU(1, 2), **tall, size_alignment=(1, 2)) is None
    assert padded(1 << 33, SizeU(1, 2), **tall) is None
    assert padded(1 << 33, SizeU(1, 1 << 31), min_size=(1, 1), max_size=(1, U32)) is None


def test_blocks_over_32_bits_have_no_padded_size() -> None:
    limits: dict[str, Any] = {"min_size": (1, 1), "max_size": (0xFFFFFFFE, 1)}
    assert padded(1 << 33, SizeU(1 << 31, 1), **limits, bytes_per_row_divisor=1) is None


def test_an_image_that_is_not_allowed_has_no_padded_size() -> None:
    """The first permitted height exceeds max_size, so there is no image."""
    assert padded(100, SizeU(1, 4), min_size=(1, 8), max_size=(20, 4)) is None


def test_a_row_of_blocks_over_32_bits_has_no_padded_size() -> None:
    limits: dict[str, Any] = {"min_size": (1, 1), "max_size": (0x3FFFFFFF, 1)}
    assert padded(1 << 33, SizeU(4, 1), BGRA, **limits, bytes_per_row_divisor=4) is None
    assert padded(1 << 33, SizeU(1, 2), BGRA, **limits, bytes_per_row_divisor=4) is not None


def test_a_sum_over_64_bits_has_no_padded_size() -> None:
    assert padded(U64, SizeU(1, 4), min_size=(1, 1), max_size=(1 << 20, 1 << 20)) is None
