"""A consumer in a process of its own: `python consumer.py SOCKET BUFFERS SIZE [--hold COUNT] [--pause SECONDS]`.

It compares all bytes of each frame, which must be equal. It prints the number of each frame on a line, and at the end
the reason why no more frames come. With `--hold` it keeps that many frames, prints "holding", and waits until it is
ended.
"""

from __future__ import annotations

import argparse
import mmap
import time

import numpy as np

from sysmem import Vmo, VmoBuffer
from sysmem.blocking.frames import EndOfStreamError, Frame, FrameReceiver


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket", type=int)
    parser.add_argument("buffers", help="descriptors, separated by commas")
    parser.add_argument("size", type=int)
    parser.add_argument("--hold", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0)
    options = parser.parse_args()
    fds = [int(fd) for fd in options.buffers.split(",")]
    buffers = [VmoBuffer(vmo=Vmo(fd)) for fd in fds]
    images = [
        np.frombuffer(mmap.mmap(fd, options.size, access=mmap.ACCESS_READ), np.uint8) for fd in fds
    ]
    held: list[Frame] = []
    with FrameReceiver(options.socket, buffers) as receiver:
        try:
            for frame in receiver:
                seen = images[frame.index][: frame.size]
                time.sleep(options.pause)
                intact = bool((seen == frame.sequence % 251).all())
                print(frame.sequence if intact else f"torn {frame.sequence}", flush=True)
                if len(held) < options.hold:
                    held.append(frame)
                    if len(held) == options.hold:
                        print("holding", flush=True)
                        input()
                else:
                    frame.release()
        except EndOfStreamError as end:
            print(end.reason, flush=True)
        else:
            print(receiver.statistics().ended, flush=True)
        for frame in held:
            frame.release()
    for buffer in buffers:
        buffer.close()


if __name__ == "__main__":
    main()
