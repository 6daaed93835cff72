"""Answers held to JSON Schemas of all sorts: does every one that ends validate, and is every other request refused?

    python benchmarks/structured.py [--suite FOLDER] [--bfcl FOLDER] [--number 300] [--engine openvino|transformers]

`--suite` is `tests/draft2020-12` of the JSON-Schema-Test-Suite (in the source distribution of `jsonschema` below `json/`);
`--bfcl` a folder with the Berkeley leaderboard's `BFCL_v4_*.json`, whose Python names of types are written as JSON Schema's.
Half of the schemas come from each, by chance with a fixed seed; without a suite, all from the leaderboard.

A model with random weights answers, drawn towards marks that end a value, so that most answers end: it is the worst model there
is, and whatever form its answers have they have from the constraint. Each schema is asked for twice as `answer_form`, and a
function's also as a required call. The judge is `jsonschema`. Then each schema is broken in one of several ways and asked for
again: every such request must be refused, with the place in it. At the end the engine must still answer a plain request.

    python benchmarks/structured.py --cost [--engine openvino|transformers]

measures instead what a form costs: CPU time per token of a model of 10 million weights, held to nothing and to two schemas.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
_PLACE = "response_format.json_schema.schema"
_TEN_MILLION = {"hidden_size": 320, "intermediate_size": 896, "num_hidden_layers": 8, "num_attention_heads": 10}
#: Ways to break a schema, with what of the message's place they must show.
_BROKEN: dict[str, dict[str, Any]] = {
    "no type": {"type": "quux"},
    "no pattern": {"type": "string", "pattern": "(["},
    "look-ahead": {"type": "string", "pattern": "(?=a)b"},
    "unkept keyword": {"not": {"type": "string"}},
    "elsewhere": {"$ref": "https://example.com/schema.json"},
    "nowhere": {"$ref": "#/$defs/none"},
    "nothing fits": {"type": "integer", "minimum": 3, "maximum": 2},
}


def as_json_schema(value: Any) -> Any:
    """The leaderboard's Python names of types as those of JSON Schema; a type that is any is left out."""
    if isinstance(value, list):
        return [as_json_schema(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: as_json_schema(each) for key, each in value.items()}
    kind = found.get("type")
    if isinstance(kind, str) and kind in _TYPES:
        if _TYPES[kind] is None:
            del found["type"]
        else:
            found["type"] = _TYPES[kind]
    return found


def of_suite(folder: Path) -> list[Any]:
    """Every schema of the suite that is an object."""
    cases = [case for file in sorted(folder.glob("*.json")) for case in json.loads(file.read_text("utf-8"))]
    return [case["schema"] for case in cases if isinstance(case["schema"], dict)]


def of_bfcl(folder: Path) -> list[Any]:
    """The parameters of every function on offer."""
    found = []
    for file in sorted(folder.glob("BFCL_v4_*.json")):
        for line in file.read_text("utf-8").splitlines():
            found += [as_json_schema(function["parameters"]) for function in json.loads(line).get("function", ())]
    return found


def make_model(folder: Path, size: dict[str, int] | None = None) -> None:
    """A checkpoint with random weights and a template that knows tools."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from modelworks.capabilities.text.tokenizer import train_tokenizer

    texts = ['{"name": "value", "list": [1, 2.5, true, null]}, ' * 20, "the quick brown fox and the lazy dog 雨 " * 20]
    tokenizer = train_tokenizer(texts, 512, "", 2048)
    tokenizer.chat_template = (
        "{#- [TOOL_CALLS] [ARGS] {{ tools }} -#}{%- for message in messages -%}"
        "{{- '<|im_start|>' + message.content + '<|im_end|>' -}}{%- endfor -%}"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=512,
        max_position_embeddings=2048,
        head_dim=32,
        num_key_value_heads=1,
        eos_token_id=2,
        **{**shape, **(size or {})},
    )
    LlamaForCausalLM(config).save_pretrained(folder)


class Asked:
    """Counts what became of requests."""

    def __init__(self, folder: Path, engine: str) -> None:
        from modelworks.capabilities.text.schemas import ServeOptions
        from modelworks.capabilities.text.serve import OpenVINOGenerator, TransformersGenerator
        from modelworks.capabilities.text.tokenizer import load_tokenizer
        from modelworks.contract import LocalModel

        model = LocalModel(ref="random@v1", version_id="mdl_RANDOM", path=folder, digest="sha256:0")
        opened = {"openvino": OpenVINOGenerator, "transformers": TransformersGenerator}[engine]
        self.generator = opened(model, ServeOptions(num_threads=1))
        tokenizer = load_tokenizer(folder)
        ends = [token for text, token in tokenizer.get_vocab().items() if text and set(text) <= set('"}],')]
        self.bias = {2: 4.0, **dict.fromkeys(ends, 2.5)}
        self.count: Counter[str] = Counter()
        self.faults: list[str] = []

    async def ask(self, **asked: Any) -> tuple[str, list[str], str | None]:
        """Text, arguments of calls, and how the answer ended."""
        from modelworks.contract.generation import GenerationInput, Message

        text, calls, finish = "", [], None
        request = GenerationInput(messages=[Message(role="user", content="?")], max_tokens=400, logit_bias=self.bias, **asked)
        async for chunk in self.generator.stream(request):
            text += chunk.text
            for piece in chunk.tool_calls or ():
                if piece.name is not None:
                    calls.append("")
                calls[piece.index] += piece.arguments
            finish = chunk.finish_reason or finish
        return text, calls, finish

    async def valid(self, kind: str, schema: Any, seed: int) -> bool:
        """Ask once; False where the schema was refused."""
        from modelworks.contract.errors import InvalidRequest

        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        asked: dict[str, Any] = (
            {"answer_form": {"json_schema": schema, "place": _PLACE}}
            if kind == "form"
            else {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
        )
        try:
            text, calls, finish = await self.ask(seed=seed, **asked)
        except InvalidRequest as refused:
            named = (refused.param or "").startswith((_PLACE, "tools.0.function.parameters"))
            self.count[f"{kind}: refused with its place" if named else f"{kind}: REFUSED WITHOUT PLACE"] += 1
            return False
        if finish == "length":
            self.count[f"{kind}: cut by the length"] += 1
            return True
        written = text if kind == "form" else calls[0]
        try:
            errors = [error.message for error in Draft202012Validator(schema).iter_errors(json.loads(written))]
        except ValueError as error:
            errors = [f"not JSON: {error}"]
        self.count[f"{kind}: validates" if not errors else f"{kind}: INVALID"] += 1
        if errors:
            self.faults.append(f"{json.dumps(schema)[:300]}\n    {written[:200]}\n    {errors[0][:200]}")
        return True

    async def refused(self, schema: Any, name: str) -> None:
        """Break a schema and ask for it: an answer is a fault, and so is anything but a refusal."""
        from modelworks.contract.errors import InvalidRequest

        broken = copy.deepcopy(schema)
        broken.setdefault("properties", {})["broken"] = _BROKEN[name]
        broken["required"] = [*broken.get("required", ()), "broken"]
        broken["type"] = "object"
        try:
            await self.ask(answer_form={"json_schema": broken, "place": _PLACE}, seed=0)
            self.count["broken: ANSWERED"] += 1
            self.faults.append(f"answered: {name}: {json.dumps(broken)[:300]}")
        except InvalidRequest as refusal:
            self.count[
                "broken: refused with its place" if (refusal.param or "").startswith(_PLACE) else "broken: NO PLACE"
            ] += 1


async def measure(asked: Asked, schemas: list[Any], chance: random.Random) -> None:
    answered = 0
    for number, schema in enumerate(schemas):
        answered += await asked.valid("form", schema, 2 * number)
        await asked.valid("form", schema, 2 * number + 1)
        if schema.get("type") == "object":
            await asked.valid("call", schema, number)
        await asked.refused(schema, chance.choice(sorted(_BROKEN)))
    text, _, finish = await asked.ask(seed=1)
    asked.count["schemas that answers are held to"] = answered
    asked.count["plain request afterwards answered"] = int(bool(text) and finish is not None)


#: What answers are held to where the cost is measured: one in which every token is chosen, and one that is mostly frame.
_COSTS: dict[str, Any] = {
    "plain": None,
    "free form": {"type": "array", "items": {"type": "string"}, "minItems": 500},
    "mostly frame": {
        "type": "object",
        "properties": {f"property_number_{number}": {"type": "boolean"} for number in range(40)},
        "required": [f"property_number_{number}" for number in range(40)],
    },
}


async def cost(asked: Asked, at_once: int) -> dict[str, float]:
    """CPU-milliseconds per token of so many answers at a time, by what they are held to; 160 tokens each at most."""
    from modelworks.contract.generation import GenerationInput, Message

    async def one(schema: Any, seed: int) -> int:
        form: dict[str, Any] = {} if schema is None else {"answer_form": {"json_schema": schema, "place": _PLACE}}
        request = GenerationInput(messages=[Message(role="user", content="?")], max_tokens=160, seed=seed, **form)
        used = [chunk.usage.completion_tokens async for chunk in asked.generator.stream(request) if chunk.usage is not None]
        return used[-1]

    found: dict[str, list[float]] = {kind: [] for kind in _COSTS}
    for turn in range(4):
        for kind, schema in _COSTS.items():
            began = time.process_time()
            tokens = sum(await asyncio.gather(*(one(schema, turn * at_once + number) for number in range(at_once))))
            if turn:  # the first one compiles
                found[kind].append((time.process_time() - began) * 1000 / tokens)
    return {kind: statistics.median(values) for kind, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(os.environ.get("MODELWORKS_SHARED") or Path(__file__).parents[2] / "shared")
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--bfcl", type=Path, default=shared / "data" / "03-toolcall" / "bfcl_v4")
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--engine", choices=["openvino", "transformers"], default="transformers")
    parser.add_argument("--cost", action="store_true", help="measure instead what a form costs, at 1 and 8 answers at a time")
    options = parser.parse_args()
    if options.cost:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            os.environ.setdefault("MODELWORKS_ENGINE_CACHE", str(folder / "cache"))
            make_model(folder / "model", _TEN_MILLION)
            asked = Asked(folder / "model", options.engine)
            for at_once in (1, 8):
                figures = asyncio.run(cost(asked, at_once))
                shown = ", ".join(f"{kind} {value:.2f} ({value / figures['plain']:.2f} x)" for kind, value in figures.items())
                print(f"{at_once} at a time, CPU-ms per token: {shown}")
            asked.generator.close()
        return
    chance = random.Random(0)
    functions = of_bfcl(options.bfcl)
    tests = of_suite(options.suite) if options.suite else []
    half = min(options.number // 2, len(tests))
    schemas = chance.sample(tests, half) + chance.sample(functions, options.number - half)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.setdefault("MODELWORKS_ENGINE_CACHE", str(folder / "cache"))
        make_model(folder / "model")
        asked = Asked(folder / "model", options.engine)
        started = time.process_time()
        asyncio.run(measure(asked, schemas, chance))
        asked.generator.close()
    print(f"{len(schemas)} schemas ({half} of the suite), engine {options.engine}, {time.process_time() - started:.0f} CPU s")
    for what, number in sorted(asked.count.items()):
        print(f"{number:6}  {what}")
    for fault in asked.faults:
        print("FAULT", fault)


if __name__ == "__main__":
    main()
