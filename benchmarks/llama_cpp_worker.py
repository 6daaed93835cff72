"""Measures llama.cpp for `engine.py`, in an interpreter that has llama-cpp-python; jobs and answers are JSON lines.

All sequences of a job are decoded together through llama_decode with one thread: prompts in batches of 512 tokens, then one
token of every sequence per call, the next token being the most probable one.
"""

import json
import sys
import time

import llama_cpp as api
import numpy as np

BATCH = 512


def measure(context: object, vocab_size: int, prompts: list[list[int]], number: int) -> None:
    api.llama_memory_clear(api.llama_get_memory(context), True)
    batch = api.llama_batch_init(BATCH, 0, 1)

    def put(token: int, position: int, sequence: int, wants_logits: bool) -> None:
        slot = batch.n_tokens
        batch.token[slot] = token
        batch.pos[slot] = position
        batch.n_seq_id[slot] = 1
        batch.seq_id[slot][0] = sequence
        batch.logits[slot] = wants_logits
        batch.n_tokens += 1

    def decode() -> None:
        status = api.llama_decode(context, batch)
        if status:
            raise SystemExit(f"llama_decode: status {status}")

    def best(slot: int) -> int:
        return int(np.ctypeslib.as_array(api.llama_get_logits_ith(context, slot), (vocab_size,)).argmax())

    following = [0] * len(prompts)
    batch.n_tokens = 0
    ends: dict[int, int] = {}
    for sequence, prompt in enumerate(prompts):
        for position, token in enumerate(prompt):
            last = position == len(prompt) - 1
            if last:
                ends[sequence] = batch.n_tokens
            put(token, position, sequence, last)
            if batch.n_tokens == BATCH or (last and sequence == len(prompts) - 1):
                decode()
                for ended, slot in ends.items():
                    following[ended] = best(slot)
                ends.clear()
                batch.n_tokens = 0
    for step in range(number - 1):
        batch.n_tokens = 0
        for sequence, prompt in enumerate(prompts):
            put(following[sequence], len(prompt) + step, sequence, True)
        decode()
        following = [best(slot) for slot in range(len(prompts))]
    api.llama_batch_free(batch)


def main(path: str, largest: int, length: int, repacked: bool) -> None:
    silent = api.llama_log_callback(lambda *_: None)  # kept: the library calls it as long as it lives
    api.llama_log_set(silent, None)
    api.llama_backend_init()
    model_params = api.llama_model_default_params()
    model_params.use_extra_bufts = repacked
    model = api.llama_model_load_from_file(path.encode(), model_params)
    params = api.llama_context_default_params()
    params.n_ctx = largest * (length + 32)
    params.n_batch = params.n_ubatch = BATCH
    params.n_seq_max = largest
    params.n_threads = params.n_threads_batch = 1
    context = api.llama_init_from_model(model, params)
    vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        cpu, wall = time.process_time(), time.perf_counter()
        measure(context, vocab_size, job["prompts"], job["number"])
        tokens = len(job["prompts"]) * job["number"]
        done = {"tokens": tokens, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "repacked")
