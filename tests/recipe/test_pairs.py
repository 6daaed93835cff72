"""Queries and passages out of documents that nobody asked about."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from modelworks.contract.errors import InvalidRequest
from modelworks.recipe import pairs
from modelworks.recipe.queries import keywords, question
from modelworks.recipe.recipe import Recipe
from modelworks.recipe.sections import passages, sections, sentences

EN = """---
title: "Rivers of the north"
---

The north has many rivers. They are cold in winter.

## 1.2 Crossing a river

A raft of seven logs carries three people across. [The logs](logs.md) are tied with `hemp` rope. It takes an hour.

```sh
# a comment is no heading
```

# apt install raft

Nobody crosses in 1931 without a guide! The guide lives in the <b>village</b>.
"""
ZH = """# 北方的河流

北方有许多河流，冬天河水十分寒冷。夏天有人来钓鱼。

## 第 2 章 渡过河流

七根木头扎成的木筏一次可以载三个人过河，木头用麻绳捆绑。渡河需要一个小时。向导住在1931年建立的村庄里。
"""


def test_sections_have_the_headings_above_them_and_no_marks() -> None:
    first, second = sections(EN)
    assert first.headings == ("Rivers of the north",)
    assert first.text == "The north has many rivers. They are cold in winter."
    assert second.headings == ("Rivers of the north", "Crossing a river")
    assert second.text.startswith("A raft of seven logs carries three people across. The logs are tied with hemp rope.")
    assert second.text.endswith("# apt install raft Nobody crosses in 1931 without a guide! The guide lives in the village.")
    assert [section.headings for section in sections(ZH)] == [("北方的河流",), ("北方的河流", "渡过河流")]


def test_the_name_of_a_manual_page_is_its_title() -> None:
    page = "LS(1)\n\n# NAME\n\nls - list directory contents\n\n# DESCRIPTION\n\nList information about the files."
    assert list(sections(page))[-1].headings == ("ls - list directory contents", "DESCRIPTION")


def test_passages_are_whole_sentences_of_no_more_than_so_many_characters() -> None:
    text = "".join(f"第{number}条河流又长又宽，一直流到大海。" for number in range(40))
    found = list(passages(text, 10, 60, random.Random(1)))
    assert "".join(found) == text
    assert all(passage.endswith("。") for passage in found)
    assert 60 >= max(map(len, found)) > min(map(len, found))
    assert sentences("First there is one. Then version 2.0 came! 好。“坏？”") == [
        "First there is one.",
        "Then version 2.0 came!",
        "好。",
        "“坏？”",
    ]


@pytest.mark.parametrize(("sentence", "language"), [(sentences(ZH)[0], "zh"), (sentences(EN)[2], "en")])
def test_a_question_shares_words_with_its_sentence_and_lacks_some(sentence: str, language: str) -> None:
    draw = random.Random(3)
    asked = {found for _ in range(20) if (found := question(sentence, language, draw)) is not None}
    assert len(asked) > 5
    assert sentence not in asked
    words = set(sentence.lower()) if language == "zh" else set(sentence.lower().split())
    assert all(words & set(each if language == "zh" else each.split()) for each in asked)
    assert question("短。", "zh", draw) is None
    assert question("Too short.", "en", draw) is None


def test_key_words_are_the_rare_ones() -> None:
    rare = {"alpha": 3.0, "beta": 2.0, "the": 0.1, "gamma": 1.0, "delta": 2.5}
    found = [keywords("the alpha the beta the gamma the delta", rare, random.Random(number)) for number in range(20)]
    count = Counter(word for each in found if each is not None for word in each.split())
    assert count["alpha"] > count["the"]
    assert keywords("the", rare, random.Random(0)) is None


def recipe(**more: Any) -> Recipe:
    source = {"root": "recipe", "files": ["*"], "licence": "MIT", "origin": "us"}
    return Recipe.model_validate(
        {
            "name": "small",
            "capability": "embedding",
            "task": "feature-extraction",
            "summary": "A test",
            "licence": "mit",
            "source": [
                {**source, "name": "english", "language": "en"},
                {**source, "name": "chinese", "language": "zh", "translation_of": "english"},
            ],
            "pairs": {"min_chars": 20, **more},
            "stage": [{"name": "only", "data": "pairs"}],
        }
    )


def corpus(folder: Path) -> Path:
    documents = [
        {"text": EN, "source": "english", "document": "help/en-US/rivers.html", "language": "en"},
        {"text": ZH, "source": "chinese", "document": "help/zh-CN/rivers.html", "language": "zh"},
    ]
    for part, texts in (("train", documents), ("held-out/zh", [{**documents[1], "text": ZH.replace("北方", "南方")}])):
        (folder / part).mkdir(parents=True)
        lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in texts)
        (folder / part / "data.jsonl").write_text(lines, "utf-8")
    return folder


def made(recipe: Recipe, folder: Path, name: str = "pairs") -> list[dict[str, str]]:
    source = folder / "corpus"
    assert recipe.pairs is not None
    pairs.build(recipe, recipe.pairs, source if source.exists() else corpus(source), folder / name)
    return [json.loads(line) for line in (folder / name / "train" / "data.jsonl").read_text("utf-8").splitlines()]


def test_every_kind_is_made_and_held_out_documents_stay_apart(tmp_path: Path) -> None:
    every = ["heading", "question", "cloze", "keywords", "parallel"]
    found = made(recipe(kinds=every, keywords=1.0), tmp_path)
    assert {record["kind"] for record in found} == set(every)
    assert any(record["query"] == "Crossing a river" and record["positive"].startswith("A raft") for record in found)
    crossed = [(record["query"], record["positive"][:6]) for record in found if record["kind"] == "parallel"]
    assert ("渡过河流", "A raft") in crossed
    assert ("Crossing a river", "七根木头扎成") in crossed
    assert not any("南方" in record["positive"] for record in found)
    held_out = (tmp_path / "pairs" / "held-out" / "zh" / "data.jsonl").read_text("utf-8")
    assert "南方" in held_out
    manifest = json.loads((tmp_path / "pairs" / "manifest.json").read_text("utf-8"))
    assert manifest["kinds"]["parallel"] == {"en": 2, "zh": 2}
    assert sum(sum(count.values()) for count in manifest["kinds"].values()) == len(found) + held_out.count("\n")


def test_the_same_documents_and_seed_give_the_same_pairs(tmp_path: Path) -> None:
    assert made(recipe(), tmp_path, "one") == made(recipe(), tmp_path, "two")
    assert made(recipe(seed=1), tmp_path, "three") != made(recipe(), tmp_path, "four")


def test_a_limit_holds_for_each_language_and_too_little_is_said(tmp_path: Path) -> None:
    limited = made(recipe(limit=2), tmp_path)
    assert Counter(record["language"] for record in limited) == {"zh": 2, "en": 2}
    with pytest.raises(InvalidRequest, match="give no pairs"):
        made(recipe(min_chars=3000, max_chars=5000), tmp_path, "none")


def test_a_shared_heading_is_asked_with_its_title_only(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    corpus(folder)
    pages = [
        {
            "text": f"# Tool {number}\n\n## Options\n\nThe option of tool {number} makes it run {number} times as fast.",
            "source": "english",
            "document": f"{number}.html",
            "language": "en",
        }
        for number in range(5)
    ]
    (folder / "train" / "data.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    asked = {record["query"] for record in made(recipe(kinds=["heading"]), tmp_path)}
    assert asked == {f"Tool {number} Options" for number in range(5)}
