"""Pre-train a decoder of the Qwen3 shape from plain text, or continue from a base model.

Method: next-token prediction over packed documents; AdamW (Loshchilov & Hutter 2019) with a linear warm-up and a cosine to a
tenth; gradients clipped by their norm; all in f32, which is the faster choice on CPUs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from modelworks.capabilities.text import checkpoint as checkpoints
from modelworks.capabilities.text.checkpoint import Position
from modelworks.capabilities.text.data import Document, read_documents, split
from modelworks.capabilities.text.engines.integrity import check_checkpoint
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.packing import Blocks, write_tokens
from modelworks.capabilities.text.schemas import PretrainParams
from modelworks.capabilities.text.tokenizer import (
    END_OF_TEXT,
    TURN_END,
    load_tokenizer,
    template_digest,
    train_tokenizer,
)
from modelworks.contract.errors import Cancelled, InvalidRequest
from modelworks.contract.run import Run

#: A tokenizer learns nothing more from text beyond this many characters.
_TOKENIZER_SAMPLE_CHARS = 20_000_000
_ADAM_BETAS = (0.9, 0.95)


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    tokenizer: PreTrainedTokenizerFast
    #: Separates documents.
    end_id: int
    #: Every id that ends an answer.
    stop_ids: list[int]


def pretrain(run: Run, params: PretrainParams) -> None:
    """Train a model and save it with `run.save` as a Hugging Face folder.

    Inputs: data set "train" (plain text, see `data.read_documents`); optionally model "base", whose weights and tokenizer are
    continued from, or model "tokenizer", of which only the tokenizer is taken.

    Raises:
        InvalidData: the data set holds no text, or text that is not UTF-8.
        InvalidRequest: the loss stopped being a number.
        Cancelled: the user stopped the run; a checkpoint was stored first.
    """
    if params.num_threads is not None:
        torch.set_num_threads(params.num_threads)
    torch.manual_seed(run.seed)
    data = run.dataset("train")
    training, validation = split(read_documents(data.path), params.validation_fraction)
    vocabulary = _vocabulary(run, params, training)
    model = _model(run, params, vocabulary)
    context_length = int(model.config.max_position_embeddings)
    blocks = {
        part: _blocks(
            run, params, vocabulary, documents, part, min(params.block_length or params.context_length, context_length)
        )
        for part, documents in (("training", training), ("validation", validation))
    }
    run.raise_if_cancelled()
    training_loop = _Training(run, params, model, vocabulary.tokenizer, blocks["training"], blocks["validation"])
    done = training_loop.finish()
    validation_loss = training_loop.validation_loss()
    run.log(done.step, validation_loss=validation_loss)
    _save(run, params, model, vocabulary, done, validation_loss, licence=data.licence)


def _vocabulary(run: Run, params: PretrainParams, training: Sequence[Document]) -> _Vocabulary:
    if run.resume_from is not None:
        tokenizer = load_tokenizer(checkpoints.tokenizer_folder(run.resume_from))
    elif run.has_input("base"):
        tokenizer = load_tokenizer(run.model("base").path)
    elif run.has_input("tokenizer"):
        tokenizer = load_tokenizer(run.model("tokenizer").path)
    else:
        run.progress(0, params.num_steps, "steps")
        tokenizer = train_tokenizer(
            _sample(training), params.vocab_size, params.system_prompt, context_length=params.context_length
        )
    known = tokenizer.get_vocab()
    stop_ids = [known[token] for token in (TURN_END, END_OF_TEXT) if token in known]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in stop_ids:
        stop_ids.append(int(tokenizer.eos_token_id))
    if not stop_ids:
        raise InvalidRequest(
            "The tokenizer has no token that ends a text.", hint="Give one with an eos_token, or none to train a new one."
        )
    return _Vocabulary(tokenizer, end_id=known.get(END_OF_TEXT, stop_ids[0]), stop_ids=stop_ids)


def _sample(documents: Sequence[Document]) -> Iterator[str]:
    """Documents from all over the data set, up to the sample's size."""
    total = sum(len(document.text) for document in documents)
    every = max(1, math.ceil(total / _TOKENIZER_SAMPLE_CHARS))
    for document in documents[::every]:
        yield document.text


def _model(run: Run, params: PretrainParams, vocabulary: _Vocabulary) -> Any:
    if run.has_input("base"):
        base = run.model("base").path
        check_checkpoint(base)
        return load_model(base, torch.float32)
    config = Qwen3Config(
        # A multiple of 64 keeps the largest matrix aligned; ids beyond the tokenizer's never occur.
        vocab_size=math.ceil(len(vocabulary.tokenizer) / 64) * 64,
        hidden_size=params.hidden_size,
        intermediate_size=params.intermediate_size,
        num_hidden_layers=params.num_layers,
        num_attention_heads=params.num_heads,
        num_key_value_heads=params.num_kv_heads,
        head_dim=params.head_dim,
        max_position_embeddings=params.context_length,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=vocabulary.stop_ids[0],
        pad_token_id=vocabulary.end_id,
        attn_implementation="sdpa",
    )
    return Qwen3ForCausalLM(config)


def _blocks(
    run: Run, params: PretrainParams, vocabulary: _Vocabulary, documents: Sequence[Document], part: str, block_length: int
) -> Blocks:
    path = run.workdir / f"{part}.tokens"
    num_tokens = write_tokens(
        path,
        documents,
        vocabulary.tokenizer,
        end_id=vocabulary.end_id,
        # Held-out text is measured as it is, so that losses compare between runs with other chat settings.
        chat_fraction=params.chat_fraction if part == "training" else 0.0,
        system_prompt=params.system_prompt,
        seed=run.seed,
    )
    return Blocks(path, num_tokens, block_length, params.batch_size, run.seed)


class _Training:
    """The loop: one instance per attempt."""

    def __init__(
        self,
        run: Run,
        params: PretrainParams,
        model: Any,
        tokenizer: PreTrainedTokenizerFast,
        training: Blocks,
        validation: Blocks,
    ) -> None:
        self._run = run
        self._params = params
        self._model = model
        self._tokenizer = tokenizer
        self._training = training
        self._validation = validation
        matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
        self._optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": params.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=params.learning_rate,
            betas=_ADAM_BETAS,
            fused=True,
        )
        self._at = Position(step=0, tokens_seen=0, first_loss=math.nan, last_loss=math.nan)
        if run.resume_from is not None:
            self._at = checkpoints.restore(run.resume_from, model, self._optimiser)
        self._stored_step = self._at.step

    def finish(self) -> Position:
        """Train to the last step and say where that is."""
        params, total = self._params, self._params.num_steps
        self._model.train()
        started, tokens_before = time.monotonic(), self._at.tokens_seen
        self._run.progress(self._at.step, total, "steps")
        while self._at.step < total:
            self._stop_if_asked()
            learning_rate = self._learning_rate(self._at.step)
            loss = self._step(learning_rate)
            step = self._at.step
            if step == 1 or step % params.log_every == 0 or step == total:
                elapsed = max(time.monotonic() - started, 1e-9)
                rate = (self._at.tokens_seen - tokens_before) / elapsed
                started, tokens_before = time.monotonic(), self._at.tokens_seen
                self._run.log(step, loss=loss, lr=learning_rate, tokens_per_s=rate)
                self._run.progress(step, total, "steps")
            if step < total and step % params.validate_every == 0:
                self._run.log(step, validation_loss=self.validation_loss())
            if step < total and step % params.checkpoint_every == 0:
                self._store()
        return self._at

    def validation_loss(self) -> float:
        """Mean loss per token over the first blocks of held-out text, in nats; the same blocks every time."""
        tokens_per_batch = self._params.batch_size * self._validation.block_length
        wanted = min(self._validation.num_tokens, self._params.max_validation_tokens)
        total = 0.0
        batches = max(1, wanted // tokens_per_batch)
        self._model.eval()
        with torch.inference_mode():
            for step in range(batches):
                inputs, targets = self._validation.batch(step)
                total += float(self._loss(inputs, targets))
        self._model.train()
        return total / batches

    def _step(self, learning_rate: float) -> float:
        inputs, targets = self._training.batch(self._at.step)
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        loss = self._loss(inputs, targets)
        value = float(loss.detach())
        self._check_finite("loss", value)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._params.max_grad_norm)
        # Seen before the weights are touched, so that no checkpoint ever holds them.
        self._check_finite("gradient", float(norm))
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self._at = Position(
            step=self._at.step + 1,
            tokens_seen=self._at.tokens_seen + targets.numel(),
            first_loss=self._at.first_loss if self._at.step else value,
            last_loss=value,
        )
        return value

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise InvalidRequest(
                f"Training diverged: the {what} is {value} at step {self._at.step + 1}.",
                hint=f"Lower learning_rate (it is {self._params.learning_rate:g}) or raise warmup_steps.",
                code="training_diverged",
            )

    def _loss(self, inputs_bt: torch.Tensor, targets_bt: torch.Tensor) -> torch.Tensor:
        logits_btv = self._model(input_ids=inputs_bt, use_cache=False).logits
        return functional.cross_entropy(logits_btv.flatten(0, 1), targets_bt.flatten())

    def _learning_rate(self, step: int) -> float:
        """The rate of the step that follows `step` finished ones."""
        params = self._params
        if step < params.warmup_steps:
            return params.learning_rate * (step + 1) / params.warmup_steps
        progress = (step - params.warmup_steps) / max(1, params.num_steps - params.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        lowest = params.min_learning_rate_ratio
        return params.learning_rate * (lowest + (1 - lowest) * cosine)

    def _stop_if_asked(self) -> None:
        try:
            self._run.raise_if_cancelled()
        except Cancelled:
            if self._at.step > self._stored_step:
                self._store()
            raise

    def _store(self) -> None:
        folder = self._run.workdir / "checkpoint"
        checkpoints.store(folder, self._model, self._optimiser, self._tokenizer, self._at)
        self._run.checkpoint(folder)
        self._stored_step = self._at.step


def _save(
    run: Run,
    params: PretrainParams,
    model: Any,
    vocabulary: _Vocabulary,
    done: Position,
    validation_loss: float,
    licence: str | None,
) -> None:
    folder = run.workdir / "model"
    model.eval()
    model.generation_config = _generation_config(vocabulary)
    model.save_pretrained(folder)
    vocabulary.tokenizer.save_pretrained(folder)
    base_licence = run.model("base").licence if run.has_input("base") else None
    run.save(
        folder,
        kind="model",
        metadata={
            "task": "text-generation",
            "level": params.level,
            "name": params.name,
            "licence": base_licence or licence,
            "metrics": {
                "loss": done.last_loss,
                "first_loss": done.first_loss,
                "validation_loss": validation_loss,
                "tokens_seen": float(done.tokens_seen),
            },
            "architecture": model.config.model_type,
            "context_length": int(model.config.max_position_embeddings),
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "vocab_size": len(vocabulary.tokenizer),
            "template_digest": template_digest(vocabulary.tokenizer),
        },
    )


def _generation_config(vocabulary: _Vocabulary) -> GenerationConfig:
    return GenerationConfig(
        do_sample=True,
        temperature=0.8,
        top_p=0.95,
        eos_token_id=vocabulary.stop_ids,
        pad_token_id=vocabulary.end_id,
    )
