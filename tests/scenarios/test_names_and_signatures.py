"""The names in `docs/spec/client-api.md`, their arguments and return values, in both faces."""

from __future__ import annotations

import enum
import inspect
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sysmem
from sysmem import blocking
from sysmem.testing import Sysmemd

from .scenario import ENOUGH, buffers, vmo_of

NODE: dict[str, list[tuple[str, object]]] = {
    "sync": [],
    "release": [],
    "set_name": [("priority", ...), ("name", ...)],
    "set_debug_client_info": [("name", ...), ("id", None)],
    "set_debug_timeout_log_deadline": [("deadline", ...)],
    "set_verbose_logging": [],
    "get_node_ref": [],
    "is_alternate_for": [("node_ref", ...)],
    "get_buffer_collection_id": [],
    "set_weak": [],
    "set_weak_ok": [("for_child_nodes_also", None)],
    "attach_node_tracking": [],
}
SAME = sysmem.Rights.SAME_RIGHTS
CALLS: dict[str, dict[str, list[tuple[str, object]]]] = {
    "Allocator": {
        "allocate_non_shared_collection": [],
        "allocate_shared_collection": [],
        "bind_shared_collection": [("token", ...)],
        "validate_buffer_collection_token": [("token_server_koid", ...)],
        "set_debug_client_info": [("name", ...), ("id", None)],
        "get_vmo_info": [
            ("vmo", ...),
            ("need_weak", None),
            ("need_single_buffer_settings", None),
            ("constraints_to_check", None),
            ("vmo_settings_to_check", None),
            ("vmo_settings_to_check_ignore_size", None),
        ],
    },
    "BufferCollectionToken": {
        **NODE,
        "duplicate": [("rights_attenuation_mask", SAME)],
        "duplicate_sync": [("rights_attenuation_masks", ...)],
        "set_dispensable": [],
        "create_buffer_collection_token_group": [],
    },
    "BufferCollection": {
        **NODE,
        "set_constraints": [("constraints", None), ("must_match_vmo", None)],
        "wait_for_all_buffers_allocated": [],
        "check_all_buffers_allocated": [],
        "attach_token": [("rights_attenuation_mask", SAME)],
        "attach_lifetime_tracking": [("buffers_remaining", 0)],
    },
    "BufferCollectionTokenGroup": {
        **NODE,
        "create_child": [("rights_attenuation_mask", None)],
        "create_children_sync": [("rights_attenuation_masks", ...)],
        "all_children_present": [],
    },
}
KEYWORD_ONLY: dict[tuple[str, str], list[tuple[str, object]]] = {
    ("Allocator", "get_vmo_info"): CALLS["Allocator"]["get_vmo_info"][1:],
    ("BufferCollection", "set_constraints"): [("must_match_vmo", None)],
}
EVERY_CALL = [(kind, name) for kind, calls in CALLS.items() for name in calls]


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    return [
        parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "cls")
    ]


@pytest.mark.parametrize("face", [blocking, sysmem], ids=["blocking", "async"])
@pytest.mark.parametrize(("kind", "name"), EVERY_CALL)
def test_a_call_has_the_arguments_and_defaults_of_the_table(
    face: ModuleType, kind: str, name: str
) -> None:
    parameters = _parameters(getattr(getattr(face, kind), name))
    named = [p for p in parameters if p.name != "timeout"]
    expected: list[tuple[str, object]] = [
        (key, inspect.Parameter.empty if default is ... else default)
        for key, default in CALLS[kind][name]
    ]
    assert [(p.name, p.default) for p in named] == expected
    keyword_only = [key for key, _ in KEYWORD_ONLY.get((kind, name), [])]
    for parameter in named:
        assert parameter.kind is (
            inspect.Parameter.KEYWORD_ONLY
            if parameter.name in keyword_only
            else inspect.Parameter.POSITIONAL_OR_KEYWORD
        )


@pytest.mark.parametrize(("kind", "name"), EVERY_CALL)
def test_every_blocking_call_takes_a_timeout_that_defaults_to_none(kind: str, name: str) -> None:
    timeout = inspect.signature(getattr(getattr(blocking, kind), name)).parameters["timeout"]
    assert timeout.default is None


@pytest.mark.parametrize(("kind", "name"), EVERY_CALL)
def test_calls_of_the_async_face_are_awaited(kind: str, name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(getattr(sysmem, kind), name))
    assert not inspect.iscoroutinefunction(getattr(getattr(blocking, kind), name))


@pytest.mark.parametrize("face", [blocking, sysmem], ids=["blocking", "async"])
def test_connect_has_the_arguments_of_the_table(face: ModuleType) -> None:
    parameters = {p.name: p for p in _parameters(face.connect)}
    assert list(parameters)[:1] == ["runtime_dir"]
    assert parameters["runtime_dir"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    for name in ("runtime_dir", "name", "id"):
        assert parameters[name].default is None
    for name in ("name", "id"):
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert set(parameters) <= {"runtime_dir", "name", "id", "wait", "timeout"}
    assert face is sysmem or "timeout" in parameters


@pytest.mark.parametrize("face", [blocking, sysmem], ids=["blocking", "async"])
@pytest.mark.parametrize(
    "kind", ["BufferCollectionToken", "BufferCollection", "BufferCollectionTokenGroup"]
)
def test_a_node_has_the_names_that_do_not_talk(face: ModuleType, kind: str) -> None:
    cls = getattr(face, kind)
    for name in ("close", "fileno", "detach"):
        assert _parameters(getattr(cls, name)) == []
        assert not inspect.iscoroutinefunction(getattr(cls, name))
    assert [p.name for p in _parameters(cls.from_fd)] == ["fd"]
    assert inspect.ismethod(cls.from_fd)
    assert isinstance(inspect.getattr_static(cls, "server_koid"), property)
    (timeout,) = _parameters(cls.wait_closed)
    assert (timeout.name, timeout.default) == ("timeout", None)
    assert inspect.iscoroutinefunction(cls.wait_closed) is (face is sysmem)


def test_close_of_an_allocator_does_not_talk_in_either_face() -> None:
    for face in (blocking, sysmem):
        assert _parameters(face.Allocator.close) == []
        assert not inspect.iscoroutinefunction(face.Allocator.close)


def test_tables_enums_errors_and_handles_are_importable_from_sysmem() -> None:
    for name in (
        "BufferCollectionConstraints",
        "BufferUsage",
        "BufferMemoryConstraints",
        "Heap",
        "ImageFormatConstraints",
        "SizeU",
        "PixelFormatAndModifier",
        "BufferCollectionInfo",
        "SingleBufferSettings",
        "BufferMemorySettings",
        "VmoBuffer",
        "VmoInfo",
        "Vmo",
        "NodeRef",
        "EventPair",
        "SysmemError",
        "PeerClosedError",
        "DaemonUnavailableError",
        "SYSTEM_RAM_HEAP",
        "connect",
    ):
        assert hasattr(sysmem, name), name
    for name in ("Error", "CoherencyDomain", "PixelFormat", "PixelFormatModifier", "ColorSpace"):
        assert issubclass(getattr(sysmem, name), enum.IntEnum)
    for name in (
        "Rights",
        "NoneUsage",
        "CpuUsage",
        "VulkanUsage",
        "DisplayUsage",
        "VideoUsage",
    ):
        assert issubclass(getattr(sysmem, name), enum.IntFlag)
    assert issubclass(sysmem.DaemonUnavailableError, ConnectionError)


def test_the_example_of_the_specification_runs(daemon: Sysmemd) -> None:
    with blocking.connect(daemon.runtime_dir) as allocator:
        token = allocator.allocate_shared_collection()
        other = token.duplicate(rights_attenuation_mask=sysmem.Rights.SAME_RIGHTS)
        token.sync()
        fd = other.detach()
        assert isinstance(fd, int)
        other = blocking.BufferCollectionToken.from_fd(fd)
        other.release()
        collection = allocator.bind_shared_collection(token)
        collection.set_constraints(
            sysmem.BufferCollectionConstraints(
                usage=sysmem.BufferUsage(
                    cpu=sysmem.CpuUsage.READ_OFTEN | sysmem.CpuUsage.WRITE_OFTEN
                ),
                min_buffer_count_for_camping=2,
                buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=65536),
            )
        )
        info = collection.wait_for_all_buffers_allocated()
        assert info.buffers is not None
        assert len(info.buffers) == 2
        with info.buffers[0].map() as view:
            view[:5] = b"hello"
        with info.buffers[0].map() as view:
            assert isinstance(view, memoryview)
            assert bytes(view[:6]) == b"hello\0"
        collection.release()
        info.close()


def test_every_call_returns_what_the_table_says(client: blocking.Allocator) -> None:
    def nothing(call: Callable[..., object], *arguments: object, **named: object) -> None:
        assert call(*arguments, **named) is None

    nothing(client.set_debug_client_info, "camera")
    nothing(client.set_debug_client_info, "camera", 3)
    nothing(client.set_debug_client_info, name="camera", id=3)
    with client.allocate_shared_collection() as token:
        assert isinstance(token, blocking.BufferCollectionToken)
        nothing(token.sync)
        nothing(token.set_name, 1, "n")
        nothing(token.set_name, priority=2, name="n")
        nothing(token.set_debug_client_info, "x")
        nothing(token.set_debug_client_info, "x", id=4)
        nothing(token.set_debug_timeout_log_deadline, 10**18)
        nothing(token.set_debug_timeout_log_deadline, deadline=-(2**63))
        nothing(token.set_verbose_logging)
        nothing(token.set_dispensable)
        nothing(token.set_weak_ok)
        nothing(token.set_weak_ok, True)
        nothing(token.set_weak_ok, for_child_nodes_also=False)
        with token.get_node_ref() as node_ref:
            assert isinstance(node_ref, sysmem.NodeRef)
            assert isinstance(node_ref.fileno(), int)
            assert token.is_alternate_for(node_ref) is False
            with node_ref.duplicate() as copy:
                assert isinstance(copy, sysmem.NodeRef)
                assert token.is_alternate_for(node_ref=copy) is False
        number = token.get_buffer_collection_id()
        assert type(number) is int
        assert number > 1
        with token.attach_node_tracking() as tracking:
            assert isinstance(tracking, blocking.EventPair)
            assert tracking.is_closed() is False
            assert tracking.wait_closed(0) is False
            assert tracking.wait_closed(timeout=0.01) is False
        children = token.duplicate_sync([SAME, 0xFFFFFFFF])
        assert type(children) is list
        assert [type(child) for child in children] == [blocking.BufferCollectionToken] * 2
        assert token.duplicate_sync([]) == []
        group = token.create_buffer_collection_token_group()
        assert isinstance(group, blocking.BufferCollectionTokenGroup)
        with group:
            child = group.create_child()
            grandchildren = group.create_children_sync(rights_attenuation_masks=[SAME])
            assert type(grandchildren) is list
            nothing(group.all_children_present)
            for node in (child, *grandchildren, *children):
                node.release()
            collection = client.bind_shared_collection(token)
            assert isinstance(collection, blocking.BufferCollection)
            with collection:
                nothing(collection.set_constraints, buffers())
                info = collection.wait_for_all_buffers_allocated()
                assert isinstance(info, sysmem.BufferCollectionInfo)
                nothing(collection.check_all_buffers_allocated)
                lifetime = collection.attach_lifetime_tracking()
                assert isinstance(lifetime, blocking.EventPair)
                assert lifetime.wait_closed(0) is False
                attached = collection.attach_token()
                assert isinstance(attached, blocking.BufferCollectionToken)
                attached.close()
                assert info.buffer_collection_id == number
                vmo_info = client.get_vmo_info(vmo_of(info))
                assert isinstance(vmo_info, sysmem.VmoInfo)
                nothing(info.close)
                nothing(info.close)
                assert lifetime.wait_closed(0) is False
                lifetime.close()
                nothing(collection.release)


def test_names_default_to_the_process_and_its_pid(daemon: Sysmemd) -> None:
    with (
        blocking.connect(daemon.runtime_dir) as allocator,
        allocator.allocate_shared_collection() as token,
    ):
        token.set_verbose_logging()
        token.sync()
        with allocator.bind_shared_collection(token) as collection:
            collection.set_constraints(buffers())
            collection.wait_for_all_buffers_allocated().close()
    with open("/proc/self/comm") as comm:
        process_name = comm.read().strip()
    assert str(os.getpid()) in daemon.log
    assert process_name in daemon.log


def test_the_runtime_directory_is_found_as_the_protocol_says(
    daemon: Sysmemd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SYSMEM_RUNTIME_DIR", str(daemon.runtime_dir))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with blocking.connect() as allocator:
        assert allocator.validate_buffer_collection_token(1) is False
    monkeypatch.delenv("SYSMEM_RUNTIME_DIR")
    with pytest.raises(sysmem.DaemonUnavailableError, match=str(tmp_path / "sysmem")):
        blocking.connect()
    (tmp_path / "sysmem").symlink_to(daemon.runtime_dir)
    with blocking.connect(runtime_dir=None) as allocator:
        assert allocator.validate_buffer_collection_token(token_server_koid=1) is False
    with blocking.connect(str(daemon.runtime_dir)) as allocator:
        assert allocator.validate_buffer_collection_token(1) is False


def test_the_plugins_fixtures(sysmemd: Any, allocator: blocking.Allocator) -> None:
    assert os.path.exists(f"/proc/{sysmemd.pid}")
    assert os.path.exists(os.path.join(sysmemd.runtime_dir, "fuchsia.sysmem2.Allocator"))
    assert sysmemd.log is not None
    assert isinstance(allocator, blocking.Allocator)
    with allocator.allocate_non_shared_collection() as collection:
        collection.sync()


def test_connect_gives_up_on_a_daemon_that_accepts_nobody(tmp_path: Path) -> None:
    path = tmp_path / "fuchsia.sysmem2.Allocator"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as busy, ExitStack() as stack:
        busy.bind(str(path))
        busy.listen(0)
        stack.enter_context(blocking.connect(tmp_path, timeout=ENOUGH))
        with pytest.raises(TimeoutError):
            blocking.connect(tmp_path, timeout=0.01)
        with pytest.raises(TimeoutError):
            blocking.connect(tmp_path, timeout=0)


@pytest.mark.parametrize("kind", ["token", "collection", "group"])
def test_every_node_has_the_calls_of_a_node(client: blocking.Allocator, kind: str) -> None:
    with client.allocate_shared_collection() as token, ExitStack() as stack:
        node: blocking.Node = token
        if kind == "collection":
            node = stack.enter_context(client.bind_shared_collection(token))
        elif kind == "group":
            node = stack.enter_context(token.create_buffer_collection_token_group())
        assert isinstance(node, blocking.Node)
        node.sync()
        node.set_name(1, "n")
        node.set_debug_client_info("n")
        node.set_debug_timeout_log_deadline(2**62)
        node.set_verbose_logging()
        node.set_weak_ok(for_child_nodes_also=True)
        assert node.get_buffer_collection_id() > 1
        with node.get_node_ref() as node_ref:
            assert node.is_alternate_for(node_ref) is (kind == "group")
        with node.attach_node_tracking() as tracking:
            assert tracking.wait_closed(timeout=0) is False
        assert node.wait_closed(timeout=0) is False
        assert node.server_koid > 0
        type(node).from_fd(os.dup(node.fileno())).close()
        again = type(node).from_fd(node.detach())
        again.sync()
        again.close()


def test_who_connects_is_checked(daemon: Sysmemd) -> None:
    for arguments in ({"id": 2**64}, {"id": -1}, {"name": 3}, {"id": "x"}):
        with pytest.raises((TypeError, ValueError)):
            blocking.connect(daemon.runtime_dir, **arguments)
    with blocking.connect(daemon.runtime_dir, name="", id=0) as allocator:
        allocator.validate_buffer_collection_token(1)


def test_a_buffer_without_a_vmo_cannot_be_mapped(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as token:
        (child,) = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        with (
            client.bind_shared_collection(token) as one,
            client.bind_shared_collection(child) as two,
        ):
            one.set_constraints()
            two.set_constraints(buffers())
            with one.wait_for_all_buffers_allocated() as info:
                assert info.buffers is not None
                with pytest.raises(Exception, match=r"."), info.buffers[0].map():
                    pass


def test_a_mapping_is_of_the_length_asked_for_and_no_longer_than_the_vmo(
    client: blocking.Allocator,
) -> None:
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(buffers(5000))
        with collection.wait_for_all_buffers_allocated() as info:
            vmo = vmo_of(info)
            assert vmo.size == 8192
            for length in (1, 5000, 8192):
                with vmo.map(length) as view:
                    assert (len(view), view.format, view.itemsize) == (length, "B", 1)
            with pytest.raises(ValueError, match=r"."), vmo.map(8193):
                pass
            copy = vmo.duplicate()
            info.close()
            with pytest.raises(sysmem.HandleClosedError):
                vmo.fileno()
            with copy, copy.map() as view:
                view[8191] = 1
