"""How much of OpenAI's API the server covers: every property of requests and answers, of the endpoints that it offers.

    python benchmarks/conformance.py [--only responses,evals] [--list unknown] [--keep FOLDER]

The measure is OpenAI's own document, through the types of the installed `openai` package, which are generated from it. Each
property is asked of a real server with a very small model, however deep it lies; unions are followed into each of their forms,
a type that occurs twice in an endpoint counts once.

Of a *request* a property counts by what the server does with it:

- read: a fitting value is taken, and one of another type is refused with a 400 or 422 that names the property.
- refused: a fitting value is refused with a 400 that names the property, or the form that holds it: not offered, and said so.
- unknown: both are taken (it is ignored), or what is said does not name it.

Of an *answer* a property is answered when some answer of that endpoint in this run held it, wherever its form stands. It is not
offered where it belongs to a form (a call of a tool that requests are refused for) that no answer can hold, or to one of the
places that `conformance_endpoints.BEYOND` names with the reason, and missing otherwise.

Covered is what is read, refused by name, answered, or not offered by the same refusal. The peer's figure (OGX, 91.7 %) compares
two documents instead, property by property, over the endpoints that both have; nothing is asked of its server. The strict share
leaves all that is not offered out of the sum.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import types
import typing
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

import openai
import requests
from conformance_endpoints import BEYOND, ENDPOINTS, NOT_OFFERED, Endpoint, Stage, text_value
from elsewhere import Elsewhere
from private_server import PrivateServer
from pydantic import BaseModel
from tiny_models import deploy_encoder, deploy_language, wait_until_ready
from typing_extensions import is_typeddict

Wrap = Callable[[Any], dict[str, Any]]


def bare(tp: Any) -> Any:
    """A type without what is said about it."""
    while get_origin(tp) in (Required, NotRequired, Annotated, typing.Annotated, typing.Required, typing.NotRequired):
        tp = get_args(tp)[0]
    return getattr(tp, "__value__", tp)


def members(tp: Any) -> list[Any]:
    """The forms of a union; a type alone is its only one."""
    tp = bare(tp)
    if get_origin(tp) in (Union, types.UnionType):
        return [each for member in get_args(tp) for each in members(member)]
    return [] if tp is type(None) else [tp]


def kinds(tp: Any) -> set[str]:
    """The JSON types that fit."""
    found: set[str] = {"null"} if type(None) in get_args(bare(tp)) else set()
    for each in members(tp):
        origin = get_origin(each)
        if origin is Literal:
            found |= {"string" if isinstance(value, str) else "number" for value in get_args(each)}
        elif is_typeddict(each) or origin is dict or origin is typing.Mapping:
            found.add("object")
        elif each is str:
            found.add("string")
        elif each is bool:
            found.add("boolean")
        elif each in (int, float):
            found.add("number")
        elif item_of(each) is not None:
            found.add("array")
        else:
            found |= {"string", "number", "boolean", "array", "object"}
    return found


def item_of(tp: Any) -> Any:
    """What a list holds; None where it is none."""
    tp = bare(tp)
    origin = get_origin(tp)
    name = getattr(origin, "__name__", "")
    if origin in (list, Iterable, Sequence, typing.List) or name in ("Iterable", "Sequence", "SequenceNotStr"):  # noqa: UP006
        return get_args(tp)[0]
    return None


_UNDER_WAY = ("validating_files", "validating", "queued", "in_progress", "running", "finalizing")
_WRONG = {"object": {"wrong": [1]}, "array": [[["wrong"]]], "string": "wrong", "number": 17.5, "boolean": True}


def example(tp: Any, name: str, stage: Stage) -> Any:
    """The smallest fitting value."""
    (first, *_) = members(tp)
    origin = get_origin(first)
    if origin is Literal:
        # A text similarity by vectors needs an embedding model, which is not there.
        return next(each for each in get_args(first) if each != "cosine")
    if is_typeddict(first):
        hints = typing.get_type_hints(first, include_extras=True)
        # Needed here wherever there is one: the id of a call, the schema of a form, what an eval's run asks whom.
        needed = {"call_id", "schema"} | ({"model", "input_messages"} if "input_messages" in hints else set())
        needed |= {"server_url", "allowed_tools"} if "server_label" in hints else {"image_url"}
        ids = {"id": "items_file_id"} if form_of(first) == "file_id" else {}
        return {key: example(hints[key], ids.get(key, key), stage) for key in sorted(required(first) | (needed & hints.keys()))}
    if item_of(first) is not None:
        return [example(item_of(first), name, stage)]
    if first is bool:
        return True
    if first is int:
        return stage.numbers.get(name, 1)
    if first is float:
        return stage.numbers.get(name, 0.5)
    if first is str:
        return text_value(name, stage)
    return {"a": "b"} if origin is dict else {"type": "object", "properties": {}}


def required(tp: Any) -> frozenset[str]:
    """Names that a dictionary type must have."""
    hints = typing.get_type_hints(tp, include_extras=True)
    return frozenset(key for key, hint in hints.items() if get_origin(hint) in (Required, typing.Required)) | (
        tp.__required_keys__ if tp.__total__ else frozenset()
    )


def form_of(tp: Any) -> str:
    """What tells a form of a union from the others: the value of its `type` or `role`, or the name of its class."""
    fields = tp.model_fields if isinstance(tp, type) and issubclass(tp, BaseModel) else {}
    hints = typing.get_type_hints(tp, include_extras=True) if not fields else {key: f.annotation for key, f in fields.items()}
    for key in ("type", "role"):
        if key in hints and get_origin(bare(hints[key])) is Literal:
            return str(get_args(bare(hints[key]))[0])
    return str(tp.__name__)


@dataclass
class Property:
    """A property of a request, with a body that uses it rightly and one that does not."""

    path: tuple[str, ...]
    label: str
    good: dict[str, Any]
    bad: dict[str, Any] | None


def walk(tp: Any, path: tuple[str, ...], label: str, wrap: Wrap, stage: Stage, seen: set[Any]) -> Iterator[Property]:
    """Every property at and below a type."""
    forms = members(tp)
    for form in forms:
        item = item_of(form)
        if item is not None:
            yield from walk(item, (*path, "0"), f"{label}[]", lambda value: wrap([value]), stage, seen)
            continue
        if not is_typeddict(form) or form in seen:
            continue
        seen.add(form)
        shown = f"{label}({form_of(form)})" if sum(map(is_typeddict, forms)) > 1 else label
        base = example(form, path[-1] if path else "", stage)
        for name, hint in typing.get_type_hints(form, include_extras=True).items():
            yield from one(name, hint, base, (*path, name), f"{shown}.{name}", wrap, stage, seen)


def one(
    name: str, hint: Any, base: dict[str, Any], path: tuple[str, ...], label: str, wrap: Wrap, stage: Stage, seen: set[Any]
) -> Iterator[Property]:
    """A property of a dictionary, and what lies below it."""

    def inside(value: Any) -> dict[str, Any]:
        return wrap({**base, name: value})

    fits = kinds(hint)
    wrong = next((value for kind, value in _WRONG.items() if kind not in fits), None)
    if wrong is not None and fits == {"string"} and stage.querying:
        wrong = None
    elif wrong is not None and stage.querying:
        wrong = "wrong"
    literals = [value for each in members(hint) if get_origin(each) is Literal for value in get_args(each)]
    if wrong is None and literals:
        wrong = "wrong"
    yield Property(path, label.lstrip("."), inside(example(hint, name, stage)), None if wrong is None else inside(wrong))
    yield from walk(hint, path, label, inside, stage, seen)


@dataclass
class Result:
    """What is known of one endpoint."""

    request: dict[str, str] = field(default_factory=dict)
    answer: dict[str, str] = field(default_factory=dict)
    #: Why a property is unknown.
    why: dict[str, str] = field(default_factory=dict)


class Survey:
    """Asks for every property of every endpoint."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.answers: dict[str, list[Any]] = defaultdict(list)
        self.num_requests = 0
        self.document = stage.http.get(f"{stage.url}/openapi.json", timeout=60).json()

    def ask(self, endpoint: Endpoint, given: dict[str, Any], thing: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Send a request, about `thing` where one is given; what was answered is kept."""
        self.num_requests += 1
        path = endpoint.at(self.stage, thing)
        options: dict[str, Any] = {"params": given} if endpoint.method == "GET" else {"json": given}
        response = self.stage.http.request(endpoint.method, self.stage.url + path, timeout=180, **options)
        if "event-stream" in response.headers.get("content-type", ""):
            events = [json.loads(line[5:]) for line in response.text.splitlines() if line.startswith("data: {")]
            self.answers[f"{endpoint.name} events"] += events
            return response.status_code, events
        said = response.json() if "json" in response.headers.get("content-type", "") else response.text
        if response.status_code < 300:
            self.answers[endpoint.name].append(said)
        return response.status_code, said

    def follow(self, endpoint: Endpoint) -> None:
        """Ask about everything that another endpoint answered with in this run, when what is under way there has ended."""
        answers = [each for each in self.answers[endpoint.follows] if isinstance(each, dict)]
        streamed = [each.get("response") for each in self.answers[f"{endpoint.follows} events"] if isinstance(each, dict)]
        entries = [entry for each in answers for entry in each.get("data") or [each]]
        things = {each["id"]: each for each in [*entries, *filter(None, streamed)] if "id" in each}
        deadline = time.monotonic() + 120
        for thing in things.values():
            status, said = self.ask(endpoint, endpoint.body(self.stage), thing)
            while status == 200 and isinstance(said, dict) and said.get("status") in _UNDER_WAY and time.monotonic() < deadline:
                time.sleep(0.2)
                status, said = self.ask(endpoint, endpoint.body(self.stage), thing)

    def request(self, endpoint: Endpoint, result: Result) -> None:
        """Try every property of an endpoint's requests."""
        base = endpoint.body(self.stage)
        self.stage.querying = endpoint.method == "GET"

        def top(value: dict[str, Any]) -> dict[str, Any]:
            found = {**base, **value}
            for name in value:
                found |= endpoint.beside.get(name, {})
                found |= {name: value[name]}
            return endpoint.agree(found)

        for tp in endpoint.request:
            for name, hint in typing.get_type_hints(tp, include_extras=True).items():
                if name in endpoint.not_in_body:
                    continue
                for found in one(name, hint, {}, (name,), name, top, self.stage, set()):
                    if found.label not in result.request:
                        result.request[found.label] = self.judge(endpoint, found, result)

    def judge(self, endpoint: Endpoint, found: Property, result: Result) -> str:
        status, said = self.ask(endpoint, found.good)
        if self.ended(endpoint, status, said):
            status = 200
        if status >= 300:
            if status in (400, 422, 404, 409) and self.names(said, found.path, whole=False):
                # Refused because of what it is, or accepted and only not found.
                return "refused" if status in (400, 422) else "read"
            result.why[found.label] = f"good: {status} {json.dumps(said)[:300]}"
            return "unknown"
        if found.bad is None:
            # Of a query only what the server's own document names; any value of a body fits.
            return "read" if endpoint.method != "GET" or found.path[-1] in self.queried(endpoint) else "unknown"
        status, said = self.ask(endpoint, found.bad)
        if status in (400, 422) and self.names(said, found.path, whole=True):
            return "read"
        result.why[found.label] = f"bad: {status} {json.dumps(said)[:300] if status >= 300 else 'taken'}"
        return "unknown"

    @staticmethod
    def ended(endpoint: Endpoint, status: int, said: Any) -> bool:
        """Whether all was taken but what is left out on purpose."""
        return bool(endpoint.ends_at) and status >= 300 and (said.get("error") or {}).get("param") == endpoint.ends_at

    def queried(self, endpoint: Endpoint) -> set[str]:
        """Names of the query that the server's document gives for an endpoint."""
        found = self.document["paths"][endpoint.path]["get"].get("parameters", [])
        return {each["name"] for each in found if each["in"] == "query"}

    @staticmethod
    def names(said: Any, path: tuple[str, ...], *, whole: bool) -> bool:
        """Whether an error speaks of a property: its own place, one below, or (unless `whole`) the form that holds it."""
        error = said.get("error", {}) if isinstance(said, dict) else {}
        param = str(error.get("param") or "")
        if not whole:
            # Of a form that is not offered its type is named.
            param = re.sub(r"\.(type|role)$", "", param)
        place = ".".join(path)
        if param == place or param.startswith(f"{place}."):
            return True
        if param and place.startswith(f"{param}.") and (not whole or path[-1] in str(error.get("message"))):
            return True
        return bool(param) and param.split(".")[-1] == path[-1]

    def answer(self, name: str, tp: Any, result: Result, asked_before: dict[str, str]) -> None:
        """Hold the kept answers of an endpoint against the type of its answers.

        Args:
            asked_before: what is known of the requests of the endpoint that it follows.
        """
        held: dict[Any, list[Any]] = defaultdict(list)
        gather(tp, self.answers[name], held)
        _Holding(name, held, result, asked_before).look(tp, "", self.answers[name])


def gather(tp: Any, values: list[Any], held: dict[Any, list[Any]]) -> None:
    """Sort what was answered by its forms, wherever they stand."""
    if not (values := [value for value in values if value is not None]):
        return
    forms = members(tp)
    models = [each for each in forms if isinstance(each, type) and issubclass(each, BaseModel)]
    for form in forms:
        if (item := item_of(form)) is not None:
            gather(item, [each for value in values if isinstance(value, list) for each in value], held)
    for model in models:
        mine = [each for each in values if isinstance(each, dict) and (len(models) == 1 or fits(model, each))]
        if mine:
            held[model] += mine
            for key, described in model.model_fields.items():
                name = described.alias or key
                gather(described.annotation, [each[name] for each in mine if name in each], held)


class _Holding:
    """Every property of an answer, each form once, held against what was answered."""

    def __init__(self, name: str, held: dict[Any, list[Any]], result: Result, asked_before: dict[str, str]) -> None:
        self._prefix = "event " if name.endswith(" events") else ""
        self._name = name
        self._held = held
        self._result = result
        self._off = refused_forms(result.request | asked_before)
        self._seen: set[Any] = set()

    def look(self, tp: Any, label: str, values: list[Any], gone: bool = False) -> None:
        forms = members(tp)
        models = [each for each in forms if isinstance(each, type) and issubclass(each, BaseModel)]
        for form in forms:
            item = item_of(form)
            if item is not None:
                items = [each for value in values if isinstance(value, list) for each in value]
                self.look(item, f"{label}[]", items, gone)
        for model in models:
            if model in self._seen:
                continue
            self._seen.add(model)
            form = form_of(model)
            shown = f"{label}({form})" if len(models) > 1 else label
            mine = self._held.get(model, [])
            absent = gone or (len(models) > 1 and not mine and any(word in form for word in self._off))
            for key, described in model.model_fields.items():
                name = described.alias or key
                place = f"{self._prefix}{shown}.{name}".replace(" .", " ").lstrip(".")
                found = [each[name] for each in mine if name in each]
                state = "answered" if found else "not offered" if absent or self._unoffered(place, name) else "missing"
                if self._result.answer.get(place) != "answered":
                    self._result.answer[place] = state
                self.look(described.annotation, f"{shown}.{name}", found, state == "not offered")

    def _unoffered(self, place: str, name: str) -> bool:
        if name in NOT_OFFERED or self._result.request.get(place.rpartition("response.")[2]) == "refused":
            return True
        for endpoint, pattern, reason in BEYOND:
            if re.search(endpoint, self._name) and re.search(pattern, place):
                self._result.why[place] = reason
                return True
        return False


def refused_forms(asked: dict[str, str]) -> set[str]:
    """The forms of items and tools of which every property is refused."""
    states: dict[str, set[str]] = defaultdict(set)
    for label, state in asked.items():
        for form in re.findall(r"\(([^()]+)\)", label):
            states[form].add(state)
    return NOT_OFFERED | {form for form, found in states.items() if found == {"refused"}}


def fits(model: type[BaseModel], value: dict[str, Any]) -> bool:
    """Whether a value is of this form of a union."""
    told = False
    for key in ("type", "role", "object"):
        hint = model.model_fields.get(key)
        if hint is not None and get_origin(bare(hint.annotation)) is Literal and key in value:
            if value[key] not in get_args(bare(hint.annotation)):
                return False
            told = True
    return told or all((f.alias or key) in value for key, f in model.model_fields.items() if f.is_required())


def show(results: dict[str, Result], listed: str | None) -> float:
    total: Counter[str] = Counter()
    print(f"{'endpoint':44} {'read':>8} {'refused':>8} {'unknown':>8} | {'answered':>8} {'not off.':>8} {'missing':>8}")
    for name, result in results.items():
        asked, said = Counter(result.request.values()), Counter(result.answer.values())
        total += asked + said
        row = [asked[each] for each in ("read", "refused", "unknown")]
        row += [said[each] for each in ("answered", "not offered", "missing")]
        print(f"{name:44} {row[0]:8} {row[1]:8} {row[2]:8} | {row[3]:8} {row[4]:8} {row[5]:8}")
        if listed:
            for label, state in [*result.request.items(), *result.answer.items()]:
                if state == listed:
                    print(f"      {label}   {result.why.get(label, '')}")
    good, off = total["read"] + total["answered"], total["refused"] + total["not offered"]
    bad = total["unknown"] + total["missing"]
    share = (good + off) / (good + off + bad)
    print(f"{good + off + bad} properties: {dict(total)}")
    print(f"covered: {share:.1%} (peer: 91.7 %); strictly, without what is not offered: {good / (good + bad):.1%}")
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="only endpoints whose names contain one of these, with commas between")
    parser.add_argument("--keep", type=Path, help="a folder for the server and its models, used again where they are there")
    parser.add_argument("--list", choices=["unknown", "missing", "refused", "not offered", "read", "answered"])
    parser.add_argument("--at-least", type=float, default=0.97)
    arguments = parser.parse_args()
    began = time.monotonic()
    settings = {"log_level": "error", "slots_cpu": "1", "egress_allow": '["127.0.0.1"]'}
    with Elsewhere() as elsewhere, PrivateServer(shown=False, keep=arguments.keep, **settings) as server:
        with server.client() as client:
            client.deployments.apply("refusing", base_url=f"{elsewhere.url}/v1")
            there = [each["name"] for each in client.deployments.list()]
            if "tiny" not in there:
                deploy_language(client, "tiny", server.folder / "text", context_length=1024, tools=True)
            if "encoder" not in there:
                deploy_encoder(client, "encoder", server.folder / "pairs")
            for name in ("tiny", "encoder"):
                wait_until_ready(client, name)
            http = requests.Session()
            http.headers["authorization"] = f"Bearer {server.key}"
            survey = Survey(Stage(server.url, http, client, elsewhere.url))
        results: dict[str, Result] = {}
        for endpoint in ENDPOINTS:
            if not any(part in endpoint.name for part in arguments.only.split(",")):
                continue
            result = results[endpoint.name] = Result()
            survey.request(endpoint, result)
            for body in endpoint.scenes(survey.stage):
                status, said = survey.ask(endpoint, body)
                if status >= 300:
                    print(f"{endpoint.name}: {status} {json.dumps(said)[:300]}", file=sys.stderr)
            if endpoint.follows:
                survey.follow(endpoint)
            before = results[endpoint.follows].request if endpoint.follows in results else {}
            survey.answer(endpoint.name, endpoint.answer, result, before)
            if endpoint.events is not None:
                survey.answer(f"{endpoint.name} events", endpoint.events, result, before)
            counts = dict(Counter([*result.request.values(), *result.answer.values()]))
            print(f"{endpoint.name}: {counts}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(f"openai {openai.__version__}, {survey.num_requests} requests")
    sys.exit(0 if show(results, arguments.list) >= arguments.at_least else 1)


if __name__ == "__main__":
    main()
