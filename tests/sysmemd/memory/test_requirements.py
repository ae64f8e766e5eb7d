"""What is missing is named at start; `docs/spec/linux.md`, "Limits of the process"."""

from __future__ import annotations

import errno
import os

import pytest

from sysmemd.memory import locks, missing_requirements, requirements
from sysmemd.memory.watch import InodeWatch, Reports


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def test_this_machine_will_do() -> None:
    assert missing_requirements() == []


def test_without_proc_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_PROC", ("/nonexistent/fd",))
    (sentence,) = missing_requirements()
    assert sentence.startswith("/proc must be mounted")


def test_without_memfds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "memfd_create", refuse)
    assert missing_requirements()[0].startswith("memfd_create with sealing is needed")


def test_without_ofd_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "guard", refuse)
    (sentence,) = missing_requirements()
    assert sentence.startswith("F_OFD_SETLK locks are needed")
    assert "Function not implemented" in sentence


@pytest.mark.parametrize(
    ("name", "answer", "reason"),
    [
        ("any_left", False, "a lock isn't seen from another description"),
        ("kinds_held", set(), "a description's own locks can't be told from others'"),
    ],
)
def test_with_locks_that_tell_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, answer: object, reason: str
) -> None:
    monkeypatch.setattr(locks, name, lambda *_: answer)
    (sentence,) = missing_requirements()
    assert reason in sentence


def test_without_inotify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "InodeWatch", refuse)
    (sentence,) = missing_requirements()
    assert sentence.startswith("inotify is needed")


def test_with_an_inotify_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InodeWatch, "read", lambda _: Reports())
    (sentence,) = missing_requirements()
    assert "the end of a memfd isn't reported" in sentence


def test_with_sockets_that_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "descriptors_waiting", refuse)
    (sentence,) = missing_requirements()
    assert sentence.startswith("Linux 5.6 is needed")
