"""Looking inside a daemon of this process, at once and in its own loop."""

from __future__ import annotations

import json
from typing import Any

from sysmemd.inspection import Inspection
from sysmemd.inspection.answers import encoded, name_users


def snapshot(inspection: Inspection, id: int | None = None) -> dict[str, Any]:
    """Return what the Inspector answers."""
    return _plain(name_users(inspection.described(id)))


def explain(inspection: Inspection, id: int) -> dict[str, Any]:
    """Return why a collection is as it is, or ended as it did. Raises :class:`.Failed` for one that isn't known."""
    return _plain(inspection.explained(id))


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(b"".join(encoded(data)))
    return plain
