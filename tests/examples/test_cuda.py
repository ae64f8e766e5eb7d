"""The example `cuda`: its output without a GPU, and its calls of CUDA, checked with a fake of CUDA."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sysmem.testing import Sysmemd

from .conftest import EXAMPLES

if TYPE_CHECKING:
    from .conftest import Runner


def test_it_reads_a_buffer_on_the_gpu_or_says_what_is_missing(example: Runner) -> None:
    run = example.run("cuda")
    assert (run.returncode, run.stderr) == (0, "")
    assert "bytes where they are" in run.stdout or run.stdout.startswith(
        ("skipped: PyTorch isn't installed", "skipped: there is no GPU")
    )


class FakeTorch:
    """PyTorch with a GPU, as far as the example uses it. The GPU sees only pinned memory."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.pinned: dict[int, int] = {}
        self.error = 0
        self.int64 = "int64"
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            get_device_name=lambda: "Fake GPU",
            cudart=lambda: SimpleNamespace(
                cudaHostRegister=self._register,
                cudaHostUnregister=self._unregister,
                cudaGetErrorString="error {} of CUDA".format,
            ),
            synchronize=lambda: self.calls.append("synchronize"),
        )

    def _register(self, address: int, size: int, flags: int) -> int:
        assert flags == 1 | 2, "portable, and mapped for the device"
        assert is_shared_memory(address, size)
        self.calls.append("register")
        if not self.error:
            self.pinned[address] = size
        return self.error

    def _unregister(self, address: int) -> int:
        assert is_shared_memory(address, self.pinned.pop(address)), "it is still mapped"
        self.calls.append("unregister")
        return 0

    def as_tensor(self, described: Any, device: str) -> Tensor:
        interface = described.__cuda_array_interface__
        assert (device, interface["version"], interface["typestr"]) == ("cuda", 3, "|u1")
        address, is_read_only = interface["data"]
        [size] = interface["shape"]
        assert not is_read_only
        assert self.pinned.get(address) == size
        self.calls.append("tensor")
        return Tensor(self, address, size)


class Tensor:
    """A tensor on the device."""

    def __init__(self, torch: FakeTorch, address: int, size: int) -> None:
        self._torch = torch
        self._address, self._size = address, size

    def sum(self, *, dtype: str) -> int:
        assert dtype == "int64", "a sum of bytes is more than a byte"
        return int(self._bytes().sum(dtype=np.int64))

    def fill_(self, value: int) -> None:
        self._bytes()[:] = value

    def _bytes(self) -> Any:
        assert self._torch.pinned.get(self._address) == self._size
        memory = (ctypes.c_uint8 * self._size).from_address(self._address)
        return np.ndarray(self._size, np.uint8, memoryview(memory).cast("B"))


def is_shared_memory(address: int, size: int) -> bool:
    """Return whether memory consists of whole, writable pages of a buffer's mapping."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(number, 16) for number in line.split()[0].split("-"))
        if begin <= address < end:
            return address % 4096 == 0 and address + size <= end and line.split()[1] == "rw-s"
    return False


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch, sysmemd: Sysmemd) -> FakeTorch:
    """The fake PyTorch, which the example imports, with a daemon for the example."""
    fake = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setattr(sys, "argv", ["cuda", "--runtime-dir", str(sysmemd.runtime_dir)])
    return fake


@pytest.fixture
def cuda() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("cuda", EXAMPLES / "cuda" / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_pins_a_buffer_s_mapping_for_as_long_as_the_gpu_looks_at_it(
    cuda: ModuleType, torch: FakeTorch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cuda.main() == 0
    assert torch.calls == ["register", "tensor", "synchronize", "synchronize", "unregister"]
    assert not torch.pinned
    told = capsys.readouterr().out
    assert told.startswith("Fake GPU read and wrote")
    assert "bytes where they are" in told


def test_it_says_why_a_buffer_could_not_be_pinned(cuda: ModuleType, torch: FakeTorch) -> None:
    torch.error = 304
    with pytest.raises(SystemExit, match="cudaHostRegister: error 304 of CUDA"):
        cuda.main()
    assert torch.calls == ["register"]


def test_it_unpins_the_buffer_also_if_the_gpu_sees_something_else(
    cuda: ModuleType, torch: FakeTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "sum", lambda self, dtype: 1)
    with pytest.raises(SystemExit, match="the GPU saw 1, not 0"):
        cuda.main()
    assert torch.calls == ["register", "tensor", "unregister"]


def test_without_a_gpu_it_is_skipped(
    cuda: ModuleType, torch: FakeTorch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.cuda.is_available = lambda: False
    assert cuda.main() == 0
    assert capsys.readouterr().out == "skipped: there is no GPU that PyTorch can use\n"
