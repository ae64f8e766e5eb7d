"""Rights masks on their way down the tree, and what of them reaches a participant's VMOs (spec/protocol.md, Rights)."""

from __future__ import annotations

from typing import Final

from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferUsage,
    CpuUsage,
    NoneUsage,
    Rights,
    VideoUsage,
    VulkanUsage,
)

#: The mask of a root node, and a mask that clients compute when nothing is to be taken away.
ALL_RIGHTS: Final = 0xFFFFFFFF
#: Masks that attenuate nothing.
NO_ATTENUATION: Final = frozenset({int(Rights.SAME_RIGHTS), ALL_RIGHTS})

#: The most that a participant's VMO can have.
_VMO_RIGHTS: Final = (
    Rights.DUPLICATE
    | Rights.TRANSFER
    | Rights.WAIT
    | Rights.INSPECT
    | Rights.READ
    | Rights.WRITE
    | Rights.GET_PROPERTY
    | Rights.SET_PROPERTY
    | Rights.MAP
)

_WRITING_CPU: Final = CpuUsage.WRITE | CpuUsage.WRITE_OFTEN
_WRITING_VULKAN: Final = (
    VulkanUsage.IMAGE_TRANSFER_DST
    | VulkanUsage.IMAGE_STORAGE
    | VulkanUsage.IMAGE_COLOR_ATTACHMENT
    | VulkanUsage.IMAGE_STENCIL_ATTACHMENT
    | VulkanUsage.IMAGE_TRANSIENT_ATTACHMENT
    | VulkanUsage.BUFFER_TRANSFER_DST
    | VulkanUsage.BUFFER_STORAGE_TEXEL_BUFFER
    | VulkanUsage.BUFFER_STORAGE_BUFFER
)
_WRITING_VIDEO: Final = (
    VideoUsage.HW_DECODER
    | VideoUsage.HW_ENCODER
    | VideoUsage.CAPTURE
    | VideoUsage.DECRYPTOR_OUTPUT
    | VideoUsage.HW_DECODER_INTERNAL
)


def attenuated(parent: int, mask: int) -> int:
    """A child's mask: its parent's, less what `mask` takes away. Rights never grow down the tree."""
    return parent if mask in NO_ATTENUATION else parent & mask


def _usage(constraints: BufferCollectionConstraints | None) -> BufferUsage:
    return (constraints and constraints.usage) or BufferUsage()


def usage_writes(usage: BufferUsage) -> bool:
    """Whether a participant with this usage writes to buffers. No display usage does."""
    return bool(
        (usage.cpu or 0) & _WRITING_CPU
        or (usage.vulkan or 0) & _WRITING_VULKAN
        or (usage.video or 0) & _WRITING_VIDEO
    )


def wants_vmos(constraints: BufferCollectionConstraints | None) -> bool:
    """Whether a participant with these constraints is given VMOs: not with plain NONE, or nothing, as its usage."""
    usage = _usage(constraints)
    return bool(
        (usage.none or 0) & NoneUsage.NONE_USAGE_PERMIT_ALLOCATION
        or usage.cpu
        or usage.vulkan
        or usage.display
        or usage.video
    )


def delivered_rights(constraints: BufferCollectionConstraints | None, mask: int) -> Rights:
    """The rights of a VMO as delivered to the participant with these constraints on a node with this mask."""
    rights = _VMO_RIGHTS
    if not usage_writes(_usage(constraints)):
        rights &= ~Rights.WRITE
    return rights & Rights(mask & int(_VMO_RIGHTS))
