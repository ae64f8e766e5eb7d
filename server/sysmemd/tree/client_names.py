"""Debug names of nodes.

See SetDebugClientInfo in `docs/spec/protocol.md`, "Node", and `docs/spec/allocation.md`, "The tree".
"""

from __future__ import annotations

from typing import Final

from ..ports import ClientInfo

#: Bytes of a node's recorded debug name, which grows with each "(was …)".
MAX_RECORDED_NAME_BYTES: Final = 4096


def renamed(old: ClientInfo, new: ClientInfo) -> ClientInfo:
    """What is recorded for a node that gets a new name: the name it had stays visible."""
    return _recorded(f"{new.name} (was {old.name})" if old.name else new.name, new.id)


def attached_to(parent: ClientInfo) -> ClientInfo:
    """What an attached token is called until somebody says otherwise."""
    name = f"{parent.name} then AttachToken()" if parent.name else "from AttachToken()"
    return _recorded(name, parent.id)


def _recorded(name: str, id: int) -> ClientInfo:
    """Return the name cut to what is kept of it, at the end of a character."""
    return ClientInfo(name.encode()[:MAX_RECORDED_NAME_BYTES].decode(errors="ignore"), id)
