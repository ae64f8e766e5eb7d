"""The program of docs/devices.md runs on a machine with the devices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sysmem import blocking
from sysmem.testing.blocking import daemon

from .conftest import needs_udmabuf


@needs_udmabuf
@pytest.mark.timeout(600)
def test_the_python_block_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "devices.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)
    assert blocks
    with daemon() as running:
        monkeypatch.setattr(blocking, "connect", running.connect)
        names: dict[str, Any] = {}
        for block in blocks:
            exec(compile(block, "devices.md", "exec"), names)
