"""All settings of the daemon, as in the TOML file (`docs/spec/linux.md`, "Settings").

These classes have the structure of the file. An unknown key or a value of a wrong type is an error that names the key
and the file. The command line has priority over the file.
"""

from __future__ import annotations

import grp
import math
import pwd
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from sysmem_protocol.images2 import PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import (
    MAX_HEAP_TYPE_BYTES,
    SYSTEM_RAM_HEAP,
    BufferUsage,
    CoherencyDomain,
)

from .quota import Kind

U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
U64 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Positive = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]

Mode = Annotated[str, Meta(pattern="^0?[0-7]{3}$")]

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
Domain = Literal["cpu", "ram", "inaccessible"]


class ConfigError(ValueError):
    """The configuration is invalid. The text names the file and the key."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits for one client or one collection."""

    #: The maximum number of group selections in an attempt.
    max_group_selections: Positive = 64
    #: The maximum size of one buffer in bytes, including padding.
    max_buffer_bytes: Positive = 256 * 1024 * 1024
    #: The maximum size of all buffers of a collection in bytes.
    max_collection_bytes: Positive = 1024 * 1024 * 1024
    #: The maximum size of one buffer in bytes, without padding. Un-set: no limit besides `max_buffer_bytes`.
    max_allocation_bytes: Positive | None = None
    #: The maximum number of responses queued for a client that does not read, and of their bytes.
    max_outbox_messages: Positive = 1024
    max_outbox_bytes: Positive = 1024 * 1024
    #: The maximum number of unanswered calls on one channel.
    max_unanswered_calls: Positive = 1024


class MemorySection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The allocation of buffers."""

    #: "eager" allocates every page immediately; "lazy" lets the kernel allocate pages at first use.
    allocation: Literal["lazy", "eager"] = "lazy"
    #: How to handle `physically_contiguous_required`, which an ordinary process cannot fulfil.
    contiguous: Literal["simulated", "refuse"] = "simulated"


class HeapSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A heap besides the system's."""

    type: Annotated[str, Meta(min_length=1)]
    id: U64 = 0
    #: Un-set: all domains, or those that a secure heap supports.
    domains: Annotated[list[Domain], Meta(min_length=1)] | None = None
    secure: bool = False
    #: The maximum size of all buffers in this heap in bytes. Un-set: no limit.
    max_bytes: Positive | None = None
    #: With "dma-heap", every buffer is a dma-buf of `device`, which devices can import.
    kind: Literal["memfd", "dma-heap"] = "memfd"
    #: The device of a dma-heap.
    device: Annotated[str, Meta(pattern="^/")] | None = None
    #: For a dma-heap: whether each buffer is physically contiguous, as in a CMA heap.
    contiguous: bool = False

    def __post_init__(self) -> None:
        if self.kind == "memfd" and (self.device is not None or self.contiguous):
            raise ValueError('device and contiguous are for a heap of kind "dma-heap" only')
        if self.kind == "dma-heap":
            if self.device is None:
                raise ValueError(
                    'a heap of kind "dma-heap" needs its device, as "/dev/dma_heap/system"'
                )
            if self.secure:
                raise ValueError('a heap of kind "dma-heap" can\'t be secure')
        if len(self.type.encode()) > MAX_HEAP_TYPE_BYTES:
            raise ValueError(f"a heap's type has at most {MAX_HEAP_TYPE_BYTES} bytes of UTF-8")
        if self.secure and self.domain_names() != ["inaccessible"]:
            raise ValueError('a secure heap supports the domain "inaccessible" only')
        is_system = (self.type, self.id) == (SYSTEM_RAM_HEAP.heap_type, 0)
        partly = self.secure or len(set(self.domain_names())) < len(CoherencyDomain)
        if is_system and (partly or self.kind != "memfd"):
            raise ValueError("the system heap supports all domains; only its max_bytes can be set")

    def domain_names(self) -> list[Domain]:
        """Return the domains, given or default."""
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
        """Return the bits as a table."""
        return BufferUsage(**msgspec.structs.asdict(self))


class FormatCostSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cost of images of a format for participants with this usage."""

    #: A name of `docs/spec/image-formats.md`, section 1, or a number.
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
        """Return the pixel format's number."""
        return _member(PixelFormat, "pixel_format", self.pixel_format)

    def modifier_number(self) -> int:
        """Return the modifier's number."""
        return _member(PixelFormatModifier, "pixel_format_modifier", self.pixel_format_modifier)


class AccessSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The users and groups that may connect as participants. The permissions of the sockets must allow them too."""

    #: Users, by name or number.
    allow_users: list[str | U32] | None = None
    #: Groups, by name or number. A process has access if one of its groups is among them.
    allow_groups: list[str | U32] | None = None

    def __post_init__(self) -> None:
        self.uids()
        self.gids()

    def uids(self) -> frozenset[int] | None:
        """Return the allowed users, or None for no restriction."""
        return None if self.allow_users is None else frozenset(map(user_id, self.allow_users))

    def gids(self) -> frozenset[int] | None:
        """Return the allowed groups, or None for no restriction."""
        return None if self.allow_groups is None else frozenset(map(group_id, self.allow_groups))


class UserQuotaSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The quota of one user, where it differs from the others'. Un-set values are the others'."""

    #: A name or a number.
    user: str | U32
    connections: Count | None = None
    collections: Count | None = None
    nodes: Count | None = None
    trackings: Count | None = None
    buffers: Count | None = None
    bytes: Count | None = None
    queued_bytes: Count | None = None

    def __post_init__(self) -> None:
        self.uid()

    def uid(self) -> int:
        """Return the user's number."""
        return user_id(self.user)


class QuotaSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The quota of each user."""

    #: Connections to the service sockets.
    connections: Count = 1024
    collections: Count = 2048
    #: Tokens, collections and groups.
    nodes: Count = 16384
    #: Node and lifetime trackings.
    trackings: Count = 16384
    buffers: Count = 16384
    #: The maximum size of all buffers in bytes. Un-set: only the heaps are limited.
    bytes: Count | None = None
    #: The bytes of responses queued for all clients of the user. A queued descriptor counts as 1,024 bytes.
    queued_bytes: Count = 16 * 1024 * 1024
    user: list[UserQuotaSection] = []

    def __post_init__(self) -> None:
        seen = set()
        for section in self.user:
            if section.uid() in seen:
                raise ValueError(f"user {section.user!r} is configured twice")
            seen.add(section.uid())

    def limits(self) -> dict[Kind, int | None]:
        """Return the quota of users without a section of their own."""
        return {kind: getattr(self, kind.value) for kind in Kind if kind is not Kind.DESCRIPTORS}

    def limits_by_uid(self) -> dict[int, dict[Kind, int | None]]:
        """Return the quotas of the users with a section of their own."""
        return {
            section.uid(): {
                kind: limit if (own := getattr(section, kind.value)) is None else own
                for kind, limit in self.limits().items()
            }
            for section in self.user
        }


class LogSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The format and level of the log on stderr."""

    format: LogFormat = "console"
    level: LogLevel = "info"


class InspectSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Access to the Inspector, and the information that participants get about each other."""

    #: Whether there is an Inspector.
    enabled: bool = True
    #: Permissions of its socket, as octal digits, and its group.
    mode: Mode = "0600"
    group: Annotated[str, Meta(min_length=1)] | None = None
    #: Which participants are told the names of others involved, and get a refusal's report: those of a tree whose nodes
    #: all belong to one user, and root; all; or none.
    to_participants: Literal["same-user", "all", "none"] = "same-user"
    #: The number of ended collections that are kept.
    ended: Annotated[int, Meta(ge=0, le=4096)] = 64

    def socket_mode(self) -> int:
        """Return the permissions as a number."""
        return int(self.mode, 8)


@dataclass(frozen=True)
class MetricsAddress:
    """Where metrics are served over HTTP."""

    #: A loopback address; None for a Unix socket.
    ip: IPv4Address | IPv6Address | None
    #: The Unix socket, or the TCP port (0: one that the kernel chooses).
    path: Path = Path()
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> MetricsAddress:
        """Parse `unix:PATH`, `127.0.0.1:9100` or `[::1]:9100`. Raises `ValueError`."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path or "\0" in path:
                raise ValueError(f"the metrics address {text!r} has no path after unix:")
            return cls(None, Path(path))
        where = (
            'give it as "127.0.0.1:9100", "[::1]:9100" or "unix:/run/sysmem/metrics"; metrics have no access control '
            "of their own, so they are served to this machine only; use a proxy with access control for others"
        )
        host, colon, port = text.rpartition(":")
        if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError(f"the metrics address {text!r} has no port: {where}")
        host = "127.0.0.1" if host == "localhost" else host
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            ip = IPv6Address(host[1:-1]) if bracketed else IPv4Address(host)
        except ValueError:
            raise ValueError(f"the metrics address {text!r} is invalid: {where}") from None
        if not ip.is_loopback:
            raise ValueError(f"the metrics address {text!r} is not a loopback address: {where}")
        return cls(ip, port=int(port))


class MetricsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The address at which the daemon serves metrics over HTTP."""

    #: `unix:PATH`, or a loopback address and a port. Un-set: metrics are not served.
    address: str | None = None

    def __post_init__(self) -> None:
        self.parsed()

    def parsed(self) -> MetricsAddress | None:
        """Return the address, if there is one."""
        return None if self.address is None else MetricsAddress.parse(self.address)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration file."""

    #: The directory of the service sockets. Un-set: the one that `sysmem_protocol.runtime` finds.
    runtime_dir: Annotated[str, Meta(min_length=1)] | None = None
    #: Permissions of the sockets, as octal digits.
    mode: Mode = "0600"
    #: The group of the sockets, by name or number. Un-set: the daemon's own.
    group: Annotated[str, Meta(min_length=1)] | None = None
    limits: Limits = Limits()
    memory: MemorySection = MemorySection()
    heap: list[HeapSection] = []
    format_cost: list[FormatCostSection] = []
    log: LogSection = LogSection()
    access: AccessSection = AccessSection()
    quota: QuotaSection = QuotaSection()
    inspect: InspectSection = InspectSection()
    metrics: MetricsSection = MetricsSection()

    def __post_init__(self) -> None:
        seen = set()
        for heap in self.heap:
            if (heap.type, heap.id) in seen:
                raise ValueError(f"heap {heap.type!r} with id {heap.id} is configured twice")
            seen.add((heap.type, heap.id))

    def socket_mode(self) -> int:
        """Return the permissions as a number."""
        return int(self.mode, 8)


def load(path: Path | str) -> Config:
    """Read a configuration file.

    Raises :class:`ConfigError` if the file cannot be read, is not TOML, or has an invalid setting.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error}") from None
    return parse_bytes(content, str(path))


def parse_bytes(content: bytes, name: str = "configuration") -> Config:
    """Return the configuration that a file's content describes. Raises :class:`ConfigError` as :func:`parse` does."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: {error}") from None
    return parse(text, name)


def parse(source: str | Mapping[str, object], name: str = "configuration") -> Config:
    """Return the configuration in TOML text, or in parsed TOML data.

    Raises :class:`ConfigError`, whose text begins with `name`, if it is not TOML or has an invalid setting.
    """
    try:
        return msgspec.convert(
            tomllib.loads(source) if isinstance(source, str) else dict(source), Config
        )
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{name}: not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from None


def override(config: Config, values: Mapping[str, object]) -> Config:
    """Return a configuration with some top-level settings replaced. They are checked like those of a file.

    Raises :class:`ConfigError`.
    """
    return parse({**msgspec.to_builtins(config), **values}, "command line")


#: The sections that a reload applies, besides the level of the log.
_RELOADED: Final = ("limits", "format_cost", "access", "quota")


def reloaded(running: Config, read: Config) -> tuple[Config, list[str]]:
    """Return a running daemon's configuration after a reload of its file, and the settings that need a restart."""
    config = msgspec.structs.replace(
        running,
        **{name: getattr(read, name) for name in _RELOADED},
        log=msgspec.structs.replace(running.log, level=read.log.level),
    )
    names = (field.encode_name for field in msgspec.structs.fields(Config))
    return config, [name for name in names if getattr(config, name) != getattr(read, name)]


def user_id(user: str | int) -> int:
    """Return a user's number. Raises `ValueError` if there is no user with this name."""
    if isinstance(user, int):
        return user
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ValueError(f"there is no user {user!r}") from None


def group_id(group: str | int) -> int:
    """Return a group's number. Raises `ValueError` if there is no group with this name."""
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"there is no group {group!r}") from None


def _member(enum: type[PixelFormat] | type[PixelFormatModifier], key: str, value: str | int) -> int:
    if isinstance(value, int):
        return value
    try:
        return int(enum[value])
    except KeyError:
        names = ", ".join(member.name for member in enum)
        raise ValueError(f"{key}: {value!r} is not one of {names}") from None
