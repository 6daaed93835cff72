"""The whole API under requests that nobody would send: no 5xx, and no answer that contradicts the OpenAPI document.

    python benchmarks/fuzz.py --cases 20000 [--seed 1] [--only /v1/responses]

A real server with a real (very small) model, asked over HTTP with a key that may do everything. Four kinds of cases:

- *drawn* (6 of 10): schemathesis draws requests for every operation of the document that the server itself publishes, half of
  them valid by it and half not; three quarters of the ids in paths and half of those in bodies name things that exist.
- *bent* (2 of 10): good bodies that use much of a route, with one to three of their places, at any depth, replaced or removed.
- *raw* (1 of 10): bodies that no JSON library would write: cut off, wrong UTF-8, ten thousand brackets, a number of a thousand
  digits.
- *forms* (1 of 10): JSON schemas, valid and not, as the form of an answer and as the parameters of tools.

Every answer must have a status below 500, a status, media type and body that the document describes, and a stream that ends
without an error of the server's own. Answers to schemas must be 200 or a 400 that names its place. Nothing is retried; the
server must be the same process in the end, and ready. Only what would cost hours is bounded: at most 8 tokens and 4 choices,
and no deployment or training is started on purpose. Status 1 when anything is found.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import psutil
import requests
import schemathesis
from fuzz_bodies import MODEL, PATCH, PUT, RAW, RICH, SAID, bent, filled
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from private_server import PrivateServer
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from shelf import GUIDE
from things import Things
from tiny_models import deploy_language

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
#: Operations that start processes of their own when what they name exists.
COSTLY = ("/api/deployments", "/api/runs", "/api/adapters", "/api/models", "/v1/fine_tuning", "/api/sources")
_LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


class Fuzz:
    """The cases, and what was found."""

    def __init__(self, server: PrivateServer, seed: int) -> None:
        self.url = server.url
        self.http = requests.Session()
        self.http.headers["authorization"] = f"Bearer {server.key}"
        self.chance = random.Random(seed)
        self.seed = seed
        self.statuses: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        self.found: dict[tuple[str, str, str], str] = {}
        #: Answers by method and path, as the document writes them, and by class of their status.
        self.answers: dict[tuple[str, str], Counter[int]] = {}
        self._number = 0
        self.document = self.http.get(f"{self.url}/openapi.json", timeout=60).json()
        with server.client() as client:
            self.things = Things(self.url, self.http, client)

    @property
    def cases(self) -> int:
        """How many requests were sent as cases."""
        return sum(self.kinds.values())

    def note(self, operation: str, what: str, detail: str, shown: str) -> None:
        """Keep the first example of each finding."""
        key = (operation, what, detail)
        if key not in self.found:
            print(f"FOUND {operation}: {what}: {detail}\n    {shown[:1200]}", flush=True)
        self.found.setdefault(key, shown)

    def _count(self, method: str, path: str, status: int) -> None:
        self.statuses[status] += 1
        self.answers.setdefault((method, path), Counter())[status // 100] += 1
        if self.cases % 500 == 0:
            print(f"{self.cases} cases, now {method} {path}", file=sys.stderr, flush=True)

    def _move_on(self, path: str) -> None:
        """Published spaces count by address: ask from another one now and then."""
        self._number += 1
        if path.startswith(("/embed", "/share")) and self._number % 10 == 0:
            number = self._number // 10
            self.http.mount(self.url, _From(f"127.{number // 62_500 % 250}.{number // 250 % 250}.{number % 250 + 2}"))

    # Cases that the document describes, and their neighbours.

    def drawn(self, count: int, only: str) -> None:
        """`count` cases over all operations, as evenly as they have any."""
        config = schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}})
        schema = schemathesis.openapi.from_dict(self.document, config=config)
        operations = [found.ok() for found in schema.get_all_operations()]
        operations = [each for each in operations if each.path.startswith(only)]
        # What ends things comes last, and each operation gets its things anew.
        operations.sort(key=lambda each: (each.method.upper() == "DELETE", each.path))
        left = count
        for number, operation in enumerate(operations):
            share = left // (2 * (len(operations) - number)) or 1
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                left -= self._operation(operation, mode, share)
            self.things.tidy()

    def _operation(self, operation: Any, mode: GenerationMode, count: int) -> int:
        names = [each["name"] for each in _parameters(self.document, operation) if each["in"] == "path"]
        ids = self.things.of(operation.method.upper(), operation.path, names)
        bodies = {} if operation.path.startswith(COSTLY) else self.things.bodies()
        headers, query = self.things.shelf.dressed(operation.path)
        declared = _declared(self.document, operation)
        sent = 0
        settings = hypothesis.settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )

        @hypothesis.seed(self.seed)
        @settings
        @hypothesis.given(operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            nonlocal sent
            if sent >= count:
                return
            for name, value in ids.items():
                if value and self.chance.random() < 0.75:
                    case.path_parameters[name] = value
            if self.chance.random() < 0.9:
                case.headers.update(headers)
            if query and self.chance.random() < 0.75:
                case.query = {**(case.query or {}), **query}
            self._change(case, bodies, declared)
            self._move_on(operation.path)
            self._send(case, operation)
            sent += 1

        # An operation without parameters has no invalid cases.
        with contextlib.suppress(hypothesis.errors.Unsatisfiable, schemathesis.errors.SchemathesisError):
            try:
                send()
            except BaseException as error:
                if type(error).__name__ != "Skipped":
                    raise
        return sent

    def _change(self, case: Any, bodies: dict[str, Any], declared: frozenset[str]) -> None:
        """Let a body name what exists, and ask for little."""
        body = case.body
        if isinstance(body, str) and case.path.endswith("/session") and self.chance.random() < 0.5:
            case.body = self.things.shelf.token
        if not isinstance(body, dict):
            return
        published = self.things.shelf.answer if case.path.startswith("/embed") else {}
        case.body = body = self._named(body, bodies | published)
        if bodies and "model" in declared and self.chance.random() < 0.9:
            body["model"] = f"space:{GUIDE}" if self.chance.random() < 0.1 else MODEL
        lengths = [name for name in _LENGTHS if name in declared]
        for name in lengths:
            if isinstance(body.get(name), int) and body[name] > 8:
                body[name] = self.chance.randint(1, 8)
        if lengths and not any(name in body for name in lengths):
            body[lengths[-1]] = self.chance.randint(1, 8)
        if isinstance(body.get("n"), int) and body["n"] > 4:
            body["n"] = self.chance.randint(1, 4)

    def _named(self, node: Any, known: dict[str, Any]) -> Any:
        """Half of the places that have the name of something that exists hold it."""
        if isinstance(node, dict):
            return {
                key: known[key] if key in known and self.chance.random() < 0.5 else self._named(value, known)
                for key, value in node.items()
            }
        return [self._named(value, known) for value in node] if isinstance(node, list) else node

    def _send(self, case: Any, operation: Any) -> None:
        label = f"{operation.method.upper()} {operation.path}"
        self.kinds["drawn"] += 1
        try:
            answer = case.call(base_url=self.url, session=self.http, timeout=120)
        except requests.RequestException as error:
            self.note(label, "no answer", type(error).__name__, f"{error}: {case.as_curl_command()}")
            return
        self._count(operation.method.upper(), operation.path, answer.status_code)
        self._look_into_stream(label, answer.headers.get("content-type", [""])[0], answer.content, case.as_curl_command)
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                detail = _first_line(failure) + f" [{answer.status_code} {_code(answer.content)}]"
                shown = f"{case.as_curl_command()}\n    -> {answer.content[:600]!r}\n    {str(failure)[:600]}"
                self.note(label, type(failure).__name__, detail, shown)

    def _look_into_stream(self, label: str, kind: str, content: bytes, shown: Callable[[], str]) -> None:
        """An error of the server's own in the middle of a stream is a 5xx that came too late for its status."""
        if "event-stream" not in kind and "ndjson" not in kind:
            return
        for line in content.splitlines():
            data = line.removeprefix(b"data:").strip()
            if not data.startswith(b"{"):
                continue
            said = json.loads(data)
            error = said.get("error") or (said.get("response") or {}).get("error") or {}
            if isinstance(error, dict) and "server_error" in (error.get("type"), error.get("code")):
                self.note(label, "error in the stream", str(error.get("code")), f"{shown()} -> {data[:600]!r}")

    # Bodies that are no JSON, or JSON of the worst kind.

    def raw(self, count: int, only: str) -> None:
        """`count` bodies over all operations that take one."""
        operations = [
            (method.upper(), path)
            for path, methods in self.document["paths"].items()
            for method, described in methods.items()
            if method in ("post", "put", "patch") and path.startswith(only) and "requestBody" in described
        ]
        for _ in range(count if operations else 0):
            method, path = self.chance.choice(operations)
            body = self.chance.choice(RAW)
            names = _names(path)
            ids = self.things.of("GET", path, names) if self.chance.random() < 0.5 else {}
            asked = path
            for name in names:
                asked = asked.replace("{" + name + "}", ids.get(name) or ("run_1" if name.endswith("_id") else MODEL))
            kind = self.chance.choice(
                ["application/json", "application/json", "text/plain", "multipart/form-data; boundary=a", ""]
            )
            headers = {"content-type": kind} if kind else {}
            headers |= self.things.shelf.dressed(path)[0]
            self._ask("raw", method, path, body, headers, {*range(400, 500), 200, 201, 202, 204}, asked)

    def bent(self, count: int, only: str) -> None:
        """`count` bodies that are nearly right."""
        rich = [each for each in RICH if each[0].startswith(only)]
        known = self.things.bodies() | self.things.shelf.answer if rich else {}
        for number in range(count if rich else 0):
            path, good = self.chance.choice(rich)
            body = bent(filled(good, known), self.chance)
            if path.startswith("/v1") and self.chance.random() < 0.2:
                body["stream"] = True
            method = "PUT" if path in PUT else "PATCH" if path in PATCH else "POST"
            headers = {"content-type": "application/json", **self.things.shelf.dressed(path)[0]}
            asked = path
            for name, value in self.things.of(method, path, _names(path)).items():
                asked = asked.replace("{" + name + "}", value)
            allowed = {*range(400, 500), 200, 201, 202, 204}
            self._ask("bent", method, path, json.dumps(body).encode(), headers, allowed, asked)
            if number % 100 == 99:
                self.things.tidy()
        self.things.tidy()

    # Schemas for answers and tools.

    def forms(self, count: int, only: str) -> None:
        """`count` schemas on the routes that take some."""
        routes = [each for each in _FORMS if each.startswith(only)]
        settings = hypothesis.settings(
            max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
        )

        @hypothesis.seed(self.seed)
        @settings
        @hypothesis.given(_schemas())
        def send(schema: Any) -> None:
            route = self.chance.choice(routes)
            body, place = self.chance.choice(_FORMS[route])(schema)
            body |= {"model": MODEL, "stream": self.chance.random() < 0.3}
            headers = {"content-type": "application/json"}
            answer = self._ask("forms", "POST", route, json.dumps(body).encode(), headers, {200, 400})
            if answer is not None and answer.status_code == 400:
                error = answer.json()["error"]
                # Where the schema is at fault, its place is named.
                # Python writes infinity as no JSON at all.
                if error["code"] not in ("context_length_exceeded", "invalid_json") and not str(error["param"]).startswith(
                    place
                ):
                    self.note(f"POST {route}", "refused without its place", str(error["param"]), f"{schema} -> {error}")

        if routes and count:
            send()

    def _ask(
        self,
        kind: str,
        method: str,
        path: str,
        body: bytes,
        headers: dict[str, str],
        allowed: set[int],
        asked: str | None = None,
    ) -> requests.Response | None:
        """Ask `path`, as `asked` fills it."""
        self.kinds[kind] += 1
        label = f"{method} {path}"
        self._move_on(path)
        try:
            answer = self.http.request(method, self.url + (asked or path), data=body, headers=headers, timeout=120)
        except requests.RequestException as error:
            self.note(label, "no answer", type(error).__name__, f"{headers} {body[:300]!r}")
            return None
        self._count(method, path, answer.status_code)
        shown = f"{headers} {body[:600]!r} -> {answer.content[:600]!r}"
        if answer.status_code not in allowed:
            self.note(label, f"status {answer.status_code}", _code(answer.content), shown)
        self._look_into_stream(label, answer.headers.get("content-type", ""), answer.content, lambda: shown)
        return answer


class _From(requests.adapters.HTTPAdapter):
    """Asks from one address of this machine."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, source_address=(self._address, 0), **more)


def _names(path: str) -> list[str]:
    return re.findall(r"{(.*?)}", path)


def _declared(document: dict[str, Any], operation: Any) -> frozenset[str]:
    """The fields that an operation's JSON body has by the document."""
    content = document["paths"][operation.path][operation.method.lower()].get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return frozenset(schema.get("properties", {}))


def _group(path: str) -> str:
    """`/v1/files`, `/api/spaces/…/sources`: what routes are counted by."""
    parts = path.split("/")
    found = "/".join(parts[:3]) if not parts[2:3] or not parts[2].startswith("{") else "/" + parts[1]
    deep = found in ("/api/spaces", "/v1/vector_stores") and len(parts) > 4
    return f"{found}/…/{parts[4]}" if deep else found


def _parameters(document: dict[str, Any], operation: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["paths"][operation.path][operation.method.lower()].get("parameters", [])
    return found


def _first_line(failure: Any) -> str:
    return str(getattr(failure, "message", "") or failure).strip().splitlines()[0][:160] if str(failure).strip() else ""


def _code(content: bytes | None) -> str:
    try:
        said = json.loads(content or b"")
        return str(said["error"].get("code") or said["error"].get("type"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _chat_form(schema: Any) -> tuple[dict[str, Any], str]:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    return {"messages": SAID, "response_format": form, "max_tokens": 8}, "response_format"


def _chat_tools(schema: Any) -> tuple[dict[str, Any], str]:
    tool = {"type": "function", "function": {"name": "act", "parameters": schema}}
    return {"messages": SAID, "tools": [tool], "tool_choice": "required", "max_tokens": 8}, "tools"


def _response_form(schema: Any) -> tuple[dict[str, Any], str]:
    form = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
    return {"input": "Say something.", "text": {"format": form}, "max_output_tokens": 16}, "text"


def _response_tools(schema: Any) -> tuple[dict[str, Any], str]:
    tool = {"type": "function", "name": "act", "parameters": schema, "strict": False}
    return {"input": "Say something.", "tools": [tool], "tool_choice": "required", "max_output_tokens": 16}, "tools"


def _message_tools(schema: Any) -> tuple[dict[str, Any], str]:
    tool = {"name": "act", "input_schema": schema}
    return {"messages": SAID, "tools": [tool], "tool_choice": {"type": "any"}, "max_tokens": 8}, "tools"


_FORMS: dict[str, list[Callable[[Any], tuple[dict[str, Any], str]]]] = {
    "/v1/chat/completions": [_chat_form, _chat_tools],
    "/v1/responses": [_response_form, _response_tools],
    "/v1/messages": [_message_tools],
}


def _schemas() -> st.SearchStrategy[Any]:
    """JSON schemas: most of their keywords with the right kind of value, some with any."""
    names = st.sampled_from(["a", "b", "name", "", "é", "$ref", "x" * 60])
    anything = st.recursive(
        st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=6,
    )
    kinds = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])
    small = st.integers(0, 5)
    patterns = st.sampled_from(["^a+$", "[0-9]{2,4}", "(", "(?=a)b", r"\d+\.\d*", "a{99999}", "^(a+)+$", "\\u0000", r"\p{L}"])

    def node(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        right: dict[str, st.SearchStrategy[Any]] = {
            "type": kinds | st.lists(kinds, min_size=1, max_size=3),
            "properties": st.dictionaries(names, inner, max_size=3),
            "required": st.lists(names, max_size=2),
            "additionalProperties": st.booleans() | inner,
            "patternProperties": st.dictionaries(patterns, inner, max_size=2),
            "items": inner,
            "prefixItems": st.lists(inner, max_size=2),
            "minItems": small,
            "maxItems": small,
            "uniqueItems": st.booleans(),
            "enum": st.lists(anything, max_size=3),
            "const": anything,
            "anyOf": st.lists(inner, max_size=3),
            "oneOf": st.lists(inner, max_size=2),
            "allOf": st.lists(inner, max_size=2),
            "not": inner,
            "pattern": patterns,
            "format": st.sampled_from(["date", "date-time", "uuid", "email", "ipv4", "nonsense"]),
            "minLength": small,
            "maxLength": st.integers(0, 10**12),
            "minimum": st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False),
            "maximum": st.integers(-100, 100),
            "multipleOf": st.sampled_from([0, 1, 0.1, -3, 1e-300]),
            "$ref": st.sampled_from(["#", "#/properties/a", "#/$defs/a", "http://127.0.0.1:1/x", "#/nowhere", ""]),
            "$defs": st.dictionaries(names, inner, max_size=2),
            "if": inner,
            "then": inner,
        }
        keyword = st.sampled_from(sorted(right))

        def pair(name: str) -> st.SearchStrategy[tuple[str, Any]]:
            wrong = st.tuples(st.just(name), anything)
            return st.one_of(*[st.tuples(st.just(name), right[name])] * 12, wrong)

        return st.lists(keyword.flatmap(pair), max_size=4).map(dict)

    deep = st.recursive(st.booleans() | st.just({}) | kinds.map(lambda kind: {"type": kind}), node, max_leaves=8)
    rooted = deep.map(lambda schema: {"type": "object", **schema} if isinstance(schema, dict) else schema)
    return rooted | deep | anything


def bugs(log: str) -> Counter[str]:
    """The defects that a server's log (JSON) tells of: the place and the error that each ended with."""
    found: Counter[str] = Counter()
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("exception"):
            lines = str(entry["exception"]).strip().splitlines()
            places = [each.strip() for each in lines if "modelworks" in each and each.strip().startswith("File")]
            found[f"{lines[-1][:300]} {places[-1] if places else ''}"] += 1
    return found


def _tasks(arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    if arguments.kind:
        yield arguments.kind, arguments.cases
        return
    tenth = arguments.cases // 10
    yield "drawn", arguments.cases - 4 * tenth
    yield "bent", 2 * tenth
    yield "raw", tenth
    yield "forms", tenth


def show(fuzz: Fuzz) -> None:
    """Answers by group of routes, and which operations never did what they were asked for."""
    groups: dict[str, Counter[int]] = {}
    for (_, path), counts in fuzz.answers.items():
        groups.setdefault(_group(path), Counter()).update(counts)
    print(f"{'':36}{'2xx':>7}{'3xx':>7}{'4xx':>7}{'5xx':>7}")
    for group, counts in sorted(groups.items()):
        print(f"{group:36}" + "".join(f"{counts[each]:7}" for each in (2, 3, 4, 5)))
    never = sorted(f"{method} {path}" for (method, path), counts in fuzz.answers.items() if not counts[2] + counts[3])
    print(f"never with success, {len(never)} of {len(fuzz.answers)} operations: {', '.join(never)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=["drawn", "bent", "raw", "forms"], help="only cases of this kind")
    parser.add_argument("--only", default="/", help="only paths that begin with this")
    arguments = parser.parse_args()
    settings = {"egress_allow": '["127.0.0.1"]', "log_level": "error", "log_format": "json", "slots_cpu": "1"}
    with PrivateServer(shown=False, **settings) as server:
        with server.client() as client:
            deploy_language(client, MODEL, server.folder / "text", context_length=512)
        process = psutil.Process(server.pid)
        fuzz = Fuzz(server, arguments.seed)
        began, before = time.monotonic(), sum(process.cpu_times()[:2])
        for kind, count in _tasks(arguments):
            getattr(fuzz, kind)(count, arguments.only)
            print(f"{kind}: {fuzz.kinds[kind]} cases, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        ready = fuzz.http.get(f"{fuzz.url}/readyz", timeout=60).status_code
        cpu_s = sum(process.cpu_times()[:2]) - before
        said = server.log.read_text(errors="replace")
    if ready != 200 or server.pid != process.pid:
        fuzz.note("the server", "not ready in the end", str(ready), said[-2000:])
    for place, number in bugs(said).items():
        fuzz.note("the server", "a bug in its log", place, f"{number} times")
    errors = sum(number for status, number in fuzz.statuses.items() if status >= 500)
    print(f"{fuzz.cases} cases ({dict(fuzz.kinds)}), seed {arguments.seed}: {cpu_s:.0f} CPU s of the server")
    print(f"statuses: {dict(sorted(fuzz.statuses.items()))}")
    show(fuzz)
    print(f"5xx: {errors}; other findings: {len(fuzz.found)}")
    sys.exit(1 if errors or fuzz.found else 0)


if __name__ == "__main__":
    main()
