"""What the daemon tells its operator (`docs/spec/protocol.md`, "Node")."""

from __future__ import annotations

import json
import time
from typing import Any

import sysmem
from sysmem import blocking
from sysmem.testing import Sysmemd

from .scenario import ENOUGH, buffers, eventually, image, images, participants

ARGUMENTS = ("--log-format", "json")


def lines(daemon: Sysmemd) -> list[dict[str, Any]]:
    return [json.loads(line) for line in daemon.log.splitlines()]


def about(daemon: Sysmemd, number: int) -> list[str]:
    """Return the lines about one collection, as text."""
    return [json.dumps(line) for line in lines(daemon) if str(number) in json.dumps(line)]


def test_a_stalled_allocation_is_told_at_the_deadline_by_names(
    client: blocking.Allocator, daemon: Sysmemd
) -> None:
    with client.allocate_shared_collection() as root:
        number = root.get_buffer_collection_id()
        held = root.duplicate()
        held.set_debug_client_info("holds-a-token", 31)
        with (
            held,
            root.create_buffer_collection_token_group() as group,
            client.bind_shared_collection(root.duplicate_sync([0xFFFFFFFF])[0]) as silent,
            client.bind_shared_collection(root.duplicate_sync([0xFFFFFFFF])[0]) as ready,
        ):
            child = group.create_child()
            group.set_debug_client_info("slow-group", 32)
            silent.set_debug_client_info("says-nothing", 33)
            ready.set_debug_client_info("was-quick", 34)
            ready.set_constraints(buffers())
            attached = ready.attach_token()
            attached.set_debug_client_info("comes-later", 35)
            for node in (held, group, silent, ready, attached):
                node.sync()
            assert about(daemon, number) == []
            root.set_debug_timeout_log_deadline(time.monotonic_ns() + 50_000_000)
            root.sync()
            eventually(lambda: about(daemon, number) != [])
            (told,) = about(daemon, number)
            for name in ("holds-a-token", "slow-group", "says-nothing", "was-quick"):
                assert name in told
            for ident in (31, 32, 33, 34):
                assert str(ident) in told
            assert "comes-later" not in told  # not in the initial allocation
            for token in (child, attached):
                token.close()


def test_verbose_logging_tells_constraints_tree_and_result(
    client: blocking.Allocator, daemon: Sysmemd
) -> None:
    with participants(client, 2) as (gate, (one, two)):
        number = gate.get_buffer_collection_id()
        gate.set_verbose_logging()
        gate.sync()
        one.set_debug_client_info("verbose-one", 1)
        one.set_constraints(buffers(4321))
        two.set_constraints(buffers(1234))
        one.sync()
        two.sync()
        gate.release()
        one.wait_for_all_buffers_allocated(timeout=ENOUGH).close()

        def text() -> str:
            return "\n".join(about(daemon, number))

        eventually(lambda: text().count("4321") >= 2)  # once as sent, and once in the result
        assert "1234" in text()
        assert "verbose-one" in text()
        for line in lines(daemon):
            if "4321" in json.dumps(line):
                assert line["level"] == "info"


def test_without_verbose_logging_success_is_quiet(
    client: blocking.Allocator, daemon: Sysmemd
) -> None:
    with client.allocate_non_shared_collection() as collection:
        number = collection.get_buffer_collection_id()
        collection.set_constraints(buffers())
        collection.wait_for_all_buffers_allocated().close()
        collection.release()
    with client.allocate_non_shared_collection() as another:
        another.sync()
    assert not any(
        line["level"] in ("warning", "error")
        for line in lines(daemon)
        if str(number) in json.dumps(line)
    )


def test_an_empty_intersection_is_told_with_rule_values_and_participants(
    client: blocking.Allocator, daemon: Sysmemd
) -> None:
    with participants(client, 3) as (gate, (one, two, three)):
        number = gate.get_buffer_collection_id()
        one.set_debug_client_info("wants-much", 51)
        two.set_debug_client_info("takes-little", 52)
        three.set_debug_client_info("not-involved", 53)
        one.set_constraints(buffers(7777))
        two.set_constraints(
            buffers(
                buffer_memory_constraints=sysmem.BufferMemoryConstraints(
                    min_size_bytes=1, max_size_bytes=5555
                )
            )
        )
        three.set_constraints(buffers(2))
        for node in (one, two, three):
            node.sync()
        gate.release()
        assert one.wait_closed(timeout=ENOUGH)

        def refusal() -> str:
            return next((line for line in about(daemon, number) if "EMPTY" in line), "")

        eventually(lambda: refusal() != "")
        for word in ("7777", "5555", "wants-much", "takes-little", "size_bytes"):
            assert word in refusal()
        assert "not-involved" not in refusal()


def test_images_refused_are_told_with_the_formats(
    client: blocking.Allocator, daemon: Sysmemd
) -> None:
    with participants(client, 2) as (gate, (one, two)):
        number = gate.get_buffer_collection_id()
        one.set_constraints(images(image(sysmem.PixelFormat.NV12)))
        two.set_constraints(images(image(sysmem.PixelFormat.B8G8R8A8)))
        one.sync()
        two.sync()
        gate.release()
        assert one.wait_closed(timeout=ENOUGH)
        eventually(lambda: any("NV12" in line for line in about(daemon, number)))
        assert any("B8G8R8A8" in line for line in about(daemon, number))


def test_a_renamed_node_tells_both_names(client: blocking.Allocator, daemon: Sysmemd) -> None:
    with participants(client, 2) as (gate, (one, two)):
        number = gate.get_buffer_collection_id()
        one.set_debug_client_info("older", 1)
        one.set_debug_client_info("newer", 2)
        one.sync()
        one.close()
        assert two.wait_closed(timeout=ENOUGH)
        eventually(lambda: any("newer (was older" in line for line in about(daemon, number)))


def test_the_normal_end_is_quiet_and_an_end_before_allocation_is_an_error(
    client: blocking.Allocator, daemon: Sysmemd
) -> None:
    with client.allocate_shared_collection() as token:
        number = token.get_buffer_collection_id()
        token.release()
    eventually(lambda: any('"error"' in line for line in about(daemon, number)))
