"""The eventpairs that one node was given to close."""

from __future__ import annotations

import pytest

from sysmemd.tree import MAX_NODE_TRACKINGS, Misuse
from sysmemd.tree.trackings import Trackings, closed_if_refused

from .world import Event, FakeBuffers


def test_everything_is_closed_when_the_node_leaves() -> None:
    trackings, node, lifetime = Trackings(), Event(), Event()
    trackings.add(node)
    trackings.add_lifetime(lifetime, 0)
    trackings.close()
    assert node.closed
    assert lifetime.closed


def test_lifetimes_go_to_the_buffers_and_are_not_closed_with_the_node() -> None:
    trackings, lifetime, buffers = Trackings(), Event(), FakeBuffers(2)
    trackings.add_lifetime(lifetime, 1)
    trackings.hand_over(buffers)
    trackings.hand_over(buffers)
    trackings.close()
    assert buffers.trackings == [(lifetime, 1)]
    assert not lifetime.closed


def test_there_is_a_limit_for_those_of_the_node_alone() -> None:
    trackings = Trackings()
    for _ in range(MAX_NODE_TRACKINGS):
        trackings.add(Event())
        trackings.add_lifetime(Event(), 0)
    with pytest.raises(Misuse):
        trackings.add(Event())


def test_a_refusal_closes_the_event_and_only_that() -> None:
    refused, accepted = Event(), Event()
    with pytest.raises(Misuse), closed_if_refused(refused):
        raise Misuse("nonsense")
    with closed_if_refused(accepted):
        pass
    assert refused.closed
    assert not accepted.closed


@pytest.mark.parametrize("closes", [True, False])
def test_one_may_go_while_others_are_closed_or_handed_over(
    monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    """Work on many events gives way, and meanwhile the client of a later one closes its end."""
    trackings, buffers = Trackings(), FakeBuffers(2)
    first, second = Event(), Event()
    for event in (first, second):
        trackings.add_lifetime(event, 1)

    def give_way() -> None:
        if not second.closed:
            second.go()

    monkeypatch.setattr("sysmemd.tree.trackings.give_way", give_way)
    if closes:
        trackings.close()
        assert first.closed
    else:
        trackings.hand_over(buffers)
        assert buffers.trackings == [(first, 1)]
