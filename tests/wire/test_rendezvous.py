"""`docs/spec/client-api.md`, "Passing tokens": the protocol Rendezvous, in bytes."""

from __future__ import annotations

import os
from typing import Any

import pytest

from .process import Daemon
from .protocol import HANDLE_ACCESS_DENIED, NOT_FOUND
from .raw import Descriptor, PeerClosed, Refused, Wire


@pytest.mark.parametrize("first", ["offer", "take"])
def test_a_taken_token_is_turned_in_by_its_new_owner(wire: Wire, first: str) -> None:
    allocator, here, there = wire.connect(), wire.rendezvous(), wire.rendezvous()
    token = allocator.shared()
    if first == "take":
        taking = there.take("camera")
    offering = here.offer("camera", token)
    if first == "offer":
        taking = there.take("camera")
    given = there.taken(taking)
    assert here.answer(offering).result() == {}
    collection = allocator.bind(given)
    collection.allocate()


def test_an_offer_needs_no_sync(wire: Wire) -> None:
    """The other end of the token may reach the daemon after the token does."""
    here, there = wire.rendezvous(), wire.rendezvous()
    client, server = wire.pair()
    offering = here.offer("camera", Descriptor(wire, client.detach()))
    allocator = wire.connect()
    allocator.send("Allocator.AllocateSharedCollection", {1: server})
    allocator.validate(0)
    given = there.taken(there.take("camera"))
    assert here.answer(offering).result() == {}
    given.sync()


def test_one_offer_of_a_name_at_a_time(wire: Wire) -> None:
    allocator, here, there = wire.connect(), wire.rendezvous(), wire.rendezvous()
    offering = here.offer("camera", allocator.shared())
    for name, to_uid in (("camera", None), ("camera", os.getuid())):
        with pytest.raises(Refused) as caught:
            there.answer(there.offer(name, allocator.shared(), to_uid)).result()
        assert caught.value.error == HANDLE_ACCESS_DENIED
    there.offer("camera", allocator.shared(), os.getuid() + 1)
    there.offer("display", allocator.shared())
    there.taken(there.take("camera"))
    assert here.answer(offering).result() == {}
    here.offer("camera", allocator.shared())


def test_an_offer_is_as_alive_as_its_channel(wire: Wire) -> None:
    allocator, here, there = wire.connect(), wire.rendezvous(), wire.rendezvous()
    token = allocator.shared()
    token.sync()
    watched = token.track_node()
    here.offer("camera", token)
    taking = there.take("other name")
    here.close()
    watched.wait_closed()
    there.offer("other name", allocator.shared())
    there.taken(taking)
    there.offer("camera", allocator.shared())


def test_what_is_no_token_is_not_found(wire: Wire) -> None:
    allocator, here = wire.connect(), wire.rendezvous()
    collection = allocator.non_shared()
    collection.sync()
    with pytest.raises(Refused) as caught:
        here.answer(here.offer("camera", collection.duplicate())).result()
    assert caught.value.error == NOT_FOUND
    collection.sync()


@pytest.mark.parametrize(
    ("method", "table"),
    [
        ("Rendezvous.Offer", {1: "camera"}),
        ("Rendezvous.Take", {}),
        ("Rendezvous.Take", {1: "x" * 257}),
        ("Rendezvous.Take", {1: 7}),
        ("Node.Sync", None),
    ],
)
def test_bad_input_closes_the_channel(
    wire: Wire, method: str, table: dict[int, Any] | None
) -> None:
    here = wire.rendezvous()
    here.request(method, table)
    here.assert_closes()


def test_a_file_is_no_token(wire: Wire) -> None:
    here = wire.rendezvous()
    here.request("Rendezvous.Offer", {1: "camera", 2: wire.memfd()})
    here.assert_closes()


def test_the_end_of_the_daemon_is_seen(daemon: Daemon, start: Any) -> None:
    own = start()
    with Wire(own.runtime_dir) as wire:
        here = wire.rendezvous()
        offering = here.offer("camera", wire.connect().shared())
        here.take("display")
        own.stop()
        with pytest.raises(PeerClosed):
            here.answer(offering)
