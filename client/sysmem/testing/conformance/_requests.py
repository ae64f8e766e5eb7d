"""Checks of the messages that a client sends: their content, their descriptors, and their order."""

from __future__ import annotations

import socket
import time
from typing import Final

from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle
from sysmem_protocol.sysmem2 import (
    Allocator,
    BufferCollection,
    BufferCollectionToken,
    BufferUsage,
    CpuUsage,
    CreateTokensResponse,
    Node,
    NodeGetBufferCollectionIdResponse,
    Rights,
)

from ._bench import Bench, Check, End, Flaw, check, readable

CHECKS: Final[list[Check]] = []
#: More one-way messages than fit into a channel.
_MANY: Final = 1000
#: The close-on-exec flag as /proc shows it.
_CLOEXEC: Final = 0o2000000


def shared(bench: Bench, allocator: End, name: str = "t") -> End:
    """Make the agent create a root token. Return the daemon's end of it."""
    bench.agent.tell(f"shared a {name}")
    request = allocator.receive(Allocator.allocate_shared_collection)
    bench.agent.answered(f"shared a {name}")
    return allocator.take(BufferCollectionToken, request.table.token_request)


def bound(bench: Bench, allocator: End, token: End, name: str = "c") -> End:
    """Make the agent turn in its token `t`. Return the daemon's end of the collection."""
    bench.agent.tell(f"bind a t {name}")
    request = allocator.receive(Allocator.bind_shared_collection)
    bench.agent.answered(f"bind a t {name}")
    request.table.token.close()
    token.close()
    return allocator.take(BufferCollection, request.table.buffer_collection_request)


def collection(bench: Bench) -> End:
    """Make the agent connect and create a collection `c`. Return the daemon's end of it."""
    allocator = bench.connected()
    return bound(bench, allocator, shared(bench, allocator))


def constrained(bench: Bench) -> End:
    """Make the agent create a collection `c` and set constraints on it. Return the daemon's end of it."""
    end = collection(bench)
    bench.agent.tell("constrain c 10 4096 2")
    end.receive(BufferCollection.set_constraints)
    bench.agent.answered("constrain c 10 4096 2")
    return end


@check(CHECKS)
def connects(bench: Bench) -> None:
    """It connects to the Allocator's socket in the runtime directory."""
    bench.connected()
    bench.agent.do("close a")


@check(CHECKS)
def makes_a_token(bench: Bench) -> None:
    """AllocateSharedCollection is one-way and carries the server end of a new, nameless pair."""
    shared(bench, bench.connected())


@check(CHECKS)
def gives_the_server_end_away(bench: Bench) -> None:
    """It keeps no copy of a server end that it has sent. With a copy it would never see peer-closed."""
    token = shared(bench, bench.connected())
    token.close()
    bench.agent.do("wait_closed t")


@check(CHECKS)
def calls_have_txids(bench: Bench) -> None:
    """The txid of a call is not 0, has no high bit, and differs from those of all outstanding calls."""
    token = shared(bench, bench.connected())
    for number in range(3):
        bench.agent.do(f"start k{number} sync t")
    for request in [token.receive(Node.sync) for _ in range(3)]:
        token.answer(request)
    for number in range(3):
        bench.agent.do(f"finish k{number}")


@check(CHECKS)
def txids_of_channels_are_their_own(bench: Bench) -> None:
    """Responses are matched to calls on each channel separately."""
    allocator = bench.connected()
    ends = [shared(bench, allocator, name) for name in ("t", "u")]
    for name in ("t", "u"):
        bench.agent.do(f"start k{name} id {name}")
    for number, end in reversed(list(enumerate(ends))):
        request = end.receive(Node.get_buffer_collection_id)
        end.answer(request, NodeGetBufferCollectionIdResponse(buffer_collection_id=number + 7))
    for number, name in enumerate(("t", "u")):
        bench.agent.tell(f"finish k{name}")
        bench.agent.answered(f"finish k{name}", f"ok {number + 7}")


@check(CHECKS)
def duplicates_a_token(bench: Bench) -> None:
    """Duplicate carries the mask and the server end of a new pair."""
    token = shared(bench, bench.connected())
    bench.agent.tell("duplicate t 2147483648 u")
    request = token.receive(BufferCollectionToken.duplicate)
    bench.agent.answered("duplicate t 2147483648 u")
    if request.table.rights_attenuation_mask != Rights.SAME_RIGHTS:
        raise Flaw(f"the mask was {request.table.rights_attenuation_mask}, not 2147483648")
    child = token.take(BufferCollectionToken, request.table.token_request)
    bench.agent.tell("sync u")
    child.answer(child.receive(Node.sync))
    bench.agent.answered("sync u")


@check(CHECKS)
def gets_tokens_in_order(bench: Bench) -> None:
    """DuplicateSync carries a mask for each token, and the tokens of the response are in the order of the masks."""
    token = shared(bench, bench.connected())
    bench.agent.tell("duplicate_sync t 7 u0 u1 u2")
    request = token.receive(BufferCollectionToken.duplicate_sync)
    if request.table.rights_attenuation_masks != [7, 7, 7]:
        raise Flaw(f"the masks were {request.table.rights_attenuation_masks}, not [7, 7, 7]")
    pairs = [bench.pair(BufferCollectionToken) for _ in range(3)]
    ends, client_ends = zip(*pairs, strict=True)
    token.answer(request, CreateTokensResponse(tokens=list(client_ends)))
    bench.agent.answered("duplicate_sync t 7 u0 u1 u2")
    for number, end in enumerate(ends):
        bench.agent.do(f"start k{number} sync u{number}")
        end.answer(end.receive(Node.sync))
        bench.agent.do(f"finish k{number}")


@check(CHECKS)
def turns_in_a_token(bench: Bench) -> None:
    """BindSharedCollection carries the token's client end, and the client keeps no copy of it."""
    allocator = bench.connected()
    token = shared(bench, allocator)
    bench.agent.tell("bind a t c")
    request = allocator.receive(Allocator.bind_shared_collection)
    bench.agent.answered("bind a t c")
    given = Channel(request.table.token.take())
    expected = given.peer_name()
    given.close()
    if expected != token.name:
        raise Flaw("BindSharedCollection carried another channel than the token's client end")
    token.expect_end("of a token after it has turned it in")
    made = allocator.take(BufferCollection, request.table.buffer_collection_request)
    bench.agent.tell("sync c")
    made.answer(made.receive(Node.sync))
    bench.agent.answered("sync c")


@check(CHECKS)
def sets_constraints(bench: Bench) -> None:
    """SetConstraints carries exactly the constraints of the command."""
    end = collection(bench)
    bench.agent.tell("constrain c 10 65536 3")
    request = end.receive(BufferCollection.set_constraints)
    bench.agent.answered("constrain c 10 65536 3")
    constraints = request.table.constraints
    memory = constraints and constraints.buffer_memory_constraints
    if (
        constraints is None
        or memory is None
        or constraints.usage != BufferUsage(cpu=CpuUsage(10))
        or constraints.min_buffer_count_for_camping != 3
        or memory.min_size_bytes != 65536
    ):
        raise Flaw(
            f"expected CPU usage 10, 3 buffers for camping and at least 65536 bytes, got {constraints}"
        )


@check(CHECKS)
def sends_in_order(bench: Bench) -> None:
    """Messages arrive in the order of the commands, also when more are sent than fit into the channel."""
    token = shared(bench, bench.connected())
    for number in range(_MANY):
        bench.agent.tell(f"name t {number} n{number}")
    for number in range(_MANY):
        request = token.receive(Node.set_name)
        if (request.table.priority, request.table.name) != (number, f"n{number}"):
            raise Flaw(f"message {number} was {request.table}")
    for number in range(_MANY):
        bench.agent.answered(f"name t {number} n{number}")


@check(CHECKS)
def releases(bench: Bench) -> None:
    """Release is the last message on a channel, and the client end closes after the daemon's end has closed."""
    end = collection(bench)
    bench.agent.tell("release c")
    end.receive(Node.release)
    end.channel.shutdown_sending()
    bench.agent.answered("release c")
    end.expect_end("after Release")


@check(CHECKS)
def closes(bench: Bench) -> None:
    """Closing a channel sends nothing and closes the last descriptor of the client end."""
    end = collection(bench)
    bench.agent.do("close c")
    end.expect_end("when it was told to close")


@check(CHECKS)
def passes_a_token_on(bench: Bench) -> None:
    """The client keeps no copy of a token that it gives to another process, and can no longer use it."""
    token = shared(bench, bench.connected())
    bench.agent.do("give t")
    received(bench).close()
    token.expect_end("of a token that it has given away")


@check(CHECKS)
def receives_a_token(bench: Bench) -> None:
    """A token that it receives from another process can be used like any other."""
    end, client_end = bench.pair(BufferCollectionToken)
    bench.connected()
    give(bench, client_end)
    bench.agent.do("receive t")
    bench.agent.tell("sync t")
    end.answer(end.receive(Node.sync))
    bench.agent.answered("sync t")


@check(CHECKS)
def keeps_descriptors_to_itself(bench: Bench) -> None:
    """Descriptors that it creates or receives are close-on-exec, and none is left after everything is closed."""
    bench.connected()
    bench.agent.do("close a")
    before = bench.agent.descriptors()
    allocator = bench.connected()
    token = shared(bench, allocator)
    bench.agent.tell("duplicate t 2147483648 u")
    request = token.receive(BufferCollectionToken.duplicate)
    bench.agent.answered("duplicate t 2147483648 u")
    bound(bench, allocator, token)
    opened = {fd: what for fd, what in bench.agent.descriptors().items() if fd not in before}
    for fd, what in opened.items():
        if not bench.agent.flags(fd) & _CLOEXEC:
            raise Flaw(f"descriptor {fd} of the agent, {what}, is not closed by exec")
    for name in "acu":
        bench.agent.do(f"close {name}")
    request.table.token_request.close()
    left = {fd: what for fd, what in bench.agent.descriptors().items() if before.get(fd) != what}
    if left:
        raise Flaw(f"the agent has left open {left}")


def give(bench: Bench, client_end: Handle) -> None:
    """Give the agent a token's client end over its socket. Takes ownership of the handle."""
    with client_end:
        socket.send_fds(bench.agent.socket, [b"\0"], [client_end.fileno()])


def received(bench: Bench) -> Handle:
    """Return the token's client end that the agent has sent over its socket."""
    if not readable(bench.agent.socket, time.monotonic() + bench.patience):
        raise Flaw("no token came over the agent's socket")
    _, fds, _, _ = socket.recv_fds(bench.agent.socket, 4096, 4, socket.MSG_CMSG_CLOEXEC)
    handles = [Handle(fd) for fd in fds]
    bench.own(*handles)
    if len(handles) != 1:
        raise Flaw(f"a token is one descriptor; {len(handles)} came")
    return handles[0]
