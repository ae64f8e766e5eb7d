"""Random sequences of messages, closes and kills over real sockets: daemon and model must agree after every step.

The model is the one that the tree's own tests use. A participant that is killed is a process that holds the client end.
The effects on other participants are waited for, and no other effect may occur.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import randoms

import sysmem
from sysmem import blocking
from sysmem.testing import Sysmemd

from ..sysmemd.tree.model import DaemonsModel, ModelNode, Wish
from ..wire.protocol import METHODS, header
from ..wire.raw import Wire
from .scenario import ENOUGH, begin_wait

STEPS = 60
EXAMPLES = int(os.environ.get("SYSMEM_TESTS_EXAMPLES", "20"))
MASK = 0x80000000


def any_descriptors(chance: random.Random, stack: ExitStack) -> list[int]:
    """Draw descriptors of any kinds, mostly none. `stack` closes them."""
    near, far = socket.socketpair(
        socket.AF_UNIX, chance.choice([socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
    )
    reading, writing = os.pipe()
    made = [
        *(near.detach(), far.detach(), reading, writing, os.eventfd(0)),
        *(os.memfd_create("foreign"), os.open("/", os.O_PATH), os.open("/dev/zero", os.O_RDONLY)),
    ]
    for fd in made:
        stack.callback(os.close, fd)
    return chance.sample(made, chance.choice([0, 0, 1, 2, len(made)]))


def send_invalid(chance: random.Random, fd: int) -> None:
    """Send a message that no channel accepts, with any descriptors."""
    methods = list(METHODS.items())
    _, (ordinal, two_way) = chance.choice(methods)
    sync, _ = METHODS["Node.Sync"]
    body = chance.randbytes(chance.randrange(1, 60))
    message = chance.choice(
        [
            body,  # no header, or a wrong one
            header(1, sync) + body,  # the method has no payload
            header(0 if two_way else 1, ordinal),  # a call as a one-way message, or the reverse
            header(1, ordinal ^ 1 << 40),  # no method
            header(1, sync, flags=b"\x02\x01\x80"),  # only the daemon splits messages
            header(1, sync, magic=2),
            header(0x80000001, sync),  # a transaction id of the daemon
        ]
    )
    with ExitStack() as stack:
        descriptors = any_descriptors(chance, stack)
        with socket.socket(fileno=os.dup(fd)) as channel:
            socket.send_fds(channel, [message], descriptors)


class Negotiation:
    """One collection, in the daemon and in the model."""

    def __init__(
        self, allocator: blocking.Allocator, directory: Path, chance: random.Random
    ) -> None:
        self.allocator = allocator
        self.directory = directory
        self.chance = chance
        self.model = DaemonsModel(max_group_selections=64)
        self.ends: dict[ModelNode, Any] = {self.model.root: allocator.allocate_shared_collection()}
        self.trackings: list[blocking.EventPair] = []
        self.told: set[ModelNode] = set()
        #: Waits that were sent early. Each must end as the model predicts.
        self.waits: dict[ModelNode, Future[sysmem.BufferCollectionInfo]] = {}

    # --- who can be talked to ---

    def pick(self, *kinds: str) -> ModelNode | None:
        """Pick an open node of one of these kinds that was not released."""
        nodes = [
            node
            for node in self.ends
            if node.kind in kinds
            and node.open
            and not node.failed
            and not node.released
            and node not in self.waits  # a thread waits on this node
        ]
        return self.chance.choice(nodes) if nodes else None

    def adopt(self, parent: ModelNode, *ends: Any) -> None:
        new = [child for child in parent.children if child not in self.ends]
        self.ends.update(zip(new, ends, strict=True))

    def pick_victim(self, *kinds: str) -> ModelNode | None:
        """Pick a node to fail, mostly one whose failure leaves other nodes alive."""
        node = self.pick(*kinds)
        if node is None or node.domain is not self.model.root or self.chance.random() < 0.1:
            return node
        return None

    # --- steps ---

    def grow(self) -> None:
        """Create the first nodes."""
        for _ in range(self.chance.randrange(8)):
            self.chance.choice([self.duplicate, self.duplicate, self.create_group])()
            if self.chance.random() < 0.5:
                self.set_dispensable()

    def duplicate(self) -> None:
        if node := self.pick("token"):
            self.model.create(node, "token", MASK)
            self.adopt(node, self.ends[node].duplicate())

    def create_group(self) -> None:
        if node := self.pick("token"):
            self.model.create(node, "group", MASK)
            group = self.ends[node].create_buffer_collection_token_group()
            self.adopt(node, group)
            [*_, group_node] = self.ends
            self.model.create_sync(group_node, [MASK, MASK])
            self.adopt(group_node, *group.create_children_sync([MASK, MASK]))

    def attach(self) -> None:
        node = self.pick("collection")
        if node and not node.weak:
            self.model.create(node, "token", MASK, attached=True)
            self.adopt(node, self.ends[node].attach_token())
            [*_, attached] = self.ends
            for _ in range(self.chance.randrange(3)):  # a subtree of its own
                self.model.create(attached, "token", MASK)
                self.adopt(attached, self.ends[attached].duplicate())

    def set_dispensable(self) -> None:
        if node := self.pick("token"):
            self.model.set_dispensable(node)
            self.ends[node].set_dispensable()

    def set_weak(self) -> None:
        node = self.pick("token")
        if node and sum(other.strong for other in self.model.in_tree()) > 1:
            self.model.set_weak(node)
            self.ends[node].set_weak()

    def bind(self) -> None:
        if node := self.pick("token"):
            self.take_part(node)

    def take_part(self, node: ModelNode) -> None:
        self.model.bind(node)
        self.ends[node].sync()
        self.ends[node] = self.allocator.bind_shared_collection(self.ends[node])

    def set_constraints(self) -> None:
        node = self.pick("collection")
        if node and not node.constraints_set:
            most = self.chance.choice([128, 128, 128, 6])
            self.say_wish(
                node, (self.chance.choice([0, 1, 1, 2]), self.chance.choice([0, 2]), most)
            )

    def say_wish(self, node: ModelNode, wish: Wish) -> None:
        self.model.set_constraints(node, wish)
        self.ends[node].set_constraints(
            sysmem.BufferCollectionConstraints(
                usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ),
                min_buffer_count_for_camping=wish[0],
                min_buffer_count=wish[1],
                max_buffer_count=wish[2],
                buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=64),
            )
        )

    def wait_early(self) -> None:
        """Wait for the buffers in another thread."""
        node = self.pick("collection")
        if (
            node
            and node.constraints_set
            and node.result is None
            and (not node.weak or node.weak_ok)
        ):
            self.model.wait(node)
            self.waits[node] = begin_wait(self.ends[node])

    def everybody_gets_ready(self) -> None:
        """Make all nodes ready, which random steps would seldom achieve."""
        for node in list(self.ends):
            if node.failed or node.released or not node.open or node.ready:
                continue
            if node.kind == "group":
                self.model.all_children_present(node)
                self.ends[node].all_children_present()
                self.ends[node].sync()
                continue
            if node.kind == "token":
                self.take_part(node)
            camping = 1 if self.model.count is None else 0
            if self.chance.random() < 0.04:
                camping = 200  # more than the limit: waiting participants get an error
            self.say_wish(node, (camping, 0, 128))
            self.settled()
            self.wait_early()

    def all_children_present(self) -> None:
        node = self.pick("group")
        if node and not node.all_present:
            self.model.all_children_present(node)
            self.ends[node].all_children_present()

    def release(self) -> None:
        node = self.pick("token", "collection", "group")
        if node and (node.kind != "group" or node.all_present) and self.chance.random() < 0.5:
            self.model.release(node)
            self.model.close(node)
            self.ends[node].release()

    def track(self) -> None:
        if node := self.pick("token", "collection", "group"):
            self.model.attach_tracking(node, len(self.trackings))
            self.trackings.append(self.ends[node].attach_node_tracking())

    def break_a_rule(self) -> None:
        """A second SetConstraints."""
        node = self.pick_victim("collection")
        if node and node.constraints_set:
            self.model.fail(node)
            self.ends[node].set_constraints()

    def misbehave(self) -> None:
        """Send an invalid message, or one for another kind of node, with any descriptors: the node's channel closes."""
        node = self.pick_victim("token", "collection", "group")
        if node is None:
            return
        self.ends[node].sync()
        self.model.fail(node)
        send_invalid(self.chance, self.ends[node].fileno())

    def misbehave_as_a_stranger(self) -> None:
        """Send an invalid message on a new connection, which closes alone."""
        with Wire(self.directory) as wire:
            channel = self.chance.choice([wire.connect, wire.rendezvous])()
            send_invalid(self.chance, channel.fileno())
            channel.assert_closes()

    def kill(self) -> None:
        """Give the node's client end to a process, and kill that process."""
        node = self.pick_victim("token", "collection", "group")
        if node is None:
            return
        self.ends[node].sync()
        fd = self.ends[node].detach()
        with sysmem.Vmo(fd):  # owns it here
            holder = subprocess.Popen(["sleep", "1000"], pass_fds=[fd])
        self.others_notice_nothing()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        self.model.close(node)

    # --- after a step ---

    def settled(self) -> None:
        """Wait until the daemon has processed the step. Then it must agree with the model in everything."""
        if self.model.strong_dropped:
            self.model.no_strong_handles()  # no participant keeps a buffer here
        for node in list(self.waits):
            self.check_wait(node)
        for node, end in self.ends.items():
            if node.failed and not end.closed:
                assert end.wait_closed(ENOUGH), f"{node} has failed"
                end.close()
        self.others_notice_nothing()
        for number, tracking in enumerate(self.trackings):
            if number in self.model.closed_events:
                assert tracking.wait_closed(ENOUGH)
            else:
                assert not tracking.is_closed()
        for node, end in self.ends.items():
            if node.kind == "collection" and not end.closed and node not in self.waits:
                self.check_result(node, end)

    def check_wait(self, node: ModelNode) -> None:
        """Check that a wait was answered if the model says so.

        Otherwise its channel must have closed without an answer.
        """
        if node.result is None and not node.failed:
            return  # the answer is PENDING, and no other follows
        answer = self.waits.pop(node)
        if node.result == "success":
            with answer.result(ENOUGH) as info:
                assert len(info.buffers) == self.model.count
            self.told.add(node)
        elif node.result is None:
            with pytest.raises(sysmem.PeerClosedError):
                answer.result(ENOUGH)
        else:
            with pytest.raises(sysmem.SysmemError) as refused:
                answer.result(ENOUGH)
            assert refused.value.error == node.result

    def others_notice_nothing(self) -> None:
        for _ in range(2):  # the second call is answered after all earlier messages
            for node, end in self.ends.items():
                if not node.failed and not end.closed:
                    end.sync(timeout=ENOUGH)

    def check_result(self, node: ModelNode, end: blocking.BufferCollection) -> None:
        if node.result is None:
            with pytest.raises(sysmem.SysmemError) as pending:
                end.check_all_buffers_allocated()
            assert pending.value.error == sysmem.Error.PENDING
            return
        assert node.result == "success"
        end.check_all_buffers_allocated()
        if node not in self.told and node.constraints_set and (not node.weak or node.weak_ok):
            self.told.add(node)
            self.model.wait(node)
            with end.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
                assert len(info.buffers) == self.model.count

    def close_all(self) -> None:
        for end in (*self.ends.values(), *self.trackings):
            end.close()

    def end(self) -> None:
        for answer in self.waits.values():
            assert not answer.done()
        self.close_all()
        for answer in self.waits.values():
            with pytest.raises(sysmem.HandleClosedError):
                answer.result(ENOUGH)


def negotiate(negotiation: Negotiation, steps: int, *more: Callable[[], None]) -> None:
    """Take this many steps, with these actions among them. After each step the daemon and the model must agree."""
    try:
        _negotiate(negotiation, steps, *more)
    finally:
        negotiation.close_all()


def _negotiate(negotiation: Negotiation, steps: int, *more: Callable[[], None]) -> None:
    negotiation.grow()
    choice = [
        *[negotiation.duplicate] * 4,
        negotiation.create_group,
        *[negotiation.attach] * 2,
        negotiation.set_dispensable,
        negotiation.set_weak,
        *[negotiation.bind] * 2,
        *[negotiation.set_constraints] * 2,
        *[negotiation.wait_early] * 2,
        *[negotiation.everybody_gets_ready] * 2,
        negotiation.all_children_present,
        negotiation.release,
        *[negotiation.track] * 2,
        negotiation.break_a_rule,
        *more,
    ]
    for _ in range(steps):
        if negotiation.model.gone:
            break
        negotiation.chance.choice(choice)()
        negotiation.settled()
    negotiation.end()


@pytest.mark.parametrize("seed", range(60))
def test_daemon_and_model_agree(client: blocking.Allocator, daemon: Sysmemd, seed: int) -> None:
    negotiation = Negotiation(client, daemon.runtime_dir, random.Random(seed))
    negotiate(negotiation, STEPS, negotiation.kill)


@settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(chance=randoms(use_true_random=False))
def test_also_when_any_messages_come_that_are_none(daemon: Sysmemd, chance: random.Random) -> None:
    """A failure is shrunk. `SYSMEM_TESTS_EXAMPLES` is the number of sequences."""
    with blocking.connect(daemon.runtime_dir) as client:
        negotiation = Negotiation(client, daemon.runtime_dir, chance)
        bad = [negotiation.misbehave] * 3 + [negotiation.misbehave_as_a_stranger] * 2
        negotiate(negotiation, STEPS, *bad)
