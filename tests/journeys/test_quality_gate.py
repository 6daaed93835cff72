"""Several versions of a model, one alias in service: only what is proven better takes it, and the way back is one step."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.journeys.language_model import PARAMS
from tests.journeys.platform_process import PlatformProcess, wait_until_ready

from modelworks.client import Modelworks
from modelworks.contract.errors import Conflict, NotFound
from modelworks.testing.tiny_data import write_text

NAME = "lab/writer"
SERVED = "writer"
#: v1 is in service, v2 learnt less than it, v3 more.
STEPS = {1: 40, 2: 4, 3: 160}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("quality-gate")]


class Stage:
    """A platform with three versions of a model, held-out data, and a deployment that follows the alias `prod`."""

    def __init__(self, client: Modelworks, url: str, key: str, folder: Path) -> None:
        self.client = client
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)
        client.datasets.add("corpus", write_text(folder / "corpus", documents=12, sentences_each=30))
        client.datasets.add("held-out", write_text(folder / "held-out", documents=20, sentences_each=8, seed=5))
        client.datasets.add("general", write_text(folder / "general", documents=12, sentences_each=8, seed=9))
        for number, steps in STEPS.items():
            run = client.runs.submit(
                verb="train",
                capability="text",
                task="text-generation",
                inputs={"train": "corpus"},
                name=NAME,
                params={**PARAMS, "steps": steps},
            )
            run = client.runs.wait(run["id"], poll_s=0.2)
            assert run["state"] == "succeeded", run
            assert run["outputs"][0]["number"] == number

    def promote(self, number: int, **wish: Any) -> dict[str, Any]:
        return self.client.evaluations.promote(f"{NAME}@v{number}", "prod", test="held-out", **wish)

    def measure(self, number: int, *data: str) -> int:
        """Make the evaluations that are missing; how many these were."""
        made = self.client.evaluations.ensure(
            [f"{NAME}@v{number}"], data, capability="text", task="text-generation", params={"num_threads": 1}
        )
        return len(made)

    def means(self) -> str:
        return str(self.client.models.get(f"{NAME}@prod")["version"]["id"])

    def serves(self, version_id: str) -> None:
        """Wait until the deployment answers with that version and no other."""
        deadline = time.monotonic() + 90
        while True:
            replicas = [each for each in self.client.deployments.get(SERVED)["replicas"] if each["state"] == "ready"]
            if replicas and {each["version_id"] for each in replicas} == {version_id}:
                return
            assert time.monotonic() < deadline, self.client.deployments.get(SERVED)
            time.sleep(0.1)

    def id_of(self, number: int) -> str:
        return str(self.client.models.get(f"{NAME}@v{number}")["version"]["id"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("gate")
    with PlatformProcess(root / "home") as platform, platform.client() as client:
        yield Stage(client, platform.url, platform.key, root)


def test_the_gate_from_the_first_promotion_to_the_roll_back(stage: Stage) -> None:
    assert stage.promote(1)["moved"], "there is nothing to beat yet"

    # Unmeasured, and worse: only forced, and then recorded and taken back.
    with pytest.raises(NotFound, match=f"modelworks evaluate text-generation {NAME}@v2 --data held-out@v1"):
        stage.promote(2)
    assert [stage.measure(number, "held-out") for number in (1, 2, 1)] == [1, 1, 0]
    with pytest.raises(Conflict, match="worse") as refused:
        stage.promote(2)
    assert refused.value.error_code == "gate_refused"
    assert stage.means() == stage.id_of(1)
    stage.promote(2, force=True, reason="to see it fail")
    assert stage.means() == stage.id_of(2)
    stage.client.evaluations.roll_back(NAME, "prod")
    assert stage.means() == stage.id_of(1)
    stage.client.deployments.apply(SERVED, model=f"{NAME}@prod")
    wait_until_ready(stage.client, SERVED)

    # Better.
    stage.measure(3, "held-out", "general")
    stage.measure(1, "general")
    done = stage.promote(3, general="general")
    assert (done["passed"], done["moved"], done["forced"]) == (True, True, False)
    assert stage.means() == stage.id_of(3)
    found = stage.client.evaluations.compare(f"{NAME}@v1", f"{NAME}@v3", "held-out")
    assert (found["metric"], found["verdict"], found["rows"][0]["num_samples"]) == ("loss", "better", 20)
    assert {row["metric"] for row in found["rows"]} == {"loss", "bits_per_byte"}
    measured = stage.client.evaluations.list(model=f"{NAME}@v3", data="held-out").data[0]
    assert measured["metrics"]["loss"] == pytest.approx(found["rows"][0]["candidate"], rel=1e-9)
    stage.serves(stage.id_of(3))
    moves = stage.client.evaluations.moves(NAME, "prod").data
    said = [(move["to_number"], move["reason"]) for move in moves]
    assert said == [(3, None), (1, None), (2, "to see it fail"), (1, None)]

    # Back, in the middle of a load.
    with Load(stage.openai) as load:
        load.until(5)
        stage.client.evaluations.roll_back(NAME, "prod")
        assert stage.means() == stage.id_of(1), "the alias moves at once"
        stage.serves(stage.id_of(1))
        load.until(load.num_answered + 5)
    assert load.failures == []
    assert load.num_answered >= 10


@pytest.mark.thorough
def test_a_measured_model_can_be_removed_with_nothing_made_from_it(stage: Stage) -> None:
    run = stage.client.runs.submit(
        verb="train",
        capability="text",
        task="text-generation",
        inputs={"train": "corpus"},
        name="lab/short",
        params={**PARAMS, "steps": 2},
    )
    assert stage.client.runs.wait(run["id"], poll_s=0.2)["state"] == "succeeded"
    stage.client.evaluations.ensure(["lab/short"], ["general"], capability="text", task="text-generation")
    assert stage.client.models.remove("lab/short", dry_run=True)["blocked_by"] == []


class Load:
    """Three clients that ask without a pause, streaming and not, and note every failure."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(3)]
        self.failures: list[str] = []
        self.num_answered = 0

    def _ask(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                answer = self._client.completions.create(
                    model=SERVED, prompt="The river", max_tokens=12, temperature=0, stream=number == 0
                )
                if number == 0:
                    reasons = [part.choices[0].finish_reason for part in answer if part.choices]  # type: ignore[union-attr]
                    assert reasons[-1] in ("stop", "length")
                else:
                    assert answer.choices[0].finish_reason in ("stop", "length")  # type: ignore[union-attr]
            except Exception as error:
                self.failures.append(repr(error))
                return
            self.num_answered += 1

    def until(self, wanted: int) -> None:
        """Wait until that many answers are there."""
        deadline = time.monotonic() + 60
        while self.num_answered < wanted:
            assert not self.failures, self.failures
            assert time.monotonic() < deadline, "the load is not answered"
            time.sleep(0.02)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=90)
