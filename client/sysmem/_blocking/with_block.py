"""The with-block of the blocking face's objects: the plain one."""

from sysmem_protocol.owner import WithBlock as WithBlock
