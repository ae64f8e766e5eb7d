"""A GPU reads a negotiated buffer where it is: CUDA pins the mapping, and a tensor on the device looks at it.

    python examples/cuda [--runtime-dir DIR]

It needs an NVIDIA GPU and PyTorch with CUDA (`pip install torch`). Without them it prints what is missing, and exits
with status 0.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

import sysmem
from sysmem import blocking

WAIT = 30.0
#: cudaHostRegisterPortable | cudaHostRegisterMapped
_PORTABLE_AND_MAPPED = 1 | 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="cuda", description=__doc__.splitlines()[0])
    parser.add_argument("--runtime-dir", help="of a running daemon; by default one of its own")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("skipped: PyTorch isn't installed (pip install torch)")
        return 0
    if not torch.cuda.is_available():
        print("skipped: there is no GPU that PyTorch can use")
        return 0
    with contextlib.ExitStack() as stack:
        directory = arguments.runtime_dir
        if directory is None:
            from sysmem.testing import sysmemd

            directory = str(stack.enter_context(sysmemd()).runtime_dir)
        run(directory, torch)
    return 0


def run(directory: str, torch: Any) -> None:
    with contextlib.ExitStack() as stack:
        allocator = stack.enter_context(blocking.connect(directory, name="cuda"))
        collection = stack.enter_context(allocator.allocate_non_shared_collection())
        collection.set_constraints(
            sysmem.constraints("NV12 1920x1080", cpu="read often, write often", hold=1)
        )
        info = stack.enter_context(collection.wait_for_all_buffers_allocated(timeout=WAIT))
        memory = info.buffers[0].array(np.uint8)
        with pinned(memory, torch) as on_device:
            for value in (0, 7, 255):
                memory[:] = value  # by the CPU
                total = int(on_device.sum(dtype=torch.int64))  # by the GPU, over the same pages
                if total != value * memory.size:
                    raise SystemExit(f"the GPU saw {total}, not {value * memory.size}")
            on_device.fill_(42)
            torch.cuda.synchronize()
            if not (memory == 42).all():
                raise SystemExit("the CPU doesn't see what the GPU wrote")
        print(f"{torch.cuda.get_device_name()} read and wrote {memory.size} bytes where they are")
        collection.release()


class _Pinned:
    """Memory of the host that the device can address, as `__cuda_array_interface__` describes it."""

    def __init__(self, memory: np.ndarray[Any, Any]) -> None:
        self.__cuda_array_interface__ = {
            "shape": memory.shape,
            "typestr": memory.dtype.str,
            "data": (memory.ctypes.data, not memory.flags.writeable),
            "version": 3,
        }


@contextlib.contextmanager
def pinned(memory: np.ndarray[Any, Any], torch: Any) -> Iterator[Any]:
    """Pin memory (cudaHostRegister) within a with-block, and yield a tensor on the device over it, without a copy."""
    runtime, address = torch.cuda.cudart(), memory.ctypes.data
    error = runtime.cudaHostRegister(address, memory.nbytes, _PORTABLE_AND_MAPPED)
    if int(error):
        raise SystemExit(f"cudaHostRegister: {runtime.cudaGetErrorString(error)}")
    try:
        yield torch.as_tensor(_Pinned(memory), device="cuda")
        torch.cuda.synchronize()
    finally:
        runtime.cudaHostUnregister(address)


if __name__ == "__main__":
    sys.exit(main())
