"""The toy's work: a sum of seeded random numbers, step by step, exactly resumable."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from modelworks.contract.errors import Unavailable
from toycap.capability import CountOutput


def train(run, params):
    state = {"step": 0, "total": 0}
    if run.resume_from is not None:
        state = json.loads((run.resume_from / "state.json").read_text())
        print(f"resuming at step {state['step']}", flush=True)
    words = (run.dataset("train").path / "words.txt").read_text().split() if run.has_input("train") else []
    if params.noise:
        sys.stdout.buffer.write(b"noise \xff\xfe caf\xe9\n")
        sys.stdout.flush()
    if params.print_environment:
        print(dict(os.environ), flush=True)
    if params.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if params.child_pid_file:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(params.child_pid_file).write_text(str(child.pid))
    if params.save_early and run.resume_from is None:
        early = run.workdir / "early.json"
        early.write_text('{"saved": "early"}')
        run.save(early, kind="report")
    while state["step"] < params.steps:
        step = state["step"] + 1
        if not params.stubborn:
            run.raise_if_cancelled()
        if params.wait_at == step:
            while not Path(params.wait_for).exists():
                if not params.stubborn:
                    run.raise_if_cancelled()
                time.sleep(0.01)
        if params.die_at == step and run.attempt <= params.die_attempts:
            os.kill(os.getpid(), signal.SIGKILL)
        if params.stop_at == step and run.attempt == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        if params.raise_at == step:
            raise ValueError(f"step {step} is impossible")
        if params.full_at == step:
            # The next line of the journal finds room for its first bytes only.
            size = (run.workdir.parent / "journal.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
        if params.hoard_at == step:
            # Half a GiB more than there is now may be taken; the next object is larger.
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + (512 << 20), resource.RLIM_INFINITY))
            bytearray(2 << 30)
        if params.exit_at == step:
            os._exit(3)
        if params.unavailable_at == step and run.attempt == 1:
            raise Unavailable("The mirror does not answer.")
        value = random.Random(f"{run.seed}/{step}").randrange(1000) + len(words)
        state = {"step": step, "total": state["total"] + value}
        print(f"attempt {run.attempt} step {step}", flush=True)
        run.log(step, loss=1.0 / step, total=float(state["total"]))
        run.progress(step, params.steps, "steps")
        if step % params.checkpoint_every == 0:
            folder = run.workdir / "checkpoint"
            folder.mkdir(exist_ok=True)
            (folder / "state.json").write_text(json.dumps(state))
            run.checkpoint(folder)
    made = run.workdir / "model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"total": state["total"], "rate": params.rate}))
    if params.pickle:
        (made / "weights.pt").write_bytes(b"\x80\x04K\x01.")
    run.save(made, kind="model", metadata={"task": "toy-count", "level": "L0", "licence": "apache-2.0", "words": len(words)})


def evaluate(run, params):
    model = json.loads((run.model("model").path / "config.json").read_text())
    words = (run.dataset("test").path / "words.txt").read_text().split()
    if params.wrong:
        return {"accuracy": 1.0}
    return {"accuracy": 1.0 / len(words), "loss": float(model["total"])}


def label(run, params):
    state = {"words": []}
    if run.resume_from is not None:
        state = json.loads((run.resume_from / "state.json").read_text())
    teacher = run.deployment("teacher")
    words = (run.dataset("data").path / "words.txt").read_text().split()
    for word in words[len(state["words"]) :]:
        if params.die_after == len(state["words"]) and run.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        state["words"].append(teacher.complete([{"role": "user", "content": word}]).content)
        folder = run.workdir / "checkpoint"
        folder.mkdir(exist_ok=True)
        (folder / "state.json").write_text(json.dumps(state))
        run.checkpoint(folder)
    made = run.workdir / "told"
    made.mkdir()
    (made / "words.txt").write_text(" ".join(state["words"]))
    run.save(made, kind="dataset")
    return {"words": len(words)}


def count_all(run, request):
    if request.text == "lie":
        return {"total": "many"}
    report = run.workdir / "report.txt"
    report.write_text(request.text)
    run.save(report, kind="report")
    return CountOutput(total=len(request.text.split()))
