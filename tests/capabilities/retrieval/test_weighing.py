"""The trial that says how far an index trusts its encoder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.capabilities.retrieval.conftest import Encoder, built, write_passages

from modelworks.capabilities.retrieval.layout import Passages, counted_text
from modelworks.capabilities.retrieval.schemas import BuildParams
from modelworks.capabilities.retrieval.search import Index
from modelworks.capabilities.retrieval.subjects import Subjects
from modelworks.capabilities.retrieval.terms import is_unspaced, terms
from modelworks.capabilities.retrieval.train import build_index
from modelworks.capabilities.retrieval.weighing import KNOWN, UNKNOWN, WEIGHING_VERSION, _best, _taken, _words
from modelworks.testing import FakeRun


def passages(kind: str, count: int, *, same_words: bool) -> list[str]:
    """Passages of three sentences about a thing of one of four on a shelf; the middle one calls it as the others do, or not.

    Sentences share no words but those of their thing and shelf: words alone find the shelf.
    """
    found = []
    for n in range(count):
        if kind == "en":
            one, other, shelf, *more = (f"{first}q{chr(97 + n // 20)}{chr(97 + n % 20)}" for first in "tgshijklmno")
            shelf = f"sh{chr(97 + n // 4)}"
            name = one if same_words else other
            parts = (f"{one} {shelf} {' '.join(more[:3])}.", f"{name} {shelf} {' '.join(more[3:5])}.", f"{one} {more[5]}lmnop.")
            found.append(" ".join(parts))
        else:
            one, other, *more = (chr(0x4E00 + 64 * place + n) for place in (0, 64, *range(1, 40)))
            shelf = chr(0x7E00 + n // 4)
            name = one if same_words else other
            said = "".join(more)
            found.append(f"{one}{shelf}{said[:12]}。{name}{shelf}{said[12:20]}。{one}{said[20:]}。")
    return found


class Literal(Encoder):
    """An encoder that knows words by their letters only."""


class Knowing(Encoder):
    """An encoder that knows both names of a thing."""

    def _vector(self, text: str) -> Any:
        text = re.sub(r"\bgq", "tq", text)
        return super()._vector("".join(chr(ord(c) - 0x1000) if 0x5E00 <= ord(c) < 0x5E40 else c for c in text))


class Monoglot(Knowing):
    """One to which all Chinese texts are the same."""

    def _vector(self, text: str) -> Any:
        return super()._vector("汉" if is_unspaced(text) else text)


def weights(index: Path) -> tuple[float, float]:
    card = Index(index).card
    return card.dense_weight, card.dense_weight_unspaced


@pytest.mark.parametrize(
    ("encoder", "same_words", "trusted"),
    [
        (Knowing, False, (True, True)),
        (Monoglot, False, (True, False)),
        # It finds every sentence where it stands, and adds nothing to words.
        (Literal, True, (False, False)),
    ],
)
def test_an_encoder_is_trusted_where_it_finds_what_words_do_not(
    tmp_path: Path, encoder: type[Encoder], same_words: bool, trusted: tuple[bool, bool]
) -> None:
    texts = {kind: passages(kind, 40, same_words=same_words) for kind in ("en", "zh")}
    saved = built(tmp_path, texts, encoder=encoder(dimensions=256)).saved[0]
    found = weights(saved.path)
    assert tuple(weight > UNKNOWN for weight in found) == trusted
    assert all(weight == UNKNOWN for weight, is_trusted in zip(found, trusted, strict=True) if not is_trusted)
    assert max(found) <= KNOWN
    metrics = saved.metadata["metrics"]
    assert (metrics["dense_weight"], metrics["dense_weight_unspaced"]) == found


def test_finding_a_sentence_by_its_letters_earns_no_trust(tmp_path: Path) -> None:
    # No other passage is as near to the sentence as its own, which has it; of the rest the encoder knows nothing.
    texts = passages("en", 40, same_words=False)
    assert weights(built(tmp_path, {"en": texts}, encoder=Literal(dimensions=256)).saved[0].path)[0] == UNKNOWN


def test_passages_that_have_the_sentence_too_are_no_mistakes(tmp_path: Path) -> None:
    texts = passages("en", 20, same_words=True)
    index = Index(built(tmp_path, {"en": 2 * texts}).saved[0].path)
    taken = _taken(3, index.passages.at(3))
    assert taken is not None
    scores = _words(taken, index.words, Subjects(index.passages, index.words), lambda row, passage: ("", passage.text))
    assert scores[23] == -1
    assert scores[3] == max(scores) > 0


def test_the_sentence_is_taken_out_of_what_is_encoded(tmp_path: Path) -> None:
    texts = passages("en", 20, same_words=True)
    encoder = Encoder()
    built(tmp_path, {"en": texts}, encoder=encoder)
    asked = encoder.asked[1 + len(texts) :]
    sentences, rests = asked[:20], asked[20:]
    assert len(rests) == 20
    for sentence, rest in zip(sentences, rests, strict=True):
        assert sentence not in rest
        assert any(sentence in text and text.replace(sentence, " ") == rest for text in texts)


def test_with_too_few_sentences_nothing_is_tried(tmp_path: Path) -> None:
    encoder = Monoglot()
    few = built(tmp_path, {"zh": passages("zh", 15, same_words=False)}, encoder=encoder).saved[0]
    assert weights(few.path) == (KNOWN, KNOWN)
    assert len(encoder.asked) == 1 + 15


def test_weights_of_an_earlier_index_are_taken_over_if_the_same_rules_found_them(tmp_path: Path) -> None:
    texts = {"zh": passages("zh", 20, same_words=False)}
    first = built(tmp_path / "first", texts, encoder=Monoglot()).saved[0].path
    card = json.loads((first / "index.json").read_text("utf-8"))
    assert card["weighing"] == WEIGHING_VERSION
    for name, change, tries in (("same", {}, False), ("before", {"weighing": None}, True)):
        changed = {key: value for key, value in (card | {"dense_weight_unspaced": 0.25} | change).items() if value is not None}
        (first / "index.json").write_text(json.dumps(changed), "utf-8")
        encoder = Monoglot()
        run = FakeRun(
            tmp_path / name,
            datasets={"passages": write_passages(tmp_path / f"data-{name}", texts)},
            models={"previous": first},
            deployments={"encoder": encoder},
        )
        build_index(run, BuildParams())
        assert weights(run.saved[0].path)[1] == (UNKNOWN if tries else 0.25)
        # Vectors are taken over in both cases.
        assert len(encoder.asked) == 1 + (40 if tries else 0)


def test_a_passage_without_a_sentence_scores_as_if_it_had_been_counted_so(tmp_path: Path) -> None:
    texts = passages("en", 20, same_words=True)
    sentence = texts[7].split(". ")[1] + "."
    index = Index(built(tmp_path / "whole", {"en": texts}).saved[0].path)
    whole = Passages(built(tmp_path / "again", {"en": texts}).saved[0].path).at(7)
    rest = whole.model_copy(update={"text": whole.text.replace(sentence, " ")})
    counted = [terms(counted_text(each, "en.md", None, 2)) for each in (whole, rest)]
    found = index.words.score_without(sentence, 7, *counted)
    assert found < index.words.scores(sentence)[7]
    # By hand: what the terms that are left give, with the length of the rest beside the mean of all.
    others = [len(terms(counted_text(index.passages.at(row), "en.md", None, 2))) for row in range(20)]
    half = 1.2 * (0.25 + 0.75 * len(counted[1]) / (sum(others) / 20))
    by_hand = sum(
        share * count / (count + half)
        for term, share in index.words.shares(sentence).items()
        if (count := counted[1].count(term))
    )
    assert found == pytest.approx(by_hand, rel=2e-3)
    assert index.words.score_without(sentence, 7, counted[0], counted[0]) == pytest.approx(
        float(index.words.scores(sentence)[7]), rel=2e-3
    )


def test_a_lighter_weight_is_taken_where_it_finds_better() -> None:
    # Of 60 sentences words put another passage a little before, and meaning their own; of the others meaning is wrong.
    def tried(num_others: int) -> float:
        words = np.array([[0.45, 0.5]] * 60 + [[0.9, 0.7]] * num_others, np.float32)
        meaning = np.array([[0.6, 0.0]] * 60 + [[0.0, 0.8]] * num_others, np.float32)
        return _best(words, meaning, np.zeros(len(words), np.intp))

    assert tried(0) == KNOWN
    assert tried(30) == 0.1
    flat = np.full((60, 2), 0.5, np.float32)
    assert _best(flat, flat, np.zeros(60, np.intp)) == UNKNOWN
