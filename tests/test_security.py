"""SECURITY.md: every guarantee names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = re.findall(
    r"^\| ([A-Z].*?) \| (.*?) \| (.*?) \| (`tests/.*?) \|$",
    (ROOT / "SECURITY.md").read_text(),
    re.MULTILINE,
)


def test_every_guarantee_has_a_mechanism_and_tests_that_exist() -> None:
    assert len(TABLE) >= 15
    for guarantee, against, mechanism, tests in TABLE:
        assert against, guarantee
        assert mechanism, guarantee
        names = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
        assert names, guarantee
        assert tests.count("`") == 2 * len(names), tests
        for path, name in names:
            text = (ROOT / path).read_text()
            assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"{path}::{name}"
