"""Quoting the sentences that answer, and seeing that none does."""

from modelworks.kernel.gateway.spaces.checking import Source
from modelworks.kernel.gateway.spaces.extracting import is_answerable, quotations

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


def test_a_long_sentence_is_cut_at_a_word() -> None:
    source = Source("The printer " + "prints and " * 200)
    text = quotations("What does the printer do?", [source])[0].text
    assert len(text) <= 600
    assert text.endswith(("prints", "and"))
