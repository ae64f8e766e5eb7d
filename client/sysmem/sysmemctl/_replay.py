"""`sysmemctl replay`: replay a capture against a daemon, and list the differences in what its clients receive."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from sysmem_protocol.runtime import runtime_dirs

from ._differences import Difference, differences, short
from ._player import Player
from ._recording import read
from ._source import inspector
from ._steps import Kind, Steps
from ._text import count, print_json, printable
from ._trouble import Trouble


def run(options: argparse.Namespace) -> int:
    """Replay a capture. Return 1 if there is a difference."""
    recording = read(options.file)
    if recording.lost:
        raise Trouble(f"{options.file} lacks {recording.lost} events and cannot be replayed")
    steps = Steps(recording.events)
    with (
        inspector(options) as connected,
        connected.watch(traffic=True, bodies=True, timeout=options.timeout) as events,
        Player(steps, runtime_dirs(options.runtime_dir), events, options.timeout) as player,
    ):
        events.next(options.timeout)  # the watch is active from the first event on
        player.play()
    was = [step.event for step in steps.steps if step.kind is Kind.TOLD]
    found = list(differences(was, player.told))
    if options.json:
        print_json([asdict(each) for each in found])
    else:
        for each in found:
            print(_line(each, steps))
    for number, what in (
        (steps.unknown, "left out, on channels that were open before the capture"),
        (player.unsent, "not sent, because their channels had closed"),
    ):
        if number:
            print(f"sysmemctl: {count(number, 'message')} {what}", file=sys.stderr)
    sent = sum(step.kind is Kind.SEND for step in steps.steps) - player.unsent
    print(
        f"sysmemctl: replayed {count(sent, 'message')} of {count(len(steps.interfaces), 'channel')}: "
        f"{count(len(found), 'difference')}",
        file=sys.stderr,
    )
    return 1 if found else 0


def _line(each: Difference, steps: Steps) -> str:
    if each.connection is None:
        where = f"collection {each.collection}"
    else:
        name, id = steps.clients.get(each.connection, ("", 0))
        where = f"connection {each.connection}, {printable(name) or 'unnamed client'} ({id})"
    interface = None if each.connection is None else steps.interfaces[each.connection]
    what = (
        f"{interface.__name__}.{each.what}" if interface and each.what[0].isupper() else each.what
    )
    if each.now is None and each.path == "$":
        return f"{where}: {what} was {short(each.was)}, is missing"
    if each.was is None and each.path == "$":
        return f"{where}: {what} is new: {short(each.now)}"
    return f"{where}: {what} {each.path} was {short(each.was)}, is {short(each.now)}"
