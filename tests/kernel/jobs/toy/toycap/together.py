"""Work that several processes share: each adds its part to a sum, and misfortunes befall one of them."""

import json
import os
import signal
import time

import torch

from modelworks.contract.errors import InvalidData


def train(run, params):
    done = 0
    if run.resume_from is not None:
        done = json.loads((run.resume_from / "state.json").read_text())["step"]
        print(f"resuming at step {done}", flush=True)
    words = (run.dataset("train").path / "words.txt").read_text().split()
    is_struck = run.world.rank == params.rank
    for step in range(done + 1, params.steps + 1):
        run.raise_if_cancelled()
        if params.die_at == step and run.attempt == 1 and is_struck:
            os.kill(os.getpid(), signal.SIGKILL)
        if params.raise_at == step and is_struck:
            raise InvalidData(f"Worker {run.world.rank} found a bad word.", hint="Take it out.")
        total = torch.tensor([len(words) * step * (run.world.rank + 1.0)])
        torch.distributed.all_reduce(total)
        run.log(step, total=float(total), workers=run.world.size)
        run.progress(step, params.steps, "steps")
        if step % params.checkpoint_every == 0:
            folder = run.workdir / "checkpoint"
            folder.mkdir(exist_ok=True)
            (folder / "state.json").write_text(json.dumps({"step": step}))
            run.checkpoint(folder)
        time.sleep(params.pause_s)
    made = run.workdir / "model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"rank": run.world.rank}))
    run.save(made, kind="model", metadata={"task": "toy-together"})
