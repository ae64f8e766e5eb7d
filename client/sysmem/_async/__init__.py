"""The async face; :mod:`sysmem` is its public name.

The methods of all objects are written here, once. The blocking face is generated from them
(`client/generate_blocking.py`), except for `client_end` and `events`, because each face waits in its own way.
"""
