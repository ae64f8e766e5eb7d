"""Enums and flags of `fuchsia.sysmem2` (`docs/spec/protocol.md`, "Enums and flags").

All of them are flexible: a number without a name is passed on as a plain integer. If a table has flags, the flags of
all participants are combined by "or".
"""

from __future__ import annotations

import enum

from ..docstrings import documented


@documented
class Error(enum.IntEnum):
    """Why a call failed."""

    INVALID = 0
    """No error at all: the daemon never sends this number."""
    UNSPECIFIED = 1
    """A failure that no other member describes. The daemon's log says more."""
    PROTOCOL_DEVIATION = 2
    """The request is not what the protocol allows, for example a descriptor of the wrong kind."""
    NOT_FOUND = 3
    """The daemon does not know the object: a VMO that it did not allocate, or a node of another collection."""
    HANDLE_ACCESS_DENIED = 4
    """The caller is not permitted to do this with what it passed."""
    NO_MEMORY = 5
    """The participants agreed, but the buffers could not be allocated: memory or descriptors were exhausted."""
    CONSTRAINTS_INTERSECTION_EMPTY = 6
    """No settings satisfy all participants. The daemon's log names the rule, the values and the participants."""
    PENDING = 7
    """The allocation was not attempted yet, because not every participant is ready."""
    TOO_MANY_GROUP_CHILD_COMBINATIONS = 8
    """The daemon tried as many combinations of group children as its settings allow (64), and none succeeded."""
    NO_MORE_STRONG_VMO_HANDLES = 9
    """Only weak handles to the buffer are left, so the daemon makes no further one."""


@documented
class CoherencyDomain(enum.IntEnum):
    """How the CPU and devices see each other's writes to a buffer."""

    CPU = 0
    """The CPU reads and writes through its caches, and devices see the same data without cache maintenance."""
    RAM = 1
    """Devices access RAM directly: the CPU cleans its caches after it wrote, and invalidates them before it reads."""
    INACCESSIBLE = 2
    """Only devices access the memory. The CPU must not."""


@documented
class Rights(enum.IntFlag):
    """The permitted uses of a VMO's handle. As a mask: the rights that a new node keeps of its parent's.

    Linux enforces READ and WRITE, by the mode that the descriptor is opened with. The other bits are only combined and
    passed on.
    """

    DUPLICATE = 0x1
    """The handle may be duplicated."""
    TRANSFER = 0x2
    """The handle may be given to another process."""
    READ = 0x4
    """The memory may be read. A participant without this right gets no VMO at all."""
    WRITE = 0x8
    """The memory may be written. A delivered VMO has this right only if the participant's usage writes."""
    EXECUTE = 0x10
    """The memory may be executed. No delivered VMO has this right."""
    MAP = 0x20
    """The memory may be mapped."""
    GET_PROPERTY = 0x40
    """Properties of the VMO, such as its name, may be read."""
    SET_PROPERTY = 0x80
    """Properties of the VMO, such as its name, may be changed."""
    WAIT = 0x4000
    """The handle may be waited on for signals."""
    INSPECT = 0x8000
    """Information about the VMO may be asked for."""
    SAME_RIGHTS = 0x80000000
    """As a mask: keep all rights of the parent."""


@documented
class NoneUsage(enum.IntFlag):
    """A participant that does not use the buffers itself."""

    NONE_USAGE = 1
    """The participant only sets constraints, and gets no VMOs. It cannot be combined with any other usage."""
    NONE_USAGE_PERMIT_ALLOCATION = 2
    """Together with NONE_USAGE: allocate even if no participant uses the buffers. The VMOs come without WRITE."""


@documented
class CpuUsage(enum.IntFlag):
    """How the CPU accesses buffers."""

    READ = 1
    """The CPU reads now and then."""
    READ_OFTEN = 2
    """The CPU reads most of the time, so that speed matters."""
    WRITE = 4
    """The CPU writes now and then. The VMOs are writable."""
    WRITE_OFTEN = 8
    """The CPU writes most of the time, so that speed matters. The VMOs are writable."""


@documented
class VulkanUsage(enum.IntFlag):
    """How Vulkan uses images (`VkImageUsageFlagBits`, low half) and buffers (`VkBufferUsageFlagBits`, high half)."""

    IMAGE_TRANSFER_SRC = 0x1
    """Copies read from the image."""
    IMAGE_TRANSFER_DST = 0x2
    """Copies write to the image. The VMOs are writable."""
    IMAGE_SAMPLED = 0x4
    """Shaders sample the image."""
    IMAGE_STORAGE = 0x8
    """Shaders load from and store to the image. The VMOs are writable."""
    IMAGE_COLOR_ATTACHMENT = 0x10
    """The image is rendered to, as a colour attachment. The VMOs are writable."""
    IMAGE_STENCIL_ATTACHMENT = 0x20
    """The image is used as a depth and stencil attachment. The VMOs are writable."""
    IMAGE_TRANSIENT_ATTACHMENT = 0x40
    """The image is an attachment whose content does not outlive a render pass. The VMOs are writable."""
    IMAGE_INPUT_ATTACHMENT = 0x80
    """Fragment shaders read the image as an input attachment."""
    BUFFER_TRANSFER_SRC = 0x10000
    """Copies read from the buffer."""
    BUFFER_TRANSFER_DST = 0x20000
    """Copies write to the buffer. The VMOs are writable."""
    BUFFER_UNIFORM_TEXEL_BUFFER = 0x40000
    """Shaders read formatted texels from the buffer."""
    BUFFER_STORAGE_TEXEL_BUFFER = 0x80000
    """Shaders load and store formatted texels in the buffer. The VMOs are writable."""
    BUFFER_UNIFORM_BUFFER = 0x100000
    """Shaders read uniforms from the buffer."""
    BUFFER_STORAGE_BUFFER = 0x200000
    """Shaders load from and store to the buffer. The VMOs are writable."""
    BUFFER_INDEX_BUFFER = 0x400000
    """The buffer holds the indices of a draw."""
    BUFFER_VERTEX_BUFFER = 0x800000
    """The buffer holds the vertices of a draw."""
    BUFFER_INDIRECT_BUFFER = 0x1000000
    """The buffer holds the parameters of indirect draws."""


@documented
class DisplayUsage(enum.IntFlag):
    """How a display controller scans out buffers. None of these makes the VMOs writable."""

    LAYER = 1
    """The display shows the image as a layer. The daemon prefers the RAM coherency domain then."""
    CURSOR = 2
    """The display shows the image as a cursor. The daemon prefers the RAM coherency domain then."""


@documented
class VideoUsage(enum.IntFlag):
    """How video hardware uses buffers. Each of these makes the VMOs writable."""

    HW_DECODER = 1
    """A hardware decoder writes its pictures to the buffers, or reads its input from them."""
    HW_ENCODER = 2
    """A hardware encoder reads its pictures from the buffers, or writes its output to them."""
    CAPTURE = 8
    """A capture device, such as a camera, writes its pictures to the buffers."""
    DECRYPTOR_OUTPUT = 16
    """A decryptor writes its output to the buffers."""
    HW_DECODER_INTERNAL = 32
    """A hardware decoder keeps its internal data, such as reference pictures, in the buffers."""
