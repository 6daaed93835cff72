"""An adapter against all weights, and our path beside a plain loop and beside trl, measured in the same run.

    python benchmarks/lora.py [--large] [--trl-python /path/to/python] [--steps 17] [--rounds 3]

Weights are random: speed does not depend on their values. Every way runs in a process of its own with one thread; the figures
are the tokens of its rows over the CPU time from the end of the first step to the end of the last, and the process's largest
memory (weights that are mapped from the file included). All ways see the same rows in the same batches, padded alike; one more
packs them. Rounds are interleaved, and a ratio is the median of the ratios within rounds.

`--trl-python` names the Python of an environment that has trl, accelerate and datasets besides what we stand on. `--large` is
the shape of Qwen3-0.6B: an adapter needs 5 GB, all weights 12 GB; where less is free, all weights are left out and it is said.
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
import warnings
from pathlib import Path
from typing import Any

import psutil

#: Each way and the plain one that it is measured against.
WAYS = {
    "ours lora": "plain lora",
    "plain lora": "plain lora",
    "trl lora": "plain lora",
    "ours lora packed": "plain lora",
    "ours full": "plain full",
    "plain full": "plain full",
    "trl full": "plain full",
}
SHAPES: dict[str, dict[str, Any]] = {
    "10M": {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8},
    "0.6B": {"vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28},
}
HEADS: dict[str, dict[str, Any]] = {
    "10M": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32},
    "0.6B": {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
}
RANK, SEED = 16, 1
#: What training all weights of the large shape needs: weights, gradients, two moments, and the logits.
FULL_BYTES = 13 << 30


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


def ours(folder: Path, way: str, steps: int, batch_size: int) -> tuple[int, float]:
    """Tokens and CPU seconds of all steps but the first."""
    from modelworks.capabilities.text.schemas import LoraParams, SupervisedParams, TrainParams
    from modelworks.capabilities.text.train import train
    from modelworks.capabilities.text.training.loop import TrainingLoop
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
        "batch_size": batch_size,
        "validation_fraction": 0,
        "num_threads": 1,
        "packing": way.endswith("packed"),
        "max_length": 256,
    }
    params = SupervisedParams(**more) if way == "ours full" else LoraParams(**more, rank=RANK)
    run = Run(folder / way, models={"base": folder / "base"}, datasets={"train": folder / "data"}, seed=SEED)
    read: list[int] = []
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


def rows_of(folder: Path) -> list[tuple[list[int], int]]:
    """Each row's ids and where its answer begins, in the order in which our path reads them with this seed."""
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    rows = []
    for line in (folder / "data" / "chats.jsonl").read_text("utf-8").splitlines():
        turns = json.loads(line)["messages"]
        whole = tokenizer.apply_chat_template(turns, return_dict=False)[:-1]
        asked = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
        if len(whole) <= 256:
            rows.append((whole, len(asked)))
    return [rows[index] for index in np.random.default_rng([SEED, 0]).permutation(len(rows))]


def plain(folder: Path, way: str, steps: int, batch_size: int) -> tuple[int, float]:
    """The loop that one writes in an afternoon: AdamW, padded batches, the prompt's labels masked; peft for the adapter."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(1)
    rows = rows_of(folder)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    if way == "plain lora":
        from peft import get_peft_model

        model = get_peft_model(model, lora_config())
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-4, fused=True)
    began, tokens = 0.0, 0
    for step in range(steps):
        chosen = [rows[(step * batch_size + place) % len(rows)] for place in range(batch_size)]
        longest = max(len(ids) for ids, _ in chosen)
        ids = torch.zeros((batch_size, longest), dtype=torch.int64)
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


def lora_config() -> Any:
    """The adapter that every way trains."""
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=32, target_modules="all-linear")


def trl(folder: Path, way: str, steps: int, batch_size: int) -> tuple[int, float]:
    """What one writes with trl: its trainer, its collator, its loss."""
    import torch
    from datasets import Dataset
    from torch.utils.data import Sampler, SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    rows = rows_of(folder)
    times: list[float] = []

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any, **__: Any) -> Sampler[int]:
            return SequentialSampler(self.train_dataset)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.process_time())

    config = SFTConfig(
        output_dir=str(folder / way),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=2e-4,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    labelled = [{"input_ids": ids, "labels": [-100] * start + ids[start:]} for ids, start in rows]
    trainer = InOrder(
        model=AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list(labelled),
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        peft_config=lora_config() if way == "trl lora" else None,
        callbacks=[Clock()],
    )
    trainer.train()
    per_epoch = -(-len(rows) // batch_size)
    tokens = 0
    for step in range(1, steps):
        start = (step % per_epoch) * batch_size
        tokens += sum(len(ids) - 1 for ids, _ in rows[start : start + batch_size])
    return tokens, times[-1] - times[0]


def worker(folder: Path, way: str, steps: int, batch_size: int) -> None:
    """Measure one way, and print it as JSON."""
    warnings.simplefilter("ignore")
    measure = {"ours": ours, "plain": plain, "trl": trl}[way.partition(" ")[0]]
    tokens, seconds = measure(folder, way, steps, batch_size)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"tokens_per_s": tokens / seconds, "peak_bytes": peak_bytes, "tokens": tokens}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="the shape of 0.6 B weights instead of 10 M")
    parser.add_argument("--steps", type=int, help="17, with --large 4; the first is not counted")
    parser.add_argument("--batch-size", type=int, help="4, with --large 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS)
    parser.add_argument("--trl-python", help="Python of an environment with trl, accelerate and datasets")
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "WAY"), help=argparse.SUPPRESS)
    parser.add_argument("--make", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    steps = args.steps or (4 if args.large else 17)
    batch_size = args.batch_size or (2 if args.large else 4)
    shape = "0.6B" if args.large else "10M"
    if args.make:
        make(Path(args.make), shape)
        return
    if args.worker:
        worker(Path(args.worker[0]), args.worker[1], steps, batch_size)
        return
    ways = args.ways or [way for way in WAYS if args.trl_python or not way.startswith("trl")]
    free = psutil.virtual_memory().available
    if args.large and free < FULL_BYTES and any(way.endswith("full") for way in ways):
        print(f"all weights are left out: {free / 2**30:.0f} GiB are free, {FULL_BYTES / 2**30:.0f} are needed")
        ways = [way for way in ways if not way.endswith("full")]
    with tempfile.TemporaryDirectory() as name:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        chosen = ["--large"] if args.large else []
        subprocess.run([sys.executable, __file__, "--make", name, *chosen], env=environment, check=True, capture_output=True)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for number in range(args.rounds):
            for way in ways if number % 2 == 0 else reversed(ways):
                python = args.trl_python if way.startswith("trl") else sys.executable
                command = [python, __file__, "--worker", name, way, "--steps", str(steps), "--batch-size", str(batch_size)]
                done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{way} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {number + 1}: {way}: {found[way][-1]['tokens_per_s']:.1f}", file=sys.stderr, flush=True)
    report(shape, found)


def report(shape: str, found: dict[str, list[dict[str, float]]]) -> None:
    """Print speed, memory, and the ratios to the plain way and from all weights to the adapter."""

    def ratio(way: str, other: str) -> str:
        if way not in found or other not in found:
            return "-"
        pairs = zip(found[way], found[other], strict=True)
        return f"{statistics.median(each['tokens_per_s'] / base['tokens_per_s'] for each, base in pairs):.3f}"

    print(f"{shape} weights, {found[next(iter(found))][0]['tokens']:.0f} tokens counted in each run")
    print(f"{'way':<18}{'tokens/CPU s':>14}{'CPU ms/token':>14}{'peak MiB':>10}{'over the plain':>16}{'over trl':>10}")
    for way, rounds in found.items():
        speed = statistics.median(each["tokens_per_s"] for each in rounds)
        peak = statistics.median(each["peak_bytes"] for each in rounds) / 2**20
        theirs = f"trl {WAYS[way].partition(' ')[2]}"
        print(f"{way:<18}{speed:>14.1f}{1000 / speed:>14.2f}{peak:>10.0f}{ratio(way, WAYS[way]):>16}{ratio(way, theirs):>10}")
    if "ours full" in found and "ours lora" in found:
        print(f"an adapter over all weights, both ours: {ratio('ours lora', 'ours full')} x the speed")


if __name__ == "__main__":
    main()
