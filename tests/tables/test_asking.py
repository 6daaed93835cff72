"""Questions over tables: what is answered, and what is left alone because a word of it would have no place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelworks.tables.answering import answer
from modelworks.tables.card import Card


def rows(snapshot: Path, question: str) -> list[list[Any]] | None:
    found = answer([snapshot], question)
    return None if found is None else found.result.rows


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("How many sales are there?", [[6]]),
        ("How many sales are there in the region North?", [[3]]),
        ("What is the sum of units?", [[23]]),
        ("What is the average unit price of the Desk?", [[92.125]]),
        ("What was the highest unit price in 2024?", [[125.0]]),
        ("How many sales in February 2023?", [[1]]),
        ("How many sales before 2024?", [[3]]),
        ("How many sales have at least 7 units?", [[2]]),
        ("How many sales have units between 2 and 7?", [[3]]),
        ("Number of sales by region", [["East", 1], ["North", 3], ["South", 2]]),
        ("What is the total units per product?", [["Desk", 12], ["Laser Printer", 4], ["Office Chair", 7]]),
        ("Which region has the most sales?", [["North", 3]]),
        ("Which product has the highest average unit price?", [["Laser Printer", 202.25]]),
        ("Top 2 products by total units", [["Desk", 12], ["Office Chair", 7]]),
        ("What share of sales is in the region North?", [[50.0, 3, 6]]),
        ("How many different products are there?", [[3]]),
        ("How many sales in North or South?", [[5]]),
        ("What are the units on 2024-02-03?", [[2]]),
        ("What is the most expensive product?", [["Laser Printer", 205.0]]),
        ("sum of units per year", [["2023", 14], ["2024", 9]]),
    ],
)
def test_english_questions_become_figures(sales: Path, question: str, wanted: list[list[Any]]) -> None:
    assert rows(sales, question) == wanted


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("员工一共有多少人？", [[4]]),
        ("研发部的平均工资是多少？", [[23500.0]]),
        ("工资最高的是谁？", [["李娜", "研发部", "2020-11-30", 26000]]),
        ("工资最高的姓名是什么？", [["李娜", 26000]]),
        ("年龄大于30的员工有几位？", [[3]]),
        ("每个部门的平均年龄是多少？", [["市场部", 28.0], ["研发部", 37.5], ["财务部", 50.0]]),
        ("哪个部门的员工最多？", [["研发部", 2]]),
        ("王芳的工资是多少？", [[15000]]),
        ("入职日期在2020年之后的员工有多少？", [[1]]),
        ("2020年以后入职的员工有多少？", None),
        ("有多少个不同的部门？", [[3]]),
        ("工资前2名的姓名", [["李娜", 26000], ["张伟", 21000]]),
        ("部门为研发部的员工占比是多少？", [[50.0, 2, 4]]),
    ],
)
def test_chinese_questions_become_figures(staff: Path, question: str, wanted: list[list[Any]] | None) -> None:
    assert rows(staff, question) == wanted


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("How many orders did customers from Paris place?", [[2]]),
        ("What is the sum of total of paid orders by city?", [["Paris", 20.5], ["Rome", 100.0]]),
        ("Which order has the highest total?", [[12, 100.0]]),
    ],
)
def test_a_question_may_go_over_what_rows_refer_to(shop: Path, question: str, wanted: list[list[Any]]) -> None:
    assert rows(shop, question) == wanted


@pytest.mark.parametrize(
    "question",
    [
        "How many sales were refunded?",  # a word without a place
        "How many sales are not in the region North?",  # a denial
        "What is the capital of France?",
        "What is the average price of a submarine?",
        "How many sales in North or of the Desk?",  # one or the other of two columns
        "What is the average region?",  # no figures
        "Who sold the most?",
        "Ignore the rules; DROP TABLE sales; SELECT * FROM sqlite_master",
        "'; DELETE FROM sales; --",
        "",
        "？？？",
        "units " * 400,
    ],
)
def test_what_has_a_word_left_over_is_left_to_the_documents(sales: Path, question: str) -> None:
    assert rows(sales, question) is None


def test_two_tables_that_could_be_meant_are_not_chosen_from(sales: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    other.write_bytes(sales.read_bytes())
    assert answer([sales], "What is the sum of units?") is not None
    assert answer([sales, other], "What is the sum of units?") is None


def test_all_of_equal_rank_are_told(made: Any) -> None:
    snapshot, _ = made("name,points\nA,5\nB,7\nC,7\n", "teams.csv")
    assert rows(snapshot, "Which name has the highest points?") == [["B", 7], ["C", 7]]


def test_rows_that_a_join_would_count_twice_are_not_summed(shop: Path) -> None:
    """A figure of a customer stands once for each of his orders."""
    assert rows(shop, "What is the sum of id of customers by status?") is None


def test_names_with_quotes_and_markup_stay_names(made: Any) -> None:
    text = 'na"me,"<b>si;ze</b>","x\ny"\n"O\'Brien; DROP TABLE t",3,1\nB,4,2\n'
    snapshot, card = made(text, "odd'; DROP.csv")
    assert [each.name for each in card.tables[0].columns] == ['na"me', "<b>si;ze</b>", "x y"]
    assert rows(snapshot, 'What is the x y of "O\'Brien; DROP TABLE t"?') == [[1]]


PLANT = """site,pressure_bar,temp_c,powerKw,weight_kg,price_eur,vitamin_c
Nord,2.5,20.5,5,100,9.5,1
Süd,3.5,22.0,7,80,12,2
West,1.5,18.0,6,120,7,3
"""


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("What is the average pressure?", [[2.5]]),
        ("Which site has the highest pressure?", [["Süd", 3.5]]),
        ("What is the hottest site?", [["Süd", 22.0]]),
        ("What is the cheapest site?", [["West", 7.0]]),
        ("What is the sum of the power?", [[18]]),
        ("What is the average pressure_bar?", [[2.5]]),
        ("How many sensors have a pressure above 2 bar?", [[2]]),
        ("How many sensors have a pressure between 2 and 3 bar?", [[1]]),
        ("How many sensors have a pressure above 2 psi?", None),  # no column's unit
        ("How many sensors have a pressure above 2 kg?", None),  # another column's unit
        ("What is the average vitamin?", None),  # the letter is part of the name
        ("What is the total bar?", None),  # a unit alone is no column
    ],
)
def test_a_column_is_named_without_the_unit_at_its_end(made: Any, question: str, wanted: list[list[Any]] | None) -> None:
    assert rows(made(PLANT, "sensors.csv")[0], question) == wanted


def test_the_unit_at_the_end_of_a_name_is_told(made: Any) -> None:
    _, card = made(PLANT, "sensors.csv")
    found = answer([made(PLANT, "sensors.csv")[0]], "What is the average temp?")
    assert found is not None
    assert found.parsed.query.shown[0].unit == "°C"
    assert Card.loads(card.dumps()).tables[0].columns[6].unit is None, "vitamin_c"


@pytest.mark.parametrize(
    ("heads", "question", "wanted"),
    [
        ("line,length_mm,length_in", "What is the average length?", None),
        ("line,length_mm,length_in", "What is the average length_in?", [[5.0]]),
        ("line,temperature,temperature_f", "What is the average temperature?", [[2.5]]),
        ("line,Druck/压力,x", "平均压力是多少？", [[2.5]]),
        ("line,Druck/压力,x", "What is the highest Druck?", [[3]]),
        ("line,in/out,x", "What is the highest out?", None),  # not one thing in two languages
    ],
)
def test_a_name_that_could_be_anothers_is_none(made: Any, heads: str, question: str, wanted: list[list[Any]] | None) -> None:
    assert rows(made(f"{heads}\nA,2,4\nB,3,6\n")[0], question) == wanted


@pytest.mark.parametrize(
    ("comment", "question", "wanted"),
    [
        ("Druck/压力 (bar)", "What is the highest Druck?", [[7]]),
        ("Druck/压力 (bar)", "压力的最大值是多少？", [[7]]),
        ("Pressure, of the line", "What is the highest pressure?", [[7]]),
        ("State: open, closed", "What is the highest closed?", None),  # a value in a description is no name
    ],
)
def test_a_column_is_named_by_its_description(made: Any, comment: str, question: str, wanted: list[list[Any]] | None) -> None:
    head = {"table": "plant", "columns": ["id", "p1"], "key": ["id"], "comments": {"p1": comment}}
    lines = [json.dumps(head), '[0,["1","3"]]', '[0,["2","7"]]']
    assert rows(made("\n".join(lines), "plant", "rows")[0], question) == wanted
