"""Frames from one producer to several consumers, through the buffers of a collection: the async face.

Frames begin after the negotiation. A frame consists of a buffer's index, a sequence number, a timestamp, a size and
small metadata. It is sent over a socket pair between the producer and each consumer, and comes back when it is
released.

`sysmem.blocking.frames` has the same names as plain blocking calls. docs/frames.md has more details.
"""

from __future__ import annotations

from ._async.frames import FrameReceiver, FrameSender
from ._frames.ends import EndOfStreamError, pair
from ._frames.lending import Policy
from ._frames.messages import MAX_METADATA_BYTES
from ._frames.receiver import Frame
from ._frames.statistics import ConsumerStatistics, ReceiverStatistics, SenderStatistics

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
