"""Random sequences of messages, closes and failures: the tree and the model agree after every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sysmem_protocol.sysmem2 import Error
from sysmemd.ports import NoMemoryError
from sysmemd.tree import Allocated, Misuse, Node

from .model import Model, ModelNode, Wish
from .world import Channel, Event, World, wanting

#: The index of a node among the candidates, modulo their number.
PICK = st.integers(0, 63)
MASKS = st.sampled_from([0x80000000, 0x80000000, 0xFFFFFFFF, 0, 0xC, 0x4, 0x8])
WISHES = st.tuples(
    st.sampled_from([0, 1, 1, 1, 2, 3]),
    st.sampled_from([0, 0, 4, 8, 12]),
    st.sampled_from([128, 128, 128, 8, 3]),
)


class TreeAndModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(max_group_selections=3)
        self.model = Model(max_group_selections=3)
        #: Every node that has existed, in both.
        self.pairs: list[tuple[Node, ModelNode]] = [(self.world.root, self.model.root)]
        self.events: list[Event] = []
        #: Channels of tokens that were turned in.
        self.old_channels: list[Channel] = []
        #: Whether the next step may break a rule or a collection. Most random steps would, and no tree would grow.
        self.daring = False

    # --- helpers ---

    def open_pairs(self) -> list[tuple[Node, ModelNode]]:
        """Return the nodes on which a client can still send messages."""
        return [pair for pair in self.pairs if pair[1].open and not pair[1].failed]

    def pick(self, index: int, *kinds: str) -> tuple[Node, ModelNode]:
        """Pick an open node, of this kind if there is one."""
        pairs = self.open_pairs()
        of_kind = [pair for pair in pairs if pair[1].kind in kinds] or pairs
        return of_kind[index % len(of_kind)]

    def say(self, node: Node, modelled: ModelNode, call: Callable[[], Any], allowed: bool) -> None:
        """Send a message. The tree must refuse it exactly if the model did, and then the node fails in both."""
        if not allowed and not self.dares():
            return
        before = self.snapshot()
        if allowed:
            call()
            return
        with pytest.raises(Misuse) as misuse:
            call()
        assert self.snapshot() == before
        node.fail(misuse.value.reason)
        self.model.fail(modelled)

    def dares(self) -> bool:
        """Return whether this step may do harm."""
        daring, self.daring = self.daring, False
        return daring

    def snapshot(self) -> Any:
        return [
            (node.state, node.isolation, node.is_weak, node.is_weak_ok, node.outcome, node.client)
            for node, _ in self.pairs
        ], len(self.world.collection.census.unattended)

    def say_and_adopt(
        self, node: Node, modelled: ModelNode, call: Callable[[], Any], allowed: bool
    ) -> None:
        """Send a message as `say` does, one that creates children."""
        self.say(node, modelled, call, allowed)
        if not modelled.failed:
            self.adopt(node, modelled)

    def adopt(self, parent: Node, modelled: ModelNode) -> None:
        """Pair new children of the tree with those of the model."""
        known = {node for node, _ in self.pairs}
        for child, model_child in zip(parent.children, modelled.children, strict=True):
            if child not in known:
                assert isinstance(child, Node)
                self.pairs.append((child, model_child))

    def attach(self, node: Node, modelled: ModelNode) -> None:
        self.world.attach(node)
        self.model.create(modelled, "token", 0x80000000, attached=True)
        self.adopt(node, modelled)

    def hosts(self) -> list[tuple[Node, ModelNode]]:
        """Return the nodes that may attach tokens."""
        return [
            pair
            for pair in self.open_pairs()
            if pair[1].kind == "collection" and not pair[1].released and not pair[1].weak
        ]

    def new_event(self) -> tuple[Event, int]:
        self.events.append(Event())
        return self.events[-1], len(self.events) - 1

    alive = precondition(lambda self: bool(self.open_pairs()))

    @rule(once_in=st.integers(0, 4))
    def dare(self, once_in: int) -> None:
        self.daring = once_in == 0

    # --- growing ---

    @initialize(shape=st.lists(st.tuples(PICK, st.sampled_from("ttdgw")), max_size=10))
    def grow(self, shape: list[tuple[int, str]]) -> None:
        """Create tokens, dispensable and weak tokens, and groups of two, below tokens."""
        for index, what in shape:
            self.add(index, what == "g")
            node, modelled = self.pairs[-1]
            if what == "w":
                node.set_weak()
                self.model.set_weak(modelled)
            if what == "d":
                node.set_dispensable()
                self.model.set_dispensable(modelled)

    def add(self, index: int, group: bool) -> None:
        tokens = [
            pair for pair in self.open_pairs() if pair[1].kind == "token" and not pair[1].released
        ]
        node, modelled = tokens[index % len(tokens)]
        if group:
            self.world.group(node)
            self.model.create(modelled, "group", 0x80000000)
        else:
            self.world.token(node)
            self.model.create(modelled, "token", 0x80000000)
        self.adopt(node, modelled)
        if group:
            node, modelled = self.pairs[-1]
            for _ in range(2):
                self.world.token(node)
                self.model.create(modelled, "token", 0x80000000)
            self.adopt(node, modelled)

    @alive
    @rule(index=PICK, mask=MASKS)
    def duplicate(self, index: int, mask: int) -> None:
        node, modelled = self.pick(index, "token")
        channel = Channel()

        def call() -> None:
            create = node.create_child if node.kind.value == "group" else node.duplicate
            self.world.channels[create(channel, mask)] = channel

        self.say_and_adopt(node, modelled, call, self.model.create(modelled, "token", mask))

    @alive
    @rule(index=PICK, mask=MASKS)
    def create_child(self, index: int, mask: int) -> None:
        node, modelled = self.pick(index, "group")
        channel = Channel()

        def call() -> None:
            self.world.channels[node.create_child(channel, mask)] = channel

        allowed = modelled.kind == "group" and self.model.create(modelled, "token", mask)
        self.say_and_adopt(node, modelled, call, allowed)

    @alive
    @rule(index=PICK, masks=st.lists(MASKS, max_size=3))
    def create_several(self, index: int, masks: list[int]) -> None:
        node, modelled = self.pick(index, "token", "group")

        def call() -> None:
            channels = [Channel() for _ in masks]
            many = node.create_children_sync if node.kind.value == "group" else node.duplicate_sync
            made = many(channels, masks)
            self.world.channels.update(zip(made, channels, strict=True))

        self.say_and_adopt(node, modelled, call, self.model.create_sync(modelled, masks))

    @alive
    @rule(index=PICK)
    def create_group(self, index: int) -> None:
        node, modelled = self.pick(index, "token")
        self.say_and_adopt(
            node,
            modelled,
            lambda: self.world.group(node),
            self.model.create(modelled, "group", 0x80000000),
        )

    @alive
    @rule(index=PICK, mask=MASKS)
    def attach_token(self, index: int, mask: int) -> None:
        node, modelled = self.pick(index, "collection")
        self.say_and_adopt(
            node,
            modelled,
            lambda: self.world.attach(node, mask),
            self.model.create(modelled, "token", mask, attached=True),
        )

    # --- getting ready ---

    @alive
    @rule(index=PICK)
    def bind(self, index: int) -> None:
        node, modelled = self.pick(index, "token")
        old = self.world.channels[node]
        self.say(node, modelled, lambda: self.world.bind(node), self.model.bind(modelled))
        if self.world.channels[node] is not old:
            self.old_channels.append(old)

    @alive
    @rule(index=PICK, wish=WISHES)
    def set_constraints(self, index: int, wish: Wish) -> None:
        node, modelled = self.pick(index, "collection")
        allowed = self.model.set_constraints(modelled, wish)
        constraints = wanting(wish[0], least=wish[1], most=wish[2])
        self.say(node, modelled, lambda: node.set_constraints(constraints, None), allowed)

    @alive
    @rule(index=PICK)
    def all_children_present(self, index: int) -> None:
        node, modelled = self.pick(index, "group")
        allowed = self.model.all_children_present(modelled)
        self.say(node, modelled, node.all_children_present, allowed)

    @alive
    @rule(
        wish=WISHES, order=st.randoms(use_true_random=False), leave=st.sampled_from([0, 0, 0, 1, 2])
    )
    def get_ready(self, wish: Wish, order: Any, leave: int) -> None:
        """Make almost all nodes ready, which most random sequences would not achieve."""
        pairs = self.open_pairs()
        order.shuffle(pairs)
        if self.model.count is not None:
            wish = (wish[0] % 2, 0, 128)  # the existing buffers are seldom enough for more
        for node, modelled in pairs[leave:]:
            if modelled.failed or modelled.ready:
                continue
            if modelled.released:
                self.model.close(modelled)
                node.client_closed()
                continue
            if modelled.kind == "group":
                if modelled.children:
                    self.model.all_children_present(modelled)
                    node.all_children_present()
                continue
            if modelled.kind == "token":
                self.old_channels.append(self.world.channels[node])
                self.model.bind(modelled)
                self.world.bind(node)
            self.model.set_constraints(modelled, wish)
            node.set_constraints(wanting(wish[0], least=wish[1], most=wish[2]), None)

    @alive
    @rule(wish=WISHES, order=st.randoms(use_true_random=False))
    def get_all_ready(self, wish: Wish, order: Any) -> None:
        """Make all nodes ready."""
        self.get_ready(wish, order, 0)

    @precondition(lambda self: self.model.count is not None and not self.model.gone)
    @rule(index=PICK, shape=st.lists(st.booleans(), max_size=3), dispensable=st.booleans())
    def attach_to_what_exists(self, index: int, shape: list[bool], dispensable: bool) -> None:
        """Attach a token to a collection that has allocated, with tokens and groups below it."""
        hosts = self.hosts()
        if not hosts:
            return
        node, modelled = hosts[index % len(hosts)]
        self.attach(node, modelled)
        for group in shape:
            self.add(-1, group)
            if dispensable and not group:
                self.pairs[-1][0].set_dispensable()
                self.model.set_dispensable(self.pairs[-1][1])

    @precondition(lambda self: self.model.count is not None and not self.model.gone)
    @rule(index=PICK, campings=st.lists(st.integers(0, 2), min_size=1, max_size=4))
    def attach_campers(self, index: int, campings: list[int]) -> None:
        """Attach participants that camp on some of the existing buffers, while there are buffers left."""
        for camping in campings:
            hosts = self.hosts()
            if not hosts:
                return
            node, modelled = hosts[index % len(hosts)]
            self.attach(node, modelled)
            node, modelled = self.pairs[-1]
            self.old_channels.append(self.world.channels[node])
            self.world.bind(node)
            self.model.bind(modelled)
            node.set_constraints(wanting(camping), None)
            self.model.set_constraints(modelled, (camping, 0, 128))

    @rule(index=PICK, abruptly=st.booleans())
    def a_camper_leaves(self, index: int, abruptly: bool) -> None:
        attached = [
            pair
            for pair in self.open_pairs()
            if pair[1].isolation == "do not propagate" and pair[1].result == "success"
        ]
        if not attached:
            return
        node, modelled = attached[index % len(attached)]
        if not abruptly and not modelled.released:
            node.release()
            self.model.release(modelled)
        node.client_closed()
        self.model.close(modelled)

    # --- marks and questions ---

    @alive
    @rule(index=PICK)
    def set_dispensable(self, index: int) -> None:
        node, modelled = self.pick(index, "token")
        self.say(node, modelled, node.set_dispensable, self.model.set_dispensable(modelled))

    @alive
    @rule(index=PICK)
    def set_weak(self, index: int) -> None:
        node, modelled = self.pick(index)
        others = [other for other in self.model.in_tree() if other is not modelled]
        if not any(other.strong for other in others) and not self.dares():
            return
        self.say(node, modelled, node.set_weak, self.model.set_weak(modelled))

    @alive
    @rule(index=PICK, also=st.booleans())
    def set_weak_ok(self, index: int, also: bool) -> None:
        node, modelled = self.pick(index)
        allowed = self.model.set_weak_ok(modelled, also)
        self.say(node, modelled, lambda: node.set_weak_ok(also), allowed)

    @alive
    @rule(index=PICK)
    def wait(self, index: int) -> None:
        node, modelled = self.pick(index, "collection")
        allowed = self.model.wait(modelled)
        self.say(node, modelled, node.wait_for_all_buffers_allocated, allowed)

    @alive
    @rule(index=PICK)
    def check(self, index: int) -> None:
        node, modelled = self.pick(index, "collection")

        def call() -> None:
            expected = {None: Error.PENDING, "success": None}[modelled.result]  # type: ignore[index]
            assert node.check_all_buffers_allocated() == expected

        self.say(node, modelled, call, self.model.check(modelled))

    @alive
    @rule(index=PICK)
    def attach_node_tracking(self, index: int) -> None:
        node, modelled = self.pick(index)
        if modelled.released and not self.daring:
            return
        event, number = self.new_event()
        allowed = self.model.attach_tracking(modelled, number)
        self.say(node, modelled, lambda: node.attach_node_tracking(event), allowed)

    @alive
    @rule(index=PICK)
    def attach_lifetime_tracking(self, index: int) -> None:
        node, modelled = self.pick(index, "collection")
        if (modelled.released or modelled.kind != "collection") and not self.daring:
            return
        event, number = self.new_event()
        allowed = self.model.attach_lifetime(modelled, number)
        self.say(node, modelled, lambda: node.attach_lifetime_tracking(event, -1), allowed)

    @alive
    @rule(index=PICK, other=PICK)
    def is_alternate_for(self, index: int, other: int) -> None:
        node, modelled = self.pick(index)
        second, modelled_second = self.pick(other)
        if modelled.released:
            return
        paths = []
        for end in (modelled, modelled_second):
            path = [end]
            while path[-1].parent is not None:
                path.append(path[-1].parent)
            paths.append(path)
        nearest = next(one for one in paths[0] if one in paths[1])
        assert node.is_alternate_for(second) == (nearest.kind == "group")

    # --- leaving ---

    @alive
    @rule(index=PICK)
    def release(self, index: int) -> None:
        node, modelled = self.pick(index)
        self.say(node, modelled, node.release, self.model.release(modelled))

    @alive
    @rule(index=PICK)
    def release_and_close(self, index: int) -> None:
        node, modelled = self.pick(index)
        if len(self.open_pairs()) == 1 and not self.dares():
            return
        self.say(node, modelled, node.release, self.model.release(modelled))
        if modelled.released and not modelled.failed:
            self.model.close(modelled)
            node.client_closed()

    @precondition(lambda self: self.model.count is not None and not self.model.strong_dropped)
    @rule()
    def the_strong_leave(self) -> None:
        """Release and close all strong nodes, if a weak one stays."""
        pairs = self.open_pairs()
        if all(modelled.strong for _, modelled in pairs):
            return
        for node, modelled in pairs:
            if (
                modelled.failed
                or not modelled.strong
                or (modelled.kind, modelled.ready) == ("group", False)
            ):
                continue
            if not modelled.released:
                self.model.release(modelled)
                node.release()
            self.model.close(modelled)
            node.client_closed()

    @alive
    @rule(index=PICK)
    def close(self, index: int) -> None:
        node, modelled = self.pick(index)
        if modelled.released or modelled.domain.parent or self.dares():
            self.model.close(modelled)
            node.client_closed()

    @alive
    @rule(index=PICK)
    def break_the_protocol(self, index: int) -> None:
        node, modelled = self.pick(index)
        if modelled.domain.parent or self.dares():
            self.model.fail(modelled)
            node.fail("nonsense on the channel")

    @rule(index=PICK)
    def late_news_of_a_failed_node(self, index: int) -> None:
        failed = [node for node, modelled in self.pairs if modelled.failed]
        if failed:
            node = failed[index % len(failed)]
            node.client_closed()
            node.fail("too late")

    @precondition(lambda self: self.daring or self.model.no_memory)
    @rule()
    def run_out_of_memory(self) -> None:
        self.model.no_memory = not self.model.no_memory
        self.world.memory.error = NoMemoryError("none") if self.model.no_memory else None

    @precondition(lambda self: self.model.strong_dropped)
    @rule()
    def last_strong_handle_is_gone(self) -> None:
        self.model.no_strong_handles()
        self.world.memory.on_no_strong()

    # --- what they must agree on ---

    @invariant()
    def agree(self) -> None:
        for node, modelled in self.pairs:
            self.agree_on(node, modelled)
        for channel in self.old_channels:
            assert channel.closes == channel.answers == 0
        handed = set()
        if self.world.memory.made:
            buffers = self.world.buffers
            assert buffers.count == self.model.count
            assert buffers.times_dropped() == self.model.strong_dropped
            handed = {id(event) for event, _ in buffers.trackings}
        for number, event in enumerate(self.events):
            assert event.closed == (number in self.model.closed_events)
            assert (id(event) in handed) == (number in self.model.handed_lifetimes)
        assert self.world.times_gone() == self.model.gone
        assert self.world.collection.is_gone == self.model.gone
        in_tree = [node for node, modelled in self.pairs if not modelled.failed]
        assert set(self.world.collection.nodes()) == set(in_tree)
        finished = self.model.gone or self.model.root.result is not None
        assert bool(self.world.clock.pending) == (not finished)

    def agree_on(self, node: Node, modelled: ModelNode) -> None:
        assert node.in_tree == (not modelled.failed)
        assert node.kind.value == modelled.kind
        assert node.is_weak == modelled.weak
        assert node.rights_mask == modelled.rights
        channel = self.world.channels[node]
        assert channel.closed == (modelled.failed or modelled.orphan)
        assert channel.answers == modelled.answers
        if modelled.result == "success":
            assert isinstance(node.outcome, Allocated)
            assert node.outcome.count == self.model.count
            assert node.outcome.settings is self.world.collection.allocation.settings  # type: ignore[union-attr]
            assert node.outcome.buffers is self.world.buffers
            assert node.outcome.weak == modelled.weak
        else:
            assert node.outcome == modelled.result


TestTreeAgainstModel = TreeAndModel.TestCase
TestTreeAgainstModel.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
