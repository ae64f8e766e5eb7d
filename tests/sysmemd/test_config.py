"""Settings: the content of a file, its errors, and the completeness of docs/configuration.md."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from sysmem_protocol.images2 import PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import BufferUsage
from sysmemd.config import (
    Config,
    ConfigError,
    InspectSection,
    LogSection,
    load,
    override,
    reloaded,
)
from sysmemd.quota import Kind

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "sysmemd.toml"
    path.write_text(text)
    return load(path)


def error(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    path, _, reason = str(caught.value).partition(": ")
    assert path == str(tmp_path / "sysmemd.toml")
    return reason


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert loaded(tmp_path, "") == Config()


def test_the_example_of_the_specification(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
        [limits]
        max_group_selections = 64
        max_buffer_bytes = 268435456
        max_collection_bytes = 1073741824
        [memory]
        allocation = "eager"
        contiguous = "refuse"
        [[heap]]
        type = "example"
        id = 0
        domains = ["cpu", "ram", "inaccessible"]
        secure = false
        max_bytes = 1
        [[format_cost]]
        pixel_format = "NV12"
        pixel_format_modifier = "LINEAR"
        usage = { video = 1 }
        cost = 100.0
        [log]
        format = "json"
        level = "debug"
        """,
    )
    assert config.limits == Config().limits
    assert (config.memory.allocation, config.memory.contiguous) == ("eager", "refuse")
    assert config.heap[0].domain_names() == ["cpu", "ram", "inaccessible"]
    [cost] = config.format_cost
    assert cost.format_number() == PixelFormat.NV12
    assert cost.modifier_number() == PixelFormatModifier.LINEAR
    assert cost.usage.table() == BufferUsage(none=0, cpu=0, vulkan=0, display=0, video=1)
    assert (config.log.format, config.log.level) == ("json", "debug")


def test_formats_may_be_numbers(tmp_path: Path) -> None:
    text = "[[format_cost]]\npixel_format = 4711\npixel_format_modifier = 3\ncost = 1"
    [cost] = loaded(tmp_path, text).format_cost
    assert (cost.format_number(), cost.modifier_number()) == (4711, 3)


def test_a_secure_heap_is_inaccessible(tmp_path: Path) -> None:
    [heap] = loaded(tmp_path, '[[heap]]\ntype = "p"\nsecure = true').heap
    assert heap.domain_names() == ["inaccessible"]


def test_the_mode_is_octal() -> None:
    assert Config(mode="0660").socket_mode() == 0o660
    assert Config().socket_mode() == 0o600
    assert InspectSection(mode="0660").socket_mode() == 0o660


DMA = 'kind = "dma-heap"\ndevice = "/dev/dma_heap/system"'
SYSTEM = 'type = "fuchsia.sysmem.heap.HEAP_TYPE.SYSTEM_RAM"'


def test_the_system_heap_may_be_bounded(tmp_path: Path) -> None:
    [heap] = loaded(tmp_path, f"[[heap]]\n{SYSTEM}\nmax_bytes = 5").heap
    assert heap.max_bytes == 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = ", "not TOML: "),
        ("color = 1", "Object contains unknown field `color`"),
        ("[limits]\nmax_fun = 1", "Object contains unknown field `max_fun` - at `$.limits`"),
        ("[limits]\nmax_buffer_bytes = 0", "Expected `int` >= 1 - at `$.limits.max_buffer_bytes`"),
        ('[limits]\nmax_buffer_bytes = "1"', "Expected `int`, got `str` - at `$.limits.max_buf"),
        ("[limits]\nmax_buffer_bytes = 1.5", "Expected `int`, got `float`"),
        ('[memory]\nallocation = "slow"', "Invalid enum value 'slow' - at `$.memory.allocation`"),
        ("mode = 600", "Expected `str`, got `int` - at `$.mode`"),
        ('mode = "rw"', "at `$.mode`"),
        ('mode = "01777"', "at `$.mode`"),
        ('runtime_dir = ""', "at `$.runtime_dir`"),
        ('[log]\nlevel = "loud"', "at `$.log.level`"),
        ('[log]\nformat = "xml"', "at `$.log.format`"),
        ("limits = 3", "Expected `object`, got `int` - at `$.limits`"),
        ("[limits]\nmax_group_selections = 0", "at `$.limits.max_group_selections`"),
        ("[limits]\nmax_group_selections = true", "Expected `int`, got `bool`"),
        ('[memory]\ncontiguous = "yes"', "at `$.memory.contiguous`"),
        ('[[heap]]\ntype = "p"\nsecure = 1', "at `$.heap[0].secure`"),
        ('[[format_cost]]\npixel_format = 1\ncost = "high"', "at `$.format_cost[0].cost`"),
        ("[[format_cost]]\npixel_format = 1\nusage = { vido = 1 }\ncost = 1", "field `vido`"),
        ("[[heap]]\nid = 1", "Object missing required field `type` - at `$.heap[0]`"),
        (f'[[heap]]\ntype = "{"é" * 65}"', "at most 128 bytes of UTF-8 - at `$.heap[0]`"),
        ('[[heap]]\ntype = "p"\ndomains = []', "at `$.heap[0].domains`"),
        ('[[heap]]\ntype = "p"\ncontiguous = true', 'for a heap of kind "dma-heap" only'),
        ('[[heap]]\ntype = "p"\ndevice = "/dev/x"', 'for a heap of kind "dma-heap" only'),
        ('[[heap]]\ntype = "p"\nkind = "dma-heap"', "needs its device"),
        (f"[[heap]]\n{DMA}\ntype = 'p'\nsecure = true", "can't be secure"),
        (f"[[heap]]\n{DMA}\n{SYSTEM}", "only its max_bytes can be set"),
        (f"[[heap]]\n{DMA.replace('/dev', 'dev')}\ntype = 'p'", "at `$.heap[0].device`"),
        ('[[heap]]\ntype = "p"\ndomains = ["gpu"]', "at `$.heap[0].domains[0]`"),
        ('[[heap]]\ntype = "p"\nsecure = true\ndomains = ["cpu"]', "inaccessible"),
        (f"[[heap]]\n{SYSTEM}\nsecure = true", "only its max_bytes can be set - at `$.heap[0]`"),
        (f'[[heap]]\n{SYSTEM}\ndomains = ["cpu"]', "only its max_bytes can be set"),
        ('[[heap]]\ntype = "p"\n[[heap]]\ntype = "p"', "heap 'p' with id 0 is configured twice"),
        ('[access]\nallow_users = ["nobody at all"]', "no user 'nobody at all' - at `$.access`"),
        ('[access]\nallow_groups = ["nobody at all"]', "no group 'nobody at all' - at `$.access`"),
        ("[access]\nallow_users = [-1]", "at `$.access.allow_users[0]`"),
        ("[quota]\nnodes = -1", "Expected `int` >= 0 - at `$.quota.nodes`"),
        (
            f"[quota]\nnodes = {1 << 63}",
            "Expected `int` <= 9223372036854775807 - at `$.quota.nodes`",
        ),
        (f"[limits]\nmax_outbox_bytes = {1 << 63}", "at `$.limits.max_outbox_bytes`"),
        ('[[heap]]\ntype = "p"\nid = -1', "Expected `int` >= 0 - at `$.heap[0].id`"),
        (f'[[heap]]\ntype = "p"\nid = {1 << 63}', "at `$.heap[0].id`"),
        ('[[heap]]\ntype = ""', "at `$.heap[0].type`"),
        ('group = ""', "at `$.group`"),
        ('[inspect]\ngroup = ""', "at `$.inspect.group`"),
        (f"[access]\nallow_users = [{1 << 32}]", "at `$.access.allow_users[0]`"),
        ("[inspect]\nended = 4097", "Expected `int` <= 4096 - at `$.inspect.ended`"),
        ("[inspect]\nended = -1", "Expected `int` >= 0 - at `$.inspect.ended`"),
        ("[quota]\ndescriptors = 1", "unknown field `descriptors`"),
        (
            '[[quota.user]]\nuser = "nobody at all"',
            "no user 'nobody at all' - at `$.quota.user[0]`",
        ),
        ("[[quota.user]]\nnodes = 1", "missing required field `user`"),
        (
            '[[quota.user]]\nuser = 0\n[[quota.user]]\nuser = "root"',
            "user 'root' is configured twice",
        ),
        (
            '[[format_cost]]\npixel_format = "XX"\ncost = 1',
            "pixel_format: 'XX' is not one of INVALID, ",
        ),
        (
            '[[format_cost]]\npixel_format = 1\npixel_format_modifier = "XX"\ncost = 1',
            "pixel_format_modifier: 'XX' is not one of LINEAR, ",
        ),
        ("[[format_cost]]\npixel_format = 1\npixel_format_modifier = -1\ncost = 1", "_modifier`"),
        ("[[format_cost]]\npixel_format = 1", "missing required field `cost`"),
        ("[[format_cost]]\npixel_format = 1\ncost = nan", "finite number, not nan"),
        ("[[format_cost]]\npixel_format = 1\ncost = inf", "finite number, not inf"),
    ],
)
def test_an_error_names_the_file_and_the_key(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in error(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        f"[limits]\nmax_buffer_bytes = 1\nmax_collection_bytes = {(1 << 63) - 1}",
        f"[quota]\nnodes = 0\nbytes = {(1 << 63) - 1}",
        f"[access]\nallow_users = [0, {(1 << 32) - 1}]",
        f'[[heap]]\ntype = "{"é" * 64}"\nid = {(1 << 63) - 1}\n[[heap]]\ntype = "x"\nid = 0',
        "[inspect]\nended = 0",
        "[inspect]\nended = 4096",
    ],
)
def test_the_smallest_and_largest_values_are_valid(tmp_path: Path, text: str) -> None:
    loaded(tmp_path, text)


@pytest.mark.parametrize(
    "section",
    [
        *("limits", "memory", "log", "access", "quota", "inspect", "metrics"),
        "[heap]]\ntype = 'p' #",
        "[format_cost]]\npixel_format = 1\ncost = 1 #",
        "[format_cost]]\npixel_format = 1\ncost = 1\n[format_cost.usage",
        "[quota.user]]\nuser = 0 #",
    ],
)
def test_each_section_refuses_unknown_keys(tmp_path: Path, section: str) -> None:
    assert "unknown field `no_such_key`" in error(tmp_path, f"[{section}]\nno_such_key = 1")


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml: .*No such file"):
        load(tmp_path / "nothing.toml")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "sysmemd.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="utf-8"):
        load(path)


def test_what_the_command_line_says_wins(tmp_path: Path) -> None:
    text = 'mode = "0600"\nruntime_dir = "/a"\n[[heap]]\ntype = "p"\n[[format_cost]]\n'
    config = loaded(tmp_path, text + "pixel_format = 1\ncost = 1")
    changed = override(config, {"mode": "0666", "runtime_dir": "/b"})
    assert (changed.mode, changed.runtime_dir) == ("0666", "/b")
    assert (changed.heap, changed.format_cost) == (config.heap, config.format_cost)


def test_what_the_command_line_says_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"command line: .*\$\.mode"):
        override(Config(), {"mode": "99"})


# --- docs/configuration.md --------------------------------------------------------------------------------------------


def settings(kind: type[msgspec.Struct] = Config, prefix: str = "") -> dict[str, str]:
    """Yield every setting under its name in the document, with its default as JSON."""
    found: dict[str, str] = {}
    for field in msgspec.structs.fields(kind):
        name = prefix + field.encode_name
        listed = name in ("heap", "format_cost", "quota.user")
        section = field.type.__args__[0] if listed else field.type
        if isinstance(section, type) and issubclass(section, msgspec.Struct):
            found |= settings(section, f"{name}.")
        elif field.required:
            found[name] = "required"
        else:
            found[name] = "un-set" if field.default is None else f"`{json.dumps(field.default)}`"
    return found


def documented() -> dict[str, str]:
    """Return every setting of the document's table, with its default."""
    rows = re.findall(
        r"^\| `([\w.]+)` \| [^|]+ \| ([^|]+) \| [^|]+ \|$", DOCUMENT.read_text(), re.M
    )
    return {name: default.strip() for name, default in rows}


def test_every_setting_is_documented_with_its_default() -> None:
    assert documented() == settings()


def test_the_documented_example_loads_and_shows_every_section(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    loaded(tmp_path, example)
    shown = tomllib.loads(example)
    assert set(shown) == {field.encode_name for field in msgspec.structs.fields(Config)}


# --- users and groups -------------------------------------------------------------------------------------------------


def test_users_and_groups_are_names_or_numbers(tmp_path: Path) -> None:
    access = loaded(tmp_path, '[access]\nallow_users = ["root", 7]\nallow_groups = [8]').access
    assert (access.uids(), access.gids()) == (frozenset({0, 7}), frozenset({8}))
    assert (Config().access.uids(), Config().access.gids()) == (None, None)
    assert loaded(tmp_path, "[access]\nallow_users = []").access.uids() == frozenset()


def test_a_users_quota_is_the_common_one_where_it_says_nothing(tmp_path: Path) -> None:
    quota = loaded(
        tmp_path,
        "[quota]\nnodes = 10\nbytes = 4096\n"
        '[[quota.user]]\nuser = "root"\nnodes = 0\n[[quota.user]]\nuser = 7\nbytes = 1',
    ).quota
    assert quota.limits_by_uid() == {
        0: quota.limits() | {Kind.NODES: 0},
        7: quota.limits() | {Kind.BYTES: 1},
    }


# --- reading it again -------------------------------------------------------------------------------------------------


def test_a_reload_changes_what_it_can_and_names_what_needs_a_restart(tmp_path: Path) -> None:
    running = Config(mode="0660", log=LogSection(format="json"))
    read = loaded(
        tmp_path,
        'mode = "0666"\n[limits]\nmax_buffer_bytes = 1\n[quota]\nnodes = 1\n[access]\nallow_users = [0]\n'
        '[[format_cost]]\npixel_format = 1\ncost = 1\n[log]\nlevel = "debug"\n[[heap]]\ntype = "p"',
    )
    config, restart = reloaded(running, read)
    assert restart == ["mode", "heap", "log"]
    assert (config.mode, config.heap, config.log) == (
        "0660",
        [],
        LogSection(format="json", level="debug"),
    )
    for name in ("limits", "quota", "access", "format_cost"):
        assert getattr(config, name) == getattr(read, name)


def test_a_reload_without_changes_needs_no_restart() -> None:
    assert reloaded(Config(), Config()) == (Config(), [])
