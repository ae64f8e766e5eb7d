"""Each rule whose breach refuses a negotiation, with its meaning, an example, and advice.

The refusal below an example is the engine's own answer. A test proves that the example breaks that rule.
"""

# ruff: noqa: E501 - sentences of a page

from __future__ import annotations

import json
from typing import Any, NamedTuple

from sysmemd.cases import read_case
from sysmemd.constraints import Rule, Stage
from sysmemd.explaining import Diagnosis
from sysmemd.negotiation import Negotiation

Json = dict[str, Any]


class Advice(NamedTuple):
    """The page's text about one rule."""

    meaning: str
    change: str
    #: The participants of the example and, where it matters, the daemon's settings and heaps, in the form that
    #: `sysmemctl explain` reads.
    case: Json


def case(*participants: Json, **platform: Any) -> Json:
    """Return an example. The ids of its participants count from 1."""
    numbered = [
        each if "attached" in each else {"name": each["name"], "id": id, **each}
        for id, each in enumerate(participants, 1)
    ]
    return {"participants": numbered, **platform}


def who(name: str, usage: Json | None = None, **constraints: Any) -> Json:
    """Return a participant. By default it reads with the CPU."""
    used = {"usage": {"cpu": "READ"} if usage is None else usage}
    return {"name": name, "constraints": {**used, **constraints}}


def pictures(name: str, *entries: Json, usage: Json | None = None, **constraints: Any) -> Json:
    """Return a participant that holds one buffer, with image entries."""
    constraints = {"min_buffer_count_for_camping": 1, **constraints}
    return who(name, usage, **constraints, image_format_constraints=list(entries))


def image(pixel_format: Any = "R8G8B8A8", **fields: Any) -> Json:
    """Return an image entry in sRGB or, for formats that are not RGB, in Rec. 709."""
    spaces = ["REC709"] if pixel_format in ("NV12", "I420", "P010") else ["SRGB"]
    size = {} if "min_size" in fields or "max_size" in fields else {"min_size": [64, 48]}
    return {"pixel_format": pixel_format, "color_spaces": spaces, **size, **fields}


def memory(**fields: Any) -> Json:
    """Return constraints of memory, for `who(…, **memory(…))`."""
    return {"min_buffer_count_for_camping": 1, "buffer_memory_constraints": fields}


SYSTEM = "fuchsia.sysmem.heap.HEAP_TYPE.SYSTEM_RAM"
DISPLAY = {"display": "LAYER"}
SECURE_HEAP = {"type": "tee", "secure": True, "domains": ["inaccessible"]}
RGB32 = ("R8G8B8A8", "R8G8B8X8", "B8G8R8A8", "B8G8R8X8")
#: Any format in all layouts of Arm's compression, and in rows.
AFBC = [
    ["DO_NOT_CARE", base | (bits & 7) << 4 | bits >> 3 << 11]
    for base in (0x0800000000000001, 0x0800000000000002)
    for bits in range(64)
] + [["DO_NOT_CARE", "LINEAR"]]
CAMERA = pictures("camera", image("NV12"))

ADVICE: dict[Rule, Advice] = {
    Rule.NOBODY_ASKS_FOR_A_SIZE: Advice(
        "No participant said how large a buffer must be, so there is nothing to allocate.",
        "At least one participant must set `min_size_bytes`, or an image entry with a `min_size` or a required size.",
        case(who("camera", min_buffer_count_for_camping=2)),
    ),
    Rule.USAGE_MISSING: Advice(
        "A participant's constraints are not empty, but they do not say how it uses the buffers.",
        "Set at least one flag of `usage`. A participant that does not use the buffers sets `none` to NONE_USAGE, or sets no constraints at all.",
        case(CAMERA, who("viewer", {}, min_buffer_count_for_camping=1)),
    ),
    Rule.NONE_EXCLUDES_USAGE: Advice(
        "A participant says both that it does not use the buffers and how it uses them.",
        "Leave out `none`, or leave out all other usage.",
        case(CAMERA, who("viewer", {"none": "NONE_USAGE", "cpu": "READ"})),
    ),
    Rule.PERMIT_REQUIRES_NONE: Advice(
        "NONE_USAGE_PERMIT_ALLOCATION is an addition to NONE_USAGE, and has no meaning without it.",
        "Set both flags, or neither.",
        case(CAMERA, who("viewer", {"none": "NONE_USAGE_PERMIT_ALLOCATION"})),
    ),
    Rule.MAX_COUNT_ZERO: Advice(
        "A participant does not allow a single buffer.",
        "Leave `max_buffer_count` un-set, or set it to the largest number of buffers that you can handle.",
        case(who("camera", max_buffer_count=0, **memory(min_size_bytes=4096))),
    ),
    Rule.MIN_COUNT_OVER_MAX: Advice(
        "One participant needs more buffers in the collection than another allows, or one participant's own limits contradict each other.",
        "Lower the `min_buffer_count` of the participants that need many buffers, or raise or un-set the `max_buffer_count` of those that allow few.",
        case(
            who("camera", min_buffer_count=6, **memory(min_size_bytes=4096)),
            who("encoder", max_buffer_count=4),
        ),
    ),
    Rule.MIN_BYTES_OVER_MAX: Advice(
        "One participant needs larger buffers than another allows.",
        "Compare the `min_size_bytes` of the participants that need large buffers with the `max_size_bytes` of those that allow only small ones. "
        "A maximum is seldom needed: leave it un-set unless larger buffers don't work.",
        case(
            who("camera", **memory(min_size_bytes=65536)),
            who("display", buffer_memory_constraints={"max_size_bytes": 4096}),
        ),
    ),
    Rule.ALIGNMENT_NEEDS_CONTIGUOUS: Advice(
        "A participant asks for a physical alignment, but does not require physically contiguous memory.",
        "Set `physically_contiguous_required`, or leave out `min_physical_base_alignment`.",
        case(who("dma", **memory(min_size_bytes=4096, min_physical_base_alignment=65536))),
    ),
    Rule.HEAPS_EMPTY: Advice(
        "An empty list of heaps permits no heap.",
        "Leave `permitted_heaps` un-set to permit any heap, or list the heaps that are suitable.",
        case(who("camera", **memory(min_size_bytes=4096, permitted_heaps=[]))),
    ),
    Rule.HEAP_TYPE_MISSING: Advice(
        "An entry of `permitted_heaps` has an id, but no type.",
        f'Set `heap_type` of each entry. The system\'s heap is `"{SYSTEM}"` (`sysmem.SYSTEM_RAM_HEAP`).',
        case(who("camera", **memory(min_size_bytes=4096, permitted_heaps=[{"id": 1}]))),
    ),
    Rule.CPU_USAGE_NEEDS_DOMAIN: Advice(
        "A participant uses the buffers with the CPU, but supports neither of the coherency domains in which the CPU can access them.",
        "Leave `cpu_domain_supported` un-set, or set it or `ram_domain_supported` to true.",
        case(who("camera", **memory(min_size_bytes=4096, cpu_domain_supported=False))),
    ),
    Rule.CPU_USAGE_FORBIDS_SECURE: Advice(
        "A participant requires secure memory, which a CPU can't access, and also wants to use it with the CPU.",
        "Leave out the CPU usage, or leave out `secure_required`.",
        case(who("player", **memory(min_size_bytes=4096, secure_required=True))),
    ),
    Rule.SECURE_FORBIDS_DOMAIN: Advice(
        "A participant requires secure memory, and says that it supports a domain in which the CPU accesses the buffers.",
        "Leave `cpu_domain_supported` and `ram_domain_supported` un-set together with `secure_required`.",
        case(
            who(
                "decoder",
                {"video": "HW_DECODER"},
                **memory(min_size_bytes=4096, secure_required=True, ram_domain_supported=True),
            ),
            heaps=[SECURE_HEAP],
        ),
    ),
    Rule.SECURE_NEEDS_INACCESSIBLE: Advice(
        "A participant requires secure memory, but does not support INACCESSIBLE, the only domain of secure memory.",
        "Leave `inaccessible_domain_supported` un-set together with `secure_required`.",
        case(
            who(
                "decoder",
                {"video": "HW_DECODER"},
                **memory(
                    min_size_bytes=4096, secure_required=True, inaccessible_domain_supported=False
                ),
            ),
            heaps=[SECURE_HEAP],
        ),
    ),
    Rule.SECURE_NEEDS_HEAP: Advice(
        "A participant requires secure memory, but the daemon has no secure heap that the participant permits.",
        "Configure a secure heap: `[[heap]]` with `secure = true`. If there is one, list its type in `permitted_heaps`.",
        case(
            who(
                "decoder",
                {"video": "HW_DECODER"},
                **memory(min_size_bytes=4096, secure_required=True),
            )
        ),
    ),
    Rule.FORMAT_MISSING: Advice(
        "An image entry has no pixel format.",
        "Set `pixel_format`, or list formats in `pixel_format_and_modifiers`.",
        case(pictures("camera", {"color_spaces": ["SRGB"], "min_size": [64, 48]})),
    ),
    Rule.MODIFIER_WITHOUT_FORMAT: Advice(
        "An image entry has a layout (`pixel_format_modifier`), but no pixel format for this layout.",
        "Set `pixel_format` too, or move the pair to `pixel_format_and_modifiers`.",
        case(
            pictures(
                "gpu",
                {
                    "pixel_format_modifier": "LINEAR",
                    "pixel_format_and_modifiers": [["R8G8B8A8", "LINEAR"]],
                    "color_spaces": ["SRGB"],
                    "min_size": [64, 48],
                },
            )
        ),
    ),
    Rule.FORMAT_INVALID: Advice(
        "INVALID stands for no format, so a participant can't ask for it.",
        "Name a format, or use DO_NOT_CARE if any format is suitable.",
        case(pictures("camera", image("INVALID"))),
    ),
    Rule.FORMAT_UNSUPPORTED: Advice(
        "This pixel format does not exist in this layout, or sysmem does not know its sizes.",
        "Find the modifiers of each format in [image formats](spec/image-formats.md#13-pixelformatmodifier-flexible-enum-uint64-top-8-bits-vendor). "
        "LINEAR works with all formats except MJPEG.",
        case(pictures("gpu", image("NV12", pixel_format_modifier="ARM_AFBC_16X16"))),
    ),
    Rule.FORMAT_DUPLICATE: Advice(
        "Two entries of one participant apply to the same format, so it is not clear which of them counts. An entry with "
        "DO_NOT_CARE applies to all formats.",
        "Merge the entries, or make their formats differ.",
        case(pictures("camera", image("NV12"), image("NV12", min_size=[128, 96]))),
    ),
    Rule.COLOR_SPACES_MISSING: Advice(
        "An image entry has no colour spaces.",
        "Set `color_spaces`. `[DO_NOT_CARE]` accepts any colour space that another participant chooses.",
        case(pictures("camera", {"pixel_format": "NV12", "min_size": [64, 48]})),
    ),
    Rule.COLOR_DO_NOT_CARE_ALONE: Advice(
        "DO_NOT_CARE accepts every colour space, so other entries beside it have no meaning.",
        "List DO_NOT_CARE alone, or remove it and list the colour spaces that are suitable.",
        case(pictures("viewer", image("NV12", color_spaces=["DO_NOT_CARE", "REC709"]))),
    ),
    Rule.COLOR_SPACE_UNSUPPORTED: Advice(
        "The format does not support the colour space: SRGB is for RGB, REC601, REC709 and others are for YUV, and REC2020 and "
        "REC2100 need more than 8 bits.",
        "Use a colour space of the format's kind, or PASSTHROUGH.",
        case(pictures("camera", image("NV12", color_spaces=["SRGB"]))),
    ),
    Rule.POWER_OF_2: Advice(
        "Alignments of sizes, of offsets and of physical memory must be powers of 2.",
        "Use the next greater power of 2. `bytes_per_row_divisor` may be any number but 0.",
        case(pictures("display", image(size_alignment=[48, 1]))),
    ),
    Rule.DIVISOR_ZERO: Advice(
        "Rows can't be a multiple of 0 bytes.",
        "Leave `bytes_per_row_divisor` un-set, or set it to 1 or more.",
        case(pictures("display", image(bytes_per_row_divisor=0))),
    ),
    Rule.DIVISOR_OVER_32_BITS: Advice(
        "Rows must be a common multiple of several numbers: your `bytes_per_row_divisor`, what the format needs, and whole pixels or "
        "blocks where they are required. The least common multiple is too large.",
        "Use divisors with more common factors, such as powers of 2.",
        case(pictures("display", image("R5G6B5", bytes_per_row_divisor=4294967291))),
    ),
    Rule.START_OFFSET_PAGE: Advice(
        "An image begins at an offset within a page, so its alignment is at most a page.",
        "Lower `start_offset_divisor` to 4096 or less.",
        case(pictures("display", image(start_offset_divisor=8192))),
    ),
    Rule.REQUIRED_SIZE_ZERO: Advice(
        "A required size has no width or no height.",
        "Leave out the required size, or set width and height to at least 1.",
        case(pictures("encoder", image(required_max_size_list=[[0, 48]]))),
    ),
    Rule.REQUIRED_MIN_UNDER_MIN: Advice(
        "One participant requires smaller images than another allows.",
        "Lower `min_size`, or raise `required_min_size`.",
        case(
            pictures("camera", image(min_size=[640, 480])),
            pictures("scaler", image(min_size=[1, 1], required_min_size=[320, 240])),
        ),
    ),
    Rule.REQUIRED_MAX_OVER_MAX: Advice(
        "One participant requires larger images than another allows.",
        "Raise the `max_size` of one participant, or lower the required size of the other.",
        case(
            pictures("camera", image(required_max_size=[1920, 1080])),
            pictures("display", image(max_size=[1280, 720])),
        ),
    ),
    Rule.PAD_FORMAT: Advice(
        "Padding for whole blocks is defined only for a specific format with one plane and the layout LINEAR.",
        "Leave `pad_for_block_size` out for this format, or ask for more bytes with `pad_beyond_image_size_bytes`.",
        case(pictures("gpu", image("NV12", pad_for_block_size=[4, 4]))),
    ),
    Rule.PAD_NEEDS_MAX_WIDTH: Advice(
        "Padding for blocks of several rows grows with the width, so the width needs a limit.",
        "Set `max_size` in the entry that has `pad_for_block_size`.",
        case(pictures("gpu", image(pad_for_block_size=[4, 4]))),
    ),
    Rule.MIN_SIZE_OVER_MAX: Advice(
        "One participant needs larger images than another allows. Alignment counts too: minima are rounded up, maxima down.",
        "Compare the `min_size`, `max_size` and `size_alignment` of the participants in conflict.",
        case(
            pictures("camera", image("NV12", min_size=[1920, 1080])),
            pictures("display", image("NV12", max_size=[1280, 720])),
        ),
    ),
    Rule.MIN_ROW_OVER_MAX: Advice(
        "One participant needs longer rows than another allows. A row is at least as long as the pixels of `min_size.width`, and a multiple of all "
        "divisors; `max_bytes_per_row` is rounded down to such a multiple, so 600 counts as 576 if the divisor is 64.",
        "Compare `min_bytes_per_row`, `bytes_per_row_divisor` and `min_size` with `max_bytes_per_row`.",
        case(
            pictures("gpu", image(min_bytes_per_row=512)),
            pictures("display", image(max_bytes_per_row=256)),
        ),
    ),
    Rule.MIN_AREA_OVER_MAX: Advice(
        "The smallest image that suits all participants has more pixels than one of them allows, or than 32 bits can count.",
        "Lower `min_size`, or raise `max_width_times_height`.",
        case(
            pictures("camera", image(min_size=[1920, 1080])),
            pictures("encoder", image(max_width_times_height=921600)),
        ),
    ),
    Rule.NO_COMMON_HEAP: Advice(
        "No heap is permitted by all participants.",
        "Let all participants permit a common heap. A participant that can use any memory leaves `permitted_heaps` un-set.",
        case(
            who("camera", **memory(min_size_bytes=4096, permitted_heaps=[{"heap_type": "cma"}])),
            who("gpu", buffer_memory_constraints={"permitted_heaps": [{"heap_type": "vram"}]}),
        ),
    ),
    Rule.NO_COMMON_FORMAT: Advice(
        "No format is in the lists of all participants. Formats are equal only if their modifiers are equal too.",
        "Add a format to one of the lists, or add a participant that converts. The report lists each format with the participants that do not "
        "accept it.",
        case(pictures("camera", image("NV12")), pictures("display", image("B8G8R8A8"))),
    ),
    Rule.NO_COMMON_COLOR_SPACE: Advice(
        "All participants can use the format, but they have no colour space in common.",
        "Add a colour space to one of the lists. A participant that does not interpret colours sets `[DO_NOT_CARE]`.",
        case(
            pictures("camera", image("NV12", color_spaces=["REC709"])),
            pictures("encoder", image("NV12", color_spaces=["REC601_PAL"])),
        ),
    ),
    Rule.ALPHA_CONFLICT: Advice(
        "One participant uses the fourth channel as alpha, and another ignores it.",
        "Leave `is_alpha_present` un-set if both are suitable.",
        case(
            pictures("drawing", image(is_alpha_present=True)),
            pictures("display", image(is_alpha_present=False)),
        ),
    ),
    Rule.TOO_MANY_FORMATS: Advice(
        "When wildcards of one side were filled in from the lists of the other, there were more than 512 combinations.",
        "In place of DO_NOT_CARE, list the formats that you really use.",
        case(
            pictures(
                "gpu",
                *(image(name, pixel_format_modifier="DO_NOT_CARE") for name in RGB32),
            ),
            pictures(
                "anything",
                *(
                    {"color_spaces": ["SRGB"], "pixel_format_and_modifiers": pairs}
                    for pairs in (AFBC[:64], AFBC[64:128], AFBC[128:])
                ),
            ),
        ),
    ),
    Rule.TOO_MANY_REQUIRED_SIZES: Advice(
        "The participants require more than 64 sizes that do not cover each other.",
        "Require the largest sizes only. A size covers every other size that is neither wider nor higher.",
        case(
            pictures("wide", image(required_max_size_list=[[i, 500 - i] for i in range(100, 140)])),
            pictures("high", image(required_max_size_list=[[i, 500 - i] for i in range(200, 240)])),
        ),
    ),
    Rule.NOBODY_USES: Advice(
        "All participants say that they don't use the buffers.",
        "At least one participant must have a usage. To allocate buffers although nobody uses them, one participant sets "
        "NONE_USAGE_PERMIT_ALLOCATION beside NONE_USAGE.",
        case(who("planner", {"none": "NONE_USAGE"}, **memory(min_size_bytes=4096))),
    ),
    Rule.PAD_MAX_WIDTH_31_BITS: Advice(
        "Padding for blocks of several rows is defined only for widths below 2^31.",
        "Lower `max_size`.",
        case(
            pictures(
                "gpu",
                image("R8", max_size=[2147483648, 4], min_size=[4, 4], pad_for_block_size=[1, 4]),
            )
        ),
    ),
    Rule.FORMAT_LEFT_OPEN: Advice(
        "All participants accept any format, so none of them chose one.",
        "At least one participant must name formats and layouts.",
        case(pictures("viewer", image("DO_NOT_CARE", color_spaces=["DO_NOT_CARE"]))),
    ),
    Rule.COLOR_SPACE_LEFT_OPEN: Advice(
        "All participants accept any colour space, so none of them chose one.",
        "At least one participant must name colour spaces, usually the one that writes the pixels.",
        case(pictures("camera", image("NV12", color_spaces=["DO_NOT_CARE"]))),
    ),
    Rule.COUNT_ZERO: Advice(
        "No participant needs a buffer.",
        "Set the number of buffers that you hold at a time: `min_buffer_count_for_camping`, or `hold=` in `sysmem.constraints`.",
        case(who("camera", buffer_memory_constraints={"min_size_bytes": 4096})),
    ),
    Rule.COUNT_OVER_MAX: Advice(
        "Together the participants need more buffers than one of them allows.",
        "The number of buffers is the sum of what all participants hold (camping), of their dedicated slack, and of the greatest shared slack. "
        "Lower one of these, or raise `max_buffer_count`. For a participant that attaches later, the limit is the number of existing buffers: "
        "reserve more ([how](howto/spare-buffers.md)).",
        case(
            who("camera", **{**memory(min_size_bytes=4096), "min_buffer_count_for_camping": 3}),
            who("encoder", min_buffer_count_for_camping=2, max_buffer_count=4),
        ),
    ),
    Rule.COUNT_OVER_128: Advice(
        "A collection has at most 128 buffers.",
        "Lower the number of buffers that participants hold at a time. For many small objects, use parts of fewer large buffers.",
        case(who("pool", **{**memory(min_size_bytes=4096), "min_buffer_count_for_camping": 200})),
    ),
    Rule.CONTIGUOUS_REFUSED: Advice(
        "The daemon is configured not to simulate contiguous memory, and has no contiguous heap.",
        'Configure a contiguous dma-heap ([devices](devices.md)), or set `memory.contiguous` to `"simulated"` if no device will use '
        "the physical address.",
        case(
            who("dma", **memory(min_size_bytes=4096, physically_contiguous_required=True)),
            memory={"contiguous": "refuse"},
        ),
    ),
    Rule.NO_SECURE_HEAP: Advice(
        "A participant requires secure memory, but another participant does not permit the secure heap.",
        "Add the secure heap to the other participants' `permitted_heaps`, or leave `permitted_heaps` un-set.",
        case(
            who(
                "decoder",
                {"video": "HW_DECODER"},
                **memory(min_size_bytes=4096, secure_required=True),
            ),
            who(
                "display",
                DISPLAY,
                buffer_memory_constraints={"permitted_heaps": [{"heap_type": SYSTEM}]},
            ),
            heaps=[SECURE_HEAP],
        ),
    ),
    Rule.NO_HEAP: Advice(
        "The heaps that all participants permit are not configured in this daemon, or support none of the participants' domains.",
        "Check the spelling of the heap's type and id, and the daemon's `[[heap]]` sections (`sysmemctl dump` lists its heaps).",
        case(who("camera", **memory(min_size_bytes=4096, permitted_heaps=[{"heap_type": "vram"}]))),
    ),
    Rule.ONE_FILE_HEAP: Advice(
        "In a heap of dma-bufs, all handles to a buffer are one open file. So either all participants can write or none, and weak participants "
        "can't be together with strong ones.",
        "Give all participants a usage that writes, or give all of them rights without WRITE; or permit another heap.",
        case(
            who(
                "camera",
                {"cpu": "WRITE"},
                **memory(min_size_bytes=4096, permitted_heaps=[{"heap_type": "dma"}]),
            ),
            who("viewer", min_buffer_count_for_camping=1),
            heaps=[{"type": "dma", "one_file": True}],
        ),
    ),
    Rule.NO_COMMON_DOMAIN: Advice(
        "A coherency domain defines how the CPU and devices see each other's writes. No domain is supported by all participants and by the heap.",
        "Leave the three fields `…_domain_supported` un-set unless you have a reason to set them. CPU usage needs the CPU or the RAM domain.",
        case(
            who("viewer", **memory(min_size_bytes=4096)),
            who(
                "gpu",
                {"vulkan": "IMAGE_SAMPLED"},
                buffer_memory_constraints={"cpu_domain_supported": False},
            ),
        ),
    ),
    Rule.NO_PROTECTED_FORMAT: Advice(
        "The memory is secure, and none of the remaining formats can be used in secure memory.",
        "Add a format without transaction elimination (the modifiers with `_TE`).",
        case(
            pictures(
                "gpu",
                image("B8G8R8A8", pixel_format_modifier="ARM_LINEAR_TE"),
                usage=DISPLAY,
                buffer_memory_constraints={"secure_required": True},
            ),
            heaps=[SECURE_HEAP],
        ),
    ),
    Rule.REQUIRED_SIZE_OVER_MAX: Advice(
        "A required image, rounded up to the alignments of all participants, is larger than one of them allows.",
        "Raise `max_size`, or use a `size_alignment` that divides the required size.",
        case(
            pictures("camera", image(min_size=[1, 1], required_max_size=[4294967295, 48])),
            pictures("gpu", image(min_size=[1, 1], size_alignment=[16, 16])),
        ),
    ),
    Rule.REQUIRED_ROW: Advice(
        "A row of a required image, with all alignments, is longer than one participant allows.",
        "Raise `max_bytes_per_row`, or lower the required width or the divisors.",
        case(
            pictures("camera", image("R8", min_size=[1, 1], required_max_size=[640, 480])),
            pictures("display", image("R8", min_size=[1, 1], max_bytes_per_row=512)),
        ),
    ),
    Rule.REQUIRED_AREA: Advice(
        "A required image has more pixels than one participant allows, or than 32 bits can count.",
        "Raise `max_width_times_height`, or lower the required size.",
        case(
            pictures("camera", image("R8", min_size=[1, 1], required_max_size=[1920, 1080])),
            pictures("encoder", image("R8", min_size=[1, 1], max_width_times_height=921600)),
        ),
    ),
    Rule.IMAGE_SIZE_UNDEFINED: Advice(
        "The size of a required image in bytes can't be computed: a plane has 4 GiB or more, or a sum does not fit 64 bits.",
        "Lower the required size.",
        case(
            pictures(
                "gpu",
                image(
                    "B8G8R8A8",
                    pixel_format_modifier="INTEL_I915_X_TILED",
                    required_max_size=[1024, 1048576],
                ),
            )
        ),
    ),
    Rule.IMAGE_OVER_MAX_BYTES: Advice(
        "A required image, or the smallest image that suits all participants, has more bytes than one of them allows.",
        "Raise or leave out `max_size_bytes`, or lower sizes and alignments.",
        case(
            pictures("camera", image("NV12", min_size=[1920, 1080])),
            who("pool", buffer_memory_constraints={"max_size_bytes": 1048576}),
        ),
    ),
    Rule.PADDING_UNDEFINED: Advice(
        "The padding for whole blocks can't be computed, because a size does not fit its number of bits.",
        "Lower `pad_for_block_size` or the sizes.",
        case(
            pictures(
                "gpu",
                image(
                    "R8",
                    min_size=[1, 2147483649],
                    max_size=[1, 4294967295],
                    pad_for_block_size=[1, 2147483648],
                ),
            ),
            limits={"max_buffer_bytes": 1 << 40, "max_collection_bytes": 1 << 41},
        ),
    ),
    Rule.PADDED_OVER_MAX_BYTES: Advice(
        "With the padding that one participant needs, a buffer is larger than another participant allows.",
        "Raise or leave out `max_size_bytes`, or lower the padding.",
        case(
            pictures("gpu", image("R8", min_size=[64, 64], pad_beyond_image_size_bytes=4096)),
            who("pool", buffer_memory_constraints={"max_size_bytes": 4096}),
        ),
    ),
    Rule.BUFFER_LIMIT: Advice(
        "A buffer is larger than the daemon allows: 256 MiB unless it is configured otherwise.",
        "Ask for smaller buffers, or have `limits.max_buffer_bytes` raised.",
        case(who("model", **memory(min_size_bytes=1 << 29))),
    ),
    Rule.COLLECTION_LIMIT: Advice(
        "All buffers together are larger than the daemon allows for a collection: 1 GiB unless it is configured otherwise.",
        "Hold fewer buffers, ask for smaller ones, or have `limits.max_collection_bytes` raised.",
        case(who("pool", **{**memory(min_size_bytes=1 << 27), "min_buffer_count_for_camping": 16})),
    ),
    Rule.ALLOCATION_LIMIT: Advice(
        "The daemon is configured to refuse buffers of this size (`limits.max_allocation_bytes`).",
        "Ask for smaller buffers, or have the limit raised.",
        case(
            who("camera", **memory(min_size_bytes=1 << 20)),
            limits={"max_allocation_bytes": 65536},
        ),
    ),
    Rule.SETTINGS_DIFFER: Advice(
        "A participant that attaches, or a VMO to match, does not fit the existing buffers.",
        "Leave out what you don't need: an attached participant takes the buffers as they are. If the buffers must suit later participants, "
        "the first participants must include that in their constraints.",
        case(
            pictures("camera", image("NV12"), **memory(min_size_bytes=65536), min_buffer_count=4),
            {"attached": [pictures("gpu", image("NV12", bytes_per_row_divisor=256))]},
        ),
    ),
}


def refusal(advice: Advice) -> Diagnosis:
    """Return the engine's refusal of an example."""
    members, platform = read_case(advice.case)
    attempt = Negotiation(members, platform).attempt
    assert attempt.refused, "the participants agree"
    refused = attempt.refused[0].refusal
    assert isinstance(refused, Diagnosis)
    return refused


INTRODUCTION = """\
# Why did it fail?

A negotiation fails with CONSTRAINTS_INTERSECTION_EMPTY if one of these rules is broken. The text of the error begins with the step and the
rule ([find out why](howto/why.md)). Search this page for the text of the rule. For each rule, the page has the meaning, an example with the
daemon's answer, and what to change.

To try an example, or a change of it, save it as `case.json` and run `sysmemctl explain case.json`. That needs no daemon. For a collection of your
own, `sysmemctl export NAME > case.json` writes such a file.

Other errors: **NO_MEMORY** means that memory, descriptors or a quota ran out; the reason names which. **TOO_MANY_GROUP_CHILD_COMBINATIONS**
means that none of the tried combinations of the groups' choices was possible ([groups](concepts/groups.md)). **PROTOCOL_DEVIATION** and a channel that
closes mean that a message broke a rule of the [protocol](protocol.md#what-bad-input-gets).

The steps are those of the [specification](spec/constraints.md).
"""

STAGES = {
    Stage.REQUEST: "Before all else",
    Stage.PARTICIPANT: "What one participant says",
    Stage.FOLD: "What several say together",
    Stage.FINISH: "Required sizes",
    Stage.AGGREGATE: "Checks of the whole",
    Stage.SETTINGS: "Choosing the settings",
    Stage.ATTACHED: "Joining what exists",
}


#: The first rule of each step.
SECTIONS = {
    Rule.NOBODY_ASKS_FOR_A_SIZE: Stage.REQUEST,
    Rule.USAGE_MISSING: Stage.PARTICIPANT,
    Rule.NO_COMMON_HEAP: Stage.FOLD,
    Rule.TOO_MANY_REQUIRED_SIZES: Stage.FINISH,
    Rule.NOBODY_USES: Stage.AGGREGATE,
    Rule.COUNT_ZERO: Stage.SETTINGS,
    Rule.SETTINGS_DIFFER: Stage.ATTACHED,
}


def pretty(data: Any, indent: int = 0, before: int = 0) -> str:
    """Return JSON in which each value that fits is on one line, after `indent` spaces and `before` other characters."""
    line = json.dumps(data)
    if indent + before + len(line) <= 98 or not isinstance(data, dict | list) or not data:
        return line
    inner = " " * (indent + 2)
    if isinstance(data, dict):
        keys = [f"{json.dumps(key)}: " for key in data]
        values = zip(keys, data.values(), strict=True)
        items = [key + pretty(value, indent + 2, len(key)) for key, value in values]
    elif all(isinstance(each, list) for each in data):
        return line
    else:
        items = [pretty(each, indent + 2) for each in data]
    opening, closing = "{}" if isinstance(data, dict) else "[]"
    return (
        opening + "\n" + ",\n".join(inner + item for item in items) + f"\n{' ' * indent}{closing}"
    )


def page() -> str:
    """Return the page, with the rules in the order in which they are declared."""
    parts = [INTRODUCTION]
    for rule in Rule:
        advice = ADVICE[rule]
        found = refusal(advice)
        if rule in SECTIONS:
            parts.append(f"## {STAGES[SECTIONS[rule]]}\n")
        parts.append(
            f"### {rule.value}\n\n{advice.meaning}\n\n"
            f"```json\n{pretty(advice.case)}\n```\n\n"
            f"```text\n{found.line()}\n```\n\n"
            f"**What to change.** {advice.change}\n\n`{rule.name}`\n"
        )
    return "\n".join(parts)
