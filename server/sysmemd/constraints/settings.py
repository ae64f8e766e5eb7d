"""Chooses the settings from the combined constraints (`docs/spec/constraints.md`, section 5)."""

from __future__ import annotations

from collections.abc import Callable

from sysmem_protocol.formats import is_compatible_with_protected_memory, traits
from sysmem_protocol.images2 import PixelFormat, PixelFormatModifier
from sysmem_protocol.sizes import U32_MAX, image_size, round_up
from sysmem_protocol.sysmem2 import (
    AllocatedHeap,
    BufferMemorySettings,
    ImageFormatSettings,
    SingleBufferSettings,
)

from ..pause import giving_way
from .cost import format_cost
from .entry import (
    HEIGHT_FIELDS,
    PAD_FIELDS,
    ROW_FIELDS,
    SIZE_FIELDS,
    WIDTH_FIELDS,
    Entry,
    delivered_terms,
)
from .heaps import CONTIGUOUS, choose_domain, choose_heap, contiguous_heap, heap_fields
from .model import MAX_BUFFER_COUNT, HeapProperties, Platform
from .normalise import Needs
from .padding import padded_size
from .rules import Breach, RequiredImage, Rule, WidthHeight
from .terms import fields_of

_MEMORY = "buffer_memory_constraints"
COUNT_FIELDS = (
    "min_buffer_count_for_camping",
    "min_buffer_count_for_dedicated_slack",
    "min_buffer_count_for_shared_slack",
    "min_buffer_count",
)


def choose_settings(
    total: Needs,
    platform: Platform,
    *,
    settings_only: bool = False,
    tolerate_absence: bool = False,
) -> tuple[SingleBufferSettings, int]:
    """Return the settings with every field set, and the buffer count. Raises `Breach` if there are none.

    With `settings_only` the count is one; with `tolerate_absence` it is at least one.
    """
    count = 1 if settings_only else buffer_count(total, tolerate_absence=tolerate_absence)
    if (
        total.contiguous
        and platform.contiguous == "refuse"
        and contiguous_heap(total, platform) is None
    ):
        raise Breach(Rule.CONTIGUOUS_REFUSED, CONTIGUOUS)
    heap = choose_heap(total, platform)
    domain = choose_domain(total, heap)
    entry = choose_format(total, heap, platform) if total.entries else None
    size = padded = total.min_size_bytes
    #: The fields that determine the size.
    fields: tuple[str, ...] = (f"{_MEMORY}.min_size_bytes",)
    wrong: _Wrong = Breach
    if entry is not None:
        image = largest_image(entry)
        wrong = _about(entry, image)
        if image.size_bytes > total.max_size_bytes:
            too_big = (*SIZE_FIELDS, f"{_MEMORY}.max_size_bytes")
            detail = f"{image}, {image.size_bytes} bytes > {total.max_size_bytes}"
            raise wrong(Rule.IMAGE_OVER_MAX_BYTES, too_big, detail)
        if image.size_bytes > size:
            fields = SIZE_FIELDS
        elif image.size_bytes == size:
            fields = (*fields, *SIZE_FIELDS)
        size = max(size, image.size_bytes)
        padded = _padded(size, entry, total, fields, wrong)
    counts = () if settings_only else count_fields(total)
    _check_limits(size, padded, count, platform, fields, counts, wrong)
    buffer_settings = BufferMemorySettings(
        size_bytes=size,
        is_physically_contiguous=total.contiguous,
        is_secure=total.secure,
        coherency_domain=domain,
        heap=AllocatedHeap(heap_type=heap.heap_type, id=heap.id),
        raw_vmo_size=round_up(padded, platform.page_size),
    )
    image_format = None if entry is None else _delivered(entry)
    settings = SingleBufferSettings(
        buffer_settings=buffer_settings, image_format_constraints=image_format
    )
    return settings, count


def buffer_count(total: Needs, *, tolerate_absence: bool = False) -> int:
    """Return the buffer count (5.1): what all participants keep plus slack, and at least min_buffer_count."""
    count = max(kept_and_slack(total), total.min_buffer_count)
    if count == 0 and not tolerate_absence:
        raise Breach(Rule.COUNT_ZERO, COUNT_FIELDS)
    if count > total.max_buffer_count:
        detail = f"{count} > {total.max_buffer_count}"
        raise Breach(Rule.COUNT_OVER_MAX, (*count_fields(total), "max_buffer_count"), detail)
    if count > MAX_BUFFER_COUNT:
        raise Breach(Rule.COUNT_OVER_128, count_fields(total), f"{count} > {MAX_BUFFER_COUNT}")
    return max(count, 1)


def kept_and_slack(total: Needs) -> int:
    """Return the number of buffers that the participants keep, and the slack."""
    return total.camping + total.dedicated_slack + total.shared_slack


def count_fields(total: Needs) -> tuple[str, ...]:
    """Return the fields that determine the count: those of the larger of both numbers."""
    kept = kept_and_slack(total)
    if kept == total.min_buffer_count:
        return COUNT_FIELDS
    return COUNT_FIELDS[:3] if kept > total.min_buffer_count else COUNT_FIELDS[3:]


def choose_format(total: Needs, heap: HeapProperties, platform: Platform) -> Entry:
    """Return the cheapest format that is possible in the heap (5.4). Ties are resolved by format, then modifier."""
    possible = [
        entry
        for entry in giving_way(total.entries, 64)
        if not heap.secure or is_compatible_with_protected_memory(entry.modifier)
    ]
    if not possible:
        fields = (*heap_fields(total, heap), "pixel_format")
        raise Breach(Rule.NO_PROTECTED_FORMAT, fields, f"heap {heap.heap_type} is secure")

    def rank(entry: Entry) -> tuple[float, int, int]:
        cost = format_cost(platform.cost_index, *entry.pair, total.usage)
        return (cost, entry.pixel_format, entry.modifier)

    return min(giving_way(possible), key=rank)


def largest_image(entry: Entry) -> RequiredImage:
    """Return the image with the most bytes among the required ones (5.5)."""
    sizes = entry.terms.required_max_sizes or ((0, 0),)
    return max(
        (_required_image(entry, size) for size in giving_way(sizes)), key=lambda i: i.size_bytes
    )


def _required_image(entry: Entry, required: WidthHeight) -> RequiredImage:
    t = entry.terms
    of = traits(*entry.pair)
    width = round_up(max(t.min_width, required[0]), t.align_width)
    height = round_up(max(t.min_height, required[1]), t.align_height)
    wrong = _about(entry, RequiredImage(width, height, required))
    fields: tuple[str, ...]
    if width > t.max_width:
        fields = (*WIDTH_FIELDS, "max_size.width")
        raise wrong(Rule.REQUIRED_SIZE_OVER_MAX, fields, f"{width} > {t.max_width}")
    if height > t.max_height:
        fields = (*HEIGHT_FIELDS, "max_size.height")
        raise wrong(Rule.REQUIRED_SIZE_OVER_MAX, fields, f"{height} > {t.max_height}")
    row = round_up(max(of.stride_bytes * width, t.min_bytes_per_row), t.bytes_per_row_divisor)
    wrong = _about(entry, RequiredImage(width, height, required, row))
    if row > t.max_bytes_per_row:
        fields = (*ROW_FIELDS, "max_bytes_per_row")
        raise wrong(Rule.REQUIRED_ROW, fields, f"{row} > {t.max_bytes_per_row}")
    limit = min(U32_MAX, t.max_width_times_height)
    if width * height > limit:
        fields = (*WIDTH_FIELDS, *HEIGHT_FIELDS, "max_width_times_height")
        raise wrong(Rule.REQUIRED_AREA, fields, f"{width}×{height} > {limit}")
    size = image_size(*entry.pair, width, height, row)
    if size is None:
        raise wrong(Rule.IMAGE_SIZE_UNDEFINED, SIZE_FIELDS, f"{width}×{height}, row {row}")
    return RequiredImage(width, height, required, row, size)


#: Creates the breach of a rule by some fields, with details.
_Wrong = Callable[[Rule, tuple[str, ...], str], Breach]


def _about(entry: Entry, image: RequiredImage | None = None) -> _Wrong:
    """Return a function that creates breaches about an entry and the image that it requires."""

    def wrong(rule: Rule, fields: tuple[str, ...], detail: str) -> Breach:
        breach = Breach(rule, fields, detail)
        breach.pair, breach.image = entry.pair, image
        return breach

    return wrong


def _padded(size: int, entry: Entry, total: Needs, fields: tuple[str, ...], wrong: _Wrong) -> int:
    """Return `size` with the padding that the entry asks for (5.6). The paddings overlap, so the larger one counts.

    `fields` are those that determine the size.
    """
    t = entry.terms
    padded = size + t.pad_beyond
    if t.pad_width > 1 or t.pad_height > 1:
        blocks = padded_size(size, t, traits(*entry.pair))
        if blocks is None:
            detail = f"{t.pad_width}×{t.pad_height} for {size} bytes"
            raise wrong(Rule.PADDING_UNDEFINED, (*PAD_FIELDS, *fields), detail)
        padded = max(padded, blocks)
    if padded > total.max_padded_bytes:
        too_big = (*PAD_FIELDS, *fields, f"{_MEMORY}.max_size_bytes")
        raise wrong(Rule.PADDED_OVER_MAX_BYTES, too_big, f"{padded} > {total.max_padded_bytes}")
    return padded


def _check_limits(
    size: int,
    padded: int,
    count: int,
    platform: Platform,
    fields: tuple[str, ...],
    counts: tuple[str, ...],
    wrong: _Wrong,
) -> None:
    """Check the limits of this daemon (5.7). `fields` determine the size, and `counts` the count."""
    padded_fields = (*fields, *PAD_FIELDS) if padded > size else fields
    if padded > platform.max_buffer_bytes:
        detail = f"{padded} > {platform.max_buffer_bytes}"
        raise wrong(Rule.BUFFER_LIMIT, padded_fields, detail)
    if padded * count > platform.max_collection_bytes:
        detail = f"{padded} × {count} > {platform.max_collection_bytes}"
        raise wrong(Rule.COLLECTION_LIMIT, (*padded_fields, *counts), detail)
    if platform.max_allocation_bytes is not None and size > platform.max_allocation_bytes:
        detail = f"{size} > {platform.max_allocation_bytes}"
        raise wrong(Rule.ALLOCATION_LIMIT, fields, detail)


def _delivered(entry: Entry) -> ImageFormatSettings:
    """Return the combined constraints as participants get them: every field set except an open is_alpha_present."""
    return ImageFormatSettings(
        pixel_format=PixelFormat(entry.pixel_format),
        pixel_format_modifier=_modifier(entry.modifier),
        **fields_of(delivered_terms(entry)),
    )


def _modifier(number: int) -> PixelFormatModifier | int:
    """Return a member if the number has a name, because AFBC allows combinations of bits without a name."""
    try:
        return PixelFormatModifier(number)
    except ValueError:
        return number
