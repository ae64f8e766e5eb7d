"""Users and their accounts."""

from __future__ import annotations

from sysmemd.ports import Peer
from sysmemd.users import Users


def test_each_connection_has_an_account_and_each_uid_one_user() -> None:
    users = Users()
    one, same = (users.open_account(Peer(pid, 7, 8)) for pid in (1, 2))
    other = users.open_account(Peer(3, 9, 8))
    assert one is not same
    assert one.user is same.user
    assert other.user is not one.user
    assert (other.user.uid, other.peer.pid) == (9, 3)


def test_a_user_is_forgotten_with_the_last_account() -> None:
    users = Users()
    kept = users.open_account(Peer(1, 7, 8)).user
    assert users.open_account(Peer(1, 7, 8)).user is kept
    kept.uid = 0  # a mark
    del kept
    assert users.open_account(Peer(1, 7, 8)).user.uid == 7
