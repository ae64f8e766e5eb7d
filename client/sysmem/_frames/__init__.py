"""Streams of frames: the code that both faces share. It never waits.

:mod:`.messages` has the messages on the sockets, :mod:`.lending` decides who has which buffer, and :mod:`.sender` and
:mod:`.receiver` are the two ends of a stream. `_async/frames.py` and `_blocking/frames.py` add the waiting.
"""
