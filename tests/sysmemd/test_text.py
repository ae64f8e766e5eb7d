"""Texts of clients within the daemon's texts."""

from __future__ import annotations

from sysmemd.text import printable


def test_text_of_a_client_stays_on_its_line() -> None:
    assert printable("caméra × 2") == "caméra × 2"
    assert printable("cam\nera\x1b[2J\u2028") == r"cam\nera\x1b[2J\u2028"
