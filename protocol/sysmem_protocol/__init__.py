"""The code that both ends of sysmem share: the `fuchsia.sysmem2` library, its messages, and its channels on Linux.

======================  ================================================================
:mod:`.library`         how tables, enums, methods and interfaces are declared
:mod:`.sysmem2`         the library itself, declared once; :mod:`.images2` has its pixel formats
:mod:`.codec`           conversion between tables and CBOR; :mod:`.strict` checks the accepted form
:mod:`.message`         the header, and responses that are split into several datagrams
:mod:`.channel`         one end of a channel: datagrams with descriptors
:mod:`.handles`         descriptors with an owner, and their kinds
:mod:`.runtime`         the places of the daemon's sockets
:mod:`.reference`       the page `docs/protocol.md`, from the declarations
======================  ================================================================

The package imports none of its modules. Import what you need from them. Programs use the package `sysmem`.
"""

__version__ = "0.1.0"
"""The version of the whole distribution: protocol, client and daemon are released together."""
