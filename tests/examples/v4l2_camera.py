"""The modules of the example `v4l2_camera`, for its tests with and without a camera."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DIRECTORY = Path(__file__).parents[2] / "examples" / "v4l2_camera"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The example's modules."""
    names = ["v4l2", "needs", "capture"]
    sys.path.insert(0, str(DIRECTORY))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(DIRECTORY))
        for name in names:
            del sys.modules[name]
