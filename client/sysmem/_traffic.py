"""Messages as readable lines, for `sysmemctl trace` and a client's own trace.

A message is given as JSON data in the format of the Inspector (`docs/spec/inspect.md`).
"""

from __future__ import annotations

import json
from typing import Any, Final

ARROWS: Final = {"in": "→", "out": "←"}


def line(message: dict[str, Any]) -> str:
    """Return a message as a line.

    Its columns are the time of day (UTC), the connection's number, the client, the direction (→ to the daemon, ← from
    it), the txid, protocol and method with the fields that are set, the number of descriptors, and a response's
    error.
    """
    time = message["at"].partition("T")[2].rstrip("Z")
    client = f"{printable(message['client_name']) or '–'} ({message['client_id']})"
    return (
        f"{time} {message['connection']:>4} {client:<16} {ARROWS[message['direction']]} {message['txid']:>3} "
        f"{call(message)}"
    )


def call(message: dict[str, Any]) -> str:
    """Return a message's protocol and method with the fields that are set, its number of descriptors, and its error."""
    parts = [f"{message['protocol']}.{message['method']}({', '.join(message['fields'])})"]
    if message["descriptors"]:
        count = message["descriptors"]
        parts.append(f"{count} descriptor" if count == 1 else f"{count} descriptors")
    if message["error"]:
        parts.append(message["error"])
    return " ".join(parts)


def body(message: dict[str, Any]) -> str | None:
    """Return a message's content as compact JSON, or None if it is empty or was not reported."""
    said = message.get("body")
    return json.dumps(said, separators=(",", ":")) if said else None


def printable(text: str) -> str:
    """Return a client's text with every character escaped that could move the cursor or hide text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
