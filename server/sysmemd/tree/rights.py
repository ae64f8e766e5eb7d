"""Rights masks in the tree, and the rights of a delivered VMO (`docs/spec/protocol.md`, "Rights")."""

from __future__ import annotations

from typing import Final

from sysmem_protocol.sysmem2 import BufferCollectionConstraints, BufferUsage, NoneUsage, Rights

from ..constraints import UsageBits, usage_writes

#: The mask of a root node. A client's mask with this value removes nothing.
ALL_RIGHTS: Final = 0xFFFFFFFF
#: Masks that remove nothing.
NO_ATTENUATION: Final = frozenset({int(Rights.SAME_RIGHTS), ALL_RIGHTS})

# Plain numbers, because combining flags is slow in Python.

#: The maximum rights of a participant's VMO.
_VMO_RIGHTS: Final = int(
    Rights.DUPLICATE
    | Rights.TRANSFER
    | Rights.WAIT
    | Rights.INSPECT
    | Rights.READ
    | Rights.WRITE
    | Rights.GET_PROPERTY
    | Rights.SET_PROPERTY
    | Rights.MAP
)
READ: Final = int(Rights.READ)
WRITE: Final = int(Rights.WRITE)
_PERMIT_ALLOCATION: Final = int(NoneUsage.NONE_USAGE_PERMIT_ALLOCATION)


def attenuated(parent: int, mask: int) -> int:
    """Return a child's mask: its parent's mask AND `mask`. A child never has more rights than its parent."""
    return parent if mask in NO_ATTENUATION else parent & mask


def _usage(constraints: BufferCollectionConstraints | None) -> BufferUsage | None:
    return None if constraints is None else constraints.usage


def wants_vmos(constraints: BufferCollectionConstraints | None) -> bool:
    """Return whether a participant with these constraints gets VMOs. It does not if its usage is only NONE or empty."""
    usage = UsageBits.of(_usage(constraints))
    return usage.uses or bool(usage.none & _PERMIT_ALLOCATION)


def delivered_rights(constraints: BufferCollectionConstraints | None, mask: int) -> int:
    """Return the rights of a VMO that is delivered to a participant with these constraints and this mask."""
    rights = mask & _VMO_RIGHTS
    return rights if usage_writes(_usage(constraints)) else rights & ~WRITE
