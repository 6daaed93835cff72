"""From a base model to an industry model to a task model, on real Chinese and English text, by the platform's own commands.

    python benchmarks/levels.py [--quick]

L0 reads general text, L1 goes on with medical text, L2 learns to answer from conversations: once with all weights, once with an
adapter. Test sets are held out by document, and cleaned of copies by the platform before anything is trained. Every level is
measured on the same three test sets; the differences are paired, with 95 % intervals. Models have 1.3 M weights and about the
tokens that a few CPU minutes allow: what is shown is that each level gains what it is there for, not how good a model can be.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import corpora
from private_server import PrivateServer

SHAPE: dict[str, Any] = {
    "preset": "custom",
    "vocab_size": 4096,
    "hidden_size": 128,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "intermediate_size": 384,
    "context_length": 256,
    "batch_size": 8,
    "num_threads": 1,
}
SETS = ("general-validation", "medical-validation", "departments-validation")


def prepare(server: PrivateServer, news_bytes: int) -> None:
    """Clean and divide the three data sets; what one is tested on is in no other's training text."""
    raw = server.folder / "raw"
    for_text, for_task = corpora.medical()
    general = corpora.write(raw / "general-raw", corpora.general(news_bytes))
    medical = corpora.write(raw / "medical-raw", corpora.medical_text(for_text))
    task = corpora.write(raw / "departments-raw", corpora.medical_task(for_task))
    for folder, name, licence, fraction in (
        (general, "general", corpora.GENERAL_LICENCE, 0.04),
        (medical, "medical", corpora.MEDICAL_LICENCE, 0.05),
        (task, "departments", corpora.MEDICAL_LICENCE, 0.15),
    ):
        server.answer("data", "add", str(folder), "--name", f"{name}-raw", "--licence", licence)
        params = ["-p", f"validation_fraction={fraction}", "-p", "max_preview=0"]
        server.command("data", "clean", f"{name}-raw", "--name", name, *params)
    for name, test in (("general", SETS[1]), ("general", SETS[2]), ("medical", SETS[2]), ("departments", SETS[1])):
        # Once more across the sets; a sample that gives a test sample away is taken out, else the version stays as it was.
        server.command("data", "clean", name, "--test", test, "--name", name, "-p", "max_preview=3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps: shows the path, not the gains")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this empty folder, and leave everything there")
    args = parser.parse_args()
    part = 0.1 if args.quick else 1.0
    with PrivateServer(keep=args.keep) as server:
        prepare(server, news_bytes=int(6_000_000 * max(part, 0.3)))
        tuning = {"epochs": round(3 * part, 2), "batch_size": 4, "validate_every": 100, "num_threads": 1}
        reading = {**SHAPE, "validate_every": 200, "validation_fraction": 0.01}
        costs: dict[str, float] = {}
        l0, costs["L0"] = server.train(
            "general-lm", {"train": "general"}, {**reading, "tokens": int(2_000_000 * part), "learning_rate": 3e-3}
        )
        l1, costs["L1"] = server.train(
            "medical-lm", {"train": "medical"}, {**reading, "tokens": int(600_000 * part), "learning_rate": 1.5e-3}, base=l0
        )
        full, costs["L2, all weights"] = server.train(
            "departments-lm", {"train": "departments"}, {**tuning, "method": "supervised", "learning_rate": 1e-3}, base=l1
        )
        lora, costs["L2, adapter"] = server.train(
            "departments-lora",
            {"train": "departments"},
            {**tuning, "method": "lora", "rank": 16, "learning_rate": 4e-3},
            base=l1,
        )
        models = (l0, l1, full, lora)
        measuring = ["-p", "num_threads=1", "-p", "max_answers=300", "-p", "max_answer_tokens=12"]
        found = {
            (model, data): server.answer("evaluate", "text-generation", model, "--data", data, *measuring, "--follow")[
                "result"
            ]["metrics"]
            for model in models
            for data in SETS
        }
        print_table(models, found)
        print(f"always the most frequent answer of each language: {most_frequent(server):.3f}")
        print("\nEach level against the one before, on its own held-out set; L0 against L1 on general text:")
        server.command("compare", l1, l0, "--data", SETS[0])
        server.command("compare", l0, l1, "--data", SETS[1])
        server.command("compare", l1, full, "--data", SETS[2])
        server.command("compare", l1, lora, "--data", SETS[2])
        server.command("compare", full, lora, "--data", SETS[2])
        server.command("compare", full, lora, "--data", SETS[0])
        print("\nThe quality gate: better at the task, and on medical text no more than 1 % worse; then at the task alone:")
        for more in (["--general", SETS[1], "--max-regression", "0.01"], []):
            for model in (full, lora):
                server.command("promote", model, "--alias", "prod", "--test", SETS[2], *more, may_fail=True)
        server.command("tree", full)
        server.command("show", full)
        print("\nCPU seconds of the runs:", ", ".join(f"{name} {seconds:.0f}" for name, seconds in costs.items()))


def print_table(models: tuple[str, ...], found: dict[tuple[str, str], dict[str, float]]) -> None:
    """Bits per byte of every model on every test set, and how often the task is answered right."""
    print(f"\n{'bits per byte':<22}" + "".join(f"{data:>26}" for data in SETS) + f"{'answered right':>18}")
    for model in models:
        row = "".join(f"{found[model, data]['bits_per_byte']:>26.3f}" for data in SETS)
        print(f"{model:<22}{row}{found[model, SETS[2]]['exact_match']:>18.3f}")


def most_frequent(server: PrivateServer) -> float:
    """How often the answer that is the most frequent one in the training conversations of the same language is right."""
    answers: dict[str, list[tuple[bool, str]]] = {}
    for name in ("departments", SETS[2]):
        server.fetch(name, server.folder / "fetched" / name)
        lines = (server.folder / "fetched" / name / "data.jsonl").read_text("utf-8").splitlines()
        talks = [json.loads(line)["messages"] for line in lines]
        answers[name] = [(talk[0]["content"].endswith("？"), talk[1]["content"]) for talk in talks]
    best = {
        chinese: Counter(answer for kind, answer in answers["departments"] if kind == chinese).most_common(1)[0][0]
        for chinese in (True, False)
    }
    return sum(best[kind] == answer for kind, answer in answers[SETS[2]]) / len(answers[SETS[2]])


if __name__ == "__main__":
    main()
