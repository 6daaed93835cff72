"""A word list learned in steps, and a scene drawn as files."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from modelworks.contract import Run
from modelworks.contract.errors import InvalidData
from toys.schemas import SceneParams, SpellingParams


def words_of(folder: Path) -> Iterator[str]:
    """Every word of the folder's text files, in the order of their names."""
    for path in sorted(folder.rglob("*.txt")):
        yield from re.findall(r"\w+", path.read_text(encoding="utf-8"))


def learn_words(run: Run, params: SpellingParams) -> None:
    """Collect the words of the data set, a step at a time, with a checkpoint after each."""
    words = list(words_of(run.dataset().path))
    if not words:
        raise InvalidData(f"{run.dataset().path} has no words.", hint="Give a folder of .txt files.")
    state = {"read": 0, "step": 0, "words": []}
    if run.resume_from is not None:
        state = json.loads((run.resume_from / "state.json").read_text())
    known, read, step = set(state["words"]), state["read"], state["step"]
    while read < len(words):
        run.raise_if_cancelled()
        time.sleep(params.pause_s)
        chunk = words[read : read + params.words_per_step]
        new = len(set(chunk) - known)
        known.update(chunk)
        read, step = read + len(chunk), step + 1
        run.log(step, new=new, known=len(known))
        run.progress(read, len(words), "words")
        run.checkpoint(_folder(run, "checkpoint", "state.json", {"read": read, "step": step, "words": sorted(known)}))
    run.save(
        _folder(run, "model", "words.json", sorted(known)),
        kind="model",
        metadata={"task": "toy-spelling", "level": "L0", "num_words": len(known)},
    )


def draw_scene(run: Run, params: SceneParams) -> None:
    """Draw the words' lengths as bars: a page, a picture and the numbers."""
    folder = run.workdir / "scene"
    if run.resume_from is not None:
        shutil.copytree(run.resume_from, folder)
    else:
        lengths = [len(word) for word in words_of(run.dataset().path)][: params.width // 4]
        bars = (f'<rect x="{4 * at}" y="{40 - 4 * size}" width="3" height="{4 * size}"/>' for at, size in enumerate(lengths))
        picture = f'<svg xmlns="http://www.w3.org/2000/svg" width="{params.width}" height="40">{"".join(bars)}</svg>'
        _folder(run, "scene", "scene.json", {"lengths": lengths})
        (folder / "bars.svg").write_text(picture)
        (folder / "index.html").write_text('<!doctype html><title>Scene</title><img src="bars.svg" alt="bars">')
        run.log(1, bars=len(lengths))
        run.checkpoint(folder)
    run.raise_if_cancelled()
    run.progress(1, 1, "scenes")
    run.save(folder, kind="model", metadata={"task": "toy-scene", "level": "L2"})


def _folder(run: Run, name: str, file: str, content: object) -> Path:
    folder = run.workdir / name
    folder.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(content))
    return folder
