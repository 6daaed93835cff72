"""Make a version of a GGUF file: configuration, tokenizer and template from its header, weights as safetensors or as they are.

A file that was exported here carries the folder's own files and comes back as what it was. One from elsewhere says its shape in
the keys of the specification, and its tokenizer as a vocabulary with merges, of which the byte-level kinds are read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from modelworks.capabilities.text.engines.tolerance import TOLERANCES
from modelworks.capabilities.text.gguf_export import ARCHITECTURES, FILE_KEY, FOLDER_FILES, Shape
from modelworks.capabilities.text.gguf_names import gguf_name
from modelworks.capabilities.text.meaning import METADATA_KEY, Meaning, agreement
from modelworks.capabilities.text.prompt_format import PromptFormat, verify
from modelworks.capabilities.text.schemas import PROMPT_FORMAT
from modelworks.capabilities.text.weights import GGUF_WEIGHTS, GgufWeights, precision_of
from modelworks.contract.errors import InvalidData, InvalidRequest, UnsupportedArchitecture

#: How text is cut before merging, by the name that files give it (llama.cpp, `llama_vocab_pre_type`).
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PIECES: Mapping[str, str | None] = {"gpt-2": None, "default": None, "qwen2": _WORDS % "", "llama-bpe": _WORDS % "{1,3}"}
_COMPOSED = frozenset({"qwen2"})
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_MOST_FILE_CHARS = 64 << 20


def import_gguf(folder: Path, into: Path) -> Mapping[str, Any] | None:
    """Write the one GGUF file of `folder` as a model's folder `into`; returns what is to be kept with the version.

    None where the folder has safetensors too: then the file is another copy of what lies there.

    Raises:
        InvalidRequest: there are several GGUF files.
        InvalidData: the file is truncated, damaged or contradicts itself.
        UnsupportedArchitecture: it is of another architecture, or of a kind that cannot be read here.
        IntegrityFailed: it carries a record of its meaning, and means something else.
    """
    if any(folder.glob("*.safetensors")):
        return None
    files = sorted(folder.rglob("*.gguf"))
    if len(files) != 1:
        raise InvalidRequest(
            f"There are {len(files)} GGUF files: {', '.join(file.name for file in files[:5])}.",
            hint="Pull one of them by its own address (file:///…/model.gguf).",
            param="source",
        )
    weights = _opened(files[0])
    into.mkdir(parents=True)
    _write_files(weights, folder, into)
    config = _config(weights)
    (into / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    _check_shapes(weights, Shape.of(config))
    precision = precision_of(weights)
    if precision is None:
        tensors = {name: weights.read(name).contiguous() for name in sorted(weights.shapes)}
        save_file(tensors, into / "model.safetensors", {"format": "pt"})
    else:
        shutil.copyfile(files[0], into / GGUF_WEIGHTS)
    prompt_format = PromptFormat.of(into)
    verify(into, prompt_format, {})
    found = {
        "task": "text-generation",
        "licence": weights.file.fields.get("general.license"),
        "architecture": weights.architecture,
        "imported_from": {"file": files[0].name, "format": "gguf"},
        PROMPT_FORMAT: prompt_format.record(),
        METADATA_KEY: agreement(into, Meaning.of(into), TOLERANCES[precision or _precision(weights)].logits),
    }
    return {name: value for name, value in found.items() if value}


def _precision(weights: GgufWeights) -> str:
    """What matrices that are plain numbers are stored as."""
    kinds = {tensor.kind for tensor in weights.file.tensors.values() if len(tensor.shape) > 1}
    return "f32" if kinds <= {gguf.GGMLQuantizationType.F32} else "bf16"


def _opened(file: Path) -> GgufWeights:
    weights = GgufWeights(file)
    if weights.architecture not in ARCHITECTURES.values():
        raise UnsupportedArchitecture(
            f"{file.name} is of architecture {weights.architecture!r}; {', '.join(sorted(ARCHITECTURES))} are read.",
            hint="Pull the model's safetensors instead.",
        )
    return weights


def _write_files(weights: GgufWeights, folder: Path, into: Path) -> None:
    """The small files: those that the file carries, else those that lie beside it, else what its keys say."""
    fields = weights.file.fields
    for name in FOLDER_FILES:
        text = fields.get(FILE_KEY + name)
        if isinstance(text, str) and len(text) <= _MOST_FILE_CHARS:
            (into / name).write_text(text, "utf-8")
        elif (folder / name).is_file():
            shutil.copyfile(folder / name, into / name)
    template = fields.get("tokenizer.chat_template")
    if isinstance(template, str) and not (into / "chat_template.jinja").is_file():
        (into / "chat_template.jinja").write_text(template, "utf-8")
    whole = fields.get(gguf.Keys.Tokenizer.HF_JSON)
    if isinstance(whole, str):
        (into / "tokenizer.json").write_text(whole, "utf-8")
    elif (folder / "tokenizer.json").is_file():
        shutil.copyfile(folder / "tokenizer.json", into / "tokenizer.json")
    else:
        _tokenizer(weights).save(str(into / "tokenizer.json"))
    end = fields.get("tokenizer.ggml.eos_token_id")
    if isinstance(end, int) and not (into / "generation_config.json").is_file():
        (into / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}) + "\n", "utf-8")


def _config(weights: GgufWeights) -> dict[str, Any]:
    """The configuration: the folder's own where the file carries it and agrees with it, else from the header's numbers.

    Raises:
        InvalidData: a number is missing, or the two contradict each other.
        UnsupportedArchitecture: rotary positions are scaled in a way that has no form here.
    """
    own = weights.file.fields.get(FILE_KEY + "config.json")
    said = _config_of_header(weights)
    if not isinstance(own, str):
        return said
    try:
        config = json.loads(own)
    except (ValueError, RecursionError) as error:
        raise _damaged(weights, f"its config.json cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise _damaged(weights, "its config.json is no JSON object")
    try:
        mine, theirs = Shape.of(config), Shape.of(said)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise _damaged(weights, f"its config.json is not one of a {weights.architecture} ({error})") from None
    for name in Shape.__slots__:
        first, second = getattr(mine, name), getattr(theirs, name)
        # The header has 32 bits for what the configuration says in 64.
        if first != second and not (isinstance(first, float) and abs(first - second) <= 1e-6 * abs(first)):
            raise _damaged(weights, f"its config.json says {name} {first}, its header {second}")
    return config


def _config_of_header(weights: GgufWeights) -> dict[str, Any]:
    fields, architecture = weights.file.fields, weights.architecture
    if fields.get(f"{architecture}.rope.scaling.type") not in (None, "none"):
        raise UnsupportedArchitecture(f"{weights.file.path.name} scales its rotary positions, which is not read here.")

    def number(key: str, default: float | None = None) -> Any:
        value = fields.get(f"{architecture}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1 << 40:
            raise _damaged(weights, f"its setting {architecture}.{key} is {value!r}")
        return value

    def whole(key: str, default: int | None = None) -> int:
        return int(number(key, default))

    heads = whole("attention.head_count")
    return {
        "architectures": [_CLASSES[architecture]],
        "model_type": architecture,
        "hidden_size": whole("embedding_length"),
        "intermediate_size": whole("feed_forward_length"),
        "num_hidden_layers": whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": whole("attention.head_count_kv", heads),
        "head_dim": whole("attention.key_length", max(1, whole("embedding_length") // heads)),
        "vocab_size": weights.shapes.get("model.embed_tokens.weight", (0,))[0],
        "max_position_embeddings": whole("context_length"),
        "rms_norm_eps": float(number("attention.layer_norm_rms_epsilon")),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(number("rope.freq_base", 10_000.0))},
        "tie_word_embeddings": "lm_head.weight" not in weights.shapes,
        "hidden_act": "silu",
        "dtype": "float32",
    }


def _check_shapes(weights: GgufWeights, shape: Shape) -> None:
    """Refuse a header whose numbers do not fit the matrices, before anything that large is made."""
    layers = {int(name.split(".")[2]) for name in weights.shapes if name.startswith("model.layers.")}
    # The number first: a range as long as a header claims might not fit into memory.
    if len(layers) != shape.num_layers or layers != set(range(shape.num_layers)):
        raise _damaged(weights, f"it has the weights of {len(layers)} layers and says {shape.num_layers}")
    wanted = {
        "model.embed_tokens.weight": (shape.vocab_size, shape.hidden_size),
        "model.norm.weight": (shape.hidden_size,),
    }
    for layer in range(shape.num_layers):
        wanted |= {
            f"model.layers.{layer}.self_attn.q_proj.weight": (shape.num_heads * shape.head_dim, shape.hidden_size),
            f"model.layers.{layer}.self_attn.k_proj.weight": (shape.num_kv_heads * shape.head_dim, shape.hidden_size),
            f"model.layers.{layer}.self_attn.v_proj.weight": (shape.num_kv_heads * shape.head_dim, shape.hidden_size),
            f"model.layers.{layer}.self_attn.o_proj.weight": (shape.hidden_size, shape.num_heads * shape.head_dim),
            f"model.layers.{layer}.mlp.gate_proj.weight": (shape.intermediate_size, shape.hidden_size),
            f"model.layers.{layer}.mlp.up_proj.weight": (shape.intermediate_size, shape.hidden_size),
            f"model.layers.{layer}.mlp.down_proj.weight": (shape.hidden_size, shape.intermediate_size),
        }
    for name, size in wanted.items():
        if weights.shapes.get(name) != size:
            found = weights.shapes.get(name)
            raise _damaged(weights, f"{gguf_name(name)} has the shape {found and list(found)} where {list(size)} belongs")


def _tokenizer(weights: GgufWeights) -> Tokenizer:
    """A byte-level BPE tokenizer from the vocabulary and merges of a file from elsewhere."""
    fields = weights.file.fields
    kind, pieces = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    tokens, merges = fields.get("tokenizer.ggml.tokens"), fields.get("tokenizer.ggml.merges")
    if kind != "gpt2" or pieces not in _PIECES or not isinstance(tokens, list) or not isinstance(merges, list):
        raise InvalidData(
            f"{weights.file.path.name} describes its tokenizer as {kind!r} ({pieces!r}), which is not read here.",
            hint="Put the model's tokenizer.json beside the file, and pull the folder.",
        )
    split = [str(merge).split(" ") for merge in merges]
    pairs = [(pair[0], pair[1]) for pair in split if len(pair) == 2]
    vocabulary = {str(token): number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or len(pairs) != len(merges):
        raise _damaged(weights, "its vocabulary names a token twice, or a merge of other than two parts")
    known = [pair for pair in pairs if "".join(pair) in vocabulary and all(part in vocabulary for part in pair)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=known))
    if pieces in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    pattern = _PIECES[pieces]
    steps: list[Any] = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), behavior="isolated")]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields.get("tokenizer.ggml.token_type")
    special = {int(gguf.TokenType.CONTROL), int(gguf.TokenType.USER_DEFINED)}
    for number, token in enumerate(tokens):
        if isinstance(kinds, list) and number < len(kinds) and kinds[number] in special:
            added = AddedToken(str(token), normalized=False, special=kinds[number] == int(gguf.TokenType.CONTROL))
            tokenizer.add_special_tokens([added]) if added.special else tokenizer.add_tokens([added])
    return tokenizer


def _damaged(weights: GgufWeights, reason: str) -> InvalidData:
    return InvalidData(
        f"{weights.file.path.name} is damaged: {reason}.", hint="Fetch or write the file again.", code="invalid_checkpoint"
    )
