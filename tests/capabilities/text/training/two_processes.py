"""What each of two processes does that share trainings: `python two_processes.py RANK FOLDER`.

One start does all cases: importing torch and transformers is what takes its time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.capabilities.text.conftest import TINY
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from transformers import Qwen3Config, Qwen3ForCausalLM

from modelworks.capabilities.text.schemas import TrainParams
from modelworks.capabilities.text.train import train
from modelworks.capabilities.text.training.plans import Stage, cut_tensors
from modelworks.contract.run import World
from modelworks.testing.fake_run import FakeRun

STRATEGIES = ("ddp", "fsdp")
_TUNED: dict[str, Any] = {
    "num_threads": 1,
    "log_every": 1,
    "validate_every": 4,
    "checkpoint_every": 6,
    "learning_rate": 1e-3,
    "steps": 10,
}
#: Batches that do not divide evenly, and some of a single row.
CASES: dict[str, dict[str, Any]] = {
    "pretrain": {**TINY, "steps": 10, "batch_size": 3, "log_every": 1, "validate_every": 4, "checkpoint_every": 6},
    # Packed, in several batches to a step, with activations computed twice, gradients that are cut, and the best weights kept.
    "supervised": {
        **_TUNED,
        "method": "supervised",
        "batch_size": 2,
        "accumulation": 2,
        "max_length": 128,
        "validation_fraction": 0.25,
        "gradient_checkpointing": True,
        "max_grad_norm": 0.3,
        "patience": 8,
    },
    "lora": {**_TUNED, "method": "lora", "batch_size": 3, "packing": False, "validation_fraction": 0, "rank": 4},
    "preference": {**_TUNED, "method": "preference", "batch_size": 3, "validation_fraction": 0, "steps": 4},
}
RESUMED = "supervised"


def run_case(folder: Path, name: str, strategy: str, world: World, resume_from: Path | None = None) -> FakeRun:
    """One training of the case, with its inputs under `folder`."""
    data = folder / {"pretrain": "documents", "preference": "preferences"}.get(name, "talks")
    run = FakeRun(
        folder / f"{name}-{strategy}-{world.size}-{world.rank}",
        models={} if name == "pretrain" else {"base": folder / "base"},
        datasets={"train": data},
        seed=7,
        world=world,
        resume_from=resume_from,
    )
    train(run, TrainParams.model_validate(CASES[name] | {"strategy": strategy}))
    return run


def report(run: FakeRun) -> dict[str, Any]:
    """What the first process has to say, for another one to read."""
    return {
        "curve": [[point.step, point.metrics] for point in run.logs],
        "checkpoints": [[str(each.path), each.step] for each in run.checkpoints],
        "saved": [str(each.path) for each in run.saved],
        "metrics": [each.metadata["metrics"] for each in run.saved],
    }


def plain_model(*, tied: bool = False) -> Any:
    """A Qwen3 with random weights, the same in every process."""
    torch.manual_seed(11)
    config = Qwen3Config(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=tied,
        attn_implementation="sdpa",
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_norm.weight"):
                # Norms start as ones; a plan that mixed them up would not be noticed.
                parameter.uniform_(0.5, 1.5)
    return model


def text_batch() -> torch.Tensor:
    """Four rows of nine ids: eight inputs, each with its target."""
    return torch.randint(0, 96, (4, 9), generator=torch.Generator().manual_seed(5))


def text_loss(logits_btv: torch.Tensor, targets_bt: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits_btv.flatten(0, 1), targets_bt.flatten())


def cut_in_parts(folder: Path, rank: int) -> None:
    """A forward and a backward pass with the layers cut over both processes; the whole gradients are written down."""
    mesh = init_device_mesh("cpu", (2,))
    model = cut_tensors(plain_model(), mesh)
    ids_bt = text_batch()
    logits_btv = model(input_ids=ids_bt[:, :-1], use_cache=False).logits
    text_loss(logits_btv, ids_bt[:, 1:]).backward()
    gradients = {name: _whole(each.grad) for name, each in model.named_parameters()}
    held = sum(_part(each).numel() for each in model.parameters())
    found = gradients | {"logits": logits_btv.detach().contiguous(), "held": torch.tensor(held)}
    save_file(found, folder / f"parts-{rank}.safetensors")


def _whole(value: Any) -> torch.Tensor:
    whole: torch.Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole


def _part(value: Any) -> torch.Tensor:
    part: torch.Tensor = value.to_local() if hasattr(value, "to_local") else value
    return part


def cut_in_stages(folder: Path, rank: int) -> None:
    """The same with one stage in each process, in two micro-batches; each writes down the gradients of its layers."""
    part = Stage(plain_model(), rank, 2)
    stage = PipelineStage(part, rank, 2, torch.device("cpu"))
    schedule = Schedule1F1B(stage, n_microbatches=2, loss_fn=text_loss)
    ids_bt = text_batch()
    losses: list[torch.Tensor] = []
    if rank == 0:
        schedule.step(ids_bt[:, :-1].contiguous())
    else:
        schedule.step(target=ids_bt[:, 1:].contiguous(), losses=losses)
    gradients = {name: each.grad for name, each in part.named_parameters()}
    save_file(gradients | ({"losses": torch.stack(losses)} if losses else {}), folder / f"stage-{rank}.safetensors")


def main(rank: int, folder: Path) -> None:
    """All cases with both strategies, then one that goes on from a checkpoint of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    world = World(rank, 2)
    found: dict[str, Any] = {}
    for strategy in STRATEGIES:
        for name in CASES:
            found[f"{name}-{strategy}"] = report(run_case(folder, name, strategy, world))
        resumed = run_case(folder, RESUMED, strategy, world, resume_from=folder / "checkpoint")
        found[f"resumed-{strategy}"] = report(resumed)
    cut_in_parts(folder, rank)
    cut_in_stages(folder, rank)
    (folder / f"report-{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
