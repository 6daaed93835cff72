"""Two processes that share a training beside one, on this machine: what the sharing costs, and what it gains.

    python benchmarks/distributed.py [--steps 12] [--rounds 3]

A Qwen3 shape with 10 million random weights is pre-trained on generated text; every process has one thread. All ways see the
same rows in the same order (8 rows of 256 tokens to a step). Measured from the first step to the last, without starting and
saving: tokens over the CPU time of all processes, and over the wall clock. The processes are started directly, not through Ray
Train, which adds its start and then does the same. Rounds are interleaved; a ratio is the median of the ratios within rounds.
With fewer idle cores than processes the wall clock says little: the load is printed with the figures.
"""

from __future__ import annotations

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

WAYS = {"one process": (1, "ddp"), "two, ddp": (2, "ddp"), "two, fsdp": (2, "fsdp")}
SHAPE: dict[str, Any] = {
    "preset": "small",
    "vocab_size": 8192,
    "context_length": 256,
    "batch_size": 8,
    "chat_fraction": 0.0,
    "num_threads": 1,
}


def work(folder: Path, strategy: str, steps: int, rank: int, size: int) -> None:
    """One process: trains, and writes down what it took from the end of the first step to that of the last."""
    import torch

    from modelworks.capabilities.text.schemas import TrainParams
    from modelworks.capabilities.text.train import train
    from modelworks.contract.run import World
    from modelworks.testing.fake_run import FakeRun

    class Finished(Exception):
        """All steps are done; measuring and saving are not looked at."""

    class Run(FakeRun):
        began: tuple[float, float] = (0.0, 0.0)
        took: tuple[float, float] = (0.0, 0.0)

        def log(self, step: int, **metrics: float) -> None:
            super().log(step, **metrics)
            now = time.process_time(), time.perf_counter()
            if step == 1:
                self.began = now
            if step == steps:
                self.took = now[0] - self.began[0], now[1] - self.began[1]
                raise Finished

    if size > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    run = Run(folder / f"rank{rank}", datasets={"train": folder.parent / "text"}, seed=1, world=World(rank, size))
    params = {**SHAPE, "steps": steps, "log_every": 1, "validate_every": steps + 1, "strategy": strategy}
    with contextlib.suppress(Finished):
        train(run, TrainParams.model_validate(params))
    found = {
        "cpu_s": run.took[0],
        "wall_s": run.took[1],
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "losses": [point.metrics["loss"] for point in run.logs if "loss" in point.metrics],
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    # The other process may be a little behind.
    if size > 1:
        torch.distributed.barrier()


def measure(folder: Path, way: str, steps: int) -> dict[str, Any]:
    """All processes of a way, together."""
    size, strategy = WAYS[way]
    folder.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    arguments = [sys.executable, __file__, "--work", str(folder), "--strategy", strategy, "--steps", str(steps)]
    processes = [
        subprocess.Popen([*arguments, "--rank", str(rank), "--size", str(size)], env=environment, stderr=subprocess.DEVNULL)
        for rank in range(size)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"{way}: a process ended with {codes}")
    found = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(size)]
    tokens = (steps - 1) * SHAPE["batch_size"] * SHAPE["context_length"]
    return {
        "per_cpu_s": tokens / sum(each["cpu_s"] for each in found),
        "per_wall_s": tokens / max(each["wall_s"] for each in found),
        "memory_mib": max(each["memory_mib"] for each in found),
        "losses": found[0]["losses"],
    }


def main() -> None:
    """Measure, and print the medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    for name, kind in (("work", Path), ("strategy", str), ("rank", int), ("size", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        work(given.work, given.strategy, given.steps, given.rank, given.size)
        return
    from modelworks.testing.tiny_data import write_text

    rounds: list[dict[str, dict[str, Any]]] = []
    loads = []
    with tempfile.TemporaryDirectory(prefix="modelworks-distributed-") as scratch:
        write_text(Path(scratch) / "text", documents=40, sentences_each=120)
        for number in range(given.rounds):
            rounds.append({})
            for way in WAYS:
                loads.append(os.getloadavg()[0])
                rounds[-1][way] = measure(
                    Path(scratch) / f"{number}-{way.replace(', ', '-').replace(' ', '-')}", way, given.steps
                )
    print(f"{os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f}, {given.rounds} rounds of {given.steps} steps")
    print(
        f"{'way':12}  {'tokens/CPU-s':>12}  {'over one':>8}  {'tokens/s':>9}  {'over one':>8}  {'MiB each':>8}  loss differs by"
    )
    for way in WAYS:
        cpu, wall, memory = (
            statistics.median(each[way][name] for each in rounds) for name in ("per_cpu_s", "per_wall_s", "memory_mib")
        )
        over_cpu, over_wall = (
            statistics.median(each[way][name] / each["one process"][name] for each in rounds)
            for name in ("per_cpu_s", "per_wall_s")
        )
        difference = max(
            abs(ours - theirs) / theirs
            for each in rounds
            for ours, theirs in zip(each[way]["losses"], each["one process"]["losses"], strict=True)
        )
        print(f"{way:12}  {cpu:12.0f}  {over_cpu:7.2f}x  {wall:9.0f}  {over_wall:7.2f}x  {memory:8.0f}  {difference:.1e}")


if __name__ == "__main__":
    main()
