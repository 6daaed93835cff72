"""Eight adapters on one base beside the base alone and beside merged copies, measured in the same run.

    python benchmarks/adapters.py [--shape 10M|30M|100M|0.6B] [--precision f32|int8] [--loading beside|in_place] [--rounds 5]

Weights are random: speed does not depend on their values. The adapters are on every linear layer. Each way runs in a
process of its own with one thread; eight requests at a time, spread over the adapters; the figure is the generated tokens
over the process's CPU time, the reading of the prompts included. Rounds are interleaved, and a ratio is the median within
rounds. Memory is the process's resident memory over that of the base while it answers: while it answers, and the peak since
the base was opened, which includes the verified load.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from engine import SHAPES, Worker, make_checkpoint

MIDDLE: dict[str, dict[str, Any]] = {
    "30M": {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8},
    "100M": {"vocab_size": 16_384, "hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 12},
}
HEADS: dict[str, dict[str, Any]] = {
    "30M": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 2048},
    "100M": {"num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 2048},
}
CONCURRENCY, PROMPT, NUMBER = 8, 64, 64


def make(folder: Path, shape: str, num_adapters: int, rank: int, *, merged: bool) -> None:
    """A base checkpoint, and adapters as a training saves them, with random matrices."""
    import torch

    from modelworks.capabilities.text.engines.adapter import file_digests
    from modelworks.capabilities.text.engines.probe import METADATA_KEY, Probe
    from modelworks.capabilities.text.engines.transformers_model import load_model
    from modelworks.capabilities.text.prompt_format import PromptFormat
    from modelworks.capabilities.text.schemas import PROMPT_FORMAT, AdapterParams
    from modelworks.capabilities.text.training import adapter as adapters
    from modelworks.contract.adapter import AdapterRecord

    base = folder / "base"
    make_checkpoint(base, SHAPES[shape] if shape in SHAPES else MIDDLE[shape] | HEADS[shape])
    prompt_format = PromptFormat.of(base)
    for number in range(num_adapters):
        torch.manual_seed(number)
        target = folder / f"adapter{number}"
        model = adapters.attach(load_model(base, torch.float32), AdapterParams(rank=rank, alpha=rank))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, 0.05)
        taken = Probe.taken(model, list(range(1, 17)))
        adapters.write(model, target / adapters.FOLDER, "base@v1")
        record = AdapterRecord(base="base@v1", base_digest="bench:base", files=file_digests(target / adapters.FOLDER))
        metadata = {
            "adapter": record.model_dump(),
            PROMPT_FORMAT: prompt_format.record(),
            METADATA_KEY: taken.record(),
        }
        (target / "metadata.json").write_text(json.dumps(metadata), "utf-8")
        if merged:
            adapters.merge(model).save_pretrained(target)
            for file in base.iterdir():
                if not (target / file.name).exists():
                    (target / file.name).symlink_to(file)


async def answered(stream: Callable[[Any], Any]) -> None:
    """Answer as many requests as are measured, so that a load finds an engine that is at work."""
    from modelworks.contract.generation import GenerationInput

    async def one(number: int) -> list[Any]:
        request = GenerationInput(prompt_ids=[number] * PROMPT, max_tokens=4, temperature=0)
        return [chunk async for chunk in stream(request)]

    await asyncio.gather(*(one(number) for number in range(CONCURRENCY)))


def work(way: str, folder: Path, num_adapters: int, precision: str, loading: str) -> None:
    """The measured process: one job per line."""
    import torch

    from modelworks.capabilities.text.schemas import ServeOptions
    from modelworks.capabilities.text.serve import OpenVINOGenerator
    from modelworks.contract import LocalModel
    from modelworks.contract.generation import GenerationInput

    torch.set_num_threads(1)
    context = ((PROMPT + NUMBER) // 32 + 2) * 32
    options = ServeOptions(
        precision=precision,
        num_threads=1,
        max_batch=CONCURRENCY,
        context_length=context,
        cache_size_bytes=8 << 30,
        adapter_loading=loading,
    )

    def local(name: str, metadata: dict[str, Any]) -> LocalModel:
        version_id = f"mdl_{name.upper()}"
        return LocalModel(
            ref=f"{name}@v1", version_id=version_id, path=folder / name, digest=f"bench:{name}", metadata=metadata
        )

    names = [f"adapter{number}" for number in range(num_adapters)]
    asked: list[Callable[[GenerationInput], Any]]
    if way == "merged":
        copies = [OpenVINOGenerator(local(name, {}), options) for name in names]
        asked = [copy.stream for copy in copies]
    else:
        generator = OpenVINOGenerator(local("base", {}), options)
        asked = [generator.stream]
        Path("/proc/self/clear_refs").write_text("5")  # the peak before, of a conversion, is no matter of the load
        if way == "adapters":
            asyncio.run(answered(generator.stream))
            models = [local(name, json.loads((folder / name / "metadata.json").read_text("utf-8"))) for name in names]
            refused = generator.load_adapters(models)
            if refused:
                raise SystemExit(f"refused: {[error.message for error in refused.values()]}")
            asked = [lambda request, chosen=model.version_id: generator.stream(request, chosen) for model in models]

    async def one(number: int, prompt: list[int], length: int) -> int:
        request = GenerationInput(prompt_ids=prompt, max_tokens=length, temperature=0)
        return sum([len(chunk.token_ids) async for chunk in asked[number % len(asked)](request)])

    async def every(prompts: list[list[int]], length: int) -> int:
        answers: list[Awaitable[int]] = [one(number, prompt, length) for number, prompt in enumerate(prompts)]
        return sum(await asyncio.gather(*answers))

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        cpu = time.process_time()
        tokens = asyncio.run(every(job["prompts"], job["number"]))
        used = time.process_time() - cpu
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        status = Path("/proc/self/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        print(json.dumps({"tokens": tokens, "cpu_s": used, "resident": resident, "peak": peak}), flush=True)
    os._exit(0)  # the engine's thread has nothing left to do


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="10M", choices=[*SHAPES, *MIDDLE])
    parser.add_argument("--precision", default="f32", choices=["f32", "int8"])
    parser.add_argument("--loading", default="beside", choices=["beside", "in_place"])
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--skip-merged", action="store_true", help="leave the merged copies out, which large shapes need room for"
    )
    parser.add_argument("--worker", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker[0], Path(options.worker[1]), options.adapters, options.precision, options.loading)
        return
    ways = ["base", "adapters"] if options.skip_merged else ["base", "adapters", "merged"]
    with tempfile.TemporaryDirectory(prefix="modelworks-bench-") as scratch:
        os.environ["MODELWORKS_ENGINE_CACHE"] = str(Path(scratch) / "engines")
        folder = Path(scratch)
        make(folder, options.shape, options.adapters, options.rank, merged="merged" in ways)
        workers = {}
        for way in ways:
            more = ["--adapters", str(options.adapters), "--precision", options.precision, "--loading", options.loading]
            workers[way] = Worker([sys.executable, __file__, "--worker", way, str(folder), *more])
        generator = np.random.default_rng(0)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for worker in workers.values():
            worker.ask(generator.integers(0, 500, (CONCURRENCY, PROMPT)).tolist(), 4)
        for _ in range(options.rounds):
            prompts = generator.integers(0, 500, (CONCURRENCY, PROMPT)).tolist()
            for way, worker in workers.items():
                found[way].append(worker.ask(prompts, NUMBER))
        for worker in workers.values():
            worker.close()
    print(
        f"{options.shape} {options.precision}: {options.adapters} adapters of rank {options.rank} on every linear layer, "
        f"{CONCURRENCY} requests of {PROMPT} + {NUMBER} tokens, loaded {options.loading}"
    )
    print(f"{'':10}{'tokens/CPU s':>14}{'over the base':>15}{'answering MiB':>15}{'over':>7}{'peak MiB':>10}{'over':>7}")
    for way, rounds in found.items():
        rates = [each["tokens"] / each["cpu_s"] for each in rounds]
        ratio = statistics.median(
            each["tokens"] / each["cpu_s"] / (base["tokens"] / base["cpu_s"])
            for each, base in zip(rounds, found["base"], strict=True)
        )
        last, first = rounds[-1], found["base"][-1]
        print(
            f"{way:10}{statistics.median(rates):>14.1f}{ratio:>15.2f}{last['resident'] / 2**20:>15.0f}"
            f"{last['resident'] / first['resident']:>7.2f}{last['peak'] / 2**20:>10.0f}{last['peak'] / first['resident']:>7.2f}"
        )


if __name__ == "__main__":
    main()
