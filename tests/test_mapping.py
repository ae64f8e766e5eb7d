"""The mapping that other tests use consists of nothing but the mapping itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .mapping import BareMapping


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:bare")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_it_takes_no_descriptor() -> None:
    before = descriptors()
    fd = os.memfd_create("bare")
    os.ftruncate(fd, 4096)
    with BareMapping(fd) as mapping, BareMapping(fd, write=False) as reading:
        os.close(fd)
        assert (descriptors(), mappings()) == (before, 2)
        mapping[:4] = b"seen"
        assert reading[:4] == b"seen"
        assert len(bytes(reading)) == 4096
        with pytest.raises(TypeError):
            reading[:1] = b"x"
    assert mappings() == 0
    mapping.close()
    with pytest.raises(ValueError, match="released"):
        mapping[:1]


def test_what_may_not_be_mapped_is_an_error() -> None:
    fd = os.open("/dev/null", os.O_WRONLY)
    with pytest.raises(PermissionError):
        BareMapping(fd, 4096)
    os.close(fd)
