"""Clients learn why a call failed. The reasons are the same in all faces (`docs/spec/inspect.md`)."""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import pytest
import trio

import sysmem
from sysmem import Error, PeerClosedError, SysmemError, blocking
from sysmem.testing import Sysmemd
from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    BufferUsage,
    ColorSpace,
    CpuUsage,
    Heap,
    ImageFormatConstraints,
    NoneUsage,
    PixelFormat,
    SizeU,
    VideoUsage,
)

from .scenario import ENOUGH, NV12

#: A program that uses a daemon through any face. `await said(...)` takes the result of a call in any of them.
Program: TypeAlias = Callable[[Any], Awaitable[None]]
Run: TypeAlias = Callable[[Program], None]

READS = BufferUsage(cpu=CpuUsage.READ_OFTEN)


async def said(call: Any) -> Any:
    """Return the result of a call. Await it if the face is the async one."""
    return await call if inspect.isawaitable(call) else call


@pytest.fixture(params=["trio", "asyncio", "blocking"])
def run(request: pytest.FixtureRequest, daemon: Sysmemd) -> Run:
    """Run a program with an allocator of one of the faces."""
    connect: Any = blocking.connect if request.param == "blocking" else sysmem.connect

    def in_loop(program: Program) -> None:
        async def main() -> None:
            with anyio.fail_after(ENOUGH):
                allocator = await said(connect(daemon.runtime_dir, name="me", id=1))
                try:
                    await program(allocator)
                finally:
                    allocator.close()

        if request.param == "asyncio":
            asyncio.run(main())
        else:
            trio.run(main)

    return in_loop


async def failure(method: Callable[..., Any], *arguments: Any) -> PeerClosedError | SysmemError:
    """Return the exception that a call raises."""
    with pytest.raises((PeerClosedError, SysmemError)) as caught:
        await said(method(*arguments))
    error = caught.value
    assert isinstance(error, PeerClosedError | SysmemError)
    return error


def image(pixel_format: PixelFormat = NV12, **fields: Any) -> ImageFormatConstraints:
    fields.setdefault("color_spaces", [ColorSpace.REC709])
    fields.setdefault("min_size", SizeU(64, 64))
    return ImageFormatConstraints(pixel_format=pixel_format, **fields)


def wants(*images: ImageFormatConstraints, **fields: Any) -> BufferCollectionConstraints:
    fields.setdefault("usage", READS)
    fields.setdefault("min_buffer_count", 1)
    return BufferCollectionConstraints(image_format_constraints=list(images) or None, **fields)


def memory(**fields: Any) -> BufferMemoryConstraints:
    return BufferMemoryConstraints(**fields)


#: Common mistakes of one participant, and words of the sentence that describes each mistake.
MISTAKES = {
    "no usage": (wants(image(), usage=None), "at least one usage bit must be set"),
    "no size": (wants(), "somebody must ask for a size"),
    "a colour space that the format hasn't": (
        wants(image(color_spaces=[ColorSpace.SRGB])),
        "each color space must be supported by the format, NV12 LINEAR (SRGB)",
    ),
    "no colour space": (wants(image(color_spaces=None)), "color_spaces must be given"),
    "min over max": (
        wants(image(min_size=SizeU(65, 64), max_size=SizeU(64, 64))),
        "min_size must be at most max_size",
    ),
    "200 buffers": (wants(image(), min_buffer_count=200), "at most 128 buffers (200 > 128)"),
    "none at all": (wants(image(), min_buffer_count=0), "somebody must need a buffer"),
    "min count over max": (
        wants(image(), max_buffer_count=1, min_buffer_count=2),
        "min_buffer_count must be at most max_buffer_count",
    ),
    "no format": (
        wants(ImageFormatConstraints(color_spaces=[ColorSpace.REC709], min_size=SizeU(1, 1))),
        "an image entry must name a pixel format",
    ),
    "a format twice": (wants(image(), image()), "no two image entries of one participant"),
    "an open format": (wants(image(PixelFormat.DO_NOT_CARE)), "somebody must choose a specific"),
    "an alignment of 3": (
        wants(image(size_alignment=SizeU(3, 1))),
        "must be a non-zero power of 2",
    ),
    "a heap that isn't there": (
        wants(image(), buffer_memory_constraints=memory(permitted_heaps=[Heap(heap_type="gpu")])),
        "no permitted heap is configured",
    ),
    "a secure heap that isn't there": (
        wants(
            image(),
            usage=BufferUsage(video=VideoUsage.HW_DECODER),
            buffer_memory_constraints=memory(
                secure_required=True, inaccessible_domain_supported=True
            ),
        ),
        "secure",
    ),
    "more than there may be": (
        wants(buffer_memory_constraints=memory(min_size_bytes=1 << 40)),
        "one buffer is over the limit of this daemon",
    ),
    "usage and none": (
        wants(image(), usage=BufferUsage(none=NoneUsage.NONE_USAGE, cpu=CpuUsage.READ)),
        "usage none excludes all other usage",
    ),
}


@pytest.mark.parametrize("pipelined", [True, False], ids=["pipelined", "in steps"])
@pytest.mark.parametrize(("constraints", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named(
    run: Run, constraints: BufferCollectionConstraints, words: str, pipelined: bool
) -> None:
    async def program(allocator: Any) -> None:
        collection = await said(allocator.allocate_non_shared_collection())
        with collection:
            if not pipelined:
                await said(collection.sync())
            await said(collection.set_constraints(constraints))
            if not pipelined:
                assert await said(collection.wait_closed(ENOUGH))
            error = await failure(collection.wait_for_all_buffers_allocated)
            assert isinstance(error, PeerClosedError)
            assert words in str(error), error
            assert str(error) == f"the peer closed the channel: {error.reason}"
            assert error.report is not None
            assert words in error.report
            assert collection.reason == error.reason
            again = await failure(collection.sync)
            assert (again.reason, again.report) == (error.reason, error.report)

    run(program)


@pytest.mark.parametrize("pipelined", [True, False], ids=["pipelined", "in steps"])
def test_constraints_twice(run: Run, pipelined: bool) -> None:
    async def program(allocator: Any) -> None:
        token = await said(allocator.allocate_shared_collection())
        other = await said(token.duplicate())
        collection = await said(allocator.bind_shared_collection(token))
        with collection, other:
            await said(collection.set_constraints(wants(image())))
            if not pipelined:
                await said(collection.sync())
            await said(collection.set_constraints(wants(image())))
            error = await failure(collection.sync)
            assert "SetConstraints on a collection whose constraints are set" in str(error)
            assert "this participant broke the protocol" in str(error)
            assert error.report is None
            error = await failure(other.sync)
            assert "me (1), collection 1, broke the protocol" in str(error)

    run(program)


def test_a_one_way_call_tells_it_too(run: Run) -> None:
    async def program(allocator: Any) -> None:
        collection = await said(allocator.allocate_non_shared_collection())
        with collection:
            await said(collection.set_constraints(wants()))

            async def name() -> None:
                while True:  # until the daemon has processed the messages
                    await said(collection.set_name(1, "name"))

            error = await failure(name)
            assert "somebody must ask for a size" in str(error)

    run(program)


def test_two_who_cannot_agree_both_learn_it_whoever_spoke_last(run: Run) -> None:
    async def program(allocator: Any) -> None:
        outcomes = []
        for index in range(40):
            token = await said(allocator.allocate_shared_collection())
            other = await said(token.duplicate())
            await said(token.sync())
            one = await said(allocator.bind_shared_collection(other))
            two = await said(allocator.bind_shared_collection(token))
            first, last = (one, two) if index % 2 else (two, one)
            with one, two:
                await said(first.set_debug_client_info("first", 1))
                await said(last.set_debug_client_info("last", 2))
                await said(first.set_constraints(wants(image(), max_buffer_count=3)))
                await said(last.set_constraints(wants(image(), min_buffer_count=4)))
                for collection in (last, first) if index % 4 < 2 else (first, last):
                    error = await failure(collection.wait_for_all_buffers_allocated)
                    assert "first (was me) (1) $.max_buffer_count = 3" in str(error)
                    assert "last (was me) (2) $.min_buffer_count = 4" in str(error)
                    assert error.report is not None
                    outcomes.append(type(error))
        assert len(outcomes) == 80

    run(program)


def test_an_answer_with_an_error_and_then_the_end(run: Run) -> None:
    async def program(allocator: Any) -> None:
        token = await said(allocator.allocate_shared_collection())
        other = await said(token.duplicate())
        collection = await said(allocator.bind_shared_collection(token))
        with collection, other:
            error = await failure(collection.check_all_buffers_allocated)
            assert isinstance(error, SysmemError)
            assert error.error is Error.PENDING
            assert error.reason == (
                "me (1) has to set its constraints (collection 1); "
                "me (1) has to turn in its token (token 2)"
            )
            await said(collection.set_constraints(wants(image(), max_buffer_count=1)))
            await said(collection.sync())
            second = await said(allocator.bind_shared_collection(other))
            with second:
                await said(second.set_constraints(wants(image(), min_buffer_count=2)))
                error = await failure(collection.wait_for_all_buffers_allocated)
                assert error.reason is not None
                assert error.report is not None
                after = await failure(collection.sync)
                assert (after.reason, after.report) == (error.reason, error.report)

    run(program)


def test_who_crashed_is_named(run: Run, daemon: Sysmemd) -> None:
    async def program(allocator: Any) -> None:
        token = await said(allocator.allocate_shared_collection())
        other = await said(token.duplicate())
        await said(other.set_debug_client_info("camera", 12))
        await said(other.sync())
        collection = await said(allocator.bind_shared_collection(token))
        with collection:
            await said(collection.sync())
            other.close()
            assert await said(collection.wait_closed(ENOUGH))
            assert collection.reason == (
                "camera (was me) (12), token 2, closed its token without Release, or ended"
            )
            error = await failure(collection.wait_for_all_buffers_allocated)
            assert str(error) == f"the peer closed the channel: {collection.reason}"

    run(program)


def test_what_became_of_a_token_is_told_to_who_turns_it_in(run: Run) -> None:
    async def program(allocator: Any) -> None:
        token = await said(allocator.allocate_shared_collection())
        other = await said(token.duplicate())
        await said(token.sync())
        other.close()
        await said(allocator.validate_buffer_collection_token(1))
        while await said(allocator.validate_buffer_collection_token(token.server_koid)):
            pass
        collection = await said(allocator.bind_shared_collection(token))
        with collection:
            error = await failure(collection.sync)
            assert "the token to bind is unknown: its node has failed" in str(error)
            assert "closed its token without Release, or ended" in str(error)

    run(program)


def test_a_group_that_chose_otherwise(run: Run) -> None:
    async def program(allocator: Any) -> None:
        token = await said(allocator.allocate_shared_collection())
        group = await said(token.create_buffer_collection_token_group())
        tokens = [token, await said(group.create_child()), await said(group.create_child())]
        await said(group.all_children_present())
        await said(group.sync())
        chosen: list[Any] = [await said(allocator.bind_shared_collection(one)) for one in tokens]
        for collection in chosen:
            await said(collection.set_constraints(wants(image())))
        assert await said(chosen[2].wait_closed(ENOUGH))
        assert chosen[2].reason == "group 2 selected collection 3 of me (1), not collection 4"
        for each in (*chosen, group):
            each.close()

    run(program)


def test_no_reason_is_made_up(run: Run) -> None:
    async def program(allocator: Any) -> None:
        token = await said(allocator.allocate_shared_collection())
        assert token.reason is None
        await said(token.release())
        assert token.closed

    run(program)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_stops(
    sysmemd: Sysmemd, allocator: blocking.Allocator, how: signal.Signals
) -> None:
    with allocator.allocate_shared_collection() as token:
        token.sync()
        sysmemd.process.send_signal(how)
        assert token.wait_closed(ENOUGH)
        stopped = "the daemon is stopping" if how == signal.SIGTERM else None
        assert token.reason == stopped
        assert allocator.wait_closed(ENOUGH)
        assert allocator.reason == stopped
    sysmemd.process.wait(ENOUGH)
