import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.capabilities.text.datasets import ChatSample, TextSample, read_chat
from modelworks.capabilities.text.datasets.cleaning import clean, side_of
from modelworks.capabilities.text.datasets.copies import NearCopies, jaccard, ngrams, shingles_of, signature, tokens_of
from modelworks.capabilities.text.datasets.params import CleanParams
from modelworks.contract.errors import InvalidData

WORDS = [f"word{number}" for number in range(500)]


def article(seed: int, length: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def write(file: Path, *texts: str) -> Path:
    file.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return file


def talk(question: str, answer: str, **more: Any) -> str:
    return json.dumps(
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more},
        ensure_ascii=False,
    )


def test_copies_go_and_the_first_stays(tmp_path: Path) -> None:
    changed = article(1).replace("word7 ", "other ", 1) + " end"
    assert changed != article(1)
    data = write(tmp_path / "a.jsonl", article(1), article(2), article(1), changed, article(3))
    report = clean(data, CleanParams(), into=tmp_path / "out")
    assert (report.num_read, report.kept, report.removed) == (5, {"train": 3}, {"duplicate": 1, "near_duplicate": 1})
    assert [(each.line, each.reason, each.like) for each in report.preview] == [
        (3, "duplicate", "a.jsonl:1"),
        (4, "near_duplicate", "a.jsonl:1"),
    ]
    assert 0.8 <= (report.preview[1].similarity or 0) < 1
    assert report.preview[1].excerpt
    kept = [json.loads(line)["text"] for line in (tmp_path / "out/train/data.jsonl").read_text().splitlines()]
    assert kept == [article(1), article(2), article(3)]


def test_without_near_duplicates_only_copies_go(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", article(1), article(1) + " end", article(1))
    assert clean(data, CleanParams(near_duplicates=False)).removed == {"duplicate": 1}


def test_chinese_is_compared_by_characters(tmp_path: Path) -> None:
    poem = "床前明月光疑是地上霜举头望明月低头思故乡" * 2 + "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少"
    data = write(tmp_path / "a.jsonl", poem, poem.replace("霜", "雪"), "白日依山尽黄河入海流欲穷千里目更上一层楼")
    report = clean(data, CleanParams(similarity=0.7))
    assert (report.kept, report.removed) == ({"train": 2}, {"near_duplicate": 1})
    assert tokens_of("Python 的list很好！") == ["python", "的", "list", "很", "好"]


def test_unusable_samples_go_with_their_fault(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\ufeff" + talk("q", "a") + "\n{\n" + talk("q", "") + "\n" + json.dumps({"text": " "}))
    report = clean(tmp_path, CleanParams())
    assert (report.kept, report.removed) == ({"train": 1}, {"fault": 3})
    assert 'Field "messages.1.content"' in report.preview[1].detail


def test_a_dry_run_gives_the_same_report_and_writes_nothing(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", article(1), article(1), article(2))
    before = sorted(tmp_path.rglob("*"))
    dry = clean(data, CleanParams(validation_fraction=0.5))
    assert sorted(tmp_path.rglob("*")) == before
    assert clean(data, CleanParams(validation_fraction=0.5), into=tmp_path / "out") == dry


def test_what_gives_test_data_away_goes(tmp_path: Path) -> None:
    question = "How many apples does Anna have if she buys three bags of seven apples"
    test = tmp_path / "test.jsonl"
    test.write_text(
        talk(question, "She has 21 apples in the end.") + "\n" + talk("小明有多少个苹果如果他买了三袋每袋七个", "二十一")
    )
    lines = [
        talk(f"Solve this: {question}?", "21"),
        talk("题目：小明有多少个苹果如果他买了三袋每袋七个？", "答案不同"),
        talk("How many apples are there on the tree in the garden of Anna", "Forty."),
        json.dumps({"text": f"An exam. {question}. She has 21 apples in the end. {article(4)}"}),
        talk("Thank you", "You are welcome."),
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines))
    report = clean(data, CleanParams(), test=test)
    assert [(each.line, each.reason, each.like) for each in report.preview] == [
        (1, "contamination", "test.jsonl:1"),
        (2, "contamination", "test.jsonl:2"),
        (4, "contamination", "test.jsonl:1"),
    ]
    assert report.kept == {"train": 2}


def test_a_shared_system_message_gives_nothing_away(tmp_path: Path) -> None:
    system = {
        "role": "system",
        "content": "You are a careful assistant that always answers in one short and friendly sentence.",
    }

    def with_system(question: str) -> str:
        return json.dumps(
            {"messages": [system, {"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}]}
        )

    (tmp_path / "test.jsonl").write_text(with_system("Is snow white?"))
    (tmp_path / "data.jsonl").write_text(with_system("Is grass green?") + "\n" + with_system("Is snow white?"))
    report = clean(tmp_path / "data.jsonl", CleanParams(near_duplicates=False), test=tmp_path / "test.jsonl")
    assert [each.line for each in report.preview] == [2]


def test_test_data_without_samples_are_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", article(1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match="no sample"):
        clean(data, CleanParams(), test=tmp_path / "empty")
    with pytest.raises(InvalidData, match="missing"):
        clean(data, CleanParams(), test=tmp_path / "missing")


def test_the_split_is_by_question_and_stays_when_data_are_added(tmp_path: Path) -> None:
    lines = [talk(f"Question {number}: {article(number, 20)}", f"{answer} {article(900 + number + answer, 20)}")
             for number in range(60) for answer in (0, 300)]  # fmt: skip
    data = tmp_path / "a.jsonl"
    data.write_text("\n".join(lines[:80]))
    params = CleanParams(validation_fraction=0.3, near_duplicates=False)
    clean(data, params, into=tmp_path / "some")
    data.write_text("\n".join(lines))
    report = clean(data, params, into=tmp_path / "all")
    assert sum(report.kept.values()) == 120
    assert 0.15 < report.kept["validation"] / 120 < 0.45

    def questions(folder: Path) -> set[str]:
        return {sample.messages[0]["content"] for sample in read_chat(folder)}

    assert not questions(tmp_path / "all/train") & questions(tmp_path / "all/validation")
    assert questions(tmp_path / "some/validation") <= questions(tmp_path / "all/validation")


def test_weights_and_tools_survive_cleaning(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages, "tools": [tool]}))
    clean(tmp_path, CleanParams(), into=tmp_path / "out")
    [before] = read_chat(tmp_path / "a.jsonl")
    [after] = read_chat(tmp_path / "out/train")
    assert (after.messages, after.tools, after.weights) == (before.messages, before.tools, before.weights)
    assert isinstance(after, ChatSample)
    assert after.weights == [0, 0, 0, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60), st.lists(st.sampled_from(WORDS), min_size=1, max_size=60))
def test_similarity_is_that_of_the_sets(left: list[str], right: list[str]) -> None:
    one, two = shingles_of(" ".join(left)), shingles_of(" ".join(right))
    assert jaccard(sorted(one), sorted(two)) == len(one & two) / len(one | two)
    assert signature(one) == signature(set(one))
    assert len(signature(one)) == 128


def test_signatures_agree_about_as_often_as_the_sets_are_alike() -> None:
    shared = {hash_ for n in range(3) for hash_ in ngrams(article(n, 400).split(), 3)}
    one = shared | ngrams(article(10, 400).split(), 3)
    two = shared | ngrams(article(11, 400).split(), 3)
    truth = len(one & two) / len(one | two)
    agreed = sum(a == b for a, b in zip(signature(one), signature(two), strict=True)) / 128
    assert abs(agreed - truth) < 0.15


def test_almost_all_near_copies_are_found() -> None:
    found = 0
    for seed in range(100):
        copies = NearCopies(0.8)
        words = article(seed, 100).split()
        copies.find_or_add(" ".join(words))
        words[50] = "changed"
        found += copies.find_or_add(" ".join(words)) is not None
    assert found >= 99


@given(st.text(max_size=50), st.floats(0, 0.5))
def test_a_text_has_one_side(text: str, fraction: float) -> None:
    assert side_of(TextSample(text, "a", 1), fraction) == side_of(TextSample(text, "b", 9), fraction)


def test_a_published_data_set_has_known_copies(shared_data: Path) -> None:
    report = clean(shared_data / "03-toolcall/glaive_toolcall_zh_demo.json", CleanParams())
    assert report.removed == {"duplicate": 43, "fault": 2, "near_duplicate": 2}


def test_what_all_test_samples_share_gives_none_of_them_away(tmp_path: Path) -> None:
    template = "Read the following passage and answer the question below in one short sentence please"
    test = write(tmp_path / "test.jsonl", *(f"{template} {article(number, 12)}" for number in range(60)))
    data = write(tmp_path / "data.jsonl", f"{template} {article(900, 12)}", f"{article(7, 12)} and more", article(901, 40))
    report = clean(data, CleanParams(contamination_share=0.3), test=test)
    assert [(each.line, each.reason, each.like) for each in report.preview] == [(2, "contamination", "test.jsonl:8")]


def test_samples_of_several_kinds_are_noted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(talk("q", "a") + "\n" + json.dumps({"text": article(1)}))
    assert "several kinds (chat, text)" in clean(tmp_path, CleanParams()).notes[0]


@pytest.mark.parametrize(("similarity", "removed"), [(0.8, {}), (0.5, {"near_duplicate": 1})])
def test_the_limit_of_similarity_is_kept(tmp_path: Path, similarity: float, removed: dict[str, int]) -> None:
    words = article(1, 100).split()
    changed = [*words[:80], *article(2, 20).split()]
    truth = jaccard(sorted(shingles_of(" ".join(words))), sorted(shingles_of(" ".join(changed))))
    assert 0.55 < truth < 0.75
    data = write(tmp_path / "a.jsonl", " ".join(words), " ".join(changed))
    assert clean(data, CleanParams(similarity=similarity)).removed == removed
