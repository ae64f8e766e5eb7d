"""Inputs that were finds of `make fuzz`, and its initial inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from .targets import TARGETS, assert_found_nothing, corpus, seeds


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_right_is_no_find(target: str) -> None:
    inputs = list(seeds(target))
    assert inputs
    for data in inputs:
        assert_found_nothing(target, data)


@pytest.mark.parametrize(
    ("target", "path"),
    [(target, path) for target in TARGETS for path in corpus(target)],
    ids=lambda each: each.name if isinstance(each, Path) else each,
)
def test_what_once_was_a_find_is_none_any_more(target: str, path: Path) -> None:
    assert_found_nothing(target, path.read_bytes())
