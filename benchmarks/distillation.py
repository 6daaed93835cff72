"""A student that learns from a better teacher against the same student that learns from the labels alone.

    python benchmarks/distillation.py [--samples 300] [--steps 240] [--seed 0]

Grade-school problems (gsm8k in the shared folder beside the repository, MODELWORKS_SHARED). The teacher is larger and has been
tuned on 6,000 of them; both students start from the same base, read the same few problems in the same order for the same number
of steps, and differ only in the method. Measured is the loss of the given answers of 300 problems that nobody was trained on,
in nats per token, with a paired bootstrap over problems (10,000 resamples).
"""

import argparse
import gzip
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

TEACHER = {"hidden_size": 192, "num_layers": 4, "num_heads": 6, "num_kv_heads": 3, "head_dim": 32, "intermediate_size": 512}
STUDENT = {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32, "intermediate_size": 192}
COMMON: dict[str, Any] = {
    "preset": "custom",
    "vocab_size": 1024,
    "context_length": 512,
    "block_length": 192,
    "batch_size": 8,
    "warmup_steps": 20,
    "chat_fraction": 0.3,
    "checkpoint_every": 100_000,
    "validate_every": 100_000,
    "num_threads": 1,
}
TUNING: dict[str, Any] = {
    "batch_size": 4,
    "max_length": 256,
    "warmup_steps": 20,
    "checkpoint_every": 100_000,
    "validate_every": 100_000,
    "validation_fraction": 0,
    "num_threads": 1,
}


def shared_problems() -> list[dict[str, Any]]:
    """Questions with the final answer after a short explanation."""
    shared = Path(os.environ.get("MODELWORKS_SHARED") or Path(__file__).parents[1].parent / "shared")
    file = shared / "data" / "02-reasoning" / "gsm8k_train.jsonl.gz"
    if not file.is_file():
        raise SystemExit(f"{file.name} is not on this machine (MODELWORKS_SHARED names the folder)")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_chats(folder: Path, problems: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    with (folder / "chats.jsonl").open("w", encoding="utf-8") as file:
        for problem in problems:
            turns = [{"role": "user", "content": problem["question"]}, {"role": "assistant", "content": problem["answer"]}]
            file.write(json.dumps({"messages": turns}) + "\n")
    return folder


def trained(folder: Path, params: dict[str, Any], data: Path, models: dict[str, Any], seed: int) -> Any:
    """The model that a run of the capability saves."""
    from modelworks.capabilities.text.schemas import TrainParams
    from modelworks.capabilities.text.train import train
    from modelworks.testing.fake_run import FakeRun

    run = FakeRun(folder, models=models, datasets={"train": data}, seed=seed)
    started = time.process_time()
    train(run, TrainParams.model_validate(params))
    print(f"  {folder.name}: {params.get('method', 'pretrain')}, {time.process_time() - started:.0f} CPU s", flush=True)
    return run.saved[0].model(f"{folder.name}@v1")


def measured(folder: Path, model: Any, data: Path) -> list[tuple[float, float]]:
    """(loss, weight) of each problem's answer."""
    from modelworks.capabilities.text.evaluate import evaluate
    from modelworks.capabilities.text.schemas import EvaluateParams
    from modelworks.testing.fake_run import FakeRun

    run = FakeRun(folder, models={"model": model}, datasets={"test": data})
    evaluate(run, EvaluateParams(max_answers=0, num_threads=1))
    lines = [json.loads(line) for line in run.saved[0].path.read_text().splitlines()]
    return [(value, weight) for value, weight in (line["values"]["loss"] for line in lines)]


def mean(pairs: Any) -> float:
    total = sum(weight for _, weight in pairs)
    return float(sum(value * weight for value, weight in pairs) / total)


def interval(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> tuple[float, float]:
    """95 % of the difference of means, one - other, over resamples of problems."""
    import numpy as np

    values, weights = np.array([[a[0], b[0]] for a, b in zip(one, other, strict=True)]), np.array([a[1] for a in one])
    chosen = np.random.default_rng(0).integers(0, len(weights), (10_000, len(weights)))
    differences = ((values[:, 0] - values[:, 1]) * weights)[chosen].sum(1) / weights[chosen].sum(1)
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=300, help="problems that the students see")
    parser.add_argument("--steps", type=int, default=240, help="steps of each student")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    problems = shared_problems()
    known, few, held_out = problems[:6000], problems[6000 : 6000 + arguments.samples], problems[-300:]
    with tempfile.TemporaryDirectory(prefix="distillation-") as name:
        root = Path(name)
        text = root / "text"
        text.mkdir()
        (text / "problems.txt").write_text("\n\n".join(f"{each['question']}\n{each['answer']}" for each in known), "utf-8")
        chats = {"known": known, "few": few, "held out": held_out}
        data = {each: write_chats(root / "chats" / each, chosen) for each, chosen in chats.items()}
        seed = arguments.seed
        base = trained(root / "student base", COMMON | STUDENT | {"steps": 200, "learning_rate": 3e-3}, text, {}, seed)
        wide = COMMON | TEACHER | {"steps": 250, "learning_rate": 3e-3}
        large = trained(root / "teacher base", wide, text, {"tokenizer": base}, seed)
        expert = TUNING | {"method": "supervised", "steps": 400, "learning_rate": 1e-3}
        teacher = trained(root / "teacher", expert, data["known"], {"base": large}, seed)
        rate = {"steps": arguments.steps, "learning_rate": 2e-3}
        alone = trained(root / "labels alone", TUNING | rate | {"method": "supervised"}, data["few"], {"base": base}, seed)
        distil = TUNING | rate | {"method": "distillation", "temperature": 2.0, "teacher_share": 0.7}
        pupil = trained(root / "distilled", distil, data["few"], {"base": base, "teacher": teacher}, seed)
        models = {"student base": base, "teacher": teacher, "labels alone": alone, "distilled": pupil}
        found = {each: measured(root / "measured" / each, model, data["held out"]) for each, model in models.items()}
    for each, pairs in found.items():
        print(f"{each:13} {mean(pairs):.4f} nats per token of {len(pairs)} held-out answers")
    low, high = interval(found["distilled"], found["labels alone"])
    difference = mean(found["distilled"]) - mean(found["labels alone"])
    verdict = "the teacher helps" if high < 0 else "no proven difference" if low <= 0 else "the teacher harms"
    print(f"distilled - labels alone: {difference:+.4f} [{low:+.4f}, {high:+.4f}]: {verdict}")


if __name__ == "__main__":
    main()
