"""Many adapters on one base: answers, hot loads and unloads, and every adapter that must be refused."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.capabilities.text.conftest import ask
from tests.capabilities.text.training.conftest import LORA, TALKS, conversation, tuned, write_lines

from modelworks.capabilities.text.engines import adapter_engine
from modelworks.capabilities.text.engines.adapter import Adapter, LowRank, file_digests
from modelworks.capabilities.text.engines.adapter_graph import layer_names, put_adapters
from modelworks.capabilities.text.engines.openvino_engine import GraphDecoder
from modelworks.capabilities.text.engines.openvino_model import converted
from modelworks.capabilities.text.gguf_export import Shape
from modelworks.capabilities.text.prompt_format import served_format
from modelworks.capabilities.text.schemas import ServeOptions
from modelworks.capabilities.text.serve import OpenVINOGenerator, TransformersGenerator
from modelworks.contract import LocalModel
from modelworks.contract.adapter import AdapterHost
from modelworks.contract.errors import IntegrityFailed, InvalidRequest, NotFound, Unavailable, UnsupportedParameter
from modelworks.contract.generation import GenerationInput
from modelworks.testing.fake_run import FakeRun

OPTIONS = ServeOptions(max_batch=16, num_threads=1)
#: As many tokens as both the merged weights and the adapter certainly compute alike.
ASKED: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "logprobs": True}


def question(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **ASKED}


def named(run: FakeRun, name: str) -> LocalModel:
    """The saved model as a version of its own."""
    return run.saved[0].model().model_copy(update={"ref": f"{name}@v1", "version_id": f"mdl_{name.upper()}"})


@pytest.fixture(scope="module")
def first(lora: FakeRun) -> LocalModel:
    return named(lora, "first")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, model: LocalModel) -> LocalModel:
    """An adapter that learnt the answers in another order, of another rank and on fewer layers."""
    answers = [answer for _, answer in TALKS]
    turned = [conversation(asked, answers[number - 1]) for number, (asked, _) in enumerate(TALKS)]
    data = write_lines(tmp_path_factory.mktemp("turned"), turned)
    run = FakeRun(tmp_path_factory.mktemp("second"), models={"base": model}, datasets={"train": data}, seed=4)
    params = LORA.model_copy(update={"rank": 4, "targets": ["q_proj", "o_proj", "up_proj", "down_proj"], "rslora": True})
    return named(tuned(run, params), "second")


@pytest.fixture
def host(model: LocalModel) -> Iterator[OpenVINOGenerator]:
    generator = OpenVINOGenerator(model, OPTIONS)
    yield generator
    generator.close()


def changed(
    adapter: LocalModel, folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> LocalModel:
    """An adapter whose weights were changed and whose record says that these are the trained ones."""
    shutil.copytree(adapter.path / "adapter", folder / "adapter")
    file = folder / "adapter" / "adapter_model.safetensors"
    file.chmod(0o644)
    save_file({name: value.contiguous() for name, value in change(load_file(file)).items()}, file, metadata={"format": "pt"})
    record = adapter.metadata["adapter"] | {"files": file_digests(folder / "adapter")}
    metadata = adapter.metadata | {"adapter": record}
    return adapter.model_copy(update={"path": folder, "version_id": "mdl_CHANGED", "ref": "changed@v1", "metadata": metadata})


async def test_two_adapters_answer_differently_on_one_base_and_as_their_merged_weights(
    host: OpenVINOGenerator, first: LocalModel, second: LocalModel
) -> None:
    assert isinstance(host, AdapterHost)
    before = [await ask(host, **question(asked)) for asked, _ in TALKS]
    assert host.load_adapters([first, second]) == {}
    for adapter in (first, second):
        merged = OpenVINOGenerator(adapter, OPTIONS)
        for (asked, _), plain in zip(TALKS, before, strict=True):
            request = GenerationInput(**question(asked))
            theirs = [chunk async for chunk in merged.stream(request)]
            ours = [chunk async for chunk in host.stream(request, adapter.version_id)]
            ids = [token for chunk in ours for token in chunk.token_ids]
            assert ids == [token for chunk in theirs for token in chunk.token_ids]
            apart = [
                abs(mine.logprob - his.logprob)
                for one, other in zip(ours, theirs, strict=True)
                for mine, his in zip(one.logprobs or (), other.logprobs or (), strict=True)
            ]
            assert apart
            assert max(apart) < 1e-3
            assert ids != plain.only.token_ids
        merged.close()
    after = [await ask(host, **question(asked)) for asked, _ in TALKS]
    assert [each.only.token_ids for each in after] == [each.only.token_ids for each in before]
    assert [[token.logprob for token in each.only.logprobs] for each in after] == [
        [token.logprob for token in each.only.logprobs] for each in before
    ]


async def test_adapters_are_mixed_in_one_batch_without_a_trace(
    host: OpenVINOGenerator, first: LocalModel, second: LocalModel
) -> None:
    host.load_adapters([first, second])
    kinds = [None, first.version_id, second.version_id]

    async def tokens(adapter: str | None, number: int) -> list[int]:
        asked = f"{TALKS[number % 5][0]} " * (1 + number % 3)
        request = GenerationInput(messages=[{"role": "user", "content": asked}], max_tokens=16, temperature=0.7, seed=number)  # type: ignore[list-item]
        return [token async for chunk in host.stream(request, adapter) for token in chunk.token_ids]

    alone = [await tokens(kinds[number % 3], number) for number in range(15)]
    together = await asyncio.gather(*(tokens(kinds[number % 3], number) for number in range(15)))
    assert together == alone


async def test_what_the_pipeline_cannot_do_is_done_with_the_adapter_too(host: OpenVINOGenerator, first: LocalModel) -> None:
    host.load_adapters([first])

    async def answer(adapter: str | None, **more: Any) -> tuple[list[int], list[float]]:
        request = GenerationInput(**question("Rain?") | more)
        chunks = [chunk async for chunk in host.stream(request, adapter)]
        found = [each for chunk in chunks for each in chunk.logprobs or ()]
        return [each.token_id for each in found], [each.logprob for each in found]

    plain_ids, plain = await answer(first.version_id)
    for more in ({"top_logprobs": 2}, {"logit_bias": {0: -1.0}}, {"repetition_penalty": 1.0001}):
        ids, logprobs = await answer(first.version_id, **more)
        assert ids == plain_ids, more
        assert np.allclose(logprobs, plain, atol=1e-3), more
        assert (await answer(None, **more))[0] != plain_ids


async def test_an_answer_with_a_form_is_the_adapters_too(host: OpenVINOGenerator, first: LocalModel) -> None:
    host.load_adapters([first])
    schema = {
        "properties": {"kind": {"const": "rain"}, "text": {"type": "string", "maxLength": 12}},
        "required": ["kind", "text"],
    }
    form = {"json_schema": {"type": "object", **schema}}

    async def answer(adapter: str | None, **more: Any) -> tuple[list[int], str]:
        asked = question("Rain?") | {"answer_form": form, "max_tokens": 50, "logprobs": False} | more
        chunks = [chunk async for chunk in host.stream(GenerationInput(**asked), adapter)]
        return [token for chunk in chunks for token in chunk.token_ids], "".join(chunk.text for chunk in chunks)

    ids, text = await answer(first.version_id)
    assert json.loads(text)["kind"] == "rain"
    # Without log-probabilities, what the form forces is read several tokens at a time: with the adapter as well.
    assert (await answer(first.version_id, logprobs=True))[0] == ids
    assert (await answer(None))[0] != ids


@pytest.mark.parametrize("precision", ["bf16", "int8"])
async def test_other_precisions_hold_adapters(model: LocalModel, first: LocalModel, precision: str) -> None:
    host = OpenVINOGenerator(model, ServeOptions(precision=precision, max_batch=4))
    assert host.load_adapters([first]) == {}
    request = GenerationInput(**question("Rain?"))
    chosen = [token async for chunk in host.stream(request, first.version_id) for token in chunk.token_ids]
    assert chosen != (await ask(host, **question("Rain?"))).only.token_ids
    host.close()


@pytest.mark.parametrize("small", [1.0, 1e-7])
def test_in_eight_bits_only_rounding_is_lost(
    model: LocalModel, first: LocalModel, second: LocalModel, tmp_path: Path, small: float
) -> None:
    """Ranks of 8 and 4, which fill no group of 32; and pairs of which one half is as small as sixteen bits hardly hold."""
    shape = Shape.of(json.loads((model.path / "config.json").read_text()))
    record = served_format(model).record()
    adapters = [Adapter.of(each, model, record) for each in (first, second)]
    pairs = [
        {name: LowRank(pair.a / np.float32(small), pair.b * np.float32(small)) for name, pair in each.items()}
        for each in (adapter.pairs(layer_names(shape)) for adapter in adapters)
    ]
    exact: dict[bool, list[Any]] = {}
    for int8 in (False, True):
        graph = ov.Core().read_model(converted(model.path, model.digest, int8=int8) / "openvino_model.xml")
        put_adapters(graph, model.path, pairs, int8=int8)
        (tmp_path / str(int8)).mkdir()
        ov.serialize(graph, tmp_path / str(int8) / "openvino_model.xml")
        decoder = GraphDecoder(
            tmp_path / str(int8), {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
        )
        exact[int8] = [
            decoder.read(decoder.new_state(), [token + number * shape.vocab_size for token in first_ids], 0)
            for number, first_ids in enumerate((adapters[0].probe.ids, adapters[0].probe.ids, adapters[1].probe.ids))
        ]
    apart = [float(np.abs(mine - theirs).max()) for mine, theirs in zip(exact[True], exact[False], strict=True)]
    assert max(apart[1:]) < 3 * apart[0]


async def test_hot_loads_and_unloads_lose_no_stream(host: OpenVINOGenerator, first: LocalModel, second: LocalModel) -> None:
    host.load_adapters([first])
    request = GenerationInput(prompt="Rain?", max_tokens=100, temperature=1.0, seed=5, stop=[])
    expected = [
        [token async for chunk in host.stream(request, adapter) for token in chunk.token_ids]
        for adapter in (None, first.version_id)
    ]
    started = asyncio.Event()
    under_way = 0

    async def one(adapter: str | None) -> list[int]:
        nonlocal under_way
        found: list[int] = []
        async for chunk in host.stream(request, adapter):
            found += chunk.token_ids
            if len(found) == 3:
                under_way += 1
                if under_way == 8:
                    started.set()
        return found

    streams = [asyncio.create_task(one((None, first.version_id)[number % 2])) for number in range(8)]
    await started.wait()
    loading = asyncio.to_thread(host.load_adapters, [second])
    host.unload_adapters([first.version_id])
    with pytest.raises(NotFound):
        await anext(host.stream(request, first.version_id))
    assert await loading == {}
    assert [token async for chunk in host.stream(request, second.version_id) for token in chunk.token_ids]
    assert await asyncio.gather(*streams) == expected * 4
    # Loaded again, it answers as before.
    assert host.load_adapters([first]) == {}
    assert await one(first.version_id) == expected[1]


class Held:
    """Holds every load in place between the closing of the old graph and the writing of the new one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.is_emptied: list[bool] = []
        write = adapter_engine.AdapterEngine._write

        def held(engine: Any, *rest: Any) -> None:
            self.is_emptied.append(engine._engine._pipeline is None)
            self.reached.set()
            assert self.go_on.wait(60)
            write(engine, *rest)

        patch.setattr(adapter_engine.AdapterEngine, "_write", held)


@pytest.fixture
def in_place(model: LocalModel) -> Iterator[OpenVINOGenerator]:
    generator = OpenVINOGenerator(model, OPTIONS.model_copy(update={"adapter_loading": "in_place"}))
    yield generator
    generator.close()


async def tokens_of(host: OpenVINOGenerator, adapter: str | None, started: asyncio.Event | None = None) -> list[int]:
    request = GenerationInput(prompt="Rain?", max_tokens=100, temperature=1.0, seed=5, stop=[])
    found: list[int] = []
    async for chunk in host.stream(request, adapter):
        found += chunk.token_ids
        if started is not None:
            started.set()
    return found


async def reach(host: OpenVINOGenerator, number: int) -> None:
    """Wait until that many choices wait in the engine, where none can end meanwhile."""
    async with asyncio.timeout(60):
        while host.num_running != number:
            await asyncio.sleep(0.01)


async def test_a_load_in_place_finishes_what_runs_and_lets_the_rest_wait(
    in_place: OpenVINOGenerator, first: LocalModel, second: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_place.load_adapters([first]) == {}
    kinds = (None, first.version_id)
    expected = [await tokens_of(in_place, kind) for kind in kinds]
    held = Held(monkeypatch)
    started = [asyncio.Event(), asyncio.Event()]
    running = [asyncio.create_task(tokens_of(in_place, *each)) for each in zip(kinds, started, strict=True)]
    for each in started:
        await each.wait()
    loading = asyncio.create_task(asyncio.to_thread(in_place.load_adapters, [second]))
    assert await asyncio.to_thread(held.reached.wait, 60)
    # What ran is over, its graph is gone, and nothing is answered by half.
    assert held.is_emptied == [True]
    assert await asyncio.gather(*running) == expected
    assert in_place.num_running == 0
    later = [asyncio.create_task(tokens_of(in_place, kind)) for kind in (*kinds, None)]
    await reach(in_place, 3)
    later[2].cancel()
    await reach(in_place, 2)
    assert [task.done() for task in later[:2]] == [False, False]
    held.go_on.set()
    assert await loading == {}
    assert await asyncio.gather(*later[:2]) == expected
    assert await tokens_of(in_place, second.version_id) not in expected


async def test_a_load_in_place_that_fails_leaves_everything_as_it_was(
    in_place: OpenVINOGenerator, first: LocalModel, second: LocalModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert in_place.load_adapters([first]) == {}
    kinds = (None, first.version_id)
    expected = [await tokens_of(in_place, kind) for kind in kinds]
    zeroed = changed(
        second, tmp_path, lambda weights: {name: value * ("lora_B" not in name) for name, value in weights.items()}
    )
    assert list(in_place.load_adapters([zeroed])) == [zeroed.version_id]
    assert [await tokens_of(in_place, kind) for kind in kinds] == expected
    with monkeypatch.context() as patch:
        held = Held(patch)
        patch.setattr(adapter_engine.AdapterEngine, "_agree", lambda *_: (_ for _ in ()).throw(IntegrityFailed("Otherwise.")))
        loading = asyncio.create_task(asyncio.to_thread(in_place.load_adapters, [second]))
        assert await asyncio.to_thread(held.reached.wait, 60)
        waiting = [asyncio.create_task(tokens_of(in_place, kind)) for kind in kinds]
        held.go_on.set()
        with pytest.raises(IntegrityFailed):
            await loading
    assert await asyncio.gather(*waiting) == expected
    with pytest.raises(NotFound):
        await tokens_of(in_place, second.version_id)
    assert in_place.load_adapters([second]) == {}


async def test_what_waits_for_a_load_is_told_when_the_replica_closes(
    in_place: OpenVINOGenerator, first: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    loading = asyncio.create_task(asyncio.to_thread(in_place.load_adapters, [first]))
    assert await asyncio.to_thread(held.reached.wait, 60)
    waiting = asyncio.create_task(tokens_of(in_place, None))
    await reach(in_place, 1)
    await asyncio.to_thread(in_place.close)
    with pytest.raises(Unavailable):
        await waiting
    held.go_on.set()
    await loading
    with pytest.raises(Unavailable):
        await tokens_of(in_place, None)


@pytest.mark.parametrize("way", ["zeroed", "other names", "swapped", "half"])
def test_an_adapter_that_loads_and_does_not_do_what_was_trained_is_refused(
    host: OpenVINOGenerator, first: LocalModel, second: LocalModel, tmp_path: Path, way: str
) -> None:
    def change(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if way == "zeroed":
            return {name: torch.zeros_like(value) if "lora_B" in name else value for name, value in weights.items()}
        if way == "other names":
            return {name.replace("layers.", "blocks."): value for name, value in weights.items()}
        if way == "half":
            return {name: value for name, value in weights.items() if "0.mlp.up_proj.lora_A" not in name}
        return {name: value * (-1 if "lora_B" in name else 1) for name, value in weights.items()}

    bad = changed(first, tmp_path, change)
    refused = host.load_adapters([bad, second])
    codes = {"zeroed": "adapter_changes_nothing", "other names": "adapter_matches_no_layer", "half": "invalid_data"}
    assert refused[bad.version_id].error_code == codes.get(way, "trained_weights_differ")
    assert bad.ref in refused[bad.version_id].message
    assert list(refused) == [bad.version_id]
    with pytest.raises(NotFound):
        asyncio.run(anext(host.stream(GenerationInput(prompt="x"), bad.version_id)))


def test_an_adapter_for_something_else_is_refused_with_both_named(
    host: OpenVINOGenerator, first: LocalModel, tmp_path: Path, model: LocalModel
) -> None:
    def refusal(adapter: LocalModel) -> Any:
        return host.load_adapters([adapter])[adapter.version_id]

    record, prompt_format = first.metadata["adapter"], first.metadata["prompt_format"]

    def with_record(**more: Any) -> LocalModel:
        return first.model_copy(update={"metadata": first.metadata | {"adapter": record | more}})

    other = refusal(with_record(base="other@v2", base_digest="sha256:" + "0" * 64))
    assert isinstance(other, InvalidRequest)
    assert other.error_code == "adapter_of_another_base"
    assert "other@v2" in other.message
    assert model.ref in other.message
    metadata = first.metadata | {"prompt_format": prompt_format | {"template": "sha256:" + "1" * 64}}
    spoken = refusal(first.model_copy(update={"metadata": metadata}))
    assert isinstance(spoken, IntegrityFailed)
    assert "the chat template was sha256:111111111111…" in spoken.message
    files = record["files"] | {"adapter_model.safetensors": "sha256:" + "2" * 64}
    assert refusal(with_record(files=files)).error_code == "adapter_changed"
    assert refusal(model).error_code == "not_an_adapter"
    bare = {name: value for name, value in first.metadata.items() if name != "probe"}
    assert refusal(first.model_copy(update={"metadata": bare})).error_code == "adapter_without_probe"
    assert host.load_adapters([first]) == {}


def test_a_kind_that_is_no_sum_of_pairs_is_refused(host: OpenVINOGenerator, first: LocalModel, tmp_path: Path) -> None:
    shutil.copytree(first.path / "adapter", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.chmod(0o644)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dora": True}))
    record = first.metadata["adapter"] | {"files": file_digests(tmp_path / "adapter")}
    dora = first.model_copy(update={"path": tmp_path, "metadata": first.metadata | {"adapter": record}})
    [refused] = host.load_adapters([dora]).values()
    assert isinstance(refused, UnsupportedParameter)
    assert "use_dora" in refused.message


def test_no_more_than_the_graph_can_tell_apart(
    host: OpenVINOGenerator, first: LocalModel, second: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_engine, "MOST_ADAPTERS", 1)
    assert list(host.load_adapters([first, second])) == [second.version_id]
    host.unload_adapters([first.version_id])
    assert host.load_adapters([second]) == {}


def test_an_engine_without_adapters_says_so(model: LocalModel, first: LocalModel) -> None:
    generator = TransformersGenerator(model, ServeOptions(max_batch=2))
    with pytest.raises(UnsupportedParameter, match="holds no adapters"):
        generator.load_adapters([first])
    with pytest.raises(NotFound):
        asyncio.run(anext(generator.stream(GenerationInput(prompt="x"), "mdl_FIRST")))
    generator.close()
