"""Rights masks and delivered rights; `docs/spec/protocol.md`, "Rights"."""

from __future__ import annotations

import pytest

from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferUsage,
    CpuUsage,
    DisplayUsage,
    NoneUsage,
    Rights,
    VideoUsage,
    VulkanUsage,
)
from sysmemd.tree.rights import ALL_RIGHTS, attenuated, delivered_rights, wants_vmos

READING = (
    Rights.DUPLICATE
    | Rights.TRANSFER
    | Rights.WAIT
    | Rights.INSPECT
    | Rights.READ
    | Rights.GET_PROPERTY
    | Rights.SET_PROPERTY
    | Rights.MAP
)


@pytest.mark.parametrize("mask", [Rights.SAME_RIGHTS, 0xFFFFFFFF])
def test_same_rights_and_all_bits_attenuate_nothing(mask: int) -> None:
    assert attenuated(0x6, mask) == 0x6


@pytest.mark.parametrize(("parent", "mask", "child"), [(ALL_RIGHTS, 0xC, 0xC), (0x4, 0xC, 0x4)])
def test_another_mask_is_and_ed_and_rights_never_grow(parent: int, mask: int, child: int) -> None:
    assert attenuated(parent, mask) == child


@pytest.mark.parametrize(
    ("usage", "wanted"),
    [
        (None, False),
        (BufferUsage(none=NoneUsage.NONE_USAGE), False),
        (
            BufferUsage(none=NoneUsage.NONE_USAGE | NoneUsage.NONE_USAGE_PERMIT_ALLOCATION),
            True,
        ),
        (BufferUsage(cpu=CpuUsage.READ), True),
        (BufferUsage(vulkan=VulkanUsage.IMAGE_SAMPLED), True),
        (BufferUsage(display=DisplayUsage.LAYER), True),
        (BufferUsage(video=VideoUsage.HW_DECODER), True),
    ],
)
def test_plain_none_gets_no_vmos(usage: BufferUsage | None, wanted: bool) -> None:
    assert wants_vmos(BufferCollectionConstraints(usage=usage)) == wanted


def test_an_empty_table_gets_no_vmos() -> None:
    assert not wants_vmos(None)


def test_write_only_for_usage_that_writes() -> None:
    writing = BufferCollectionConstraints(usage=BufferUsage(cpu=CpuUsage.WRITE))
    reading = BufferCollectionConstraints(usage=BufferUsage(cpu=CpuUsage.READ))
    assert delivered_rights(writing, ALL_RIGHTS) == READING | Rights.WRITE
    assert delivered_rights(reading, ALL_RIGHTS) == READING
    assert delivered_rights(None, ALL_RIGHTS) == READING


def test_the_mask_takes_away() -> None:
    writing = BufferCollectionConstraints(usage=BufferUsage(cpu=CpuUsage.WRITE))
    assert delivered_rights(writing, Rights.READ | Rights.EXECUTE) == Rights.READ
