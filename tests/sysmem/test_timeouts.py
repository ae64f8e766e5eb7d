"""A timeout has the same meaning in both faces and on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import anyio
import numpy as np
import pytest

import sysmem
from sysmem import blocking, sysmemctl
from sysmem._timeouts import milliseconds, seconds
from sysmem.pytest_plugin import Daemon
from sysmem_protocol.handles import eventpair


@pytest.mark.parametrize("timeout", [None, math.inf, np.float32("inf"), 10**400])
def test_no_end_is_for_ever(timeout: Any) -> None:
    assert seconds(timeout) is None


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [
        (1, 1.0),
        (np.int8(3), 3.0),
        (np.float64(0.5), 0.5),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 4), 0.25),
        (-1, 0.0),
        (-math.inf, 0.0),
        (-(10**400), 0.0),
    ],
)
def test_numbers_are_seconds_and_negative_ones_are_0(timeout: Any, expected: float) -> None:
    assert seconds(timeout) == expected


@pytest.mark.parametrize("timeout", ["1", b"1", [1], object(), 1j])
def test_what_is_no_number_is_a_type_error(timeout: Any) -> None:
    with pytest.raises(TypeError, match="a timeout is a number of seconds or None"):
        seconds(timeout)


def test_weeks_are_bounded_by_what_poll_takes() -> None:
    assert milliseconds(1e300) == 0x7FFF_FFFF
    assert milliseconds(0.0001) == 1
    assert milliseconds(None) is None


CALLS: dict[str, Callable[[Any, float], Any]] = {
    "a call": lambda token, timeout: token.sync(timeout=timeout),
    "a one-way call": lambda token, timeout: token.set_verbose_logging(timeout=timeout),
    "wait_closed": lambda token, timeout: token.wait_closed(timeout),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("timeout", "error"), [(math.nan, ValueError), ("1", TypeError)])
def test_every_call_refuses_what_is_no_time(
    ends: tuple[int, Any], call: Any, timeout: Any, error: type[Exception]
) -> None:
    fd, peer = ends
    with blocking.BufferCollectionToken.from_fd(fd) as token, pytest.raises(error):
        call(token, timeout)

    with sysmem.BufferCollectionToken(peer.channel.take()) as other:

        async def asynchronous() -> None:
            with pytest.raises(error):
                await call(other, timeout)

        anyio.run(asynchronous)


@pytest.mark.parametrize("face", [blocking.EventPair, sysmem.AsyncEventPair])
def test_events_wait_for_ever_or_not_at_all(face: Any) -> None:
    near, far = eventpair()
    far.close()

    async def outcome(timeout: Any) -> Any:
        waited = pair.wait_closed(timeout)
        return await waited if face is sysmem.AsyncEventPair else waited

    with face(near.take()) as pair:
        assert anyio.run(outcome, math.inf) is True
        assert anyio.run(outcome, -1) is True
        with pytest.raises(ValueError, match="NaN"):
            anyio.run(outcome, math.nan)


@pytest.mark.parametrize("timeout", [math.inf, 10**400])
def test_infinity_waits_for_the_daemon(sysmemd: Daemon, timeout: Any) -> None:
    with blocking.connect(sysmemd.runtime_dir, timeout=timeout) as allocator:
        assert allocator.validate_buffer_collection_token(0, timeout=timeout) is False
        with allocator.allocate_shared_collection(timeout=timeout) as token:
            token.sync(timeout=timeout)

    async def asynchronous() -> None:
        async with sysmem.connect(sysmemd.runtime_dir, timeout=timeout) as allocator:
            assert await allocator.validate_buffer_collection_token(0, timeout=timeout) is False

    anyio.run(asynchronous)
    assert (
        sysmemctl.main(["--runtime-dir", str(sysmemd.runtime_dir), "ping", "--timeout", "inf"]) == 0
    )


@pytest.mark.parametrize("text", ["nan", "soon"])
def test_what_is_no_time_is_a_wrong_command_line(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        sysmemctl.main(["ping", "--timeout", text])
    assert caught.value.code == 2
    assert "--timeout" in capsys.readouterr().err
