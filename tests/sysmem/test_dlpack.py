"""Buffers in other array libraries, through DLPack, which share the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

import sysmem

from .images import buffer, image_format


@pytest.fixture
def memory() -> Iterator[sysmem.VmoBuffer]:
    with closing(buffer()) as made:
        yield made


def test_numpy_takes_a_buffer_by_dlpack_without_a_copy(memory: sysmem.VmoBuffer) -> None:
    array = memory.array("<f4", (16, 16))
    taken = np.from_dlpack(array)
    array[3, 4] = 0.5
    assert taken[3, 4] == 0.5
    del array
    assert taken[3, 4] == 0.5


def test_torch_takes_a_buffer_and_planes_by_dlpack_without_a_copy(
    memory: sysmem.VmoBuffer,
) -> None:
    torch = pytest.importorskip("torch", reason="torch isn't installed: pip install torch")
    array = memory.array("<f4", (16, 16))
    tensor = torch.from_dlpack(array)
    array[3, 4] = 0.5
    assert tensor[3, 4] == 0.5
    tensor[0, 0] = 2
    assert array[0, 0] == 2
    luma, chroma = (
        torch.from_dlpack(p) for p in memory.planes(image_format(sysmem.PixelFormat.NV12))
    )
    luma.zero_()
    chroma.fill_(128)
    assert (memory.planes(image_format(sysmem.PixelFormat.NV12))[1] == 128).all()
