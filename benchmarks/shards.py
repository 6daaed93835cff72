"""A space's model trained in shards, beside one trained on everything: what it knows of documents that it never saw, and what
forgetting a document costs.

    python benchmarks/shards.py [--base RECORD] [--shards 2 4] [--steps 240] [--seeds 1]

Samples are made by the task `sample-making` of this project's own documents (or those of --docs), without a teacher; the
held-out documents are the same for each number of shards. Every way takes as many steps in all, so that each shard takes its
part of them. Beside the adapter of all samples stand the shards' adapters together, each change counting 1/N (the mean),
1/sqrt(N) or 1 (the sum), and what routing would give: a held-out document belongs to no shard, so it is the mean over the
shards' adapters alone. Reported is the loss per token of the right answers in nats, and the difference of the means to the
adapter of all samples, with its 95 % interval by bootstrap over held-out samples. Seconds are CPU time of the trainings.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelworks.capabilities.document.samples.making import make_samples
from modelworks.capabilities.document.samples.schemas import SampleRequest
from modelworks.capabilities.text.evaluate import evaluate
from modelworks.capabilities.text.schemas import EvaluateParams, PretrainParams, TrainParams
from modelworks.capabilities.text.train import pretrain, train
from modelworks.contract import LocalModel
from modelworks.contract.passages import DOCUMENTS_FILE, PASSAGES_FOLDER, ParsedDocument, Passage, Place
from modelworks.testing.fake_run import FakeRun

PROJECT = Path(__file__).resolve().parent.parent
FOLDERS = ("howto", "explanation", "tutorials", "decisions")
_RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="a JSON file that describes a base model (LocalModel); else one is trained")
    parser.add_argument("--docs", type=Path, help="a folder of Markdown files")
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--num-threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="modelworks-shards-") as folder:
        root = Path(folder)
        passages = write_passages(root / "passages", args.docs)
        base = base_of(root, args)
        for seed in range(args.seeds):
            compare(root / str(seed), base, passages, args, seed)


def compare(root: Path, base: LocalModel, passages: Path, args: argparse.Namespace, seed: int) -> None:
    """All ways with one seed of the training."""
    whole, test = samples(root / "samples-1", passages, 1)
    trained = {"nothing": base}
    adapter, seconds = tuned(root / "one", base, whole[0], args, args.steps, seed)
    trained["all samples"] = adapter
    cost = {"all samples": [seconds]}
    for number in args.shards:
        shards, _ = samples(root / f"samples-{number}", passages, number)
        found = []
        for at, shard in enumerate(shards, 1):
            made, took = tuned(root / f"{number}-{at}", base, shard, args, max(1, args.steps // len(shards)), seed)
            found.append(made)
            cost.setdefault(f"{number} shards", []).append(took)
        for what, scale in (("mean", 1 / number), ("1/sqrt(N)", 1 / math.sqrt(number)), ("sum", 1.0)):
            trained[f"{number} shards, {what}"] = combined(
                root / f"{number}-{what[:4].strip('/')}", base, found, whole[0], scale
            )
        for at, made in enumerate(found, 1):
            trained[f"{number} shards, only {at}"] = made
    losses = {name: measured(root / f"measured {place}", model, test) for place, (name, model) in enumerate(trained.items())}
    for number in args.shards:
        alone = [losses.pop(f"{number} shards, only {at}") for at in range(1, number + 1)]
        losses[f"{number} shards, routed"] = [
            (sum(each[at][0] for each in alone) / number, each_weight) for at, (_, each_weight) in enumerate(alone[0])
        ]
    print(f"seed {seed}: {len(losses['all samples'])} held-out samples")
    for name, found_losses in losses.items():
        low, high = interval(found_losses, losses["all samples"])
        print(f"  {name:<24} loss {mean(found_losses):.4f}  to all samples {low:+.4f} to {high:+.4f}")
    for name, each in cost.items():
        print(f"  {name:<24} {sum(each):.1f} CPU-s in all; one document forgotten: {max(each):.1f} at most")


def base_of(root: Path, args: argparse.Namespace) -> LocalModel:
    if args.base is not None:
        return LocalModel.model_validate_json(args.base.read_text("utf-8"))
    text = root / "text"
    text.mkdir()
    for number, path in enumerate(markdown(args.docs)):
        (text / f"{number}.md").write_bytes(path.read_bytes())
    run = FakeRun(root / "base", datasets={"train": text})
    pretrain(run, PretrainParams(preset="tiny", context_length=1024, block_length=512, num_threads=args.num_threads))
    return run.saved[0].model()


def samples(root: Path, passages: Path, shards: int) -> tuple[list[Path], Path]:
    """The data set to learn from, or those of the shards, and the held-out one."""
    run = FakeRun(root, datasets={"passages": passages})
    told = make_samples(run, SampleRequest(shards=shards, max_prompt_chars=800, passages=2, around=0))
    parts = {saved.metadata.get("part"): saved.path for saved in run.saved}
    numbers = told.shards or [told.num_samples]
    print(f"{shards} shards: {numbers} samples of {told.num_documents} documents, {told.num_test_samples} held out", flush=True)
    return [parts[f"shard-{at}"] for at in range(1, shards + 1)] if shards > 1 else [parts[None]], parts["test"]


def tuned(root: Path, base: LocalModel, data: Path, args: Any, steps: int, seed: int) -> tuple[LocalModel, float]:
    run = FakeRun(root, models={"base": base}, datasets={"train": data}, seed=seed)
    params = {"method": "lora", "steps": steps, "batch_size": 4, "validation_fraction": 0.0, "num_threads": args.num_threads}
    began = time.process_time()
    train(run, TrainParams.model_validate({**params, "checkpoint_every": steps}))
    return named(run, root.name), time.process_time() - began


def combined(root: Path, base: LocalModel, found: Sequence[LocalModel], data: Path, scale: float) -> LocalModel:
    models = {"base": base, **{f"adapter_{at}": each for at, each in enumerate(found, 1)}}
    run = FakeRun(root, models=models, datasets={"train": data})
    train(run, TrainParams.model_validate({"method": "combine", "scale": scale}))
    return named(run, root.name)


def named(run: FakeRun, name: str) -> LocalModel:
    return run.saved[0].model(f"{name}@v1")


def measured(root: Path, model: LocalModel, test: Path) -> list[tuple[float, float]]:
    """Summed loss and number of tokens of each held-out sample."""
    run = FakeRun(root, models={"model": model}, datasets={"test": test})
    evaluate(run, EvaluateParams(max_answers=0, num_threads=1))
    lines = run.saved[0].path.read_text("utf-8").splitlines()
    found = sorted((each["sample"], each["values"]["loss"]) for each in map(json.loads, lines))
    return [(float(total), float(weight)) for _, (total, weight) in found]


def mean(found: Sequence[tuple[float, float]]) -> float:
    return sum(total for total, _ in found) / sum(weight for _, weight in found)


def interval(found: Sequence[tuple[float, float]], beside: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of the difference of the means, by bootstrap over samples that both were measured on."""
    chance = random.Random(0)
    differences = []
    for _ in range(_RESAMPLES):
        drawn = chance.choices(range(len(found)), k=len(found))
        differences.append(mean([found[at] for at in drawn]) - mean([beside[at] for at in drawn]))
    differences.sort()
    return differences[int(0.025 * _RESAMPLES)], differences[int(0.975 * _RESAMPLES) - 1]


def markdown(docs: Path | None) -> list[Path]:
    if docs is not None:
        return sorted(docs.rglob("*.md"))
    return [path for folder in FOLDERS for path in sorted((PROJECT / "docs" / folder).glob("*.md"))]


def write_passages(folder: Path, docs: Path | None) -> Path:
    """Markdown files as a data set of passages, a paragraph each."""
    (folder / PASSAGES_FOLDER).mkdir(parents=True)
    listing = []
    for path in markdown(docs):
        found: list[Passage] = []
        document_id = f"doc_{path.parent.name}_{path.stem}".replace(".", "_")
        heading, title = "", path.stem
        for block in re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL).split("\n\n"):
            text = block.strip()
            if text.startswith("#"):
                first, _, text = text.partition("\n")
                heading = first.lstrip("# ").strip()
                title = heading if first.startswith("# ") else title
            if len(text.strip()) < 40:
                continue
            ordinal = len(found)
            text = text if text.startswith("|") else " ".join(text.split())
            kind = "table" if text.startswith("|") else "text"
            place = Place(headings=(heading,) if heading else ())
            known: dict[str, Any] = {"ordinal": ordinal, "kind": kind, "text": text, "place": place}
            found.append(Passage(id=f"{document_id}:{ordinal}", document_id=document_id, **known))
        if found:
            parsed = ParsedDocument(
                id=document_id, name=path.name, digest=f"sha256:{document_id}", parser="markdown", state="parsed", title=title
            )
            listing.append(parsed.model_dump_json())
            lines = "".join(passage.model_dump_json() + "\n" for passage in found)
            (folder / PASSAGES_FOLDER / f"{document_id}.jsonl").write_text(lines, "utf-8")
    (folder / DOCUMENTS_FILE).write_text("\n".join(listing) + "\n", "utf-8")
    return folder


if __name__ == "__main__":
    main()
