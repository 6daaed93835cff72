"""The memory that a training is said to need before it begins, beside what it took.

    python benchmarks/memory.py [--only TEXT] [--large]

Each case is a real run of the capability in a process of its own: a base with random weights, conversations of different
lengths, three steps with a checkpoint and the saved model. Truth is the process's largest resident memory (VmHWM). The promise
is an estimate within 30 % of it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: vocabulary, hidden, intermediate, layers, heads, key heads, width of a head.
SHAPES: dict[str, tuple[int, ...]] = {
    "10M": (8192, 256, 1024, 8, 8, 4, 32),
    "40M": (8192, 512, 2048, 8, 8, 4, 64),
    "60M wide vocabulary": (65_536, 512, 1536, 8, 8, 4, 64),
    "200M": (32_768, 896, 3584, 12, 14, 2, 64),
}
PRETRAIN = {"hidden_size": 256, "num_layers": 8, "intermediate_size": 1024}
LONGER = {"max_length": 512, "batch_size": 8}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    (
        "pretrain 10M",
        "",
        {"hidden_size": 256, "num_layers": 8, "intermediate_size": 1024, "batch_size": 8, "block_length": 256},
    ),
    ("pretrain 10M long", "", {"hidden_size": 256, "num_layers": 8, "intermediate_size": 1024, "batch_size": 16}),
    ("supervised", "10M", {"method": "supervised", "max_length": 256}),
    ("supervised batch 16", "10M", {"method": "supervised", "max_length": 512, "batch_size": 16}),
    ("supervised", "40M", {"method": "supervised", "max_length": 256}),
    ("supervised unpacked", "40M", {"method": "supervised", "packing": False, "batch_size": 8}),
    ("supervised", "60M wide vocabulary", {"method": "supervised", "max_length": 512}),
    (
        "supervised recomputed",
        "40M",
        {"method": "supervised", "max_length": 512, "batch_size": 8, "gradient_checkpointing": True},
    ),
    ("supervised accumulated", "40M", {"method": "supervised", "max_length": 256, "batch_size": 2, "accumulation": 4}),
    ("supervised patient", "40M", {"method": "supervised", "max_length": 256, "patience": 2, "validate_every": 1}),
    ("lora", "40M", {"method": "lora", "max_length": 512}),
    ("lora batch 16", "10M", {"method": "lora", "max_length": 512, "batch_size": 16}),
    ("preference", "40M", {"method": "preference"}),
    ("preference adapter", "40M", {"method": "preference", "adapter": {}}),
    ("distillation", "10M", {"method": "distillation", "max_length": 256}),
    ("supervised", "200M", {"method": "supervised", "max_length": 256, "batch_size": 2}),
    ("lora", "200M", {"method": "lora", "max_length": 256, "batch_size": 2}),
]
LARGE = frozenset({"200M"})


def make(root: Path, shape: str) -> Path:
    """A checkpoint of a shape."""
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    from modelworks.capabilities.text.tokenizer import train_tokenizer
    from modelworks.testing.tiny_data import sentences

    folder = root / shape
    torch.manual_seed(0)
    tokenizer = train_tokenizer(sentences(400), 1024, "", 1024)
    vocab, hidden, intermediate, layers, heads, keys, width = SHAPES[shape]
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        head_dim=width,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=0,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_data(root: Path) -> None:
    """Conversations, pairs and text of different lengths."""
    import random

    from modelworks.testing.tiny_data import sentences, write_text

    chooser, lines = random.Random(0), sentences(400)
    for kind in ("chats", "pairs"):
        (root / kind).mkdir()
        with (root / kind / "samples.jsonl").open("w", encoding="utf-8") as file:
            for number in range(256):
                question = [{"role": "user", "content": f"Question {number}?"}]
                good, bad = (" ".join(chooser.sample(lines, chooser.randint(2, 8))) for _ in range(2))
                answer = {"role": "assistant", "content": good}
                record: dict[str, Any] = {"messages": [*question, answer]}
                if kind == "pairs":
                    worse = [{"role": "assistant", "content": bad}]
                    record = {"input": {"messages": question}, "preferred_output": [answer], "non_preferred_output": worse}
                file.write(json.dumps(record) + "\n")
    write_text(root / "text", documents=40, sentences_each=200)


def inputs_of(root: Path, shape: str, params: dict[str, Any]) -> tuple[dict[str, Path], Path]:
    """(models by role, data set) of a case."""
    if not shape:
        return {}, root / "text"
    models = {"base": root / shape}
    if params["method"] == "distillation":
        models["teacher"] = root / "40M"
    return models, root / ("pairs" if params["method"] == "preference" else "chats")


def work(root: Path, shape: str, params: dict[str, Any]) -> None:
    """In a process of its own: train, and print the largest memory."""
    from modelworks.capabilities.text.schemas import TrainParams
    from modelworks.capabilities.text.train import train
    from modelworks.testing.fake_run import FakeRun

    models, data = inputs_of(root, shape, params)
    started = time.monotonic()
    train(FakeRun(root / "run", models=models, datasets={"train": data}), TrainParams.model_validate(params))
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10
    print(json.dumps({"peak": peak, "seconds": time.monotonic() - started}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="cases whose name or shape contains this")
    parser.add_argument("--large", action="store_true", help="also shapes that need several GB")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        work(**{name: Path(value) if name == "root" else value for name, value in json.loads(arguments.case).items()})
        return
    from modelworks.capabilities.text.estimate import estimate
    from modelworks.capabilities.text.schemas import TrainParams
    from modelworks.testing.fake_run import FakeInputs

    chosen = [case for case in CASES if arguments.only in f"{case[0]} {case[1]}" and (arguments.large or case[1] not in LARGE)]
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        root = Path(name)
        write_data(root)
        for shape in {case[1] for case in chosen} | {"40M"} - {""}:
            if shape:
                make(root, shape)
        print(f"{'case':26} {'shape':20} {'estimate':>10} {'truth':>10} {'ratio':>6}")
        for label, shape, changed in chosen:
            pretraining = {"preset": "custom", "steps": 3, "vocab_size": 8192, "num_heads": 8, "num_kv_heads": 4}
            params = (
                {"num_threads": 1, "checkpoint_every": 2, "log_every": 1} | ({"steps": 3} if shape else pretraining) | changed
            )
            models, data = inputs_of(root, shape, params)
            said = estimate(TrainParams.model_validate(params), FakeInputs(train=data, **models), 1.0)
            case = json.dumps({"root": str(root), "shape": shape, "params": params})
            command = [sys.executable, __file__, "--case", case]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or said is None:
                raise SystemExit(done.stderr[-3000:])
            truth = json.loads(done.stdout.splitlines()[-1])["peak"]
            ratio = said.memory_bytes / truth
            worst = max(worst, abs(ratio - 1))
            print(f"{label:26} {shape:20} {said.memory_bytes / 2**20:8.0f} M {truth / 2**20:8.0f} M {ratio:6.2f}", flush=True)
    print(f"largest deviation {worst:.0%} of {len(chosen)} cases (promised: 30 %)")


if __name__ == "__main__":
    main()
