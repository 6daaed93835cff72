"""Write the pages of docs/reference that come from the code: settings, errors, HTTP routes and the OpenAPI document.

`python docs/generate.py` writes them, `--check` writes nothing and names those that are out of date (status 1).
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from modelworks.contract.errors import ModelworksError, error_classes
from modelworks.kernel.base.settings import Settings

PROJECT = Path(__file__).resolve().parents[1]
REFERENCE = PROJECT / "docs" / "reference"
NOTE = "<!-- Written by docs/generate.py: change the code, then run `make docs`. -->\n"


def settings_page() -> str:
    """One row per field of `Settings`."""
    lines = [
        "# Settings\n",
        NOTE,
        "Each setting is read once at the start: from an argument, else from the environment, else from `modelworks.toml`",
        "in the home folder (lower-case names), else the default holds. A name in the file that does not exist is refused;",
        "a variable that is written nearly like a setting is told at the start. Lists and objects are JSON.",
        "`modelworks doctor` prints every effective value and where it came from.\n",
        "| variable | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        factory: Any = field.default_factory
        default = "`~/.modelworks`" if name == "home" else _value(factory() if factory else field.default)
        lines.append(f"| `MODELWORKS_{name.upper()}` | {_type(field.annotation)} | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    return "none" if value is None or value == "" else f"`{json.dumps(value)}`".replace('`"', "`").replace('"`', "`")


def _type(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    for long, short in (("pathlib._local.", ""), ("pathlib.", ""), ("typing.", ""), (" | None", ""), ("NoneType", "none")):
        text = text.replace(long, short)
    return f"`{text}`".replace("|", "\\|")


def raised_codes() -> dict[str, list[tuple[str, str, str]]]:
    """By code: (class, message, hint) of every place that raises it, with `…` where a value stands."""
    classes = error_classes()
    found: dict[str, list[tuple[str, str, str]]] = {}
    package = PROJECT / "src" / "modelworks"
    for path in sorted(path for path in package.rglob("*.py") if package / "testing" not in path.parents):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name not in classes or not node.args:
                continue
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            codes = _codes(given["code"]) if "code" in given else [classes[name].code]
            hint = _sentence(given["hint"]) if "hint" in given else ""
            for code in codes:
                found.setdefault(code, []).append((name, _sentence(node.args[0]), hint))
    return found


def _codes(node: ast.expr) -> list[str]:
    """The literal codes of an expression: one, or those of both branches of a conditional."""
    return [each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def _sentence(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp):
        return _sentence(node.left) + _sentence(node.right)
    if isinstance(node, ast.IfExp):
        return _sentence(node.body) or _sentence(node.orelse)
    return ""


def errors_page() -> str:
    """The tree of classes, and every code with its sentences."""
    lines = [
        "# Errors\n",
        NOTE,
        "Every failure is one of these. `/v1` and `/api` answer with OpenAI's envelope; `hint` is our one addition:\n",
        "```json",
        json.dumps(
            ModelworksError("What went wrong and where.", hint="What to do about it.", param="field").envelope(), indent=2
        ),
        "```\n",
        "The response also carries `x-request-id`, `x-should-retry` and, where waiting helps, `Retry-After`. The command",
        "line prints `error:` and `hint:` on stderr.\n",
        "## Classes\n",
        "| class | status | code | type | worth a retry | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for name, kind in error_classes().items():
        meaning = " ".join((kind.__doc__ or "").split("\n\n")[0].split()) if kind.__doc__ else ""
        retry = "yes" if kind.retryable else "no"
        lines.append(f"| `{name}` | {kind.status} | `{kind.code}` | `{kind.type}` | {retry} | {meaning} |")
    lines += ["\n## Codes\n", "In the order of the alphabet; `…` stands for a value.\n"]
    codes = raised_codes()
    for kind in error_classes().values():
        codes.setdefault(kind.code, [])
    for code in sorted(codes):
        lines.append(f"### `{code}`\n")
        kinds = sorted({kind for kind, _, _ in codes[code]} or {n for n, kind in error_classes().items() if kind.code == code})
        lines.append(", ".join(f"`{kind}` ({error_classes()[kind].status})" for kind in kinds) + "\n")
        for message, hint in dict.fromkeys((message, hint) for _, message, hint in codes[code] if message):
            lines.append("- " + " ".join(message.split()) + (f" *{' '.join(hint.split())}*" if hint.strip() else ""))
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


@functools.cache
def server() -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The OpenAPI document of a server with an empty home folder, and its routes that are left out of it, with a sentence."""
    from modelworks.server import create_app, create_platform

    with tempfile.TemporaryDirectory() as home:
        for name in [name for name in os.environ if name.startswith("MODELWORKS_")]:
            del os.environ[name]
        os.environ["MODELWORKS_HOME"] = home
        platform = create_platform(Settings(home=Path(home), port=0))
        try:
            app = create_app(platform)
            return app.openapi(), sorted(_hidden(app.routes))
        finally:
            platform.close()


def _hidden(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from _hidden(inner.routes)
        elif not getattr(route, "include_in_schema", True) and route.path != "/openapi.json":
            sentence = (
                (inspect.getdoc(route.endpoint) or route.endpoint.__name__.replace("_", " "))
                .split("\n\n")[0]
                .replace("\n", " ")
            )
            for method in sorted(route.methods - {"HEAD"}):
                yield f"{method} {route.path}", sentence


def openapi_text() -> str:
    return json.dumps(server()[0], indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def routes_page() -> str:
    """Every route by its first path segment."""
    lines = [
        "# HTTP routes\n",
        NOTE,
        "Send the key as `Authorization: Bearer mw-…` or `x-api-key: mw-…`. Lists answer",
        '`{"object": "list", "data": […], "has_more": …, "first_id": …, "last_id": …}` and take `after` and `limit`.',
        "The machine-readable form is [openapi.json](openapi.json), also served at `/openapi.json`.\n",
    ]
    document, hidden = server()
    groups: dict[str, list[str]] = {}
    for path, methods in sorted(document["paths"].items()):
        segments = [segment for segment in path.split("/") if segment]
        group = "/" + "/".join(segments[:2]) if segments[:1] in (["api"], ["v1"], ["internal"]) else "Health"
        if segments[:1] in (["embed"], ["share"]):
            group = "/" + segments[0]
        for method, described in methods.items():
            if isinstance(described, dict):
                summary = described.get("summary", "")
                text = (described.get("description") or "").split("\n\n")[0].replace("\n", " ")
                groups.setdefault(group, []).append(f"| `{method.upper()} {path}` | {text or summary} |")
    for group, rows in groups.items():
        lines += [f"## `{group}`\n" if group != "Health" else "## Health and metrics\n", "| route | |", "|---|---|", *rows, ""]
    lines += [
        "## For the platform's own processes\n",
        "Not part of the API; each takes a token of its run.\n",
        "| route | |",
        "|---|---|",
    ]
    # What takes another form of body at the same place is described there.
    told = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    lines += [f"| `{route}` | {sentence} |" for route, sentence in hidden if route not in told]
    return "\n".join(lines).rstrip() + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "openapi.json": openapi_text,
    "http.md": routes_page,
}


def main(arguments: list[str] | None = None) -> int:
    """Write or check the pages; 1 when a check finds one out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("pages", nargs="*", choices=[*PAGES, []], help="only these pages")
    given = parser.parse_args(arguments)
    stale = []
    for name in given.pages or PAGES:
        target, text = REFERENCE / name, PAGES[name]()
        if given.check and (not target.exists() or target.read_text(encoding="utf-8") != text):
            stale.append(name)
        elif not given.check:
            target.write_text(text, encoding="utf-8")
            print(target.relative_to(PROJECT))
    if stale:
        print(f"out of date: {', '.join(stale)}; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
