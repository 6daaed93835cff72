"""Small text data, made from a few lists of words: enough to see a loss fall or a classifier learn, and free of any licence."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

Language = Literal["en", "zh"]

#: topic → (things, what they do, when): every combination is a plain sentence.
_ENGLISH: dict[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    "weather": (
        ["The rain", "A cold wind", "The morning fog", "Heavy snow", "The summer heat", "A thin cloud"],
        ["reached the valley", "covered the hills", "faded over the lake", "came from the north", "stayed above the town"],
        ["before dawn", "at noon", "late in the evening", "for three days", "without a warning"],
    ),
    "workshop": (
        ["The lathe", "A worn bearing", "The new motor", "The steel plate", "An old pump", "The welding robot"],
        ["was repaired", "needed more oil", "passed the inspection", "stopped with a fault", "was moved to line 2"],
        ["during the night shift", "after the test run", "on Monday", "in hall 4", "at the end of the month"],
    ),
    "kitchen": (
        ["The soup", "Fresh bread", "A bowl of noodles", "The green tea", "A ripe pear", "The rice"],
        ["was served warm", "smelled of ginger", "cooled on the table", "pleased every guest", "needed a little salt"],
        ["for breakfast", "with some honey", "in a blue dish", "after the walk", "at the small inn"],
    ),
}
_CHINESE: dict[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    "weather": (
        ["细雨", "北风", "晨雾", "大雪", "热浪", "薄云"],
        ["来到了山谷", "盖住了山坡", "在湖面散去", "从海上过来", "停在小镇上空"],
        ["就在天亮之前。", "正好是中午。", "直到傍晚。", "一连下了3天。", "事先没有预报。"],
    ),
    "workshop": (
        ["车床", "旧轴承", "新电机", "钢板", "水泵", "焊接机器人"],
        ["已经修好", "需要加油", "通过了检验", "因故障停机", "搬到了2号线"],
        ["是夜班完成的。", "在试运行之后。", "就在星期一。", "位于4号厂房。", "时间是月底。"],
    ),
    "kitchen": (
        ["鸡汤", "面包", "一碗面条", "绿茶", "熟梨", "米饭"],
        ["趁热端上桌", "带着姜的香味", "在桌上放凉", "让客人很满意", "还要放一点盐"],
        ["当作早餐。", "再加些蜂蜜。", "盛在蓝色盘子里。", "就在散步以后。", "地点是小客栈。"],
    ),
}

#: The labels of `labelled_sentences`.
TOPICS: tuple[str, ...] = tuple(_ENGLISH)


def sentences(count: int, *, language: Language = "en", topic: str | None = None, seed: int = 0) -> list[str]:
    """`count` sentences of one language, of one topic or of all; the same arguments give the same sentences.

    Raises:
        KeyError: the topic is not one of `TOPICS`.
    """
    source = _ENGLISH if language == "en" else _CHINESE
    chooser = random.Random(f"{seed}:{language}:{topic}")
    topics = [topic] if topic is not None else list(source)
    made = []
    for _ in range(count):
        things, actions, times = source[chooser.choice(topics)]
        parts = (chooser.choice(things), chooser.choice(actions), chooser.choice(times))
        made.append(f"{parts[0]} {parts[1]} {parts[2]}." if language == "en" else "".join(parts))
    return made


def labelled_sentences(count: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """`count` pairs of a sentence and its topic; topics and both languages take turns."""
    made = []
    for number in range(count):
        topic = TOPICS[number % len(TOPICS)]
        language: Language = "en" if number // len(TOPICS) % 2 == 0 else "zh"
        made.append((sentences(1, language=language, topic=topic, seed=seed * 100_003 + number)[0], topic))
    return made


def write_text(folder: Path, *, documents: int = 12, sentences_each: int = 40, seed: int = 0) -> Path:
    """Write `documents` files of plain text, English and Chinese in turn, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        language: Language = "en" if number % 2 == 0 else "zh"
        lines = sentences(sentences_each, language=language, seed=seed * 100_003 + number)
        joint = " " if language == "en" else ""
        paragraphs = [joint.join(lines[start : start + 5]) for start in range(0, len(lines), 5)]
        (folder / f"document-{number:03}.txt").write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    return folder


def write_labelled(folder: Path, *, count: int = 60, seed: int = 0) -> Path:
    """Write `count` lines `{"text": …, "label": …}` into `folder/data.jsonl` and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "data.jsonl").open("w", encoding="utf-8") as stream:
        for text, label in labelled_sentences(count, seed=seed):
            stream.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")
    return folder
