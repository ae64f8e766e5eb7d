"""The pipeline: converts the frames of one collection into the buffers of another.

`converter.py TOKEN TOKEN SOCKET SOCKET`, descriptors that `__main__.py` has it inherit: first those of the source.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

import sysmem
from sysmem import blocking
from sysmem.blocking.frames import FrameReceiver, FrameSender
from sysmem.gst import Gst, caps, fill, wrap

PIPELINE = "appsrc name=source format=time ! videoconvert ! appsink name=sink sync=false"


def main() -> None:
    source_token, sink_token, source_socket, sink_socket = map(int, sys.argv[1:])
    with ExitStack() as stack:
        with blocking.connect(name="converter") as allocator:
            source, sink = (
                stack.enter_context(
                    allocator.bind_shared_collection(blocking.BufferCollectionToken.from_fd(fd))
                )
                for fd in (source_token, sink_token)
            )
        source.set_constraints(sysmem.constraints("NV12", cpu="read often", hold=1))
        sink.set_constraints(sysmem.constraints("B8G8R8A8", cpu="write often", hold=1, align=16))
        source_info = stack.enter_context(source.wait_for_all_buffers_allocated())
        sink_info = stack.enter_context(sink.wait_for_all_buffers_allocated())

        pipeline = Gst.parse_launch(PIPELINE)
        appsrc, appsink = pipeline.get_by_name("source"), pipeline.get_by_name("sink")
        appsrc.set_property("caps", caps(source_info))
        appsink.set_property("caps", caps(sink_info))
        pipeline.set_state(Gst.State.PLAYING)
        stack.callback(pipeline.set_state, Gst.State.NULL)

        receiver = stack.enter_context(FrameReceiver(source_socket, source_info))
        sender = stack.enter_context(FrameSender(sink_info, sink_socket))
        for frame in receiver:
            with frame:
                appsrc.emit("push-buffer", wrap(frame.buffer, pts=frame.timestamp))
                sample = appsink.emit("pull-sample")
            if sample is None:
                raise SystemExit("the pipeline ended")
            index = sender.acquire()
            fill(sink_info.buffers[index], sample)
            sender.send(index)
        for collection in (source, sink):
            collection.release()


if __name__ == "__main__":
    main()
