"""Buffers compared with a model: handles are opened, duplicated, mapped and closed; events must come on time."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field

from hypothesis import settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from sysmem_protocol.handles import Handle
from sysmemd.memory import NoMoreStrongHandlesError
from sysmemd.memory.locks import Kind

from .harness import CAMERA, PAGE, READ, READ_WRITE, Bench, is_closed, pair

COUNT = 2
indices = strategies.integers(0, COUNT - 1)
picks = strategies.integers(0, 1 << 16)
writables = strategies.booleans()


@dataclass
class Reference:
    """A descriptor or mapping of a handle. `handle` identifies the handle. A reopened handle has no kind."""

    index: int
    handle: object
    kind: Kind | None
    holder: Handle | mmap.mmap


@dataclass
class Model:
    """The expected state, with one entry for each buffer."""

    server: bool = True
    strong: list[bool] = field(default_factory=lambda: [True] * COUNT)
    known: list[bool] = field(default_factory=lambda: [True] * COUNT)
    exists: list[bool] = field(default_factory=lambda: [True] * COUNT)

    def advance(self, references: list[Reference]) -> None:
        for index in range(COUNT):
            kinds = {r.kind for r in references if r.index == index}
            self.strong[index] &= self.server or Kind.STRONG in kinds
            self.known[index] &= self.strong[index] or Kind.WEAK in kinds
            self.exists[index] &= self.known[index] or bool(kinds)


class BufferMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.buffers = self.bench.allocate(COUNT)
        self.model = Model()
        self.references: list[Reference] = []
        self.signals: list[tuple[int, Handle]] = []
        self.trackers: list[tuple[int, Handle]] = []

    @initialize()
    def track(self) -> None:
        for remaining in range(COUNT):
            near, far = pair()
            self.buffers.track_lifetime(self.bench.memory.event(near), remaining)
            self.trackers.append((remaining, far))

    def descriptors(self) -> list[Reference]:
        return [r for r in self.references if isinstance(r.holder, Handle)]

    def add(self, index: int, kind: Kind | None, holder: Handle, handle: object = None) -> None:
        self.references.append(Reference(index, handle or object(), kind, holder))

    @rule(weak=strategies.booleans(), writable=writables)
    def hand_out(self, weak: bool, writable: bool) -> None:
        rights = READ_WRITE if writable else READ
        entries = self.buffers.hand_out(rights, weak=weak, client=CAMERA)
        for index, entry in enumerate(entries):
            assert (entry.vmo is not None) == self.model.strong[index]
            assert (entry.close_weak_asap is not None) == (weak and self.model.exists[index])
            if entry.vmo is not None:
                self.add(index, Kind.WEAK if weak else Kind.STRONG, entry.vmo)
            if entry.close_weak_asap is not None:
                self.signals.append((index, entry.close_weak_asap))

    @precondition(lambda self: self.descriptors())
    @rule(pick=picks)
    def duplicate(self, pick: int) -> None:
        picked = self.descriptors()[pick % len(self.descriptors())]
        assert isinstance(picked.holder, Handle)
        self.add(picked.index, picked.kind, picked.holder.duplicate(), picked.handle)

    @precondition(lambda self: self.descriptors())
    @rule(pick=picks)
    def map(self, pick: int) -> None:
        picked = self.descriptors()[pick % len(self.descriptors())]
        assert isinstance(picked.holder, Handle)
        mapping = mmap.mmap(picked.holder.fileno(), PAGE, prot=mmap.PROT_READ)
        self.references.append(Reference(picked.index, picked.handle, picked.kind, mapping))

    @precondition(lambda self: self.descriptors())
    @rule(pick=picks)
    def open_anew(self, pick: int) -> None:
        picked = self.descriptors()[pick % len(self.descriptors())]
        assert isinstance(picked.holder, Handle)
        fd = os.open(f"/proc/self/fd/{picked.holder.fileno()}", os.O_RDONLY)
        self.add(picked.index, None, Handle(fd))

    @precondition(lambda self: self.descriptors())
    @rule(pick=picks)
    def identify(self, pick: int) -> None:
        picked = self.descriptors()[pick % len(self.descriptors())]
        assert isinstance(picked.holder, Handle)
        info = self.bench.memory.identify(picked.holder.fileno())
        assert info is not None
        assert info.buffer_index == picked.index
        assert info.is_weak == (picked.kind is not Kind.STRONG)
        try:
            made = info.make_weak(CAMERA)
        except NoMoreStrongHandlesError:
            assert not self.model.strong[picked.index]
            return
        assert self.model.strong[picked.index]
        assert made.vmo is not None
        assert made.close_weak_asap is not None
        self.add(picked.index, Kind.WEAK, made.vmo)
        self.signals.append((picked.index, made.close_weak_asap))

    @precondition(lambda self: self.references)
    @rule(pick=picks)
    def close(self, pick: int) -> None:
        self.references.pop(pick % len(self.references)).holder.close()

    @precondition(lambda self: len(self.references) > 1)
    @rule(pick=picks)
    def close_all_but_one(self, pick: int) -> None:
        kept = self.references.pop(pick % len(self.references))
        for reference in self.references:
            reference.holder.close()
        self.references = [kept]

    @rule()
    def drop_strong(self) -> None:
        self.buffers.drop_strong()
        self.model.server = False

    @invariant()
    def signals_are_right(self) -> None:
        self.model.advance(self.references)
        self.bench.quiet()
        for index, event in self.signals:
            assert is_closed(event) == (not self.model.strong[index])
        for remaining, event in self.trackers:
            assert is_closed(event) == (sum(self.model.exists) <= remaining)
        assert self.buffers.existing == sum(self.model.exists)
        assert self.bench.no_strong == ([] if any(self.model.strong) else [42])

    def teardown(self) -> None:
        for reference in self.references:
            reference.holder.close()
        for _, event in self.signals + self.trackers:
            event.close()
        self.bench.close()


BufferMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=15)
TestBuffers = BufferMachine.TestCase
