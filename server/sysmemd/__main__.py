"""`sysmemd`: the daemon in the foreground."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import msgspec
import trio

from sysmem_protocol import __version__

from . import config as configuration
from . import log, process
from .ports import Log
from .sockets import StartError
from .testing import Faults, tested

_STDERR = 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line. Its options have priority over the configuration file."""
    made = argparse.ArgumentParser(
        prog="sysmemd",
        description="Lets several processes agree on one set of shared memory buffers.",
    )
    made.add_argument("--version", action="version", version=f"sysmemd {__version__}")
    made.add_argument(
        "--runtime-dir",
        metavar="DIR",
        help="the directory of the sockets (default: $SYSMEM_RUNTIME_DIR, $XDG_RUNTIME_DIR/sysmem, /run/sysmem)",
    )
    made.add_argument(
        "--config",
        metavar="FILE.toml",
        help="configuration file; see docs/configuration.md. --config=-FILE.toml: only if the file exists",
    )
    made.add_argument(
        "--log-format", choices=get_args(configuration.LogFormat), help="the format of the log"
    )
    made.add_argument(
        "--log-level",
        choices=get_args(configuration.LogLevel),
        help="the lowest level that is logged",
    )
    made.add_argument("--mode", metavar="0600", help="permissions of the sockets")
    made.add_argument("--group", metavar="NAME", help="group of the sockets")
    made.add_argument(
        "--metrics",
        metavar="ADDRESS",
        help="serve metrics over HTTP at this address: unix:PATH, or a loopback address such as 127.0.0.1:9100",
    )
    made.add_argument(
        "--testing",
        action="store_true",
        help="allow tests of participants to inject faults, through one more socket; never use it in production",
    )
    return made


def configure(arguments: argparse.Namespace) -> configuration.Config:
    """Return the file's settings with those of the command line applied. Raises `ConfigError`."""
    name = arguments.config
    if name is None or (name.startswith("-") and not Path(name[1:]).exists()):
        return _override(configuration.Config(), arguments)
    return _override(configuration.load(name.removeprefix("-")), arguments)


class Reload:
    """Reads the configuration file of a running daemon again; a :class:`.process.Reload`."""

    def __init__(self, arguments: argparse.Namespace, output: log.Output) -> None:
        """`arguments` contain the file's path, and have priority over the file."""
        self._arguments = arguments
        self._output = output

    def read(self) -> configuration.Config:
        """Return the file's configuration. Raises `ConfigError`, also if the file does not exist."""
        name = self._arguments.config.removeprefix("-")
        return _override(configuration.load(name), self._arguments)

    def apply(self, config: configuration.Config) -> None:
        """Set the level of the log."""
        self._output.threshold.set(config.log.level)


def _override(config: configuration.Config, arguments: argparse.Namespace) -> configuration.Config:
    given = {
        "runtime_dir": arguments.runtime_dir,
        "mode": arguments.mode,
        "group": arguments.group,
        "metrics": arguments.metrics and {"address": arguments.metrics},
    }
    logged = {"format": arguments.log_format, "level": arguments.log_level}
    config = configuration.override(config, {key: v for key, v in given.items() if v is not None})
    return msgspec.structs.replace(
        config,
        log=msgspec.structs.replace(
            config.log, **{key: value for key, value in logged.items() if value is not None}
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon and return its exit status.

    It is 0 after SIGTERM or SIGINT, 1 if the daemon cannot start or continue, and 2 for an invalid command line.
    """
    arguments = parser().parse_args(argv)
    # This precedes the start of the log's thread, which inherits the mask. A signal is held back until serving begins.
    # One that arrives after its end (for example a second Ctrl-C) has nothing left to stop.
    signal.pthread_sigmask(signal.SIG_BLOCK, process.SIGNALS)
    try:
        _open_standard_descriptors()
        config = configure(arguments)
    except (configuration.ConfigError, OSError) as error:
        logger, output = log.configure(arguments.log_format or "console", "error")
        logger.error("can't start", reason=str(error))
        output.close()
        return 1
    logger, output = log.configure(config.log.format, config.log.level)
    told_before, sys.unraisablehook = sys.unraisablehook, partial(_log_unraisable, logger)
    began: list[None] = []
    try:
        reload = Reload(arguments, output) if arguments.config is not None else None
        parts = tested(Faults()) if arguments.testing else None
        on_ready = partial(began.append, None)
        run = partial(process.run, config, logger, on_ready=on_ready, reload=reload, parts=parts)
        trio.run(partial(run, alone=True))
    except process.UnreachableError as error:
        logger.error("can't continue: the service sockets cannot be recreated", reason=str(error))
        return 1
    except Exception as error:
        reason = None if began else _why_not_started(error)
        if reason is None:
            logger.error("the daemon failed", exc_info=True)
        else:
            logger.error("can't start", reason=reason)
        return 1
    finally:
        sys.unraisablehook = told_before
        output.close()
    return 0


def _why_not_started(error: BaseException) -> str | None:
    """Return what the daemon lacked, as a sentence, if it could not start for that reason; otherwise None."""
    if isinstance(error, trio.TrioInternalError):  # it may be what trio's loop needs
        causes = _single(error.__cause__)
        return next(filter(None, map(_why_not_started, causes)), None)
    if isinstance(error, MemoryError):
        return "there is no memory left"
    if isinstance(error, ImportError):  # also if a shortage hides a file
        return f"a part of the program can't be loaded: {error}"
    if isinstance(error, (StartError, configuration.ConfigError, OSError)):
        return str(error)
    return None


def _single(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, or the errors of a group."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _single(one)
    elif error is not None:
        yield error


def _log_unraisable(logger: Log, unraisable: sys.UnraisableHookArgs) -> None:
    """Log an exception that cannot be raised. The interpreter would write it between the log's lines, and block."""
    logger.error(
        "an unraisable exception was ignored",
        reason=repr(unraisable.exc_value),
        where=repr(unraisable.object),
    )


def _open_standard_descriptors() -> None:
    """Open stdin, stdout and stderr if they are closed, so that no channel gets their numbers and receives the log.

    Raises `OSError`.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
