"""`python -m modelworks.testing.template NAME FOLDER`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from modelworks.contract.errors import ModelworksError
from modelworks.testing.template.render import render


def main(arguments: list[str] | None = None) -> int:
    """Render the template; 0 on success, 1 with a sentence on stderr otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m modelworks.testing.template", description="Write a new capability's project."
    )
    parser.add_argument("name", help="lower-case words joined by hyphens, e.g. ticket-topic")
    parser.add_argument("folder", type=Path, help="a new or empty folder")
    given = parser.parse_args(arguments)
    try:
        project = render(given.name, given.folder)
    except ModelworksError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return 1
    print(project)
    print(f"next: pip install -e {project} && pytest {project}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
