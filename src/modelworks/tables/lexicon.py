"""The words with which questions ask for figures, in English and Chinese. What is in none of these lists means something."""

from __future__ import annotations

import re
from typing import Final

from modelworks.tables.card import atoms

#: What stands between contents and says nothing of its own. Verbs are here only where they join a thing to what it has.
_STOPS: Final = """
a an the of in on at for to from with is are was were be been being do does did has have had there it its that
those these this any all me please find tell get what much value values still ever as their they whose where
and or i you can could would we our live lives lived place placed measure measured record recorded observe
observed include included contain contained exist exists belong belongs reach reached having during over's
within among out overall entire whole together now currently s
"""
_STOPS_ZH: Final = """
的 了 是 为 有 在 中 里 上 内 和 与 及 请 问 请问 一共 总共 共有 共 吗 呢 什么 多少 多 几 这
些 那 我 想 知道 告诉 一下 下 它 其 其中 里面 当中 之间 所有 全部 记录到 达到 于 位于 来自 属于
对应 以及 或 或者 还 被 将 会 要 能 可以 给 由 由于 ？ 分别 各自 值 做 个 时 期间 们 该 当
"""

#: Kind, what it says, and phrases for it; longer phrases are tried first.
_PHRASES: Final[tuple[tuple[str, str, str], ...]] = (
    ("count", "", "how many|number of|count of|count|how many of|the number of|数量|个数|总数|条数|数目|人数|次数"),
    ("agg", "avg", "average|mean|平均值|平均数|平均|均值"),
    ("agg", "sum", "sum|total|combined|总和|合计|总计|之和|总"),
    ("agg", "max", "maximum|max|最大值|最高值"),
    ("agg", "min", "minimum|min|最小值|最低值"),
    ("top", "desc", "highest|largest|greatest|biggest|most|最高|最大|最多"),
    ("top", "asc", "lowest|smallest|least|fewest|最低|最小|最少"),
    ("top", "desc price", "most expensive|priciest|costliest|最贵"),
    ("top", "asc price", "cheapest|least expensive|最便宜"),
    ("top", "desc age", "oldest|年龄最大|最年长"),
    ("top", "asc age", "youngest|年龄最小|最年轻"),
    ("top", "desc length", "longest|最长"),
    ("top", "asc length", "shortest|最短"),
    ("top", "desc temperature", "hottest|warmest|最热"),
    ("top", "asc temperature", "coldest|最冷"),
    ("top", "desc weight", "heaviest|最重"),
    ("top", "asc weight", "lightest|最轻"),
    ("top", "desc date", "latest|newest|most recent|最新|最近|最晚"),
    ("top", "asc date", "earliest|最早"),
    (
        "compare",
        ">",
        "above|over|more than|greater than|higher than|larger than|bigger than|exceed|exceeding|大于|超过|高于|多于|超出",
    ),
    ("compare", ">=", "at least|no less than|not less than|大于等于|不低于|不少于|不小于|至少"),
    ("compare", "<", "below|under|less than|fewer than|lower than|smaller than|小于|低于|少于|不到|不足"),
    ("compare", "<=", "at most|no more than|not more than|up to|小于等于|不超过|不高于|不大于|不多于|至多"),
    ("compare", "=", "equal to|equals|equal|exactly|等于"),
    ("compare", "> age", "older than"),
    ("compare", "< age", "younger than"),
    ("compare", "> price", "more expensive than"),
    ("compare", "< price", "cheaper than"),
    ("compare", "> length", "longer than"),
    ("compare", "< length", "shorter than"),
    ("compare", "> date", "after|later than"),
    ("compare", ">= date", "since"),
    ("compare", "< date", "before|earlier than"),
    ("after", ">=", "or more|and above|or above|or higher|及以上|以上"),
    ("after", "<=", "or less|or fewer|and below|or below|or lower|及以下|以下"),
    ("after", "> date", "之后"),
    ("after", "< date", "之前"),
    ("between", "", "between|from|介于|从"),
    ("range", "", "and|to|until|through|到|至|与|和"),
    (
        "group",
        "",
        (
            "by|per|for each|of each|in each|each|every|grouped by|broken down by|for every|"
            "按|按照|每个|每位|每种|每一|每一个|每|各个|各位|各种|各"
        ),
    ),
    ("order", "", "ordered by|sorted by|ranked by|sort by|排序"),
    ("which", "", "which|who|哪个|哪位|哪些|哪种|哪家|哪一个|哪一位|哪几个|哪里|哪|谁"),
    ("when", "", "when|which day|what day|on which day|on what day|何时|什么时候|哪天|哪一天"),
    ("distinct", "", "different|distinct|unique|不同|不重复"),
    (
        "share",
        "",
        "what share of|share of|share|percentage of|what percentage of|what percent of|percent of|proportion of|fraction of|"
        "占比|比例|百分比|占多大比例|多大比例|占百分之几|百分之几|占多少",
    ),
    ("first", "", "top|first|排名前|排前|前"),
    ("list", "", "list|show|give|display|列出|显示|列举"),
    ("rows", "", "record|row|entry|记录|数据记录|行"),
    ("day", "", "day|days|日子|天"),
    ("year", "", "year|年|年份"),
    ("month", "", "month|月|月份"),
    (
        "not",
        "",
        "not|without|except|excluding|other than|never|no|non|neither|nor|isn|aren|wasn|weren|don|doesn|didn|hasn|haven|"
        "不|没有|没|非|除|除了|未|无",
    ),
    ("or", "", "or|或|或者"),
    ("unit", "", "degree|dollar|usd|eur|cny|rmb|yuan|percent|度|元|美元|岁|人民币"),
)
#: Words that count things in Chinese: behind a number or a word that asks for one they say only that.
MEASURES: Final = frozenset("个位名家种次本篇件笔行人辆座首条项张天部只台套份间所起处")
#: What columns of these meanings are called.
MEANINGS: Final[dict[str, tuple[str, ...]]] = {
    "price": ("price", "unit price", "cost", "价格", "单价", "售价", "金额"),
    "age": ("age", "年龄"),
    "length": ("length", "duration", "长度", "时长", "字数"),
    "temperature": ("temperature", "temp", "温度", "气温"),
    "weight": ("weight", "重量", "体重"),
    "date": ("date", "日期", "时间"),
}


def _keys(phrases: str) -> list[tuple[str, ...]]:
    return [tuple(atoms(each)) or (each,) for each in phrases.split("|")]


#: Phrases as atoms, with all that they may say.
PHRASES: Final[dict[tuple[str, ...], list[tuple[str, str]]]] = {}
for _kind, _said, _written in _PHRASES:
    for _key in _keys(_written):
        PHRASES.setdefault(_key, []).append((_kind, _said))
STOPS: Final = frozenset(tuple(atoms(each)) for each in (*_STOPS.split(), *_STOPS_ZH.split()) if atoms(each))
MAX_PHRASE_ATOMS: Final = max(len(key) for key in (*PHRASES, *STOPS))

_MONTH_WORDS: Final = """
january february march april may june july august september october november december
"""
_MONTH_NAMES: Final = _MONTH_WORDS.split()
MONTHS: Final = {name: number for number, name in enumerate(_MONTH_NAMES, 1)} | {
    name[:3]: number for number, name in enumerate(_MONTH_NAMES, 1)
}
_NAMED: Final = "|".join([*_MONTH_NAMES, *(f"{name[:3]}\\.?" for name in _MONTH_NAMES)])
#: Dates as questions write them: year, month and day under these names.
DATES: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<!\d)(?P<y>\d{4})[-/](?P<m>\d{1,2})[-/](?P<d>\d{1,2})(?!\d)",
        r"(?<!\d)(?P<y>\d{4})\s*年\s*(?P<m>\d{1,2})\s*月\s*(?P<d>\d{1,2})\s*[日号]",
        rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<n>{_NAMED}),?\s+(?P<y>\d{{4}})\b",
        rf"\b(?P<n>{_NAMED})\s+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<y>\d{{4}})\b",
        r"(?<!\d)(?P<y>\d{4})\s*年\s*(?P<m>\d{1,2})\s*月份?",
        rf"\b(?P<n>{_NAMED}),?\s+(?:of\s+)?(?P<y>\d{{4}})\b",
        r"(?<![\d-])(?P<y>(?:19|20)\d{2})-(?P<m>0[1-9]|1[0-2])(?![\d-])",
        r"(?<!\d)(?P<y>(?:1[5-9]|20)\d{2})\s*年(?!龄)",
        r"\b(?:in|during|of|for|since|before|after|until|from|to|between|and|the year|year)\s+"
        r"(?P<y>(?:1[5-9]|20)\d{2})\b(?![.,]\d)",
        r"(?<!\d)(?P<m>\d{1,2})\s*月份?(?!\d)",
        rf"\b(?:in|during|of|for|every|each)\s+(?P<n>{'|'.join(_MONTH_NAMES)})\b",
    )
)
NUMBER: Final = re.compile(
    r"(?<![A-Za-z0-9_.])[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*(?:万|亿|million|thousand|billion|k))?(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
SCALES: Final = {"万": 10_000, "亿": 100_000_000, "thousand": 1000, "k": 1000, "million": 1_000_000, "billion": 1_000_000_000}
