"""Conversations that the starter's program makes: form, held-out documents, the same again."""

from __future__ import annotations

import json
import os
import random
import re
from importlib import util
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.recipe.places import Places
from modelworks.recipe.recipe import Skills, read_recipe
from modelworks.recipe.skills import build

STARTER = Path(__file__).resolve().parents[2] / "starter"
SHARED = Path(os.environ.get("MODELWORKS_SHARED") or STARTER.parents[1] / "shared")


def program() -> ModuleType:
    spec = util.spec_from_file_location("starter_skills", STARTER / "skills.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nowhere(path: str) -> Path:
    raise NotFound(f"{path} is not here.")


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_without_data_the_templates_remain_and_give_the_same_again() -> None:
    made = list(program().make(nowhere, 50, 3))
    assert {skill for skill, _, _ in made} == {"forms", "arithmetic"}
    assert made == list(program().make(nowhere, 50, 3))
    assert made != list(program().make(nowhere, 50, 4))


def test_every_step_of_a_sum_is_right() -> None:
    for _, record in program().arithmetic(nowhere, random.Random(0), 300):
        said = record["messages"][1]["content"]
        for left, right in re.findall(r"(\d+[-+*]\d+)=(\d+)", said):
            a, kind, b = re.match(r"(\d+)([-+*])(\d+)", left).groups()  # type: ignore[union-attr]
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[kind] == int(right), said
        a, kind, b = re.search(r"(\d+)([-+*])(\d+)", record["messages"][0]["content"]).groups()  # type: ignore[union-attr]
        result = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[kind]
        assert said.rstrip("。.").endswith(str(result))


def test_a_form_holds_what_the_sentence_says_and_the_schema_asks_for() -> None:
    for _, record in program().forms(nowhere, random.Random(0), 100):
        asked, said = (message["content"] for message in record["messages"])
        answer = json.loads(said)
        schema = json.loads(re.search(r'\{"properties.*\}\}', asked)[0])  # type: ignore[index]
        assert list(answer) == list(schema["properties"])
        assert all(str(value) in asked.rpartition("\n")[2] for value in answer.values())


def test_a_window_holds_the_answer_and_whole_sentences() -> None:
    text = "One is short. Two is the answer here. Three follows it. Four is far away from everything else."
    found = program().window(text, text.index("answer"), 6, 60)
    assert "Two is the answer here." in found
    assert found in text
    assert found.endswith(".")
    assert len(found) <= 60


@pytest.mark.skipif(not (SHARED / "data/04-docqa/xquad").is_dir(), reason="the shared data are not on this machine")
def test_answers_cite_the_passage_that_holds_them_and_refusals_stand_where_none_does() -> None:
    module = program()
    answers: dict[str, str] = {}
    for number, (_, record) in enumerate(module.passages(lambda path: SHARED / path, random.Random(1))):
        asked, said = (message["content"] for message in record["messages"])
        if said in module.REFUSAL.values():
            answers["refused"] = said
            continue
        answer, cited = re.fullmatch(r"(.*) \[([12])\]", said, re.DOTALL).groups()  # type: ignore[union-attr]
        shown = dict(re.findall(r"^\[([12])\] (.*?)(?=\n\[2\]|\n\n)", asked, re.MULTILINE | re.DOTALL))
        assert answer in shown[cited]
        answers[cited] = said
        if number > 300:
            break
    assert answers.keys() == {"1", "2", "refused"}


@pytest.mark.skipif(not (SHARED / "data/04-docqa/xquad").is_dir(), reason="the shared data are not on this machine")
def test_a_quote_is_the_cited_sentence_as_it_stands_and_a_refusal_has_none() -> None:
    module = program()
    refused = 0
    for _, record in islice(module.quotes(lambda path: SHARED / path, random.Random(1)), 300):
        asked, said = (message["content"] for message in record["messages"])
        if said in module.REFUSAL.values():
            refused += 1
            continue
        sentence, cited = re.fullmatch(r"(.*) \[([123])\]", said).groups()  # type: ignore[union-attr]
        assert f"[{cited}] {sentence}\n" in asked
    assert 20 < refused < 80


@pytest.fixture
def skills(tmp_path: Path) -> Skills:
    (tmp_path / "skills.py").write_text(
        "def make(shared, limit, seed):\n"
        "    for number in range(40):\n"
        "        yield 'echo', str(number // 2), {'messages': [{'role': 'user', 'content': str(number + seed)}]}\n"
        "    shared('data/x.json')\n"
    )
    return Skills(program="skills.py", shared=["data/x.json"], licence="MIT", held_out=0.3, seed=4)


def test_documents_are_learnt_or_held_out_as_a_whole(skills: Skills, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared/data").mkdir(parents=True)
    (tmp_path / "shared/data/x.json").write_text("{}")
    monkeypatch.setenv("MODELWORKS_SHARED", str(tmp_path / "shared"))
    manifest = build(skills, Places(tmp_path), tmp_path / "made")
    numbers = {
        part: {int(each["messages"][0]["content"]) // 2 for each in records(tmp_path / "made" / part / "data.jsonl")}
        for part in ("train", "held-out")
    }
    assert numbers["train"].isdisjoint(numbers["held-out"])
    assert manifest["skills"]["echo"]["train"] + manifest["skills"]["echo"]["held_out"] == 40
    assert manifest["skills"]["echo"]["train"] % 2 == 0
    assert numbers["held-out"]
    assert build(skills, Places(tmp_path), tmp_path / "again") == manifest


def test_a_missing_file_or_program_is_said(skills: Skills, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWORKS_SHARED", str(tmp_path / "shared"))
    with pytest.raises(NotFound, match="shared data"):
        build(skills, Places(tmp_path), tmp_path / "made")
    (tmp_path / "shared/data").mkdir(parents=True)
    with pytest.raises(NotFound, match=r"x\.json"):
        build(skills, Places(tmp_path), tmp_path / "made2")
    with pytest.raises(NotFound, match=r"other\.py"):
        build(skills.model_copy(update={"program": "other.py", "shared": []}), Places(tmp_path), tmp_path / "made3")
    with pytest.raises(InvalidRequest, match="does not name"):
        build(skills.model_copy(update={"shared": []}), Places(tmp_path), tmp_path / "made4")


def test_the_recipe_names_every_file_that_its_program_reads() -> None:
    module = program()
    recipe = read_recipe(STARTER / "starter-lm.toml")
    assert recipe.skills is not None
    read = {module.CMRC, module.SEAL_CALLS, module.SEAL_TOOLS, module.SONG, module.TANG}
    read |= {each.format(language=language) for each in (module.XQUAD, module.DOCS, module.GLAIVE) for language in ("en", "zh")}
    assert set(recipe.skills.shared) == read
