"""The daemon with a file of settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .process import SERVICE, Daemon, run
from .protocol import constraints
from .raw import Wire

Configured = Callable[[str], Daemon]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[limits]\nmax_bufer_bytes = 1\n", "max_bufer_bytes"),
        ("limits = 3\n", "limits"),
        ("[log]\nlevel = 'shout'\n", "level"),
    ],
)
def test_a_wrong_setting_is_refused_naming_key_and_file(
    tmp_path: Path, text: str, key: str
) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(text)
    ended = run("--runtime-dir", tmp_path / "run", "--config", config)
    assert ended.returncode != 0
    assert key in ended.stderr
    assert str(config) in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert not (tmp_path / "run" / SERVICE).exists()


@pytest.mark.parametrize("content", [b"[limits\n", b"\xff\xfe", None])
def test_a_settings_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None
) -> None:
    config = tmp_path / "settings.toml"
    if content is not None:
        config.write_bytes(content)
    ended = run("--runtime-dir", tmp_path / "run", "--config", config)
    assert ended.returncode != 0
    assert str(config) in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture
def configured(start: Callable[..., Daemon], tmp_path: Path) -> Configured:
    """Start a daemon with a file of settings."""

    def configured(text: str) -> Daemon:
        config = tmp_path / "settings.toml"
        config.write_text(text)
        return start("--config", str(config))

    return configured


def test_a_limit_from_the_settings_holds(configured: Configured) -> None:
    daemon = configured("[limits]\nmax_allocation_bytes = 8192\nmax_outbox_messages = 10\n")
    with Wire(daemon.runtime_dir) as wire:
        allocator = wire.connect()
        fits, over = allocator.non_shared(), allocator.non_shared()
        fits.allocate(size=8192)
        over.set_constraints(constraints(size=8193))
        over.assert_closes()


@pytest.mark.parametrize("contiguous", ["simulated", "refuse"])
def test_physically_contiguous_required(configured: Configured, contiguous: str) -> None:
    daemon = configured(f"[memory]\ncontiguous = '{contiguous}'\n")
    with Wire(daemon.runtime_dir) as wire:
        collection = wire.connect().non_shared()
        collection.set_constraints(constraints(memory={3: True}))
        if contiguous == "refuse":
            collection.assert_closes()
        else:
            assert collection.wait().memory[2] is True


@pytest.mark.parametrize("allocation", ["lazy", "eager"])
def test_heaps_from_the_settings(configured: Configured, allocation: str) -> None:
    daemon = configured(f"""
[memory]
allocation = "{allocation}"
[[heap]]
type = "example.SECURE"
id = 7
domains = ["inaccessible"]
secure = true
[[heap]]
type = "example.SMALL"
id = 0
domains = ["cpu", "ram"]
max_bytes = 8192
""")
    with Wire(daemon.runtime_dir) as wire:
        allocator = wire.connect()
        secure = allocator.non_shared()
        heap = {1: "example.SECURE", 2: 7}
        secure.set_constraints(
            constraints(cpu=None, usage={5: 1}, memory={4: True, 7: True, 8: [heap]})
        )
        assert secure.wait().memory == {1: 4096, 2: False, 3: True, 4: 2, 5: heap, 6: 4096}
        small = {1: "example.SMALL", 2: 0}
        first, second = (allocator.non_shared() for _ in range(2))
        info = first.allocate(camping=2, memory={8: [small]})
        assert info.memory[5] == small
        # a second collection that does not fit: NO_MEMORY ends the attempt, which nobody waited for
        second.set_constraints(constraints(memory={8: [small]}))
        second.assert_closes()
        # the memory is free again when the event closes
        gone = first.track_lifetime(0)
        first.release_and_close()
        info.close()
        gone.wait_closed()
        again = allocator.non_shared()
        assert len(again.allocate(camping=2, memory={8: [small]}).buffers) == 2


def test_a_heap_that_is_full_is_no_memory(configured: Configured) -> None:
    daemon = configured(
        "[[heap]]\ntype = 'small'\nid = 0\ndomains = ['cpu']\nsecure = false\nmax_bytes = 4096\n"
    )
    with Wire(daemon.runtime_dir) as wire:
        _, one, other = wire.two()
        wait = one.request_with(constraints(camping=2, memory={8: [{1: "small"}]}))
        other.set_constraints({})
        assert one.answer(wait).body == {2: 5}
        one.assert_closes()
