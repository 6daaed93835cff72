"""Moderation by a real engine: the form is held while it is written, and the scores are the model's own probabilities."""

from __future__ import annotations

import json
import math
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.capabilities.text.conftest import TINY
from tests.kernel.gateway.conftest import Stage, stage  # noqa: F401 - a fixture
from tests.kernel.gateway.rooms import serve

from modelworks.capabilities.text.capability import capability
from modelworks.capabilities.text.schemas import PretrainParams, ServeOptions
from modelworks.capabilities.text.serve import OpenVINOGenerator
from modelworks.capabilities.text.train import pretrain
from modelworks.kernel.gateway.moderation.judging import CATEGORIES, question
from modelworks.kernel.serving.worker import Replica
from modelworks.testing.fake_run import FakeRun


@pytest.fixture
async def moderator(stage: Stage, tmp_path: Path) -> AsyncIterator[Stage]:  # noqa: F811
    """A model that has read nothing but judgements, deployed under the name that clients ask by themselves."""
    chance = random.Random(3)
    judged = [json.dumps({name: chance.random() < 0.4 for name in CATEGORIES}) for _ in range(120)]
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "judged.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in judged), "utf-8")
    run = FakeRun(tmp_path / "run", datasets={"train": tmp_path / "text"}, seed=7)
    pretrain(run, PretrainParams(**{**TINY, "context_length": 4096}))
    model = run.saved[0].model()
    options = ServeOptions(max_batch=4, num_threads=1)
    replica = Replica(capability.tasks[0], lambda: OpenVINOGenerator(model, options), "replica-token")
    replica.load()
    async with AsyncExitStack() as exits:
        stage.deploy("omni-moderation-latest", urls=[await serve(replica, exits)])
        yield stage
    replica.close()


async def test_a_real_model_judges_two_texts(moderator: Stage) -> None:
    answer = await moderator.client.moderations.create(input=["The river is calm.", "雨来了！" * 9])
    assert len(answer.results) == 2
    first, second = (result.category_scores.model_dump(by_alias=True) for result in answer.results)
    assert {*first} == {*second} == {*CATEGORIES}
    assert first != second
    for result in answer.results:
        flags = result.categories.model_dump(by_alias=True)
        scores = result.category_scores.model_dump(by_alias=True)
        assert all(0.0 < score < 1.0 for score in scores.values())
        assert flags == {name: score >= 0.5 for name, score in scores.items()}
        assert result.flagged == any(flags.values())
    # Asked for its answer as a chat, it says which is likelier at the place of the value, and how much.
    chat = await moderator.client.chat.completions.create(**question("omni-moderation-latest", "The river is calm."))
    content = chat.choices[0].message.content
    said = json.loads(content)
    assert {name: score >= 0.5 for name, score in first.items()} == said
    assert chat.choices[0].logprobs is not None
    text = ""
    for entry in chat.choices[0].logprobs.content or []:
        if '"harassment"' in text + entry.token and ("true" in text + entry.token or "false" in text + entry.token):
            break
        text += entry.token
    other = entry.token.replace("true", "false") if "true" in entry.token else entry.token.replace("false", "true")
    tops = {top.token: top.logprob for top in entry.top_logprobs}
    ratio = math.exp(tops[other] - entry.logprob)
    mine = 1 / (1 + ratio)
    assert first["harassment"] == pytest.approx(mine if said["harassment"] else 1 - mine, abs=0.02)
