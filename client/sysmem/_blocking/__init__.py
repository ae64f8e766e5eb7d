"""The blocking face; :mod:`sysmem.blocking` is its public name."""
