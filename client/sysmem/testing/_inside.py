"""Looking inside a daemon of this process, at once and in its own loop."""

from __future__ import annotations

import json
from typing import Any

from sysmemd.inspection import Inspection, explanation
from sysmemd.inspection.answers import encoded
from sysmemd.inspection.snapshot import Snapshot


def snapshot(inspection: Inspection, id: int | None = None) -> dict[str, Any]:
    """Return what the Inspector answers, but for the names of users."""
    return _plain(Snapshot(inspection.daemon, id).gather())


def explain(inspection: Inspection, id: int) -> dict[str, Any]:
    """Return why a collection is as it is, or ended as it did. Raises `KeyError` for one that isn't known."""
    daemon = inspection.daemon
    collection = daemon.find(id)
    platform = daemon.service.platform
    if collection is not None:
        question = explanation.about(collection, daemon.wall_time, platform)
    else:
        ended = daemon.ended.find(id)
        if ended is None:
            raise KeyError(id)
        question = explanation.about_ended(ended, daemon.wall_time, platform)
    return _plain(question.answer())


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(b"".join(encoded(data)))
    return plain
