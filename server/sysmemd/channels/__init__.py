"""Served channels: a request in, a call on the tree, an answer out. No trio here, and no waiting."""

from .allocator import AllocatorServer
from .connection import Connection, Reactor
from .reasons import STOPPING
from .rendezvous import RendezvousServer
from .service import Service

__all__ = [
    "STOPPING",
    "AllocatorServer",
    "Connection",
    "Reactor",
    "RendezvousServer",
    "Service",
]
