"""The root of the command line: its verbs, its global options, and how failures are printed and become exit codes."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from itertools import pairwise
from typing import Annotated, Any

import typer

from modelworks import __version__
from modelworks.cli import (
    AUTH,
    FAILURE,
    INTERRUPTED,
    OK,
    RATE_LIMITED,
    USAGE,
    VERSION,
    account,
    adapter,
    audit,
    chat,
    connecting,
    connection,
    conversion,
    data,
    deployment,
    doctor,
    embedding,
    evals,
    forgetting,
    garbage,
    gate,
    mcp,
    member,
    model,
    output,
    promotion,
    reproduction,
    run,
    sbom,
    secret,
    server,
    space,
    usage,
)
from modelworks.cli import key as keys
from modelworks.cli.messages import tr
from modelworks.contract.errors import InvalidRequest, ModelworksError

app = typer.Typer(
    name="modelworks",
    help="A private large-model platform: data, training, evaluation, deployment and an OpenAI-compatible API.",
    epilog=(
        "Results go to stdout, everything else to stderr. Exit codes: 0 ok, 1 failure, 2 usage, 4 authentication, "
        "6 version, 7 rate limit. Environment: MODELWORKS_URL, MODELWORKS_API_KEY, MODELWORKS_PROJECT, MODELWORKS_HOME, "
        "MODELWORKS_LANG (en, zh)."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def root(
    url: Annotated[str | None, typer.Option("--url", help="Address of the server; by default MODELWORKS_URL.")] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", help="API key; better given as MODELWORKS_API_KEY, which ps does not show.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    connection.target.url = url
    connection.target.api_key = api_key


for _module in (
    server,
    doctor,
    sbom,
    model,
    data,
    space,
    forgetting,
    run,
    reproduction,
    conversion,
    evals,
    promotion,
    gate,
    deployment,
    chat,
    connecting,
    embedding,
    keys,
    member,
    secret,
    mcp,
    adapter,
    usage,
    audit,
    account,
    garbage,
):
    _module.add_to(app)


@cache
def _command() -> Any:
    """The commands as the parser needs them; made once: reading every function's signature takes a tenth of a second."""
    return typer.main.get_command(app)


def execute(arguments: list[str]) -> int:
    """Run the command line once; prints `error: …` and `hint: …` (or a JSON object with `-o json`) on stderr."""
    as_json = wants_json(arguments)
    try:
        check_utf8(arguments)
        code = _command()(arguments, standalone_mode=False, prog_name="modelworks")
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except ModelworksError as error:
        _print_failure(
            error.error_code, error.message, error.hint, error.param, getattr(error, "__notes__", []), as_json=as_json
        )
        return exit_code(error)
    except (KeyboardInterrupt, typer.Abort):
        output.note("\n" + tr("Interrupted."))
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`): that is its right. Python must not complain about it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if is_usage_error(error):
            return _usage_failure(error, as_json=as_json)
        if os.environ.get("MODELWORKS_DEBUG"):
            raise
        _print_failure(
            "internal_error",
            tr("An unexpected failure: {reason}.", reason=f"{type(error).__name__}: {error}"),
            tr("Set MODELWORKS_DEBUG=1 to see where it happened, and report it with that text."),
            None,
            [],
            as_json=as_json,
        )
        return FAILURE


def check_utf8(arguments: list[str]) -> None:
    """Refuse arguments that cannot be sent: Python carries bytes that are not UTF-8 along as lone surrogates.

    Raises:
        InvalidRequest: the message names the argument and its first wrong byte.
    """
    for number, argument in enumerate(arguments, start=1):
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"Argument {number} ({argument[: error.start][-40:]!r}…) is not UTF-8: "
                f"byte {ord(argument[error.start]) - 0xDC00:#04x} stands after it.",
                hint="Set the terminal to UTF-8, or give the text as a UTF-8 file.",
                code="usage",
            ) from error


def is_usage_error(error: Exception) -> bool:
    """Whether the parser refused the arguments (its exceptions carry an exit code and format themselves)."""
    return hasattr(error, "exit_code") and hasattr(error, "format_message")


def _usage_failure(error: Any, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "modelworks"
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        output.note(message)
        return USAGE
    _print_failure("usage", message, f"{path} --help", None, [], as_json=as_json)
    return int(error.exit_code)


def wants_json(arguments: list[str]) -> bool:
    """Whether `-o json` is among the arguments, also where they cannot be parsed."""
    return any(
        (one in ("-o", "--output") and two == "json") or one in ("-ojson", "-o=json", "--output=json")
        for one, two in pairwise([*arguments, ""])
    )


def exit_code(error: ModelworksError) -> int:
    """The exit code of a failure: 4 authentication, 6 version, 7 rate limit, 2 usage, else 1."""
    if error.error_code in ("confirmation_required", "usage"):
        return USAGE
    if error.error_code == "version_mismatch":
        return VERSION
    return {401: AUTH, 403: AUTH, 429: RATE_LIMITED}.get(error.status, FAILURE)


def _print_failure(code: str, message: str, hint: str | None, param: str | None, notes: list[str], *, as_json: bool) -> None:
    if as_json:
        error = {"code": code, "message": message, "hint": hint}
        if param:
            error["param"] = param
        output.note(json.dumps({"error": error}, ensure_ascii=False))
        return
    output.note(f"{output.coloured(tr('error:'), 'red')} {message}")
    for text in notes:
        output.note(text)
    if hint:
        output.note(f"{output.coloured(tr('hint:'), 'cyan')} {hint}")
