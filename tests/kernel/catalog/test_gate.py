"""Evaluations in the catalog, comparisons of them, and the gate that they open or shut."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pydantic import BaseModel
from tests.kernel.catalog.samples import ALICE, BOB

from modelworks.contract.capability import Task
from modelworks.contract.errors import Conflict, InvalidData, InvalidRequest, NotFound
from modelworks.contract.media import File
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog import CatalogService, discovery
from modelworks.kernel.catalog.schemas import Comparison, Evaluation, GateTerms, Promotion, PromotionCreate, Version
from modelworks.kernel.storage import BlobStore


class Nothing(BaseModel):
    """Neither input nor output matters here."""


TASK = Task(
    name="tell-apart",
    input=Nothing,
    output=Nothing,
    predictor="none:none",
    evaluator="none:none",
    metrics=("loss", "perplexity"),
    optional_metrics=("accuracy",),
    lower_is_better=("loss", "perplexity"),
)


class Lab:
    """A catalog with the data sets `test` and `general`, and models that were measured as a test says."""

    def __init__(self, catalog: CatalogService, database: Database, blobs: BlobStore) -> None:
        self.catalog = catalog
        self.database = database
        self.blobs = blobs
        self.add("test", kind="dataset")
        self.add("general", kind="dataset")

    def add(self, name: str, *, kind: str = "model", parents: Sequence[str] = ()) -> Version:
        """A version with content of its own."""
        info = self.blobs.put(json.dumps(new_id("art")).encode())
        file = File(path="content.json", digest=info.digest, num_bytes=info.num_bytes)
        with self.database.transaction() as session:
            return self.catalog.register(
                session, ALICE, kind=kind, name=name, task=TASK.name, files=[file], parents=parents, verified=True
            )

    def measure(self, model: Version, data: str, losses: Sequence[float], **known: Any) -> Evaluation:
        """An evaluation with one sample per loss."""
        lines = [
            {"sample": f"a.txt:{place}", "values": {"loss": [loss, 10.0], "accuracy": [float(loss < 2), 1.0]}}
            for place, loss in enumerate(losses)
        ]
        return self.record(model, data, "\n".join(json.dumps(line) for line in lines), **known)

    def record(
        self,
        model: Version,
        data: str,
        report: str | None,
        *,
        params: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Evaluation:
        with self.database.transaction() as session:
            return self.catalog.evaluations.record(
                session,
                ALICE,
                run_id=run_id or new_id("run"),
                capability=None,
                task=TASK.name,
                version_id=model.id,
                dataset_version_id=self.catalog.resolve(session, ALICE, data, "dataset").id,
                params=params or {},
                metrics=metrics or {"loss": 1.0, "perplexity": 2.0},
                report_digest=None if report is None else self.blobs.put(report.encode()).digest,
            )

    def compare(self, baseline: str, candidate: str, *, metric: str | None = None, data: str = "test") -> Comparison:
        with self.database.reading() as session:
            return self.catalog.evaluations.compare(session, ALICE, baseline, candidate, data, metric)

    def judge(self, ref: str, **wish: Any) -> Promotion:
        with self.database.reading() as session:
            return self.catalog.gate.judge(session, ALICE, self.wish(ref, **wish))

    def promote(self, ref: str, **wish: Any) -> Promotion:
        return self.catalog.gate.promote(ALICE, self.wish(ref, **wish), moved_by="key_test")

    def wish(self, ref: str, **wish: Any) -> PromotionCreate:
        return PromotionCreate.model_validate({"ref": ref, "alias": "prod", "test": "test", **wish})

    def prod(self) -> int:
        with self.database.reading() as session:
            return self.catalog.resolve(session, ALICE, "chat@prod").number

    def reasons(self) -> list[str | None]:
        with self.database.reading() as session:
            return [move.reason for move in self.catalog.alias_history(session, ALICE, "chat", "prod")]


OLD = [2.0 + 0.1 * (place % 7) for place in range(40)]
NEW = [value - 0.05 - 0.01 * (place % 3) for place, value in enumerate(OLD)]
NOISE = [value + (0.1 if place % 2 else -0.1) for place, value in enumerate(OLD)]


@pytest.fixture
def lab(catalog: CatalogService, database: Database, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(discovery, "find_task", lambda capability, task: (None, TASK))
    return Lab(catalog, database, blobs)


@pytest.fixture
def in_service(lab: Lab) -> Version:
    """`chat@v1`, measured, and what `prod` means."""
    version = lab.add("chat")
    lab.measure(version, "test", OLD)
    lab.measure(version, "general", OLD)
    assert lab.promote("chat@v1").moved, "nothing to beat yet"
    return version


def test_an_evaluation_keeps_the_digests_of_what_was_measured_once(lab: Lab) -> None:
    model = lab.add("chat")
    made = lab.measure(model, "test", OLD, run_id="run_1")
    assert lab.measure(model, "test", NEW, run_id="run_1") == made, "a run that is taken in twice is recorded once"
    with lab.database.reading() as session:
        data = lab.catalog.resolve(session, ALICE, "test", "dataset")
        page = lab.catalog.evaluations.list(session, ALICE, model="chat", data="test")
        assert lab.catalog.evaluations.list(session, BOB).data == []
        assert lab.catalog.evaluations.list(session, ALICE, data="general").data == []
    assert page.data == [made]
    assert (made.model_digest, made.dataset_digest) == (model.digest, data.digest)


def test_the_newest_evaluations_that_measured_the_metric_are_compared(lab: Lab) -> None:
    """A later one that looked at something else, with other parameters, hides nothing."""
    for name, values in (("old", OLD), ("new", NEW)):
        version = lab.add(name)
        lab.measure(version, "test", values)
        lines = [{"sample": f"a.txt:{place}", "values": {"accuracy": [place % 2, 1.0]}} for place in range(8)]
        report = "\n".join(json.dumps(line) for line in lines)
        lab.record(version, "test", report, params={"grader": "strict"}, metrics={"accuracy": 0.5})
    assert lab.compare("old", "new").metric == "accuracy", "the newest"
    assert lab.compare("old", "new", metric="loss").verdict == "better"
    assert lab.compare("old", "new", metric="accuracy").rows[0].num_samples == 8
    with pytest.raises(InvalidRequest, match="f1"):
        lab.compare("old", "new", metric="f1")


def test_pages_of_evaluations_go_on_where_the_last_one_ended(lab: Lab) -> None:
    model = lab.add("chat")
    ids = {lab.measure(model, "test", OLD).id for _ in range(5)}
    seen: list[str] = []
    with lab.database.reading() as session:
        page = lab.catalog.evaluations.list(session, ALICE, limit=2)
        while True:
            seen += [each.id for each in page.data]
            if not page.has_more:
                break
            page = lab.catalog.evaluations.list(session, ALICE, limit=2, after=page.last_id)
    assert len(seen) == 5
    assert set(seen) == ids


def test_a_comparison_names_values_interval_and_verdict_of_each_metric(lab: Lab) -> None:
    lab.measure(lab.add("chat"), "test", OLD)
    lab.measure(lab.add("chat"), "test", NEW)
    found = lab.compare("chat@v1", "chat@v2")
    assert (found.metric, found.verdict) == ("loss", "better")
    loss, accuracy = found.rows
    assert (loss.metric, loss.num_samples, loss.lower_is_better) == ("loss", 40, True)
    assert loss.baseline == pytest.approx(sum(OLD) / 40)
    assert loss.candidate == pytest.approx(sum(NEW) / 40)
    assert loss.low < loss.difference < loss.high < 0
    assert (accuracy.metric, accuracy.lower_is_better, accuracy.verdict) == ("accuracy", False, "better")
    assert lab.compare("chat@v2", "chat@v1").verdict == "worse"
    assert lab.compare("chat@v1", "chat@v1").verdict == "undecided"
    assert lab.compare("chat@v1", "chat@v2", metric="accuracy").rows[0].metric == "accuracy"
    with pytest.raises(InvalidRequest, match="perplexity") as refused:
        lab.compare("chat@v1", "chat@v2", metric="perplexity")
    assert "loss, accuracy" in str(refused.value.hint)


def test_only_evaluations_of_the_same_way_are_compared(lab: Lab) -> None:
    first, second = lab.add("chat"), lab.add("chat")
    old = lab.measure(first, "test", OLD, params={"window": 8})
    lab.measure(first, "test", OLD, params={"window": 9})
    lab.measure(second, "test", NEW, params={"window": 7})
    with pytest.raises(NotFound, match="different parameters"):
        lab.compare("chat@v1", "chat@v2")
    lab.measure(second, "test", NEW, params={"window": 8})
    assert lab.compare("chat@v1", "chat@v2").baseline_evaluation == old.id


def test_a_missing_evaluation_is_named_with_the_command_that_makes_it(lab: Lab) -> None:
    lab.measure(lab.add("chat"), "test", OLD)
    lab.record(lab.add("chat"), "test", None)
    with pytest.raises(NotFound, match="chat@v2 was not measured") as refused:
        lab.compare("chat@v1", "chat@v2")
    assert refused.value.error_code == "evaluation_missing"
    assert "modelworks evaluate tell-apart chat@v2 --data test@v1" in str(refused.value.hint)
    assert "chat@v1 --data" not in str(refused.value.hint)


@pytest.mark.parametrize("report", ["{", '{"sample": "a"}', '{"sample": "a", "values": {"loss": [1, "x"]}}'])
def test_a_damaged_report_is_no_measure(lab: Lab, report: str) -> None:
    lab.measure(lab.add("chat"), "test", OLD)
    lab.record(lab.add("chat"), "test", report)
    with pytest.raises(InvalidData) as refused:
        lab.compare("chat@v1", "chat@v2")
    assert refused.value.error_code == "report_unusable"


def test_other_or_too_few_samples_are_no_ground_for_a_verdict(lab: Lab) -> None:
    for losses in (OLD, OLD[:-1], OLD[:4], OLD[:4]):
        lab.measure(lab.add("chat"), "test", losses)
    with pytest.raises(InvalidData, match="same samples"):
        lab.compare("chat@v1", "chat@v2")
    with pytest.raises(InvalidData, match="4 samples"):
        lab.compare("chat@v3", "chat@v4")


def test_a_metric_of_too_few_samples_hides_none_of_the_others(lab: Lab) -> None:
    """Few answers are written in full beside many likelihoods."""
    for losses in (OLD, NEW):
        lines = [
            {"sample": f"a.txt:{place}", "values": {"loss": [loss, 10.0], **({"accuracy": [1.0, 1.0]} if place < 4 else {})}}
            for place, loss in enumerate(losses)
        ]
        lab.record(lab.add("chat"), "test", "\n".join(map(json.dumps, lines)))
    found = lab.compare("chat@v1", "chat@v2")
    assert ([row.metric for row in found.rows], found.verdict) == (["loss"], "better")
    with pytest.raises(InvalidData, match="'accuracy' was measured on 4 samples"):
        lab.compare("chat@v1", "chat@v2", metric="accuracy")


def test_a_better_version_takes_the_alias(lab: Lab, in_service: Version) -> None:
    lab.measure(lab.add("chat"), "test", NEW)
    plan = lab.judge("chat@v2")
    assert (plan.passed, plan.moved, plan.baseline) == (True, False, "chat@v1")
    assert lab.prod() == 1
    done = lab.promote("chat@v2")
    assert (done.moved, done.forced) == (True, False)
    assert lab.prod() == 2
    assert lab.promote("chat@v2").moved is False, "it is there already"
    assert lab.reasons() == [None, None]


@pytest.mark.parametrize(("losses", "verdict"), [([value + 0.05 for value in OLD], "worse"), (NOISE, "undecided")])
def test_a_version_that_is_not_proven_better_is_refused(
    lab: Lab, in_service: Version, losses: list[float], verdict: str
) -> None:
    lab.measure(lab.add("chat"), "test", losses)
    with pytest.raises(Conflict, match=verdict) as refused:
        lab.promote("chat@v2", reason="without force")
    assert refused.value.error_code == "gate_refused"
    assert "loss on test@v1 goes from" in refused.value.message
    assert lab.prod() == 1


def test_a_forced_move_is_recorded_with_its_reason(lab: Lab, in_service: Version) -> None:
    lab.add("chat")
    with pytest.raises(InvalidRequest, match="reason"):
        lab.promote("chat@v2", force=True, reason="  ")
    done = lab.promote("chat@v2", force=True, reason="the customer waits")
    assert (done.passed, done.forced, done.moved) == (False, True, True)
    assert lab.prod() == 2
    assert lab.reasons() == ["the customer waits", None]
    with lab.database.transaction() as session:
        lab.catalog.roll_back_alias(session, ALICE, "chat", "prod")
    assert lab.prod() == 1
    assert lab.reasons()[0] is None


@pytest.mark.parametrize(("factor", "allowed", "passes"), [(1.02, 0.01, False), (1.02, 0.03, True), (0.9, 0.0, True)])
def test_what_got_worse_elsewhere_is_refused_beyond_the_threshold(
    lab: Lab, in_service: Version, factor: float, allowed: float, passes: bool
) -> None:
    version = lab.add("chat")
    lab.measure(version, "test", NEW)
    lab.measure(version, "general", [factor * value for value in OLD])
    if passes:
        assert lab.promote("chat@v2", general="general", max_regression=allowed).moved
    else:
        with pytest.raises(Conflict, match="worse by 2 %, 1 % are allowed"):
            lab.promote("chat@v2", general="general", max_regression=allowed)


@pytest.mark.parametrize(
    ("test", "news", "margin", "passed"),
    [
        (NOISE, NEW, 0.05, [True, True]),
        # As good on the whole, but it may be worse by more than that.
        (NOISE, NEW, 0.005, [False, True]),
        (NEW, NEW, 0.0, [True, True]),
        (NEW, NOISE, 0.05, [True, False]),
    ],
)
def test_what_goes_on_need_not_be_better_than_it_was_but_for_what_is_new(
    lab: Lab, in_service: Version, test: list[float], news: list[float], margin: float, passed: list[bool]
) -> None:
    version = lab.add("chat")
    lab.measure(version, "test", test)
    lab.measure(version, "general", news)
    found = lab.judge("chat@v2", news="general", margin=margin)
    assert [(check.role, check.passed) for check in found.checks] == [*zip(("test", "news"), passed, strict=True)]
    assert found.checks[0].comparison is not None
    assert ("not worse" in found.checks[0].sentence) is passed[0]
    # Without a margin of its own it is the gate's.
    assert lab.judge("chat@v2", news="general", max_regression=margin).checks[0].passed is passed[0]


def test_without_the_evaluations_nothing_is_promoted(lab: Lab, in_service: Version) -> None:
    lab.measure(lab.add("chat"), "test", NEW)
    with pytest.raises(NotFound, match="modelworks evaluate tell-apart chat@v2 --data general@v1") as refused:
        lab.promote("chat@v2", general="general")
    assert refused.value.error_code == "evaluation_missing"
    plan = lab.judge("chat@v2", general="general")
    assert [(check.role, check.passed) for check in plan.checks] == [("test", True), ("general", False)]


def test_a_new_name_must_beat_the_model_that_it_was_made_from(lab: Lab, in_service: Version) -> None:
    child = lab.add("tuned", parents=[in_service.id])
    lab.measure(child, "test", NOISE)
    assert lab.judge("tuned").baseline == "chat@v1"
    with pytest.raises(Conflict, match="tuned@v1 does not become 'prod'"):
        lab.promote("tuned")
    better = lab.add("tuned", parents=[in_service.id])
    lab.measure(better, "test", NEW)
    assert lab.promote("tuned@v2").moved


def test_a_move_in_between_is_not_overwritten(lab: Lab, in_service: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        lab.measure(lab.add("chat"), "test", NEW)
    judge = lab.catalog.gate.judge

    def meanwhile(*arguments: Any) -> Promotion:
        found = judge(*arguments)
        with lab.database.transaction() as session:
            lab.catalog.set_alias(session, ALICE, "chat@v3", "prod")
        return found

    monkeypatch.setattr(lab.catalog.gate, "judge", meanwhile)
    with pytest.raises(Conflict) as refused:
        lab.promote("chat@v2")
    assert refused.value.error_code == "alias_moved"
    assert lab.prod() == 3


def keep(lab: Lab, **terms: Any) -> None:
    with lab.database.transaction() as session:
        lab.catalog.gate.set_terms(session, ALICE, GateTerms(**terms), set_by="key_1")


def test_the_projects_terms_hold_where_a_promotion_does_not_say(lab: Lab, in_service: Version) -> None:
    better = lab.add("chat")
    lab.measure(better, "test", NEW)
    lab.measure(better, "general", [value * 1.02 for value in OLD])
    with pytest.raises(InvalidRequest) as refused:
        lab.judge("chat@v2", test=None)
    assert refused.value.error_code == "no_test_data"
    keep(lab, test="test", general="general", max_regression=0.05)
    found = lab.judge("chat@v2", test=None)
    assert found.passed
    assert [check.role for check in found.checks] == ["test", "general"]
    assert not lab.judge("chat@v2", test=None, max_regression=0.01).passed, "what a promotion says goes before"
    keep(lab, test="test", min_gain=0.5)
    found = lab.judge("chat@v2", test=None)
    assert not found.passed
    assert "50 % are asked for" in found.checks[0].sentence
    assert lab.judge("chat@v2", test=None, min_gain=0.01).passed
    with lab.database.reading() as session:
        kept = lab.catalog.gate.terms(session, ALICE)
        assert (kept.test, kept.general, kept.min_gain, kept.set_by) == ("test", None, 0.5, "key_1")
        assert lab.catalog.gate.terms(session, BOB).test is None, "another project has its own"


def test_confidence_widens_the_interval(lab: Lab, in_service: Version) -> None:
    better = lab.add("chat")
    lab.measure(better, "test", NEW)
    usual, sure = (lab.judge("chat@v2", confidence=value).checks[0] for value in (None, 0.999))
    assert usual.comparison is not None
    assert sure.comparison is not None
    assert sure.comparison.rows[0].low < usual.comparison.rows[0].low < usual.comparison.rows[0].high
    assert "99.9 % interval" in sure.sentence
    assert "95 % interval" in usual.sentence


def test_terms_name_data_that_are_there_and_can_be_tried(lab: Lab) -> None:
    with pytest.raises(NotFound):
        keep(lab, test="nothing")
    heard: list[Any] = []
    lab.catalog._events.subscribe("gate.changed", lambda _topic, payload: heard.append(payload))
    with lab.database.transaction() as session:
        assert lab.catalog.gate.set_terms(session, ALICE, GateTerms(test="test"), dry_run=True).test == "test"
        assert lab.catalog.gate.terms(session, ALICE).test is None
    assert heard == []
    keep(lab, test="test")
    assert heard == [{"project_id": ALICE, "set_by": "key_1", "terms": {"test": "test"}}]
