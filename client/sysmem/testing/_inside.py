"""Direct access to the state of a daemon in this process. Must be called in the daemon's loop."""

from __future__ import annotations

import json
from typing import Any

from sysmemd.inspection import Inspection
from sysmemd.inspection.answers import encoded, name_users


def snapshot(inspection: Inspection, id: int | None = None) -> dict[str, Any]:
    """Return the Inspector's snapshot."""
    return _plain(name_users(inspection.described(id)))


def explain(inspection: Inspection, id: int) -> dict[str, Any]:
    """Return the Inspector's explanation of a collection. Raises :class:`.Failed` if the collection is not known."""
    return _plain(inspection.explained(id))


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(b"".join(encoded(data)))
    return plain
