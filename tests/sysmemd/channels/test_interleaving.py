"""In any order of work slices, kernel reports and timers, no client waits for ever, and nothing is left.

Each seed determines the actions of clients, where their work is interrupted, and which work continues next.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
from tests.sysmemd.slow import SlowWork

from sysmem_protocol import sysmem2
from sysmem_protocol.channel import PeerClosedError
from sysmem_protocol.handles import Handle, eventpair
from sysmem_protocol.library import Method, Table
from sysmem_protocol.sysmem2 import (
    BufferCollection,
    BufferCollectionToken,
    BufferCollectionTokenGroup,
    Node,
)
from sysmemd.quota import Kind

from .support import SAME_RIGHTS, STRANGER, Bench, Client, wanting

SEEDS = 120
#: Objects that end with the daemon's channels. Buffers live longer.
KINDS = (Kind.CONNECTIONS, Kind.COLLECTIONS, Kind.NODES, Kind.TRACKINGS)


class Crowd:
    """Clients of two users that share one collection, and the daemon's work for them."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chance = random.Random(seed)
        likely = self.chance.choice([0.1, 0.4, 0.8])
        self.work = SlowWork(is_over=lambda: self.chance.random() < likely)
        self.work.slow_down(monkeypatch)
        self.bench = Bench(do=self.work.do)
        self.allocators = [self.bench.allocator(uid=uid) for uid in (STRANGER, STRANGER + 1)]
        self.finish()
        self.tokens: list[Client] = []
        #: Tokens whose failure does not fail the collection.
        self.attached: list[Client] = []
        self.groups: list[Client] = []
        self.collections: list[Client] = []
        self.constrained: list[Client] = []
        #: Client ends of trackings, and buffers.
        self.handles: list[Handle] = []

    def close(self) -> None:
        """End the daemon, then the clients."""
        for handle in self.handles:
            handle.close()
        self.bench.close()

    # --- the daemon ---

    def report(self) -> None:
        """Handle the kernel's reports, and make the calls that are due."""
        self.bench.memory.process_events()
        self.bench.clock.run_due()

    def go_on(self) -> None:
        """Continue some interrupted work."""
        if self.work.pending:
            self.work.go_on(self.chance.randrange(self.work.pending))

    def step(self) -> None:
        """Continue a random piece of work."""
        self.chance.choice([self.go_on, self.report, self.bench.run])()
        self.check()

    def check(self) -> None:
        """Check that collections are protected while they change.

        Otherwise work that waits for them would loop for ever.
        """
        for collection in self.bench.service.collections.values():
            assert collection.busy or not collection.is_changing

    def finish(self) -> None:
        """Continue until there is nothing left to do."""
        for _ in range(4):  # handles that are closed at the end of work are reported afterwards
            self.bench.run()
            self.report()
            while self.work.pending:
                self.go_on()
                self.check()
                self.step()

    # --- what clients do ---

    def act(self) -> None:
        """Take one possible action."""
        if not self.bench.service.collections:
            self.tokens = [self.bench.token(self.allocators[0])]
            self.attached, self.groups, self.collections, self.constrained = [], [], [], []
        owners, act = self.chance.choice(
            [
                (self.tokens, self.duplicate),
                (self.tokens, self.duplicate_many),
                (self.tokens, self.create_group),
                (self.groups, self.create_child),
                (self.groups, self.create_child),
                (self.groups, self.complete),
                (self.tokens, self.bind),
                (self.tokens, self.bind),
                (self.collections + self.constrained, self.attach),
                (self.collections + self.constrained, self.attach),
                (self.collections, self.constrain),
                (self.collections, self.constrain),
                (self.collections, self.constrain),
                (self.constrained, self.wait),
                (self.constrained, self.receive),
                (self.constrained[2:], self.release),  # some stay
                (self.constrained, self.track_lifetime),
                (self.attached + self.collections, self.track),
                (self.attached, self.set_weak),
                (self.attached, self.duplicate),
                (self.attached, self.duplicate),
                (self.attached, self.bind),
                (self.attached, self.misuse),
                (self.tokens + self.constrained, self.set_deadline),
            ]
        )
        if owners:
            act(self.chance.choice(owners))
        if self.handles and self.chance.random() < 0.2:
            self.handles.pop(self.chance.randrange(len(self.handles))).close()

    def send(self, client: Client, method: Method, request: Table | None = None) -> None:
        """Send a message, unless the daemon has closed the channel."""
        with suppress(PeerClosedError):
            client.send(method, request)

    def duplicate(self, token: Client) -> None:
        client, far = self.bench.client()
        request = sysmem2.BufferCollectionTokenDuplicateRequest(
            rights_attenuation_mask=SAME_RIGHTS, token_request=far
        )
        self.send(token, BufferCollectionToken.duplicate, request)
        (self.attached if token in self.attached else self.tokens).append(client)

    def duplicate_many(self, token: Client) -> None:
        masks = [SAME_RIGHTS] * self.chance.randrange(1, 40)
        request = sysmem2.CreateTokensRequest(rights_attenuation_masks=masks)
        self.send(token, BufferCollectionToken.duplicate_sync, request)

    def create_group(self, token: Client) -> None:
        client, far = self.bench.client()
        request = sysmem2.BufferCollectionTokenCreateBufferCollectionTokenGroupRequest(
            group_request=far
        )
        self.send(token, BufferCollectionToken.create_buffer_collection_token_group, request)
        self.groups.append(client)

    def create_child(self, group: Client) -> None:
        client, far = self.bench.client()
        request = sysmem2.BufferCollectionTokenGroupCreateChildRequest(token_request=far)
        self.send(group, BufferCollectionTokenGroup.create_child, request)
        self.tokens.append(client)

    def complete(self, group: Client) -> None:
        self.create_child(group)
        self.send(group, BufferCollectionTokenGroup.all_children_present)
        self.groups.remove(group)

    def bind(self, token: Client) -> None:
        (self.attached if token in self.attached else self.tokens).remove(token)
        bound = self.bench.bind(token, self.chance.choice(self.allocators))
        self.collections.append(bound)

    def attach(self, collection: Client) -> None:
        client, far = self.bench.client()
        request = sysmem2.BufferCollectionAttachTokenRequest(
            rights_attenuation_mask=SAME_RIGHTS, token_request=far
        )
        self.send(collection, BufferCollection.attach_token, request)
        self.attached.append(client)

    def misuse(self, token: Client) -> None:
        """Fail a token and its children, at the latest when it is bound."""
        self.duplicate_many(token)
        self.send(token, Node.release)
        self.send(token, Node.sync)
        self.bind(token)

    def constrain(self, collection: Client) -> None:
        # The first participants ask for enough buffers for those that join later.
        request = wanting(camping=self.chance.choice([0, 1] if self.constrained else [20]))
        self.send(collection, BufferCollection.set_constraints, request)
        self.collections.remove(collection)
        self.constrained.append(collection)

    def wait(self, collection: Client) -> None:
        self.send(collection, BufferCollection.wait_for_all_buffers_allocated)

    def receive(self, collection: Client) -> None:
        with suppress(PeerClosedError):
            while (message := collection.message()) is not None:
                self.handles += message.handles

    def release(self, collection: Client) -> None:
        if self.chance.random() < 0.95:
            self.send(collection, Node.release)
        collection.close()
        self.constrained.remove(collection)

    def track_lifetime(self, collection: Client) -> None:
        near, far = eventpair()
        self.handles.append(near)
        request = sysmem2.BufferCollectionAttachLifetimeTrackingRequest(
            server_end=far, buffers_remaining=self.chance.choice([0, 5])
        )
        self.send(collection, BufferCollection.attach_lifetime_tracking, request)

    def track(self, client: Client) -> None:
        near, far = eventpair()
        self.handles.append(near)
        request = sysmem2.NodeAttachNodeTrackingRequest(server_end=far)
        self.send(client, Node.attach_node_tracking, request)

    def set_weak(self, client: Client) -> None:
        self.send(client, Node.set_weak)
        request = sysmem2.NodeSetWeakOkRequest(for_child_nodes_also=True)
        self.send(client, Node.set_weak_ok, request)

    def set_deadline(self, client: Client) -> None:
        """Make the daemon warn soon that the allocation takes long."""
        request = sysmem2.NodeSetDebugTimeoutLogDeadlineRequest(deadline=self.bench.clock.now())
        self.send(client, Node.set_debug_timeout_log_deadline, request)

    def get_on(self) -> None:
        """Do what the other participants wait for, if it is known."""
        todo: list[tuple[list[Client], Callable[[Client], None]]] = [
            (self.groups, self.complete),
            (self.tokens, self.bind),
            (self.collections, self.constrain),
            (self.attached[1:], self.misuse),
            (self.attached, self.bind),
            (self.collections, self.constrain),
        ]
        for clients, act in todo:
            for client in list(clients):
                act(client)
                if self.chance.random() < 0.5:
                    self.step()
            self.bench.run()


@pytest.fixture
def crowd(seed: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    with closing(Crowd(seed, monkeypatch)) as made:
        yield made
    for user in made.bench.service.users:
        assert not any(user.tally[kind] for kind in KINDS)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_all_get_on_and_nothing_is_left(crowd: Crowd) -> None:
    for _ in range(3):
        for _ in range(crowd.chance.randrange(5, 30)):
            crowd.act()
            for _ in range(crowd.chance.randrange(4)):
                crowd.step()
        crowd.get_on()
        if crowd.chance.random() < 0.5:
            crowd.finish()
    crowd.finish()
    broken = [entry for entry in crowd.bench.log.said("error") if entry[1].get("exc_info")]
    assert not broken
    assert not crowd.bench.reactor.held
    for collection in crowd.bench.service.collections.values():
        assert not collection.busy
