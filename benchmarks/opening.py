"""What it costs to open a deployment of a model: with the answers that a version made here brings along, and without.

    python benchmarks/opening.py [--rounds 5]

A model of 10 M random weights is opened in a process of its own with one thread, as a replica opens it, its conversion at hand
from an earlier one. Without answers of its own the engine is held against the checkpoint, which is loaded for that by
transformers. The figures are the CPU time of the process from its start until the engine can answer, and its largest memory;
ways are interleaved, and a ratio is the median of the ratios within rounds.
"""

from __future__ import annotations

import argparse
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

from engine import SHAPES, make_checkpoint


def work(folder: Path, metadata: dict[str, Any]) -> None:
    """Open the model and say what it cost."""
    from modelworks.capabilities.text.schemas import ServeOptions
    from modelworks.capabilities.text.serve import OpenVINOGenerator
    from modelworks.contract import LocalModel

    model = LocalModel(ref="opened@v1", version_id="opened", path=folder, digest="sha256:opened", metadata=metadata)
    opened = OpenVINOGenerator(model, ServeOptions(num_threads=1))
    largest_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([time.process_time(), largest_mib]), flush=True)
    opened.close()


def answers(folder: Path) -> dict[str, Any]:
    """What the model answers to a row of ids, as a training notes it."""
    import torch

    from modelworks.capabilities.text.engines.opening import probe_ids
    from modelworks.capabilities.text.engines.probe import METADATA_KEY, Probe
    from modelworks.capabilities.text.engines.transformers_model import load_model

    model = load_model(folder, torch.float32, "opened@v1")
    return {METADATA_KEY: Probe.taken(model, probe_ids(int(model.config.vocab_size))).record()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        folder, metadata = args.worker
        work(Path(folder), json.loads(metadata))
        return
    with tempfile.TemporaryDirectory(prefix="modelworks-benchmark-") as root:
        folder = Path(root) / "model"
        make_checkpoint(folder, SHAPES["10M"])
        environment = {**os.environ, "MODELWORKS_ENGINE_CACHE": str(Path(root) / "engines"), "OMP_NUM_THREADS": "1"}
        ways = {"with its answers": answers(folder), "against the checkpoint": {}}

        def run(way: str) -> tuple[float, float]:
            command = [sys.executable, __file__, "--worker", str(folder), json.dumps(ways[way])]
            said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            cpu_s, mib = json.loads(said.splitlines()[-1])
            return cpu_s, mib

        run("with its answers")  # converts it
        rounds = []
        for number in range(args.rounds):
            order = list(ways) if number % 2 else list(reversed(ways))
            rounds.append({way: run(way) for way in order})
    print(f"{'way':<26}{'CPU s':>8}{'largest MiB':>14}")
    for way in ways:
        cpu_s, mib = (statistics.median(each[way][place] for each in rounds) for place in (0, 1))
        print(f"{way:<26}{cpu_s:>8.2f}{mib:>14.0f}")
    for place, what in ((0, "CPU time"), (1, "memory")):
        ratio = statistics.median(each["with its answers"][place] / each["against the checkpoint"][place] for each in rounds)
        print(f"{what}, with its answers over against the checkpoint: {ratio:.2f} x")


if __name__ == "__main__":
    main()
