"""Writes docs/reference/cli.md from the command line itself: `python docs/reference/generate_cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer.main

from modelworks.cli.app import app

PAGE = Path(__file__).with_name("cli.md")

INTRODUCTION = """\
# The command line

<!-- Written by docs/reference/generate_cli.py from the program itself; a test compares the two. Do not edit by hand. -->

`modelworks` talks to a server over HTTP, except for `serve`, `doctor` and `sbom`, which work on this machine. Results go to
stdout and everything else to stderr. Each verb that prints a result has `-o table|json|name`; with `-o json` a failure is
`{"error": {"code", "message", "hint"}}` on stderr. Verbs that destroy something ask first; without a terminal they need `-y`.
Where a value is read, `-` is stdin and `@path` a file.

| Exit code | Meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | the command was not understood, or a confirmation is missing |
| 4 | the key is missing, wrong, or may not do this |
| 6 | client and server are of versions that do not fit |
| 7 | too many requests, or a quota is used up |
| 130 | interrupted |

| Variable | Meaning |
|---|---|
| `MODELWORKS_URL` | address of the server; by default `http://127.0.0.1:8400` |
| `MODELWORKS_API_KEY` | the API key; for a server on this machine by default the one in `$MODELWORKS_HOME/admin.key` |
| `MODELWORKS_PROJECT` | id or name of a project; a key of another project is refused |
| `MODELWORKS_HOME` | home folder of the server on this machine; by default `~/.modelworks` |
| `MODELWORKS_LANG` | `en` or `zh`: language of questions and messages; by default that of the locale |
| `MODELWORKS_DEBUG` | when set, a bug shows its traceback |
| `NO_COLOR` | when set, nothing is coloured; neither is anything that does not go to a terminal |

`modelworks --install-completion` adds completion to your shell.
"""


def render() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    return INTRODUCTION + "".join(_sections(root, "modelworks"))


def _sections(command: Any, path: str) -> list[str]:
    children = getattr(command, "commands", None)
    parts = [] if path == "modelworks" and children else [_section(command, path)]
    if path == "modelworks":
        parts.append("\n## Before the verb\n" + _parameters(command))
    for name, child in (children or {}).items():
        parts += _sections(child, f"{path} {name}")
    return parts


def _section(command: Any, path: str) -> str:
    arguments = " ".join(
        f"[{_argument(item)}]" if not item.required else _argument(item)
        for item in command.params
        if item.param_type_name == "argument"
    )
    level = "##" if path.count(" ") == 1 else "###"
    title = f"\n{level} `{path}`\n\n"
    if getattr(command, "commands", None):
        return title + f"{command.help}\n"
    usage = f"{path} {arguments}".rstrip()
    return title + f"{' '.join((command.help or '').split())}\n\n```\n{usage} [options]\n```\n" + _parameters(command)


def _argument(item: Any) -> str:
    return str(item.name).upper()


def _parameters(command: Any) -> str:
    rows = []
    for item in command.params:
        if item.name == "help":
            continue
        if item.param_type_name == "argument":
            names = f"`{_argument(item)}`"
        else:
            names = ", ".join(f"`{name}`" for name in [*item.opts, *item.secondary_opts])
        default = item.default
        shown = "" if default is None or default is False or item.required or callable(default) else f"`{default}`"
        rows.append(f"| {names} | {'required' if item.required else shown} | {' '.join((item.help or '').split())} |\n")
    if not rows:
        return ""
    return "\n| Option | Default | Meaning |\n|---|---|---|\n" + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
