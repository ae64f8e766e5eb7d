"""Seeing inside: what the daemon holds, why, and what happens in it (`docs/spec/inspect.md`).

A reader of what the tree, memory and the channels offer as data; they don't know of it.
"""

from .inspection import Inspection
from .server import InspectorServer

__all__ = ["Inspection", "InspectorServer"]
