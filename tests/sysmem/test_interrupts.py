"""An exception that comes between any two instructions leaves no descriptor that nobody owns.

As KeyboardInterrupt does, which comes in fewer places than are tried here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import sysmem
from sysmem import blocking
from sysmem.blocking import frames
from sysmem_protocol import sysmem2 as m
from sysmem_protocol.channel import Channel
from sysmem_protocol.codec import encode_response
from sysmem_protocol.handles import Handle, channel_pair, eventpair
from sysmem_protocol.library import Method, Table
from sysmem_protocol.message import Message
from sysmem_protocol.owner import Owner
from sysmem_protocol.runtime import socket_address

from ..conftest import open_descriptors
from .interrupting import Interrupt, at_every_instruction, in_own_thread, interrupt

pytestmark = [
    # What an exception drops is closed, and may be warned about; in a finalizer it is only reported.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

#: Makes what a call needs, and has it closed later.
Prepare: TypeAlias = Callable[[ExitStack], Any]


def node(
    kind: Any, method: Method | None = None, answer: Callable[[], Table] | None = None
) -> Prepare:
    """A node whose first call will be answered so."""

    def prepare(stack: ExitStack) -> Any:
        near, far = channel_pair()
        peer = stack.enter_context(closing(Channel(far.detach())))
        if method is not None:
            table = answer and answer()
            message = Message(1, method.ordinal, *encode_response(method, table))
            [(data, handles)] = message.datagrams()
            assert peer.send(data, handles)
            message.close()
        return stack.enter_context(kind.from_fd(near.detach()))

    return prepare


def end() -> Handle:
    """One end of a pair, to be sent."""
    near, far = eventpair()
    far.close()
    return near


def channel_end() -> Handle:
    """A client end, to be sent."""
    near, far = channel_pair()
    far.close()
    return Handle(near.detach())


def buffers() -> Table:
    """An answer with a buffer and its event."""
    made = [m.VmoBuffer(vmo=memory(), vmo_usable_start=0, close_weak_asap=end())]
    info: Any = m.BufferCollectionInfo(buffers=made, buffer_collection_id=5)
    return m.BufferCollectionWaitForAllBuffersAllocatedResponse(buffer_collection_info=info)


def memory() -> Handle:
    """The memory of a buffer, to be sent."""
    return Handle(os.memfd_create("buffer", os.MFD_CLOEXEC))


def event(stack: ExitStack) -> blocking.EventPair:
    """An event that hasn't happened."""
    near, far = eventpair()
    stack.enter_context(far)
    return stack.enter_context(blocking.EventPair(near.take()))


def vmo(stack: ExitStack) -> sysmem.Vmo:
    """A VMO with a page."""
    made = stack.enter_context(sysmem.Vmo(memory().take()))
    os.truncate(made.fileno(), 4096)
    return made


def listener(stack: ExitStack) -> Path:
    """The directory of a daemon that accepts connections, too long for an address."""
    directory = Path("/tmp") / ("sysmem-" + "d" * 120)
    directory.mkdir(exist_ok=True)
    stack.callback(directory.rmdir)
    path = directory / "fuchsia.sysmem2.Allocator"
    listening = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    with socket_address(path) as address:
        listening.bind(address)
    stack.callback(path.unlink)
    listening.listen()
    return directory


def stream(stack: ExitStack, count: int = 1) -> tuple[frames.FrameSender, frames.FrameReceiver]:
    """Both ends of a stream with `count` buffers, the last of which holds a frame on its way."""
    near, far = frames.pair()
    sender = stack.enter_context(frames.FrameSender(count, near))
    receiver = stack.enter_context(frames.FrameReceiver(far))
    sender.send(sender.acquire())
    return sender, receiver


def frame_ends(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection for frames."""
    near, far = frames.pair()
    return stack.enter_context(near), stack.enter_context(far)


def release_a_frame(ends: tuple[frames.FrameSender, frames.FrameReceiver]) -> None:
    """Receive a frame and release it."""
    with ends[1].receive():
        pass


TOKEN = blocking.BufferCollectionToken
CALLS: dict[str, tuple[Prepare, Callable[[Any], Any]]] = {
    "sync": (node(TOKEN, m.Node.sync), lambda token: token.sync()),
    "sync in time": (node(TOKEN, m.Node.sync), lambda token: token.sync(timeout=20)),
    "duplicate": (node(TOKEN), lambda token: token.duplicate()),
    "duplicate_sync": (
        node(
            TOKEN,
            m.BufferCollectionToken.duplicate_sync,
            lambda: m.CreateTokensResponse(tokens=[channel_end()]),
        ),
        lambda token: token.duplicate_sync([1]),
    ),
    "get_node_ref": (
        node(TOKEN, m.Node.get_node_ref, lambda: m.NodeGetNodeRefResponse(node_ref=end())),
        lambda token: token.get_node_ref(),
    ),
    "attach_node_tracking": (node(TOKEN), lambda token: token.attach_node_tracking()),
    "wait_for_all_buffers_allocated": (
        node(
            blocking.BufferCollection,
            m.BufferCollection.wait_for_all_buffers_allocated,
            buffers,
        ),
        lambda collection: collection.wait_for_all_buffers_allocated(),
    ),
    "wait_closed": (node(TOKEN), lambda token: token.wait_closed(0)),
    "release": (node(TOKEN), lambda token: token.release()),
    "close": (node(TOKEN), lambda token: token.close()),
    "wait_closed of an event": (event, lambda event: event.wait_closed(0.001)),
    "duplicate of an event": (event, lambda event: event.duplicate()),
    "duplicate of a VMO": (vmo, lambda vmo: vmo.duplicate()),
    "map": (vmo, lambda vmo: vmo.map().__enter__().release()),
    "connect": (listener, blocking.connect),
    "FrameSender": (frame_ends, lambda ends: frames.FrameSender(1, *ends)),
    "FrameReceiver": (frame_ends, lambda ends: frames.FrameReceiver(ends[0])),
    "a frame": (stream, release_a_frame),
    "a consumer leaves": (stream, lambda ends: (ends[1].close(), ends[0].acquire())[0]),
    "close of a FrameSender": (stream, lambda ends: ends[0].close()),
}


@pytest.mark.parametrize(("prepare", "call"), CALLS.values(), ids=CALLS)
@in_own_thread
def test_an_exception_anywhere_in_a_call(prepare: Prepare, call: Callable[[Any], Any]) -> None:
    interrupts = 0
    for at in at_every_instruction(interrupt):
        before = open_descriptors()
        with ExitStack() as stack:
            given = prepare(stack)
            made = None
            with contextlib.suppress(Interrupt), at:
                made = call(given)
            interrupts += at.done
            for each in made if isinstance(made, list) else [made]:
                if isinstance(each, Owner | sysmem.BufferCollectionInfo):
                    each.close()
            del made, given
        left = {fd: what for fd, what in open_descriptors().items() if before.get(fd) != what}
        assert not left, f"after {interrupts} interrupts"
    assert interrupts > 10


@pytest.mark.parametrize("kind", [TOKEN, sysmem.BufferCollectionToken, sysmem.Vmo])
@in_own_thread
def test_an_exception_anywhere_in_a_finalizer(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # What reports the exception must not keep the object alive.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    interrupts = 0
    for at in at_every_instruction(interrupt):
        before = open_descriptors()
        near, far = channel_pair()
        with far:
            given = kind(near.detach())
            with at:
                del given
        interrupts += at.done
        assert open_descriptors() == before
    assert interrupts > 10
