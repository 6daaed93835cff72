"""Searches: words, meaning, phrases, and the documents that they are confined to."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.capabilities.retrieval.conftest import Encoder, built, hits, ids

from modelworks.capabilities.retrieval.schemas import ServeOptions
from modelworks.capabilities.retrieval.search import Index
from modelworks.capabilities.retrieval.serve import PassageIndex
from modelworks.capabilities.retrieval.subjects import Subjects
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.passages import SearchInput
from modelworks.contract.run import LocalModel


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("when are holidays requested", "handbook:0"),
        ("Mw-1042", "pump:0"),
        ("1042", "pump:0"),
        ("read_pressure", "pump:0"),
        ("the pressure must be read", "pump:2"),
        ("发票", "zh:1"),
        ("年假怎么申请？", "zh:0"),
        ("receipt for ACCOUNTING", "handbook:1"),
    ],
)
def test_words_find_their_passage(words: Path, query: str, best: str) -> None:
    found = hits(Index(words), query)
    assert found[0].passage.id == best
    assert found[0].lexical_rank == 1
    assert [hit.dense_rank for hit in found] == [None] * len(found)


def test_scores_fall_from_1_to_0_and_say_how_much_of_the_query_is_there(words: Path) -> None:
    index = Index(words)
    found = hits(index, "the inlet pressure of the pump")
    scores = [hit.score for hit in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    assert hits(index, "inlet pressure")[0].score > hits(index, "inlet zyzzyva quux")[0].score > 0
    assert hits(index, "zyzzyva") == []
    assert hits(index, "？！") == []


def test_a_search_is_confined_to_documents_and_still_gives_as_many_hits(words: Path) -> None:
    index = Index(words)
    query = "the pressure of the pump before the office is open"
    assert {hit.passage.document_id for hit in hits(index, query, limit=3)} == {"pump", "handbook"}
    assert ids(hits(index, query, limit=3, documents=["handbook", "unknown"])) == [
        each for each in ids(hits(index, query, limit=9)) if each.startswith("handbook")
    ]
    assert {each.partition(":")[0] for each in ids(hits(index, query, limit=3, without=["pump"]))} == {"handbook"}
    assert hits(index, query, documents=["pump"], without=["pump"]) == []
    assert hits(index, query, documents=[]) == []
    confined = hits(index, query, documents=["handbook"])
    assert [hit.lexical_rank for hit in confined] == list(range(1, len(confined) + 1))


def test_a_phrase_in_quotes_lifts_the_passage_that_has_it(words: Path) -> None:
    index = Index(words)
    plain = ids(hits(index, "the pump is stopped before the pressure is read at the inlet"))
    assert plain[0] == "pump:2"
    quoted = hits(index, 'the pressure at the inlet read "pump is stopped before"')
    assert quoted[0].passage.id == "pump:1"
    assert ids(hits(index, "压力 “差旅费用” 入口"))[0] == "zh:1"
    # Outside the documents that may answer it lifts nothing.
    assert "pump:1" not in ids(hits(index, 'the office "pump is stopped before"', documents=["handbook"]))
    assert hits(index, 'the pressure "stopped is pump"') == hits(index, "the pressure stopped is pump")


def test_what_the_query_has_word_for_word_counts(tmp_path: Path) -> None:
    texts = {"a": ["the valve opens and the motor turns slowly"], "b": ["turns the motor slowly and the valve opens"]}
    index = Index(built(tmp_path, texts).saved[0].path)
    assert ids(hits(index, "the motor turns slowly")) == ["a:0", "b:0"]
    assert ids(hits(index, "turns the motor slowly")) == ["b:0", "a:0"]


def test_a_passage_that_begins_with_what_is_asked_for_comes_first(tmp_path: Path) -> None:
    filler = " ".join(f"word{number}" for number in range(60))
    texts = {"a": [f"{filler} torque of the spindle"], "b": [f"spindle torque. {filler} of the"], "c": ["nothing of it"]}
    folder = built(tmp_path, texts).saved[0].path
    query = "torque spindle"
    first, second = hits(Index(folder), query)
    assert (first.passage.id, second.passage.id) == ("b:0", "a:0")
    assert 1 >= first.score > second.score > 0
    model = LocalModel(ref="i@v1", version_id="mdl_i", path=folder, digest="sha256:0")
    asked = SearchInput(queries=[query])
    assert ids(PassageIndex(model, ServeOptions()).predict(asked).hits[0]) == ["b:0", "a:0"]
    # Set off, both have the same words as often: the earlier row comes first.
    plain = PassageIndex(model, ServeOptions(rerank=False)).predict(asked).hits[0]
    assert ids(plain) == ["a:0", "b:0"]
    assert plain[0].score == plain[1].score


def test_terms_that_stand_early_count_by_their_rarity(words: Path) -> None:
    index = Index(words)
    shares = index.words.shares("the inlet zyzzyva")
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["zyzzyva"] > shares["inlet"] > shares["the"] > 0
    assert index.words.shares("？！") == {}


def test_neighbours_in_the_section_are_told_in_reading_order(words: Path) -> None:
    index = Index(words)
    [first, *_] = hits(index, "inlet filter changed every 500 hours", around=2)
    assert first.passage.id == "pump:1"
    assert [text[:14] for text in first.before] == ["Error MW-1042 "]
    assert first.after == []
    assert hits(index, "MW-1042", around=1)[0].after[0].startswith("The inlet filter")
    assert hits(index, "MW-1042")[0].after == []


def test_meaning_finds_what_words_do_not(hybrid: Path) -> None:
    index, encoder = Index(hybrid), Encoder()
    assert "handbook:0" not in ids(hits(index, "vacation"))
    [first, *_] = hits(index, "vacation", encoder)
    assert (first.passage.id, first.lexical_rank, first.dense_rank) == ("handbook:0", None, 1)
    [both, *_] = hits(index, "inlet pressure too low", encoder)
    assert (both.passage.id, both.lexical_rank, both.dense_rank) == ("pump:0", 1, 1)


def test_the_weight_of_meaning_can_be_set(hybrid: Path) -> None:
    encoder = Encoder()
    query = "vacation in the evening"
    by_words, by_meaning = (hits(Index(hybrid, dense_weight=weight), query, encoder)[0] for weight in (0.0, 1.0))
    assert by_words.passage.id == "handbook:2"
    assert by_meaning.dense_rank == 1


def test_filters_hold_for_meaning_too(hybrid: Path) -> None:
    index, encoder = Index(hybrid), Encoder()
    found = hits(index, "vacation", encoder, documents=["zh", "pump"], limit=6)
    assert len(found) <= 6
    assert {hit.passage.document_id for hit in found} <= {"zh", "pump"}
    assert min(hit.dense_rank or 99 for hit in found) == 1


@pytest.mark.parametrize(
    ("vectors", "param"),
    [([[1.0] * 64] * 2, "vectors"), ([[1.0] * 63], "vectors.0"), ([[float("nan")] * 64], "vectors.0")],
)
def test_vectors_of_another_encoder_are_refused(hybrid: Path, vectors: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Index(hybrid).search(SearchInput(queries=["x"], vectors=vectors))
    assert refused.value.param == param


def test_an_index_of_words_takes_no_vectors(words: Path) -> None:
    with pytest.raises(InvalidRequest, match="without an encoder"):
        Index(words).search(SearchInput(queries=["x"], vectors=[[1.0]]))


def test_a_replica_answers_several_queries_from_several_threads(hybrid: Path) -> None:
    model = LocalModel(ref="i@v1", version_id="mdl_i", path=hybrid, digest="sha256:0")
    replica = PassageIndex(model, ServeOptions())
    encoder = Encoder()
    queries = ["vacation", "inlet pressure", "发票"]
    asked = SearchInput(queries=queries, vectors=encoder.embed(queries).vectors)
    wanted = replica.predict(asked)
    assert [ids(each)[0] for each in wanted.hits] == ["handbook:0", "pump:0", "zh:1"]
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(replica.predict(asked))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 4
    with pytest.raises(InvalidRequest):
        PassageIndex(None, None)


def _reports() -> dict[str, list[str]]:
    """The same sentences for two companies and two quarters; none names its company or its quarter."""
    said = ["Revenue rose by a tenth.", "Research costs fell.", "The tax rate is as it was.", "Shares were bought back."]
    return {
        f"{company}-{quarter}": [f"{sentence} The figure is {number}{at}." for at, sentence in enumerate(said)]
        for number, (company, quarter) in enumerate((c, q) for c in ("acme", "globex") for q in ("Q1", "Q2"))
    }


def test_of_like_documents_the_one_that_is_asked_about_comes_first(tmp_path: Path) -> None:
    index = Index(built(tmp_path, {**_reports(), "memo": ["Research costs of globex in Q2 are in no report."]}).saved[0].path)
    for company, quarter in (("acme", "Q1"), ("globex", "Q2")):
        query = f"How did the research costs of {company.title()} change in {quarter}?"
        found = [hit for hit in hits(index, query) if hit.passage.document_id != "memo"]
        assert found[0].passage.id == f"{company}-{quarter}:1"
        assert all(0 < hit.score <= 1 for hit in found)
    # What nothing but the passage itself says is no matter of its document.
    assert ids(hits(index, "research costs of globex in Q2 are in no report"))[0] == "memo:0"


def test_a_document_is_about_what_much_of_it_says_not_what_it_says_once(tmp_path: Path) -> None:
    rest = ["The valve is opened by hand.", "The motor turns slowly.", "The seal holds for a year."]
    texts = {
        "a": [*(f"Pump {number} needs oil." for number in range(6)), *rest],
        "b": [*(f"Crane {number} needs oil." for number in range(6)), *rest, "One pump is red."],
        "short": ["The pump stands still."],
    }
    index = Index(built(tmp_path, texts).saved[0].path)
    subjects = Subjects(index.passages, index.words)
    scores = np.full(len(index.passages), 0.2, np.float32)
    lifted = subjects.lifted("How long does the seal of the pump hold?", scores)
    of = {document: lifted[index.passages.mask([document])] for document in texts}
    assert (of["a"] > 0.3).all()
    assert (of["a"] < 1).all()
    assert of["b"] == pytest.approx(0.2, abs=1e-6)
    assert of["short"] == pytest.approx(0.2, abs=1e-6)
    # What all say tells none from another; what none says, and words that all questions have, lift nothing.
    oil = subjects.lifted("oil", scores)
    assert oil[index.passages.mask(["a"])][0] == pytest.approx(oil[index.passages.mask(["b"])][0], abs=0.02)
    for query in ("sails", "the"):
        assert (subjects.lifted(query, scores) == scores).all()


def test_what_a_document_says_twice_is_told_once_and_leaves_room(tmp_path: Path) -> None:
    said = "The seal of the pump holds for a year."
    texts = {"a": [said, "The pump has a seal.", said, said], "b": [said]}
    index = Index(built(tmp_path, texts).saved[0].path)
    found = hits(index, "how long does the seal of the pump hold", limit=3)
    assert ids(found) == ["a:0", "b:0", "a:1"] or ids(found) == ["b:0", "a:0", "a:1"]
