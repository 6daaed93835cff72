"""Answer requests for text: prompts in, chunks of text, token ids and log-probabilities out."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import BaseModel

from modelworks.capabilities.text.engines.adapter import Adapter
from modelworks.capabilities.text.engines.base import Decoding, Step, Ticket
from modelworks.capabilities.text.engines.opening import (
    Checkpoint,
    Opened,
    generation_defaults,
    open_any,
    open_openvino,
    open_transformers,
)
from modelworks.capabilities.text.form.dialect import THINK, THINK_END, dialect_of
from modelworks.capabilities.text.form.parts import Part, PartReader
from modelworks.capabilities.text.form.plan import Plan, Thinking, plan_of
from modelworks.capabilities.text.incremental import StopFilter, Vocabulary, text_builder
from modelworks.capabilities.text.prompt_format import served_format
from modelworks.capabilities.text.schemas import ServeOptions
from modelworks.contract import LocalModel
from modelworks.contract.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    MissingExtra,
    ModelworksError,
    NotFound,
    UnsupportedParameter,
)
from modelworks.contract.generation import (
    FinishReason,
    GenerationChunk,
    GenerationInput,
    GenerationUsage,
    TokenLogprob,
    ToolCallPiece,
)

if TYPE_CHECKING:
    from modelworks.capabilities.text.form.constraint import GrammarDesk, GrammarFollower

_MAX_SEED = 2**63
#: Below this temperature only the most likely token has a chance.
_COLDEST = 1e-5
#: What a penalty beyond these, or a share below the first, comes to: more leaves no other order, and engines compute in f32.
_LEAST, _MOST = 1e-9, 1e9
#: Enough of a prompt's end to see whether it opens or closes thoughts.
_TAIL_TOKENS = 24
#: Prompts longer than this are encoded in a thread, so that other answers go on meanwhile.
_LONG_PROMPT_CHARS = 20_000
#: How much shorter a tokenizer's normalisation (composing accents, for example) may make a text before it is cut into tokens.
_LARGEST_SHRINKAGE = 4


class Generator:
    """Answers with the best engine for the model: `openvino` where it reads the architecture, else `transformers`.

    Log-probabilities are natural logs of the model's own distribution, before penalties, bias, temperature, top_k and top_p, in
    every engine.

    Args:
        model: a Hugging Face folder with safetensors and `tokenizer.json`.
        options: see `ServeOptions`.

    Raises:
        UnsafeArtifact: the weights are pickles.
        InvalidData: a file is missing or damaged.
        UnsupportedArchitecture: no engine serves it.
        InvalidRequest: an option does not fit the model.
        IntegrityFailed: its template, tokenizer or end ids are not those it was trained with.
    """

    _open: Callable[[Checkpoint, ServeOptions], Opened] = staticmethod(open_any)

    def __init__(self, model: LocalModel | None, options: BaseModel | None = None) -> None:
        if model is None:
            raise InvalidRequest("Text generation needs a model.", hint="Name one in the deployment.")
        chosen = options if isinstance(options, ServeOptions) else ServeOptions()
        checkpoint = Checkpoint.of(model)
        prompt_format = served_format(model)
        self._vocabulary = Vocabulary(prompt_format.tokenizer)
        self._encoder = prompt_format.encoder
        self._vocab_size = checkpoint.vocab_size
        self._tokenizer = prompt_format.tokenizer
        template = str(self._tokenizer.chat_template or "")
        self._dialect = dialect_of(template)
        self._thinks = THINK_END in template
        self._defaults = generation_defaults(model.path)
        self._stop_ids = frozenset(prompt_format.stop_ids)
        opened = type(self)._open(checkpoint, chosen)
        self._engine = opened.engine
        self._adapters = opened.adapters
        self._model = model
        self._prompt_record = prompt_format.record()
        #: Prompt and answer together, in tokens.
        self.context_length = opened.context_length
        longest = max(map(len, prompt_format.tokenizer.get_vocab()), default=1)
        self._most_chars = _LARGEST_SHRINKAGE * longest * self.context_length

    @property
    def engine(self) -> str:
        """The name of the engine that answers."""
        return self._engine.name

    @property
    def num_running(self) -> int:
        """Choices that are being generated or wait for it."""
        return self._engine.num_running

    def close(self) -> None:
        """Stop the engine; answers under way end with an error."""
        self._engine.close()

    @property
    def holds_adapters(self) -> bool:
        """Whether the engine that answers holds adapters beside the base."""
        return self._adapters is not None

    def load_adapters(self, models: Sequence[LocalModel]) -> dict[str, ModelworksError]:
        """See `AdapterHost.load_adapters`: files, base, prompt format and the answer to a probe must be those of the training.

        Raises:
            UnsupportedParameter: the engine holds no adapters.
            UnsupportedArchitecture: the base model's graph cannot carry them.
        """
        if self._adapters is None:
            raise UnsupportedParameter(
                f"The engine {self._engine.name} holds no adapters.",
                hint="Deploy the base with the engine openvino, or the adapter's merged weights.",
                param="adapters",
            )
        refused: dict[str, ModelworksError] = {}
        checked: list[Adapter] = []
        for model in models:
            try:
                checked.append(Adapter.of(model, self._model, self._prompt_record))
            except ModelworksError as error:
                refused[model.version_id] = error
        return refused | (self._adapters.load(checked) if checked else {})

    def unload_adapters(self, version_ids: Collection[str]) -> None:
        """See `AdapterHost.unload_adapters`."""
        if self._adapters is not None:
            self._adapters.unload(version_ids)

    def _stops(self, adapter: str | None) -> frozenset[int]:
        """The ids that end an answer of the base model or of an adapter; NotFound where that is not loaded."""
        if adapter is None:
            return self._stop_ids
        if self._adapters is None:
            raise NotFound(f"The adapter {adapter} is not loaded here.", hint="Add it to the deployment.", code="no_adapter")
        return self._adapters.adapter(adapter).stop_ids

    async def stream(self, request: GenerationInput, adapter: str | None = None) -> AsyncIterator[GenerationChunk]:
        """Answer one request; closing the iterator stops the generation at once, in the middle of a prompt too.

        Args:
            adapter: the version id of a loaded adapter; None: the base model answers.

        Raises:
            NotFound: that adapter is not loaded.
            ContextLengthExceeded: the prompt, or the prompt and max_tokens, are longer than the context.
            InvalidRequest: the prompt is empty or malformed.
            UnsupportedParameter: something asked for cannot be honoured.

        An answer that has a form (`answer_form`) and ends by itself is of that form; one that ends for its length is the
        beginning of such an answer, and one that a stop string ends is cut there.
        With `echo` and `logprobs`, the chunk before each choice's first token has the log-probabilities of the prompt's tokens.
        """
        stop_ids = self._stops(adapter)
        prompt = await self._encode(request)
        if request.suffix is not None and (marks := self._encoder.gap_marks) is not None:
            # One of them would begin another gap.
            stop_ids |= marks.ids
        decodings = [replace(each, stop_ids=stop_ids, adapter=adapter) for each in self._decodings(request, len(prompt))]
        plan = await self._plan(request, prompt)
        if plan.is_bound:
            follower = await asyncio.to_thread(self._follower, request, plan, stop_ids)
            decodings = [replace(each, constraint=follower.fork()) for each in decodings]
        shown = frozenset(self._marker_ids(plan.markers).values())
        answers = [_Answer(self._vocabulary, request, index, plan, shown) for index in range(request.n)]
        usage = GenerationUsage(prompt_tokens=len(prompt))
        yield GenerationChunk(usage=usage.model_copy())
        if request.echo:
            text = request.prompt if request.prompt is not None else self._vocabulary.text_of(prompt)
            for answer in answers:
                yield GenerationChunk(index=answer.index, text=text)
        if request.max_tokens == 0 and not request.logprobs:
            for answer in answers:
                last = usage if answer is answers[-1] else None
                yield GenerationChunk(index=answer.index, finish_reason="length", usage=last)
            return
        queue: asyncio.Queue[tuple[int, Step | ModelworksError]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        tickets: list[Ticket] = []
        try:
            for answer, decoding in zip(answers, decodings, strict=True):
                tickets.append(self._engine.start(prompt, decoding, _into(loop, queue, answer.index)))
            unfinished = len(answers)
            while unfinished:
                index, step = await queue.get()
                answer = answers[index]
                if isinstance(step, ModelworksError):
                    raise step
                if answer.finished:
                    continue
                chunk = answer.add(step)
                usage.completion_tokens += len(chunk.token_ids)
                usage.reasoning_tokens = sum(each.reasoning_tokens for each in answers)
                if answer.finished:
                    tickets[index].cancel()
                    unfinished -= 1
                    if not unfinished:
                        chunk.usage = usage
                yield chunk
        finally:
            for ticket in tickets:
                ticket.cancel()

    async def _encode(self, request: GenerationInput) -> list[int]:
        size = (
            len(request.prompt or "")
            + len(request.suffix or "")
            + sum(len(message.content or "") for message in request.messages or ())
        )
        if size > self._most_chars:
            # Encoding megabytes only to count them would take minutes and gigabytes.
            raise ContextLengthExceeded(
                f"This model's context is {self.context_length} tokens, and the prompt has {size} characters, "
                "which cannot be so few tokens.",
                hint="Shorten the prompt: at least one token must be left for the answer.",
                param="prompt" if request.messages is None else "messages",
            )
        if size <= _LONG_PROMPT_CHARS:
            return self._encoder.encode(request)
        return await asyncio.to_thread(self._encoder.encode, request)

    @cached_property
    def _grammars(self) -> GrammarDesk:
        try:
            from modelworks.capabilities.text.form.constraint import GrammarDesk
        except ImportError as error:
            raise MissingExtra.of(error.name or "llguidance", "text") from error
        return GrammarDesk(self._tokenizer, self._vocab_size)

    async def _plan(self, request: GenerationInput, prompt: list[int]) -> Plan:
        """What the answer to a chat may be; to a text, anything."""
        if request.messages is None:
            return Plan()
        thinking: Thinking = "none"
        if self._thinks:
            before = self._tokenizer.decode(prompt[-_TAIL_TOKENS:], skip_special_tokens=False).rstrip()
            thinking = "open" if before.endswith(THINK) else "none" if before.endswith(THINK_END) else "possible"
        if request.answer_form is None and not request.tools:
            return Plan(thinking=thinking)
        return await asyncio.to_thread(plan_of, request, self._dialect, thinking)

    def _marker_ids(self, markers: Sequence[str]) -> dict[str, int]:
        """Those of some texts that are tokens of their own."""
        known = self._tokenizer.get_added_vocab()
        return {marker: known[marker] for marker in markers if marker in known}

    def _follower(self, request: GenerationInput, plan: Plan, stop_ids: frozenset[int]) -> GrammarFollower:
        desk = self._grammars
        vocabulary = desk.vocabulary(stop_ids)
        ids = self._marker_ids(plan.markers)
        special = {marker: token_id for marker, token_id in ids.items() if vocabulary.is_special_token(token_id)}
        place = "tools" if request.answer_form is None else request.answer_form.place
        return desk.follower(plan.grammar(special), stop_ids, place)

    def _decodings(self, request: GenerationInput, prompt_tokens: int) -> list[Decoding]:
        if prompt_tokens >= self.context_length + (request.max_tokens == 0):
            raise ContextLengthExceeded(
                f"This model's context is {self.context_length} tokens, and the prompt has {prompt_tokens}.",
                hint="Shorten the prompt: at least one token must be left for the answer.",
                param="prompt" if request.messages is None else "messages",
            )
        room = self.context_length - prompt_tokens
        if request.max_tokens is not None and request.max_tokens > room:
            raise ContextLengthExceeded(
                f"This model's context is {self.context_length} tokens, but {prompt_tokens + request.max_tokens} were "
                f"asked for: {prompt_tokens} in the prompt and {request.max_tokens} in the answer.",
                hint=f"Set max_tokens to at most {room}, or shorten the prompt.",
                param="max_tokens",
            )
        if request.top_logprobs and not request.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs.", hint="Set logprobs to true.", param="top_logprobs")
        wrong = next((token for token in request.logit_bias if not 0 <= token < self._vocab_size), None)
        if wrong is not None:
            raise InvalidRequest(
                f"logit_bias names the token {wrong}, but the model's ids go from 0 to {self._vocab_size - 1}.",
                hint="Take ids from this model's own tokenizer.",
                param="logit_bias",
            )
        seed = secrets.randbelow(_MAX_SEED) if request.seed is None else request.seed
        temperature, top_p, top_k = self._randomness(request)
        return [
            Decoding(
                max_tokens=room if request.max_tokens is None else request.max_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                # Choices of one request differ; the first is the one that n=1 gives.
                seed=(seed + index * 0x9E3779B97F4A7C15) % _MAX_SEED,
                logprobs=request.logprobs,
                top_logprobs=request.top_logprobs,
                prompt_logprobs=request.echo and request.logprobs,
                presence_penalty=request.presence_penalty,
                frequency_penalty=request.frequency_penalty,
                repetition_penalty=min(max(request.repetition_penalty, _LEAST), _MOST),
                logit_bias=request.logit_bias,
            )
            for index in range(request.n)
        ]

    def _randomness(self, request: GenerationInput) -> tuple[float, float, int | None]:
        """Temperature, top_p and top_k: the request's, else the model's own, else the plain distribution."""
        own = self._defaults if self._defaults.get("do_sample") else {}
        temperature = request.temperature if request.temperature is not None else float(own.get("temperature") or 1.0)
        top_p = request.top_p if request.top_p is not None else float(own.get("top_p") or 1.0)
        top_k = request.top_k if request.top_k is not None else (int(own.get("top_k") or 0) or None)
        # Engines compute in f32, where so small a number is none; the most likely token is all that it leaves.
        cold = 0.0 if temperature < _COLDEST else temperature
        return cold, max(top_p, _LEAST), None if top_k is None else min(top_k, self._vocab_size)


class OpenVINOGenerator(Generator):
    """Answers with OpenVINO GenAI, or not at all."""

    _open = staticmethod(open_openvino)


class TransformersGenerator(Generator):
    """Answers with transformers, or not at all."""

    _open = staticmethod(open_transformers)


class _Answer:
    """One choice on its way from tokens to chunks."""

    def __init__(self, vocabulary: Vocabulary, request: GenerationInput, index: int, plan: Plan, shown: frozenset[int]) -> None:
        self.index = index
        self.finished = False
        self.reasoning_tokens = 0
        self._undecided_tokens = 0
        self._vocabulary = vocabulary
        self._with_logprobs = request.logprobs
        self._builder = text_builder(vocabulary, shown)
        self._reader = PartReader(plan)
        self._filter = StopFilter(request.stop)

    def add(self, step: Step) -> GenerationChunk:
        """The chunk for a step: its token, and whatever text has become certain."""
        chunk = GenerationChunk(index=self.index, token_ids=[] if step.token_id is None else [step.token_id])
        if step.token_id is not None:
            was_thinking = self._reader.thinking
            self._put(chunk, self._reader.push(self._builder.push(step.token_id)))
            self._count(was_thinking)
            if self._with_logprobs and step.logprob is not None:
                top = [self._logprob(token_id, logprob) for token_id, logprob in step.top]
                chunk.logprobs = [self._logprob(step.token_id, step.logprob, top)]
        for scored in step.scored:
            top = [self._logprob(token_id, logprob) for token_id, logprob in scored.top]
            chunk.logprobs = [*(chunk.logprobs or ()), self._logprob(scored.token_id, scored.logprob, top)]
        reason: FinishReason | None = step.finish
        if reason is not None and not self._filter.stopped:
            # The last text may complete a stop string, or turn out not to.
            self._put(chunk, [*self._reader.push(self._builder.finish()), *self._reader.finish()])
            chunk.text += self._filter.finish()
        if self._filter.stopped:
            reason, chunk.stopped_by = "stop", self._filter.met
        elif reason == "stop" and self._reader.num_calls:
            reason = "tool_calls"
        if reason is not None:
            self.finished = True
            chunk.finish_reason = reason
        return chunk

    def _count(self, was_thinking: bool | None) -> None:
        """Whether the token just read was one of the thoughts, their marks included."""
        if was_thinking is None:
            self._undecided_tokens += 1
            if self._reader.thinking:
                self.reasoning_tokens += self._undecided_tokens
        elif was_thinking:
            self.reasoning_tokens += 1

    def _put(self, chunk: GenerationChunk, parts: list[Part]) -> None:
        """Stop strings are looked for in the text alone, not in thoughts and calls."""
        for part in parts:
            if part.kind == "text":
                chunk.text += self._filter.push(part.text)
            elif part.kind == "thought":
                chunk.reasoning += part.text
            elif not self._filter.stopped:
                chunk.text += self._filter.finish()
                pieces = chunk.tool_calls = chunk.tool_calls or []
                if part.kind == "name":
                    pieces.append(ToolCallPiece(index=part.call, name=part.text))
                elif pieces and pieces[-1].index == part.call:
                    pieces[-1].arguments += part.text
                else:
                    pieces.append(ToolCallPiece(index=part.call, arguments=part.text))

    def _logprob(self, token_id: int, logprob: float | None, top: list[TokenLogprob] | None = None) -> TokenLogprob:
        raw = self._vocabulary.token_bytes(token_id)
        return TokenLogprob(
            token_id=token_id, text=raw.decode("utf-8", "replace"), bytes=list(raw), logprob=logprob, top=top or []
        )


def _into(
    loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[tuple[int, Step | ModelworksError]], index: int
) -> Callable[[Step | ModelworksError], None]:
    """Hand steps from the engine's thread to the event loop; after the loop is gone, drop them."""

    def emit(step: Step | ModelworksError) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, (index, step))

    return emit
