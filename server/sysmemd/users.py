"""Users of the daemon: whose turn it is to be served, and who pays (`spec/robustness.md`, Who pays and Fair turns)."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakValueDictionary

from .ports import Peer


@dataclass(eq=False, slots=True, weakref_slot=True)
class User:
    """A user of this machine who has something here.

    There is one object for each uid, so it can be compared by identity and be a key. It exists as long as something
    refers to it: a connection, a node, or a buffer that is still held after its tree. Turns go round by user; what all
    accounts of a user have together is counted here.
    """

    uid: int


@dataclass(eq=False, slots=True)
class Account:
    """Who pays for a channel and for everything that was made through it.

    There is one object for each connection to a service socket. The channel of that connection has it, and so has
    every node made or turned in through it. A child has the account of its parent, as it is when the child is made.
    What one connection has is counted here, as a part of what its user has.
    """

    user: User
    #: The process that connected.
    peer: Peer


class Users:
    """All users who have something here, by uid."""

    def __init__(self) -> None:
        self._users: WeakValueDictionary[int, User] = WeakValueDictionary()

    def open_account(self, peer: Peer) -> Account:
        """Return the account of a new connection from the process `peer`."""
        user = self._users.get(peer.uid)
        if user is None:
            user = self._users[peer.uid] = User(peer.uid)
        return Account(user, peer)
