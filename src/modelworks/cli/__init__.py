"""The command line. Light: nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import sys

#: Exit codes that scripts may rely on.
OK, FAILURE, USAGE, AUTH, VERSION, RATE_LIMITED, INTERRUPTED = 0, 1, 2, 4, 6, 7, 130


def main() -> None:
    """Entry point of the command `modelworks`."""
    try:
        from modelworks.cli.app import execute

        code = execute(sys.argv[1:])
    except KeyboardInterrupt:  # while it was still being loaded
        code = INTERRUPTED
    sys.exit(code)
