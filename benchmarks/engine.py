"""Generated tokens per CPU-second of our language engine, beside plain transformers and llama.cpp, measured in the same run.

    python benchmarks/engine.py [--large] [--llama-python PATH] [--rounds 3] [--concurrency 1 8 32]

Models have random weights: speed does not depend on their values. Every engine runs in a process of its own with one thread;
the figure is the generated tokens over the CPU time of that process, the reading of the prompts included. Rounds are
interleaved, and a ratio is the median of the ratios within rounds. Ours is measured through `Generator.stream`, text and event
loop included.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

OURS = ("ours int8", "ours f32")
SHAPES: dict[str, dict[str, Any]] = {
    "10M": {
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 2048,
    },
    "0.6B": {
        "vocab_size": 151_936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 2048,
    },
}


def make_checkpoint(folder: Path, shape: dict[str, Any]) -> None:
    """A Qwen3 checkpoint with random weights, and a tokenizer without an end token so that no answer ends early."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from modelworks.capabilities.text.tokenizer import train_tokenizer

    torch.manual_seed(0)
    config = Qwen3Config(**shape, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tokenizer = train_tokenizer([Path(__file__).read_text("utf-8")], 512, "", shape["max_position_embeddings"])
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)


def open_ours(folder: Path, precision: str, length: int, largest: int) -> Any:
    from modelworks.capabilities.text.schemas import ServeOptions
    from modelworks.capabilities.text.serve import OpenVINOGenerator
    from modelworks.contract import LocalModel

    model = LocalModel(ref="bench@v1", version_id="mdl_BENCH", path=folder, digest=f"bench:{folder}")
    context = (length // 32 + 2) * 32
    options = ServeOptions(
        precision=precision,
        num_threads=2 if precision == "bf16" else 1,
        max_batch=largest,
        context_length=context,
        cache_size_bytes=8 << 30,
    )
    return OpenVINOGenerator(model, options)


def work(kind: str, folder: Path, largest: int, length: int) -> None:
    """The measured process: one job per line."""
    import torch

    from modelworks.contract.generation import GenerationInput

    torch.set_num_threads(1)
    if kind in OURS:
        generator = open_ours(folder, kind.split()[1], length, largest)

        async def one(prompt: list[int], number: int) -> int:
            request = GenerationInput(prompt_ids=prompt, max_tokens=number, temperature=0)
            return sum([len(chunk.token_ids) async for chunk in generator.stream(request)])

        async def every(prompts: list[list[int]], number: int) -> int:
            return sum(await asyncio.gather(*(one(prompt, number) for prompt in prompts)))

        def run(prompts: list[list[int]], number: int) -> int:
            return asyncio.run(every(prompts, number))
    else:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if "bf16" in kind else torch.float32)

        def generate(rows: list[list[int]], number: int) -> int:
            output = model.generate(
                torch.tensor(rows), max_new_tokens=number, do_sample=False, eos_token_id=None, pad_token_id=0
            )
            return (output.shape[1] - len(rows[0])) * len(rows)

        def run(prompts: list[list[int]], number: int) -> int:
            if "batched" in kind:
                return generate(prompts, number)
            return sum(generate([prompt], number) for prompt in prompts)

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        cpu, wall = time.process_time(), time.perf_counter()
        tokens = run(job["prompts"], job["number"])
        done = {"tokens": tokens, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        print(json.dumps(done), flush=True)
    os._exit(0)  # the engine's thread has nothing left to do


class ProcessEnded(Exception):
    """A measured process is gone."""


class Worker:
    """A measured process."""

    def __init__(self, argv: list[str]) -> None:
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **threads},
        )
        self._read()

    def ask(self, prompts: list[list[int]], number: int) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "number": number}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        assert answer["tokens"] == len(prompts) * number, answer
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, float] = json.loads(line)
                return answer
        raise ProcessEnded(f"ended with status {self._process.wait()}")


def llama_worker(python: str | None, folder: Path, largest: int, length: int) -> Worker | None:
    """llama.cpp on the same weights in Q8_0, or None with a line that says why not."""
    if python is None:
        print("llama.cpp: not measured: give --llama-python PATH of an interpreter that has llama-cpp-python")
        return None
    if subprocess.run([python, "-c", "import llama_cpp"], capture_output=True, check=False).returncode:
        print(f"llama.cpp: not measured: {python} cannot import llama_cpp")
        return None
    from modelworks.capabilities.text.gguf_export import export

    file = folder.with_suffix(".q8_0.gguf")
    export(folder, file, "q8_0")
    script = Path(__file__).with_name("llama_cpp_worker.py")
    for weights in ("repacked", "plain"):
        worker = Worker([python, str(script), str(file), str(largest), str(length), weights])
        try:
            worker.ask([[1, 2, 3, 4]] * 2, 2)
        except ProcessEnded as ended:
            print(f"llama.cpp: with {weights} weights its process {ended}")
        else:
            return worker
    return None


def compare_logits(folder: Path, precisions: list[str]) -> None:
    """Largest differences from the checkpoint in f32: of logits, and of log-probabilities that the batching engine reports."""
    import torch
    from transformers import AutoModelForCausalLM

    from modelworks.capabilities.text.engines.openvino_engine import GraphDecoder
    from modelworks.capabilities.text.engines.openvino_model import converted
    from modelworks.contract.generation import GenerationInput

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = np.random.default_rng(5).integers(0, 500, 96).tolist()
    for precision in precisions:
        properties = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "KV_CACHE_PRECISION": "f32" if precision == "f32" else "u8",
            "INFERENCE_NUM_THREADS": 2,
        }
        decoder = GraphDecoder(converted(folder, f"bench:{folder}", int8=precision == "int8"), properties)
        state, worst = decoder.new_state(), 0.0
        with torch.inference_mode():
            expected = model(torch.tensor([prompt])).logits[0].numpy()
        for end in range(16, len(prompt) + 1, 16):
            got = decoder.read(state, prompt[end - 16 : end], end - 16)
            worst = max(worst, float(np.abs(got - expected[end - 1]).max()))
        generator = open_ours(folder, precision, 160, 2)

        async def answer(generator: Any = generator) -> list[tuple[int, float]]:
            request = GenerationInput(prompt_ids=prompt, max_tokens=32, temperature=0, logprobs=True)
            return [(each.token_id, each.logprob) async for chunk in generator.stream(request) for each in chunk.logprobs or ()]

        steps = asyncio.run(answer())
        generator.close()
        with torch.inference_mode():
            row = torch.tensor([prompt + [token for token, _ in steps]])
            logprobs = model(row).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        apart = max(abs(logprob - float(logprobs[at, token])) for at, (token, logprob) in enumerate(steps))
        print(
            f"  {precision:5} largest difference: logits {worst:.2g} (their spread is {expected.std():.2g}), "
            f"batched log-probabilities {apart:.2g}"
        )


def bench(name: str, options: argparse.Namespace) -> None:
    largest, length = max(options.concurrency), options.prompt + options.number
    with tempfile.TemporaryDirectory(prefix="modelworks-bench-") as scratch:
        os.environ["MODELWORKS_ENGINE_CACHE"] = str(Path(scratch) / "engines")
        folder = Path(scratch) / name
        make_checkpoint(folder, SHAPES[name])
        print(f"\n{name}: {options.prompt} prompt and {options.number} generated tokens per sequence, one thread each")
        if not options.skip_logits:
            compare_logits(folder, ["f32", "bf16", "int8"])
        kinds = [*OURS, "transformers f32", "transformers f32 batched"]
        if name == "0.6B":
            kinds = ["ours int8", "transformers bf16", "transformers bf16 batched"]
        workers = {}
        for kind in kinds:
            argv = [sys.executable, __file__, "--worker", kind, "--folder", str(folder)]
            workers[kind] = Worker([*argv, "--largest", str(largest), "--length", str(length)])
        llama = llama_worker(options.llama_python, folder, largest, length)
        if llama is not None:
            workers["llama.cpp Q8_0"] = llama
        generator = np.random.default_rng(0)
        for worker in workers.values():
            worker.ask(generator.integers(0, 500, (1, options.prompt)).tolist(), 4)
        for concurrency in options.concurrency:
            rates: dict[str, list[float]] = {kind: [] for kind in workers}
            for _ in range(options.rounds):
                prompts = generator.integers(0, 500, (concurrency, options.prompt)).tolist()
                for kind, worker in workers.items():
                    answer = worker.ask(prompts, options.number)
                    rates[kind].append(answer["tokens"] / answer["cpu_s"])
            base = rates[kinds[0]]
            print(f"  {concurrency} at a time")
            for kind, values in rates.items():
                ratio = statistics.median(ours / theirs for ours, theirs in zip(base, values, strict=True))
                print(f"    {kind:26} {statistics.median(values):9.1f} tokens/CPU-s   ours int8 is {ratio:5.2f} x", flush=True)
        for worker in workers.values():
            worker.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="measure the 0.6 B shape instead of the 10 M one")
    parser.add_argument("--llama-python", help="an interpreter that has llama-cpp-python")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--number", type=int, default=64, help="generated tokens of each sequence")
    parser.add_argument("--skip-logits", action="store_true", help="do not compare logits with the checkpoint's")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--largest", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.folder, options.largest, options.length)
    else:
        bench("0.6B" if options.large else "10M", options)


if __name__ == "__main__":
    main()
