"""`chat` and `run`: asking models."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli.connection import connect, json_of, text_of
from modelworks.cli.messages import tr
from modelworks.cli.output import Format, Output, coloured, is_terminal, note, print_json
from modelworks.contract.errors import InvalidRequest, ModelworksError

if TYPE_CHECKING:
    from modelworks.client import Modelworks

Message = dict[str, str]


def chat(
    model: Annotated[str, typer.Argument(help="Name of a deployment; see `modelworks ps`.")],
    prompt: Annotated[str | None, typer.Argument(help="Ask this one thing; - reads it from stdin. Without it: talk.")] = None,
    system: Annotated[str | None, typer.Option("-s", "--system", help="The model's instructions; @file reads them.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0, max=2, help="0: always the likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", min=0, max=1, help="Only the likeliest tokens.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed gives the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End the answer before this text; repeatable.")] = None,
    output: Output = Format.table,
) -> None:
    """Talk to a model, or ask it one thing. The answer streams to stdout; Ctrl-C stops only the answer."""
    fields: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    fields["stop"] = stop or None
    history: list[Message] = [{"role": "system", "content": text_of(system)}] if system else []
    interactive = prompt is None and is_terminal(sys.stdin)
    with connect() as client:
        if interactive:
            talk(client, model, history, fields)
            return
        history.append({"role": "user", "content": text_of(prompt if prompt is not None else "-")})
        answer = ask(client, model, history, fields, show=output is not Format.json)
    if output is Format.json:
        print_json(answer)
    if answer["stopped"]:
        raise typer.Exit(130)


def ask(client: Modelworks, model: str, history: list[Message], fields: dict[str, Any], *, show: bool = True) -> dict[str, Any]:
    """Stream one answer to stdout (reasoning to stderr); Ctrl-C ends the generation and keeps what came so far.

    Returns:
        `{"content", "finish_reason", "usage", "stopped"}`.
    """
    parts: list[str] = []
    answer: dict[str, Any] = {"content": "", "finish_reason": None, "usage": None, "stopped": False}
    chunks = client.tasks.chat(model, history, stream_options={"include_usage": True}, **fields)
    try:
        with contextlib.closing(chunks):
            for chunk in chunks:
                answer["usage"] = chunk.get("usage") or answer["usage"]
                for choice in chunk.get("choices") or []:
                    delta = choice.get("delta") or {}
                    if show and delta.get("reasoning_content") and is_terminal(sys.stderr):
                        sys.stderr.write(coloured(delta["reasoning_content"], "bright_black"))
                        sys.stderr.flush()
                    if delta.get("content"):
                        parts.append(delta["content"])
                        if show:
                            sys.stdout.write(delta["content"])
                            sys.stdout.flush()
                    answer["finish_reason"] = choice.get("finish_reason") or answer["finish_reason"]
    except KeyboardInterrupt:
        answer["stopped"] = True
    answer["content"] = "".join(parts)
    if show:
        sys.stdout.write("\n")
        sys.stdout.flush()
        if answer["stopped"]:
            note(tr("[stopped]"))
        elif answer["finish_reason"] == "length":
            note(tr("[the answer reached its length limit]"))
    return answer


def talk(client: Modelworks, model: str, history: list[Message], fields: dict[str, Any]) -> None:
    """A conversation on the terminal until /exit or the end of input. A failed turn is told and not kept."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - line editing and history for input()
    note(tr("Talking to {model}. /exit leaves, /clear forgets, Ctrl-C stops an answer.", model=model))
    instructions = [message for message in history if message["role"] == "system"]
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            note("")
            return
        except KeyboardInterrupt:
            note("")
            continue
        if line in ("/exit", "/quit", "/bye"):
            return
        if line == "/clear":
            history[:] = instructions
            note(tr("The conversation is forgotten."))
            continue
        if not line:
            continue
        if not line.isascii() and any("\udc80" <= character <= "\udcff" for character in line):
            note(tr("That line is not UTF-8 and was not sent. Set the terminal to UTF-8."))
            continue
        history.append({"role": "user", "content": line})
        try:
            answer = ask(client, model, history, fields)
        except ModelworksError as error:
            history.pop()
            note(f"{coloured(tr('error:'), 'red')} {error.message}")
            if error.hint:
                note(f"{coloured(tr('hint:'), 'cyan')} {error.hint}")
            continue
        history.append({"role": "assistant", "content": answer["content"]})


def run(
    task: Annotated[str, typer.Argument(help="Name of the task (text-generation, object-detection …).")],
    model: Annotated[str | None, typer.Argument(help="Name of a deployment; none for a task without a model.")] = None,
    input_: Annotated[str | None, typer.Option("--input", "-i", help="The input as JSON, @file, or - for stdin.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the task's JSON schemas instead of asking.")] = False,
    output: Output = Format.json,
) -> None:
    """Ask a model for any task. Prints the output as JSON, one line per output where the task streams."""
    with connect() as client:
        if schema:
            print_json(client.tasks.schema(task))
            return
        if input_ is None:
            raise InvalidRequest("The input is missing.", hint="Give --input JSON, --input @file or --input -.", code="usage")
        request = json_of(input_)
        mode = next((known.get("mode") for known in client.tasks.list() if task in (known.get("name"), known.get("id"))), None)
        if mode == "stream":
            import json

            for item in client.tasks.stream(task, model, request):
                typer.echo(json.dumps(item, ensure_ascii=False))
            return
        answer = client.tasks.invoke(task, model, request)
        if output is Format.name and isinstance(answer.get("run"), dict):
            typer.echo(answer["run"]["id"])
        else:
            print_json(answer)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(chat)
    app.command()(run)
