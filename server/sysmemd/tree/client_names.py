"""Debug names of nodes.

See SetDebugClientInfo in `docs/spec/protocol.md`, "Node", and `docs/spec/allocation.md`, "The tree".
"""

from __future__ import annotations

from typing import Final

from ..ports import ClientInfo

#: The maximum length of a node's recorded debug name in bytes. The name grows with each "(was …)".
MAX_RECORDED_NAME_BYTES: Final = 4096


def renamed(old: ClientInfo, new: ClientInfo) -> ClientInfo:
    """Return the recorded info for a node that gets a new name. The previous name stays visible."""
    return _recorded(f"{new.name} (was {old.name})" if old.name else new.name, new.id)


def attached_to(parent: ClientInfo) -> ClientInfo:
    """Return the info for an attached token, until its client sets another."""
    name = f"{parent.name} then AttachToken()" if parent.name else "from AttachToken()"
    return _recorded(name, parent.id)


def _recorded(name: str, id: int) -> ClientInfo:
    """Return the name cut to its maximum length, at a character boundary."""
    return ClientInfo(name.encode()[:MAX_RECORDED_NAME_BYTES].decode(errors="ignore"), id)
