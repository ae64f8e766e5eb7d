"""A pytest plugin for runs with coverage: each test is a context, and durations are written to `$SYSMEM_DURATIONS`."""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import coverage
import pytest

from sysmem.testing._zygote import Process, Zygote

_durations: dict[str, float] = {}
_failed = set[str]()


def pytest_configure() -> None:
    # Processes that tests start are recorded too, unless they get another environment.
    os.environ["COVERAGE_PROCESS_START"] = os.environ["COVERAGE_RCFILE"]
    start = Zygote.start

    def start_in_context(zygote: Zygote, run: str, *arguments: Any, **more: Any) -> Process:
        return start(zygote, f"{__name__}:in_context", run, *arguments, **more)

    Zygote.start = start_in_context  # type: ignore[assignment, method-assign]


def in_context(run: str, *arguments: Any) -> object:
    """Call a function in a process that a zygote has forked.

    The process belongs to the test that asked for it. The zygote belongs to an earlier one, so the context is that
    one's, a `|`, and this one's.
    """
    recorder = coverage.Coverage.current()
    if recorder is not None:
        recorder.switch_context(os.environ["SYSMEM_TEST"])
    module, _, name = run.partition(":")
    function: Callable[..., object] = getattr(importlib.import_module(module), name)
    return function(*arguments)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    recorder = coverage.Coverage.current()
    assert recorder is not None, "must run under `coverage run`"
    recorder.switch_context(item.nodeid)
    os.environ["SYSMEM_TEST"] = item.nodeid
    begun = time.perf_counter()
    try:
        return (yield)
    finally:
        _durations[item.nodeid] = time.perf_counter() - begun
        recorder.switch_context("")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object],
) -> Generator[None, object, object]:
    """Let processes that a fixture of several tests starts belong to all tests of the file."""
    test = os.environ["SYSMEM_TEST"]
    if fixturedef.scope != "function":
        os.environ["SYSMEM_TEST"] = test.partition("::")[0] + "::"
    try:
        return (yield)
    finally:
        os.environ["SYSMEM_TEST"] = test


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    passed = {test: duration for test, duration in _durations.items() if test not in _failed}
    Path(os.environ["SYSMEM_DURATIONS"]).write_text(json.dumps(passed))
