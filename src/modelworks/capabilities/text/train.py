"""Train by any method; and the first of them: pre-train a decoder of the Qwen3 shape from plain text, or continue from a base.

Method of pre-training: next-token prediction over packed documents, in the loop that all methods share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from modelworks.capabilities.text import checkpoint as checkpoints
from modelworks.capabilities.text.checkpoint import Position
from modelworks.capabilities.text.data import Document, read_documents, split
from modelworks.capabilities.text.engines.integrity import check_checkpoint
from modelworks.capabilities.text.engines.probe import METADATA_KEY, Probe
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.fill_in_middle import FIM_TOKENS
from modelworks.capabilities.text.packing import Blocks, ReplayedBlocks, write_tokens
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.schemas import PROMPT_FORMAT, CombineParams, PretrainParams, ReinforcementParams, TrainParams
from modelworks.capabilities.text.tokenizer import (
    END_OF_TEXT,
    TURN_END,
    load_tokenizer,
    train_tokenizer,
)
from modelworks.capabilities.text.training.batches import portion_of
from modelworks.capabilities.text.training.disk import bytes_of, enough_room
from modelworks.capabilities.text.training.loop import Batch, Schedule, TrainingLoop
from modelworks.capabilities.text.training.precision import Precision
from modelworks.capabilities.text.training.spread import Spread
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.run import Run

#: A tokenizer learns nothing more from text beyond this many characters.
_TOKENIZER_SAMPLE_CHARS = 20_000_000


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    tokenizer: PreTrainedTokenizerFast
    #: Separates documents.
    end_id: int
    #: Every id that ends an answer.
    stop_ids: list[int]


def train(run: Run, params: TrainParams) -> None:
    """Train by the method that the parameters name; see there for inputs and errors."""
    chosen = params.root
    if isinstance(chosen, PretrainParams):
        pretrain(run, chosen)
        return
    if isinstance(chosen, ReinforcementParams):
        if run.world.size > 1:
            raise InvalidRequest(
                "The method 'reinforcement' trains in one process.", hint="Leave workers at 1.", param="resources.workers"
            )
        from modelworks.capabilities.text.training.reinforcement import reinforce

        reinforce(run, chosen)
        return
    if isinstance(chosen, CombineParams):
        if run.world.size > 1:
            raise InvalidRequest(
                "The method 'combine' works in one process.", hint="Leave workers at 1.", param="resources.workers"
            )
        from modelworks.capabilities.text.training.combining import combine

        combine(run, chosen)
        return
    # Adapters bring a library of their own, which pre-training does without.
    from modelworks.capabilities.text.training.tuning import tune

    tune(run, chosen)


def pretrain(run: Run, params: PretrainParams) -> None:
    """Train a model and save it with `run.save` as a Hugging Face folder.

    Inputs: data set "train" (plain text, see `data.read_documents`); optionally model "base", whose weights and tokenizer are
    continued from, or model "tokenizer", of which only the tokenizer is taken; optionally data set "replay", plain text of the
    kind that the base model knows, which is read in between (`replay_fraction`) so that it is not forgotten.

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
    length = min(params.block_length or params.context_length, context_length)
    learnt = _learnt(run, params, vocabulary, training, length)
    held_out = _blocks(run, params, vocabulary, validation, "validation", length)
    run.raise_if_cancelled()
    schedule = Schedule(
        num_steps=params.num_steps,
        learning_rate=params.learning_rate,
        min_learning_rate_ratio=params.min_learning_rate_ratio,
        warmup_steps=params.warmup_steps,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        checkpoint_every=params.checkpoint_every,
        validate_every=params.validate_every,
        log_every=params.log_every,
    )
    spread = Spread(run.world, params.strategy)
    source = _Text(params, learnt, held_out, spread)
    precision = Precision(params, run.workdir, run.world.size)
    loop = TrainingLoop(run, schedule, model, vocabulary.tokenizer, source, next_token, spread, precision=precision)
    done = loop.finish()
    metrics = loop.validation_metrics()
    run.log(done.step, **metrics)
    model = spread.finished(model, lambda: _model(run, params, vocabulary))
    if model is None:
        return
    model.eval()
    probe = Probe.taken(model, held_out.batch(0)[0][0].tolist())
    _save(run, params, model, vocabulary, done, metrics["validation_loss"], probe, licence=data.licence)


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
            _sample(training),
            params.vocab_size,
            params.system_prompt,
            context_length=params.context_length,
            more_tokens=FIM_TOKENS if params.fill_in_middle else (),
            tools=params.tools,
        )
    known = tokenizer.get_vocab()
    if params.fill_in_middle and not all(token in known for token in FIM_TOKENS):
        raise InvalidRequest(
            f"The tokenizer lacks the tokens for filling in the middle ({', '.join(FIM_TOKENS)}).",
            hint="Set fill_in_middle to 0, or start from a model or tokenizer that has them.",
            param="fill_in_middle",
        )
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


def _learnt(
    run: Run, params: PretrainParams, vocabulary: _Vocabulary, documents: Sequence[Document], length: int
) -> Blocks | ReplayedBlocks:
    """The blocks that are trained on: the new text, and among it what is replayed."""
    fresh = _blocks(run, params, vocabulary, documents, "training", length)
    if not run.has_input("replay"):
        return fresh
    known = list(read_documents(run.dataset("replay").path))
    # A data set that is shorter than a block shortens the blocks of both.
    replayed = _blocks(run, params, vocabulary, known, "replay", fresh.block_length)
    if replayed.block_length < fresh.block_length:
        fresh = _blocks(run, params, vocabulary, documents, "training", replayed.block_length)
    return ReplayedBlocks(fresh, replayed, params.replay_fraction)


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
        chat_fraction=0.0 if part == "validation" else params.chat_fraction,
        system_prompt=params.system_prompt,
        seed=run.seed,
        fill_in_middle=0.0 if part == "validation" else params.fill_in_middle,
        block_length=block_length,
    )
    return Blocks(path, num_tokens, block_length, params.batch_size, run.seed)


class _Text:
    """Blocks of text as a source of the loop."""

    def __init__(self, params: PretrainParams, training: Blocks | ReplayedBlocks, validation: Blocks, spread: Spread) -> None:
        self._params = params
        self._spread = spread
        self._training = training
        self._validation = validation

    def step(self, number: int) -> Sequence[Batch]:
        return (self._portion(*self._training.batch(number)),)

    def place(self, number: int) -> str:
        # Blocks run across documents, and what they hold is not kept by name.
        return ""

    def validation(self) -> Iterable[Batch]:
        """The first blocks of held-out text."""
        tokens_per_batch = self._params.batch_size * self._validation.block_length
        wanted = min(self._validation.num_tokens, self._params.max_validation_tokens)
        return (self._portion(*self._validation.batch(step)) for step in range(max(1, wanted // tokens_per_batch)))

    def _portion(self, inputs_bt: torch.Tensor, targets_bt: torch.Tensor) -> Batch:
        return portion_of(
            range(len(inputs_bt)), self._spread, lambda rows: _batch(inputs_bt[list(rows)], targets_bt[list(rows)])
        )


def _batch(inputs_bt: torch.Tensor, targets_bt: torch.Tensor) -> Batch:
    return Batch({"inputs": inputs_bt, "targets": targets_bt}, weight=targets_bt.numel(), num_tokens=targets_bt.numel())


def next_token(model: Any, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float]]:
    """Summed cross-entropy of every next token, in nats."""
    logits_btv = model(input_ids=batch.tensors["inputs"], use_cache=False).logits
    loss = functional.cross_entropy(logits_btv.float().flatten(0, 1), batch.tensors["targets"].flatten(), reduction="sum")
    return loss, {}


def _save(
    run: Run,
    params: PretrainParams,
    model: Any,
    vocabulary: _Vocabulary,
    done: Position,
    validation_loss: float,
    probe: Probe,
    licence: str | None,
) -> None:
    folder = run.workdir / "model"
    model.generation_config = _generation_config(vocabulary)
    hint = "Free some space and resume the run: it goes on from its last checkpoint."
    with enough_room(folder, "the trained model", bytes_of(model.parameters()), hint):
        model.save_pretrained(folder)
        vocabulary.tokenizer.save_pretrained(folder)
    prompt_format = PromptFormat.of(folder)
    prompt_format.write_record(folder)
    base_licence = run.model("base").licence if run.has_input("base") else None
    run.save(
        folder,
        kind="model",
        metadata={
            "task": "text-generation",
            "level": params.level or ("L1" if run.has_input("base") else "L0"),
            "method": params.method,
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
            "template_digest": prompt_format.template,
            PROMPT_FORMAT: prompt_format.record(),
            METADATA_KEY: probe.record(),
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
