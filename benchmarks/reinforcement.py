"""Reward on held-out prompts before and after training by reinforcement, with 95 % intervals.

    python benchmarks/reinforcement.py [--steps 200] [--seed 1]

The task can be checked by a program: which of two digits is the larger (or the smaller) one, answered with that digit and
nothing else. A model of 0.1 million weights is trained here from nothing: a vocabulary, then supervised on conversations in
which every third answer is wrong or wordy. So it knows the task and is unreliable. Then it is trained by reinforcement with a
string check as the grader, on the same questions; and, for comparison, supervised for as many tokens again. The questions
that it is measured on are in none of these. Everything goes through the capability's own trainer. Answers are drawn at
temperature 1, sixteen to each held-out prompt, with the same random numbers before and after; the interval is a bootstrap
over prompts of the paired difference.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPE = {
    "preset": "custom",
    "vocab_size": 380,
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "intermediate_size": 192,
    "context_length": 128,
    "block_length": 64,
    "batch_size": 16,
    "num_threads": 1,
}
NUM_HELD_OUT, EACH, MAX_TOKENS = 50, 16, 12
GRADER = {
    "type": "string_check",
    "name": "correct",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference_answer}}",
    "operation": "eq",
}


def questions(seed: int) -> list[tuple[str, str, str]]:
    """(question, right answer, wrong answer), shuffled."""
    chance = random.Random(seed)
    found = []
    for first in range(10):
        for second in range(10):
            if first != second:
                low, high = sorted((first, second))
                found += [
                    (f"{first} or {second}, larger?", str(high), str(low)),
                    (f"{first} or {second}, smaller?", str(low), str(high)),
                ]
    chance.shuffle(found)
    return found


def write(folder: Path, records: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of reinforcement")
    parser.add_argument("--supervised-steps", type=int, default=1500, help="steps of the supervised training before it")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()

    import torch

    from modelworks.capabilities.text.schemas import TrainParams
    from modelworks.capabilities.text.train import train
    from modelworks.testing.fake_run import FakeRun

    torch.set_num_threads(1)
    asked = questions(given.seed)
    held_out, known = asked[:NUM_HELD_OUT], asked[NUM_HELD_OUT:]
    chance = random.Random(given.seed + 1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)

        def trained(name: str, models: dict[str, Any], data: Path, **params: Any) -> tuple[Any, float]:
            run = FakeRun(root / name, models=models, datasets={"train": data}, seed=given.seed)
            started = time.process_time()
            train(run, TrainParams.model_validate({"num_threads": 1, **params}))
            spent_s = time.process_time() - started
            print(f"{name:<24} {spent_s:6.1f} s of CPU time", flush=True)
            return run, spent_s

        text = root / "text"
        text.mkdir()
        (text / "a.txt").write_text(
            "\n".join(f"{question} The answer is {right}." for question, right, _ in asked[:400]), "utf-8"
        )
        base, _ = trained("a vocabulary", {}, text, **SHAPE, steps=20, warmup_steps=5, chat_fraction=0.0, system_prompt="")

        def answer(right: str, wrong: str) -> str:
            draw = chance.random()
            return wrong if draw < 0.2 else f"The answer is {right}." if draw < 1 / 3 else right

        talks = [
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer(right, wrong)}]}
            for question, right, wrong in known * 10
        ]
        first, _ = trained(
            "supervised",
            {"base": base.saved[0].model()},
            write(root / "talks", talks),
            method="supervised",
            steps=given.supervised_steps,
            batch_size=16,
            packing=False,
            learning_rate=3e-3,
            validation_fraction=0,
            log_every=100,
        )
        prompts = [
            {"messages": [{"role": "user", "content": question}], "reference_answer": right} for question, right, _ in known
        ]
        start = first.saved[0].model()
        second, spent_s = trained(
            "reinforcement",
            {"base": start},
            write(root / "prompts", prompts),
            method="reinforcement",
            grader=GRADER,
            steps=given.steps,
            batch_size=16,
            group_size=8,
            max_answer_tokens=MAX_TOKENS,
            learning_rate=5e-4,
            beta=0.005,
            validation_fraction=0,
            checkpoint_every=10_000,
        )
        print("  step  reward  its std  without signal  cut   kl     entropy  tokens")
        for point in second.logs:
            if point.step == 1 or point.step % max(1, given.steps // 6) == 0:
                each = point.metrics
                print(
                    f"  {point.step:>4}  {each['reward']:6.3f}  {each['reward_std']:7.3f}  {each['without_signal']:14.2f}"
                    f"  {each['cut_answers']:.2f}  {each['kl']:.3f}  {each['entropy']:7.3f}  {each['answer_tokens']:6.2f}"
                )
        tokens = second.saved[0].metadata["metrics"]["tokens_seen"]
        per_step = first.saved[0].metadata["metrics"]["tokens_seen"] / given.supervised_steps
        third, _ = trained(
            "supervised, continued",
            {"base": start},
            root / "talks",
            method="supervised",
            steps=max(1, round(tokens / per_step)),
            batch_size=16,
            packing=False,
            learning_rate=5e-4,
            validation_fraction=0,
            log_every=100,
        )
        right_ones = {
            name: rewards(run.saved[0].model(), held_out)
            for name, run in (("before", first), ("after", second), ("continued", third))
        }
    before = right_ones["before"]
    print(
        f"\nreward on {NUM_HELD_OUT} held-out prompts, {EACH} answers each, {spent_s:.0f} s of CPU time for {given.steps} steps"
    )
    for name, found in right_ones.items():
        low, high = interval(found)
        print(f"{name:<12} {mean(found):.3f}  [{low:.3f}, {high:.3f}]")
    gains = {}
    for name in ("after", "continued"):
        difference = [new - old for new, old in zip(right_ones[name], before, strict=True)]
        gains[name] = interval(difference)
        print(f"{name} - before: {mean(difference):+.3f}  [{gains[name][0]:+.3f}, {gains[name][1]:+.3f}]")
    return 0 if gains["after"][0] > 0 else 1


def rewards(model: Any, asked: list[tuple[str, str, str]]) -> list[float]:
    """The mean reward of the answers to each question."""
    import torch

    from modelworks.capabilities.text.engines.transformers_model import load_model
    from modelworks.capabilities.text.grading.opening import open_grader
    from modelworks.capabilities.text.prompt_format import served_format
    from modelworks.capabilities.text.training.answering import draw_answers
    from modelworks.contract.generation import Message
    from modelworks.contract.grading import Case, Sample, parse_grader

    prompt_format, loaded = served_format(model), load_model(model.path, torch.float32)
    found: list[float] = []
    for start in range(0, len(asked), 50):
        part = asked[start : start + 50]
        ids = [prompt_format.encoder.render([Message(role="user", content=question)]).ids() for question, _, _ in part]
        answers, _ = draw_answers(
            loaded,
            ids,
            each=EACH,
            max_tokens=MAX_TOKENS,
            stop_ids=prompt_format.stop_ids,
            temperature=1.0,
            generator=torch.Generator().manual_seed(start),
        )
        texts = [prompt_format.tokenizer.decode(list(each.ids), skip_special_tokens=True) for each in answers]
        cases = [
            Case(Sample(output_text=text), {"reference_answer": part[place // EACH][1]}) for place, text in enumerate(texts)
        ]
        scores = [grade.score for grade in open_grader(parse_grader(GRADER)).grade(cases)]
        found += [mean(scores[place : place + EACH]) for place in range(0, len(scores), EACH)]
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def interval(values: list[float]) -> tuple[float, float]:
    """95 % of the means of 5,000 resamples."""
    chance = random.Random(0)
    means = sorted(mean(chance.choices(values, k=len(values))) for _ in range(5000))
    return means[125], means[4874]


if __name__ == "__main__":
    sys.exit(main())
