"""New encoders, and folders that sentence-transformers and transformers open as they are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import ModernBertConfig, ModernBertForSequenceClassification, ModernBertModel, PreTrainedTokenizerFast

from modelworks.capabilities.embedding.schemas import EmbeddingTrainParams, RankingTrainParams

_MODULES = "sentence_transformers.models"


def new_model(params: EmbeddingTrainParams | RankingTrainParams, tokenizer: PreTrainedTokenizerFast, *, ranking: bool) -> Any:
    """A ModernBERT (Warner et al. 2024) with random weights by torch's generator: rotary positions, gated feed-forward layers,
    norms before the layers; every layer sees the whole text.
    """
    config = ModernBertConfig(
        # A multiple of 64 keeps the largest matrix aligned; ids beyond the tokenizer's never occur.
        vocab_size=math.ceil(len(tokenizer) / 64) * 64,
        hidden_size=params.hidden_size,
        intermediate_size=params.intermediate_size,
        num_hidden_layers=params.num_layers,
        num_attention_heads=params.num_heads,
        max_position_embeddings=params.context_length,
        global_attn_every_n_layers=1,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        bos_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        eos_token_id=tokenizer.sep_token_id,
        classifier_pooling="mean",
        num_labels=1,
        attn_implementation="sdpa",
    )
    return (ModernBertForSequenceClassification if ranking else ModernBertModel)(config).eval()


def write_encoder(
    folder: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    *,
    pooling: str,
    dimensions: Sequence[int],
    max_length: int,
    prompts: dict[str, str] | None = None,
) -> None:
    """Write an encoder with its pooling, as sentence-transformers does.

    Args:
        dimensions: lengths that the vectors were trained for; vLLM reads them from config.json under the same names.
        max_length: longest text in tokens.
    """
    model.config.is_matryoshka = len(dimensions) > 1
    model.config.matryoshka_dimensions = sorted(dimensions)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": f"{_MODULES}.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{_MODULES}.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{_MODULES}.Normalize"},
        ],
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    _write(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": int(model.config.hidden_size),
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    _write(
        folder / "config_sentence_transformers.json",
        {"prompts": prompts or {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )


def write_ranker(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a cross-encoder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
