"""What a chat model is asked about a text, and how its answer becomes categories and scores.

The answer is held to its form while it is written (`response_format`), so that it always holds every category. A score is what
the model itself thought at the moment of its decision: P(true) / (P(true) + P(false)), read from the token with which the value
of the category begins and from the alternatives to it. Where a server gives no probabilities, a score is 0 or 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

import orjson

from modelworks.contract.errors import UpstreamFailed

#: OpenAI's categories, each with what falls into it.
CATEGORIES: Final[Mapping[str, str]] = {
    "harassment": "insults, mocks or torments a person or group, or calls for that",
    "harassment/threatening": "harassment that also wishes or threatens harm to its target",
    "hate": "hatred of people for race, gender, ethnicity, religion, nationality, sexual orientation, disability or caste",
    "hate/threatening": "hatred of that kind that also wishes or threatens harm",
    "illicit": "instructions or advice for a crime or another wrongdoing",
    "illicit/violent": "instructions or advice for a violent crime, or for getting or making weapons",
    "self-harm": "promotes, encourages or depicts suicide, cutting, eating disorders or other harm to oneself",
    "self-harm/intent": "the writer says that they harm themselves or mean to",
    "self-harm/instructions": "encourages self-harm or tells how to do it",
    "sexual": "means to arouse, or promotes sexual services; education and health do not count",
    "sexual/minors": "sexual content with anybody under 18",
    "violence": "death, violence or injury is depicted",
    "violence/graphic": "death, violence or injury is depicted in graphic detail",
}
#: So many alternatives to each token are looked at: the most that the protocol has, as they count before the form is applied.
_TOP: Final = 20
_BEFORE_VALUE: Final = b' \t\r\n":'
_VALUES: Final = (b"true", b"false")


@cache
def policy() -> str:
    """What the model is told about its task."""
    page = files(__package__).joinpath("policy.md").read_text("utf-8")
    listed = "\n".join(f"- {name}: {meaning}" for name, meaning in CATEGORIES.items())
    return page.partition("\n---\n")[2].strip().replace("{{categories}}", listed)


def question(model: str, text: str) -> dict[str, Any]:
    """The chat that judges a text: a body of POST /v1/chat/completions."""
    schema = {
        "type": "object",
        "properties": {name: {"type": "boolean"} for name in CATEGORIES},
        "required": [*CATEGORIES],
        "additionalProperties": False,
    }
    return {
        "model": model,
        "messages": [{"role": "system", "content": policy()}, {"role": "user", "content": text}],
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": _TOP,
        "response_format": {"type": "json_schema", "json_schema": {"name": "moderation", "schema": schema, "strict": True}},
    }


def result(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An item of the route's `results` from the chat's answer.

    Raises:
        UpstreamFailed: the answer has not the form that was asked for: a server elsewhere does not hold to it, or it was cut.
    """
    choice = answer["choices"][0]
    content = choice["message"].get("content") or ""
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict) or any(not isinstance(said.get(name), bool) for name in CATEGORIES):
        raise UpstreamFailed(
            "The model did not judge the text in the form that it was asked for.",
            hint="Take a chat model whose answers are held to JSON schemas, with room for the text and 1,000 tokens.",
        )
    likely = _likelihoods(content.encode(), ((choice.get("logprobs") or {}).get("content")) or [])
    scores = {name: likely.get(name, float(said[name])) for name in CATEGORIES}
    flagged = {name: score >= 0.5 for name, score in scores.items()}
    return {
        "flagged": any(flagged.values()),
        "categories": flagged,
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
    }


def _likelihoods(content: bytes, entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How likely each category is, where the tokens tell it."""
    tokens = [_bytes(entry) for entry in entries]
    if b"".join(tokens) != content:
        return {}
    found: dict[str, float] = {}
    for name in CATEGORIES:
        match = re.search(re.escape(orjson.dumps(name)) + rb"\s*:\s*(?=true|false)", content)
        if match is None:
            continue
        start = 0
        for token, entry in zip(tokens, entries, strict=True):
            if start <= match.end() < start + len(token):
                if (likely := _likelihood(token[: match.end() - start], entry)) is not None:
                    found[name] = likely
                break
            start += len(token)
    return found


def _likelihood(before: bytes, entry: Mapping[str, Any]) -> float | None:
    """P(true) among the tokens that say either, in place of a token of which the value begins after `before`."""
    sums = [0.0, 0.0]
    choices = {_bytes(each): each["logprob"] for each in (*(entry.get("top_logprobs") or ()), entry)}
    for token, logprob in choices.items():
        value = token[len(before) :] if token.startswith(before) else token
        value = value.lstrip(_BEFORE_VALUE)
        for which, word in enumerate(_VALUES):
            if value and (word.startswith(value) or value.startswith(word)):
                sums[which] += math.exp(logprob)
    return sums[0] / sum(sums) if sum(sums) > 0 else None


def _bytes(entry: Mapping[str, Any]) -> bytes:
    given = entry.get("bytes")
    return bytes(given) if given is not None else str(entry.get("token", "")).encode()
