"""An object of a channel: its descriptor, its face, and what it is given. The test controls the other end."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import anyio
import numpy as np
import pytest

import sysmem
from sysmem import blocking
from sysmem_protocol import sysmem2 as m
from sysmem_protocol.handles import Handle

Ends = tuple[int, Any]  # the client end's descriptor, and the peer of conftest.py


@pytest.fixture
def peer(ends: Ends) -> Any:
    return ends[1]


def test_detach_gives_the_descriptor(token: Any, peer: Any) -> None:
    fd = token.detach()
    assert token.closed
    with blocking.BufferCollectionToken.from_fd(fd) as again:
        peer.echo(1)
        again.sync()


def test_detach_is_refused_while_a_thread_waits(token: Any, peer: Any, until_asleep: Any) -> None:
    waiting = threading.Thread(target=token.sync)
    waiting.start()
    request = peer.receive()
    until_asleep(waiting)
    with pytest.raises(RuntimeError, match="waits"):
        token.detach()
    peer.send(request)
    waiting.join()


def test_from_fd_takes_channels_only() -> None:
    with Handle(os.memfd_create("no channel")) as file:
        with pytest.raises(ValueError, match="regular file"):
            blocking.BufferCollectionToken.from_fd(file.fileno())
        assert not file.closed


def test_from_fd_takes_numbers_only(ends: Ends) -> None:
    with socket.socket(fileno=ends[0]) as sock:
        with pytest.raises(TypeError, match=r"expected an int, not socket; its detach\(\) returns"):
            blocking.BufferCollectionToken.from_fd(sock)  # type: ignore[arg-type]  # what is tested
        number = np.int64(sock.fileno())
        with pytest.raises(ValueError, match="descriptor 99999 is not open"):
            blocking.BufferCollectionToken.from_fd(99999)
        with blocking.BufferCollectionToken.from_fd(number) as token:  # type: ignore[arg-type]  # as above
            assert token.detach() == sock.fileno()


def test_an_object_of_the_other_face_is_named_as_such(token: Any) -> None:
    other = sysmem.BufferCollectionToken.__new__(sysmem.BufferCollectionToken)
    bind = blocking.Allocator.bind_shared_collection
    with pytest.raises(TypeError) as caught:
        bind(token, other)  # type: ignore[arg-type]  # what is tested
    assert str(caught.value) == (
        "expected a sysmem.blocking.BufferCollectionToken, not sysmem.BufferCollectionToken: "
        "an object can only be used with the face that created it"
    )
    with pytest.raises(TypeError, match=r"Token, not NoneType$"):
        bind(token, None)  # type: ignore[arg-type]  # as above
    with pytest.raises(
        TypeError, match=r"a sysmem\.BufferColl.*, not sysmem\.blocking\.Buff.*face"
    ):
        anyio.run(sysmem.Allocator.bind_shared_collection, other, token)  # type: ignore[arg-type]  # as above


def test_dropping_without_close_closes_and_warns(ends: Ends) -> None:
    fd, peer = ends
    token = blocking.BufferCollectionToken.from_fd(fd)
    held = [token]
    del token
    with pytest.warns(ResourceWarning, match="BufferCollectionToken"):
        held.clear()
    with pytest.raises(ConnectionError):
        peer.receive()


def test_the_koid_is_in_the_name_of_the_peer(token: Any, peer: Any) -> None:
    assert token.server_koid == 0
    peer.channel.bind(f"\0sysmem/{os.getpid()}-test/1234".encode())
    assert token.server_koid == 1234


def test_a_new_node_is_usable_before_the_daemon_has_seen_it(token: Any, peer: Any) -> None:
    with token.duplicate(sysmem.Rights.READ) as child:
        child.set_dispensable()
        message = peer.receive()
        [server_end] = message.handles
        with socket.socket(fileno=server_end.take()) as sock:
            assert sock.recv(100)[8:16] == m.BufferCollectionToken.set_dispensable.ordinal.to_bytes(
                8, "little"
            )


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda t: t.set_name(-1, "x"), ValueError),
        (lambda t: t.set_name(0, "x" * 65), ValueError),
        (lambda t: t.set_name("0", "x"), TypeError),
        (lambda t: t.set_name(0, None), TypeError),
        (lambda t: t.duplicate("all"), TypeError),
        (lambda t: t.duplicate(None), TypeError),
        (lambda t: t.duplicate(1 << 32), ValueError),
        (lambda t: t.duplicate_sync([1] * 65), ValueError),
        (lambda t: t.is_alternate_for("no"), TypeError),
        (lambda t: t.is_alternate_for(None), TypeError),
        (lambda t: t.is_alternate_for(-1), ValueError),
        (lambda t: t.is_alternate_for(99999), ValueError),
    ],
)
def test_what_cannot_be_encoded_is_refused_before_anything_is_sent(
    token: Any, peer: Any, call: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        call(token)
    assert peer.channel.receive() is None
    peer.echo(1)
    token.sync()
