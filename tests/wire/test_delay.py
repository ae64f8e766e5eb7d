"""protocol.md: nothing a client sends delays another client."""

from __future__ import annotations

import select
from typing import Any

from .raw import (
    SAME_RIGHTS,
    TOO_MANY_GROUP_CHILD_COMBINATIONS,
    Channel,
    Wire,
    constraints,
    only_sizes,
)

# Formats that RGB or YUV colour spaces go with, each once.
_RGB = (1, 101, 108, 109, 110, 111, 112, 113, 114, 115, 116, 118, 119, 120)
_SIZES = [[side, 2000 - side] for side in range(100, 164)]


def _demanding() -> dict[int, Any]:
    entries = [{1: number, 2: 0, 3: [1], 4: [16, 16], 18: _SIZES} for number in _RGB]
    return constraints(camping=0, size=1, more={8: entries})


def test_a_negotiation_of_many_participants_delays_no_other_client(wire: Wire) -> None:
    allocator, other = wire.connect(), wire.connect()
    root = allocator.shared()
    tokens = [token for _ in range(4) for token in root.duplicate_sync([SAME_RIGHTS] * 64)]
    groups = [root.group() for _ in range(7)]
    children = [group.children_sync([SAME_RIGHTS] * 2) for group in groups]
    top = allocator.bind(root)
    top.set_constraints(only_sizes(10, 20))
    wait = top.request_wait()
    top.sync()
    for group in groups:
        group.all_children_present()
        group.sync()
    *rest, last = tokens + [child for pair in children[1:] for child in pair] + [children[0][1]]
    misfit = allocator.bind(children[0][0])
    misfit.set_constraints(only_sizes(100, 200))
    for token in rest:
        collection = allocator.bind(token)
        collection.set_constraints(_demanding())
        collection.sync()
    final = allocator.bind(last)
    final.sync()
    final.set_constraints(_demanding())
    meanwhile = 0
    while not readable(top):
        other.sync()
        meanwhile += 1
    assert top.answer(wait).body == {2: TOO_MANY_GROUP_CHILD_COMBINATIONS}
    # With an attempt that delays others one may go by before it begins, and one is caught by it.
    assert meanwhile > 10


def readable(channel: Channel) -> bool:
    """Whether an answer has come."""
    return bool(select.select([channel], [], [], 0)[0])
