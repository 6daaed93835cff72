"""How fast a base model is trained in f32, in bf16, and by compiled code; beside torch's own autocast.

    python benchmarks/precision.py [--rounds 5] [--steps 4] [--threads 1]

One model of 7.8 million weights (vocabulary 12,288, rows of 512 tokens), the objective and the arithmetic of the capability.
Ways take turns; the figure is tokens per CPU-second, the median over all rounds, and the ratio to f32 is the median of each
round's. Work per token grows with the weights; attention adds a part that grows with the length of a row. Compiling is not
counted, and printed apart.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from modelworks.capabilities.text.schemas import PrecisionParams
from modelworks.capabilities.text.train import next_token
from modelworks.capabilities.text.training.loop import Batch
from modelworks.capabilities.text.training.precision import Precision

VOCABULARY, ROWS, LENGTH = 12_288, 4, 512
WAYS: dict[str, dict[str, Any] | None] = {
    "f32": {},
    "autocast (torch)": None,
    "bf16": {"precision": "bf16"},
    "compiled": {"compiled": True},
    "bf16 compiled": {"precision": "bf16", "compiled": True},
}


def make(workdir: Path, way: dict[str, Any] | None) -> Callable[[], float]:
    """One step of a way as a function that returns its loss."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=32,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=True,
            attn_implementation="sdpa",
        )
    ).train()
    precision = Precision(PrecisionParams(**(way or {})), workdir)
    computed, objective = precision.of(model), precision.fast(next_token)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        ids_bt = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1))
        batch = Batch({"inputs": ids_bt[:, :-1], "targets": ids_bt[:, 1:]}, ROWS * LENGTH, ROWS * LENGTH)
        with torch.autocast("cpu", torch.bfloat16, enabled=way is None):
            total, _ = objective(computed, batch)
        loss = total / batch.weight
        loss.backward()
        precision.gather()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        precision.follow()
        return float(loss.detach())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="steps of a way in a round")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        steps, started = {}, {}
        for name, way in WAYS.items():
            begun = time.process_time()
            steps[name] = make(Path(folder), way)
            steps[name]()
            steps[name]()
            started[name] = time.process_time() - begun
        for _ in range(args.rounds):
            for name, step in steps.items():
                begun = time.process_time()
                for _ in range(args.steps):
                    step()
                rates[name].append(args.steps * ROWS * LENGTH / (time.process_time() - begun))
    for name, found in rates.items():
        ratio = statistics.median(rate / whole for rate, whole in zip(found, rates["f32"], strict=True))
        line = {
            "way": name,
            "tokens_per_cpu_s": round(statistics.median(found)),
            "over_f32": round(ratio, 2),
            "first_two_steps_cpu_s": round(started[name], 1),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
