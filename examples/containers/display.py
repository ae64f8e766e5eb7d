"""Take the place that another user offers, and print the text in the buffer."""

import sysmem
from sysmem import blocking

with (
    blocking.connect(name="display", wait=30) as allocator,
    allocator.bind_shared_collection(allocator.take("greeting", timeout=60)) as display,
):
    display.set_constraints(sysmem.constraints(cpu="read", hold=0))
    with display.wait_for_all_buffers_allocated() as info, info.buffers[0].map() as memory:
        print(
            bytes(memory[:5]).decode(), "read-only" if memory.readonly else "writable", flush=True
        )
    display.release()
