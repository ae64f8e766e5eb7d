"""`make fuzz SECONDS=60`: search for inputs that break parsers, guided by the branches that they take.

Each target runs in its own process for its share of the time. A find is written to `tests/fuzz/corpus`, where the suite
tries it again. It belongs in the next commit, together with the fix.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from .targets import TARGETS, corpus, seeds

#: Seconds that one input may take.
_PATIENCE = 20
_FUZZ = """
import sys
import atheris
with atheris.instrument_imports(include=["sysmem", "sysmem_protocol", "sysmemd"]):
    from tests.fuzz.targets import TARGETS
target = TARGETS[sys.argv.pop(1)]
atheris.Setup(sys.argv, target)
atheris.Fuzz()
"""


def main() -> int:
    """Fuzz all targets. The exit status says whether anything was found."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("targets", nargs="*", help=f"some of {', '.join(TARGETS)}")
    arguments = parser.parse_args()
    targets = arguments.targets or list(TARGETS)
    found: list[object] = []
    print("| target | inputs | branches | finds |\n| --- | --- | --- | --- |", flush=True)
    for target in targets:
        known = {path.name for path in corpus(target)}
        inputs, branches, broke = fuzz(target, arguments.seconds // len(targets), arguments.seed)
        new = [path for path in corpus(target) if path.name not in known]
        found += new or ["one of the corpus"] * broke
        print(f"| {target} | {inputs} | {branches} | {len(new)} |", flush=True)
    for path in found:
        print(f"found: {path}")
    return 1 if found else 0


def fuzz(target: str, seconds: int, seed: int) -> tuple[str, str, bool]:
    """Fuzz one target until a find or the end of the time. Return the numbers of inputs and branches."""
    with tempfile.TemporaryDirectory(prefix="sysmem-fuzz-") as name:
        working, finds = Path(name), Path(__file__).with_name("corpus") / target
        finds.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(
            [*seeds(target), *(path.read_bytes() for path in corpus(target))]
        ):
            (working / f"seed{number}").write_bytes(data)
        done = subprocess.run(
            [
                *(sys.executable, "-c", _FUZZ, target, working, finds),
                *(f"-max_total_time={seconds}", f"-timeout={_PATIENCE}", f"-seed={seed}"),
                *(f"-artifact_prefix={finds}/", "-max_len=65536", "-print_final_stats=1"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(done.stdout, file=sys.stderr)
        if not any(finds.iterdir()):
            finds.rmdir()
    lines = done.stderr.splitlines()
    inputs = next((each.split()[-1] for each in lines if "number_of_executed_units" in each), "?")
    covered = [line.split("cov: ")[1].split()[0] for line in lines if "cov: " in line]
    return inputs, covered[-1] if covered else "?", done.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
