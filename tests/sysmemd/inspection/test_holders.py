"""The current owners of the client ends of nodes; `docs/spec/inspect.md`, "Snapshot"."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sysmem_protocol import processes
from sysmemd.inspection import holders
from sysmemd.inspection.holders import HolderSearch
from sysmemd.threads import ask_here

from .support import Look


def nodes(look: Look) -> list[Any]:
    return [node for each in look.bench.service.collections.values() for node in each.nodes()]


def test_a_token_that_was_passed_on_is_with_who_has_it(look: Look) -> None:
    token = look.bench.token()
    look.bench.duplicate(token)
    told: list[Mapping[int, str]] = []
    look.bench.service.who_has(nodes(look), told.append)
    me = str(processes.process(os.getpid()))
    assert told == [{1: me, 2: me}]
    pid = os.fork()
    if not pid:
        os.read(os.eventfd(0), 8)  # for ever
    try:
        token.close()
        look.bench.service.who_has(nodes(look), told.append)
        assert str(pid) in told[-1][1]
        assert me not in told[-1][1]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_the_warning_names_the_process(look: Look) -> None:
    look.bench.token()
    [collection] = look.bench.service.collections.values()
    collection.overdue._due()
    [(event, fields)] = look.bench.log.said("warning")
    assert event == "allocation is taking a while"
    assert fields["held_by"] == [f"token 1: {processes.process(os.getpid())}"]


def test_one_search_at_a_time_for_all_who_asked(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
    search = HolderSearch(
        look.bench.service.names.prefix, lambda question, done: asked.append((question, done))
    )
    look.bench.token()
    told: list[Mapping[int, str]] = []
    for _ in range(3):
        search.who_has(nodes(look), told.append)
    assert len(asked) == 1
    question, done = asked.pop()
    done(question())
    assert (len(told), len(asked)) == (1, 1)
    question, done = asked.pop()
    done(question())
    assert (len(told), len(asked)) == (3, 0)
    assert told[0] == told[1] == told[2] != {}


@pytest.mark.parametrize("error", [OSError("no sock_diag"), ValueError("a name without a koid")])
def test_a_kernel_that_does_not_tell(
    look: Look, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: bytes) -> None:
        raise error

    monkeypatch.setattr(holders, "named_sockets", fail)
    look.bench.token()
    told: list[Mapping[int, str]] = []
    HolderSearch(b"\0sysmem/", ask_here).who_has(nodes(look), told.append)
    assert told == [{}]
