"""How long aggregation takes, for different numbers of participants and formats.

    python benchmarks/constraints.py [--json FILE] [--plot FILE.png] [--repeat N]

Prints JSON: milliseconds, the best of several runs, for each kind of constraints and each number of participants and
formats. `first` is an aggregation of constraints never seen before; `again` one of the same participants, as group
selections make. With matplotlib installed, `--plot` draws them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sysmem_protocol.formats import AFBC_BITS, RGB32
from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferUsage,
    CpuUsage,
    ImageFormatConstraints,
    PixelFormatAndModifier,
    SizeU,
)
from sysmemd.constraints import Participant, Platform, Refusal, aggregate
from sysmemd.explaining import Diagnosis

COUNTS = (1, 4, 16, 64)
Make = Callable[[int, int], BufferCollectionConstraints]


def afbc_pairs(count: int) -> list[tuple[int, int]]:
    """Return this many different supported formats: AFBC with all combinations of its bits."""
    bits = [1 << bit for bit in range(16) if AFBC_BITS >> bit & 1]
    pairs = []
    for base in (PixelFormatModifier.ARM_AFBC_16X16, PixelFormatModifier.ARM_AFBC_32X8):
        for combination in range(1 << len(bits)):
            modifier = base + sum(bit for i, bit in enumerate(bits) if combination >> i & 1)
            pairs += [(int(pixel_format), modifier) for pixel_format in sorted(RGB32)]
    return pairs[:count]


def constraints(entries: list[ImageFormatConstraints]) -> BufferCollectionConstraints:
    return BufferCollectionConstraints(
        usage=BufferUsage(cpu=CpuUsage.READ_OFTEN),
        min_buffer_count_for_camping=1,
        image_format_constraints=entries,
    )


def entry_each(participant: int, formats: int) -> BufferCollectionConstraints:
    """Put every format in its own entry, with its own constraints."""
    return constraints(
        [
            ImageFormatConstraints(
                pixel_format=pixel_format,
                pixel_format_modifier=modifier,
                color_spaces=[ColorSpace.SRGB],
                min_size=SizeU(16 + participant, 16 + index),
                max_size=SizeU(4096, 4096),
            )
            for index, (pixel_format, modifier) in enumerate(afbc_pairs(formats))
        ]
    )


def one_list(participant: int, formats: int) -> BufferCollectionConstraints:
    """Put all formats in the list of one entry."""
    pairs = [PixelFormatAndModifier(*pair) for pair in afbc_pairs(formats)]
    return constraints(
        [
            ImageFormatConstraints(
                pixel_format_and_modifiers=pairs,
                color_spaces=[ColorSpace.SRGB],
                min_size=SizeU(16 + participant, 16),
            )
        ]
    )


def wildcards(participant: int, formats: int) -> BufferCollectionConstraints:
    """List formats for the first participant; every other one accepts any format or any modifier."""
    if participant == 0:
        return entry_each(participant, formats)
    if participant % 2:
        pairs = [(int(PixelFormat.DO_NOT_CARE), int(PixelFormatModifier.DO_NOT_CARE))]
    else:
        pairs = [(int(number), int(PixelFormatModifier.DO_NOT_CARE)) for number in sorted(RGB32)]
    return constraints(
        [
            ImageFormatConstraints(
                pixel_format=pixel_format,
                pixel_format_modifier=modifier,
                color_spaces=[ColorSpace.DO_NOT_CARE],
            )
            for pixel_format, modifier in pairs
        ]
    )


def required_sizes(participant: int, formats: int) -> BufferCollectionConstraints:
    """Require 64 sizes in every entry, none of which covers another. All participants require the same sizes."""
    made = entry_each(participant, formats)
    sizes = [SizeU(1000 + i, 2000 - i) for i in range(64)]
    for entry in made.image_format_constraints or ():
        entry.required_max_size_list = sizes
    return made


def hostile(participant: int, formats: int) -> BufferCollectionConstraints:
    """Return 64 entries that list up to 4096 formats without a table entry, with any modifier."""
    entries = []
    for index in range(formats):
        pairs = [
            PixelFormatAndModifier(10_000 + 64 * index + i, int(PixelFormatModifier.DO_NOT_CARE))
            for i in range(64)
        ]
        entries.append(
            ImageFormatConstraints(
                pixel_format_and_modifiers=pairs, color_spaces=[ColorSpace.PASSTHROUGH]
            )
        )
    entries[0].min_size = SizeU(16, 16 + participant)
    return constraints(entries)


def no_common(participant: int, formats: int) -> BufferCollectionConstraints:
    """As `entry_each`, but refused: the last two participants have no colour space in common."""
    made = entry_each(participant, formats)
    if participant % 2:
        for entry in made.image_format_constraints or ():
            entry.color_spaces = [ColorSpace.PASSTHROUGH]
    return made


KINDS: dict[str, Make] = {
    "an entry for each format": entry_each,
    "one list of formats": one_list,
    "wildcards": wildcards,
    "64 required sizes": required_sizes,
    "hostile lists": hostile,
    "no colour space in common": no_common,
}


def milliseconds(work: Callable[[], object], repeat: int) -> float:
    best = float("inf")
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return round(best * 1000, 3)


def participants(tables: list[BufferCollectionConstraints]) -> list[Participant]:
    return [Participant(table, "bench", index) for index, table in enumerate(tables)]


def aggregate_fresh(tables: list[BufferCollectionConstraints], platform: Platform) -> object:
    """Aggregate with empty caches."""
    return aggregate(participants(tables), platform)


def measure(repeat: int) -> list[dict[str, Any]]:
    platform = Platform()
    results = []
    for kind, make in KINDS.items():
        for people in COUNTS:
            for formats in COUNTS:
                tables = [make(index, formats) for index in range(people)]

                known = participants(tables)
                result = aggregate(known, platform)
                row: dict[str, Any] = {
                    "kind": kind,
                    "participants": people,
                    "formats": formats,
                    "first_ms": milliseconds(partial(aggregate_fresh, tables, platform), repeat),
                    "again_ms": milliseconds(partial(aggregate, known, platform), repeat),
                    "outcome": "allocation",
                }
                if isinstance(result, Refusal):
                    row["outcome"] = result.rule.name
                    row["analysis_ms"] = milliseconds(Diagnosis(result).report, 1)
                results.append(row)
    return results


def plot(results: list[dict[str, Any]], path: Path) -> bool:
    """Plot the times of first aggregations, with a line for each number of formats. Return False without matplotlib."""
    try:
        from matplotlib import pyplot
    except ImportError:
        return False
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 9), constrained_layout=True)
    for axis, kind in zip(axes.flat, KINDS, strict=True):
        for formats in COUNTS:
            rows = [r for r in results if r["kind"] == kind and r["formats"] == formats]
            axis.plot(
                [r["participants"] for r in rows],
                [r["first_ms"] for r in rows],
                marker="o",
                label=f"{formats} formats",
            )
        axis.set(title=kind, xscale="log", yscale="log", xlabel="participants", ylabel="ms")
        axis.grid(visible=True, which="both", alpha=0.3)
        axis.legend()
    figure.savefig(path)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the aggregation of constraints.")
    parser.add_argument("--json", type=Path, help="write the results there instead of printing")
    parser.add_argument("--plot", type=Path, help="draw them as PNG (needs matplotlib)")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    results = measure(options.repeat)
    text = json.dumps(results, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    else:
        print(text)
    if options.plot and not plot(results, options.plot):
        print("no plot: matplotlib is not installed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
