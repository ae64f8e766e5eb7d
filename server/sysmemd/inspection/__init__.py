"""Inspection: what the daemon holds, why, and its events (`docs/spec/inspect.md`).

It reads data that the tree, memory and channels provide. They do not depend on it.
"""

from .inspection import Inspection
from .server import InspectorServer

__all__ = ["Inspection", "InspectorServer"]
