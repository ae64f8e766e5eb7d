"""What both ends of sysmem agree on: the `fuchsia.sysmem2` library, its messages and its channels on Linux.

======================  ================================================================
:mod:`.library`         how tables, enums, methods and interfaces are declared
:mod:`.sysmem2`         the library itself, declared once; :mod:`.images2` has its pixel formats
:mod:`.codec`           tables to CBOR and back; :mod:`.strict` is the form that is accepted
:mod:`.message`         the header, and responses in several datagrams
:mod:`.channel`         one end of a channel: datagrams with descriptors
:mod:`.handles`         descriptors with an owner, and what kind of object each is
:mod:`.runtime`         where the daemon's sockets are
:mod:`.reference`       the page `docs/protocol.md`, from the declarations
======================  ================================================================

Nothing is imported by the package itself: take what you need from its modules. Programs use the package `sysmem`.
"""

__version__ = "0.1.0"
"""The version of the whole distribution: protocol, client and daemon are released together."""
