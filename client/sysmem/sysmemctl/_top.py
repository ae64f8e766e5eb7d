"""`sysmemctl top`: collections and participants in a table that follows the daemon."""

from __future__ import annotations

import argparse
import sys

from ._follower import Follower
from ._source import inspector
from ._text import NEEDS_TOOLS
from ._trouble import Trouble


def run(options: argparse.Namespace) -> int:
    """Show the table until the user quits."""
    with inspector(options):
        pass  # it raises if the daemon cannot be followed
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Trouble("top needs a terminal; `sysmemctl list` and `sysmemctl dump` do not")
    try:
        from ._top_app import Top
    except ImportError as error:
        if not (error.name or "").startswith(("textual", "rich")):
            raise
        raise Trouble(NEEDS_TOOLS) from None
    app = Top(lambda seen, lost: Follower(options.runtime_dir, options.timeout, seen, lost))
    app.run()
    return app.return_code or 0
