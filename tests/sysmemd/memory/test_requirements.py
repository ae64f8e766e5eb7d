"""Missing features are named at start; `docs/spec/linux.md`, "Limits of the process"."""

from __future__ import annotations

import errno
import os

import pytest

from sysmem_protocol.kinds import Status
from sysmemd.memory import examine_kernel, locks, requirements, vmo
from sysmemd.memory.watch import InodeWatch, Reports


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def test_without_proc_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_PROC", ("/nonexistent/fd",))
    monkeypatch.setattr(os, "memfd_create", refuse)
    (sentence,) = examine_kernel().missing
    assert sentence.startswith("/proc must be mounted")


def test_without_memfds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "memfd_create", refuse)
    first, *others = examine_kernel().missing
    assert first.startswith("memfd_create with sealing is needed")
    assert [other.split()[0] for other in others] == ["F_OFD_SETLK", "inotify"]


def test_without_ofd_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "guard", refuse)
    (sentence,) = examine_kernel().missing
    assert sentence.startswith("F_OFD_SETLK locks are needed")
    assert "Function not implemented" in sentence


@pytest.mark.parametrize(
    ("name", "answer", "reason"),
    [
        ("any_left", False, "a lock is not visible from another open file description"),
        (
            "kinds_held",
            set(),
            "the locks of one open file description can't be distinguished from others",
        ),
        (
            "kinds_held",
            set(locks.Kind),
            "the locks of one open file description can't be distinguished from others",
        ),
    ],
)
def test_with_locks_that_tell_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, answer: object, reason: str
) -> None:
    monkeypatch.setattr(locks, name, lambda *_: answer)
    (sentence,) = examine_kernel().missing
    assert reason in sentence


def test_without_inotify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "InodeWatch", refuse)
    (sentence,) = examine_kernel().missing
    assert sentence.startswith("inotify is needed")


def test_with_an_inotify_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InodeWatch, "read", lambda _: Reports())
    (sentence,) = examine_kernel().missing
    assert "the end of a memfd isn't reported" in sentence


def test_with_sockets_that_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "descriptors_waiting", refuse)
    (sentence,) = examine_kernel().missing
    assert sentence.startswith("Linux 5.6 is needed")


# --- what the daemon takes for true ---


def test_this_kernel_does_as_expected_and_nothing_stays_open() -> None:
    """This holds since Linux 6.6."""
    newer = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (6, 6)
    findings = examine_kernel()
    assert findings.missing == []
    assert findings.differences == [] or not newer


@pytest.mark.parametrize(
    ("owner", "name", "otherwise", "said"),
    [
        (
            InodeWatch,
            "watch_closings",
            InodeWatch.watch_end,
            "the kernel does not report closed buffer handles",
        ),
        (locks, "is_left", lambda *_: False, "a handle's lock is released before its mapping"),
        (
            locks,
            "is_left",
            lambda fd, kind, number: not number,
            "a handle's lock is released before its mapping",
        ),
        (
            requirements,
            "holds_lock",
            refuse,
            "the locks of one open file description can't be queried",
        ),
        (
            requirements,
            "holds_lock",
            lambda _: True,
            "the locks of one open file description can't be queried",
        ),
        (vmo, "_MFD_NOEXEC_SEAL", 0, "buffers can be made executable"),
        (
            requirements,
            "unread_of",
            lambda _: 0,
            "the kernel does not report what is queued in a socket",
        ),
        (
            requirements,
            "descriptors_waiting",
            lambda _: 0,
            "the kernel does not report what is queued in a socket",
        ),
        (
            requirements,
            "status",
            lambda _: Status(0, 0, 0),
            "the kernel does not report what a descriptor refers to",
        ),
        (
            requirements,
            "_SO_PEERGROUPS",
            12345,
            "the kernel does not report the groups of a client",
        ),
    ],
)
def test_what_a_kernel_does_otherwise_is_named(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, otherwise: object, said: str
) -> None:
    monkeypatch.setattr(owner, name, otherwise)
    assert [sentence for sentence in examine_kernel().differences if sentence.startswith(said)]
