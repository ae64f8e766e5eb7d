"""Served channels: they pass requests to the tree and return responses. They use no trio and never wait."""

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
