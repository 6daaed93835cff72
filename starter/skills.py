"""Conversations from which the starter model learns narrow skills; see `modelworks.recipe.skills` for what calls this.

Each skill is made from openly licensed data by fixed rules, or from templates by chance that a seed fixes. What a record was
made from (an article, a poem, a template with its values) is its document: all made from it is either learnt or held out.
Poems and pages of documentation are also read as text, so what is held out of them here shows that a form was learnt, no
more.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from modelworks.contract.errors import NotFound
from modelworks.recipe.extraction import tidy
from modelworks.recipe.queries import question
from modelworks.recipe.sections import sentences

Shared = Callable[[str], Path]
Record = dict[str, Any]
Made = Iterator[tuple[str, str, Record]]

XQUAD = "data/04-docqa/xquad/xquad.{language}.dev.json"
CMRC = "data/04-docqa/cmrc2018/cmrc2018_trial.json"
GLAIVE = "data/03-toolcall/glaive_toolcall_{language}_demo.json"
SEAL_CALLS = "data/03-toolcall/seal-tools/dev.jsonl"
SEAL_TOOLS = "data/03-toolcall/seal-tools/tool.jsonl.gz"
DOCS = "data/04-docqa/enterprise-docs/dify-docs-{language}.zip"
SONG = "data/07-text/pretrain/song_ci_15k.jsonl.gz"
TANG = "data/07-text/pretrain/tang_poems_20k.jsonl.gz"

#: What is answered where the passages lack it.
REFUSAL = {"en": "The passages do not say.", "zh": "资料中没有说明。"}
_ASK = {
    "en": "{passages}\n\nAnswer from the passages and cite them: {question}",
    "zh": "{passages}\n\n根据资料回答并注明出处：{question}",
}
_PASSAGE_CHARS = {"en": 420, "zh": 180}
#: Shortest and longest sentence that is quoted.
_QUOTED_CHARS = {"en": (30, 120), "zh": (12, 45)}


def make(shared: Shared, limit: int | None, seed: int) -> Made:
    """All skills, one after the other; those whose data this machine lacks give nothing."""
    for skill in (passages, quotes, tool_calls, forms, titles, arithmetic, verses):
        found = skill(shared, random.Random(seed))  # noqa: S311 - an order, not a secret
        try:
            for document, record in islice(found, limit):
                yield skill.__name__, document, record
        except NotFound:
            continue


def talk(question: str, answer: str) -> Record:
    """A conversation of one question and its answer."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def window(context: str, start: int, length: int, num_chars: int) -> str:
    """Whole sentences of a text around a place, about so many characters, the place among them."""
    ends = [0, *(match.end() for match in re.finditer(r"[.!?。！？；]+[”\"')）]*\s*", context)), len(context)]
    first = max(place for place in ends if place <= start)
    last = min(place for place in ends if place >= min(start + length, len(context)))
    for before, after in zip(reversed([e for e in ends if e < first]), [e for e in ends if e > last], strict=False):
        if after - first <= num_chars:
            last = after
        if last - before <= num_chars:
            first = before
    return context[first:last].strip()


def questions(shared: Shared) -> Iterator[tuple[str, str, str, str, str, int]]:
    """(language, document, context, question, answer, where it starts) of XQuAD and the CMRC trial set.

    The two languages of XQuAD are translations of each other: one article is one document in both.
    """
    for language in ("en", "zh"):
        for number, article in enumerate(json.loads(shared(XQUAD.format(language=language)).read_text("utf-8"))["data"]):
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    answer = asked["answers"][0]
                    yield (
                        language,
                        f"xquad-{number}",
                        paragraph["context"],
                        asked["question"],
                        answer["text"],
                        answer["answer_start"],
                    )
    loaded = json.loads(shared(CMRC).read_text("utf-8"))
    for article in loaded if isinstance(loaded, list) else loaded["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                answer = asked["answers"][0]
                yield (
                    "zh",
                    f"cmrc-{paragraph['id']}",
                    paragraph["context"],
                    asked["question"],
                    answer["text"],
                    answer["answer_start"],
                )


def passages(shared: Shared, chooser: random.Random) -> Iterator[tuple[str, Record]]:
    """Answers from one of two passages with its number, and refusals where both are about something else."""
    everything = list(questions(shared))
    by_language = {language: [each for each in everything if each[0] == language] for language in ("en", "zh")}
    chooser.shuffle(everything)
    for language, document, context, asked, answer, start in everything:
        if context[start : start + len(answer)] != answer:
            continue  # the set's own offset is wrong
        others = by_language[language]
        strangers: list[str] = []
        while len(strangers) < 2:
            _, other, text, _, said, place = chooser.choice(others)
            if other != document:
                strangers.append(window(text, place, len(said), _PASSAGE_CHARS[language]))
        given = window(context, start, len(answer), _PASSAGE_CHARS[language])
        if len(given) > 2 * _PASSAGE_CHARS[language] or answer not in given:
            continue
        knows = chooser.random() < 0.75
        shown = [given, strangers[0]] if knows else strangers
        chooser.shuffle(shown)
        said = f"{answer} [{shown.index(given) + 1}]" if knows else REFUSAL[language]
        numbered = "\n".join(f"[{number}] {text}" for number, text in enumerate(shown, start=1))
        yield document, talk(_ASK[language].format(passages=numbered, question=asked), said)


def quotes(shared: Shared, chooser: random.Random, number: int = 5000) -> Iterator[tuple[str, Record]]:
    """The one of two or three sentences from which the question was made, with its number; a refusal where it is not there.

    Questions are made by rules (`modelworks.recipe.queries`): a part of the sentence replaced by a question word.
    """
    known = {language: list(_stated(shared, language)) for language in ("en", "zh")}
    for _ in range(number):
        language = chooser.choice(("en", "zh"))
        shown = chooser.sample(known[language], chooser.choice((2, 3)))
        page, sentence = chooser.choice(shown)
        asked = question(sentence, language, chooser)
        if asked is None:
            continue
        said = f"{sentence} [{shown.index((page, sentence)) + 1}]"
        if chooser.random() < 0.15:
            shown.remove((page, sentence))
            said = REFUSAL[language]
        numbered = "\n".join(f"[{place}] {text}" for place, (_, text) in enumerate(shown, start=1))
        yield f"quote-{page}", talk(_ASK[language].format(passages=numbered, question=asked), said)


def _stated(shared: Shared, language: str) -> Iterator[tuple[str, str]]:
    """Page and text of plain sentences of the documentation, each once."""
    shortest, longest = _QUOTED_CHARS[language]
    seen = set()
    for name, text in _pages(shared, language):
        for line in tidy(re.sub(r"^---.*?^---", "", text, count=1, flags=re.MULTILINE | re.DOTALL)).split("\n"):
            for sentence in sentences(line):
                plain = sentence[-1] in ".。" and not re.search(r"[|<>{}`*#\[\]=]|https?:|^- ", sentence)
                if plain and shortest <= len(sentence) <= longest and sentence not in seen:
                    seen.add(sentence)
                    yield name.rpartition("/")[2].partition(".")[0], sentence


def _pages(shared: Shared, language: str) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(io.BytesIO(shared(DOCS.format(language=language)).read_bytes())) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith((".md", ".mdx")):
                yield name, archive.read(name).decode("utf-8")


def tool_calls(shared: Shared, chooser: random.Random) -> Iterator[tuple[str, Record]]:
    """The first call of Glaive's conversations; and calls that Seal-Tools asks for, a second function by chance beside."""
    yield from _glaive(shared, chooser)
    tools = {}
    with gzip.open(shared(SEAL_TOOLS), "rt", encoding="utf-8") as lines:
        for line in lines:
            tool = json.loads(line)
            tools[tool["api_name"]] = tool
    names = sorted(tools)
    asked = [json.loads(line) for line in shared(SEAL_CALLS).read_text("utf-8").splitlines() if line.strip()]
    chooser.shuffle(asked)
    for record in asked:
        if len(record["calling"]) != 1 or record["calling"][0]["api"] not in tools:
            continue
        call = record["calling"][0]
        offered = [call["api"], chooser.choice(names)]
        chooser.shuffle(offered)
        made = called(
            record["query"], [_function(tools[name]) for name in dict.fromkeys(offered)], call["api"], call["parameters"]
        )
        if len(json.dumps(made, ensure_ascii=False)) < 1500:
            yield f"tool-{call['api']}", made


def _glaive(shared: Shared, chooser: random.Random) -> Iterator[tuple[str, Record]]:
    found = []
    for language in ("en", "zh"):
        for record in json.loads(shared(GLAIVE.format(language=language)).read_text("utf-8")):
            first, second = record["conversations"][:2]
            tools = json.loads(record.get("tools") or "[]")
            if first["from"] != "human" or second["from"] != "function_call" or not tools:
                continue
            call = json.loads(second["value"])
            if isinstance(call, dict) and isinstance(call.get("arguments"), dict):
                made = called(first["value"], tools, call["name"], call["arguments"])
                if len(json.dumps(made, ensure_ascii=False)) < 1800:
                    found.append((f"tool-{call['name']}", made))
    chooser.shuffle(found)
    yield from found


def called(query: str, functions: Sequence[Record], name: str, arguments: Record) -> Record:
    """A conversation in which the answer is one call."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
    }
    return {
        "messages": [{"role": "user", "content": query}, {"role": "assistant", "content": "", "tool_calls": [call]}],
        "tools": [{"type": "function", "function": function} for function in functions],
    }


_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array", "dict": "object"}


def _function(tool: Record) -> Record:
    properties = {
        name: {"type": _TYPES.get(str(given.get("type")), "string")} for name, given in (tool.get("parameters") or {}).items()
    }
    return {
        "name": tool["api_name"],
        "description": tool["api_description"],
        "parameters": {"type": "object", "properties": properties, "required": tool.get("required") or []},
    }


_NAMES = {
    "en": [
        "Anna",
        "Ben",
        "Clara",
        "David",
        "Emma",
        "Frank",
        "Grace",
        "Henry",
        "Ines",
        "Jack",
        "Kate",
        "Liam",
        "Maria",
        "Noah",
        "Olga",
        "Peter",
        "Quentin",
        "Rosa",
        "Sam",
        "Tina",
        "Umar",
        "Vera",
        "Will",
        "Yusuf",
    ],
    "zh": [
        "王伟",
        "李娜",
        "张强",
        "刘洋",
        "陈静",
        "赵磊",
        "周敏",
        "吴刚",
        "郑洁",
        "孙涛",
        "钱芳",
        "冯军",
        "何丽",
        "高飞",
        "林峰",
        "罗霞",
        "梁超",
        "宋佳",
        "唐勇",
        "许晴",
    ],
}
_CITIES = {
    "en": [
        "Oslo",
        "Paris",
        "Lima",
        "Cairo",
        "Delhi",
        "Rome",
        "Berlin",
        "Tokyo",
        "Quito",
        "Accra",
        "Porto",
        "Sofia",
        "Riga",
        "Turin",
        "Lyon",
        "Perth",
        "Dakar",
        "Hanoi",
    ],
    "zh": [
        "北京",
        "上海",
        "广州",
        "成都",
        "西安",
        "杭州",
        "南京",
        "武汉",
        "长沙",
        "昆明",
        "大连",
        "青岛",
        "厦门",
        "苏州",
        "福州",
        "兰州",
    ],
}
_THINGS = {
    "en": [
        "chairs",
        "lamps",
        "books",
        "tables",
        "phones",
        "pens",
        "clocks",
        "shirts",
        "bottles",
        "cups",
        "boxes",
        "coats",
        "knives",
        "bags",
        "toys",
    ],
    "zh": ["椅子", "台灯", "书", "桌子", "手机", "钢笔", "钟", "衬衫", "瓶子", "杯子", "箱子", "大衣", "刀", "背包", "玩具"],
}
_ORDERS = {
    "en": [
        "{name} from {city} ordered {count} {thing} (order {order}).",
        "Please send {count} {thing} to {name} in {city}, order {order}.",
        "In {city}, {name} is waiting for {count} {thing} of order {order}.",
        "Order {order}: {count} {thing} were bought by {name}, who lives in {city}.",
    ],
    "zh": [
        "{city}的{name}订购了{count}件{thing}，订单号{order}。",
        "请把订单{order}的{count}件{thing}寄给{city}的{name}。",
        "{name}住在{city}，买了{count}件{thing}，订单为{order}。",
        "订单{order}：{count}件{thing}已发往{city}，收件人{name}。",
    ],
}
_FIELDS = ("name", "city", "thing", "count", "order")


def forms(shared: Shared, chooser: random.Random, number: int = 6000) -> Iterator[tuple[str, Record]]:
    """A JSON object with some fields of a sentence, as a schema asks for them."""
    for _ in range(number):
        language = chooser.choice(("en", "zh"))
        pattern = chooser.randrange(len(_ORDERS[language]))
        values: Record = {
            "name": chooser.choice(_NAMES[language]),
            "city": chooser.choice(_CITIES[language]),
            "thing": chooser.choice(_THINGS[language]),
            "count": chooser.randint(2, 99),
            "order": f"{chooser.choice('ABCDEFGHKLMN')}{chooser.randint(1000, 9999)}",
        }
        wanted = chooser.sample(_FIELDS, chooser.randint(2, 4))
        schema = {"properties": {each: {"type": "integer" if each == "count" else "string"} for each in wanted}}
        asked = {"en": "Fill this schema with JSON: {schema}\n{text}", "zh": "按此模式输出JSON：{schema}\n{text}"}[language]
        question = asked.format(schema=json.dumps(schema), text=_ORDERS[language][pattern].format(**values))
        answer = json.dumps({each: values[each] for each in wanted}, ensure_ascii=False)
        yield f"form-{language}-{pattern}-{values['name']}-{values['city']}", talk(question, answer)


def titles(shared: Shared, chooser: random.Random) -> Iterator[tuple[str, Record]]:
    """The title of a page of documentation, of which the beginning is given."""
    asked = {"en": "Give this text a title:\n{text}", "zh": "为下面的文字拟一个标题：\n{text}"}
    found = []
    for language in ("en", "zh"):
        for name, text in _pages(shared, language):
            match = re.match(r"---\s*\n.*?^title:\s*[\"']?(.+?)[\"']?\s*$.*?^---\s*$", text, re.MULTILINE | re.DOTALL)
            if match is None:
                continue
            body = re.sub(r"<[^>]+>|^>.*$|^import .*$|!\[[^\]]*\]\([^)]*\)", "", text[match.end() :], flags=re.MULTILINE)
            body = tidy(body)[: _PASSAGE_CHARS[language] * 2]
            if len(body) > 80:
                document = "title-" + name.rpartition("/")[2].partition(".")[0]
                found.append((document, talk(asked[language].format(text=body), match[1])))
    chooser.shuffle(found)
    yield from found


def arithmetic(shared: Shared, chooser: random.Random, number: int = 10_000) -> Iterator[tuple[str, Record]]:
    """Sums, differences and small products, worked out digit by digit or part by part."""
    for _ in range(number):
        language = chooser.choice(("en", "zh"))
        kind = chooser.choice("+-*")
        if kind == "*":
            a, b = chooser.randint(2, 99), chooser.randint(2, 9)
            tens, ones = a // 10 * 10, a % 10
            steps = f"{tens}*{b}={tens * b}, {ones}*{b}={ones * b}, {tens * b}+{ones * b}={a * b}"
            result = a * b
        else:
            a, b = chooser.randint(10, 999), chooser.randint(10, 999)
            if kind == "-" and b > a:
                a, b = b, a
            hundreds, tens, ones = b // 100 * 100, b // 10 % 10 * 10, b % 10
            steps, result = "", a
            for part in (hundreds, tens, ones):
                if part:
                    after = result + part if kind == "+" else result - part
                    steps += f"{', ' if steps else ''}{result}{kind}{part}={after}"
                    result = after
        asked = {"en": f"What is {a}{kind}{b}? Show the steps.", "zh": f"计算{a}{kind}{b}，写出步骤。"}[language]
        said = {"en": f"{steps}. The answer is {result}.", "zh": f"{steps}。答案是{result}。"}[language]
        yield f"sum-{a}{kind}{b}", talk(asked, said)


def verses(shared: Shared, chooser: random.Random, number: int = 3000) -> Iterator[tuple[str, Record]]:
    """The rest of a poem of which the first line is given: a regulated one (Tang), or one to a tune (Song)."""
    found = []
    for path, kind in ((TANG, "诗"), (SONG, "词")):
        with gzip.open(shared(path), "rt", encoding="utf-8") as lines:
            for line in lines:
                poem = json.loads(line)
                text = poem["text"].replace("\n", "")
                first, end, rest = text.partition("。")
                if 16 <= len(text) <= 120 and 5 <= len(first) <= 20 and rest:
                    found.append((f"poem-{poem['title']}-{first}", talk(f"续写{kind}《{poem['title']}》：{first}{end}", rest)))
    chooser.shuffle(found)
    yield from found[:number]
