"""Write a model for other programs: a Hugging Face folder, or one GGUF file that carries tokenizer and template.

Both carry a record of what the model means (`meaning.py`), so that what is read back can be held against what was written.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from modelworks.capabilities.text.engines.integrity import check_checkpoint
from modelworks.capabilities.text.engines.tolerance import READ_TOLERANCE
from modelworks.capabilities.text.gguf_export import GgufType
from modelworks.capabilities.text.gguf_export import export as write_gguf
from modelworks.capabilities.text.gguf_import import import_gguf
from modelworks.capabilities.text.meaning import METADATA_KEY, Meaning, agreement
from modelworks.capabilities.text.prompt_format import served_format
from modelworks.capabilities.text.quantise import KINDS
from modelworks.capabilities.text.schemas import ExportParams
from modelworks.capabilities.text.weights import GGUF_WEIGHTS, open_weights, precision_of, quantised_file, read_object
from modelworks.contract import LocalModel
from modelworks.contract.run import Run

_PLAIN: dict[str, GgufType] = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def export_model(run: Run, params: ExportParams) -> dict[str, Any]:
    """Save the model of role "model" as an export: `hf` as a folder, `gguf` as one file beside its card.

    What was written is read back, and held against what the model means, before it is handed over.

    Returns:
        `format`, `files` (path and bytes), and `meaning`: the digest of what was read back, the model's own (`recorded`), and
        whether they agree.

    Raises:
        UnsupportedArchitecture: GGUF does not know the model.
        InvalidRequest: its rows cannot be quantised as asked.
        IntegrityFailed: the model is not spoken to as it was trained, or what was read back means something else.
    """
    model = run.model("model")
    served_format(model)
    run.progress(0, 3, "steps")
    meaning = Meaning.of(model.path)
    run.raise_if_cancelled()
    run.progress(1, 3, "steps")
    staged = run.workdir / "hf"
    _stage(model.path, staged)
    meaning.write(staged)
    _write_card(model, meaning, params, staged)
    made = staged
    if params.to == "gguf":
        made = run.workdir / "gguf"
        made.mkdir()
        shutil.copyfile(staged / "README.md", made / "README.md")
        kind = params.kind if params.kind != "auto" else _kind_of(model.path)
        write_gguf(staged, made / "model.gguf", kind, complete=True, licence=model.licence, name=model.ref.partition("@")[0])
        found = import_gguf(made, run.workdir / "back")
        agrees = dict((found or {})[METADATA_KEY])
    else:
        agrees = agreement(staged, Meaning.of(staged), READ_TOLERANCE)
    run.raise_if_cancelled()
    run.progress(2, 3, "steps")
    said = {"format": params.to, "meaning": agrees}
    run.save(made, kind="export", metadata={**said, "task": model.task, "licence": model.licence})
    run.progress(3, 3, "steps")
    files = [{"path": str(file.relative_to(made)), "num_bytes": file.stat().st_size} for file in sorted(made.rglob("*"))]
    return {**said, "files": [each for each in files if (made / str(each["path"])).is_file()]}


def _stage(source: Path, folder: Path) -> None:
    """The version's own files, with plain weights where they are quantised."""
    check_checkpoint(source)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(GGUF_WEIGHTS), copy_function=shutil.copyfile)
    for place in (folder, *folder.rglob("*")):
        place.chmod(0o755 if place.is_dir() else 0o644)
    if quantised_file(source) is not None:
        weights = open_weights(source)
        tensors = {name: weights.read(name).contiguous() for name in sorted(weights.shapes)}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _kind_of(folder: Path) -> GgufType:
    """The kind that keeps the numbers as they are."""
    weights = open_weights(folder)
    precision = precision_of(weights)
    if precision is not None:
        return KINDS[precision]
    matrix = max(weights.shapes, key=lambda name: len(weights.shapes[name]))
    return _PLAIN.get(str(weights.read(matrix).dtype).removeprefix("torch."), "f32")


def _write_card(model: LocalModel, meaning: Meaning, params: ExportParams, folder: Path) -> None:
    """A card in the hubs' form, where the version brings none of its own."""
    if (folder / "README.md").is_file():
        return
    head = {
        "license": model.licence,
        "pipeline_tag": "text-generation",
        "library_name": "transformers" if params.to == "hf" else "gguf",
        "base_model": model.metadata.get("parent"),
    }
    config = read_object(folder / "config.json")
    facts = {
        "Version": model.ref,
        "Level": model.level,
        "Licence": model.licence or "not stated",
        "Made from": model.metadata.get("parent"),
        "Method": model.metadata.get("method"),
        "Architecture": config.get("model_type"),
        "Prompt format": meaning.prompt_format,
        "Digest of meaning": meaning.digest,
    }
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items() if value), "---", ""]
    lines += [f"# {model.ref}", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items() if value]
    (folder / "README.md").write_text("\n".join(lines) + "\n", "utf-8")
