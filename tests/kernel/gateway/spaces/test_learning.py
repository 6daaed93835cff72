"""A space makes a model of its own: samples, an adapter, measurements, the gate, a deployment; and refusals and crashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from tests.kernel.gateway.spaces.mill import ANN, MILL, PROJECT, Mill, Result, make_mill

from modelworks.capabilities.document.samples.schemas import SampleRequest
from modelworks.contract.capability import Capability, Task
from modelworks.contract.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from modelworks.contract.media import File
from modelworks.kernel.access import AccessService
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.access.store import ProjectRow
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import discovery
from modelworks.kernel.catalog.schemas import Version
from modelworks.kernel.dataspace.learning import Learnings
from modelworks.kernel.dataspace.schemas import Learning, LearningSettings, SpaceSettings, SpaceUpdate
from modelworks.kernel.gateway.spaces.learning import SpaceLearning
from modelworks.kernel.jobs.deployments import RunDeployments
from modelworks.kernel.serving.schemas import DeploymentSpec
from modelworks.kernel.serving.store import AdapterRow, DeploymentRow


class Lesson(BaseModel):
    model_config = ConfigDict(extra="allow")


#: Declares what the pipeline looks for; nothing here is ever run.
SCHOOL = Capability(
    name="school",
    summary="learns",
    package="tests.kernel.gateway",
    tasks=(
        Task(name="sample-making", input=SampleRequest, output=Result, mode="job", predictor="tests.kernel.gateway:nothing"),
        Task(
            name="text-generation",
            mode="stream",
            input=Lesson,
            output=Result,
            predictor="tests.kernel.gateway:Nothing",
            trainer="tests.kernel.gateway:nothing",
            train_params=Lesson,
            train_inputs=("train",),
            evaluator="tests.kernel.gateway:nothing",
            evaluate_params=Lesson,
            metrics=("loss",),
            lower_is_better=("loss",),
        ),
    ),
)


class School:
    """A space with passages, whose language model `base` is deployed; workers and replicas are played by hand."""

    def __init__(self, mill: Mill) -> None:
        self.mill = mill
        mill.jobs.connect(
            RunDeployments(AccessService(mill.db, mill.clock, Events()), mill.serving, mill.clock, url="", remote_url="")
        )
        self.base = self._registered("base", b"base")
        with mill.db.transaction() as session:
            session.add(ProjectRow(id=PROJECT, name="mill", created_at=mill.clock.now()))
            mill.serving.apply(session, PROJECT, DeploymentSpec(name="base", model="base", task="text-generation"))
        self._seen("base", self.base.id)
        self.set()
        for number in range(3):
            mill.put(f"{number}.md")
        mill.build()

    @property
    def learning(self) -> SpaceLearning:
        return self.mill.steps.learning

    @property
    def learnings(self) -> Learnings:
        return self.mill.spaces.learnings

    def set(self, model: str | None = "base", **learning: Any) -> None:
        settings = SpaceSettings(language_model=model, learning=LearningSettings(**learning))
        with self.mill.db.transaction() as session:
            self.mill.spaces.update(session, PROJECT, "manual", SpaceUpdate(settings=settings))

    def learn(self) -> Learning:
        with self.mill.db.transaction() as session:
            found = self.learning.request(session, ANN, "manual")
        assert isinstance(found, Learning)
        return found

    def latest(self) -> Learning:
        with self.mill.db.reading() as session:
            return self.learnings.list(session, PROJECT, "manual").data[0]

    def tick(self) -> Learning:
        self.learning.tick()
        return self.latest()

    def answers_with(self) -> str | None:
        return self.mill.space().settings.language_model

    # -- workers ---------------------------------------------------------------------------------------------------------

    def sample(self, number: int = 8) -> None:
        run = self.latest().runs["samples"]
        saves = [self._saved("dataset", f"{run}{part}", part) for part in (None, "test")]
        self.mill.play(run, *self._used(run), *saves, ("finished", {"result": {"num_documents": 3, "num_samples": number}}))

    def train(self) -> None:
        run = self.latest().runs["training"]
        record = {"base": self.base.ref, "base_digest": self.base.digest}
        saved = self._saved("model", run, task="text-generation", adapter=record)
        self.mill.play(run, *self._used(run), saved, ("finished", {"result": None}))

    def measure(self, **losses: float) -> None:
        """Let every measurement end; `before=3.0` is the loss of the base on the test data, `after_general` the other's."""
        for name, run in self.latest().runs.items():
            if not name.startswith("measuring"):
                continue
            _, who, role = name.split()
            loss = losses[who if role == "test" else f"{who}_{role}"]
            values = [{"sample": str(at), "values": {"loss": [loss + 0.01 * at, 1.0]}} for at in range(8)]
            blob = self.mill.blobs.put("\n".join(map(json.dumps, values)).encode())
            file = File(path="samples.jsonl", digest=blob.digest, num_bytes=blob.num_bytes).model_dump()
            saved = ("saved", {"kind": "report", "files": [file], "metadata": {}})
            self.mill.play(run, *self._used(run), saved, ("finished", {"result": {"metrics": {"loss": loss}}}))

    def deploy(self, state: str = "ready", error: str | None = None) -> None:
        """Let the reconciler see the adapter answer, or fail."""
        with self.mill.db.transaction() as session:
            row = session.scalars(select(AdapterRow)).one()
            live = self.mill.catalog.resolve(session, PROJECT, row.model_ref)
            row.observed_state, row.last_error = state, error
            row.version_id = live.id if state == "ready" else row.version_id

    def once(self, before: float = 3.0, after: float = 2.0, **more: float) -> Learning:
        """One learning from its first step to its end."""
        self.learn()
        self.sample()
        self.tick()
        self.train()
        self.tick()
        self.measure(before=before, after=after, **more)
        if self.tick().step == "deploying":
            self.deploy()
        return self.tick()

    def _used(self, run_id: str) -> list[tuple[str, dict[str, Any]]]:
        return [
            ("used", {"role": role, "kind": given.kind, "version_id": given.version_id})
            for role, given in self.mill.run(run_id).inputs.items()
            if given.kind != "deployment"
        ]

    def _saved(self, kind: str, content: str, part: str | None = None, **metadata: Any) -> tuple[str, dict[str, Any]]:
        blob = self.mill.blobs.put(json.dumps({"content": content}).encode())
        file = File(path=f"{kind}.json", digest=blob.digest, num_bytes=blob.num_bytes).model_dump()
        if part is not None:
            metadata["part"] = part
        return "saved", {"kind": kind, "files": [file], "metadata": metadata}

    def _registered(self, name: str, content: bytes) -> Version:
        blob = self.mill.blobs.put(content)
        with self.mill.db.transaction() as session:
            return self.mill.catalog.register(
                session,
                PROJECT,
                kind="model",
                name=name,
                files=[File(path="model.json", digest=blob.digest, num_bytes=blob.num_bytes)],
                task="text-generation",
                metadata={"context_length": 1024},
                verified=True,
            )

    def _seen(self, name: str, version_id: str) -> None:
        with self.mill.db.transaction() as session:
            row = session.scalars(select(DeploymentRow).where(DeploymentRow.name == name)).one()
            row.version_id, row.observed_state, row.holds_adapters = version_id, "ready", True


@pytest.fixture
def school(
    settings: Settings, database: Database, clock: FixedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> School:
    monkeypatch.setattr(discovery, "capabilities", lambda: {"mill": MILL, "school": SCHOOL})
    return School(make_mill(settings, database, clock, tmp_path))


def test_from_passages_to_an_adapter_that_answers(school: School) -> None:
    first = school.learn()
    assert (first.state, first.step, first.base) == ("running", "samples", "base")
    made = school.mill.run(first.runs["samples"])
    assert made.inputs["passages"].version_id == school.mill.space().passages_version_id
    assert made.inputs["teacher"].ref == "base"
    assert made.params["form"]["not_found"] == "NOT IN THE DOCUMENTS"
    assert made.params["max_prompt_chars"] < 1024, "what is shown fits into the context"
    school.sample()
    second = school.tick()
    trained = school.mill.run(second.runs["training"])
    assert (trained.inputs["base"].version_id, trained.params["method"]) == (school.base.id, "lora")
    assert trained.inputs["train"].version_id == second.samples_version_id != second.test_version_id
    assert trained.params["steps"] == 6, "three passes over eight samples, within the budget"
    school.train()
    third = school.tick()
    measured = {name for name in third.runs if name.startswith("measuring")}
    assert measured == {"measuring before test", "measuring after test"}
    assert third.progress == {"done": 0, "total": 2, "what": "measurements"}
    school.measure(before=3.0, after=2.0)
    fourth = school.tick()
    assert (fourth.step, school.answers_with()) == ("deploying", "base")
    (result,) = fourth.results
    assert (result.metric, result.verdict, result.data) == ("loss", "better", "test")
    assert result.after - result.before == pytest.approx(-1.0)
    assert "better" in fourth.judgement[0]
    assert school.tick().state == "running", "it is still loading"
    school.deploy()
    done = school.tick()
    assert (done.state, done.step, school.answers_with()) == ("succeeded", "done", done.model)
    with school.mill.db.reading() as session:
        (adapter,) = school.mill.serving.adapters.list(session, PROJECT)
        story = [event.message for event in school.mill.spaces.events(session, PROJECT, "manual").data]
    assert (adapter.name, adapter.deployment) == (done.model, "base")
    assert story[-1].startswith("The space answers with a model of its own")
    assert not school.learning.tick(), "nothing is left to do"


def test_the_gate_refuses_what_is_not_better_and_everything_stays(school: School) -> None:
    refused = school.once(before=2.0, after=2.5)
    assert (refused.state, school.answers_with()) == ("refused", "base")
    assert "worse" in refused.judgement[0]
    with school.mill.db.reading() as session:
        assert school.mill.serving.adapters.list(session, PROJECT) == []


def test_what_it_gains_at_home_must_not_be_lost_elsewhere(school: School) -> None:
    general = school.mill.versions("documents")[0].id
    school.set(general="nowhere")
    with pytest.raises(NotFound, match="nowhere"):
        school.learn()
    school.set(general=general)
    refused = school.once(before=3.0, after=2.0, before_general=1.0, after_general=1.5)
    assert (refused.state, {result.data for result in refused.results}) == ("refused", {"test", "general"})
    kept = school.once(before=3.0, after=2.0, before_general=1.0, after_general=1.0)
    assert kept.state == "succeeded"


def test_the_next_one_has_to_beat_the_last_one_and_can_be_rolled_back(school: School) -> None:
    first = school.once(before=3.0, after=2.0)
    assert school.once(before=3.0, after=2.5, live=2.0).state == "refused", "better than the base, not than the adapter"
    second = school.once(before=3.0, after=1.0, live=2.0)
    assert (second.state, second.base) == ("succeeded", "base")
    with school.mill.db.transaction() as session:
        school.learning.roll_back(session, PROJECT, "manual")
    with school.mill.db.reading() as session:
        live = school.mill.catalog.resolve(session, PROJECT, f"{first.model}@live")
    assert (live.id, school.answers_with()) == (first.adapter_version_id, first.model)
    with school.mill.db.transaction() as session:
        assert school.learning.roll_back(session, PROJECT, "manual").settings.language_model == "base"
        assert school.mill.serving.adapters.list(session, PROJECT) == []
        with pytest.raises(Conflict, match="does not answer with a model of its own"):
            school.learning.roll_back(session, PROJECT, "manual")


def test_a_crash_between_any_two_steps_loses_nothing(school: School) -> None:
    school.learn()
    measure = lambda: school.measure(before=3.0, after=2.0)  # noqa: E731 - one of a row of steps
    for play in (school.sample, school.tick, school.train, school.tick, measure, school.tick, school.deploy, school.tick):
        play()
        school.mill.restart()
    assert school.latest().state == "succeeded"
    with school.mill.db.reading() as session:
        runs = school.mill.jobs.list(session, PROJECT, limit=100).data
    assert sorted(run.verb for run in runs) == ["batch", "batch", "evaluate", "evaluate", "train", "train"]


def test_a_run_that_fails_or_is_cancelled_ends_it_with_the_reason(school: School) -> None:
    first = school.learn()
    wire = {"class": "InvalidData", "code": "too_few_samples", "message": "Too little."}
    school.mill.play(first.runs["samples"], ("failed", {"error": wire, "retry": False}))
    failed = school.tick()
    assert failed.error is not None
    assert (failed.state, failed.error["message"], failed.error["run_id"]) == ("failed", "Too little.", first.runs["samples"])
    second = school.learn()
    with school.mill.db.transaction() as session:
        school.mill.jobs.cancel(session, PROJECT, second.runs["samples"])
    assert school.tick().state == "cancelled"


def test_an_adapter_that_does_not_start_leaves_the_base_answering(school: School) -> None:
    school.learn()
    school.sample()
    school.tick()
    school.train()
    school.tick()
    school.measure(before=3.0, after=2.0)
    school.tick()
    school.deploy("failed", "It is damaged.")
    failed = school.tick()
    assert failed.error is not None
    assert (failed.state, failed.error["message"]) == ("failed", "The model does not start: It is damaged.")
    assert school.answers_with() == "base"
    assert school.mill.db is not None
    with school.mill.db.reading() as session:
        assert school.mill.serving.adapters.list(session, PROJECT) == []


def test_a_change_is_learned_by_itself_when_its_time_has_come(school: School) -> None:
    school.set(automatic=True, every_h=24)
    first = school.tick()
    assert (first.is_automatic, first.state) == (True, "running")
    wire = {"class": "InvalidData", "code": "invalid_data", "message": "It broke."}
    school.mill.play(first.runs["samples"], ("failed", {"error": wire, "retry": False}))
    assert school.tick().id == first.id, "the same passages are not tried again"
    school.mill.put("new.md")
    school.mill.build()
    assert school.tick().id == first.id, "it is too soon"
    school.mill.clock.advance(25 * 3600)
    second = school.tick()
    assert second.id != first.id
    assert second.passages_version_id != first.passages_version_id


def test_what_not_everybody_may_read_is_not_learned(school: School) -> None:
    secret = school.mill.documents()["1.md"]
    with school.mill.db.transaction() as session:
        school.mill.spaces.documents.update(session, PROJECT, "manual", secret.id, access=["key_ann"])
    assert school.mill.run(school.learn().runs["samples"]).params["without"] == [secret.id]


def test_who_may_learn_and_what_it_takes(school: School) -> None:
    writer = Principal(key_id="key_bob", project_id=PROJECT, scopes=frozenset({"write"}))
    with school.mill.db.transaction() as session:
        with pytest.raises(PermissionDenied):
            school.learning.request(session, writer, "manual")
        seen = school.learning.request(session, ANN, "manual", dry_run=True)
        assert (seen.object, seen.base_version_id) == ("space.learning.preview", school.base.id)
    school.learn()
    with pytest.raises(Conflict, match="learning already"):
        school.learn()
    school.set(model=None)
    with pytest.raises(InvalidRequest, match="no language model"):
        school.learn()
    school.set(model="elsewhere")
    with pytest.raises(InvalidRequest, match="cannot learn"):
        school.learn()


def test_a_space_that_is_deleted_takes_its_model_along(school: School) -> None:
    done = school.once()
    with school.mill.db.reading() as session:
        learned = school.mill.catalog.get_version(session, PROJECT, str(done.samples_version_id))
    kept = school.mill.catalog.materialise(learned, school.mill.cache)
    with school.mill.db.transaction() as session:
        school.mill.spaces.delete(session, PROJECT, "manual")
    school.mill.steps.tick()
    with school.mill.db.reading() as session:
        assert school.mill.serving.adapters.list(session, PROJECT) == []
        for version_id in (done.adapter_version_id, done.samples_version_id, done.test_version_id):
            assert school.mill.catalog.get_version(session, PROJECT, str(version_id)).state == "removed"
        assert school.learnings.open(session) == []
    assert not kept.exists(), "nor does anything lie in a cache"
