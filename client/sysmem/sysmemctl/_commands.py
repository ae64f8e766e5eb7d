"""The declaration of all commands and their arguments. Help, completions and manual pages derive from its parser.

This module does not import the modules that run the commands, so that a health check starts quickly.
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
    "the directory of the daemon's sockets "
    "(default: $SYSMEM_RUNTIME_DIR, $XDG_RUNTIME_DIR/sysmem, /run/sysmem)"
)
_COLLECTION: Final = "a collection's id, its name, or a unique prefix of either"


def _timeout(text: str) -> float | None:
    try:
        return seconds(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _drawing(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".dot", ".svg", ".png"):
        raise argparse.ArgumentTypeError(f"{text} must end in .dot, .svg or .png")
    return path


@dataclass(frozen=True)
class Argument:
    """One argument of a command, as `argparse` takes it."""

    names: Sequence[str]
    settings: dict[str, Any]


def _argument(*names: str, **settings: Any) -> Argument:
    return Argument(names, settings)


_JSON: Final = _argument("--json", action="store_true", help="print JSON for programs")
_IS_JSON: Final = _argument(
    "--json", action="store_true", help="no effect, because the output is always JSON"
)
_SOME_COLLECTION: Final = _argument("collection", nargs="?", metavar="COLLECTION", help=_COLLECTION)
_ONE_COLLECTION: Final = _argument("collection", metavar="COLLECTION", help=_COLLECTION)
_SECONDS: Final = _argument(
    "--seconds",
    type=_timeout,
    metavar="SECONDS",
    help="stop after this time (default: run until interrupted)",
)


@dataclass(frozen=True)
class Command:
    """One command."""

    name: str
    #: A short and a full description.
    help: str
    description: str
    #: The module beside this one whose `run(options)` runs it.
    module: str
    arguments: Sequence[Argument] = ()

    def run(self, options: argparse.Namespace) -> int:
        """Run the command and return its exit status."""
        module = importlib.import_module(f".{self.module}", __package__)
        status: int = module.run(options)
        return status


COMMANDS: Final = (
    Command(
        "ping",
        "check that the daemon answers",
        "Connects and waits for an answer. Exit status 0: the daemon answered. 1: there is no daemon, or no answer in "
        "time.",
        "_ping",
        (_JSON,),
    ),
    Command(
        "list",
        "list the collections",
        "Prints a line for each collection: id, name, state, age, participants, buffers, and the participants that the "
        "allocation waits for.",
        "_list",
        (_JSON,),
    ),
    Command(
        "tree",
        "show the nodes of a collection, or of all, as a tree",
        "Shows the nodes of one or all collections: kind, state, client, process, and what the allocation waits for.",
        "_tree",
        (_SOME_COLLECTION, _JSON),
    ),
    Command(
        "show",
        "show everything about a collection",
        "Shows the tree of a collection, the constraints of each participant with the result, the settings and the "
        "buffers.",
        "_show",
        (_ONE_COLLECTION, _JSON),
    ),
    Command(
        "why",
        "say why a collection waits, failed, or has its settings",
        "Prints the participants that the allocation waits for and for how long; or why the negotiation was refused; "
        "or the agreed settings and which participant decided each. Without COLLECTION: the collection that failed "
        "last.",
        "_why",
        (_SOME_COLLECTION, _JSON),
    ),
    Command(
        "holders",
        "find the processes that hold buffers",
        "Finds the processes that keep buffers alive by a descriptor, a mapping or an unreceived message, among the "
        "processes that the caller is permitted to inspect.",
        "_holders",
        (_SOME_COLLECTION, _JSON),
    ),
    Command(
        "dump",
        "print everything that the daemon holds, as JSON",
        "Prints the daemon's snapshot as JSON. With --monitor it then prints each event as one line of JSON until it "
        "is interrupted.",
        "_dump",
        (
            _argument("--monitor", action="store_true", help="continue with events as they happen"),
            _IS_JSON,
        ),
    ),
    Command(
        "top",
        "watch collections and participants in a live table",
        "Shows collections and participants in a table that follows the daemon: memory, messages per second, state "
        "and what is waited for. Keys: c collections, p participants, s sort by the next column, r reverse the "
        "order, Enter open a collection, Escape close it, q quit. If the daemon ends, the table waits for the next "
        "one.",
        "_top",
    ),
    Command(
        "trace",
        "print each message that passes between clients and the daemon",
        "Prints each message of a collection, or of all channels, as a line: the time of day (UTC), the connection's "
        "number, the client, the direction (→ to the daemon, ← from it), the txid, protocol and method with the fields "
        "that are set, the number of descriptors, and the error of a response. It runs until it is interrupted.",
        "_trace",
        (
            _SOME_COLLECTION,
            _argument("--bodies", action="store_true", help="also print the contents of messages"),
            _SECONDS,
            _JSON,
        ),
    ),
    Command(
        "capture",
        "record all events into a file",
        "Records what the daemon holds, and then all events and all messages with their contents, until it is "
        "interrupted. The file consists of JSON lines. It can be read while it grows, and after this command was "
        "killed.",
        "_capture",
        (
            _argument(
                "file", type=Path, metavar="FILE", help="the file to write; it is overwritten"
            ),
            _SECONDS,
        ),
    ),
    Command(
        "replay",
        "replay a capture against a daemon and list the differences",
        "Replays a capture against a daemon in the recorded order with simulated clients, and lists where the daemon's "
        "messages to them differ from the capture. Exit status 0: there is no difference. 1: there is one.",
        "_replay",
        (
            _argument("file", type=Path, metavar="FILE", help="a file from `sysmemctl capture`"),
            _JSON,
        ),
    ),
    Command(
        "graph",
        "draw a collection",
        "Draws the nodes, participants, processes and buffers of one or all collections.",
        "_graph",
        (
            _SOME_COLLECTION,
            _argument(
                "-o",
                "--output",
                type=_drawing,
                required=True,
                metavar="FILE",
                help="the file to write; its suffix selects the format: .dot, .svg or .png",
            ),
        ),
    ),
    Command(
        "report",
        "write an HTML report of a capture or a running daemon",
        "Writes one HTML page that a browser can open from disk and that needs no network. For each collection it "
        "shows the outcome and its reason, a time line, the nodes, the constraints of each participant with the "
        "conflict marked, the buffers with their holders, and the messages. Without FILE it shows a running daemon.",
        "_report",
        (
            _argument(
                "file",
                nargs="?",
                type=Path,
                metavar="FILE",
                help="a file from `sysmemctl capture` (default: ask the daemon)",
            ),
            _argument(
                "-o",
                "--output",
                type=Path,
                required=True,
                metavar="OUT.html",
                help="the page to write",
            ),
        ),
    ),
    Command(
        "export",
        "print the constraints of a collection as JSON that `explain` reads",
        "Prints the constraints of the participants of a living or ended collection, and the daemon's heaps and "
        "limits, as the JSON that `sysmemctl explain` reads.",
        "_export",
        (_ONE_COLLECTION, _IS_JSON),
    ),
    Command(
        "explain",
        "compute the result of constraints in a file, with the reasons",
        "Computes the result of the constraints of several participants, without a daemon. Exit status 0: they agree. "
        "1: they do not. 2: the file is invalid.",
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
        "print the daemon's metrics for Prometheus",
        "Prints counters, gauges and a histogram as OpenMetrics text.",
        "_metrics",
    ),
    Command(
        "introspect",
        "describe the served interface",
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
        "run a pipeline repeatedly, and kill each participant at each of its steps",
        "Runs a command repeatedly, each time with a new daemon, and ends one participant after one of its messages. "
        "Afterwards all processes must end in time and hold nothing, and the daemon must have returned to its "
        "initial state. Prints a table. Exit status 1: a run had a fault; the worst one is shown with its trace. "
        "Needs the extra `testing`.",
        "_kill_matrix",
        (
            _argument(
                "--victim",
                action="append",
                metavar="NAME",
                help="the client name of a participant to end; may be repeated (default: all)",
            ),
            _argument(
                "--end",
                action="append",
                choices=("killed", "stopped", "closed"),
                help="how to end the participant: by SIGKILL, by SIGSTOP, or by closing its channels; may be repeated "
                "(default: killed)",
            ),
            _argument(
                "--within",
                type=_timeout,
                default=10.0,
                metavar="SECONDS",
                help="how long a run may be idle (default: 10)",
            ),
            _argument(
                "command",
                nargs=argparse.REMAINDER,
                metavar="COMMAND",
                help="the command that runs the pipeline, after `--`; it finds the daemon at $SYSMEM_RUNTIME_DIR",
            ),
        ),
    ),
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; `options.run(options)` runs the given command."""
    made = argparse.ArgumentParser(
        prog="sysmemctl",
        description="Inspects and controls a sysmem daemon.",
        epilog="Exit status: 0 success; 1 no daemon, no such collection, or a failed check; 2 invalid command line.",
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
    """Add the options that every command accepts, before and after its name. One after it has priority."""

    def default(value: object) -> Any:
        return argparse.SUPPRESS if suppress else value

    parser.add_argument("--runtime-dir", metavar="DIR", default=default(None), help=_WHERE)
    parser.add_argument(
        "--timeout",
        type=_timeout,
        default=default(5.0),
        metavar="SECONDS",
        help="how long to wait for the daemon (default: 5); 'inf' waits forever",
    )
