"""Image arithmetic: sizes, planes and rows (`docs/spec/image-formats.md`, sections 2.2 to 2.6).

Every function is total: it returns None if there is no result, or if the result does not fit the width that the
interface gives it (2.12). Sizes and offsets are in bytes, widths and heights in pixels.
"""

from __future__ import annotations

from .formats import (
    HALF_AGAIN,
    LINEAR,
    PIXELS,
    Family,
    Layout,
    Traits,
    is_supported,
    layout,
    traits,
)
from .images2 import PixelFormat
from .sysmem2 import ImageFormatConstraints

U32_MAX = 0xFFFF_FFFF
U64_MAX = 0xFFFF_FFFF_FFFF_FFFF
#: The plane number of extra data (transaction elimination, colour control).
EXTRA_PLANE = 3
_TILE_BYTES = 4096


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple that is not less than the value."""
    return -(-value // multiple) * multiple


def round_down(value: int, multiple: int) -> int:
    """Return the greatest multiple that is not more than the value."""
    return value // multiple * multiple


def _divide_up(value: int, divisor: int) -> int:
    return -(-value // divisor)


def _fit64(value: int) -> int | None:
    return value if value <= U64_MAX else None


def _round_up32(value: int, multiple: int) -> int | None:
    """Round up in 32 bits: the intermediate sum must fit as well."""
    if multiple == 0 or value + multiple - 1 > U32_MAX:
        return None
    return round_up(value, multiple)


# --- 2.2 transaction elimination ----------------------------------------------------------------------------------


def te_row_bytes(width: int) -> int:
    """Return the bytes per row of 32 × 32 tiles."""
    return round_up(16 * _divide_up(width, 32), 64)


def te_bytes(start: int, width: int, height: int) -> int:
    """Return the bytes from `start` to the end of a transaction-elimination buffer that follows there."""
    return round_up(start, 64) + 64 + 2 * te_row_bytes(width) * _divide_up(height, 32) - start


# --- 2.3 size -----------------------------------------------------------------------------------------------------


def _linear_size(pixel_format: int, height: int, bytes_per_row: int) -> int | None:
    if pixel_format in HALF_AGAIN:
        three = height * bytes_per_row * 3
        return three // 2 if three <= U64_MAX else None
    return height * bytes_per_row


def _afbc_size(shape: Layout, width: int, height: int) -> int:
    """Return the size of header and blocks, without transaction elimination."""
    blocks = (round_up(width, shape.align_width) // shape.tile_width) * (
        round_up(height, shape.align_height) // shape.tile_height
    )
    body = blocks * shape.tile_width * shape.tile_height * 4
    return body + round_up(16 * blocks, shape.body_alignment)


def _intel_tiles(
    pixel_format: int, shape: Layout, height: int, bytes_per_row: int
) -> list[tuple[int, int]]:
    """Return the number of tiles across and down for each image plane."""
    across = _divide_up(bytes_per_row, shape.tile_width)
    tiles = [(across, _divide_up(height, shape.tile_height))]
    if pixel_format == PixelFormat.NV12:
        tiles.append((across, _divide_up(_divide_up(height, 2), shape.tile_height)))
    return tiles


def _intel_size(tiles: list[tuple[int, int]]) -> int | None:
    """Return the size of image planes in bytes, or None if one has 4 GiB or more."""
    sizes = [across * down * _TILE_BYTES for across, down in tiles]
    return sum(sizes) if all(size <= U32_MAX for size in sizes) else None


def image_size(
    pixel_format: int, modifier: int, width: int, height: int, bytes_per_row: int
) -> int | None:
    """Return the size of an image with all its planes in bytes (2.3); None if unsupported or over 64 bits."""
    shape = layout(modifier)
    if shape is None or not is_supported(pixel_format, modifier):
        return None
    if shape.family is Family.AFBC:
        size = _afbc_size(shape, width, height)
        return _fit64(size + te_bytes(size, width, height) if shape.te else size)
    if shape.family is Family.INTEL:
        tiles = _intel_tiles(pixel_format, shape, height, bytes_per_row)
        planes = _intel_size(tiles)
        if planes is None or not shape.ccs:
            return planes
        # There is one colour-control surface, whose size depends on the last image plane alone (quirk 5).
        across, down = tiles[-1]
        return planes + _divide_up(across, 32) * _divide_up(down, 16) * _TILE_BYTES
    linear = _linear_size(pixel_format, height, bytes_per_row)
    if linear is None or shape.family is not Family.LINEAR_TE:
        return linear
    return _fit64(linear + te_bytes(linear, width, height))


# --- 2.4, 2.5 planes ----------------------------------------------------------------------------------------------

_CHROMA_PLANES: dict[int, int] = {
    PixelFormat.NV12: 1,
    PixelFormat.P010: 1,
    PixelFormat.I420: 2,
    PixelFormat.YV12: 2,
}


def _linear_plane_offset(pixel_format: int, height: int, row: int, plane: int) -> int | None:
    if plane == 0:
        return 0
    if plane > _CHROMA_PLANES.get(pixel_format, 0):
        return None
    return height * row + (0 if plane == 1 else (height // 2) * (row // 2))


def plane_byte_offset(
    pixel_format: int, modifier: int, width: int, height: int, bytes_per_row: int, plane: int
) -> int | None:
    """Return where a plane of an image begins, in bytes (2.4); None if there is no such plane."""
    shape = layout(modifier)
    if shape is None or not is_supported(pixel_format, modifier):
        return None
    match shape.family:
        case Family.GOLDFISH:
            return 0 if plane == 0 else None
        case Family.AFBC:
            # The extra plane has an offset even if the modifier has no extra plane (quirk 6).
            if plane == EXTRA_PLANE:
                return _fit64(round_up(_afbc_size(shape, width, height), 64))
            return 0 if plane == 0 else None
        case Family.INTEL:
            tiles = _intel_tiles(pixel_format, shape, height, bytes_per_row)
            if plane == EXTRA_PLANE:
                return _intel_size(tiles)
            return _intel_size(tiles[:plane]) if plane < len(tiles) else None
        case Family.LINEAR_TE if plane == EXTRA_PLANE:
            linear = _linear_size(pixel_format, height, bytes_per_row)
            return None if linear is None else _fit64(round_up(linear, 64))
        case _:
            return _linear_plane_offset(pixel_format, height, bytes_per_row, plane)


def plane_row_bytes(
    pixel_format: int, modifier: int, width: int, height: int, bytes_per_row: int, plane: int
) -> int | None:
    """Return the distance between rows of a plane of an image, in bytes (2.5); None if there is no such plane."""
    shape = layout(modifier)
    if shape is None or not is_supported(pixel_format, modifier):
        return None
    match shape.family:
        case Family.GOLDFISH:
            return bytes_per_row if plane == 0 else None
        case Family.AFBC:
            if plane == EXTRA_PLANE:
                return te_row_bytes(width)
            return 0 if plane == 0 else None
        case Family.INTEL:
            tiles = _intel_tiles(pixel_format, shape, height, bytes_per_row)
            if plane == EXTRA_PLANE:
                return _divide_up(tiles[0][0], 32) * 128 if shape.ccs else None
            if plane >= len(tiles):
                return None
            row = tiles[plane][0] * shape.tile_width
            return row if row <= U32_MAX else None
        case Family.LINEAR_TE if plane == EXTRA_PLANE:
            return te_row_bytes(width)
    chroma = _CHROMA_PLANES.get(pixel_format, 0)
    if plane == 0:
        return bytes_per_row
    if plane > chroma:
        return None
    return bytes_per_row if chroma == 1 else bytes_per_row // 2


# --- 2.6 minimum row bytes ----------------------------------------------------------------------------------------


def minimum_row(
    of: Traits,
    width: int,
    *,
    min_width: int = 0,
    max_width: int = U32_MAX,
    align_width: int = 1,
    min_bytes_per_row: int = 0,
    divisor: int = 1,
    max_bytes_per_row: int = U32_MAX,
) -> int | None:
    """Return the minimum bytes per row of plane 0 for a width of more than 0 pixels."""
    shape = of.layout
    if width == 0 or shape.family is Family.GOLDFISH:
        return None
    if shape.family is Family.AFBC:
        if not min_width <= width <= max_width:
            return None
        # The number of blocks of the aligned width is not limited (quirk 4).
        row = _divide_up(width, shape.align_width) * shape.tile_width * 4
        return row if row <= U32_MAX else None
    aligned = _round_up32(width, align_width)
    if aligned is None:
        return None
    if shape.family is Family.INTEL:
        # Tiled layouts check the width after rounding, linear ones before (quirk 13).
        in_range = min_width <= aligned <= max_width
        rounded = None if divisor == 0 else _round_up32(divisor, shape.tile_width)
        if rounded is None:
            return None
        divisor = rounded
    else:
        in_range = min_width <= width <= max_width
    stride = of.stride_bytes * aligned
    if not in_range or stride > U32_MAX:
        return None
    least = _round_up32(max(stride, min_bytes_per_row), divisor)
    return least if least is not None and least <= max_bytes_per_row else None


def minimum_row_bytes(constraints: ImageFormatConstraints, width: int) -> int | None:
    """Return the minimum bytes per row that the constraints allow at this width (2.6). Un-set fields have no effect."""
    pixel_format, modifier = pair(constraints)
    if pixel_format is None or not is_supported(pixel_format, modifier):
        return None
    bpr_max = constraints.max_bytes_per_row
    return minimum_row(
        traits(pixel_format, modifier),
        width,
        min_width=constraints.min_size.width if constraints.min_size else 0,
        max_width=constraints.max_size.width if constraints.max_size else U32_MAX,
        align_width=constraints.size_alignment.width if constraints.size_alignment else 1,
        min_bytes_per_row=constraints.min_bytes_per_row or 0,
        divisor=1
        if constraints.bytes_per_row_divisor is None
        else constraints.bytes_per_row_divisor,
        max_bytes_per_row=U32_MAX if bpr_max is None else bpr_max,
    )


def pair(constraints: ImageFormatConstraints) -> tuple[int | None, int]:
    """Return the pixel format and the modifier of constraints. An un-set modifier is LINEAR."""
    modifier = constraints.pixel_format_modifier
    return constraints.pixel_format, LINEAR if modifier is None else int(modifier)


def bits_per_pixel(pixel_format: int) -> int:
    """Return the bits per pixel over all planes (1.1). Raises `KeyError` if the format is not in the linear set."""
    return PIXELS[pixel_format].bits_per_pixel
