"""`sysmemctl holders`: which processes keep buffers alive."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from sysmem_protocol.processes import Found, Holding, find_holders

from ._nodes import named, unseen
from ._source import Data, selected, snapshot
from ._text import console, print_json, printable, size


def run(options: argparse.Namespace) -> int:
    """Print the holders of each buffer, and what could not be seen."""
    data = snapshot(options)
    collections = [each for each in selected(data, options.collection) if each["buffers"]]
    found = find(collections, data["daemon"]["pid"])
    if options.json:
        print_json(as_data(collections, found, data["daemon"]["pid"]))
        return 0
    out = console()
    if not collections:
        out.print("There are no buffers.")
        return 0
    for collection in collections:
        out.print(named(collection), style="bold")
        for buffer in collection["buffers"]:
            out.print(
                f"  buffer {buffer['index']}, {size(buffer['size'])}, held: {buffer['state']}"
            )
            holdings = found.holdings.get(buffer["inode"], [])
            for holding in holdings:
                out.print(f"    {describe(holding, data['daemon']['pid'])}")
            if not _is_explained(buffer, found, data["daemon"]["pid"]):
                out.print("    by no process that could be seen", style="yellow")
    if found.messages:
        out.print("Descriptors wait in messages that these processes have not received:")
        for holding in found.messages:
            out.print(f"    {describe(holding, data['daemon']['pid'])}")
    if found.unseen:
        out.print(unseen(found.unseen), style="yellow")
    return 0


def find(collections: list[Data], daemon: int) -> Found:
    """Find who holds the buffers of these collections.

    Messages that were not received are told of only if a buffer has no holder that could be seen: what waits in them
    cannot be seen, and any process of the machine may have some.
    """
    inodes = {buffer["inode"] for collection in collections for buffer in collection["buffers"]}
    # All memfds are files of one file system of the kernel's own.
    memfd = os.memfd_create("sysmemctl", os.MFD_CLOEXEC)
    try:
        device = os.fstat(memfd).st_dev
    finally:
        os.close(memfd)
    found = find_holders(inodes, device, messages=True)
    buffers = (buffer for collection in collections for buffer in collection["buffers"])
    if all(_is_explained(buffer, found, daemon) for buffer in buffers):
        return replace(found, messages=[])
    return found


def _is_explained(buffer: Data, found: Found, daemon: int) -> bool:
    """Whether somebody was seen who keeps a buffer alive. The daemon itself only does so in the state `server`."""
    holders = found.holdings.get(buffer["inode"], [])
    return buffer["state"] == "gone" or any(
        buffer["state"] == "server" or each.process.pid != daemon for each in holders
    )


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
