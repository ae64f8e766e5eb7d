"""The async face; :mod:`sysmem` is its public name.

What the objects can do is written here, once; the blocking face is generated from it (`client/generate_blocking.py`),
but for `client_end` and `events`, where each face waits in its own way.
"""
