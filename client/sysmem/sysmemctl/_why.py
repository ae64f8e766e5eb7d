"""`sysmemctl why`: the reason for a collection's state, in a sentence."""

from __future__ import annotations

import argparse

from ._list import buffers
from ._nodes import named, to_do, unseen, waited_for, who
from ._source import ClientEnds, Data, inspector, select
from ._text import age, console, print_json, print_report
from ._trouble import Trouble


def run(options: argparse.Namespace) -> int:
    """Print why one collection waits, failed or has its settings."""
    with inspector(options) as connected:
        data = connected.snapshot(timeout=options.timeout)
        collection = _newest_failed(data) if options.collection is None else _named(data, options)
        explained = connected.explain(collection["id"], timeout=options.timeout)
    if options.json:
        print_json(explained)
        return 0
    out = console()
    for line in sentences(collection):
        out.print(line)
    attempts = explained["attempts"]
    if attempts:
        out.print()
        if attempts[-1]["outcome"] != "success" and not collection.get("error"):
            out.print("The last participant that attached was refused:")
        print_report(out, attempts[-1]["text"])
    return 0


def sentences(collection: Data, ends: ClientEnds | None = None) -> list[str]:
    """Return the main facts about a living or ended collection, most important first.

    The current holders of client ends are looked up unless `ends` has them.
    """
    lines = [_headline(collection)]
    if waiting := [] if "how" in collection else waited_for(collection):
        ends = ends or ClientEnds([collection])
        lines += [
            f"  {who(collection, node, ends)} must {to_do(node)}; it has not done so for {age(node['age_s'])}"
            for node in waiting
        ]
        if ends.unseen:
            lines.append(f"  {unseen(ends.unseen)}")
    return lines


def _headline(collection: Data) -> str:
    name = named(collection)
    if "how" in collection:
        if collection["how"] == "released":
            return f"{name} ended at {collection['ended']}: all participants are gone, as planned."
        if collection["error"]:  # the report that follows begins with the reason
            return f"{name} failed at {collection['ended']} with {collection['error']}:"
        return (
            f"{name} failed at {collection['ended']}: {collection['line'] or collection['cause']}"
        )
    if collection["waiting_for"]:
        return f"{name} has been waiting for {age(collection['age_s'])}:"
    if collection["settings"]:
        return f"{name} agreed on {buffers(collection)}."
    return f"{name} is {collection['state']} and does not wait for any participant."


def _named(data: Data, options: argparse.Namespace) -> Data:
    return select(data, options.collection, ended=True)


def _newest_failed(data: Data) -> Data:
    for each in data["ended"]:
        if each["how"] == "failed":
            found: Data = each
            return found
    waiting: list[Data] = [each for each in data["collections"] if each["waiting_for"]]
    if waiting:
        return max(waiting, key=lambda each: each["age_s"])
    raise Trouble(
        "no collection has failed, and none waits for a participant;"
        " if a participant that attached was refused, give the id or name of its collection"
    )
