"""Answering, by each engine."""

import asyncio
import dataclasses
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.capabilities.text.conftest import Conversation, ask, local
from transformers import AutoModelForCausalLM

from modelworks.capabilities.text.engines import opening, openvino_engine
from modelworks.capabilities.text.engines.base import Decoding, Emit, Step, Ticket
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.schemas import ServeOptions
from modelworks.capabilities.text.serve import Generator, OpenVINOGenerator, TransformersGenerator
from modelworks.capabilities.text.tokenizer import load_tokenizer
from modelworks.contract import LocalModel
from modelworks.contract.errors import (
    ContextLengthExceeded,
    InvalidData,
    InvalidRequest,
    ModelworksError,
    Unavailable,
    UnsafeArtifact,
    UnsupportedArchitecture,
    UnsupportedParameter,
)
from modelworks.contract.generation import GenerationChunk, GenerationInput, GenerationUsage

PROMPT = "The rain reached the valley"
CHAT = [{"role": "user", "content": "Tell me about Chapter 3."}]


def greedy_of(folder: Path, ids: list[int], number: int) -> tuple[list[int], list[float]]:
    """Tokens and their log-probabilities as transformers' own generate gives them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    output = model.generate(
        torch.tensor([ids]),
        max_new_tokens=number,
        do_sample=False,
        temperature=None,
        top_p=None,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    tokens = output.sequences[0, len(ids) :].tolist()
    logprobs = [float(logits[0].log_softmax(-1)[token]) for logits, token in zip(output.logits, tokens, strict=True)]
    return tokens, logprobs


async def test_greedy_tokens_and_logprobs_are_the_checkpoints(generator: Generator, model: LocalModel) -> None:
    ids = load_tokenizer(model.path)(PROMPT)["input_ids"]
    expected, logprobs = greedy_of(model.path, ids, 24)
    reply = (await ask(generator, prompt=PROMPT, temperature=0, max_tokens=24, logprobs=True)).only
    ended = next((number for number, token in enumerate(expected) if token in (0, 2)), 24)
    assert reply.token_ids == expected[:ended]
    assert [each.logprob for each in reply.logprobs] == pytest.approx(logprobs[:ended], abs=2e-4)


@pytest.mark.parametrize("opened", [OpenVINOGenerator, TransformersGenerator])
async def test_a_real_llama_is_answered_for_exactly(stories: LocalModel, opened: type[Generator]) -> None:
    generator = opened(stories, ServeOptions(num_threads=1))
    try:
        ids = load_tokenizer(stories.path)("Once upon a time")["input_ids"]
        expected, logprobs = greedy_of(stories.path, ids, 64)
        reply = (await ask(generator, prompt="Once upon a time", temperature=0, max_tokens=64, logprobs=True)).only
        assert reply.token_ids == expected
        assert reply.text.startswith(", there was a little")
        assert [each.logprob for each in reply.logprobs] == pytest.approx(logprobs, abs=2e-4)
        with pytest.raises(InvalidRequest, match="no chat template"):
            await ask(generator, messages=CHAT)
    finally:
        generator.close()


async def test_usage_is_counted_and_first_of_all_the_prompt(generator: Generator, model: LocalModel) -> None:
    tokenizer = load_tokenizer(model.path)
    text = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    prompt_tokens = len(tokenizer(text)["input_ids"])
    answer = await ask(generator, messages=CHAT, max_tokens=12, seed=1, n=2)
    assert answer.first_usage is not None
    assert answer.first_usage.prompt_tokens == answer.usage.prompt_tokens == prompt_tokens
    assert answer.usage.completion_tokens == sum(len(reply.token_ids) for reply in answer.replies.values())
    for reply in answer.replies.values():
        assert reply.text == tokenizer.decode(reply.token_ids, skip_special_tokens=True)


async def test_a_seed_decides_the_answer_whatever_else_is_being_answered(generator: Generator) -> None:
    async def seeded(seed: int, wait: int = 0) -> Conversation:
        for _ in range(wait):
            await asyncio.sleep(0)
        return await ask(generator, prompt=PROMPT, seed=seed, temperature=1.0, max_tokens=24, logprobs=True)

    alone = await seeded(5)
    crowd = [ask(generator, prompt=f"{PROMPT} {number}", temperature=1.3, max_tokens=16 + number) for number in range(6)]
    again, other, later, *_ = await asyncio.gather(seeded(5), seeded(6), seeded(5, wait=20), *crowd)
    assert again.only.token_ids == later.only.token_ids == alone.only.token_ids
    assert other.only.token_ids != alone.only.token_ids
    expected = [each.logprob for each in alone.only.logprobs]
    assert [each.logprob for each in again.only.logprobs] == pytest.approx(expected, abs=1e-4)


async def test_many_at_once_get_what_each_gets_alone(generator: Generator) -> None:
    prompts = [
        PROMPT,
        "The soup",
        "大雪",
        "The lathe was repaired on",
        "A",
        "The rice pleased every guest",
        "2 4 6 8",
        "云" * 30,
    ]
    alone = [(await ask(generator, prompt=prompt, temperature=0, max_tokens=20)).only.token_ids for prompt in prompts]
    together = await asyncio.gather(*(ask(generator, prompt=prompt, temperature=0, max_tokens=20) for prompt in prompts))
    assert [answer.only.token_ids for answer in together] == alone


async def test_choices_differ_and_the_first_is_the_one_alone(generator: Generator) -> None:
    one = await ask(generator, prompt=PROMPT, seed=9, temperature=1.0, max_tokens=16)
    three = await ask(generator, prompt=PROMPT, seed=9, temperature=1.0, max_tokens=16, n=3)
    assert set(three.replies) == {0, 1, 2}
    assert three.replies[0].token_ids == one.only.token_ids
    assert len({tuple(reply.token_ids) for reply in three.replies.values()}) == 3
    unseeded = [await ask(generator, prompt=PROMPT, temperature=1.0, max_tokens=16) for _ in range(3)]
    assert len({tuple(answer.only.token_ids) for answer in unseeded}) == 3


@pytest.mark.parametrize("temperature", [5e-324, 1.28e-52, 1e-30])
async def test_a_temperature_next_to_nothing_is_nothing(generator: Generator, temperature: float) -> None:
    cold = (await ask(generator, prompt=PROMPT, temperature=temperature, max_tokens=8)).only
    assert cold.token_ids == (await ask(generator, prompt=PROMPT, temperature=0, max_tokens=8)).only.token_ids


@pytest.mark.parametrize(
    "sampling",
    [
        {"top_p": 5e-324},
        {"top_p": 1e-46},
        {"top_k": 2**70},
        {"repetition_penalty": 5e-324},
        {"repetition_penalty": 1e300},
    ],
    ids=str,
)
async def test_numbers_that_no_engine_can_hold_are_answered(generator: Generator, sampling: dict[str, Any]) -> None:
    reply = (await ask(generator, prompt=PROMPT, temperature=1.0, max_tokens=8, seed=1, **sampling)).only
    assert reply.token_ids
    if "top_p" in sampling:
        assert reply.token_ids == (await ask(generator, prompt=PROMPT, temperature=0, max_tokens=8)).only.token_ids


async def test_a_request_that_the_pipeline_cannot_take_ends_alone(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    if generator._engine.name != "openvino":
        pytest.skip("the pipeline is OpenVINO's")
    start = generator._engine.start

    def start_wildly(prompt_ids: list[int], decoding: Decoding, emit: Emit) -> Ticket:
        return start(prompt_ids, dataclasses.replace(decoding, top_k=2**70), emit)

    monkeypatch.setattr(generator._engine, "start", start_wildly)
    with pytest.raises(Unavailable, match="refused this request"):
        await asyncio.wait_for(ask(generator, prompt=PROMPT, temperature=1.0, max_tokens=4), 60)
    monkeypatch.undo()
    assert (await asyncio.wait_for(ask(generator, prompt=PROMPT, max_tokens=4), 60)).only.token_ids


async def test_text_ends_before_a_stop_string(generator: Generator) -> None:
    whole = (await ask(generator, prompt=PROMPT, temperature=0, max_tokens=30)).only
    assert len(whole.text) > 20
    # Three letters from the middle: seldom a token of their own.
    stop = whole.text[9:12]
    cut = await ask(generator, prompt=PROMPT, temperature=0, max_tokens=30, stop=["never", stop])
    assert cut.only.text == whole.text[: whole.text.index(stop)]
    assert cut.only.finish_reason == "stop"
    assert cut.usage.completion_tokens == len(cut.only.token_ids) < len(whole.token_ids)
    beginning = whole.text[-2:] + "\0"
    held = (await ask(generator, prompt=PROMPT, temperature=0, max_tokens=30, stop=[beginning])).only
    assert held.text == whole.text


async def test_an_end_token_ends_the_answer_and_is_not_part_of_it(generator: Generator, model: LocalModel) -> None:
    for seed in range(40):
        reply = (await ask(generator, prompt="The soup", seed=seed, temperature=1.2, top_p=1.0)).only
        assert not set(reply.token_ids) & {0, 2}
        if reply.finish_reason == "stop":
            return
    pytest.fail("forty answers without an end")


async def test_a_prompt_that_cannot_fit_is_refused_without_encoding_it(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(_request: object) -> list[int]:
        raise AssertionError("a prompt of megabytes was encoded")

    monkeypatch.setattr(generator._encoder, "encode", encode)
    with pytest.raises(ContextLengthExceeded, match="128 tokens, and the prompt has 2000000 characters") as refused:
        await ask(generator, prompt="word " * 400_000, max_tokens=1)
    assert refused.value.param == "prompt"
    message = {"role": "user", "content": "词" * 2_000_000}
    with pytest.raises(ContextLengthExceeded, match="2000000 characters") as refused:
        await ask(generator, messages=[message], max_tokens=1)
    assert refused.value.param == "messages"


async def test_an_answer_goes_to_the_end_of_the_context_and_no_further(generator: Generator) -> None:
    ids = [10] * 120
    answer = await ask(generator, prompt_ids=ids, max_tokens=8, temperature=0, **{"logit_bias": {2: -100, 0: -100}})
    assert (answer.usage.completion_tokens, answer.only.finish_reason) == (8, "length")
    rest = await ask(generator, prompt_ids=ids, temperature=0, logit_bias={2: -100, 0: -100})
    assert (rest.usage.completion_tokens, rest.only.finish_reason) == (8, "length")
    with pytest.raises(ContextLengthExceeded, match=r"128 tokens, but 129 .*: 120 in the prompt and 9"):
        await ask(generator, prompt_ids=ids, max_tokens=9)
    with pytest.raises(ContextLengthExceeded, match=r"128 tokens, and the prompt has 128"):
        await ask(generator, prompt_ids=[10] * 128)
    with pytest.raises(ContextLengthExceeded, match="prompt has"):
        await ask(generator, prompt=PROMPT * 2000)


async def test_logprobs_with_alternatives_and_their_bytes(generator: Generator) -> None:
    plain = await ask(generator, prompt="大", temperature=0, max_tokens=12, logprobs=True)
    rich = await ask(generator, prompt="大", temperature=0, max_tokens=12, logprobs=True, top_logprobs=3)
    assert rich.only.token_ids == plain.only.token_ids
    assert len(rich.only.logprobs) == 12
    for one, other in zip(plain.only.logprobs, rich.only.logprobs, strict=True):
        assert other.logprob == pytest.approx(one.logprob, abs=2e-4)
        assert other.top[0].token_id == other.token_id
        assert other.top[0].logprob >= other.top[1].logprob >= other.top[2].logprob
    assert bytes(byte for each in rich.only.logprobs for byte in each.bytes).decode("utf-8", "replace") == rich.only.text


async def test_penalties_and_bias_are_honoured_alike(openvino: Generator, transformers: Generator) -> None:
    cases: list[dict[str, Any]] = [
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.7},
        {"repetition_penalty": 1.4},
        {"logit_bias": {50: 100}},
    ]
    plain = (await ask(openvino, prompt=PROMPT, temperature=0, max_tokens=24)).only.token_ids
    for case in cases:
        ours = (await ask(openvino, prompt=PROMPT, temperature=0, max_tokens=24, **case)).only.token_ids
        theirs = (await ask(transformers, prompt=PROMPT, temperature=0, max_tokens=24, **case)).only.token_ids
        assert ours == theirs, case
        assert ours != plain, case


async def test_the_prompt_comes_back_when_asked_for(generator: Generator) -> None:
    plain = (await ask(generator, prompt=PROMPT, temperature=0, max_tokens=6)).only
    echoed = (await ask(generator, prompt=PROMPT, temperature=0, max_tokens=6, echo=True)).only
    assert echoed.text == PROMPT + plain.text
    assert echoed.token_ids == plain.token_ids


async def test_the_prompts_log_probabilities_are_those_of_the_model(
    generator: Generator, model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read in pieces, so that a piece's first token is told by the piece before."""
    monkeypatch.setattr("modelworks.capabilities.text.engines.logits._PREFILL_CHUNK", 4)
    ids = load_tokenizer(model.path)(PROMPT * 2, add_special_tokens=False)["input_ids"]
    assert len(ids) > 10
    with torch.inference_mode():
        logprobs = load_model(model.path, torch.float32)(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    asked: dict[str, Any] = {"prompt_ids": ids, "echo": True, "logprobs": True, "top_logprobs": 2, "temperature": 0}
    answer = await ask(generator, **asked, max_tokens=1)
    prompt, (written,) = answer.only.logprobs[: len(ids)], answer.only.logprobs[len(ids) :]
    assert [entry.token_id for entry in prompt] == ids
    assert prompt[0].logprob is None
    assert prompt[0].top == []
    for place, entry in enumerate(prompt[1:]):
        assert entry.logprob == pytest.approx(float(logprobs[place, ids[place + 1]]), abs=2e-3)
        assert [top.token_id for top in entry.top] == logprobs[place].topk(2).indices.tolist()
    assert written.logprob == pytest.approx(float(logprobs[-1].max()), abs=2e-3)
    assert answer.usage == GenerationUsage(prompt_tokens=len(ids), completion_tokens=1)
    assert answer.only.token_ids == [written.token_id]
    nothing = await ask(generator, **asked, max_tokens=0)
    assert (nothing.only.logprobs, nothing.only.token_ids, nothing.only.finish_reason) == (prompt, [], "length")
    assert nothing.only.text == answer.only.text[: len(nothing.only.text)]
    assert nothing.usage == GenerationUsage(prompt_tokens=len(ids))


async def test_a_prompt_that_fills_the_context_can_be_read(generator: Generator) -> None:
    whole = [5] * generator.context_length
    assert len((await ask(generator, prompt_ids=whole, echo=True, logprobs=True, max_tokens=0)).only.logprobs) == len(whole)
    assert (await ask(generator, prompt_ids=whole, echo=True, max_tokens=0, n=2)).usage.prompt_tokens == len(whole)
    with pytest.raises(ContextLengthExceeded):
        await ask(generator, prompt_ids=[*whole, 5], echo=True, max_tokens=0)
    with pytest.raises(ContextLengthExceeded):
        await ask(generator, prompt_ids=whole, echo=True, max_tokens=1)


async def test_an_end_token_is_told_where_the_prompts_are(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sums up log-probabilities by place counts on one for what was drawn, though it is no part of the answer."""
    asked: dict[str, Any] = {"prompt": PROMPT, "temperature": 0, "max_tokens": 1, "logprobs": True}
    drawn = (await ask(generator, **asked)).only.token_ids[0]
    monkeypatch.setattr(generator, "_stop_ids", frozenset({drawn}))
    echoed = (await ask(generator, **asked, echo=True)).only
    assert (echoed.token_ids, echoed.finish_reason, echoed.text) == ([], "stop", PROMPT)
    assert echoed.logprobs[-1].token_id == drawn
    assert (await ask(generator, **asked)).only.logprobs == []


@pytest.mark.parametrize(
    ("request_", "error", "said"),
    [
        ({"prompt": ""}, InvalidRequest, "empty"),
        ({"prompt_ids": []}, InvalidRequest, "empty"),
        ({"messages": []}, InvalidRequest, "no messages"),
        ({"prompt_ids": [1, 99999]}, InvalidRequest, "99999"),
        ({"prompt_ids": [-1]}, InvalidRequest, "-1"),
        ({"prompt": "x", "logit_bias": {99999: 1}}, InvalidRequest, "logit_bias"),
        ({"prompt": "x", "top_logprobs": 2}, InvalidRequest, "needs logprobs"),
        ({"messages": CHAT, "tools": [{"type": "function"}]}, UnsupportedParameter, "no place for tools"),
    ],
)
async def test_what_cannot_be_answered_is_refused(
    transformers: Generator, request_: dict[str, Any], error: type[ModelworksError], said: str
) -> None:
    with pytest.raises(error, match=said):
        await ask(transformers, **request_)


async def idle(generator: Generator) -> bool:
    """Whether the engine lets go of everything; it does so at its next step."""
    for _ in range(2000):
        if generator.num_running == 0:
            return True
        await asyncio.sleep(0.005)
    return False


@pytest.fixture(params=[OpenVINOGenerator, TransformersGenerator])
def endless(request: pytest.FixtureRequest, model: LocalModel, tmp_path: Path) -> Iterator[Generator]:
    """An engine on a context so long that an answer which is not stopped takes minutes."""
    long = changed(model, tmp_path / "long", with_config(max_position_embeddings=65_536))
    generator: Generator = request.param(long, ServeOptions(num_threads=1, max_batch=4))
    yield generator
    generator.close()


#: Nothing in this answer ends it.
ENDLESS: dict[str, Any] = {"prompt_ids": [11, 12, 13], "seed": 1, "temperature": 1.0}


async def endless_stream(generator: Generator, **more: Any) -> AsyncIterator[GenerationChunk]:
    generator._stop_ids = frozenset()
    return generator.stream(GenerationInput(**{**ENDLESS, **more}))


def holds_nothing(generator: Generator) -> bool:
    """Whether the library itself has let go, where there is one: it is idle, so its thread does not touch it."""
    pipeline = getattr(generator._engine, "_pipeline", None)
    return pipeline is None or (not pipeline.has_non_finished_requests() and pipeline.get_metrics().cache_usage == 0)


async def test_closing_the_stream_frees_the_sequences(endless: Generator) -> None:
    stream = await endless_stream(endless, n=3)
    for _ in range(5):
        await anext(stream)
    assert endless.num_running == 3
    await stream.aclose()  # type: ignore[attr-defined]
    assert await idle(endless)
    assert holds_nothing(endless)
    assert (await ask(endless, prompt=PROMPT, max_tokens=2)).usage.completion_tokens <= 2


async def test_closing_the_stream_while_the_prompt_is_read_stops_that_too(
    endless: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    emitted: list[object] = []
    start = endless._engine.start

    def watched(prompt: list[int], decoding: Decoding, emit: Emit) -> Ticket:
        def count(step: Step | ModelworksError) -> None:
            emitted.append(step)
            emit(step)

        return start(prompt, decoding, count)

    monkeypatch.setattr(endless._engine, "start", watched)
    stream = await endless_stream(endless, prompt_ids=[11] * 30_000)
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    while endless.num_running == 0:
        await asyncio.sleep(0.001)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stream.aclose()  # type: ignore[attr-defined]
    assert await idle(endless)
    assert holds_nothing(endless)
    assert not emitted, "the whole prompt was read for an answer that nobody waits for"


async def test_a_closed_replica_ends_its_answers_and_refuses_new_ones(endless: Generator) -> None:
    stream = await endless_stream(endless)
    for _ in range(3):
        await anext(stream)
    endless.close()
    with pytest.raises(ModelworksError, match="shutting down"):
        async for _ in stream:
            pass
    with pytest.raises(ModelworksError, match="shutting down"):
        await ask(endless, prompt=PROMPT)


async def test_more_than_fit_at_once_wait_their_turn(model: LocalModel) -> None:
    for opened in (OpenVINOGenerator, TransformersGenerator):
        generator = opened(model, ServeOptions(max_batch=2, num_threads=1, prefix_caching=False))
        try:
            answers = await asyncio.gather(*(ask(generator, prompt=PROMPT, temperature=0, max_tokens=8) for _ in range(6)))
            assert len({tuple(answer.only.token_ids) for answer in answers}) == 1
        finally:
            generator.close()


@pytest.mark.parametrize("precision", ["int8", "bf16"])
async def test_lower_precisions_answer_nearly_alike(
    model: LocalModel, openvino: Generator, precision: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if precision == "bf16" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("the engine computes in bf16 on two cores or more")
    generator = OpenVINOGenerator(model, ServeOptions(precision=precision, num_threads=1))
    try:
        exact = (await ask(openvino, prompt=PROMPT, temperature=0, max_tokens=1, logprobs=True, top_logprobs=5)).only
        rough = (await ask(generator, prompt=PROMPT, temperature=0, max_tokens=1, logprobs=True, top_logprobs=5)).only
        near = {each.token_id: each.logprob for each in rough.logprobs[0].top}
        shared = [(each.logprob, near[each.token_id]) for each in exact.logprobs[0].top if each.token_id in near]
        assert len(shared) >= 3
        # Where the processor has no such numbers the engine takes f32, and that is told.
        rounds = precision != "bf16" or openvino_engine.multiplies_bf16()
        assert any(one != other for one, other in shared) == rounds
        assert ("does not multiply bf16" in caplog.text) != rounds
        assert [one for one, _ in shared] == pytest.approx([other for _, other in shared], abs=0.25)
    finally:
        generator.close()


def test_options_that_do_not_fit_are_refused(model: LocalModel) -> None:
    with pytest.raises(UnsupportedParameter, match="no precision int8"):
        TransformersGenerator(model, ServeOptions(precision="int8"))
    with pytest.raises(UnsupportedParameter, match="kv_cache_precision"):
        OpenVINOGenerator(model, ServeOptions(precision="f32", kv_cache_precision="bf16"))
    with pytest.raises(InvalidRequest, match="needs a model"):
        Generator(None)


def test_bf16_on_one_core_is_refused_and_does_not_end_the_process(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_num_cores", lambda: 1)
    with pytest.raises(UnsupportedParameter, match="two cores or more"):
        OpenVINOGenerator(model, ServeOptions(precision="bf16"))


def no_checkpoint(*_: object) -> None:
    raise AssertionError("the checkpoint was loaded a second time")


def test_a_model_made_here_is_proved_by_its_own_answers_alone(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "load_model", no_checkpoint)
    OpenVINOGenerator(model, ServeOptions(num_threads=1)).close()
    stranger = model.model_copy(update={"metadata": {}})
    with pytest.raises(AssertionError, match="loaded a second time"):
        OpenVINOGenerator(stranger, ServeOptions(num_threads=1))


@pytest.mark.parametrize("made_here", [True, False])
def test_an_engine_that_computes_something_else_is_not_the_weights_fault(
    model: LocalModel, made_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = openvino_engine.GraphDecoder.read

    def wrong(*asked: Any) -> Any:
        logits_v = right(*asked)
        return logits_v + np.arange(logits_v.size) % 3

    monkeypatch.setattr(openvino_engine.GraphDecoder, "read", wrong)
    asked = model if made_here else model.model_copy(update={"metadata": {}})
    with pytest.raises(UnsupportedArchitecture, match="other logits than the checkpoint"):
        OpenVINOGenerator(asked, ServeOptions(num_threads=1))


def changed(model: LocalModel, folder: Path, change: Callable[[Path], None]) -> LocalModel:
    shutil.copytree(model.path, folder)
    change(folder)
    return local(folder)


def with_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def test_a_shape_that_int8_cannot_store_is_refused(stories: LocalModel) -> None:
    with pytest.raises(InvalidRequest, match="multiple of 32"):
        OpenVINOGenerator(stories, ServeOptions(precision="int8"))


def test_a_cache_smaller_than_a_context_is_refused_with_what_would_fit(model: LocalModel, tmp_path: Path) -> None:
    long = changed(model, tmp_path / "long", with_config(max_position_embeddings=65_536))
    with pytest.raises(InvalidRequest, match="cannot hold one context of 4000") as caught:
        OpenVINOGenerator(long, ServeOptions(cache_size_bytes=1 << 20, context_length=4000))
    # Two layers of one head of 32 numbers, keys and values, in f32: 512 bytes a token, 64 blocks in all, one to spare.
    assert "at most 2016," in (caught.value.hint or "")
    for asked in (2016, None):
        generator = OpenVINOGenerator(long, ServeOptions(cache_size_bytes=1 << 20, context_length=asked))
        generator.close()
        assert generator.context_length == 2016


def test_damaged_and_unsafe_models_are_refused_at_opening(model: LocalModel, tmp_path: Path) -> None:
    def truncate(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])

    with pytest.raises(InvalidData, match="truncated"):
        Generator(changed(model, tmp_path / "a", truncate))
    with pytest.raises(UnsafeArtifact):
        Generator(
            changed(model, tmp_path / "b", lambda folder: (folder / "model.safetensors").rename(folder / "model.bin") and None)
        )
    with pytest.raises(InvalidData, match=r"no tokenizer\.json"):
        Generator(changed(model, tmp_path / "c", lambda folder: (folder / "tokenizer.json").unlink()))
    with pytest.raises(UnsupportedArchitecture, match=r"'mystery'.*openvino: .*transformers: "):
        Generator(changed(model, tmp_path / "d", with_config(model_type="mystery")))
    with pytest.raises(InvalidData, match="lacks"):
        Generator(changed(model, tmp_path / "e", with_config(num_hidden_layers=3)))


async def test_an_architecture_that_openvino_does_not_read_is_answered_by_transformers(
    tmp_path: Path, model: LocalModel
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    size = len(load_tokenizer(model.path))
    GPT2LMHeadModel(
        GPT2Config(vocab_size=size, n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=2)
    ).save_pretrained(tmp_path)
    load_tokenizer(model.path).save_pretrained(tmp_path)
    generator = Generator(local(tmp_path))
    try:
        assert generator.engine == "transformers"
        assert (await ask(generator, prompt=PROMPT, max_tokens=4)).usage.completion_tokens <= 4
    finally:
        generator.close()
    with pytest.raises(UnsupportedArchitecture, match="gpt2"):
        OpenVINOGenerator(local(tmp_path))


def test_the_best_engine_is_chosen_and_a_conversion_is_kept(model: LocalModel, openvino: Generator, engine_cache: Path) -> None:
    def conversions() -> set[str]:
        # Graphs with adapters stand there as long as they answer.
        return {folder.name for folder in engine_cache.iterdir() if not folder.name.startswith(".adapters-")}

    before = conversions()
    assert before
    generator = Generator(model, ServeOptions(num_threads=1))
    generator.close()
    assert generator.engine == "openvino"
    assert conversions() == before
    assert not any(name.startswith(".") for name in before), "half a conversion was left behind"
