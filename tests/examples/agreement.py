"""An example's negotiation without its processes: by the kit alone, and with a daemon on the async face."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TypeAlias

import trio

import sysmem
from sysmem import testing
from sysmem.pytest_plugin import CompareGolden

#: The first to be named makes the collection.
Participants: TypeAlias = Sequence[
    dict[str, sysmem.BufferCollectionConstraints | None] | testing.Group
]


def check(golden: CompareGolden, name: str, participants: Participants) -> None:
    """Compare what comes out either way with the stored text."""
    golden(name, testing.negotiate(participants))
    golden(name, trio.run(_report, participants))


async def _report(participants: Participants) -> str:
    async with testing.daemon() as d:
        with ExitStack() as stack:
            root = await stack.enter_context(d.connect()).allocate_shared_collection()
            tokens: dict[str, sysmem.BufferCollectionToken] = {}
            tables: dict[str, sysmem.BufferCollectionConstraints | None] = {}
            for part in participants:
                if isinstance(part, testing.Group):
                    names = [name for each in part.alternatives for name in each]
                    group = await root.create_buffer_collection_token_group()
                    made = await group.create_children_sync(
                        [sysmem.Rights.SAME_RIGHTS] * len(names)
                    )
                    await group.all_children_present()
                    await group.release()
                    tables |= {name: each[name] for each in part.alternatives for name in each}
                else:
                    names = list(part)
                    made = [root] if not tokens else []
                    others = len(names) - len(made)
                    made += await root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * others)
                    tables |= part
                tokens |= dict(zip(names, made, strict=True))
            places = []
            for name, token in reversed(tokens.items()):  # the root's token last
                allocator = stack.enter_context(d.connect(name=name))
                collection = await allocator.bind_shared_collection(token)
                places.append(stack.enter_context(collection))
                await collection.set_constraints(tables[name])
            (await places[-1].wait_for_all_buffers_allocated()).close()
            return d.last_report()
