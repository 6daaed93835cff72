"""The demo: its commands are ones that the command line takes, its handbook says what it asks, and how learning may end."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import typer.main
from tests.architecture.sources import PROJECT

from modelworks.cli.app import app
from modelworks.kernel.dataspace.schemas import LearningSettings


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The script, writing below a temporary folder."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("demo_run", PROJECT / "demo" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, path in (("ROOT", tmp_path), ("HOME", tmp_path), ("COMPANY", tmp_path / "company")):
        monkeypatch.setattr(module, name, path)
    monkeypatch.setattr(module, "HANDBOOK", tmp_path / "company" / "handbook")
    (tmp_path / "admin.key").write_text("mw-test")
    yield module
    sys.modules.pop("texts", None)


class Asked:
    """Stands where the openai client stands: notes what is asked, answers nothing."""

    def __init__(self, **_: Any) -> None:
        self.questions: list[str] = []
        none: Callable[..., list[Any]] = lambda **_: []  # noqa: E731 - the shape of a client's method
        self.completions = SimpleNamespace(create=none)
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=none))
        self.responses = SimpleNamespace(with_raw_response=SimpleNamespace(create=self._create))

    def _create(self, *, model: str, input: str) -> SimpleNamespace:
        self.questions.append(input)
        answer = SimpleNamespace(output_text="", output=[], model_extra={"grounding": {"reason": "model_unsupported"}})
        return SimpleNamespace(parse=lambda: answer, headers={"x-request-id": f"req_{len(self.questions)}"})


def parsed(words: list[str]) -> None:
    """Read a command as the command line would, without running it."""
    command: Any = typer.main.get_command(app)
    context: Any = command.context_class(command, info_name="modelworks")
    while hasattr(command, "resolve_command"):
        _, command, words = command.resolve_command(context, words)
        context = command.context_class(command, info_name=words[0] if words else None, parent=context)
    command.make_context("test", [*words])


@pytest.mark.parametrize("own", [False, True], ids=["the project's documents", "DOCS"])
def test_every_command_is_one_that_the_command_line_takes(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], own: bool
) -> None:
    ran: list[tuple[str, ...]] = []
    asked = Asked()
    changes: list[str] = []

    def run(*words: str, may_fail: bool = False) -> bool:
        parsed([*words])
        ran.append(words)
        if words[:2] == ("space", "add"):
            changes.append((tmp_path / "company" / "handbook" / "leave.md").read_text())
        return True

    monkeypatch.setattr(demo, "run", run)
    monkeypatch.setattr(demo.openai, "OpenAI", lambda **_: asked)
    docs = tmp_path / "own"
    docs.mkdir()
    (docs / "a.md").write_text("# A\n\n## Ropes\n\nThey are long.")
    demo.journey(1, docs if own else None)
    verbs = [" ".join(word for word in words[:2] if word.isalpha()) for words in ran]
    last_why = len(verbs) - 1 - verbs[::-1].index("why")
    assert verbs.index("why") < verbs.index("space learn") < last_why < verbs.index("forget") < verbs.index("usage")
    assert "30 days" in changes[0]
    assert "32 days" in changes[1]
    first, again = (place for place, question in enumerate(asked.questions) if question == demo.LEAVE)
    of_rows, why = (words for words in ran if words[0] == "why")
    assert of_rows[1] != why[1]
    assert why[1] == f"req_{again + 1}", "the answer after the change is traced"
    assert first < again
    assert "nothing that the model wrote stands" in capsys.readouterr().out
    assert asked.questions[-1] == demo.PARTNER
    assert any(question.endswith("Ropes?") for question in asked.questions) is own


def test_the_budget_of_learning_is_one_that_a_space_takes(demo: ModuleType) -> None:
    given = {name: int(value) for name, _, value in (each.partition("=") for each in demo.BUDGET)}
    assert LearningSettings.model_validate(given).max_steps == 40


def test_the_handbook_holds_what_is_changed_and_what_is_forgotten(demo: ModuleType) -> None:
    folder = PROJECT / "demo" / "handbook"
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert demo.BEFORE in texts["leave.md"]
    name = demo.FORGOTTEN.rpartition("/")[2]
    assert [each for each, text in texts.items() if "Bellwether" in text] == [name]


@pytest.mark.parametrize(("state", "ends"), [("refused", "refused"), ("failed", None), ("cancelled", None)])
def test_a_refusal_is_shown_and_a_failure_ends_the_demo(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, state: str, ends: str | None
) -> None:
    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        is_asked = "learnings" in words
        told = json.dumps([{"state": state}, {"state": "succeeded"}]) if is_asked else ""
        return subprocess.CompletedProcess(words, 0 if is_asked else 1, told)

    monkeypatch.setattr(demo.subprocess, "run", run)
    if ends is None:
        with pytest.raises(SystemExit, match="has not learned"):
            demo.learn()
    else:
        assert demo.learn() == ends
