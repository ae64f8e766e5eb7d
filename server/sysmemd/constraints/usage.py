"""Buffer usage as five words of bits.

See `docs/spec/constraints.md`, section 1, and `docs/spec/protocol.md`, "Rights".
"""

from __future__ import annotations

from typing import NamedTuple

from sysmem_protocol.sysmem2 import BufferUsage, CpuUsage, NoneUsage, VideoUsage, VulkanUsage


class UsageBits(NamedTuple):
    """A `BufferUsage` in which un-set fields are 0. It is hashable and cheap to combine."""

    none: int = 0
    cpu: int = 0
    vulkan: int = 0
    display: int = 0
    video: int = 0

    @classmethod
    def of(cls, usage: BufferUsage | None) -> UsageBits:
        """Return the bits of a table. An un-set table has none."""
        if usage is None:
            return cls()
        return cls(
            int(usage.none or 0),
            int(usage.cpu or 0),
            int(usage.vulkan or 0),
            int(usage.display or 0),
            int(usage.video or 0),
        )

    def __or__(self, other: UsageBits) -> UsageBits:
        return UsageBits(
            self.none | other.none,
            self.cpu | other.cpu,
            self.vulkan | other.vulkan,
            self.display | other.display,
            self.video | other.video,
        )

    @property
    def uses(self) -> bool:
        """Whether any bit other than those of `none` is set, that is, the buffers are accessed."""
        return bool(self.cpu or self.vulkan or self.display or self.video)


#: The usage of a participant without constraints: it takes part but does not use the buffers.
NO_USAGE = UsageBits(none=int(NoneUsage.NONE_USAGE))

# Plain numbers, because combining flags is slow in Python.
NONE = int(NoneUsage.NONE_USAGE)
PERMIT_ALLOCATION = int(NoneUsage.NONE_USAGE_PERMIT_ALLOCATION)
_CPU_WRITES = int(CpuUsage.WRITE | CpuUsage.WRITE_OFTEN)
_VULKAN_WRITES = int(
    VulkanUsage.IMAGE_TRANSFER_DST
    | VulkanUsage.IMAGE_STORAGE
    | VulkanUsage.IMAGE_COLOR_ATTACHMENT
    | VulkanUsage.IMAGE_STENCIL_ATTACHMENT
    | VulkanUsage.IMAGE_TRANSIENT_ATTACHMENT
    | VulkanUsage.BUFFER_TRANSFER_DST
    | VulkanUsage.BUFFER_STORAGE_TEXEL_BUFFER
    | VulkanUsage.BUFFER_STORAGE_BUFFER
)
_VIDEO_WRITES = int(
    VideoUsage.HW_DECODER
    | VideoUsage.HW_ENCODER
    | VideoUsage.CAPTURE
    | VideoUsage.DECRYPTOR_OUTPUT
    | VideoUsage.HW_DECODER_INTERNAL
)


def usage_writes(usage: BufferUsage | None) -> bool:
    """Return whether a participant with this usage writes to buffers (`docs/spec/protocol.md`, "Rights").

    Only such participants receive writable VMOs. No display usage writes.
    """
    bits = UsageBits.of(usage)
    return bool(
        bits.cpu & _CPU_WRITES or bits.vulkan & _VULKAN_WRITES or bits.video & _VIDEO_WRITES
    )
