"""What a starter model can do, beside baselines that need no training of a network.

    modelworks train --recipe starter/starter-lm.toml --keep kept
    pip install pypinyin
    python benchmarks/starter.py --model FOLDER --data kept/data [--quick]

FOLDER holds the model's files (Hugging Face layout), `--data` what the recipe left with `--keep`. Measured on documents that no
stage read: bits per byte by language, beside a byte n-gram model trained on the same text; the F1 of answers from passages,
beside copying the passage sentence that shares most with the question; how often a refusal stands where it should; how many
tool calls parse, and how many are the expected call, decoded freely and held to the functions' schemas; the form of continued
poems beside the real ones and beside their characters in random order (`verse_form.py`). Intervals are 95 %, by resampling
documents or questions 2,000 times.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import verse_form
from structured import as_json_schema

from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.contract.generation import GenerationInput, Message

Codes = npt.NDArray[np.uint64]
REFUSALS = ("The passages do not say.", "资料中没有说明。")


class ByteNgrams:
    """An interpolated n-gram model over bytes (Witten & Bell 1991): P(c|h) = (n(hc) + T(h) P(c|h')) / (n(h) + T(h)).

    Args:
        text: what is counted. Documents follow each other, divided by a zero byte.
        order: bytes of the longest n-gram, at most 8.
    """

    def __init__(self, text: bytes, order: int) -> None:
        data = np.frombuffer(text, np.uint8)
        self.order = order
        self._grams: list[tuple[Codes, npt.NDArray[np.int64]]] = []
        self._contexts: list[tuple[Codes, npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        for length in range(1, order + 1):
            grams, counts = np.unique(_windows(data, length), return_counts=True)
            heads, first = np.unique(grams >> np.uint64(8), return_index=True)
            totals = np.add.reduceat(counts, first)
            kinds = np.diff(np.append(first, len(grams)))
            self._grams.append((grams, counts))
            self._contexts.append((heads, totals, kinds))

    def bits(self, text: bytes) -> float:
        """Bits of a document, each byte given those before it."""
        data = np.frombuffer(bytes(self.order) + text, np.uint8)
        probability = np.full(len(text), 1 / 256)
        for length in range(1, self.order + 1):
            codes = _windows(data, length)[self.order - length + 1 :]
            grams, counts = self._grams[length - 1]
            heads, totals, kinds = self._contexts[length - 1]
            seen = _looked_up(grams, counts, codes)
            known = codes >> np.uint64(8)
            total, kind = _looked_up(heads, totals, known), _looked_up(heads, kinds, known)
            probability = np.where(total > 0, (seen + kind * probability) / np.maximum(total + kind, 1), probability)
        return float(-np.log2(probability).sum())


def _windows(data: npt.NDArray[np.uint8], length: int) -> Codes:
    """Each run of so many bytes as one number."""
    codes = np.zeros(len(data) - length + 1, np.uint64)
    for place in range(length):
        codes = (codes << np.uint64(8)) | data[place : len(data) - length + 1 + place].astype(np.uint64)
    return codes


def _looked_up(keys: Codes, values: npt.NDArray[np.int64], wanted: Codes) -> npt.NDArray[np.int64]:
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


class Model:
    """A model of a folder, on one thread."""

    def __init__(self, folder: Path) -> None:
        self.format = PromptFormat.of(folder)
        self.model = load_model(folder, torch.float32).eval()
        self.context = int(self.model.config.max_position_embeddings)

    @torch.no_grad()
    def bits(self, text: str) -> float:
        """Bits of a document: every token once, with at least half a context before it."""
        ids = [
            self.format.tokenizer.pad_token_id,
            *self.format.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"],
        ]
        half, total, start = self.context // 2, 0.0, 1
        while start < len(ids):
            end = min(len(ids), start + (self.context - 1 if start == 1 else half))
            first = max(0, end - self.context)
            rows = torch.tensor([ids[first : end - 1]])
            logits = self.model(input_ids=rows, use_cache=False).logits[0]
            losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[first + 1 : end]), reduction="none")
            total += float(losses[start - first - 1 :].sum())
            start = end
        return total / math.log(2)

    @torch.no_grad()
    def answer(self, record: dict[str, Any], max_tokens: int) -> str | None:
        """What it says greedily; None where the question does not fit into its context."""
        asked = GenerationInput(messages=[Message(**record["messages"][0])], tools=record.get("tools"))
        ids = self.format.encoder.encode(asked)
        if len(ids) + max_tokens > self.context:
            return None
        said = self.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=list(self.format.stop_ids),
            pad_token_id=self.format.tokenizer.pad_token_id,
        )
        return str(self.format.tokenizer.decode(said[0, len(ids) :], skip_special_tokens=True)).strip()


def interval(values: Sequence[Any], statistic: Callable[[Sequence[Any]], float]) -> str:
    """The statistic with its 95 % interval."""
    if not values:
        return "nothing measured"
    chooser = random.Random(0)
    found = sorted(statistic(chooser.choices(values, k=len(values))) for _ in range(2000))
    return f"{statistic(values):.3f} ({found[50]:.3f} to {found[1949]:.3f})"


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def words(text: str) -> list[str]:
    """What F1 counts: words of Latin script and numbers in lower case, Chinese characters one by one (as SQuAD and CMRC do)."""
    return [each for each in re.findall(r"[a-z0-9]+|[\u4e00-\u9fff]", text.lower()) if each not in ("a", "an", "the")]


def f1(said: str, expected: str) -> float:
    got, want = Counter(words(said)), Counter(words(expected))
    shared = sum((got & want).values())
    return 2 * shared / (sum(got.values()) + sum(want.values())) if shared else 0.0


def best_sentence(question: str) -> str:
    """The sentence of the passages that shares most words with what is asked."""
    shown, _, asked = question.rpartition("\n\n")
    wanted = set(words(asked.partition(": ")[2] or asked.partition("：")[2]))
    sentences = [each for each in re.split(r"(?<=[.!?。！？])\s*|\n\[2\] |^\[1\] ", shown) if each.strip()]
    return max(sentences, key=lambda each: (len(wanted & set(words(each))), -len(each)))


def call_of(said: str) -> tuple[str, Any] | None:
    """Name and arguments of a call, where what was said is one that parses."""
    match = re.search(r"<tool_call>\s*(\{.*\})\s*</tool_call>", said, re.DOTALL)
    try:
        call = json.loads(match[1]) if match else None
    except ValueError:
        return None
    return (call["name"], call["arguments"]) if isinstance(call, dict) and {"name", "arguments"} <= call.keys() else None


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def training_text(folder: Path, limit: int) -> bytes:
    """All documents of the training set, divided by a zero byte, up to so many bytes taken evenly."""
    documents = [record["text"].encode() for file in sorted(folder.rglob("*.jsonl")) for record in read(file)]
    documents += [file.read_bytes() for file in sorted(folder.rglob("*.py"))]
    random.Random(0).shuffle(documents)
    return b"\0".join(documents)[:limit]


def reading(model: Model, data: Path, quick: bool) -> None:
    started = time.process_time()
    ngrams = ByteNgrams(training_text(data / "train", 4_000_000 if quick else 1 << 40), order=6)
    print(f"\nbyte n-grams of order {ngrams.order}: {time.process_time() - started:.0f} CPU-s to count")
    print(f"{'bits per byte, held out':<26}{'bytes':>9}{'model':>26}{'n-grams':>26}{'difference':>28}")
    for folder in sorted((data / "held-out").iterdir()):
        rows, used = [], 0
        for record in sorted(read(folder / "data.jsonl"), key=lambda each: hash_of(each["text"])):
            # Of a long document its beginning: many documents say more than one.
            text = record["text"][:4000]
            rows.append((len(text.encode()), model.bits(text), ngrams.bits(text.encode())))
            used += rows[-1][0]
            if used > (8_000 if quick else 60_000):
                break

        def per_byte(column: int) -> Callable[[Sequence[Any]], float]:
            return lambda chosen: sum(row[column] for row in chosen) / sum(row[0] for row in chosen)

        def less(chosen: Sequence[Any]) -> float:
            return sum(row[1] - row[2] for row in chosen) / sum(row[0] for row in chosen)

        found = f"{interval(rows, per_byte(1)):>26}{interval(rows, per_byte(2)):>26}{interval(rows, less):>28}"
        print(f"{folder.name:<26}{used:>9}{found}")


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def answering(model: Model, records: Iterable[dict[str, Any]]) -> None:
    ours, copied, cited, refused, refused_wrongly, skipped = [], [], [], [], [], 0
    for record in records:
        asked, expected = record["messages"][0]["content"], record["messages"][1]["content"]
        said = model.answer(record, 40)
        if said is None:
            skipped += 1
            continue
        if expected in REFUSALS:
            refused.append(float(said in REFUSALS))
            continue
        answer, _, number = expected.rpartition(" ")
        ours.append(f1(re.sub(r"\s*\[\d\]$", "", said), answer))
        copied.append(f1(best_sentence(asked), answer))
        cited.append(float(said.endswith(number)))
        refused_wrongly.append(float(said in REFUSALS))
    print(f"\nanswers from passages that were held out: {len(ours)} answerable, {len(refused)} not, {skipped} too long")
    print(f"  F1, model                       {interval(ours, mean)}")
    print(f"  F1, copy the best sentence      {interval(copied, mean)}")
    print(f"  the right passage is cited      {interval(cited, mean)}")
    print(f"  refuses where it should         {interval(refused, mean)}")
    print(f"  refuses where it should not     {interval(refused_wrongly, mean)}")


def calling(model: Model, name: str, records: Iterable[dict[str, Any]], fits: Callable[[dict[str, Any], Any], bool]) -> None:
    parsed, right, skipped = [], [], 0
    for record in records:
        said = model.answer(record, 96)
        if said is None:
            skipped += 1
            continue
        call = call_of(said)
        parsed.append(float(call is not None))
        right.append(float(call is not None and fits(record, call)))
    print(f"\n{name}: {len(parsed)} asked, {skipped} too long for the context")
    print(f"  parses (free decoding)          {interval(parsed, mean)}")
    print(f"  is the expected call            {interval(right, mean)}")


async def constrained(folder: Path, records: Sequence[dict[str, Any]], fits: Callable[[dict[str, Any], Any], bool]) -> None:
    """The same calls through the engine, which lets only tokens through that keep to the tools' schemas."""
    from modelworks.capabilities.text.schemas import ServeOptions
    from modelworks.capabilities.text.serve import TransformersGenerator
    from modelworks.contract import LocalModel
    from modelworks.contract.errors import InvalidRequest

    model = LocalModel(ref="starter@v1", version_id="mdl_STARTER", path=folder, digest="sha256:0")
    engine = TransformersGenerator(model, ServeOptions(num_threads=1))
    parsed, right, cut, refused = [], [], 0, 0
    for record in records:
        asked = GenerationInput(
            messages=[Message(**record["messages"][0])],
            tools=record["tools"],
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=0.0,
            max_tokens=160,
        )
        name, arguments, finish = "", "", None
        try:
            async for chunk in engine.stream(asked):
                for piece in chunk.tool_calls or ():
                    name, arguments = piece.name or name, arguments + piece.arguments
                finish = chunk.finish_reason or finish
        except InvalidRequest:
            refused += 1  # a schema that nothing is held to, or a question that is longer than the context
            continue
        cut += finish == "length"
        call = object_of(arguments) if name else None
        parsed.append(float(isinstance(call, dict)))
        right.append(float(isinstance(call, dict) and fits(record, (name, call))))
    await asyncio.to_thread(engine.close)
    print(f"  held to the schemas: {len(parsed)} asked, {cut} cut by the length, {refused} refused (schema or length)")
    print(f"  parses (held)                   {interval(parsed, mean)}")
    print(f"  is the expected call (held)     {interval(right, mean)}")


def versifying(model: Model, records: Sequence[dict[str, Any]]) -> None:
    poems = []
    for record in records:
        kind, _, opening = record["messages"][0]["content"].partition("：")
        said, real = model.answer(record, 96), record["messages"][1]["content"]
        if (
            said is not None
            and kind.startswith("续写诗")
            and {len(each) for each in verse_form.lines_of(opening)} in ({5}, {7})
        ):
            poems.append((opening, said, real, shuffled(real)))
    print(f"\npoems with lines of five or seven characters, continued: {len(poems)}")
    print(f"{'':<34}{'model':>26}{'the real poem':>26}{'its characters shuffled':>26}")
    told = [verse_form.summary([(poem[0], poem[place]) for poem in poems]) for place in (1, 2, 3)]
    for measure in told[0]:
        print(f"  {measure:<32}" + "".join(f"{interval(each[measure], mean):>26}" for each in told))


def shuffled(verse: str) -> str:
    """The same characters in another order; stops stay where they are."""
    characters = [each for each in verse if "\u4e00" <= each <= "\u9fff"]
    random.Random(verse).shuffle(characters)
    left = iter(characters)
    return "".join(next(left) if "\u4e00" <= each <= "\u9fff" else each for each in verse)


def matching(model: Model, name: str, records: Iterable[dict[str, Any]], key: Callable[[str], Any]) -> None:
    right = []
    for record in records:
        said = model.answer(record, 64)
        if said is not None:
            right.append(float(key(said) is not None and key(said) == key(record["messages"][1]["content"])))
    print(f"\n{name}: {len(right)} asked\n  right                           {interval(right, mean)}")


def object_of(said: str) -> Any:
    """The JSON object that was said, or None."""
    try:
        return json.loads(said)
    except ValueError:
        return None


def result_of(said: str) -> str | None:
    """The last number of what was said."""
    numbers = re.findall(r"-?\d+", said)
    return numbers[-1] if numbers else None


def expected_call(record: dict[str, Any], call: Any) -> bool:
    function = record["messages"][1]["tool_calls"][0]["function"]
    return bool(call == (function["name"], json.loads(function["arguments"])))


def bfcl(folder: Path, limit: int) -> list[dict[str, Any]]:
    """Simple Python calls of the Berkeley function-calling leaderboard, with what may stand in each argument."""
    answers = {each["id"]: each["ground_truth"][0] for each in read(folder / "possible_answer" / "BFCL_v4_simple_python.json")}
    found = []
    for record in read(folder / "BFCL_v4_simple_python.json")[:limit]:
        (function,) = record["function"]
        tools = [{"type": "function", "function": {**function, "parameters": as_json_schema(function["parameters"])}}]
        found.append({"messages": record["question"][0][-1:], "tools": tools, "allowed": answers[record["id"]]})
    return found


def allowed_call(record: dict[str, Any], call: Any) -> bool:
    ((name, arguments),) = record["allowed"].items()
    said = call[1] if isinstance(call[1], dict) else {}
    given = all(said.get(key, "") in values or ("" in values and key not in said) for key, values in arguments.items())
    return bool(call[0] == name and given and said.keys() <= arguments.keys())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a folder in Hugging Face layout")
    parser.add_argument("--data", type=Path, required=True, help="the folder data/ that train --recipe --keep left")
    parser.add_argument("--bfcl", type=Path, help="the folder bfcl_v4, to ask its simple Python calls as well")
    parser.add_argument("--quick", action="store_true", help="a tenth of the questions and of the text")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = Model(args.model)
    print(f"{sum(each.numel() for each in model.model.parameters()):,} weights, context {model.context}")
    reading(model, args.data, args.quick)
    held_out = read(args.data / "skills" / "held-out" / "data.jsonl")
    limit = 20 if args.quick else 200
    chosen = [record for record in held_out if record["source"] == "passages"][:limit]
    answering(model, chosen)
    calls = [record for record in held_out if record["source"] == "tool_calls"][:limit]
    calling(model, "tool calls that were held out", calls, expected_call)
    asyncio.run(constrained(args.model, calls, expected_call))
    for source, name, key in (
        ("forms", "JSON forms that were held out", object_of),
        ("arithmetic", "sums with steps", result_of),
    ):
        matching(model, name, [record for record in held_out if record["source"] == source][:limit], key)
    versifying(model, [record for record in held_out if record["source"] == "verses"][:limit])
    if args.bfcl is not None:
        simple = bfcl(args.bfcl, limit)
        calling(model, "BFCL simple (Python)", simple, allowed_call)
        asyncio.run(constrained(args.model, simple, allowed_call))


if __name__ == "__main__":
    main()
