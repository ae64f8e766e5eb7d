"""Generate the blocking face from the async one: `python client/generate_blocking.py`; `--check` only compares.

Each module below is the async one without `async` and `await`, with the names of the blocking face. Docstring
paragraphs that begin with "Cancellation:" are about tasks only, so they are removed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "sysmem"
MODULES = ("allocator.py", "channel_object.py", "frames.py", "nodes.py", "passing.py")
HEADER = "# Made from _async/{name} by client/generate_blocking.py; change that one.\n\n"
RULES = (
    (r"\n *# of the async face only\n.*?\n(?=\n)", ""),
    (r"\n    Without `wait` it returns at once.*?by an `async with`\.\n", ""),
    (r"from \.connecting import Connecting\n", ""),
    (r"return Connecting\(lambda: ([^\n]*)\)  # type: ignore[^\n]*", r"return \1"),
    (r"import Callable, Generator\nfrom typing import Self, overload\n", "import Callable\n"),
    (r"\basync (?=def|with|for)", ""),
    (r"\bawait ", ""),
    (r"\bAsyncEventPair\b", "BlockingEventPair"),
    (r"\b__a(iter|next)__\b", r"__\1__"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\n\n +Cancellation:.*?(?=\n\n|\n +\"\"\"|\"\"\")", ""),
    (r'(\n +"""[^"\n]+\.)\n +"""\n', r'\1"""\n'),
)


def blocking(name: str) -> str:
    """Return the text of a module of the blocking face."""
    text = (PACKAGE / "_async" / name).read_text()
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    text = HEADER.format(name=name) + text
    for step in (["check", "--select=I,F401", "--fix", "--quiet"], ["format", "--quiet"]):
        command = [
            sys.executable,
            "-m",
            "ruff",
            *step,
            "--stdin-filename",
            f"{PACKAGE}/_blocking/{name}",
            "-",
        ]
        text = subprocess.run(
            command, input=text, capture_output=True, text=True, check=True
        ).stdout
    return text


def main() -> int:
    """Write the modules that differ, or with `--check` report them. Return the exit status."""
    check = "--check" in sys.argv[1:]
    status = 0
    for name in MODULES:
        path = PACKAGE / "_blocking" / name
        made = blocking(name)
        if path.exists() and path.read_text() == made:
            continue
        if check:
            print(f"{path} differs from what client/generate_blocking.py generates")
            status = 1
        else:
            path.write_text(made)
    return status


if __name__ == "__main__":
    sys.exit(main())
