"""Questions without a model, and what their answers stand on."""

from __future__ import annotations

from tests.capabilities.document.samples.conftest import read_all

from modelworks.capabilities.document.samples.makers import drafts
from modelworks.capabilities.document.samples.splitting import held_out
from modelworks.capabilities.document.samples.support import stands
from modelworks.kernel.gateway.spaces.checking import Source, verdict


def asked(maker: str) -> dict[str, str]:
    return {draft.question: " ".join(draft.answer) for draft in drafts(read_all(), [maker])}  # type: ignore[list-item]


def test_headings_are_asked_about_in_the_language_of_what_stands_under_them() -> None:
    found = asked("heading")
    assert found["What does “Pump” say about Warranty?"] == "The warranty of the Aquila pump lasts 24 months from delivery."
    assert "What does “Pump” say about Seals?" in found, "the number of a heading is none of its words"
    assert found["关于年假天数，《年假》怎么说？"] == "员工入职满一年后每年享有12天带薪年假。"
    assert found["How do I book?"].startswith("Flights are booked"), "a heading that asks is the question"


def test_what_a_sentence_defines_is_asked_for() -> None:
    found = asked("definition")
    assert found["What is a labyrinth seal?"] == "A labyrinth seal is a seal without contact between rotor and housing."
    assert found["What is a hardware token?"] == "A hardware token is a device that proves who signs in."
    assert found["量子纠缠是什么？"] == "量子纠缠是一种物理现象，两个粒子的状态彼此关联。"
    assert not any("It" in question.split() for question in found)


def test_a_gap_stands_for_the_rarest_term_of_a_sentence() -> None:
    found = asked("cloze")
    assert found["What is missing in this sentence? Backups of the database run every night at ____ and are kept for 45 days "
                 "on encrypted disks."].count("02:30") == 1  # fmt: skip
    assert found["根据文档填空：员工入职满一年后每年享有____天带薪年假。"] == "员工入职满一年后每年享有12天带薪年假。"
    assert all(question.count("____") == 1 for question in found)


def test_cells_are_asked_for_by_row_and_column() -> None:
    found = asked("table")
    assert found["What is the Flow rate of Aquila 40?"] == "The Flow rate of Aquila 40 is 40 l/min."
    assert len(found) == 3, "a table does not fill the data set"


def test_what_two_passages_answer_is_not_asked() -> None:
    twice = [*read_all(["pump.md"]), *read_all(["pump.md"])]
    assert [*drafts(twice, ["heading", "definition", "table"])] == []


def test_every_answer_is_supported_by_its_passage_as_the_gateway_judges_it() -> None:
    found = [*drafts(read_all(), ["heading", "definition", "cloze", "table"])]
    assert len(found) > 20
    names = {read.document.id: read.document.name for read in read_all()}
    for draft in found:
        about = "\n".join((names[draft.passage.document_id], *draft.passage.place.headings))
        for sentence in draft.answer:
            assert verdict(sentence, Source(draft.passage.text, about)).stands, sentence
            assert stands(sentence, draft.passage.text, draft.language), sentence


def test_support_asks_for_figures_names_words_and_the_same_denial() -> None:
    text = "The Aquila pump weighs 12 kg and is made in Gothenburg. It does not need oil."
    assert stands("The pump weighs 12 kg.", text, "en")
    assert not stands("The pump weighs 13 kg.", text, "en")
    assert not stands("The pump is made in Malmö.", text, "en")
    assert not stands("Compressors burn diesel fuel.", text, "en")
    assert not stands("The pump weighs no 12 kg.", "The pump weighs 12 kg.", "en")
    assert stands("年假有12天。", "员工每年享有12天带薪年假。", "zh")
    assert not stands("年假有15天。", "员工每年享有12天带薪年假。", "zh")


def test_a_document_stays_on_its_side_when_others_come_and_go() -> None:
    many = [f"doc_{number}" for number in range(200)]
    out = held_out(many, 0.2, 0)
    assert 20 < len(out) < 60
    assert held_out(many[:100], 0.2, 0) == out & set(many[:100])
    assert held_out(many, 0.2, 1) != out
    for few in range(2, 6):
        assert 0 < len(held_out(many[:few], 0.01, 0)) < few
        assert 0 < len(held_out(many[:few], 0.99, 0)) < few
    assert held_out(["doc_1"], 0.5, 0) == frozenset()
