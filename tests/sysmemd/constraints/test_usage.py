"""`docs/spec/protocol.md`, "Rights": the usages that write."""

from __future__ import annotations

import pytest

from sysmem_protocol.sysmem2 import BufferUsage, CpuUsage, DisplayUsage, VideoUsage, VulkanUsage
from sysmemd.constraints import UsageBits, usage_writes

WRITING = [
    *(BufferUsage(cpu=bit) for bit in (CpuUsage.WRITE, CpuUsage.WRITE_OFTEN)),
    *(BufferUsage(vulkan=bit) for bit in (0x2, 0x8, 0x10, 0x20, 0x40, 0x20000, 0x80000, 0x200000)),
    *(BufferUsage(video=bit) for bit in VideoUsage),
]


@pytest.mark.parametrize("usage", WRITING, ids=repr)
def test_writing_usage(usage: BufferUsage) -> None:
    assert usage_writes(usage)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        BufferUsage(),
        BufferUsage(none=1),
        BufferUsage(none=3),
        BufferUsage(cpu=CpuUsage.READ | CpuUsage.READ_OFTEN),
        BufferUsage(display=DisplayUsage.LAYER | DisplayUsage.CURSOR),
        BufferUsage(video=4),
        BufferUsage(vulkan=VulkanUsage.IMAGE_TRANSFER_SRC | VulkanUsage.IMAGE_SAMPLED | 0x80),
        BufferUsage(vulkan=0x10000 | 0x40000 | 0x100000 | 0x400000 | 0x800000 | 0x1000000),
    ],
    ids=repr,
)
def test_reading_usage(usage: BufferUsage | None) -> None:
    assert not usage_writes(usage)


def test_usage_bits_of_a_table() -> None:
    assert UsageBits.of(None) == UsageBits.of(BufferUsage()) == UsageBits()
    assert UsageBits.of(BufferUsage(cpu=1, video=2)) == UsageBits(cpu=1, video=2)
    assert UsageBits(none=1) | UsageBits(cpu=2) == UsageBits(none=1, cpu=2)
    assert not UsageBits(none=1).uses
    assert UsageBits(display=1).uses
