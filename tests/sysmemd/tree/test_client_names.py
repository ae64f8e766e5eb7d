"""How a node's debug name is derived."""

from __future__ import annotations

import pytest

from sysmemd.ports import ClientInfo
from sysmemd.tree.client_names import MAX_RECORDED_NAME_BYTES, attached_to, renamed


@pytest.mark.parametrize(
    ("old", "new", "recorded"),
    [
        (ClientInfo("", 1), ClientInfo("camera", 2), ClientInfo("camera", 2)),
        (ClientInfo("a", 1), ClientInfo("b", 2), ClientInfo("b (was a)", 2)),
        (ClientInfo("b (was a)", 1), ClientInfo("c"), ClientInfo("c (was b (was a))", 0)),
    ],
)
def test_a_new_name_keeps_the_old_one(
    old: ClientInfo, new: ClientInfo, recorded: ClientInfo
) -> None:
    assert renamed(old, new) == recorded


def test_an_attached_token_is_named_after_its_parent() -> None:
    assert attached_to(ClientInfo("camera", 4)) == ClientInfo("camera then AttachToken()", 4)
    assert attached_to(ClientInfo("", 4)) == ClientInfo("from AttachToken()", 4)


def test_at_most_4_kib_are_kept_and_no_character_is_cut_in_two() -> None:
    name = "ü" * MAX_RECORDED_NAME_BYTES
    kept = attached_to(ClientInfo(name)).name
    assert kept == "ü" * (MAX_RECORDED_NAME_BYTES // 2)
    assert renamed(ClientInfo(name), ClientInfo("x")).name.startswith("x (was ü")
