"""A small, slow tree, written sentence by sentence from `docs/spec/allocation.md`, to compare the real one with.

It counts and remembers nothing: after every event it computes everything again from the whole tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sysmem_protocol.sysmem2 import Error

#: (camping, min_buffer_count, max_buffer_count), as a participant sets them.
Wish = tuple[int, int, int]


@dataclass(eq=False)
class ModelNode:
    kind: str
    parent: ModelNode | None
    rights: int
    isolation: str = "propagate"
    weak: bool = False
    weak_ok: bool = False
    weak_ok_children: bool = False
    children: list[ModelNode] = field(default_factory=list)
    #: The client holds its end.
    open: bool = True
    released: bool = False
    failed: bool = False
    constraints_set: bool = False
    wish: Wish = (0, 0, 128)
    all_present: bool = False
    waited: bool = False
    #: None, "success" or the name of an error.
    result: object = None
    #: How many times a client that waits was sent a result.
    answers: int = 0
    #: The numbers of the attached events.
    trackings: list[int] = field(default_factory=list)
    lifetimes: list[int] = field(default_factory=list)

    @property
    def orphan(self) -> bool:
        return self.released and not self.open

    @property
    def ready(self) -> bool:
        if self.orphan:
            return True
        if self.kind == "token":
            return False
        return self.constraints_set if self.kind == "collection" else self.all_present

    @property
    def strong(self) -> bool:
        return not self.weak and not self.orphan

    @property
    def domain(self) -> ModelNode:
        """The node at which a failure of this one stops: it fails with everything below it."""
        node = self
        while node.parent is not None:
            if node.isolation == "do not propagate":
                break
            if node.isolation == "propagate before allocation" and node.result == "success":
                break
            node = node.parent
        return node

    def below(self) -> list[ModelNode]:
        """Return the node and its descendants, parents first."""
        return [self, *(node for child in self.children for node in child.below())]


class Model:
    def __init__(self, max_group_selections: int) -> None:
        self.max_group_selections = max_group_selections
        self.root = ModelNode("token", None, 0xFFFFFFFF)
        self.gone = False
        self.count: int | None = None
        self.no_memory = False
        self.strong_dropped = False
        self.closed_events: set[int] = set()
        self.handed_lifetimes: set[int] = set()

    # --- messages: each says whether it is allowed, and then has happened ---

    def create(self, parent: ModelNode, kind: str, mask: int, *, attached: bool = False) -> bool:
        if parent.released:
            return False
        if attached:
            if parent.kind != "collection" or parent.weak or mask == 0:
                return False
        elif kind == "group":
            if parent.kind != "token":
                return False
        elif parent.kind == "group":
            if parent.all_present or mask == 0:
                return False
        elif parent.kind != "token":
            return False
        if mask in (0, 0x80000000, 0xFFFFFFFF):
            mask = 0xFFFFFFFF
        parent.children.append(
            ModelNode(
                kind,
                parent,
                parent.rights & mask,
                isolation="do not propagate" if attached else "propagate",
                weak=parent.weak,
                weak_ok=parent.weak_ok_children,
                weak_ok_children=parent.weak_ok_children,
            )
        )
        return True

    def create_sync(self, parent: ModelNode, masks: list[int]) -> bool:
        if parent.released or parent.kind == "collection" or parent.all_present or 0 in masks:
            return False
        return all(self.create(parent, "token", mask) for mask in masks)

    def set_dispensable(self, node: ModelNode) -> bool:
        if node.released or node.kind != "token":
            return False
        if node.isolation == "propagate":
            node.isolation = "propagate before allocation"
        return True

    def bind(self, node: ModelNode) -> bool:
        if node.released or node.kind != "token":
            return False
        node.kind = "collection"
        return True

    def set_constraints(self, node: ModelNode, wish: Wish) -> bool:
        if node.released or node.kind != "collection" or node.constraints_set:
            return False
        node.constraints_set = True
        node.wish = wish
        self.settle()
        return True

    def wait(self, node: ModelNode) -> bool:
        if node.released or node.kind != "collection" or not node.constraints_set:
            return False
        if node.weak and not node.weak_ok:
            return False
        node.waited = True
        return True

    def check(self, node: ModelNode) -> bool:
        return not node.released and node.kind == "collection"

    def all_children_present(self, node: ModelNode) -> bool:
        if node.released or node.kind != "group" or node.all_present or not node.children:
            return False
        node.all_present = True
        self.settle()
        return True

    def set_weak(self, node: ModelNode) -> bool:
        if node.released or node.constraints_set or node.all_present:
            return False
        node.weak = node.weak_ok = True
        self.settle()
        return True

    def set_weak_ok(self, node: ModelNode, also: bool) -> bool:
        if node.released or node.waited:
            return False
        node.weak_ok = True
        node.weak_ok_children = node.weak_ok_children or also
        return True

    def attach_tracking(self, node: ModelNode, event: int) -> bool:
        if node.released:
            self.closed_events.add(event)
            return False
        node.trackings.append(event)
        return True

    def attach_lifetime(self, node: ModelNode, event: int) -> bool:
        if node.released or node.kind != "collection":
            self.closed_events.add(event)
            return False
        if node.result == "success":
            self.handed_lifetimes.add(event)
        else:
            node.lifetimes.append(event)
        return True

    def release(self, node: ModelNode) -> bool:
        if node.released or (node.kind == "group" and not node.all_present):
            return False
        node.released = True
        return True

    def close(self, node: ModelNode) -> None:
        if node.released:
            node.open = False
            self.settle()
        else:
            self.fail(node)

    def fail(self, node: ModelNode) -> None:
        self._fail(node)
        self.settle()

    def no_strong_handles(self) -> None:
        if not self.gone:
            self._fail(self.root)

    # --- Failure ---

    def _fail(self, node: ModelNode) -> None:
        self._remove(node.domain)

    def _remove(self, top: ModelNode) -> None:
        for node in top.below():
            node.failed = True
            self.closed_events.update(node.trackings, node.lifetimes)
        if top.parent is None:
            self.gone = True
            self.strong_dropped = self.count is not None
        else:
            top.parent.children.remove(top)

    def in_tree(self) -> list[ModelNode]:
        return [] if self.gone else self.root.below()

    def breadth_first(self) -> Iterator[ModelNode]:
        level = [] if self.gone else [self.root]
        while level:
            yield from level
            level = [child for node in level for child in node.children]

    # --- Logical allocation ---

    def settle(self) -> None:
        changed = True
        while changed and not self.gone:
            changed = self._fail_a_domain_without_clients() or self._attempt_ready()
            if not self.gone and not any(node.strong for node in self.in_tree()):
                if self.count is None:
                    self._fail(self.root)
                else:
                    self.strong_dropped = True

    def _fail_a_domain_without_clients(self) -> bool:
        for node in reversed(list(self.breadth_first())):
            is_domain = node.parent is None or node.isolation != "propagate"
            if is_domain and not any(inner.open for inner in node.below()):
                self._fail(node)
                return True
        return False

    def _attempt_ready(self) -> bool:
        if not any(node.strong for node in self.in_tree()) and self.count is None:
            return False
        starts = [
            node
            for node in self.breadth_first()
            if node.result is None
            and (
                node.parent is None
                or (node.isolation == "do not propagate" and node.parent.result == "success")
            )
        ]
        attempted = False
        for start in starts:
            if not start.failed and all(node.ready for node in pruned(start)):
                self._attempt(start)
                attempted = True
        return attempted

    def _attempt(self, start: ModelNode) -> None:
        error = Error.CONSTRAINTS_INTERSECTION_EMPTY
        for tried, visible in enumerate(selections(start, {})):
            if tried == self.max_group_selections:
                error = Error.TOO_MANY_GROUP_CHILD_COMBINATIONS
                break
            count = self._aggregate(start, visible)
            if count is None:
                continue
            if self.count is None:
                if self.no_memory:
                    error = Error.NO_MEMORY
                    break
                self.count = count
            self._success(start, visible)
            return
        for node in start.below():
            if node.kind == "collection":
                node.result = error
                node.answers += node.open and not node.released
        self._remove(start)

    def _aggregate(self, start: ModelNode, visible: list[ModelNode]) -> int | None:
        taking_part = [
            node for node in self.in_tree() if node.result == "success" or node in visible
        ]
        wishes = [node.wish for node in taking_part if node.constraints_set]
        least = max([wish[1] for wish in wishes] + [sum(wish[0] for wish in wishes)])
        most = min([wish[2] for wish in wishes] + [128])
        if start.parent is None:
            return least if least <= most else None
        assert self.count is not None
        return self.count if least <= self.count <= most else None

    def _success(self, start: ModelNode, visible: list[ModelNode]) -> None:
        hidden = [node for node in pruned(start) if node not in visible]
        for node in visible:
            node.result = "success"
            if node.kind == "collection":
                node.answers += node.open and not node.released
            self.handed_lifetimes.update(node.lifetimes)
            node.lifetimes.clear()
        for node in hidden:
            if not node.failed:
                self._remove(node)


class DaemonsModel(Model):
    """The model with an addition of the real constraint engine: a result without buffers is not an agreement."""

    def _aggregate(self, start: ModelNode, visible: list[ModelNode]) -> int | None:
        return super()._aggregate(start, visible) or None


def pruned(start: ModelNode) -> list[ModelNode]:
    """Return a start node and its descendants that are reached without an attached node, in depth-first pre-order."""
    found = [start]
    for child in start.children:
        if child.isolation != "do not propagate":
            found += pruned(child)
    return found


def selections(start: ModelNode, chosen: dict[ModelNode, ModelNode]) -> Iterator[list[ModelNode]]:
    """Yield the visible nodes of each selection, in order: the highest-ranking undecided group decides first."""
    visible = []
    todo = [start]
    while todo:
        node = todo.pop(0)
        visible.append(node)
        if node.kind != "group":
            todo[:0] = [child for child in node.children if child.isolation != "do not propagate"]
        elif node in chosen:
            todo.insert(0, chosen[node])
        else:
            for child in node.children:
                yield from selections(start, {**chosen, node: child})
            return
    yield visible
