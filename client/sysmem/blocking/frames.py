"""Frames from one producer to several consumers, through the buffers of a collection: the blocking face.

Names and arguments are those of the async face, :mod:`sysmem.frames`; any number of threads may use an end.
"""

from __future__ import annotations

from .._blocking.frames import FrameReceiver, FrameSender
from .._frames.ends import EndOfStreamError, pair
from .._frames.lending import Policy
from .._frames.messages import MAX_METADATA_BYTES
from .._frames.receiver import Frame
from .._frames.statistics import ConsumerStatistics, ReceiverStatistics, SenderStatistics

__all__ = [
    "MAX_METADATA_BYTES",
    "ConsumerStatistics",
    "EndOfStreamError",
    "Frame",
    "FrameReceiver",
    "FrameSender",
    "Policy",
    "ReceiverStatistics",
    "SenderStatistics",
    "pair",
]
