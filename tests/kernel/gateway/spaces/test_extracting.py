"""Quoting the sentences that answer, and seeing that none does."""

from modelworks.kernel.gateway.spaces.checking import Source
from modelworks.kernel.gateway.spaces.extracting import arranged, is_answerable, quotations

PRINTER = Source(
    "The X200 is a laser printer. It weighs 9 kilograms. The warranty lasts 24 months. The drawer holds 250 sheets.",
    about="X200 handbook",
)
SCANNER = Source("The M10 is a scanner. Its warranty lasts 12 months.", about="M10 handbook")
CHINESE = Source("本产品由北京工厂生产。保修期为二十四个月。退货须在7天内办理。")


def test_the_sentence_that_answers_is_quoted_with_its_passage() -> None:
    best = quotations("How long does the warranty of the X200 last?", [SCANNER, PRINTER])[0]
    assert (best.passage, best.text) == (1, "The warranty lasts 24 months.")


def test_the_kind_that_is_asked_for_decides_between_sentences() -> None:
    source = Source("The printer is heavy for its weight class. The weight is 9 kilograms, that of the printer.")
    assert quotations("How much is the weight of the printer?", [source])[0].text.startswith("The weight is 9")
    assert quotations("保修期是多久？", [CHINESE])[0].text == "保修期为二十四个月。"


def test_what_no_passage_speaks_of_is_not_answerable() -> None:
    assert is_answerable("How long does the warranty last?", [PRINTER])
    assert not is_answerable("Who founded the city of Leeds in Yorkshire?", [PRINTER, SCANNER])
    assert is_answerable("退货须在几天内办理？", [CHINESE])
    assert not is_answerable("谁是第一任总统？", [CHINESE])
    assert quotations("谁是第一任总统？", [PRINTER]) == []


def test_a_question_about_something_that_no_passage_names_is_not_answerable() -> None:
    report = Source("Net sales rose to 81,797 million in the third quarter.", about="2023 Q3 Acme.pdf")
    assert is_answerable("How did net sales of Acme change in the third quarter?", [report])
    assert not is_answerable("How did net sales of Globex change in the third quarter?", [report])
    assert is_answerable("How did net sales of Acme and Globex change in the third quarter?", [report])
    # A quarter is no name that tells one company from another.
    assert not is_answerable("How did net sales of Globex change in Q3?", [report])


def test_a_long_sentence_is_cut_at_a_word() -> None:
    source = Source("The printer " + "prints and " * 200)
    text = quotations("What does the printer do?", [source])[0].text
    assert len(text) <= 600
    assert text.endswith(("prints", "and"))


def test_whole_sentences_of_prose_go_before_fields_and_rests_of_sentences() -> None:
    field = Source("state: queued", headings=("Runs",))
    rest = Source("states that a run has are told elsewhere.")
    prose = Source("A run has one of the states queued, running and succeeded.")
    assert quotations("Which states does a run have?", [field, rest, prose])[0].passage == 2
    assert quotations("Which state?", [field])[0].text == "state: queued"


def test_prose_and_what_stands_under_a_heading_that_is_asked_for_come_first() -> None:
    data = Source('"title": "Roll back a version"', is_prose=False)
    other = Source("One may roll back a version, too.")
    headed = Source("Move the alias to the version before.", headings=("Versions", "Roll back"))
    question = "How do I roll back a version?"
    assert arranged(question, [(data, 0.6), (other, 0.5), (headed, 0.5)]) == [2, 1, 0]


def test_several_sentences_are_quoted_where_each_says_more() -> None:
    found = quotations("How many months is the warranty, and how many sheets?", [PRINTER])
    assert {each.text for each in found} == {"The warranty lasts 24 months.", "The drawer holds 250 sheets."}
