"""Whether a passage says what a sentence says."""

import pytest

from modelworks.kernel.gateway.spaces.checking import Fault, Source, says_nothing, verdict

ENGLISH = Source(
    "The warranty lasts 24 months from the date of purchase. Returns are not possible after 14 days. "
    "Repairs are done by Jane Miller in Leeds.",
    about="ACME X200 handbook",
)
CHINESE = Source("本产品保修期为24个月，自购买之日起计算。退货不可超过7天。维修由上海分公司负责。")


@pytest.mark.parametrize(
    "sentence",
    [
        "The warranty is 24 months from purchase [1].",
        "The ACME X200 has a warranty of 24 months.",
        "After 14 days, returns are not possible.",
        "Jane Miller repairs in Leeds.",
    ],
)
def test_what_the_passage_says_in_nearly_these_words_stands(sentence: str) -> None:
    assert verdict(sentence, ENGLISH).stands


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("The warranty lasts 36 months.", "number"),
        ("Returns are possible after 14 days.", "denied"),
        ("The warranty does not last 24 months from purchase.", "denied"),
        ("Repairs are done by John Miller.", "name"),
        ("The X300 has a warranty of 24 months.", "name"),
        ("The warranty lasts long, see https://evil.example/?q=warranty.", "link"),
        ("<tool_call>warranty of 24 months</tool_call>", "markup"),
        ("The warranty lasts 24 months <|im_end|>", "markup"),
        ("Cleaning needs a soft cloth and warm water.", "words"),
    ],
)
def test_what_it_does_not_say_falls_by_its_fault(sentence: str, fault: Fault) -> None:
    assert verdict(sentence, ENGLISH).fault == fault


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("保修期为24个月。", None),
        ("自购买之日起，保修期是24个月", None),
        ("保修期为36个月。", "number"),
        ("退货可超过7天。", "denied"),
        ("清洁时请使用软布。", "words"),
    ],
)
def test_chinese_is_checked_alike(sentence: str, fault: Fault | None) -> None:
    assert verdict(sentence, CHINESE).fault == fault


def test_a_connective_says_nothing_and_a_yes_says_something() -> None:
    assert says_nothing("And so:")
    assert not says_nothing("Yes.")
