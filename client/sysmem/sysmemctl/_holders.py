"""`sysmemctl holders`: which processes keep buffers alive."""

from __future__ import annotations

import argparse
import os

from sysmem_protocol.processes import Found, Holding, find_holders

from ._nodes import named
from ._source import Data, selected, snapshot
from ._text import console, count, print_json, printable, size


def run(options: argparse.Namespace) -> int:
    """Print the holders of each buffer, and what could not be seen."""
    data = snapshot(options)
    collections = [each for each in selected(data, options.collection) if each["buffers"]]
    found = find(collections)
    if options.json:
        print_json(as_data(collections, found, data["daemon"]["pid"]))
        return 0
    out = console()
    if not collections:
        out.print("There are no buffers.")
    for collection in collections:
        out.print(named(collection), style="bold")
        for buffer in collection["buffers"]:
            out.print(
                f"  buffer {buffer['index']}, {size(buffer['size'])}, held: {buffer['state']}"
            )
            holdings = found.holdings.get(buffer["inode"], [])
            for holding in holdings:
                out.print(f"    {describe(holding, data['daemon']['pid'])}")
            if not holdings and buffer["state"] != "gone":
                out.print("    by no process that could be seen", style="yellow")
    if collections and found.messages:
        out.print("Descriptors wait in messages that these processes have not received:")
        for holding in found.messages:
            out.print(f"    {describe(holding, data['daemon']['pid'])}")
    if found.unseen:
        unseen = count(len(found.unseen), "process", "processes")
        out.print(
            f"{unseen} of other users could not be looked into; run this as root to see all.",
            style="yellow",
        )
    return 0


def find(collections: list[Data]) -> Found:
    """Find who holds the buffers of these collections."""
    inodes = {buffer["inode"] for collection in collections for buffer in collection["buffers"]}
    # All memfds are files of one file system of the kernel's own.
    memfd = os.memfd_create("sysmemctl", os.MFD_CLOEXEC)
    try:
        device = os.fstat(memfd).st_dev
    finally:
        os.close(memfd)
    return find_holders(inodes, device, messages=True)


def describe(holding: Holding, daemon: int) -> str:
    """Return a holding in words."""
    process = holding.process
    name = "the daemon" if process.pid == daemon else printable(process.command)
    text = f"{name} [{process.pid}] of user {process.uid}: "
    if holding.how == "message":
        return f"{text}in the queue of socket {holding.fd}"
    text += f"descriptor {holding.fd}" if holding.how == "descriptor" else "a mapping"
    if holding.writable is None:
        return text
    return f"{text}, {'writable' if holding.writable else 'read-only'}"


def as_data(collections: list[Data], found: Found, daemon: int) -> Data:
    """Return holders as data for programs."""
    return {
        "schema": 1,
        "collections": [
            {
                "id": collection["id"],
                "name": collection["name"],
                "buffers": [
                    {
                        **buffer,
                        "holders": [
                            _holding(each, daemon)
                            for each in found.holdings.get(buffer["inode"], [])
                        ],
                    }
                    for buffer in collection["buffers"]
                ],
            }
            for collection in collections
        ],
        "messages": [_holding(each, daemon) for each in found.messages],
        "unseen": [
            {"pid": each.pid, "uid": each.uid, "command": each.command} for each in found.unseen
        ],
    }


def _holding(holding: Holding, daemon: int) -> Data:
    return {
        "pid": holding.process.pid,
        "uid": holding.process.uid,
        "command": holding.process.command,
        "daemon": holding.process.pid == daemon,
        "how": holding.how,
        "fd": holding.fd,
        "writable": holding.writable,
    }
