"""`make faults`: fail every system call of the daemon, one at a time, and print the attempts and the failures."""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .faults import ERRORS, LEFT_OUT, Fault, plan
from .harness import PATIENCE, Broken, Moment, Strike, Target, strike_all
from .shortages import LOGS, MOMENTS
from .starts import Start, strike_starts

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- faults -->", "<!-- /faults -->"


def main() -> int:
    """Try the faults. The exit status says whether anything broke, or a call was neither tried nor excluded."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument(
        "--most", type=int, default=12, help="occurrences of each call and error (0: all)"
    )
    parser.add_argument("--call", help="only this system call; `moments`: only the rest")
    parser.add_argument("--starts", action="store_true", help="only while the daemon starts")
    parser.add_argument(
        "--write",
        action="store_true",
        help="put the tables of what was tried into docs/reliability.md",
    )
    arguments = parser.parse_args()
    tried: Counter[Strike] = Counter()
    broken: list[Broken] = []
    made: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="sysmem-faults-") as name:
        directory, call, most = Path(name), arguments.call, arguments.most or None
        tries: list[Iterator[tuple[Strike, Broken | None]]] = [
            starts(directory / "starts", call, most, made)
        ]
        if not arguments.starts:
            tries.append(strikes(directory, call, most, made))
        for strike, error in itertools.chain.from_iterable(tries):
            tried[strike] += 1
            if error is not None:
                broken.append(error)
                print(error, flush=True)
    text = tables(tried)
    if arguments.write:
        page = PAGE.read_text()
        before, _, rest = page.partition(_BEGIN)
        PAGE.write_text(f"{before}{_BEGIN}\n{text}{_END}{rest.partition(_END)[2]}")
    print(text)
    unknown = made.keys() - ERRORS.keys() - LEFT_OUT.keys()
    print(f"{tried.total()} faults tried, {len(broken)} broke something")
    if unknown:
        print(f"neither tried nor left out for a reason: {', '.join(sorted(unknown))}")
    return 1 if broken or unknown else 0


def starts(
    directory: Path, call: str | None, most: int | None, made: Counter[str]
) -> Iterator[tuple[Strike, Broken | None]]:
    """Try the faults that are possible while a daemon starts."""
    start = Start(directory)
    counts = start.counts()
    made += counts
    faults = [
        replace(fault, starting=True) for fault in plan(counts, most) if call in (None, fault.call)
    ]
    print(f"start: {len(faults)} faults", flush=True)
    yield from strike_starts(start, faults)


def strikes(
    directory: Path, call: str | None, most: int | None, made: Counter[str]
) -> Iterator[tuple[Strike, Broken | None]]:
    """Try all faults of the scenario, and count the calls that it makes."""
    for allocation in ("lazy", "eager"):
        target = Target(directory / allocation / "counted", allocation)
        counts = target.counts()
        target.close()
        made += counts
        faults: list[Strike] = [fault for fault in plan(counts, most) if call in (None, fault.call)]
        if call in (None, "moments"):
            faults += MOMENTS
        print(f"{allocation}: {len(faults)} faults", flush=True)
        yield from strike_all(directory / allocation, allocation, faults)
    if call in (None, "moments"):
        for number, (name, prefix) in enumerate(LOGS.items()):
            yield from strike_log(directory / f"log{number}", name, prefix)


def strike_log(
    directory: Path, name: str, prefix: tuple[str, ...]
) -> Iterator[tuple[Strike, Broken | None]]:
    """Try a daemon that can't write its log."""
    moment = Moment(name, lambda target: target.run(PATIENCE, strict=True))
    target = Target(directory, "lazy", prefix)
    try:
        target.strike(moment)
    except Broken as error:
        yield moment, error
    else:
        yield moment, None
    finally:
        target.close()


def tables(tried: Counter[Strike]) -> str:
    """Return tables: how often each call failed with each error, and the other attempts."""
    once: Counter[tuple[str, str]] = Counter()
    lasting: Counter[tuple[str, str]] = Counter()
    at_start: Counter[tuple[str, str]] = Counter()
    moments: Counter[str] = Counter()
    for strike, times in tried.items():
        if isinstance(strike, Fault):
            counted = at_start if strike.starting else lasting if strike.lasting else once
            counted[strike.call, strike.error] += times
        else:
            moments[strike.name] += times
    lines = [
        "| system call | errors: once, at so many places; and lasting, from so many | at the start |",
        "| --- | --- | --- |",
    ]
    for call, errors in ERRORS.items():
        running = [
            f"{error} {once[call, error]} + {lasting[call, error]}"
            for error in errors
            if once[call, error]
        ]
        starting = [f"{error} {at_start[call, error]}" for error in errors if at_start[call, error]]
        if running or starting:
            lines.append(f"| `{call}` | {', '.join(running)} | {', '.join(starting)} |")
    lines += ["", "| bad moment | daemons |", "| --- | --- |"]
    lines += [f"| {name} | {times} |" for name, times in moments.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
