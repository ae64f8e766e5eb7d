"""Buffers in GStreamer: caps from settings, shared memory, the places of planes, and refusals.

GStreamer is in the system's Python, so each test is a program that runs there.
"""

from __future__ import annotations

import textwrap

import pytest

from sysmem.pytest_plugin import Daemon

from ..gstreamer import run_with_gstreamer

PRELUDE = """\
import gc, os
import numpy as np
import sysmem, sysmem.gst
from sysmem import ColorSpace, ImageFormat, PixelFormat, PixelFormatModifier, SizeU, blocking
from sysmem.gst import caps, fill, wrap

def refused(call, *words):
    try:
        call()
    except ValueError as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError("not refused")

def memory(start=4096, size=65536):
    fd = os.memfd_create("gst", os.MFD_CLOEXEC)
    os.truncate(fd, size)
    return sysmem.VmoBuffer(vmo=sysmem.Vmo(fd), vmo_usable_start=start)

def read_only(buffer):
    fd = os.open(f"/proc/self/fd/{buffer.vmo.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
    return sysmem.VmoBuffer(vmo=sysmem.Vmo(fd), vmo_usable_start=buffer.vmo_usable_start)

def mapped(buffer, flags=Gst.MapFlags.READ):
    ok, info = buffer.map(flags)
    assert ok
    return info

NV12 = ImageFormat(PixelFormat.NV12, SizeU(32, 18), 48, color_space=ColorSpace.REC709)
BGRA = ImageFormat(PixelFormat.B8G8R8A8, SizeU(32, 18), 160, color_space=ColorSpace.SRGB)
buffer = memory()
"""


def run(code: str, *arguments: str) -> str:
    return run_with_gstreamer(
        PRELUDE + textwrap.dedent(code) + "\nbuffer.close()\nprint('done')", *arguments
    )


def test_caps_say_what_was_negotiated() -> None:
    assert run(
        """
        text = caps(NV12, framerate=24).to_string()
        for field in ("format=(string)NV12", "width=(int)32", "height=(int)18", "framerate=(fraction)24/1",
                      "colorimetry=(string)bt709"):
            assert field in text, text
        assert "colorimetry" not in caps(ImageFormat(PixelFormat.NV12, SizeU(2, 2), 2)).to_string()
        for member in PixelFormat:
            if member.gst_format:
                assert caps(ImageFormat(member, SizeU(32, 18), 256)).is_fixed()
        refused(lambda: caps(ImageFormat(PixelFormat.M420, SizeU(2, 2), 2)), "no format like M420")
        tiled = ImageFormat(PixelFormat.NV12, SizeU(32, 18), 128, PixelFormatModifier.INTEL_I915_Y_TILED)
        refused(lambda: caps(tiled), "no format like NV12 INTEL_I915_Y_TILED")
        refused(lambda: wrap(buffer, tiled), "no format like NV12 INTEL_I915_Y_TILED")
        """
    ).endswith("done\n")


def test_a_wrapped_buffer_is_the_same_memory_and_knows_its_planes() -> None:
    run(
        """
        for member in PixelFormat:
            if not member.gst_format:
                continue
            image = ImageFormat(member, SizeU(32, 18), 256)
            planes = buffer.planes(image)
            made = wrap(buffer, image, pts=5, duration=6)
            assert (made.pts, made.duration, made.get_size()) == (5, 6, image.byte_size())
            meta = GstVideo.buffer_get_video_meta(made)
            assert meta.n_planes == len(planes)
            assert meta.stride[:len(planes)] == [plane.strides[0] for plane in planes], member
            for number, plane in enumerate(planes):
                place = (number + 1, number + 2)
                plane[place] = 77
                info = mapped(made)
                at = meta.offset[number] + place[0] * meta.stride[number] + place[1] * plane.strides[1]
                assert info.data[at] == 77 or info.data[at + 1] == 77, member
                made.unmap(info)
        info = mapped(made, Gst.MapFlags.READ | Gst.MapFlags.WRITE)
        info.data[0] = 99
        made.unmap(info)
        assert buffer.mapping()[0] == 99
        """
    )


def test_a_part_of_an_image_is_wrapped() -> None:
    run(
        """
        part = ImageFormat(PixelFormat.NV12, SizeU(32, 18), 48, display_rect=(4, 2, 16, 8))
        buffer.planes(part)[0][0, 0] = 77
        buffer.planes(part)[1][0, 0] = 66, 67
        made = wrap(buffer, part)
        meta = GstVideo.buffer_get_video_meta(made)
        assert (meta.width, meta.height) == (16, 8)
        info = mapped(made)
        assert info.data[meta.offset[0]] == 77
        assert bytes(info.data[meta.offset[1]:meta.offset[1] + 2]) == bytes((66, 67))
        made.unmap(info)
        """
    )


def test_without_the_right_to_write_elements_write_into_copies() -> None:
    run(
        """
        buffer.planes(NV12)[0][:] = 7
        other = read_only(buffer)
        made = wrap(other, NV12)
        info = mapped(made)
        assert info.data[0] == 7
        made.unmap(info)
        info = mapped(made, Gst.MapFlags.READ | Gst.MapFlags.WRITE)
        info.data[0] = 99
        made.unmap(info)
        assert buffer.planes(NV12)[0][0, 0] == 7
        refused(lambda: fill(other, None, NV12), "the rights do not allow writing")
        other.close()
        """
    )


def test_what_does_not_fit_is_refused() -> None:
    run(
        """
        large = ImageFormat(PixelFormat.NV12, SizeU(640, 480), 640)
        refused(lambda: wrap(buffer, large), "does not fit")
        refused(lambda: wrap(buffer), "settings of this buffer are not known")
        """
    )


PIPELINE = """
def pipeline(source, target):
    made = Gst.parse_launch("appsrc name=source format=time ! videoconvert ! appsink name=sink sync=false")
    made.get_by_name("source").set_property("caps", caps(source, framerate=24))
    made.get_by_name("sink").set_property("caps", caps(target, framerate=24))
    made.set_state(Gst.State.PLAYING)
    return made, made.get_by_name("source"), made.get_by_name("sink")
"""


def test_a_pipeline_between_two_buffers() -> None:
    run(
        PIPELINE
        + textwrap.dedent(
            """
            luma, chroma = buffer.planes(NV12)
            luma[:, :16], luma[:, 16:], chroma[:] = 16, 235, 128
            running, source, sink = pipeline(NV12, BGRA)
            assert source.emit("push-buffer", wrap(buffer, NV12, pts=0)) == Gst.FlowReturn.OK
            sample = sink.emit("pull-sample")
            target = memory(start=0)
            fill(target, sample, BGRA)
            [shown] = target.planes(BGRA)
            assert shown[:, :14, :3].max() <= 4 and shown[:, 18:, :3].min() >= 250
            refused(lambda: fill(target, sample, NV12), "the sample is BGRA with 32 × 18", "the buffer NV12")
            running.set_state(Gst.State.NULL)
            target.close()
            """
        )
    )


def test_a_wrapped_buffer_outlives_the_collection(sysmemd: Daemon) -> None:
    run(
        """
        import sys
        with blocking.connect(sys.argv[1]) as allocator:
            collection = allocator.allocate_non_shared_collection()
            collection.set_constraints(
                sysmem.constraints("NV12 32x18", cpu="read often, write often", hold=1)
            )
            with collection.wait_for_all_buffers_allocated(timeout=20) as info:
                text = caps(info).to_string()
                assert text == caps(info.settings).to_string() and "width=(int)32" in text
                info.buffers[0].planes()[0][:] = 77
                made = wrap(info.buffers[0])
            tracking = collection.attach_lifetime_tracking()
            collection.release()
        mapping = mapped(made)
        assert mapping.data[0] == 77
        made.unmap(mapping)
        with tracking:
            assert not tracking.wait_closed(0)
            del made, mapping
            gc.collect()
            assert tracking.wait_closed(20)
        """,
        str(sysmemd.runtime_dir),
    )


def test_without_gstreamer_the_module_says_what_is_missing() -> None:
    try:
        import gi  # noqa: F401  # whether it is there
    except ImportError:
        pass
    else:
        pytest.skip("this Python has PyGObject")
    with pytest.raises(ImportError, match=r"apt-get install python3-gst-1\.0"):
        import sysmem.gst  # noqa: F401  # what fails
