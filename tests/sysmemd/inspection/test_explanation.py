"""The reasons for a collection's state; `docs/spec/inspect.md`, "Explain"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sysmem_protocol import sysmem2
from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.inspector import Inspector, InspectorExplainRequest
from sysmem_protocol.sysmem2 import BufferCollection, BufferCollectionToken, Error, Node
from sysmemd.config import InspectSection
from sysmemd.inspection import ended, explanation

from ..channels.support import Client, wanting
from .support import Look, read


def refused(look: Look) -> tuple[int, Client]:
    """Create a collection whose two participants can't agree. Return its id."""
    token = look.bench.token(look.bench.allocator("camera", 1))
    child = look.bench.duplicate(token)
    [id] = look.bench.service.collections
    one = look.bench.bind(token, look.bench.allocator("encoder", 2))
    two = look.bench.bind(child, look.bench.allocator("display", 3))
    one.send(BufferCollection.set_constraints, wanting(camping=3))
    two.send(BufferCollection.set_constraints, wanting(camping=2, most=4))
    look.run()
    return id, two


def test_a_refusal(look: Look) -> None:
    id, _ = refused(look)
    told = look.explain(id)
    assert (told["schema"], told["id"], told["state"]) == (1, id, "failed")
    assert told["waiting_for"] == []
    [attempt] = told["attempts"]
    assert (attempt["start"], attempt["outcome"]) == (1, "CONSTRAINTS_INTERSECTION_EMPTY")
    assert attempt["at"].endswith("Z")
    [selection] = attempt["selections"]
    assert (selection["chosen"], selection["explanation"]) == ([], None)
    refusal = selection["refusal"]
    assert refusal["line"] == look.bench.log.refusal()["reason"]
    assert (refusal["rule"], refusal["stage"]) == ("COUNT_OVER_MAX", "5 settings")
    assert refusal["fields"][-1] == "max_buffer_count"
    assert refusal["format"] is None
    assert refusal["conflict"] == [1, 2]
    assert refusal["values"][0] == {
        "node": 1,
        "client_name": "encoder",
        "client_id": 2,
        "path": "$.min_buffer_count_for_camping",
        "value": 3,
    }
    assert "smallest conflicting set: encoder (2), display (3)" in attempt["text"]


def test_a_refusal_of_a_format_names_it(look: Look) -> None:
    collection = look.bench.collection()
    [id] = look.bench.service.collections
    request = wanting()
    assert request.constraints is not None
    request.constraints.image_format_constraints = [
        sysmem2.ImageFormatConstraints(
            pixel_format=PixelFormat.NV12,
            pixel_format_modifier=PixelFormatModifier.LINEAR,
            color_spaces=[ColorSpace.REC709],
            min_size=sysmem2.SizeU(64, 64),
            max_size=sysmem2.SizeU(32, 32),
        )
    ]
    collection.send(BufferCollection.set_constraints, request)
    look.run()
    [attempt] = look.explain(id)["attempts"]
    refusal = attempt["selections"][0]["refusal"]
    assert refusal["format"] == "NV12 LINEAR"
    assert refusal["line"] == look.bench.log.refusal()["reason"]


def test_a_success_and_one_that_is_waited_for(look: Look) -> None:
    collection = look.bench.allocated(look.bench.allocator("camera", 1))
    look.bench.attach(collection)
    look.run()
    [id] = look.bench.service.collections
    told = look.explain(id)
    assert told["state"] == "allocated"
    [waiting] = told["waiting_for"]
    assert (waiting["node"], waiting["client_id"]) == (2, 1)
    assert waiting["client_name"] == "camera then AttachToken()"
    assert waiting["what"] == "turn in its token"
    [attempt] = told["attempts"]
    [selection] = attempt["selections"]
    assert (attempt["outcome"], selection["refusal"]) == ("success", None)
    reasons = selection["explanation"]
    assert list(reasons) == ["count", "size", "heap", "domain", "format", "color_space"]
    assert "camera (1) $.min_buffer_count_for_camping = 2" in reasons["count"]
    assert reasons["format"] is None
    assert "buffer_count" in attempt["text"]
    peaceful = look.bench.allocated()
    [_, id] = look.bench.service.collections
    peaceful.send(Node.release)
    look.run()
    peaceful.close()
    look.run()
    look.bench.memory.process_events()
    assert look.explain(id)["state"] == "released"


def test_who_has_spoken_while_others_are_waited_for(look: Look) -> None:
    collection, _ = look.bench.root_and_child()
    collection.send(BufferCollection.set_constraints, wanting(most=9))
    look.run()
    [id] = look.bench.service.collections
    told = look.explain(id)
    assert (told["state"], told["attempts"]) == ("negotiating", [])
    assert [who["constraints"]["max_buffer_count"] for who in told["case"]["participants"]] == [9]


def selecting(look: Look, *most: int | None) -> int:
    """Create a collection of a parent and a group's two children, with these limits of the count. Return its id."""
    token = look.bench.token()
    token.send(Node.set_verbose_logging)
    group, far = look.bench.client()
    token.send(
        BufferCollectionToken.create_buffer_collection_token_group,
        sysmem2.BufferCollectionTokenCreateBufferCollectionTokenGroupRequest(group_request=far),
    )
    children = []
    for _ in range(2):
        child, far = look.bench.client()
        group.send(
            sysmem2.BufferCollectionTokenGroup.create_child,
            sysmem2.BufferCollectionTokenGroupCreateChildRequest(token_request=far),
        )
        children.append(child)
    group.send(sysmem2.BufferCollectionTokenGroup.all_children_present)
    look.run()
    [id] = look.bench.service.collections
    collections = [look.bench.bind(end) for end in (token, *children)]
    for collection, limit in zip(collections, most, strict=True):
        collection.send(BufferCollection.set_constraints, wanting(most=limit))
    look.run()
    return id


def test_selections_of_groups_name_the_children(look: Look) -> None:
    id = selecting(look, None, 1, None)
    first, second = look.explain(id)["attempts"][0]["selections"]
    assert (first["chosen"], second["chosen"]) == ([3], [4])
    assert first["refusal"]["conflict"] in ([1, 3], [3])
    assert second["explanation"] is not None


def test_if_no_selection_is_possible_the_first_one_is_the_case(look: Look) -> None:
    told = look.explain(selecting(look, None, 1, 3))
    limits = [who["constraints"].get("max_buffer_count") for who in told["case"]["participants"]]
    assert limits == [None, 1]
    first, _, selections = told["attempts"][0]["text"].partition("\nselections:\n")
    assert "max_buffer_count" in first
    assert len(selections.splitlines()) == 2


def test_memory_that_is_not_there(look: Look) -> None:
    collection = look.bench.collection()
    [id] = look.bench.service.collections
    look.bench.memory._heaps.clear()
    collection.send(BufferCollection.set_constraints, wanting())
    look.run()
    [attempt] = look.explain(id)["attempts"]
    assert attempt["outcome"] == "NO_MEMORY"
    assert attempt["text"].startswith("there is no heap")
    assert attempt["selections"][0]["explanation"] is not None


def test_an_unknown_collection(look: Look) -> None:
    assert look.explain(4711) is Error.NOT_FOUND


def test_one_that_is_forgotten_while_others_are_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = Look(InspectSection(ended=1))
    id, _ = refused(look)
    work: list[Callable[[], None]] = []
    with monkeypatch.context() as patch:
        patch.setattr(look.inspection, "_in_turn", lambda _, one: work.append(one))
        txid = look.client.send(Inspector.explain, InspectorExplainRequest(buffer_collection_id=id))
        look.run()
    refused(look)
    for one in work:
        one()
    look.run()
    assert read(look.client, Inspector.explain, txid) is Error.NOT_FOUND
    assert look.explain(id) is Error.NOT_FOUND
    assert not [fields for _, fields in look.bench.log.said("error") if "exc_info" in fields]
    look.close()


def test_ended_ones_keep_only_so_much(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    old, _ = refused(look)
    monkeypatch.setattr(ended, "MAX_WEIGHT", 0)
    new, _ = refused(look)
    assert look.explain(old)["attempts"] == []
    assert len(look.explain(new)["attempts"]) == 1
    assert [one["id"] for one in look.snapshot()["ended"]] == [new, old]


def test_what_is_kept_weighs_as_much_as_the_attempts_that_are_left(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(look)
    [one] = look.inspection.daemon.ended
    monkeypatch.setattr(ended, "MAX_WEIGHT", 5)
    kept = ended.EndedCollections(3)
    for id, weight in enumerate([3, 2, 1, 0, 5, 6, 1, 4, 1]):
        kept.add(replace(one, id=id, weight=weight))
        newest, *others = kept
        assert kept._weight == newest.weight + sum(each.weight for each in others)
        assert kept._weight <= 5 or all(each.attempts == () for each in others)
    assert [(each.id, each.weight) for each in kept] == [(8, 1), (7, 4), (6, 0)]


def test_none_are_kept_if_none_are_to_be() -> None:
    look = Look(InspectSection(ended=0))
    id, _ = refused(look)
    assert look.explain(id) is Error.NOT_FOUND
    look.close()


def test_a_search_for_conflicts_that_takes_long_is_given_up(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation, "SEARCH_SECONDS", -1.0)
    id, _ = refused(look)
    refusal = look.explain(id)["attempts"][0]["selections"][0]["refusal"]
    assert refusal["conflict"] == []
    assert "conflict" not in refusal["line"]


def test_values_are_json() -> None:
    value = explanation._value
    assert value(True) is True
    assert value(7) == 7
    assert value(None) is None
    assert value(["NV12 LINEAR", 3]) == ["NV12 LINEAR", 3]
    assert value(sysmem2.SizeU(1, 2)) == [1, 2]
    assert value(ColorSpace.SRGB) == "SRGB"
    assert value(sysmem2.PixelFormatAndModifier(PixelFormat.NV12, PixelFormatModifier.LINEAR)) == [
        "NV12",
        "LINEAR",
    ]
    assert value(sysmem2.SYSTEM_RAM_HEAP).endswith("/0")
