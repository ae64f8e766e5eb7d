"""Every setting of the daemon, as a TOML file has it (`spec/linux.md`, Settings).

The structure of the file is the structure of these classes; a key that isn't there, or a value of another type, is an
error that names the key and the file. What the command line says wins over the file.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sysmem_protocol.images2 import PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import (
    MAX_HEAP_TYPE_BYTES,
    SYSTEM_RAM_HEAP,
    BufferUsage,
    CoherencyDomain,
)

U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
U64 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Positive = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
Domain = Literal["cpu", "ram", "inaccessible"]


class ConfigError(ValueError):
    """The configuration can't be used; the text names the file and the key."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client, or one collection, may take."""

    #: Group selections that an attempt tries before it gives up.
    max_group_selections: Positive = 64
    #: Bytes of one buffer, padding included.
    max_buffer_bytes: Positive = 256 * 1024 * 1024
    #: Bytes of all buffers of a collection.
    max_collection_bytes: Positive = 1024 * 1024 * 1024
    #: Bytes of one buffer without padding; un-set: as many as a buffer may have.
    max_allocation_bytes: Positive | None = None
    #: Answers that wait for a client which doesn't read them, and their bytes.
    max_outbox_messages: Positive = 1024
    max_outbox_bytes: Positive = 1024 * 1024
    #: Calls on one channel that wait for their answer.
    max_unanswered_calls: Positive = 1024


class MemorySection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How buffers are made."""

    #: "eager" reserves every page at once; "lazy" lets the kernel find them at the first touch.
    allocation: Literal["lazy", "eager"] = "lazy"
    #: What becomes of `physically_contiguous_required`, which a process can't see to.
    contiguous: Literal["simulated", "refuse"] = "simulated"


class HeapSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A heap besides the system's."""

    type: Annotated[str, Meta(min_length=1)]
    id: U64 = 0
    #: Un-set: all of them, or what a secure heap can do.
    domains: Annotated[list[Domain], Meta(min_length=1)] | None = None
    secure: bool = False
    #: Bytes of all buffers in this heap together; un-set: no bound.
    max_bytes: Positive | None = None

    def __post_init__(self) -> None:
        if len(self.type.encode()) > MAX_HEAP_TYPE_BYTES:
            raise ValueError(f"a heap's type has at most {MAX_HEAP_TYPE_BYTES} bytes of UTF-8")
        if self.secure and self.domain_names() != ["inaccessible"]:
            raise ValueError('a secure heap supports the domain "inaccessible" only')
        is_system = (self.type, self.id) == (SYSTEM_RAM_HEAP.heap_type, 0)
        if is_system and (self.secure or len(set(self.domain_names())) < len(CoherencyDomain)):
            raise ValueError("the system heap supports all domains; only its max_bytes can be set")

    def domain_names(self) -> list[Domain]:
        """The domains, as given or by default."""
        if self.domains is not None:
            return self.domains
        return ["inaccessible"] if self.secure else ["cpu", "ram", "inaccessible"]


class UsageSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Usage bits, as in BufferUsage."""

    none: U32 = 0
    cpu: U32 = 0
    vulkan: U32 = 0
    display: U32 = 0
    video: U32 = 0

    def table(self) -> BufferUsage:
        """The bits as constraints have them."""
        return BufferUsage(**msgspec.structs.asdict(self))


class FormatCostSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What images of a format cost those who use them in this way."""

    #: A name of `spec/image-formats.md` 1, or a number.
    pixel_format: str | U32
    pixel_format_modifier: str | U64 = "LINEAR"
    usage: UsageSection = UsageSection()
    cost: float

    def __post_init__(self) -> None:
        self.format_number()
        self.modifier_number()
        if not math.isfinite(self.cost):
            raise ValueError(f"a cost must be a finite number, not {self.cost}")

    def format_number(self) -> int:
        """The pixel format's number."""
        return _member(PixelFormat, "pixel_format", self.pixel_format)

    def modifier_number(self) -> int:
        """The modifier's number."""
        return _member(PixelFormatModifier, "pixel_format_modifier", self.pixel_format_modifier)


class LogSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes to stderr, and how."""

    format: LogFormat = "console"
    level: LogLevel = "info"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    #: Where the service sockets are; un-set: as `sysmem_protocol.runtime` finds it.
    runtime_dir: Annotated[str, Meta(min_length=1)] | None = None
    #: Permissions of the sockets, as octal digits.
    mode: Annotated[str, Meta(pattern="^0?[0-7]{3}$")] = "0600"
    #: The group that the sockets belong to, by name or number; un-set: the daemon's own.
    group: Annotated[str, Meta(min_length=1)] | None = None
    limits: Limits = Limits()
    memory: MemorySection = MemorySection()
    heap: list[HeapSection] = []
    format_cost: list[FormatCostSection] = []
    log: LogSection = LogSection()

    def __post_init__(self) -> None:
        seen = set()
        for heap in self.heap:
            if (heap.type, heap.id) in seen:
                raise ValueError(f"heap {heap.type!r} with id {heap.id} is there twice")
            seen.add((heap.type, heap.id))

    def socket_mode(self) -> int:
        """The permissions as a number."""
        return int(self.mode, 8)


def load(path: Path | str) -> Config:
    """Read a configuration file.

    Raises :class:`ConfigError` when it can't be read, isn't TOML, or says something that isn't a setting.
    """
    try:
        text = Path(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return parse(text, str(path))


def parse(source: str | Mapping[str, object], name: str = "configuration") -> Config:
    """Return the configuration that TOML text, or the data that such a text stands for, describes.

    Raises :class:`ConfigError`, whose text begins with `name`, for what isn't TOML or isn't a setting.
    """
    try:
        return msgspec.convert(
            tomllib.loads(source) if isinstance(source, str) else dict(source), Config
        )
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from None


def override(config: Config, values: Mapping[str, object]) -> Config:
    """A configuration with some of its top-level settings replaced, checked as those of a file are.

    Raises :class:`ConfigError`.
    """
    return parse({**msgspec.to_builtins(config), **values}, "command line")


def _member(enum: type[PixelFormat] | type[PixelFormatModifier], key: str, value: str | int) -> int:
    if isinstance(value, int):
        return value
    try:
        return int(enum[value])
    except KeyError:
        names = ", ".join(member.name for member in enum)
        raise ValueError(f"{key}: {value!r} is none of {names}") from None
