"""Start `vllm serve`, from an environment of its own, as a process that the kernel supervises.

vLLM pins its own torch and wants an accelerator, so it is never imported here. This was tested against its documented command
line and a stand-in executable, not against a running vLLM.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from modelworks.capabilities.text.form.dialect import dialect_of
from modelworks.capabilities.text.schemas import PROMPT_FORMAT, ServeOptions
from modelworks.contract import LocalModel, ServerCommand
from modelworks.contract.adapter import AdapterHost
from modelworks.contract.errors import InvalidRequest, MissingExtra, UnsupportedParameter

#: The Python interpreter of the environment in which vLLM is installed.
PYTHON_VARIABLE = "MODELWORKS_VLLM_PYTHON"

#: The file of a quantised version (`weights.GGUF_WEIGHTS`, which is too heavy to import here).
_QUANTISED = "model.gguf"
#: vLLM's readers of calls, by what begins a call.
_PARSERS = {"<tool_call>": "hermes", "[TOOL_CALLS]": "mistral", "": "llama3_json"}
_DTYPES = {"auto": "auto", "f32": "float32", "bf16": "bfloat16"}


def command(model: LocalModel | None, options: BaseModel | None) -> ServerCommand:
    """How to start vLLM on a model, with `{port}` where the kernel puts the port.

    Raises:
        MissingExtra: no vLLM is named or found.
        UnsupportedParameter: int8, for which vLLM wants a checkpoint that was quantised beforehand.
        InvalidRequest: no model was given, or a quantised version.
        IntegrityFailed: its template, tokenizer or end ids are not those it was trained with.
    """
    if model is None:
        raise InvalidRequest("vLLM needs a model to serve.", hint="Name one in the deployment.")
    if PROMPT_FORMAT in model.metadata or (model.path / f"{PROMPT_FORMAT}.json").is_file():
        # Heavy, and not needed for a model that has nothing to differ from.
        from modelworks.capabilities.text.prompt_format import served_format

        served_format(model)
    if (model.path / _QUANTISED).is_file():
        raise InvalidRequest(
            f"The weights of {model.ref!r} are quantised in a way that vLLM is not asked to read.",
            hint="Deploy the model that it was made from, or use the engine openvino.",
            param="engine",
        )
    chosen = options if isinstance(options, ServeOptions) else ServeOptions()
    if chosen.precision not in _DTYPES:
        raise UnsupportedParameter(
            f"The engine vllm has no precision {chosen.precision!r} for an unquantised checkpoint.",
            hint="Use auto, bf16 or f32.",
            param="precision",
        )
    if chosen.kv_cache_precision != "auto":
        raise UnsupportedParameter(
            f"The engine vllm has no kv_cache_precision {chosen.kv_cache_precision!r}.",
            hint="Use auto.",
            param="kv_cache_precision",
        )
    argv = [
        *_executable(),
        "serve",
        str(model.path),
        "--served-model-name",
        model.ref,
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
        "--dtype",
        _DTYPES[chosen.precision],
        "--max-num-seqs",
        str(chosen.max_batch),
        "--enable-prefix-caching" if chosen.prefix_caching else "--no-enable-prefix-caching",
    ]
    if (dialect := dialect_of(_template(model.path))) is not None:
        # Without a parser vLLM refuses tools that are left to the model to call.
        argv += ["--enable-auto-tool-choice", "--tool-call-parser", _PARSERS[dialect.opens]]
    if chosen.context_length is not None:
        argv += ["--max-model-len", str(chosen.context_length)]
    env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    adapters = None
    if chosen.max_adapters:
        # Not by default: the room is taken of the accelerator's memory, and not every architecture can carry adapters.
        argv += ["--enable-lora", "--max-loras", str(chosen.max_adapters), "--max-lora-rank", str(chosen.max_adapter_rank)]
        # Held beside those of a batch: the new version of one that a moved alias leads to.
        argv += ["--max-cpu-loras", str(chosen.max_adapters + 1)]
        env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
        adapters = partial(_open_adapters, model, chosen)
    return ServerCommand(argv=tuple(argv), model=model.ref, env=env, health_path="/health", api_path="/v1", adapters=adapters)


def _template(folder: Path) -> str | None:
    """A folder's chat template, from either place where it may lie."""
    alone, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if alone.is_file():
        return alone.read_text("utf-8")
    if not settings.is_file():
        return None
    try:
        template = json.loads(settings.read_text("utf-8")).get("chat_template")
    except (ValueError, AttributeError):
        # Damaged: vLLM names the fault when it reads the file.
        return None
    return template if isinstance(template, str) else json.dumps(template)


def _open_adapters(model: LocalModel, options: ServeOptions, url: str) -> AdapterHost:
    # Heavy, and wanted in the process above vLLM alone.
    from modelworks.capabilities.text.engines.vllm_adapters import VllmAdapters

    return VllmAdapters(model, options, url)


def _executable() -> list[str]:
    """The `vllm` program: beside the named interpreter, as a module of it, or on the path."""
    python = os.environ.get(PYTHON_VARIABLE)
    if python:
        beside = Path(python).with_name("vllm")
        return [str(beside)] if beside.is_file() else [python, "-m", "vllm.entrypoints.cli.main"]
    found = shutil.which("vllm")
    if found is None:
        raise MissingExtra(
            "vLLM was not found: it runs from an environment of its own.",
            hint=f"Install vLLM in a virtual environment on this machine and set {PYTHON_VARIABLE} to its Python interpreter.",
        )
    return [found]
