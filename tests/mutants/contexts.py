"""A pytest plugin for runs with coverage: each test is a context, and durations are written to `$SYSMEM_DURATIONS`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from pathlib import Path

import coverage
import pytest

_durations: dict[str, float] = {}
_failed = set[str]()


def pytest_configure() -> None:
    # Processes that tests start are recorded too, unless they get another environment.
    os.environ["COVERAGE_PROCESS_START"] = os.environ["COVERAGE_RCFILE"]


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


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    passed = {test: duration for test, duration in _durations.items() if test not in _failed}
    Path(os.environ["SYSMEM_DURATIONS"]).write_text(json.dumps(passed))
