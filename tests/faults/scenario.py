"""The client of the fault tests: it makes every request of the protocol, while system calls of the daemon fail.

Each part of the requests may fail with any documented error. Other clients must not fail; they are checked afterwards.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from sysmem import DaemonUnavailableError, SysmemError
from sysmem._inspector import Inspector

from ..wire.protocol import constraints
from ..wire.raw import Allocator, PeerClosed, Refused, Wire

#: The heap has room for little more than one buffer of the scenario.
CAPPED_HEAP = "capped"
CONFIGURATION = f"""
mode = "0666"

[[heap]]
type = "{CAPPED_HEAP}"
max_bytes = 65536
"""

#: The user with this name, which has no rights.
_NOBODY = 65534
#: The errors that a client may get if the daemon can't fulfil a request.
EXPECTED = (
    PeerClosed,
    Refused,
    OSError,
    AssertionError,
    SysmemError,
    DaemonUnavailableError,
    TimeoutError,
)


def run(runtime_dir: Path, patience: float, *, strict: bool = False) -> None:
    """Make all requests, as far as possible. No call waits longer than `patience` seconds.

    With `strict` all must succeed.
    """
    expected = () if strict else EXPECTED
    for part in PARTS:
        with contextlib.suppress(*expected), Wire(runtime_dir) as wire:
            part(wire.connect())
    with (
        contextlib.suppress(*expected),
        Inspector.connect(runtime_dir, timeout=patience) as inspector,
    ):
        snapshot = inspector.snapshot(timeout=patience)
        for ended in snapshot["ended"][:1]:
            inspector.explain(ended["id"], timeout=patience)


def negotiate(allocator: Allocator) -> None:
    """Negotiate between two participants with both kinds of tracking; hold the buffers after the collection's end."""
    token = allocator.shared()
    child = token.duplicate_token()
    token.set_name(1, "faults")
    token.track_node()
    token.sync()
    one, two = allocator.bind(token), allocator.bind(child)
    one.track_lifetime()
    one.set_constraints(constraints(camping=2))
    wait = one.request_wait()
    two.set_constraints(constraints())
    info = one.wait_answer(wait)
    info.vmo().map()
    two.wait()
    two.track_lifetime(1)
    one.release_and_close()
    two.release_and_close()
    allocator.sync()
    info.close()


def weak(allocator: Allocator) -> None:
    """Use a weak participant, a node ref, GetVmoInfo, and the event that closes when the strong participants leave."""
    root = allocator.shared()
    child = root.duplicate_token()
    root.sync()
    child.set_weak()
    one, two = allocator.bind(root), allocator.bind(child)
    assert not one.is_alternate_for(two.node_ref())
    one.set_constraints(constraints())
    two.set_constraints(constraints())
    strong, held = one.wait(), two.wait()
    allocator.vmo_info(strong.vmo(), need_weak=True, need_settings=True)
    allocator.vmo_info(held.vmo(), settings_of=strong.vmo().duplicate())
    one.release_and_close()
    strong.close()
    held.close_weak_asap().wait_closed()


def group(allocator: Allocator) -> None:
    """Use a group whose first child is refused, a dispensable participant, and one that attaches later."""
    root = allocator.shared()
    group = root.group()
    first, second = group.children_sync([0x80000000] * 2)
    group.all_children_present()
    dispensable = root.duplicate_sync([0x80000000])[0]
    dispensable.set_dispensable()
    collections = [allocator.bind(token) for token in (root, first, second, dispensable)]
    for collection in collections:
        collection.set_constraints(
            constraints(size=1 << 40 if collection is collections[1] else 64)
        )
    collections[0].wait()
    token = collections[0].attach()
    collections[0].sync()
    attached = allocator.bind(token)
    attached.set_constraints(constraints(camping=0, size=64))
    attached.wait()
    dispensable.close()


def foreign(allocator: Allocator) -> None:
    """Send the client's own files: as a buffer, as a token, and with garbage. Closing these files may fail."""
    with tempfile.NamedTemporaryFile() as file:
        with contextlib.suppress(Refused):
            allocator.vmo_info(allocator.wire.file(file.name))
        for path in (file.name, "/dev/null"):
            garbage = allocator.non_shared()
            garbage.send_bytes(b"garbage", [allocator.wire.file(path)])
            garbage.rest()
            misled = allocator.wire.connect()
            client, _ = allocator.wire.pair()
            token = allocator.wire.file(path)
            misled.send("Allocator.BindSharedCollection", {1: token, 2: client})
            misled.rest()


def refuse(allocator: Allocator) -> None:
    """Set constraints that conflict, ask for the report, and break a rule of the protocol."""
    token = allocator.shared()
    child = token.duplicate_token()
    one, two = allocator.bind(token), allocator.bind(child)
    one.send("Node.SetVerboseLogging")
    one.set_constraints(constraints(camping=3))
    two.set_constraints(constraints(more={6: 1}))
    one.rest()
    broken = allocator.non_shared()
    broken.release()
    broken.send("Node.SetVerboseLogging")
    broken.rest()


def fill(allocator: Allocator) -> None:
    """Ask for more than a limited heap has, and again when it is free."""
    wanted = constraints(size=40_000, memory={8: [{1: CAPPED_HEAP}]})
    for _ in range(2):
        kept, beyond = allocator.non_shared(), allocator.non_shared()
        kept.set_constraints(wanted)
        info = kept.wait()
        beyond.set_constraints(wanted)
        beyond.rest()
        kept.release_and_close()
        info.close()
        allocator.sync()


def meet(allocator: Allocator) -> None:
    """Offer a token and take it."""
    token = allocator.shared()
    token.sync()
    offering, taking = allocator.wire.rendezvous(), allocator.wire.rendezvous()
    offer = offering.offer("faults", token)
    taken = taking.taken(taking.take("faults"))
    offering.answer(offer)
    allocator.bind(taken).sync()


def another_user(allocator: Allocator) -> None:
    """Connect and disconnect as another user, which only root can do."""
    if os.geteuid() != 0:
        return
    before = os.getcwd()
    os.chdir(allocator.wire.directory)  # other users may not be able to reach the socket
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.seteuid(_NOBODY)
    try:
        connected.connect("fuchsia.sysmem2.Allocator")
    except BaseException:
        connected.close()
        raise
    finally:
        os.seteuid(0)
        os.chdir(before)
    negotiate(Allocator(allocator.wire, connected))


def stop_reading(allocator: Allocator) -> None:
    """Leave responses unread, with and without descriptors."""
    silent = allocator.shared()
    for txid in range(1, 600):
        silent.send("Node.GetNodeRef" if txid % 100 == 0 else "Node.Sync", txid=txid)
    allocator.sync()
    for txid in range(1, 600):
        silent.answer(txid)


PARTS: tuple[Callable[[Allocator], None], ...] = (
    negotiate,
    weak,
    group,
    foreign,
    refuse,
    fill,
    meet,
    another_user,
    stop_reading,
)
