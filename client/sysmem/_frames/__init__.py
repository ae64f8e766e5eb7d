"""Streams of frames, without waiting: what both faces share.

:mod:`.messages` is what goes over the sockets, :mod:`.lending` decides who has which buffer, and :mod:`.sender` and
:mod:`.receiver` are the two ends of a stream. `_async/frames.py` and `_blocking/frames.py` add the waiting.
"""
