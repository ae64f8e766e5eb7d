"""Why there is no common ground, as data.

Every rule of `spec/constraints.md` whose breach is an empty intersection is a member of :class:`Rule`. A breach becomes
a :class:`Refusal`, which knows what it is about and works out the rest (who brought what, who conflicts with whom, the
report) when it is asked.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sysmem_protocol.formats import pair_name

from .words import show

if TYPE_CHECKING:
    from .entry import RequiredImage
    from .model import Allocation, Participant, Platform


class Stage(enum.Enum):
    """Where in the order of steps it failed; the number is the section of `spec/constraints.md`."""

    REQUEST = "0 size request"
    PARTICIPANT = "1 participant"
    FOLD = "2 fold"
    FINISH = "3 finish"
    AGGREGATE = "4 aggregate"
    SETTINGS = "5 settings"
    ATTACHED = "attached"


class Rule(enum.Enum):
    """What was required. A rule of section 1 is also checked on the aggregate."""

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


#: Rules whose breach is that nobody said something. No subset of participants is to blame, and a search for a
#: smallest conflicting set looks past them.
ABSENCES = frozenset(
    {Rule.NOBODY_ASKS_FOR_A_SIZE, Rule.NOBODY_USES, Rule.FORMAT_LEFT_OPEN}
    | {Rule.COLOR_SPACE_LEFT_OPEN, Rule.COUNT_ZERO}
)
#: Ways for the last common format to go while folding: which of them it was depends on the order of the fold, so that
#: they are one conflict.
_FORMAT_LOSSES = frozenset(
    {Rule.NO_COMMON_FORMAT, Rule.NO_COMMON_COLOR_SPACE, Rule.ALPHA_CONFLICT}
    | {Rule.DIVISOR_OVER_32_BITS}
)


class Breach(Exception):
    """A rule doesn't hold; never leaves the package.

    `fields` are names as in the tables, without indices; for an image field relative to its entry, whose format or
    source is added where it is known.
    """

    def __init__(self, rule: Rule, fields: str | tuple[str, ...] = (), detail: str = "") -> None:
        super().__init__(rule, fields, detail)
        self.rule = rule
        self.fields = (fields,) if isinstance(fields, str) else fields
        self.detail = detail
        #: The image fields' format; None: not an image field, or one of `entry`.
        self.pair: tuple[int, int] | None = None
        #: Index of the participant's image entry; None: not an image field, or one of a combined entry.
        self.entry: int | None = None
        #: The image that broke a rule about required sizes.
        self.image: RequiredImage | None = None
        self.differences: tuple[Difference, ...] = ()

    def again(self) -> Breach:
        """The same breach without the frames that this one was raised through."""
        other = Breach(self.rule, self.fields, self.detail)
        other.pair, other.entry, other.image = self.pair, self.entry, self.image
        return other


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that an attached result would change: what exists, and what was asked for."""

    path: str
    existing: Any
    wanted: Any

    def __str__(self) -> str:
        return f"{self.path}: {show(self.existing)} exists, {show(self.wanted)} wanted"


@dataclass(frozen=True, slots=True)
class Brought:
    """A value and the participant who brought it; the path's index is that of the table as sent."""

    participant: Participant
    path: str
    value: Any

    def __str__(self) -> str:
        return f"{self.participant} {self.path} = {show(self.value)}"


@dataclass(frozen=True, slots=True)
class Case:
    """What was aggregated, and how: enough to do it again in part."""

    participants: tuple[Participant, ...]
    platform: Platform
    #: Counts, and whether anybody uses the buffers, left out of account (GetVmoInfo).
    settings_only: bool = False
    #: What the result must equal, and whether it is an attached attempt or a check of settings.
    existing: Allocation | None = None


@dataclass(frozen=True)
class Refusal:
    """An empty intersection: CONSTRAINTS_INTERSECTION_EMPTY and its reason.

    `str()` is one line for the log, :meth:`report` the whole table. What costs further aggregations is worked out
    only when asked for, at most :data:`sysmemd.constraints.conflict.MAX_AGGREGATIONS` of them.
    """

    stage: Stage
    rule: Rule
    #: The fields involved, as in the tables, without indices.
    fields: tuple[str, ...] = ()
    #: Format and modifier of the image entry that it is about.
    pair: tuple[int, int] | None = None
    #: The numbers that broke the rule.
    detail: str = ""
    #: The participant whose own constraints break a rule (section 1); None if it takes more than one.
    participant: Participant | None = None
    #: Index of that participant's image entry, as sent.
    entry: int | None = None
    #: The required image that is too big, or can't be.
    image: RequiredImage | None = None
    #: What an attached attempt would have had to change.
    differences: tuple[Difference, ...] = ()
    case: Case = field(kw_only=True, repr=False, compare=False)

    @property
    def conflict_key(self) -> tuple[Stage, Rule, str]:
        """What makes two refusals the same conflict: the rule, and the axis if it is about one."""
        if self.stage is Stage.FOLD and self.rule in _FORMAT_LOSSES:
            return (self.stage, Rule.NO_COMMON_FORMAT, "")
        axes = {name.rpartition(".")[2] for name in self.fields} & {"width", "height"}
        one_axis = len(axes) == 1 and self.rule is not Rule.SETTINGS_DIFFER
        return (self.stage, self.rule, axes.pop() if one_axis else "")

    @property
    def wording_key(self) -> tuple[object, ...]:
        """What makes two refusals the same to somebody who reads them."""
        return (self.stage, self.rule, self.fields, self.pair)

    @cached_property
    def values(self) -> tuple[Brought, ...]:
        """The values involved, each with the participant who brought it."""
        from .involved import brought

        return brought(self)

    @property
    def path(self) -> str:
        """The first field involved: where it was sent, else where it would be. "" if it is about no field."""
        if self.values:
            return self.values[0].path
        if not self.fields:
            return ""
        index = "" if self.entry is None else f"[{self.entry}]"
        image = self.pair is not None or self.entry is not None
        return f"$.{f'image_format_constraints{index}.' if image else ''}{self.fields[0]}"

    @cached_property
    def conflict(self) -> tuple[Participant, ...]:
        """A smallest conflicting set: leaving out any one of these participants removes this conflict.

        Empty when the reason is what nobody said.
        """
        from .conflict import smallest_conflict

        return smallest_conflict(self)

    @cached_property
    def excluding(self) -> tuple[Brought, ...]:
        """The formats of those in the conflict who brought none of `values`: they keep the others from agreeing."""
        from .involved import formats_of

        named = {id(value.participant) for value in self.values}
        silent = [who for who in self.conflict if id(who) not in named]
        return formats_of(self.case, silent)

    def line(self, *, conflict: bool = True) -> str:
        """One line for the log; without `conflict` it takes no further aggregation."""
        parts = [f"{self.stage.value}: {self.rule.value}"]
        if self.pair is not None:
            parts[0] += f", {pair_name(self.pair)}"
        if self.detail:
            parts[0] += f" ({self.detail})"
        shown = self._shown(self.conflict if conflict else ())
        parts += [str(value) for value in shown]
        if len(self.values) > MAX_LINE_VALUES:
            parts.append(f"and {len(self.values) - MAX_LINE_VALUES} more")
        parts += [str(difference) for difference in self.differences[:MAX_LINE_VALUES]]
        if len(self.differences) > MAX_LINE_VALUES:
            parts.append(f"and {len(self.differences) - MAX_LINE_VALUES} more")
        if conflict:
            parts += [str(value) for value in self.excluding]
        named = {id(value.participant) for value in shown}
        # One who is to blame alone has been named with a value, as a rule.
        if conflict and (len(self.conflict) > 1 or any(id(w) not in named for w in self.conflict)):
            parts.append("conflict: " + " and ".join(str(who) for who in self.conflict))
        return "; ".join(parts)

    def _shown(self, conflict: tuple[Participant, ...]) -> list[Brought]:
        """The values of a log line: if not all, then rather those of the conflict than others, and of every field some.

        Of a field rather what is new than what exists, then the largest. The last one of all is always shown: with
        sizes it is the limit.
        """
        last = len(self.values) - 1
        to_blame = set(map(id, conflict))
        ranks = []
        for index, value in enumerate(self.values):
            who = value.participant
            rank = (id(who) not in to_blame, who.pinned, -_magnitude(value.value), index)
            ranks.append((_INDEX.sub("", value.path), rank))
        times: Counter[str] = Counter()
        order = []
        for name, rank in sorted(ranks, key=lambda named: named[1]):
            innocent, pinned, _, index = rank
            order.append((index != last, innocent, times[name], pinned, index))
            times[name] += 1
        kept = sorted(index for *_, index in sorted(order)[:MAX_LINE_VALUES])
        return [self.values[index] for index in kept]

    def __str__(self) -> str:
        return self.line()

    def report(self, width: int | None = None) -> str:
        """The full table: rows are fields, columns participants, the last column what came out, the conflict marked.

        `width` bounds a cell's text, characters.
        """
        from .report import refusal_report

        return refusal_report(self) if width is None else refusal_report(self, width)


def _magnitude(value: Any) -> int:
    return value if isinstance(value, int) else 0


#: Values named in one log line; the report has them all.
MAX_LINE_VALUES = 6
_INDEX = re.compile(r"\[\d+\]")
