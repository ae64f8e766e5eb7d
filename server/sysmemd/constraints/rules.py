"""The rules, and the exception for a violation inside the engine.

Every rule of `docs/spec/constraints.md` whose violation is an empty intersection is a member of :class:`Rule`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple

WidthHeight = tuple[int, int]


class Stage(enum.Enum):
    """The step that failed. The number is the section of `docs/spec/constraints.md`."""

    REQUEST = "0 size request"
    PARTICIPANT = "1 participant"
    FOLD = "2 fold"
    FINISH = "3 finish"
    AGGREGATE = "4 aggregate"
    SETTINGS = "5 settings"
    ATTACHED = "attached"


class Rule(enum.Enum):
    """A requirement. A rule of section 1 is also checked on the aggregate."""

    # 0
    NOBODY_ASKS_FOR_A_SIZE = "somebody must ask for a size"
    # 1, usage and counts
    USAGE_MISSING = "at least one usage bit must be set"
    NONE_EXCLUDES_USAGE = "usage none excludes all other usage"
    PERMIT_REQUIRES_NONE = "NONE_USAGE_PERMIT_ALLOCATION requires NONE_USAGE"
    MAX_COUNT_ZERO = "max_buffer_count must not be 0"
    MIN_COUNT_OVER_MAX = "min_buffer_count must be at most max_buffer_count"
    # 1, memory
    MIN_BYTES_OVER_MAX = "min_size_bytes must be at most max_size_bytes"
    ALIGNMENT_NEEDS_CONTIGUOUS = (
        "min_physical_base_alignment is for physically_contiguous_required only"
    )
    HEAPS_EMPTY = "permitted_heaps must not be empty"
    HEAP_TYPE_MISSING = "a heap must have a heap_type"
    CPU_USAGE_NEEDS_DOMAIN = "cpu usage requires the cpu or the ram domain to be supported"
    CPU_USAGE_FORBIDS_SECURE = "cpu usage forbids secure_required"
    SECURE_FORBIDS_DOMAIN = "secure_required forbids the cpu and the ram domain"
    SECURE_NEEDS_INACCESSIBLE = "secure_required requires the inaccessible domain to be supported"
    SECURE_NEEDS_HEAP = "secure_required requires a configured secure heap to be permitted"
    # 1, image entries
    FORMAT_MISSING = "an image entry must name a pixel format"
    MODIFIER_WITHOUT_FORMAT = "a modifier requires a pixel_format"
    FORMAT_INVALID = "pixel format and modifier must not be INVALID"
    FORMAT_UNSUPPORTED = "a specific format must be supported with its modifier"
    FORMAT_DUPLICATE = "no two image entries of one participant may be equal or combinable"
    COLOR_SPACES_MISSING = "color_spaces must be given"
    COLOR_DO_NOT_CARE_ALONE = "color space DO_NOT_CARE must be alone"
    COLOR_SPACE_UNSUPPORTED = "each color space must be supported by the format"
    POWER_OF_2 = "must be a non-zero power of 2"
    DIVISOR_ZERO = "bytes_per_row_divisor must not be 0"
    DIVISOR_OVER_32_BITS = "the common bytes_per_row_divisor must fit 32 bits"
    START_OFFSET_PAGE = "start_offset_divisor must be at most the page size"
    REQUIRED_SIZE_ZERO = "a required size must not be 0"
    REQUIRED_MIN_UNDER_MIN = "required_min_size must be at least min_size"
    REQUIRED_MAX_OVER_MAX = "a required_max_size must be at most max_size"
    PAD_FORMAT = "block padding is for specific, LINEAR, single-plane formats only"
    PAD_NEEDS_MAX_WIDTH = "block padding in height requires a max_size.width"
    MIN_SIZE_OVER_MAX = "min_size must be at most max_size"
    MIN_ROW_OVER_MAX = "min_bytes_per_row must be at most max_bytes_per_row"
    MIN_AREA_OVER_MAX = (
        "the area of min_size must be at most max_width_times_height and fit 32 bits"
    )
    # 2
    NO_COMMON_HEAP = "no heap is permitted by everybody"
    NO_COMMON_FORMAT = "no format and modifier is left that everybody takes"
    NO_COMMON_COLOR_SPACE = "no color space is left that everybody takes"
    ALPHA_CONFLICT = "is_alpha_present must not differ"
    TOO_MANY_FORMATS = "more than 512 image entries"
    # 3
    TOO_MANY_REQUIRED_SIZES = "more than 64 required_max_sizes are left"
    # 4
    NOBODY_USES = "somebody must use the buffers or permit allocation without usage"
    PAD_MAX_WIDTH_31_BITS = "block padding in height requires max_size.width < 0x80000000"
    FORMAT_LEFT_OPEN = "somebody must choose a specific pixel format and modifier"
    COLOR_SPACE_LEFT_OPEN = "somebody must choose a specific color space"
    # 5
    COUNT_ZERO = "somebody must need a buffer"
    COUNT_OVER_MAX = "the buffer count must be at most max_buffer_count"
    COUNT_OVER_128 = "a collection has at most 128 buffers"
    CONTIGUOUS_REFUSED = "this platform has no physically contiguous memory"
    NO_SECURE_HEAP = "no configured secure heap is permitted by everybody"
    NO_HEAP = "no permitted heap is configured and supports a domain that everybody supports"
    ONE_FILE_HEAP = "all handles to a buffer of this heap are one open file: all or none may write, none may be weak"
    NO_COMMON_DOMAIN = "no coherency domain is supported by everybody and by the heap"
    NO_PROTECTED_FORMAT = "no format left can live in protected memory"
    REQUIRED_SIZE_OVER_MAX = "the required image must be within max_size"
    REQUIRED_ROW = "a row of the required image must be at most max_bytes_per_row"
    REQUIRED_AREA = (
        "the required image's area must be at most max_width_times_height and fit 32 bits"
    )
    IMAGE_SIZE_UNDEFINED = "the required image's size must have a value"
    IMAGE_OVER_MAX_BYTES = "the required image must be at most max_size_bytes"
    PADDING_UNDEFINED = "the padded size must have a value"
    PADDED_OVER_MAX_BYTES = "the padded size must be at most max_size_bytes"
    BUFFER_LIMIT = "one buffer is over the limit of this daemon"
    COLLECTION_LIMIT = "all buffers together are over the limit of this daemon"
    ALLOCATION_LIMIT = "size_bytes is over the allocation limit of this daemon"
    # attached
    SETTINGS_DIFFER = "the buffers that exist must be what the result asks for"


#: Rules that are violated because no participant set something. No subset of participants causes them, and a search for
#: a smallest conflicting set ignores them.
ABSENCES = frozenset(
    {Rule.NOBODY_ASKS_FOR_A_SIZE, Rule.NOBODY_USES, Rule.FORMAT_LEFT_OPEN}
    | {Rule.COLOR_SPACE_LEFT_OPEN, Rule.COUNT_ZERO}
)


class RequiredImage(NamedTuple):
    """An image that a buffer must be able to hold."""

    width: int
    height: int
    #: The entry of required_max_size_list that asks for it; (0, 0) if the list is empty.
    required: WidthHeight
    #: 0 if the refusal came before it was computed; the same holds for the size.
    bytes_per_row: int = 0
    size_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.width}×{self.height} with {self.bytes_per_row} bytes per row"


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that an attached result would change: the existing and the requested value."""

    path: str
    existing: Any
    wanted: Any


class Breach(Exception):
    """A rule is violated. Never leaves the package.

    `fields` are names as in the tables, without indices. Names of image fields are relative to their entry, whose
    format or source is added where it is known.
    """

    def __init__(self, rule: Rule, fields: str | tuple[str, ...] = (), detail: str = "") -> None:
        super().__init__(rule, fields, detail)
        self.rule = rule
        self.fields = (fields,) if isinstance(fields, str) else fields
        self.detail = detail
        #: The image field's format; None if it is not an image field, or is one of `entry`.
        self.pair: tuple[int, int] | None = None
        #: The index of the participant's image entry; None if it is not an image field, or is one of a combined entry.
        self.entry: int | None = None
        #: The image that violates a rule about required sizes.
        self.image: RequiredImage | None = None
        self.differences: tuple[Difference, ...] = ()

    def again(self) -> Breach:
        """Return the same breach without the traceback of this one."""
        other = Breach(self.rule, self.fields, self.detail)
        other.pair, other.entry, other.image = self.pair, self.entry, self.image
        return other
