"""All commands and their arguments, declared once: help, completions and manual pages derive from the parser.

Nothing here imports what runs a command, so that a health check stays quick.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .. import __version__
from .._timeouts import seconds

_WHERE: Final = (
    "where the sockets are (default: $SYSMEM_RUNTIME_DIR, $XDG_RUNTIME_DIR/sysmem, /run/sysmem)"
)
_COLLECTION: Final = "a collection's id, its name, or a unique beginning of either"


def _timeout(text: str) -> float | None:
    try:
        return seconds(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _drawing(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".dot", ".svg", ".png"):
        raise argparse.ArgumentTypeError(f"the ending of {text} must be .dot, .svg or .png")
    return path


@dataclass(frozen=True)
class Argument:
    """One argument of a command, as `argparse` takes it."""

    names: Sequence[str]
    settings: dict[str, Any]


def _argument(*names: str, **settings: Any) -> Argument:
    return Argument(names, settings)


_JSON: Final = _argument("--json", action="store_true", help="print data for programs")
_SOME_COLLECTION: Final = _argument("collection", nargs="?", metavar="COLLECTION", help=_COLLECTION)
_ONE_COLLECTION: Final = _argument("collection", metavar="COLLECTION", help=_COLLECTION)
_SECONDS: Final = _argument(
    "--seconds",
    type=_timeout,
    metavar="SECONDS",
    help="how long to go on (default: until interrupted)",
)


@dataclass(frozen=True)
class Command:
    """One command."""

    name: str
    #: What it does, in a few words and in full.
    help: str
    description: str
    #: The module beside this one whose `run(options)` runs it.
    module: str
    arguments: Sequence[Argument] = ()

    def run(self, options: argparse.Namespace) -> int:
        """Run the command; its exit status."""
        module = importlib.import_module(f".{self.module}", __package__)
        status: int = module.run(options)
        return status


COMMANDS: Final = (
    Command(
        "ping",
        "ask the daemon for an answer; the exit status tells whether it came",
        "Connects and waits for an answer. Exit status 0: it came. 1: there is no daemon, or no answer in time.",
        "_ping",
    ),
    Command(
        "list",
        "list the collections",
        "Prints a line for each collection: id, name, state, age, participants, buffers and who is waited for.",
        "_list",
        (_JSON,),
    ),
    Command(
        "tree",
        "show the nodes of a collection, or of all, as a tree",
        "Shows the nodes of one collection or of all of them: kind, state, client, process and what each waits for.",
        "_tree",
        (_SOME_COLLECTION, _JSON),
    ),
    Command(
        "show",
        "show everything about a collection",
        "Shows the tree of a collection, what each participant asked for and what came out, the settings and the "
        "buffers.",
        "_show",
        (_ONE_COLLECTION, _JSON),
    ),
    Command(
        "why",
        "say why a collection waits, failed, or came out as it did",
        "Says who is waited for and since when; or why the negotiation was refused; or what was agreed and who decided "
        "what. Without COLLECTION: about the collection that failed last.",
        "_why",
        (_SOME_COLLECTION, _JSON),
    ),
    Command(
        "holders",
        "find the processes that hold buffers",
        "Finds the processes that keep buffers alive by a descriptor, a mapping or a message that was not received, as "
        "far as the caller may look into processes.",
        "_holders",
        (_SOME_COLLECTION, _JSON),
    ),
    Command(
        "dump",
        "print all that the daemon holds, as JSON",
        "Prints the daemon's snapshot as JSON. With --monitor it then prints what happens, one JSON object a line, "
        "until it is interrupted.",
        "_dump",
        (_argument("--monitor", action="store_true", help="go on with what happens from now on"),),
    ),
    Command(
        "top",
        "watch collections and participants in a live table",
        "Shows collections and participants in a table that follows the daemon: memory, messages a second, state and "
        "who is waited for. Keys: c collections, p participants, s sorts by the next column, r in the other direction, "
        "Enter opens a collection, Escape closes it, q quits. When the daemon ends, the next one is waited for.",
        "_top",
    ),
    Command(
        "trace",
        "print each message that passes between clients and the daemon",
        "Prints each message of a collection, or of all channels, as a line: the time of day (UTC), the connection's "
        "number, the client, the direction (→ to the daemon, ← from it), the txid, protocol and method with the fields "
        "that are set, the number of descriptors, and the error of an answer. It goes on until it is interrupted.",
        "_trace",
        (
            _SOME_COLLECTION,
            _argument("--bodies", action="store_true", help="print what the messages say too"),
            _SECONDS,
            _JSON,
        ),
    ),
    Command(
        "capture",
        "record what happens into a file",
        "Records what the daemon holds, and from then on all that happens and each message with what it says, until it "
        "is interrupted. The file has JSON lines and can be read while it grows, or after this command was killed.",
        "_capture",
        (
            _argument("file", type=Path, metavar="FILE", help="where to write; it begins anew"),
            _SECONDS,
        ),
    ),
    Command(
        "replay",
        "play a capture against a daemon and list what differs",
        "Plays a capture against a daemon, in its order, with clients made up from it, and lists what the daemon tells "
        "them otherwise than in the capture. Exit status 0: nothing differs. 1: something does.",
        "_replay",
        (
            _argument("file", type=Path, metavar="FILE", help="what `sysmemctl capture` wrote"),
            _JSON,
        ),
    ),
    Command(
        "graph",
        "draw a collection",
        "Draws the nodes, participants, processes and buffers of one collection or of all.",
        "_graph",
        (
            _SOME_COLLECTION,
            _argument(
                "-o",
                "--output",
                type=_drawing,
                required=True,
                metavar="FILE",
                help="where to draw it; the ending says how: .dot, .svg or .png",
            ),
        ),
    ),
    Command(
        "report",
        "write a page about what happened, from a capture or a running daemon",
        "Writes one HTML page that a browser opens from the disk and that needs no network: for each collection what "
        "came of it and why, a time line, its nodes, what each participant asked for with the conflict marked, its "
        "buffers and who holds them, and its messages. Without FILE it shows what a running daemon holds.",
        "_report",
        (
            _argument(
                "file",
                nargs="?",
                type=Path,
                metavar="FILE",
                help="what `sysmemctl capture` wrote (default: ask the daemon)",
            ),
            _argument(
                "-o",
                "--output",
                type=Path,
                required=True,
                metavar="OUT.html",
                help="where to write the page",
            ),
        ),
    ),
    Command(
        "export",
        "print the constraints of a collection as JSON that `explain` reads",
        "Prints what the participants of a living or ended collection asked for, and the daemon's heaps and limits, as "
        "the JSON that `sysmemctl explain` reads.",
        "_export",
        (_ONE_COLLECTION,),
    ),
    Command(
        "explain",
        "say what constraints in a file come to, and why",
        "Works out what the constraints of several participants come to, without a daemon. Exit status 0: they agree. "
        "1: they do not. 2: the file is at fault.",
        "_explain",
        (
            _argument(
                "file",
                nargs="?",
                default="-",
                metavar="FILE",
                help="JSON with the constraints (default: standard input)",
            ),
            _JSON,
        ),
    ),
    Command(
        "metrics",
        "print the daemon's numbers for Prometheus",
        "Prints counters, gauges and a histogram as OpenMetrics text.",
        "_metrics",
    ),
    Command(
        "introspect",
        "describe the interface as it is served",
        "Describes the protocols, methods, tables and limits of the interface.",
        "_introspect",
        (
            _argument(
                "what",
                nargs="?",
                metavar="PROTOCOL[.METHOD]",
                help="a protocol, or one method of it (default: all)",
            ),
            _JSON,
        ),
    ),
    Command(
        "kill-matrix",
        "run a pipeline again and again, with each participant killed at each of its steps",
        "Runs a command with daemons of its own, and ends one participant after one of its messages in each run. Then "
        "all processes must end in time and hold nothing, and the daemon must be as before. Prints a table. Exit "
        "status 1: a run was not as it should be; the worst is shown with its trace. Needs the extra `testing`.",
        "_kill_matrix",
        (
            _argument(
                "--victim",
                action="append",
                metavar="NAME",
                help="a name with which a participant connects; may be repeated (default: all)",
            ),
            _argument(
                "--end",
                action="append",
                choices=("killed", "stopped", "closed"),
                help="what happens to the participant: SIGKILL, SIGSTOP, or its channels close; may be repeated "
                "(default: killed)",
            ),
            _argument(
                "--within",
                type=_timeout,
                default=10.0,
                metavar="SECONDS",
                help="how long a run may go on without any process doing anything (default: 10)",
            ),
            _argument(
                "command",
                nargs=argparse.REMAINDER,
                metavar="COMMAND",
                help="what runs the pipeline, after `--`; the daemon is at $SYSMEM_RUNTIME_DIR",
            ),
        ),
    ),
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; `options.run(options)` runs what was given."""
    made = argparse.ArgumentParser(
        prog="sysmemctl",
        description="Looks into a sysmem daemon and looks after it.",
        epilog="Exit status: 0 done; 1 no daemon, no such collection, or a check that failed; 2 wrong command line.",
    )
    made.add_argument("--version", action="version", version=f"sysmemctl {__version__}")
    _common(made, suppress=False)
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        each = commands.add_parser(command.name, help=command.help, description=command.description)
        _common(each, suppress=True)
        for argument in command.arguments:
            each.add_argument(*argument.names, **argument.settings)
        each.set_defaults(run=command.run)
    return made


def _common(parser: argparse.ArgumentParser, *, suppress: bool) -> None:
    """Add what every command takes, before its name and after; what isn't given after it counts from before."""

    def default(value: object) -> Any:
        return argparse.SUPPRESS if suppress else value

    parser.add_argument("--runtime-dir", metavar="DIR", default=default(None), help=_WHERE)
    parser.add_argument(
        "--timeout",
        type=_timeout,
        default=default(5.0),
        metavar="SECONDS",
        help="how long to wait for the daemon (default: 5); 'inf' waits for ever",
    )
