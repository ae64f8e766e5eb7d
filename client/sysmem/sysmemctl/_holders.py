"""`sysmemctl holders`: the processes that keep buffers alive."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict

from sysmem_protocol.processes import Found, Holding, find_holders

from ._nodes import named, unseen
from ._source import Data, processes, selected, snapshot
from ._text import console, count, print_json, printable, remark, size


def run(options: argparse.Namespace) -> int:
    """Print the holders of each buffer, and the processes that could not be inspected."""
    data = snapshot(options)
    collections = [each for each in selected(data, options.collection) if each["buffers"]]
    told = as_data(collections, find(collections), data["daemon"]["pid"])
    if options.json:
        print_json(told)
        return 0
    out = console()
    if not collections:
        remark("there are no buffers")
        return 0
    for collection in told["collections"]:
        out.print(named(collection), style="bold")
        for buffer in collection["buffers"]:
            out.print(
                f"  buffer {buffer['index']}, {size(buffer['size'])}, held: {buffer['state']}"
            )
            for holder in buffer["holders"]:
                out.print(f"    {describe(holder)}")
            if not is_explained(buffer):
                out.print("    by no visible process", style="yellow")
    if told["messages"]:
        out.print("These processes have unreceived messages that contain descriptors:")
        for holder in told["messages"]:
            out.print(f"    {describe(holder)}")
    if found := processes(told["unseen"]):
        out.print(unseen(found), style="yellow")
    return 0


def find(collections: list[Data]) -> Found:
    """Find the holders of the buffers of these collections."""
    inodes = {buffer["inode"] for collection in collections for buffer in collection["buffers"]}
    # All memfds are files of one internal file system of the kernel.
    memfd = os.memfd_create("sysmemctl", os.MFD_CLOEXEC)
    try:
        device = os.fstat(memfd).st_dev
    finally:
        os.close(memfd)
    return find_holders(inodes, device, messages=True)


def is_explained(buffer: Data) -> bool:
    """Return whether a visible process keeps a buffer alive. The daemon itself does so only in the state `server`."""
    return buffer["state"] == "gone" or any(
        buffer["state"] == "server" or not each["daemon"] for each in buffer["holders"]
    )


def describe(holder: Data) -> str:
    """Return a description of a holder."""
    name = "the daemon" if holder["daemon"] else printable(holder["command"])
    text = f"{name} [{holder['pid']}] of user {holder['uid']}: "
    if holder["how"] == "message":
        return f"{text}in the queue of socket {holder['fd']}"
    text += f"descriptor {holder['fd']}" if holder["how"] == "descriptor" else "a mapping"
    if holder["writable"] is None:
        return text
    return f"{text}, {'writable' if holder['writable'] else 'read-only'}"


def summary(holders: list[Data]) -> list[str]:
    """Return the holders of a buffer, one line for each process."""
    lines = []
    for pid in dict.fromkeys(each["pid"] for each in holders):
        own = [each for each in holders if each["pid"] == pid]
        descriptors = sum(each["how"] == "descriptor" for each in own)
        parts = [count(descriptors, "descriptor")] if descriptors else []
        parts += ["a mapping"] * any(each["how"] == "mapping" for each in own)
        access = "writable" if any(each["writable"] for each in own) else "read-only"
        name = "the daemon" if own[0]["daemon"] else printable(own[0]["command"])
        lines.append(f"{name} [{pid}]: {' and '.join(parts)}, {access}")
    return lines


def as_data(collections: list[Data], found: Found, daemon: int) -> Data:
    """Return holders as data for programs.

    Unreceived messages are included only if a buffer has no visible holder. Their contents cannot be inspected, and
    any process of the machine may have some.
    """
    told = [
        {
            "id": collection["id"],
            "name": collection["name"],
            "buffers": [_buffer(buffer, found, daemon) for buffer in collection["buffers"]],
        }
        for collection in collections
    ]
    is_known = all(is_explained(buffer) for one in told for buffer in one["buffers"])
    return {
        "schema": 1,
        "collections": told,
        "messages": [] if is_known else [_holding(each, daemon) for each in found.messages],
        "unseen": [asdict(process) for process in found.unseen],
    }


def _buffer(buffer: Data, found: Found, daemon: int) -> Data:
    holdings = found.holdings.get(buffer["inode"], [])
    return {**buffer, "holders": [_holding(each, daemon) for each in holdings]}


def _holding(holding: Holding, daemon: int) -> Data:
    return {
        **asdict(holding.process),
        "daemon": holding.process.pid == daemon,
        "how": holding.how,
        "fd": holding.fd,
        "writable": holding.writable,
    }
