"""An adapter against all weights, and our path beside a plain script on peft and torch, measured in the same run.

    python benchmarks/lora.py [--large] [--steps 17] [--rounds 3]

Weights are random: speed does not depend on their values. Every way runs in a process of its own with one thread; the figures
are the tokens of its rows over the CPU time from the first step to the last, and the process's largest memory. All ways see the
same rows in batches of the same size, padded; a fourth one packs them. Rounds are interleaved, and a ratio is the median of the
ratios within rounds.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("ours lora", "plain lora", "ours full", "ours lora packed")
SHAPES: dict[str, dict[str, Any]] = {
    "10M": {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8},
    "0.6B": {"vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28},
}
HEADS: dict[str, dict[str, Any]] = {
    "10M": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32},
    "0.6B": {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
}
BATCH, RANK = 4, 16


def make(folder: Path, shape: str) -> None:
    """A Qwen3 checkpoint with random weights, and conversations of different lengths."""
    import random

    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    from modelworks.capabilities.text.tokenizer import train_tokenizer
    from modelworks.testing.tiny_data import sentences

    torch.manual_seed(0)
    lines = sentences(400)
    tokenizer = train_tokenizer(lines, 1024, "", 1024)
    config = Qwen3Config(
        **SHAPES[shape],
        **HEADS[shape],
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=0,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    chooser = random.Random(0)
    (folder / "data").mkdir()
    with (folder / "data" / "chats.jsonl").open("w", encoding="utf-8") as file:
        for number in range(64):
            answer = " ".join(chooser.sample(lines, chooser.randint(2, 8)))
            turns = [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")


def ours(folder: Path, way: str, steps: int) -> tuple[int, float]:
    """Tokens and CPU seconds of all steps but the first."""
    from modelworks.capabilities.text.schemas import LoraParams, SupervisedParams, TrainParams
    from modelworks.capabilities.text.train import train
    from modelworks.testing.fake_run import FakeRun

    class Finished(Exception):
        """All steps are done; saving is not measured."""

    class Run(FakeRun):
        began = 0.0
        took = 0.0

        def log(self, step: int, **metrics: float) -> None:
            super().log(step, **metrics)
            if step == 1:
                self.began = time.process_time()
            if step == steps:
                self.took = time.process_time() - self.began
                raise Finished

    more: dict[str, Any] = {
        "steps": steps,
        "batch_size": BATCH,
        "validation_fraction": 0,
        "num_threads": 1,
        "packing": way.endswith("packed"),
        "max_length": 256,
    }
    params = SupervisedParams(**more) if way == "ours full" else LoraParams(**more, rank=RANK)
    run = Run(folder / way, models={"base": folder / "base"}, datasets={"train": folder / "data"}, seed=1)
    read: list[int] = []
    from modelworks.capabilities.text.training.loop import TrainingLoop

    step = TrainingLoop._step

    def counted(loop: Any, rate: float) -> Any:
        before = loop._at.tokens_seen
        done = step(loop, rate)
        read.append(loop._at.tokens_seen - before)
        return done

    TrainingLoop._step = counted  # type: ignore[method-assign]
    with contextlib.suppress(Finished):
        train(run, TrainParams(params))
    return sum(read[1:]), run.took


def plain(folder: Path, steps: int) -> tuple[int, float]:
    """The loop that one writes in an afternoon: peft, AdamW, padded batches, the prompt's labels masked."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=32, target_modules="all-linear")
    model = get_peft_model(model, config)
    model.train()
    rows = []
    for line in (folder / "data" / "chats.jsonl").read_text("utf-8").splitlines():
        turns = json.loads(line)["messages"]
        whole = tokenizer.apply_chat_template(turns, return_dict=False)[:-1]
        asked = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
        if len(whole) <= 256:
            rows.append((whole, len(asked)))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-4, fused=True)
    order = torch.randperm(len(rows)).tolist()
    began, tokens = 0.0, 0
    for step in range(steps):
        chosen = [rows[order[(step * BATCH + place) % len(rows)]] for place in range(BATCH)]
        longest = max(len(ids) for ids, _ in chosen)
        ids = torch.zeros((BATCH, longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, -100)
        for place, (row, start) in enumerate(chosen):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
            labels[place, start : len(row)] = torch.tensor(row[start:])
        model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step == 0:
            began = time.process_time()
        else:
            tokens += sum(len(row) - 1 for row, _ in chosen)
    return tokens, time.process_time() - began


def worker(folder: Path, way: str, steps: int) -> None:
    """Measure one way, and print it as JSON."""
    import warnings

    warnings.simplefilter("ignore")
    tokens, seconds = plain(folder, steps) if way == "plain lora" else ours(folder, way, steps)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"tokens_per_s": tokens / seconds, "peak_bytes": peak_bytes}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="the shape of 0.6 B weights instead of 10 M")
    parser.add_argument("--steps", type=int, default=17)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(Path(args.worker[0]), args.worker[1], args.steps)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, "0.6B" if args.large else "10M")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        found: dict[str, list[dict[str, float]]] = {way: [] for way in args.ways}
        for _ in range(args.rounds):
            for way in args.ways:
                command = [sys.executable, __file__, "--worker", str(folder), way, "--steps", str(args.steps)]
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
    reference = "plain lora" if "plain lora" in found else args.ways[0]
    print(f"{'way':<18}{'tokens/CPU s':>14}{'peak MiB':>10}{'speed over ' + reference:>24}")
    for way, rounds in found.items():
        speed = statistics.median(each["tokens_per_s"] for each in rounds)
        peak = statistics.median(each["peak_bytes"] for each in rounds) / 2**20
        pairs = zip(rounds, found[reference], strict=True)
        ratio = statistics.median(each["tokens_per_s"] / other["tokens_per_s"] for each, other in pairs)
        print(f"{way:<18}{speed:>14.1f}{peak:>10.0f}{ratio:>24.2f}")


if __name__ == "__main__":
    main()
