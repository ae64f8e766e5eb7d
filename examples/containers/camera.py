"""Write a text into a buffer, and offer a place in the collection to another user: `camera.py UID`."""

import sys

import sysmem
from sysmem import blocking

with (
    blocking.connect(name="camera", wait=30) as allocator,
    allocator.allocate_non_shared_collection() as camera,
):
    camera.set_constraints(sysmem.constraints(cpu="write", size_bytes=4096, hold=1))
    with camera.wait_for_all_buffers_allocated() as info:
        with info.buffers[0].map() as memory:
            memory[:5] = b"hello"
        allocator.offer("greeting", camera.attach_token(), to=int(sys.argv[1]), timeout=60)
        camera.release()
