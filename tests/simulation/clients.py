"""Clients of a simulated daemon. Each client follows its seed and uses the package's own async face.

Most clients negotiate. Some break rules, send garbage, never read, stop in the middle of an action, or close.
Everything that the daemon sends to a client must agree with the model.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import trio

import sysmem
from sysmem._async.client_end import ClientEnd
from sysmem_protocol.message import FLAGS, HEADER, MAGIC
from sysmem_protocol.sysmem2 import Error, Node, Rights

from ..sysmemd.tree.model import ModelNode
from ..wire.test_bad_input import BAD_BODIES, BAD_HEADERS, debug_info
from .follower import Follower

#: Errors that are not the client's fault: the daemon, another participant or the client itself has closed the channel.
GONE: Final = (sysmem.PeerClosedError, sysmem.HandleClosedError)
_USAGE: Final = sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ)
_MEMORY: Final = sysmem.BufferMemoryConstraints(min_size_bytes=64)
#: The number of calls whose responses are not read, more than an outbox and a socket can hold.
_FLOOD: Final = 600


@dataclass(eq=False)
class Tracking:
    """An event, and its number among the events that were attached through a channel."""

    event: Any
    koid: int
    place: int

    def close(self) -> None:
        """Close the event."""
        self.event.close()


@dataclass(eq=False)
class End:
    """A client end, and its holder's knowledge about it."""

    node: Any
    kind: str
    koid: int = 0
    constrained: bool = False
    complete: bool = False
    weak: bool = False
    #: Whether a task waits for buffers on it.
    waiting: bool = False
    children: int = 0
    trackings: list[Tracking] = field(default_factory=list)


@dataclass
class World:
    """The state that the clients of one run share."""

    follower: Follower
    #: Tokens that are on their way to a client.
    posted: dict[int, list[End]]
    say: Callable[[str], None]
    nursery: trio.Nursery
    #: The number of trackings that were attached through each channel.
    attached: Counter[int] = field(default_factory=Counter)


Step: TypeAlias = "Callable[[], Awaitable[None]]"


class Client:
    """One participant, or one process with several nodes."""

    def __init__(
        self, world: World, number: int, seed: str, connect: Callable[[], sysmem.Allocator]
    ) -> None:
        """Create a client. `connect` makes a connection to the daemon."""
        self.world = world
        self.number = number
        self.chance = random.Random(seed)
        self._connect = connect
        self.allocator = connect()
        self.ends: list[End] = []
        self.infos: list[sysmem.BufferCollectionInfo] = []
        self.waits: list[End] = []

    # --- the run ------------------------------------------------------------------------------------------------------

    async def run(self, steps: int) -> None:
        """Take this many steps."""
        for _ in range(steps):
            if self.chance.random() < 0.3:
                await trio.sleep(self.chance.random() ** 3)
            self.ends += self.world.posted[self.number]
            self.world.posted[self.number].clear()
            step = self._choose()
            self.world.say(f"client {self.number}: {step.__name__}")
            try:
                await step()
            except GONE as error:
                self._check_gone(error)
            except sysmem.SysmemError as error:
                self.world.follower.check(
                    self.world.follower.has_excuse() or error.error is Error.NOT_FOUND,
                    f"client {self.number} got {error!r}",
                )

    def _check_gone(self, error: Exception) -> None:
        """Forget ends whose channels have closed. The model must agree that they have."""
        if self.allocator.closed or self.allocator._end._ended is not None:
            self.allocator.close()
            self.allocator = self._connect()
        for end in list(self.ends):
            client_end: ClientEnd = end.node._end
            if end.node.closed:
                self._forget(end)
            elif client_end._ended is not None:
                modelled = self.modelled(end)
                self.world.follower.check(
                    modelled is None
                    or modelled.failed
                    or modelled.released
                    or end.koid in self.world.follower.daring
                    or self.world.follower.has_excuse(),
                    f"client {self.number} lost a node that is there: {error}",
                )
                self._forget(end)

    def _forget(self, end: End) -> None:
        if end in self.ends:
            self.ends.remove(end)
        end.node.close()
        for tracking in end.trackings:
            tracking.close()

    def modelled(self, end: End) -> ModelNode | None:
        """Return the model's node, or None if the client does not know the node's number."""
        found = self.world.follower.known(end.koid)
        return None if found is None else found[1]

    def _choose(self) -> Step:
        chance = self.chance
        if not self.ends or chance.random() < 0.08:
            return self.begin if chance.random() < 0.7 else self.begin_alone
        if chance.random() < 0.6:
            return self.get_on
        return chance.choice(
            [
                *[self.duplicate] * 3,
                self.make_group,
                *[self.attach] * 3,
                self.set_dispensable,
                self.set_weak,
                self.set_weak_ok,
                *[self.track] * 2,
                self.track_lifetime,
                self.ask_for_relations,
                self.check_allocated,
                *[self.release] * 2,
                self.close,
                self.close_buffers,
                *[self.give_away] * 3,
                self.ask_about_a_buffer,
                self.set_name,
                self.look_at_nothing,
                self.break_a_rule,
                self.send_garbage,
                self.never_read,
            ]
        )

    def pick(self, *kinds: str, free: bool = True) -> End | None:
        """Pick an end of one of these kinds; with `free`, one on which no task waits."""
        found = [end for end in self.ends if end.kind in kinds and not (free and end.waiting)]
        return self.chance.choice(found) if found else None

    async def add(self, node: Any, kind: str, *, weak: bool = False) -> End:
        """Keep a new end. Usually wait first until the daemon knows it."""
        end = self._keep(node, kind, weak=weak)
        if self.chance.random() < 0.7:
            await self._learn(end)
        return end

    def _keep(self, node: Any, kind: str, *, weak: bool = False) -> End:
        end = End(node, kind, weak=weak)
        self.ends.append(end)
        return end

    async def _hand_out(self, made: list[Any]) -> None:
        """Give tokens to other clients."""
        for end in [self._keep(node, "token") for node in made]:
            if self.chance.random() < 0.7:
                await self._learn(end)
            self._post(end)

    async def _learn(self, end: End) -> None:
        """Wait until the daemon knows a node, and learn its number."""
        if not end.koid:
            await end.node.sync()
            end.koid = end.node.server_koid

    # --- steps of those who get on --------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Create a collection, and tokens for other clients."""
        token = await self.allocator.allocate_shared_collection()
        root = await self.add(token, "token")
        masks = [self._mask() for _ in range(self.chance.randrange(4))]
        if masks:
            root.children += len(masks)
            await self._hand_out(await token.duplicate_sync(masks))

    async def begin_alone(self) -> None:
        """Create a collection without other participants."""
        await self.add(await self.allocator.allocate_non_shared_collection(), "collection")

    def _mask(self) -> int:
        return self.chance.choice(
            [Rights.SAME_RIGHTS] * 3 + [Rights.READ | Rights.WRITE, Rights.READ]
        )

    def _post(self, end: End) -> None:
        if end not in self.ends:
            return  # it has closed meanwhile
        self.ends.remove(end)
        self.world.posted[self.chance.choice(list(self.world.posted))].append(end)

    async def get_on(self) -> None:
        """Do what the allocation waits for at a node."""
        end = self.chance.choice(self.ends)
        if end.kind == "token":
            await self._learn(end)
            if end not in self.ends:
                return  # it has closed meanwhile
            self.ends.remove(end)
            try:
                made = await self.allocator.bind_shared_collection(end.node)
            except BaseException:
                self._forget(end)
                raise
            bound = self._keep(made, "collection", weak=end.weak)
            bound.trackings += end.trackings
            if self.chance.random() < 0.7:
                await self._learn(bound)
        elif end.kind == "group":
            if not end.children:
                await self.add_child(end)
            elif not end.complete:
                end.complete = True
                await end.node.all_children_present()
        elif not end.constrained:
            end.constrained = True
            chance = self.chance
            wish = sysmem.BufferCollectionConstraints(
                min_buffer_count_for_camping=chance.choice([0, 1, 1, 1, 2]),
                min_buffer_count=chance.choice([0, 0, 2]),
                max_buffer_count=chance.choice([128, 128, 128, 6]),
                usage=_USAGE,
                buffer_memory_constraints=_MEMORY,
            )
            await end.node.set_constraints(wish)
        elif not end.waiting:
            end.waiting = True
            self.world.nursery.start_soon(self.wait, end)
        elif self.chance.random() < 0.3:
            await self.release()

    async def add_child(self, group: End) -> None:
        """Create children of a group."""
        masks = [self._mask() for _ in range(self.chance.choice([1, 2, 2, 3]))]
        group.children += len(masks)
        await self._hand_out(await group.node.create_children_sync(masks))

    async def wait(self, end: End) -> None:
        """Wait for buffers, and keep them."""
        if end.weak:
            with contextlib.suppress(*GONE):
                await end.node.set_weak_ok()
        follower = self.world.follower
        try:
            info = await end.node.wait_for_all_buffers_allocated(timeout=1000)
        except sysmem.SysmemError as error:
            modelled = self.modelled(end)
            follower.check(
                follower.has_excuse() or modelled is None or modelled.result == error.error,
                f"client {self.number} got {error!r}",
            )
            return
        except GONE as error:
            self._check_gone(error)
            return
        except TimeoutError:
            modelled = self.modelled(end)
            follower.check(
                modelled is None or modelled.result is None, f"{modelled} was not answered"
            )
            return
        finally:
            end.waiting = False
        self.infos.append(info)
        found = follower.known(end.koid)
        follower.check(
            found is None or len(info.buffers) == found[0].model.count,
            f"client {self.number} has {len(info.buffers)} buffers",
        )

    # --- others -------------------------------------------------------------------------------------------------------

    async def duplicate(self) -> None:
        """Make another token."""
        if end := self.pick("token"):
            end.children += 1
            child = await self.add(await end.node.duplicate(self._mask()), "token", weak=end.weak)
            if child.koid and self.chance.random() < 0.5:
                self._post(child)

    async def make_group(self) -> None:
        """Create a group and its children."""
        if end := self.pick("token"):
            group = await end.node.create_buffer_collection_token_group()
            await self.add_child(await self.add(group, "group"))

    async def attach(self) -> None:
        """Create a token for a client that comes later."""
        end = self.pick("collection", free=False)
        if end and not end.weak:
            made = await self.add(await end.node.attach_token(self._mask()), "token")
            if made.koid and self.chance.random() < 0.5:
                self._post(made)

    async def set_dispensable(self) -> None:
        """Make a token dispensable."""
        if end := self.pick("token"):
            await end.node.set_dispensable()

    async def set_weak(self) -> None:
        """Be weak."""
        end = self.pick("token")
        if end and end.children == 0:
            end.weak = True
            await end.node.set_weak()

    async def set_weak_ok(self) -> None:
        """State that close_weak_asap is watched."""
        if end := self.pick("token"):
            await end.node.set_weak_ok(for_child_nodes_also=self.chance.random() < 0.5)

    async def track(self) -> None:
        """Attach a node tracking."""
        if end := self.pick("token", "collection", "group", free=False):
            await self._track(end, end.node.attach_node_tracking)

    async def _track(self, end: End, attach: Callable[..., Awaitable[Any]], *how: int) -> None:
        await self._learn(end)
        koid = end.koid
        place = self.world.attached[koid]
        self.world.attached[koid] += 1
        end.trackings.append(Tracking(await attach(*how), koid, place))

    async def track_lifetime(self) -> None:
        """Attach a lifetime tracking."""
        if end := self.pick("collection", free=False):
            remaining = self.chance.choice([0, 0, 1])
            await self._track(end, end.node.attach_lifetime_tracking, remaining)

    async def ask_for_relations(self) -> None:
        """Ask whether two nodes are alternatives of each other."""
        first, second = self.pick("token", "group"), self.pick("token", "collection")
        if first and second:
            with await second.node.get_node_ref() as ref:
                await first.node.is_alternate_for(ref)

    async def check_allocated(self) -> None:
        """Ask whether the buffers are allocated."""
        end = self.pick("collection", free=False)
        if end is None:
            return
        error: object = "success"
        try:
            await end.node.check_all_buffers_allocated()
        except sysmem.SysmemError as raised:
            error = raised.error
        modelled = self.modelled(end)
        self.world.follower.check(
            modelled is None
            or modelled.result is not None
            or error is Error.PENDING
            or self.world.follower.has_excuse(),
            f"client {self.number} was told {error} early",
        )

    async def release(self) -> None:
        """Leave in peace."""
        end = self.pick("token", "collection", "group", free=False)
        if end and (end.kind != "group" or end.complete):
            await end.node.release()
            self._forget(end)

    async def close(self) -> None:
        """Close a node without Release."""
        if end := self.pick("token", "collection", "group", free=False):
            self._forget(end)

    async def close_buffers(self) -> None:
        """Close the buffers of one collection, one after the other."""
        if self.infos:
            info = self.infos.pop(self.chance.randrange(len(self.infos)))
            with info:
                await trio.lowlevel.checkpoint()

    async def give_away(self) -> None:
        """Pass a node to another process."""
        end = self.pick("token", "collection")
        if end and end.node._is_settled():
            await self._learn(end)
            if end.node._is_settled() and not end.waiting:
                end.node = type(end.node).from_fd(end.node.detach())
                self._post(end)

    async def ask_about_a_buffer(self) -> None:
        """Ask for the id of a buffer, and sometimes for a weak handle to it."""
        if not self.infos:
            return
        vmos = [buffer.vmo for buffer in self.chance.choice(self.infos).buffers if buffer.vmo]
        if vmos:
            weak = self.chance.random() < 0.5
            await self.allocator.get_vmo_info(self.chance.choice(vmos), need_weak=weak)

    async def set_name(self) -> None:
        """Name the buffers."""
        if end := self.pick("token", "collection", free=False):
            await end.node.set_name(self.chance.randrange(4), f"name {self.chance.random()}")

    async def look_at_nothing(self) -> None:
        """Do nothing for a while."""
        await trio.sleep(self.chance.choice([0.1, 5, 40]))

    # --- misbehaviour -------------------------------------------------------------------------------------------------

    async def _dare(self) -> End | None:
        """Return an end to misbehave on that the daemon knows: mostly one whose failure leaves other nodes alive."""
        end = self.pick("token", "collection", "group", free=False)
        if end is None or self.chance.random() < 0.5:
            return None
        await self._learn(end)
        self.world.follower.daring.add(end.koid)
        return end

    async def break_a_rule(self) -> None:
        """Set constraints twice, or send a message after Release."""
        end = await self._dare()
        if end is None:
            return
        if end.kind == "collection" and end.constrained:
            await end.node.set_constraints()
        else:
            client_end: ClientEnd = end.node._end
            for method in (Node.release, Node.set_weak):
                client_end._channel.send(HEADER.pack(0, FLAGS, MAGIC, method.ordinal))
        await end.node.sync()

    async def send_garbage(self) -> None:
        """Send a datagram that is not a message."""
        end = await self._dare()
        if end is None:
            return
        garbage = [
            *(make("token") for name, make in BAD_HEADERS.items() if "oversize" not in name),
            *(debug_info("token") + body for body in BAD_BODIES.values()),
        ]
        client_end: ClientEnd = end.node._end
        client_end._channel.send(self.chance.choice(garbage) or b"?")
        await end.node.sync()

    async def never_read(self) -> None:
        """Send calls and read no response until the daemon closes the channel."""
        end = await self._dare()
        if end is None or self.chance.random() < 0.8:
            return
        client_end: ClientEnd = end.node._end
        with contextlib.suppress(*GONE):
            for txid in range(1 << 20, (1 << 20) + _FLOOD):
                if not client_end._channel.send(HEADER.pack(txid, FLAGS, MAGIC, Node.sync.ordinal)):
                    await trio.sleep(0.01)
        await trio.sleep(1)
        self._forget(end)

    # --- what must be so when nothing happens any more ------------------------------------------------------------

    def check_trackings(self) -> None:
        """Check that exactly the events are closed that the model has closed."""
        follower = self.world.follower
        for end in self.ends:
            for tracking in end.trackings:
                known = follower.known(tracking.koid)
                numbers = follower.trackings.get(tracking.koid, ())
                if known is None or tracking.place >= len(numbers):
                    continue  # it was refused
                model, number = known[0].model, numbers[tracking.place]
                if number in model.handed_lifetimes:
                    continue  # the buffers decide
                is_closed = tracking.event.is_closed()
                follower.check(
                    is_closed == (number in model.closed_events),
                    f"a tracking of client {self.number} is closed: {is_closed}",
                )

    # --- the end ------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Close everything, in any order."""
        self.ends += self.world.posted[self.number]
        things: list[Any] = [self.allocator, *self.infos]
        for end in self.ends:
            things += [end.node, *end.trackings]
        self.chance.shuffle(things)
        for thing in things:
            thing.close()
