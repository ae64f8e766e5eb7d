"""An example's negotiation without its processes: with the test kit alone, and with a daemon on the async face."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TypeAlias

import trio

import sysmem
from sysmem import testing
from sysmem.pytest_plugin import CompareGolden

Tables: TypeAlias = dict[str, sysmem.BufferCollectionConstraints | None]
#: Participants, the first of which creates the collection, and the alternatives of a group, one of which takes part.
Participants: TypeAlias = tuple[Tables, Sequence[Tables]]


def check(golden: CompareGolden, name: str, participants: Participants) -> None:
    """Compare the results of both ways with the stored text."""
    together, alternatives = participants
    groups = [testing.Group(*alternatives)] if alternatives else []
    golden(name, testing.negotiate([together, *groups]))
    golden(name, trio.run(_report, participants))


async def _report(participants: Participants) -> str:
    together, alternatives = participants
    same = sysmem.Rights.SAME_RIGHTS
    async with testing.daemon() as d:
        with ExitStack() as stack:
            root = await stack.enter_context(d.connect()).allocate_shared_collection()
            tokens = [root, *await root.duplicate_sync([same] * (len(together) - 1))]
            if alternatives:
                group = await root.create_buffer_collection_token_group()
                tokens += await group.create_children_sync([same] * len(alternatives))
                await group.all_children_present()
                await group.release()
            tables = [*together.items(), *(item for each in alternatives for item in each.items())]
            places = []
            # Turn in the root's token last, because the other collections depend on it.
            for token, (name, table) in reversed([*zip(tokens, tables, strict=True)]):
                allocator = stack.enter_context(d.connect(name=name))
                collection = await allocator.bind_shared_collection(token)
                places.append(stack.enter_context(collection))
                await collection.set_constraints(table)
            (await places[-1].wait_for_all_buffers_allocated()).close()
            return d.last_report()
