"""The tiny data is the same every time, in two languages, and readable by its own format."""

import json
from pathlib import Path

import pytest

from modelworks.testing.tiny_data import TOPICS, labelled_sentences, sentences, write_labelled, write_text


def test_sentences_repeat_with_the_seed_and_differ_without() -> None:
    assert sentences(20, seed=3) == sentences(20, seed=3)
    assert sentences(20, seed=3) != sentences(20, seed=4)
    assert all(sentence.endswith(".") and sentence.isascii() for sentence in sentences(20))
    chinese = sentences(20, language="zh")
    assert all(sentence.endswith("。") and not sentence.isascii() for sentence in chinese)
    with pytest.raises(KeyError):
        sentences(1, topic="astronomy")


def test_labels_take_turns_in_both_languages() -> None:
    pairs = labelled_sentences(24)
    assert [label for _, label in pairs[:3]] == list(TOPICS)
    assert {text.isascii() for text, _ in pairs} == {True, False}
    assert len({text for text, _ in pairs}) > 15


def test_files(tmp_path: Path) -> None:
    folder = write_text(tmp_path / "text", documents=3, sentences_each=6)
    files = sorted(folder.iterdir())
    assert len(files) == 3
    assert "\n\n" in files[0].read_text(encoding="utf-8")
    lines = (write_labelled(tmp_path / "labelled", count=7) / "data.jsonl").read_text(encoding="utf-8").splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"text", "label"}] * 7
