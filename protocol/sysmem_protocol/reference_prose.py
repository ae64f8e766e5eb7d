"""The text of the reference page that the declarations do not contain. Numbers are taken from their definitions.

Each constant is one section of the page in Markdown; :mod:`.reference` combines them.
"""

# ruff: noqa: E501 - a row of a Markdown table is one line

from __future__ import annotations

from .codec import ERROR, SUCCESS
from .library import LIBRARY
from .message import FLAGS, FLAGS_MORE, HEADER, MAGIC, MAX_HANDLES, MAX_MESSAGE_BYTES, SERVER_TXID
from .runtime import RUNTIME_DIR_VARIABLE, SYSTEM_RUNTIME_DIR
from .strict import HANDLE_TAG, MAX_DEPTH
from .sysmem2 import MAX_BUFFER_COUNT, SYSTEM_RAM_HEAP, Allocator

INTRODUCTION = f"""\
# The protocol

This page describes completely how a program communicates with the daemon, so that a client in any language can be
written from it. It is generated from the declarations that the daemon and the Python client use
(`python -m sysmem_protocol.reference > docs/protocol.md`). The interface is `{LIBRARY}`, with its own names.

Terms: a *client end* and a *server end* are the two ends of a channel. A *node* is a place in the tree of one buffer
collection: a token, a collection or a group. A *participant* is a process that holds a client end. A *VMO* is the
memory of one buffer. *Peer-closed* is the state of one end of a channel after the other end has closed.
"""

SERVICES = f"""\
## Services and the runtime directory

The daemon listens on one socket for each service, with the service's full name, in its runtime directory. A client
first connects to `{Allocator.service_name()}` (`AF_UNIX`, `SOCK_SEQPACKET`), which creates a new [Allocator](#allocator)
channel. Other services have sockets of their own in the same directory.

The runtime directory is the first of these that applies:

1. the directory that was given: the daemon's `--runtime-dir`, or `{RUNTIME_DIR_VARIABLE}` in the environment of either
   side;
2. `$XDG_RUNTIME_DIR/sysmem`;
3. `{SYSTEM_RUNTIME_DIR}`.

A client without a given directory tries each of the other places in this order, and uses the first one where a socket
accepts its connection. So the programs of a login session, for which `XDG_RUNTIME_DIR` is set, also find the system's
daemon. The sockets exist when the daemon is ready.
"""

CHANNELS = """\
## Channels

A channel is a pair of `AF_UNIX`, `SOCK_SEQPACKET` sockets (`socketpair`), or a connection to a service. Each datagram
is one message; order and message boundaries are kept, and descriptors travel as `SCM_RIGHTS` ancillary data. Every
node has a channel of its own.

**New nodes.** A client that wants a new node creates the pair itself, keeps one end as its client end and sends the
other one as the *server end* in the request. It may use the client end immediately: its messages are queued in the
channel until the daemon has processed the request. The pair must be connected, and neither end may be bound to a name.
The sender closes its copy of the server end after sending it; with a copy it would never see peer-closed.

**Sync before passing a token on.** A token must be known to the daemon before another participant turns it in: call
[Sync](#nodesync) after [Duplicate](#buffercollectiontokenduplicate) and before sending the token's client end to
another process. [DuplicateSync](#buffercollectiontokenduplicatesync) has that built in. Processes that share no socket
meet at the [Rendezvous](#rendezvous). A process that has passed a client end on must close its own copy: the daemon
notices that a participant has gone only when all copies are closed.

**Server koids.** When the daemon takes a server end, it binds it to an abstract name that ends in `/<koid>`, a decimal
number that is never reused while the daemon runs. So `getpeername` on a client end returns its server koid. The name is
empty until the daemon has processed the request that carried the server end.
[ValidateBufferCollectionToken](#allocatorvalidatebuffercollectiontoken) takes that koid. The name proves nothing: use
that method before you trust a token from an unknown process.

**Sending and receiving.** A send on a full socket fails with `EAGAIN`; wait until the socket is writable. Receive with
room for a whole message and for the maximum number of descriptors, with `MSG_CMSG_CLOEXEC`, and treat `MSG_TRUNC` and
`MSG_CTRUNC` as errors. If the other end closed with unread data, one receive fails with `ECONNRESET`. Messages that it
had sent before are still queued behind this error, so continue until end-of-file.

### How a channel ends

No message announces an end; the only sign is peer-closed.

- **Release, then close.** [Release](#noderelease) announces that this participant leaves in order. The daemon closes
  its end, and then the client closes its own. The node keeps its place, its constraints and its children. No message
  may follow a Release: any later message fails the node.
- **Close without Release** is a failure, as is a process that dies.
- **The daemon closes** a node's channel when the node fails: because its client broke a rule, because another node of
  its failure domain failed, because a group chose another child, or because the allocation failed. Outstanding calls
  then get no response; a client must report peer-closed and must not wait.
- **A failing node** takes its failure domain along: all nodes of the collection, unless the node or one between it and
  the root was made dispensable (then it stops there once buffers are allocated) or attached (then it always stops
  there).
- **A token that is turned in** ([BindSharedCollection](#allocatorbindsharedcollection)) is consumed: its channel ends
  without a failure, and the node lives on with the collection's channel.
- **An Allocator channel** may be closed at any time. Nodes made through it are not affected.

The memory of a buffer exists as long as a process holds a handle to it, whatever the state of the channels.
"""

MESSAGE = f"""\
## Message

One datagram is one message: a header of {HEADER.size} bytes, then the body. All numbers are little-endian.

| offset | size | field |
| --- | --- | --- |
| 0 | 4 | *txid*. 0 for a one-way request. A two-way request has one that no other outstanding call of this channel has, with the high bit ({SERVER_TXID:#010x}, reserved for the server) clear; the response repeats it |
| 4 | 3 | *flags*: `{FLAGS.hex(" ")}`, which are the format revision, 0, and "the method is flexible". `{FLAGS_MORE.hex(" ")}` in [a response that is split](#split-responses) |
| 7 | 1 | *magic*: {MAGIC} |
| 8 | 8 | *ordinal* of the method; a response repeats it |

Responses on one channel may arrive in another order than the calls. If a method has no table for a message, its body is
empty.

The ordinal of a method is the first 8 bytes of the SHA-256 of `<library>/<Protocol>.<Method>`, read little-endian,
with the top bit cleared. The library is `{LIBRARY}` unless the protocol's section names another. A composed method
keeps the protocol that declares it, so each method of [Node](#node) has the same ordinal on all channels.
"""

BODY = f"""\
## Body

The body is one [CBOR](https://www.rfc-editor.org/rfc/rfc8949) item: the request or response table. The response of a
method that *can fail* is instead a map with exactly one key: {SUCCESS} with the response table, or {ERROR} with the
number of an [Error](#error).

| type | in CBOR |
| --- | --- |
| bool | true or false |
| uint32, uint64, int64 | an integer in that range |
| string | a text string; its bound is in bytes of UTF-8 |
| vector | an array of at most as many elements as its bound |
| table | a map from field number to value. A field that is left out is *un-set*; there is no other way to express this |
| struct | an array of all members in order |
| enum, flags | the member's number, the sum of the flags. Numbers without a name may come |
| handle | tag {HANDLE_TAG:#x} around the index of a descriptor of this message, an unsigned integer |

### Strict form

A body is well-formed CBOR in its strictest form. This also applies to the values of fields that the reader does not know:

- lengths are definite; integers, lengths and simple values have the shortest form;
- there is no tag except the handle's, and no duplicate key in a map;
- maps and arrays are nested at most {MAX_DEPTH} deep, including the body's own map;
- text is UTF-8; no bytes follow the item.

Field numbers begin at 1. A reader ignores fields with unknown numbers, whatever their value, and closes the descriptors
in them. So fields can be added to tables.

### Handles

The descriptors of a message are counted from 0 in the order of arrival. The body refers to each exactly once. The
receiver owns them and closes those that it does not keep. The sender keeps its own copies and closes those.

| kind | what it is on Linux |
| --- | --- |
| client end, server end | one end of a connected `SOCK_SEQPACKET` pair without names |
| eventpair | one end of a connected pair of `AF_UNIX` sockets, stream or seqpacket. It is closed, and so signalled, when every descriptor of the other end is closed |
| vmo | a memfd or regular file. The daemon delivers memfds that are sealed against changes of size, and opened read-write or read-only according to their rights |
| event | an object that the daemon made ([GetNodeRef](#nodegetnoderef)), to be passed to the daemon again |
"""

SPLIT = f"""\
## Split responses

Linux transfers at most {MAX_HANDLES} descriptors in a datagram. A response that needs more ({MAX_BUFFER_COUNT} buffers of
a weak participant need {2 * MAX_BUFFER_COUNT}) is sent as several consecutive datagrams: first those with descriptors
only, which have the response's txid and ordinal, the flags `{FLAGS_MORE.hex(" ")}` and an empty body; last the one with
the body and the flags `{FLAGS.hex(" ")}`. Indices count over all of them in order of arrival. No other message comes in
between on that channel. Requests are never split.
"""

BAD_INPUT = f"""\
## What bad input gets

The daemon closes every descriptor of an invalid message, and no other client is affected. *The channel closes* means
that the daemon closes its end; if it is a node's, the node fails.

| input | outcome |
| --- | --- |
| a short header, wrong magic or flags, an empty datagram, one larger than {MAX_MESSAGE_BYTES} bytes, truncated descriptors, `shutdown(SHUT_WR)` without Release | the channel closes |
| a body that isn't in the [strict form](#strict-form), bytes behind the header of a message without a table, field number 0, a value of another type, an integer out of range, a string or vector over its bound, a struct with too few or too many members | the channel closes |
| a descriptor that nothing refers to, an index without a descriptor, an index used twice | the channel closes |
| an ordinal that the channel's interface doesn't have | the channel closes |
| a one-way request with a txid; a two-way request without one, with one in use, or with the high bit set | the channel closes |
| too many unanswered calls (1,024 on one channel), or answers that aren't read (by default past 1,024 messages or 1 MiB) | the channel closes |
| a required field un-set | the channel closes; GetVmoInfo answers PROTOCOL_DEVIATION |
| a descriptor of the wrong kind | as a required field un-set; IsAlternateFor answers PROTOCOL_DEVIATION too |
| a token that the daemon doesn't know, in BindSharedCollection | the new collection's channel closes, nothing else |
| a field number that the table doesn't have, with any well-formed value | ignored; descriptors in it are closed |
"""

RIGHTS = """\
## Rights of a delivered VMO

A node has a mask of [Rights](#rights): its parent's, combined by AND with the mask it was created with. SAME_RIGHTS and
0xFFFFFFFF remove nothing. Mask 0 is an error that fails the node, except in
[Duplicate](#buffercollectiontokenduplicate), where it is deprecated and means SAME_RIGHTS. A child never has more rights
than its parent.

A VMO is delivered with those of the rights DUPLICATE, TRANSFER, WAIT, INSPECT, READ, WRITE, GET_PROPERTY, SET_PROPERTY
and MAP that are in the mask, and without WRITE unless the participant's usage writes: CPU WRITE or WRITE_OFTEN; Vulkan
IMAGE_TRANSFER_DST, IMAGE_STORAGE, IMAGE_COLOR_ATTACHMENT, IMAGE_STENCIL_ATTACHMENT, IMAGE_TRANSIENT_ATTACHMENT,
BUFFER_TRANSFER_DST, BUFFER_STORAGE_TEXEL_BUFFER or BUFFER_STORAGE_BUFFER; video HW_DECODER, HW_ENCODER, CAPTURE,
DECRYPTOR_OUTPUT or HW_DECODER_INTERNAL. A mask without READ delivers no VMO at all. A participant whose usage is just
NONE_USAGE gets none either; with NONE_USAGE_PERMIT_ALLOCATION it gets one without WRITE.
"""

TABLES = f"""\
## Tables

Every field of a table is optional. The heap that always exists is `{SYSTEM_RAM_HEAP.heap_type}`, id
{SYSTEM_RAM_HEAP.id}.
"""

FLEXIBLE = """\
## Enums and flags

All of them are flexible: a number without a name here is decoded, and the daemon's rules decide about it.
"""
