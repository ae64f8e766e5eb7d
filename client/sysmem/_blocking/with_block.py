"""The with-block of the blocking face's objects, which is the plain one."""

from sysmem_protocol.owner import WithBlock as WithBlock
