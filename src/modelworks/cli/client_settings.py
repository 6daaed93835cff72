"""What each client program wants to be told: the text of its configuration, its usual place, and what remains to be done.

Each form was read from the client's own documentation; docs/howto/connect.md says which page and of when.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modelworks.cli.messages import tr
from modelworks.cli.output import plain

#: The name that our entry bears in a client's own lists.
OURS = "Modelworks"
#: Tokens that a client may ask for at once where it wants a number; at most a half of the context.
LONGEST_ANSWER = 4096


@dataclass(frozen=True, slots=True)
class Link:
    """What a client is to use. `url` is without `/v1`; `context` is the model's length in tokens, where it is known."""

    url: str
    model: str
    key_variable: str
    key: str | None = None
    context: int | None = None

    @property
    def openai_url(self) -> str:
        """The address that clients of OpenAI's protocol want."""
        return f"{self.url}/v1"

    @property
    def answer(self) -> int | None:
        """Tokens of the longest answer to ask for, where the context is known."""
        return None if self.context is None else min(LONGEST_ANSWER, max(1, self.context // 2))

    @property
    def is_local(self) -> bool:
        """Whether the address means this machine alone."""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class ClientProgram:
    """A client: how its configuration is written and where it lies.

    Of a file that is there, `replaced` (dotted fields) are taken out first and `stays` (names of fields) are left as they are.
    """

    name: str
    title: str
    syntax: str
    render: Callable[[Link], str]
    notes: Callable[[Link], list[str]]
    place: Callable[[], Path] | None = None
    replaced: Sequence[str] = ()
    stays: Sequence[str] = ()


def _quoted(value: str) -> str:
    """A string as JSON, YAML, TOML and Python all read it: model names and addresses hold no control characters."""
    return json.dumps(value, ensure_ascii=False)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _python_key(link: Link) -> str:
    return _quoted(link.key) if link.key else f"os.environ[{_quoted(link.key_variable)}]"


def _python(link: Link, *lines: str) -> str:
    head = [] if link.key else ["import os", ""]
    return "\n".join([*head, *lines]) + "\n"


def openai_program(link: Link) -> str:
    """A program for OpenAI's Python library."""
    return _python(
        link,
        "from openai import OpenAI",
        "",
        f"client = OpenAI(base_url={_quoted(link.openai_url)}, api_key={_python_key(link)})",
        "answer = client.chat.completions.create(",
        f"    model={_quoted(link.model)},",
        '    messages=[{"role": "user", "content": "Hello"}],',
        ")",
        "print(answer.choices[0].message.content)",
    )


def langchain_program(link: Link) -> str:
    """A program for LangChain; `stream_usage` because it does not ask other addresses for counts of tokens by itself."""
    return _python(
        link,
        "from langchain_openai import ChatOpenAI",
        "",
        "model = ChatOpenAI(",
        f"    model={_quoted(link.model)},",
        f"    base_url={_quoted(link.openai_url)},",
        f"    api_key={_python_key(link)},",
        "    stream_usage=True,",
        ")",
        'print(model.invoke("Hello").content)',
    )


def continue_config(link: Link) -> str:
    """Continue's `config.yaml`. Its secrets come from `.env` files of its own, not from the environment."""
    key = _quoted(link.key) if link.key else f"${{{{ secrets.{link.key_variable} }}}}"
    lines = [
        "name: Modelworks",
        "version: 1.0.0",
        "schema: v1",
        "models:",
        f"  - name: {_quoted(f'{OURS} {link.model}')}",
        "    provider: openai",
        f"    model: {_quoted(link.model)}",
        f"    apiBase: {_quoted(link.openai_url)}",
        f"    apiKey: {key}",
        "    roles:",
        "      - chat",
        "      - edit",
        "      - apply",
        "    capabilities:",
        "      - tool_use",
    ]
    if link.context is not None:
        lines += [
            "    defaultCompletionOptions:",
            f"      contextLength: {link.context}",
            f"      maxTokens: {link.answer}",
        ]
    return "\n".join(lines) + "\n"


def vscode_models(link: Link) -> str:
    """VS Code's `chatLanguageModels.json`: a group of the provider `customendpoint`."""
    model: dict[str, Any] = {
        "id": link.model,
        "name": link.model,
        "url": f"{link.openai_url}/chat/completions",
        "toolCalling": True,
        "vision": False,
    }
    if link.context is not None and link.answer is not None:
        model |= {"maxInputTokens": link.context - link.answer, "maxOutputTokens": link.answer}
    group = {
        "name": OURS,
        "vendor": "customendpoint",
        "apiKey": link.key or "${input:modelworksApiKey}",
        "apiType": "chat-completions",
        "models": [model],
    }
    return _json([group])


def claude_settings(link: Link) -> str:
    """Claude Code's `settings.json`. Its model tiers are all this model, so that no task of its own asks for another."""
    named = {f"ANTHROPIC_DEFAULT_{tier}_MODEL": link.model for tier in ("OPUS", "SONNET", "HAIKU")}
    environment = {"ANTHROPIC_BASE_URL": link.url, "ANTHROPIC_MODEL": link.model, **named}
    if link.key:
        return _json({"env": {**environment, "ANTHROPIC_AUTH_TOKEN": link.key}})
    return _json({"apiKeyHelper": f"printenv {link.key_variable}", "env": environment})


def codex_config(link: Link) -> str:
    """Codex's `config.toml`; the Responses API is the only one that it speaks."""
    key = ("experimental_bearer_token", link.key) if link.key else ("env_key", link.key_variable)
    head = [f"model = {_quoted(link.model)}", 'model_provider = "modelworks"']
    if link.context is not None:
        head.append(f"model_context_window = {link.context}")
    provider = [
        "[model_providers.modelworks]",
        f"name = {_quoted(OURS)}",
        f"base_url = {_quoted(link.openai_url)}",
        f"{key[0]} = {_quoted(key[1])}",
        'wire_api = "responses"',
    ]
    return "\n".join([*head, "", *provider]) + "\n"


def open_webui_environment(link: Link) -> str:
    """Variables for Open WebUI as a shell reads them: not every reader of `.env` files fills in other variables."""
    key = shlex.quote(link.key) if link.key else f'"${link.key_variable}"'
    lines = [
        "export ENABLE_OPENAI_API=true",
        f"export OPENAI_API_BASE_URL={shlex.quote(link.openai_url)}",
        f"export OPENAI_API_KEY={key}",
        f"export DEFAULT_MODELS={shlex.quote(link.model)}",
    ]
    return "\n".join(lines) + "\n"


def dify_form(link: Link) -> str:
    """The fields of Dify's form, by the labels that it shows."""
    fields: list[tuple[str, str]] = [
        ("Provider", "OpenAI-API-compatible"),
        ("Model Type", "LLM"),
        ("Model Name", plain(link.model)),
        ("API Key", link.key or f"(the value of {link.key_variable})"),
        ("API Base URL", link.openai_url),
        ("model name for API endpoint", plain(link.model)),
        ("Completion mode", "Chat"),
    ]
    if link.context is not None:
        fields += [("Model context size", str(link.context)), ("Upper bound for max tokens", str(link.answer))]
    fields += [
        ("API Type", "Chat Completions API (/chat/completions)"),
        ("Include Usage in Stream", "Enabled"),
        ("Function Call Type", "Tool Call"),
        ("Stream function calling", "Support"),
        ("Vision Support", "Not Support"),
    ]
    longest = max(len(label) for label, _ in fields) + 1
    return "".join(f"{label + ':':<{longest}} {value}\n" for label, value in fields)


def vscode_folder() -> Path:
    """The user folder of VS Code on this system."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Code" / "User"
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "Code" / "User"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "Code" / "User"


def _own_folder(variable: str, name: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / name)


def _set_variable(link: Link) -> list[str]:
    return [] if link.key else [tr("Set {variable} to an API key where the client runs.", variable=link.key_variable)]


def _loopback(link: Link) -> list[str]:
    if not link.is_local:
        return []
    return [tr("{url} is this machine: in a container, name the host instead (--url).", url=link.url)]


def _needs_library(library: str) -> Callable[[Link], list[str]]:
    return lambda link: [tr("It needs: pip install {library}", library=library), *_set_variable(link)]


def _continue_notes(link: Link) -> list[str]:
    if link.key:
        return []
    return [tr("Put {variable}=… into ~/.continue/.env: Continue does not read the environment.", variable=link.key_variable)]


def _vscode_notes(link: Link) -> list[str]:
    notes = [tr("Restart VS Code, then choose the model in the chat.")]
    if not link.key:
        notes.insert(0, tr("Give the key in VS Code: Chat: Manage Language Models, the gear of the group Modelworks."))
    if link.context is None:
        notes.append(tr("The length of the model is not known: add maxInputTokens and maxOutputTokens."))
    return notes


def _claude_notes(link: Link) -> list[str]:
    notes = [*_set_variable(link), tr("Unset ANTHROPIC_API_KEY and ANTHROPIC_AUTH_TOKEN in the shell: they go before it.")]
    return [*notes, tr("`/status` in Claude Code shows the address and the model.")]


def _webui_notes(link: Link) -> list[str]:
    kept = tr("Open WebUI keeps what it read at its first start: later, change it in its settings of connections.")
    source = tr("Source it in the shell that starts Open WebUI (docker run: -e with each name).")
    return [*_set_variable(link), source, *_loopback(link), kept]


def _dify_notes(link: Link) -> list[str]:
    return [tr("In Dify: Settings, Model Provider, OpenAI-API-compatible, Add Model."), *_loopback(link)]


CLIENTS: dict[str, ClientProgram] = {
    program.name: program
    for program in (
        ClientProgram("openai", "OpenAI's Python library", "python", openai_program, _needs_library("openai")),
        ClientProgram("langchain", "LangChain", "python", langchain_program, _needs_library("langchain-openai")),
        ClientProgram(
            "continue",
            "Continue",
            "yaml",
            continue_config,
            _continue_notes,
            place=lambda: Path.home() / ".continue" / "config.yaml",
            stays=("name", "version", "schema"),
        ),
        ClientProgram(
            "vscode",
            "Visual Studio Code",
            "json",
            vscode_models,
            _vscode_notes,
            place=lambda: vscode_folder() / "chatLanguageModels.json",
            stays=("apiKey",),
        ),
        ClientProgram(
            "claude-code",
            "Claude Code",
            "json",
            claude_settings,
            _claude_notes,
            place=lambda: _own_folder("CLAUDE_CONFIG_DIR", ".claude") / "settings.json",
            replaced=("apiKeyHelper", "env.ANTHROPIC_AUTH_TOKEN", "env.ANTHROPIC_API_KEY"),
        ),
        ClientProgram(
            "codex",
            "Codex",
            "toml",
            codex_config,
            _set_variable,
            place=lambda: _own_folder("CODEX_HOME", ".codex") / "config.toml",
            replaced=("model_context_window", "model_providers.modelworks"),
        ),
        ClientProgram("open-webui", "Open WebUI", "env", open_webui_environment, _webui_notes),
        ClientProgram("dify", "Dify", "text", dify_form, _dify_notes),
    )
}
