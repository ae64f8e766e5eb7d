"""Checks of how a client handles what it receives: responses of every form, events, and the end of a channel."""

from __future__ import annotations

import os
import time
from typing import Final

from sysmem_protocol.codec import encode
from sysmem_protocol.explained import Allocator as ExplainedAllocator
from sysmem_protocol.explained import ExplainedOnExplainedEvent
from sysmem_protocol.handles import Handle, eventpair
from sysmem_protocol.message import FLAGS, HEADER, MAGIC
from sysmem_protocol.sysmem2 import (
    BufferCollection,
    BufferCollectionInfo,
    BufferCollectionWaitForAllBuffersAllocatedResponse,
    BufferMemorySettings,
    Error,
    Node,
    SingleBufferSettings,
    VmoBuffer,
)

from ._bench import Bench, Check, End, Flaw, NotClaimed, Request, check, readable
from ._requests import constrained, shared

CHECKS: Final[list[Check]] = []
_SIZE: Final = 4096
#: The maximum number of buffers of a collection; a weak participant gets twice as many descriptors.
_MANY: Final = 128
#: The ordinal of no method and no event.
_UNKNOWN_ORDINAL: Final = 0x7001_0203_0405_0607


def vmo(content: bytes = b"") -> Handle:
    """Return memory for a buffer."""
    fd = os.memfd_create("conformance", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, _SIZE)
    os.pwrite(fd, content, 0)
    return Handle(fd)


def info(buffers: list[VmoBuffer]) -> BufferCollectionWaitForAllBuffersAllocatedResponse:
    """Return the response with these buffers."""
    memory = BufferMemorySettings(size_bytes=_SIZE, raw_vmo_size=_SIZE)
    return BufferCollectionWaitForAllBuffersAllocatedResponse(
        buffer_collection_info=BufferCollectionInfo(
            settings=SingleBufferSettings(buffer_settings=memory),
            buffers=buffers,
            buffer_collection_id=7,
        )
    )


def waiting(bench: Bench) -> tuple[End, Request]:
    """Make the agent wait for the buffers of its collection `c`, as call `w`. Return the daemon's end, and the call."""
    end = constrained(bench)
    bench.agent.do("start w wait c")
    return end, end.receive(BufferCollection.wait_for_all_buffers_allocated)


def allocated(bench: Bench, memory: list[Handle]) -> End:
    """Give buffers to the agent. Return the daemon's end of its collection `c`."""
    end, request = waiting(bench)
    buffers = [VmoBuffer(vmo=each.duplicate(), vmo_usable_start=0) for each in memory]
    end.answer(request, info(buffers))
    bench.agent.tell("finish w")
    bench.agent.answered("finish w", f"ok {len(memory)} {_SIZE}")
    return end


@check(CHECKS)
def gets_buffers(bench: Bench) -> None:
    """WaitForAllBuffersAllocated gives the buffers in order, and they refer to the same memory."""
    memory = [vmo(b"first"), vmo(b"second")]
    bench.own(*memory)
    allocated(bench, memory)
    for index, content in enumerate((b"first", b"second")):
        bench.agent.tell(f"read c {index} {len(content)}")
        bench.agent.answered(f"read c {index} {len(content)}", f"ok {content.hex()}")
    bench.agent.do(f"write c 1 {b'hello'.hex()}")
    if os.pread(memory[1].fileno(), 5, 0) != b"hello":
        raise Flaw("the agent's writes are not visible in the memory of the buffer")


@check(CHECKS)
def respects_read_only_buffers(bench: Bench) -> None:
    """A read-only buffer is mapped for reading only. A write is refused without a crash."""
    memory = vmo(b"given")
    bench.own(memory)
    reading = Handle(os.open(f"/proc/self/fd/{memory.fileno()}", os.O_RDONLY | os.O_CLOEXEC))
    bench.own(reading)
    allocated(bench, [reading])
    bench.agent.tell("read c 0 5")
    bench.agent.answered("read c 0 5", f"ok {b'given'.hex()}")
    bench.agent.tell("write c 0 00")
    bench.agent.answered("write c 0 00", "denied")


@check(CHECKS)
def tells_errors(bench: Bench) -> None:
    """An error is reported by its number."""
    end, request = waiting(bench)
    end.answer(request, Error.CONSTRAINTS_INTERSECTION_EMPTY)
    bench.agent.tell("finish w")
    bench.agent.answered("finish w", "error 6")


@check(CHECKS)
def tells_errors_that_have_no_name(bench: Bench) -> None:
    """An error is also reported if its number has no name in the protocol yet."""
    end, request = waiting(bench)
    end.answer_raw(request, bytes.fromhex("a102190fa0"))
    bench.agent.tell("finish w")
    bench.agent.answered("finish w", "error 4000")


@check(CHECKS)
def checks(bench: Bench) -> None:
    """CheckAllBuffersAllocated succeeds with an empty table, or fails."""
    end = constrained(bench)
    for answer, expected in ((Error.PENDING, "error 7"), (None, "ok")):
        bench.agent.tell("check c")
        end.answer(end.receive(BufferCollection.check_all_buffers_allocated), answer)
        bench.agent.answered("check c", expected)


@check(CHECKS)
def ignores_fields_that_it_does_not_know(bench: Bench) -> None:
    """Fields with an unknown number are ignored, whatever they hold, and descriptors in them are closed."""
    token = shared(bench, bench.connected())
    bench.agent.do("start k id t")
    request = token.receive(Node.get_buffer_collection_id)
    reading, writing = (Handle(fd) for fd in os.pipe2(os.O_CLOEXEC))
    bench.own(reading, writing)
    # [-1, "text", {1: null, 2: 1.5}, h'00', handle 0, undefined, 2**64 - 1]
    strange = (
        "87 20 64 74657874 a2 01 f6 02 fb 3ff8000000000000 41 00 d9 7a5d 00 f7 1b ffffffffffffffff"
    )
    token.answer_raw(request, bytes.fromhex(f"a2 01 07 19 1388 {strange}"), [writing])
    writing.close()
    bench.agent.tell("finish k")
    bench.agent.answered("finish k", "ok 7")
    if not readable(reading, time.monotonic() + bench.patience):
        raise Flaw("a descriptor in a field that the client doesn't know was not closed")


@check(CHECKS)
def puts_a_split_answer_together(bench: Bench) -> None:
    """A response whose descriptors come in several datagrams is one response. Indices count over all of them."""
    end, request = waiting(bench)
    buffers, events = [], []
    for index in range(_MANY):
        ours, theirs = eventpair()
        events.append(ours)
        content = f"{index:03}".encode()
        buffers.append(VmoBuffer(vmo=vmo(content), vmo_usable_start=0, close_weak_asap=theirs))
    bench.own(*events)
    end.answer(request, info(buffers))
    bench.agent.tell("finish w")
    bench.agent.answered("finish w", f"ok {_MANY} {_SIZE}")
    for index in (0, 62, 63, 126, 127):
        bench.agent.tell(f"read c {index} 3")
        bench.agent.answered(f"read c {index} 3", f"ok {f'{index:03}'.encode().hex()}")


@check(CHECKS)
def takes_answers_in_any_order(bench: Bench) -> None:
    """A call can be answered while an earlier one waits."""
    memory = vmo()
    bench.own(memory)
    end, waits = waiting(bench)
    bench.agent.tell("sync c")
    end.answer(end.receive(Node.sync))
    bench.agent.answered("sync c")
    end.answer(waits, info([VmoBuffer(vmo=memory.duplicate(), vmo_usable_start=0)]))
    bench.agent.tell("finish w")
    bench.agent.answered("finish w", f"ok 1 {_SIZE}")


@check(CHECKS)
def ignores_events_that_it_does_not_know(bench: Bench) -> None:
    """A message with txid 0 is an event. An unknown event is ignored, and descriptors in it are closed."""
    end, request = waiting(bench)
    reading, writing = (Handle(fd) for fd in os.pipe2(os.O_CLOEXEC))
    bench.own(reading, writing)
    head = HEADER.pack(0, FLAGS, MAGIC, _UNKNOWN_ORDINAL)
    end.send(head + bytes.fromhex("a1 01 d9 7a5d 00"), [writing])
    writing.close()
    end.answer(request, Error.NO_MEMORY)
    bench.agent.tell("finish w")
    bench.agent.answered("finish w", "error 5")
    if not readable(reading, time.monotonic() + bench.patience):
        raise Flaw("a descriptor in an event that the client doesn't know was not closed")


@check(CHECKS)
def keeps_a_reason(bench: Bench) -> None:
    """A client that supports Explained asks for reasons, and reports a reason together with the error that follows."""
    allocator = bench.connected()
    if "explained" not in bench.features:
        raise NotClaimed
    bench.agent.tell("explain a")
    request = allocator.receive(ExplainedAllocator.set_explain)
    bench.agent.answered("explain a")
    if request.table.explain is not True:
        raise Flaw("SetExplain must ask for reasons")
    token = shared(bench, allocator)
    bench.agent.do("start k sync t")
    call = token.receive(Node.sync)
    with vmo(b"everything") as report:
        body, handles = encode(
            ExplainedOnExplainedEvent(
                error=Error.NO_MEMORY, line="the machine is full", report=report
            )
        )
        ordinal = ExplainedAllocator.on_explained.ordinal
        token.send(HEADER.pack(0, FLAGS, MAGIC, ordinal) + body, handles)
    token.answer(call)
    bench.agent.do("finish k")
    token.close()
    bench.agent.do("wait_closed t")
    bench.agent.tell("reason t")
    bench.agent.answered("reason t", "ok the machine is full")


@check(CHECKS)
def notices_the_end_during_a_call(bench: Bench) -> None:
    """Peer-closed ends every outstanding call on the channel, and every later one."""
    end, _ = waiting(bench)
    bench.agent.do("start k sync c")
    end.receive(Node.sync)
    end.close()
    for command in ("finish w", "finish k", "sync c", "wait_closed c"):
        bench.agent.tell(command)
        bench.agent.answered(command, "ok" if command == "wait_closed c" else "closed")


@check(CHECKS)
def reads_what_came_before_the_end(bench: Bench) -> None:
    """Messages that the daemon sent before it closed are read, even if unread messages cause ECONNRESET."""
    end, request = waiting(bench)
    bench.agent.do("name c 1 unread")
    end.answer(request, Error.NO_MEMORY)
    end.close()
    bench.agent.tell("finish w")
    bench.agent.answered("finish w", "error 5")
    bench.agent.do("wait_closed c")


@check(CHECKS)
def closes_what_it_was_given(bench: Bench) -> None:
    """Closing a collection closes its buffers. A late response to a cancelled call is closed too."""
    memory = vmo()
    bench.own(memory)
    before = bench.agent.descriptors()
    end = allocated(bench, [memory] * 3)
    bench.agent.do("start late wait c")
    request = end.receive(BufferCollection.wait_for_all_buffers_allocated)
    end.answer(request, info([VmoBuffer(vmo=memory.duplicate(), vmo_usable_start=0)]))
    for name in "ca":
        bench.agent.do(f"close {name}")
    left = {fd: what for fd, what in bench.agent.descriptors().items() if before.get(fd) != what}
    if left:
        raise Flaw(f"the agent has left open {left}")
