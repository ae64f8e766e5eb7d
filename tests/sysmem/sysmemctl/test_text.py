"""Numbers as people read them."""

from __future__ import annotations

import pytest

from sysmem.sysmemctl._text import age, count, size


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (size(0), "0 B"),
        (size(1023), "1023 B"),
        (size(1024), "1 KiB"),
        (size(1536), "1.5 KiB"),
        (size(1 << 20), "1 MiB"),
        (size(3 << 30), "3 GiB"),
        (size(1 << 54), "16384 TiB"),
        (age(0.0015), "2 ms"),
        (age(1), "1.0 s"),
        (age(59.9), "59.9 s"),
        (age(60), "1 min 0 s"),
        (age(3599), "59 min 59 s"),
        (age(3600), "1 h 0 min"),
        (age(86399), "23 h 59 min"),
        (age(90000), "1 d 1 h"),
        (count(0, "event"), "0 events"),
        (count(1, "event"), "1 event"),
        (count(2, "entry", "entries"), "2 entries"),
    ],
)
def test_numbers_have_units(shown: str, text: str) -> None:
    assert shown == text
