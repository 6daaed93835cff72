"""An industry model made from a base model that is there, against one trained from scratch on base and industry text together.

    python benchmarks/incremental.py [--full]

The base model (L0) reads general text and is given: its cost is printed, and not counted, as it is there already. The other way
is to train a model of the same shape from scratch on general and medical text together, for as many tokens as the base model
read. Both ways are walked with several budgets, each a run of its own with a schedule of its own. Counted is all CPU time of a
run's process as the operating system says it: starting, reading, tokenizing (from scratch also the tokenizer's training),
training, saving. Compared is the loss on held-out medical text in bits per byte, as the two ways have different tokenizers;
and, for the record, on held-out general text.

What the bar says: the cheapest incremental model that is not worse than the best model from scratch, over that one's cost.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpora
from levels import SHAPE
from private_server import PrivateServer

BAR = 0.10
TESTS = ("medical-validation", "general-validation")
#: Highest learning rate, and rows per step: a run of few tokens needs small steps to have enough of them. From scratch, the
#: longest run is walked with large steps too, so that it is not held back by what suits the short ones.
RATE, ROWS, MANY_ROWS = 3e-3, 2, 8


@dataclass(frozen=True)
class Trained:
    """A model, how it was made and what it cost."""

    way: str
    tokens: int
    ref: str
    cpu_s: float
    #: Bits per byte on each of `TESTS`.
    measured: tuple[float, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="four times the tokens")
    parser.add_argument("--quick", action="store_true", help="a tenth of the tokens: shows the path, not the ratio")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this empty folder, and leave everything there")
    args = parser.parse_args()
    size = 4.0 if args.full else 0.1 if args.quick else 1.0
    tokens = int(1_600_000 * size)
    with PrivateServer(keep=args.keep) as server:
        shares = prepare(server, news_bytes=int(8_000_000 * max(size, 0.3)), medical_part=1.0 if args.full else 0.25)
        base, base_s = server.train("base", {"train": "general"}, params(tokens, ROWS))
        found = [told(Trained("base", tokens, base, base_s, measure(server, base)))]
        for part, rows in ((0.25, ROWS), (0.5, ROWS), (1.0, ROWS), (1.0, MANY_ROWS)):
            some = int(tokens * part)
            ref, cpu_s = server.train("scratch", {"train": "general-and-medical"}, params(some, rows))
            found.append(told(Trained("scratch", some, ref, cpu_s, measure(server, ref))))
        for part in (0.0125, 0.025, 0.05, 0.075):
            some = int(tokens * part)
            ref, cpu_s = server.train("incremental", {"train": "medical"}, params(some, ROWS), base=base)
            found.append(told(Trained("incremental", some, ref, cpu_s, measure(server, ref))))
        reached = report(server, found, shares)
    sys.exit(0 if reached else 1)


def told(trained: Trained) -> Trained:
    """Say what came out, as the next one takes a while."""
    print(f"{trained.ref}: {trained.tokens:,} tokens, {trained.cpu_s:.0f} CPU s, {trained.measured}", flush=True)
    return trained


def params(tokens: int, batch_size: int) -> dict[str, Any]:
    """Of a training for so many tokens; no more is measured on the way than at the end."""
    return {
        **SHAPE,
        "tokens": tokens,
        "learning_rate": RATE,
        "batch_size": batch_size,
        "warmup_steps": max(2, min(30, tokens // (256 * batch_size) // 10)),
        "validation_fraction": 0.005,
        "validate_every": 1_000_000,
        "checkpoint_every": 1_000_000,
    }


def prepare(server: PrivateServer, news_bytes: int, medical_part: float) -> str:
    """Clean and divide the texts; returns in words how large the two are."""
    raw = server.folder / "raw"
    records, _ = corpora.medical()
    medical = corpora.medical_text(records)
    medical = medical[: int(len(medical) * medical_part)]
    general = corpora.general(news_bytes)
    sizes = []
    for name, texts, licence in (
        ("general", general, corpora.GENERAL_LICENCE),
        ("medical", medical, corpora.MEDICAL_LICENCE),
    ):
        folder = corpora.write(raw / f"{name}-raw", texts)
        server.answer("data", "add", str(folder), "--name", f"{name}-raw", "--licence", licence)
        fraction = 0.04 if name == "general" else 0.12
        cleaned = server.answer("data", "clean", f"{name}-raw", "--name", name, "-p", f"validation_fraction={fraction}")
        sizes.append(f"{name}: {sum(len(text['text'].encode()) for text in texts) / 1e6:.1f} MB, {cleaned['kept']}")
    # From scratch, both are read together: what the platform kept of either, and no test text of the other.
    both = server.folder / "raw" / "general-and-medical-raw"
    both.mkdir()
    for name, test in (("general", TESTS[0]), ("medical", TESTS[1])):
        leaked = server.answer("data", "clean", name, "--test", test, "--name", name)["removed"]
        sizes.append(f"given away by {name}: {leaked or 'nothing'}")
        server.fetch(name, both / name)
    server.answer("data", "add", str(both), "--name", "general-and-medical", "--licence", corpora.MEDICAL_LICENCE)
    return "; ".join(sizes)


def measure(server: PrivateServer, ref: str) -> tuple[float, ...]:
    """Bits per byte on each of the test sets."""
    runs = [
        server.answer("evaluate", "text-generation", ref, "--data", data, "-p", "num_threads=1", "--follow") for data in TESTS
    ]
    return tuple(run["result"]["metrics"]["bits_per_byte"] for run in runs)


def report(server: PrivateServer, found: list[Trained], shares: str) -> bool:
    """Print the curves and the ratio; returns whether the bar is met."""
    print(f"\n{shares}")
    best = min((each for each in found if each.way == "scratch"), key=lambda each: each.measured[0])
    print(f"\n{'made':<14}{'tokens':>10}{'CPU s':>8}{'of scratch':>12}{'medical':>10}{'general':>10}   bits per byte")
    for each in found:
        counted = "given" if each.way == "base" else f"{each.cpu_s / best.cpu_s:.3f}"
        print(
            f"{each.way:<14}{each.tokens:>10,}{each.cpu_s:>8.0f}{counted:>12}{each.measured[0]:>10.4f}{each.measured[1]:>10.4f}"
        )
    as_good = [each for each in found if each.way == "incremental" and each.measured[0] <= best.measured[0]]
    if not as_good:
        print(f"\nno incremental model reaches {best.measured[0]:.4f}")
        return False
    first = min(as_good, key=lambda each: each.cpu_s)
    ratio = first.cpu_s / best.cpu_s
    print(f"\nthe loss from scratch is reached at {ratio:.1%} of its CPU time (bar: {BAR:.0%})")
    server.command("compare", best.ref, first.ref, "--data", TESTS[0])
    server.command("compare", best.ref, first.ref, "--data", TESTS[1])
    return ratio <= BAR


if __name__ == "__main__":
    main()
