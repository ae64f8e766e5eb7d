"""Every removal of a service socket is noticed, and nothing else is mistaken for one."""

from __future__ import annotations

import os
import select
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sysmemd import presence
from sysmemd.inotify import Inotify
from sysmemd.presence import Presence


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "above" / "run"
    directory.mkdir(parents=True)
    (directory / "socket").touch()
    (directory / "other").touch()
    return directory / "socket"


@pytest.fixture
def watched(path: Path) -> Iterator[Presence]:
    made = Presence([path])
    assert not is_readable(made)
    yield made
    made.close()
    made.close()


def is_readable(watched: Presence) -> bool:
    return bool(select.select([watched], [], [], 0)[0])


def replaced(path: Path) -> None:
    new = path.parent.parent / "new"
    new.touch()
    new.rename(path)


@pytest.mark.parametrize(
    "take_away",
    [
        Path.unlink,
        replaced,
        lambda path: path.rename(path.with_name("moved")),
        lambda path: shutil.rmtree(path.parent),
        lambda path: path.parent.rename(path.parent.with_name("moved")),
        lambda path: path.parent.parent.rename(path.parent.parent.with_name("moved")),
    ],
    ids=["removed", "replaced", "moved", "directory removed", "directory moved", "moved above"],
)
def test_it_is_noticed_once(
    path: Path, watched: Presence, take_away: Callable[[Path], object]
) -> None:
    take_away(path)
    assert is_readable(watched)
    assert watched.missing() == [path]
    assert watched.missing() == []
    assert not is_readable(watched)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.with_name("other").unlink(),
        lambda path: path.with_name("new").touch(),
        lambda path: path.chmod(0o666),
        lambda path: path.parent.chmod(0o711),
    ],
)
def test_what_happens_beside_is_not_taken_for_it(
    path: Path, watched: Presence, change: Callable[[Path], object]
) -> None:
    change(path)
    assert watched.missing() == []


@pytest.mark.parametrize("first", [0, 1])
def test_a_directory_of_one_may_be_above_that_of_another(path: Path, first: int) -> None:
    other = path.parent.parent / "other"
    other.touch()
    paths = [path, other]
    watched = Presence([paths[first], paths[1 - first]])
    other.unlink()
    assert watched.missing() == [other]
    path.unlink()
    assert watched.missing() == [path]
    watched.close()


def test_a_directory_by_a_link_is_watched(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path.parent)
    watched = Presence([tmp_path / "link" / "socket"])
    path.unlink()
    assert watched.missing() == [tmp_path / "link" / "socket"]
    watched.close()


def test_directories_above_that_can_not_be_read_are_not_watched(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_watch = Inotify.watch

    def watch(self: Inotify, name: str, mask: int) -> int:
        if mask == presence._ABOVE:
            raise PermissionError
        return really_watch(self, name, mask)

    monkeypatch.setattr(Inotify, "watch", watch)
    watched = Presence([path])
    path.unlink()
    assert watched.missing() == [path]
    watched.close()


def test_a_directory_that_can_not_be_watched_leaves_nothing_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        Presence([tmp_path / "nothing" / "socket"])
    assert os.listdir("/proc/self/fd") == before
