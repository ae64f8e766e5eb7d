"""The names of server ends, which their client ends see."""

from __future__ import annotations

import errno
import itertools
import os
import re
import socket

import pytest

from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import channel_ends
from sysmemd.channels.errors import Refused
from sysmemd.channels.names import Random

from .support import Bench


def test_the_client_end_sees_the_koid(bench: Bench) -> None:
    token = bench.token()
    name = token.channel.peer_name()
    assert re.fullmatch(rb"\0sysmem/[0-9a-f]{16}/[0-9]+", name)
    assert token.koid() in bench.service.tokens
    with token.duplicate_end() as end:
        assert bench.service.koid_of(end) == token.koid()


def test_before_the_server_has_the_end_the_name_is_empty(bench: Bench) -> None:
    client, far = bench.client()
    with far:
        assert client.channel.peer_name() == b""
        assert bench.service.koid_of(far) is None


def test_koids_are_unique_and_their_successors_unknown(bench: Bench) -> None:
    koids = [bench.token().koid() for _ in range(50)]
    assert koids == sorted(set(koids))
    steps = {after - before for before, after in itertools.pairwise(koids)}
    assert len(steps) > 40
    assert all(0 < number < 1 << 64 for number in koids)


def test_a_name_that_somebody_took_is_passed_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that guesses future names and binds them has no effect on others."""
    monkeypatch.setattr(os, "urandom", bytes)
    bench.service.names.random = Random()
    first = bench.token()
    prefix, _, number = first.channel.peer_name().rpartition(b"/")
    step = 1 << 24
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as squatter:
        squatter.bind(prefix + b"/%d" % (int(number) + step))
        assert bench.token().koid() == int(number) + 2 * step
    assert bench.log.said("warning", "error") == []


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOSPC])
def test_an_end_that_the_kernel_can_not_name_is_not_its_clients_fault(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def bind(channel: Channel, name: bytes) -> None:
        raise OSError(error, "out of it")

    monkeypatch.setattr(Channel, "bind", bind)
    near, far = channel_ends()
    with near, far, pytest.raises(OSError, match="out of it"):
        bench.service.names.give(far)


def test_an_end_that_has_a_name_is_refused(bench: Bench) -> None:
    near, far = channel_ends()
    with near, socket.socket(fileno=os.dup(far.fileno())) as former:
        former.bind("")  # the kernel picks a name
        with pytest.raises(Refused, match="can't be named"):
            bench.service.names.give(far)
    assert not far.closed  # it still belongs to its owner
    far.close()
