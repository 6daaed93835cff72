"""The weights that lie in the repository: what they may weigh, what they say about themselves, and that they find something."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import struct
from pathlib import Path

import pytest
from tests.recipe.test_skills import program

from modelworks.contract.run import LocalModel

WEIGHTS = Path(__file__).resolve().parents[2] / "starter" / "weights"
MODELS = sorted(folder for folder in WEIGHTS.iterdir() if folder.is_dir())
#: Together with those that are yet to come.
LARGEST_BYTES = 60 * 1024 * 1024
PASSAGES = (
    "To connect to a wireless network, open the system menu, choose Wi-Fi and select the network that you want.",
    "The function sorts a list in place and returns nothing; the sort is stable.",
    "A printer can be shared with other computers of the same network.",
    "要连接到无线网络，请打开系统菜单，选择无线网络并输入密码。",
    "该函数返回区域中各单元格数值的平均值，忽略文本和空单元格。",
    "可以在同一网络中与其他计算机共享打印机。",
)
QUERIES = {
    "connect to wireless network": 0,
    "sort a list": 1,
    "share a printer": 2,
    "如何连接无线网络？": 3,
    "计算平均值的函数": 4,
    "共享打印机": 5,
}


def test_they_are_few_and_small_enough_to_be_cloned() -> None:
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < LARGEST_BYTES
    assert max(file.stat().st_size for file in files) < 40 * 1024 * 1024


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_each_has_a_card_with_its_licence_its_sources_and_what_was_measured(folder: Path) -> None:
    card = (folder / "README.md").read_text("utf-8")
    assert "\nlicense: cc-by-sa-4.0\n" in card
    for heading in ("## What it read", "## How it was trained", "## Measured"):
        assert heading in card
    manifest = json.loads((folder / "recipe-manifest.json").read_text("utf-8"))
    assert manifest["scale"] == 1
    assert all(f"| {source['name']} |" in card for source in manifest["sources"])
    if (weights := folder / "model.safetensors").is_file():
        data = weights.read_bytes()
        header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
        assert {each["dtype"] for name, each in header.items() if name != "__metadata__"} == {"BF16"}


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="modelworks[embedding] is not installed")
def test_the_encoder_finds_what_was_meant_in_both_languages() -> None:
    from modelworks.capabilities.embedding.schemas import ServeOptions
    from modelworks.capabilities.embedding.serve import TransformersEmbedder
    from modelworks.contract.retrieval import EmbeddingInput

    folder = WEIGHTS / "starter-embed"
    model = LocalModel(ref="starter-embed@v1", version_id="mdl_1", path=folder, digest="sha256:" + "0" * 64)
    embedder = TransformersEmbedder(model, ServeOptions(num_threads=1, precision="f32"))
    try:
        found = embedder.predict(EmbeddingInput(texts=[*QUERIES, *PASSAGES])).embeddings
    finally:
        embedder.close()
    queries, passages = found[: len(QUERIES)], found[len(QUERIES) :]
    best = [
        max(range(len(passages)), key=lambda index: sum(a * b for a, b in zip(query, passages[index], strict=True)))
        for query in queries
    ]
    assert best == list(QUERIES.values())


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="modelworks[text] is not installed")
async def test_the_language_model_fills_forms_that_it_never_saw() -> None:
    from modelworks.capabilities.text.schemas import ServeOptions
    from modelworks.capabilities.text.serve import TransformersGenerator
    from modelworks.contract.generation import GenerationInput, Message

    folder = WEIGHTS / "starter-lm"
    model = LocalModel(ref="starter-lm@v1", version_id="mdl_1", path=folder, digest="sha256:" + "0" * 64)
    engine = TransformersGenerator(model, ServeOptions(num_threads=1))
    fields: list[bool] = []
    whole = 0
    for _, record in program().forms(None, random.Random(4242), 12):
        asked, wanted = record["messages"]
        request = GenerationInput(messages=[Message(**asked)], temperature=0.0, max_tokens=64)
        said = json.loads("".join([chunk.text async for chunk in engine.stream(request)]))
        expected = json.loads(wanted["content"])
        whole += said == expected
        fields += [said.get(name) == value for name, value in expected.items() if name in ("count", "order")]
    await asyncio.to_thread(engine.close)
    # Numbers it copies; names and things it mixes up: of 200 forms that were held out 85 are right as a whole.
    assert whole >= 2
    assert sum(fields) >= 0.8 * len(fields)
