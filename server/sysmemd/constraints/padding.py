"""Padding beyond the image (`docs/spec/image-formats.md`, section 4), for decoders and GPUs that access whole blocks.

It is not part of `size_bytes`; it only makes the VMO larger.
"""

from __future__ import annotations

from sysmem_protocol.formats import Traits
from sysmem_protocol.sizes import U32_MAX, U64_MAX, minimum_row, round_down, round_up

from .terms import Terms


class _Failed(Exception):
    """A number does not fit, or an image is not allowed, so there is no padded size."""


def padded_size(size_bytes: int, terms: Terms, of: Traits) -> int | None:
    """Return the bytes of a VMO whose image of `size_bytes` may be accessed up to the end of its blocks (4.3).

    It is an upper bound, and exact if min_size equals max_size. None if it cannot be computed.
    """
    try:
        first = round_up(terms.min_height, terms.align_height)
        # The first allowed height that reaches into the block row after the last one of `first`.
        block = terms.pad_height
        second = round_up(round_down(first - 1, block) + block + 1, terms.align_height)
        if first > U32_MAX or second > U32_MAX:
            return None
        extra = max(0, _contribution(size_bytes, first, terms, of))
        if second <= terms.max_height:
            extra = max(extra, _contribution(size_bytes, second, terms, of))
    except _Failed:
        return None
    total = size_bytes + extra
    return total if total <= U64_MAX else None


def _contribution(size_bytes: int, height: int, t: Terms, of: Traits) -> int:
    """Return the bytes beyond the image for whole blocks, for the widest image of this height in `size_bytes`."""
    stride, divisor = of.stride_bytes, t.bytes_per_row_divisor
    width = min(U32_MAX, size_bytes // stride // height)
    width = round_down(width * stride, divisor) // stride
    width = min(width, t.max_width, round_down(t.max_bytes_per_row, divisor) // stride)
    width = round_down(width, t.align_width)
    if width < t.min_width:
        return 0
    _require_image(width, height, t, of, bounded=True)
    block_width = round_up(width, t.pad_width)
    block_height = round_up(height, t.pad_height)
    if block_width > U32_MAX or block_height > U32_MAX:
        raise _Failed
    _require_image(block_width, block_height, t, of, bounded=False)

    def row(pixels: int) -> int:
        return round_up(max(stride * pixels, t.min_bytes_per_row), divisor)

    return row(block_width) * block_height - row(width) * height


def _require_image(width: int, height: int, t: Terms, of: Traits, *, bounded: bool) -> None:
    """Check that the size makes an image (2.7). Without `bounded`, maxima and alignment are ignored."""
    if bounded and (not t.min_height <= height <= t.max_height or height % t.align_height):
        raise _Failed
    row = minimum_row(
        of,
        width,
        min_width=t.min_width,
        max_width=t.max_width if bounded else U32_MAX,
        align_width=t.align_width if bounded else 1,
        min_bytes_per_row=t.min_bytes_per_row,
        divisor=t.bytes_per_row_divisor,
        max_bytes_per_row=t.max_bytes_per_row if bounded else U32_MAX,
    )
    if row is None:
        raise _Failed
