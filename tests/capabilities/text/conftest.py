"""A model trained in a second, shared by the tests of this folder, and ways to ask it."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from modelworks.capabilities.text.schemas import PretrainParams, ServeOptions
from modelworks.capabilities.text.serve import Generator, OpenVINOGenerator, TransformersGenerator
from modelworks.capabilities.text.train import pretrain
from modelworks.contract import LocalModel
from modelworks.contract.generation import GenerationInput, GenerationUsage, TokenLogprob
from modelworks.testing.fake_run import FakeRun, digest_of
from modelworks.testing.tiny_data import sentences

#: Every size is one that int8 can store, and the smallest that trains.
TINY: dict[str, Any] = {
    "preset": "custom",
    "vocab_size": 420,
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 32,
    "intermediate_size": 128,
    "context_length": 128,
    "block_length": 64,
    "batch_size": 4,
    "steps": 40,
    "learning_rate": 6e-3,
    "warmup_steps": 5,
    "checkpoint_every": 15,
    "validate_every": 20,
    "log_every": 5,
    "num_threads": 1,
}


def write_documents(folder: Path) -> Path:
    """Plain text, Markdown with headings and JSON lines, in two languages."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(6):
        (folder / f"story{number}.txt").write_text(" ".join(sentences(40, seed=number)), "utf-8")
    parts = [f"# Chapter {number}\n\n{' '.join(sentences(4, seed=100 + number))}\n" for number in range(30)]
    (folder / "book.md").write_text("\n".join(parts), "utf-8")
    lines = [json.dumps({"text": " ".join(sentences(8, language="zh", seed=number))}) for number in range(20)]
    (folder / "more.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="session", autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Converted models go to a folder of this session; one thread, since tests run side by side."""
    folder = tmp_path_factory.mktemp("engines")
    before = os.environ.get("MODELWORKS_ENGINE_CACHE")
    os.environ["MODELWORKS_ENGINE_CACHE"] = str(folder)
    torch.set_num_threads(1)
    yield folder
    if before is None:
        del os.environ["MODELWORKS_ENGINE_CACHE"]
    else:
        os.environ["MODELWORKS_ENGINE_CACHE"] = before


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, documents: Path) -> FakeRun:
    """A finished, undisturbed training run."""
    run = FakeRun(tmp_path_factory.mktemp("run"), datasets={"train": documents}, seed=7)
    pretrain(run, PretrainParams(**TINY))
    return run


@pytest.fixture(scope="session")
def model(trained: FakeRun) -> LocalModel:
    return trained.saved[0].model()


@pytest.fixture(scope="session")
def openvino(model: LocalModel) -> Iterator[Generator]:
    generator = OpenVINOGenerator(model, ServeOptions(max_batch=8, num_threads=1))
    yield generator
    generator.close()


@pytest.fixture(scope="session")
def transformers(model: LocalModel) -> Iterator[Generator]:
    generator = TransformersGenerator(model, ServeOptions(max_batch=8))
    yield generator
    generator.close()


@pytest.fixture(params=["openvino", "transformers"])
def generator(request: pytest.FixtureRequest) -> Generator:
    """Each engine in turn."""
    found: Generator = request.getfixturevalue(request.param)
    return found


#: As the templates of models that call tools and think, in few tokens.
SPEAKING_TEMPLATE = (
    "{%- for tool in tools or [] -%}{{- tool.function.name + '!' -}}{%- endfor -%}"
    "{%- for message in messages -%}{{- '<|im_start|>' + (message.content or '') -}}"
    "{%- for call in message.tool_calls or [] -%}"
    "{{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' + (call.function.arguments | tojson) -}}"
    "{%- endfor -%}{{- '<|im_end|>' -}}{%- endfor -%}"
    "{{- '<|im_start|>' -}}{%- if think -%}{{- '<think>\\n' -}}{%- else -%}{{- '</think>' -}}{%- endif -%}"
)
#: The tiny model ends an answer early; with these it goes on.
NO_END = {0: -100.0, 2: -100.0}


@pytest.fixture(scope="session")
def speaking_model(model: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """The same weights under a chat template that knows tools and thoughts."""
    folder = tmp_path_factory.mktemp("speaking") / "model"
    shutil.copytree(model.path, folder)
    (folder / "prompt_format.json").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(SPEAKING_TEMPLATE, "utf-8")
    return local(folder)


@pytest.fixture(params=["openvino", "transformers"], scope="session")
def speaking(request: pytest.FixtureRequest, speaking_model: LocalModel) -> Iterator[Generator]:
    """Each engine in turn on the model that calls tools."""
    opened = {"openvino": OpenVINOGenerator, "transformers": TransformersGenerator}[request.param]
    generator = opened(speaking_model, ServeOptions(max_batch=8, num_threads=1))
    yield generator
    generator.close()


@pytest.fixture(scope="session")
def stories() -> LocalModel:
    """A real Llama of 260 thousand weights, from the shared folder beside the repository."""
    shared = Path(os.environ.get("MODELWORKS_SHARED") or Path(__file__).parents[4] / "shared")
    folder = shared / "assets" / "lm" / "stories260K-hf"
    if not folder.is_dir():
        pytest.skip("the shared model stories260K-hf is not on this machine (MODELWORKS_SHARED names its folder)")
    return local(folder)


def local(folder: Path) -> LocalModel:
    """A folder as the kernel hands it to a replica."""
    return LocalModel(ref="test@v1", version_id="mdl_TEST", path=folder, digest=digest_of(folder))


@dataclass
class Reply:
    """One choice of an answer, put together from its chunks."""

    text: str = ""
    reasoning: str = ""
    #: Name and arguments of each call.
    calls: list[list[str]] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass
class Conversation:
    """A whole answer."""

    replies: dict[int, Reply] = field(default_factory=dict)
    usage: GenerationUsage = field(default_factory=GenerationUsage)
    first_usage: GenerationUsage | None = None

    @property
    def only(self) -> Reply:
        (reply,) = self.replies.values()
        return reply


async def ask(generator: Generator, **request: Any) -> Conversation:
    """Read an answer to its end, checking the order that chunks promise."""
    answer = Conversation()
    async for chunk in generator.stream(GenerationInput(**request)):
        if answer.first_usage is None:
            assert chunk.usage is not None
            assert not chunk.text
            assert not chunk.token_ids
            answer.first_usage = chunk.usage
            continue
        reply = answer.replies.setdefault(chunk.index, Reply())
        assert reply.finish_reason is None, "a choice went on after its end"
        reply.text += chunk.text
        reply.reasoning += chunk.reasoning
        for piece in chunk.tool_calls or ():
            if piece.name is not None:
                assert piece.index == len(reply.calls)
                reply.calls.append([piece.name, ""])
            reply.calls[piece.index][1] += piece.arguments
        reply.token_ids += chunk.token_ids
        reply.logprobs += chunk.logprobs or []
        reply.finish_reason = chunk.finish_reason
        if chunk.usage is not None:
            answer.usage = chunk.usage
    assert all(reply.finish_reason for reply in answer.replies.values())
    return answer
