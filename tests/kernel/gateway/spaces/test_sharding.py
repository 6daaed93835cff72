"""A model in shards, a model that goes on from the one that answers, and what readers said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.gateway.spaces.mill import ANN, MILL, PROJECT, make_mill
from tests.kernel.gateway.spaces.test_forgetting import Kitchen, kitchen  # noqa: F401 - a fixture
from tests.kernel.gateway.spaces.test_learning import SCHOOL, School

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.contract.media import File
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import discovery
from modelworks.kernel.dataspace import SpaceDocument
from modelworks.kernel.dataspace.feedback import Told
from modelworks.kernel.dataspace.publications import PublicationCreate
from modelworks.kernel.dataspace.schemas import Learning, LearningPreview
from modelworks.kernel.dataspace.store import SpaceLearningRow
from modelworks.kernel.gateway.spaces import sharding
from modelworks.kernel.gateway.spaces.tracing import Tracing


@pytest.fixture
def school(
    settings: Settings, database: Database, clock: FixedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> School:
    monkeypatch.setattr(discovery, "capabilities", lambda: {"mill": MILL, "school": SCHOOL})
    return School(make_mill(settings, database, clock, tmp_path))


def by_id(school: School) -> list[SpaceDocument]:
    return sorted(school.mill.documents().values(), key=lambda each: each.id)


def sample(
    school: School, shards: Sequence[Mapping[str, str]], fresh: Sequence[Mapping[str, str]] = (), held: str = "held"
) -> None:
    """Let the samples be made: what each document's file says, by shard."""
    run = school.latest().runs["samples"]
    whole = {name: text for shard in shards for name, text in shard.items()}
    parts: dict[str | None, Mapping[str, str]] = {None: whole, "test": {"other": held}}
    if len(shards) > 1:
        parts |= {f"shard-{number}": shard for number, shard in enumerate(shards, 1)}
    parts |= {"new" if len(shards) == 1 else f"shard-{number}-new": each for number, each in enumerate(fresh, 1)}
    if len(shards) > 1 and any(fresh):
        parts["new"] = {name: text for each in fresh for name, text in each.items()}
    saves = []
    for part, files in parts.items():
        found = []
        for name, text in files.items():
            blob = school.mill.blobs.put((json.dumps({"origin": {"document_id": name}, "text": text}) + "\n").encode())
            found.append(File(path=f"{name}.jsonl", digest=blob.digest, num_bytes=blob.num_bytes).model_dump())
        if found:
            saves.append(("saved", {"kind": "dataset", "files": found, "metadata": {} if part is None else {"part": part}}))
    result = {"num_samples": 8 * len(whole), "fresh": [8 * len(each) for each in fresh]}
    result["shards"] = [8 * len(shard) for shard in shards] if len(shards) > 1 else []
    school.mill.play(run, *school._used(run), *saves, ("finished", {"result": result}))


def train(school: School) -> list[str]:
    """Let every training end that was asked for; their names."""
    names = [name for name in school.latest().runs if name.startswith("training")]
    for name in names:
        run = school.latest().runs[name]
        school.mill.play(run, *school._used(run), school._saved("model", run), ("finished", {"result": None}))
    return names


def combine(school: School) -> None:
    run = school.latest().runs["combining"]
    record = {"base": school.base.ref, "base_digest": school.base.digest}
    saved = school._saved("model", run, task="text-generation", adapter=record)
    school.mill.play(run, *school._used(run), saved, ("finished", {"result": None}))


def learned(school: School, shards: Sequence[Mapping[str, str]], **losses: float) -> Learning:
    """One learning in several shards, to its end."""
    school.learn()
    sample(school, shards)
    assert school.tick().step == "training"
    train(school)
    assert school.tick().step == "combining"
    combine(school)
    school.tick()
    school.measure(**{"before": 3.0, "after": 2.0, **losses})
    if school.tick().step == "deploying":
        school.deploy()
    return school.tick()


def test_shards_are_trained_apart_and_answer_as_one(school: School) -> None:
    school.set(shards=2, max_steps=10)
    one, two, three = (each.id for each in by_id(school))
    begun = school.learn()
    asked = school.mill.run(begun.runs["samples"]).params
    assert (asked["shards"], asked["fresh"]) == (2, False)
    sample(school, [{one: "1", two: "2"}, {three: "3"}])
    trained = school.tick()
    assert [(each.number, each.way, each.num_samples) for each in trained.shards] == [(1, "anew", 16), (2, "anew", 8)]
    assert trained.progress == {"done": 0, "total": 2, "what": "trainings"}
    for shard, most in zip(trained.shards, (5, 5), strict=True):
        run = school.mill.run(trained.runs[f"training {shard.number}"])
        assert run.inputs["train"].version_id == shard.samples_version_id
        assert run.inputs["base"].version_id == school.base.id
        assert (run.params["merged"], run.params["steps"]) == (False, most), "the budget is divided"
    train(school)
    together = school.tick()
    adapters = [each.adapter_version_id for each in together.shards]
    run = school.mill.run(together.runs["combining"])
    assert [run.inputs[role].version_id for role in ("base", "adapter_1", "adapter_2")] == [school.base.id, *adapters]
    assert (run.params, run.output_name) == ({"method": "combine"}, together.model)
    school.mill.restart()
    combine(school)
    measured = school.tick()
    assert {name for name in measured.runs if name.startswith("measuring")} == {"measuring before test", "measuring after test"}
    school.measure(before=3.0, after=2.0)
    school.tick()
    school.deploy()
    done = school.tick()
    assert (done.state, school.answers_with()) == ("succeeded", done.model)
    with school.mill.db.reading() as session:
        graph = school.mill.catalog.lineage(session, PROJECT, str(done.adapter_version_id), "up", 4)
        tracing = Tracing(school.mill.spaces, school.mill.catalog, school.mill.serving, school.mill.blobs)
        impact = tracing.impact(session, ANN, "manual", three)
    made_of = {node.id for node in graph.nodes}
    assert {*adapters, *(each.samples_version_id for each in done.shards)} <= made_of
    assert [each.number for each in impact.models[0].shards] == [2]
    with school.mill.db.transaction() as session:
        school.mill.spaces.delete(session, PROJECT, "manual")
    school.mill.steps.tick()
    with school.mill.db.reading() as session:
        for each in done.shards:
            for version_id in (each.adapter_version_id, each.samples_version_id):
                assert school.mill.catalog.get_version(session, PROJECT, str(version_id)).state == "removed"


def test_forgetting_trains_one_shard_anew_and_keeps_the_others(kitchen: Kitchen) -> None:  # noqa: F811
    school = School(kitchen.mill)
    school.set(shards=2, automatic=True, every_h=8760)
    one, two, three = by_id(school)
    first = learned(school, [{one.id: "1", two.id: "2"}, {three.id: "3"}])
    assert first.state == "succeeded"
    begun = kitchen.tick(kitchen.forget(one))
    tainted = school.latest()
    assert (tainted.tainted_by, [each.tainted_by for each in tainted.shards]) == ([one.id], [[one.id], []])
    assert school.answers_with() == "base", "what is served as one is withdrawn as one"
    kitchen.mill.build()
    done = kitchen.tick(begun)
    assert done.report is not None, done.error
    told = done.report["models"][0]["shards"]
    assert [(each["number"], each["knows_it"]) for each in told] == [(1, True), (2, False)]
    assert done.report["removed"]["num_samples"] == 1, "what stands in a shard's set is not counted twice"
    assert one.id not in str([[file.path for file in each.files] for each in kitchen.mill.versions("samples-shard-1")])
    anew = school.latest()
    assert (anew.state, anew.id != first.id) == ("running", True)
    sample(school, [{two.id: "2"}, {three.id: "3"}])
    again = school.tick()
    assert [each.way for each in again.shards] == ["anew", "kept"]
    kept = again.shards[1]
    assert kept.adapter_version_id == first.shards[1].adapter_version_id
    assert train(school) == ["training 1"]
    school.tick()
    combine(school)
    run = kitchen.mill.run(school.latest().runs["combining"])
    assert run.inputs["adapter_2"].version_id == kept.adapter_version_id
    assert run.inputs["adapter_1"].version_id not in (None, first.shards[0].adapter_version_id)


def test_what_knows_a_forgotten_document_is_not_kept_and_what_went_on_from_it_knows_it_too(school: School) -> None:
    school.set(shards=2)
    one, two, three = (each.id for each in by_id(school))
    first = learned(school, [{one: "1", two: "2"}, {three: "3"}])
    school.learn()
    sample(school, [{one: "1", two: "2*"}, {three: "3"}], [{two: "2*"}, {}])
    second = school.tick()
    assert [each.way for each in second.shards] == ["continued", "kept"]
    with school.mill.db.transaction() as session:
        held = {first.shards[0].samples_version_id: first.shards[0].samples_version_id}
        hit = school.mill.spaces.forgettings.taint(session, first.space_id, held, one)
        assert [each.id for each in hit] == [first.id], "the second one has no adapter yet"
    assert [each.tainted_by for each in school.latest().shards] == [[one], []]
    with school.mill.db.reading() as session:
        row = session.get_one(SpaceLearningRow, second.id)
        found = [sharding._same(session, school.mill.catalog, row, shard.key) for shard in first.shards]
    assert found == [None, first.shards[1].adapter_version_id]


@pytest.mark.parametrize(
    ("after", "news", "state", "why"),
    [
        (2.0, 1.0, "succeeded", "not worse"),
        (2.015, 1.0, "succeeded", "not worse"),
        (2.2, 1.0, "refused", "perhaps worse"),
        (2.0, 1.6, "refused", "worse|undecided"),
    ],
)
def test_a_small_change_goes_on_from_what_answers(school: School, after: float, news: float, state: str, why: str) -> None:
    one, two, three = (each.id for each in by_id(school))
    school.learn()
    sample(school, [{one: "1", two: "2"}])
    school.tick()
    school.train()
    school.tick()
    school.measure(before=3.0, after=2.0)
    school.tick()
    school.deploy()
    first = school.tick()
    assert (first.state, first.shards[0].way) == ("succeeded", "anew")
    begun = school.learn()
    asked = school.mill.run(begun.runs["samples"])
    assert asked.params["fresh"] is True
    assert {"previous", "previous_test"} <= set(asked.inputs)
    sample(school, [{one: "1", two: "2", three: "3"}], [{three: "3"}])
    (shard,) = school.tick().shards
    run = school.mill.run(school.latest().runs["training"])
    assert (shard.way, shard.from_version_id) == ("continued", first.adapter_version_id)
    assert run.inputs["adapter"].version_id == first.adapter_version_id
    assert run.inputs["train"].version_id == shard.new_version_id
    assert run.inputs["replay"].version_id == shard.samples_version_id
    assert run.params["steps"] == 12, "three passes over eight new samples and as many known ones"
    school.train()
    measured = {name.removeprefix("measuring ") for name in school.tick().runs if name.startswith("measuring")}
    assert measured == {"before test", "after test", "live test", "after news", "live news"}
    school.measure(before=3.0, after=after, live=2.0, after_news=news, live_news=1.5)
    if school.tick().step == "deploying":
        school.deploy()
    done = school.tick()
    assert done.state == state, done.judgement
    if state == "succeeded":
        assert why in done.judgement[0]
        assert done.adapter_version_id != first.adapter_version_id
    else:
        assert any(word in done.judgement[0] for word in why.split("|")), done.judgement


def test_it_begins_from_the_base_where_something_has_gone(school: School) -> None:
    one, two, three = (each.id for each in by_id(school))
    school.once()
    school.learn()
    sample(school, [{one: "1", two: "2"}], [{two: "2"}])
    assert [each.way for each in school.tick().shards] == ["anew"], "the first samples were of documents that are not there"
    assert set(school.mill.run(school.latest().runs["training"]).inputs) == {"base", "train"}
    train(school)
    school.tick()
    school.set(go_on=False, model=school.answers_with())
    assert "news" not in str(school.latest().runs)
    assert three


def test_the_number_of_shards_grows_with_the_space_and_stays(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    def number() -> int:
        with school.mill.db.transaction() as session:
            found = school.learning.request(session, ANN, "manual", dry_run=True)
        assert isinstance(found, LearningPreview)
        return found.num_shards

    assert number() == 1, "a small space has one"
    monkeypatch.setattr(sharding, "_DOCUMENTS", 1)
    assert number() == 2, "a power of two that fits three documents"
    one, two, three = (each.id for each in by_id(school))
    learned(school, [{one: "1", two: "2"}, {three: "3"}])
    monkeypatch.setattr(sharding, "_DOCUMENTS", 2)
    assert number() == 2, "it stays until there are half as many"
    monkeypatch.setattr(sharding, "_DOCUMENTS", 500)
    school.set(shards=5, model=school.answers_with())
    assert number() == 5


def test_a_run_that_fails_ends_the_others(school: School) -> None:
    school.set(shards=2)
    one, two, _ = (each.id for each in by_id(school))
    school.learn()
    sample(school, [{one: "1"}, {two: "2"}])
    running = school.tick()
    wire = {"class": "InvalidData", "code": "bad", "message": "It broke."}
    school.mill.play(running.runs["training 1"], ("failed", {"error": wire, "retry": False}))
    assert school.tick().state == "failed"
    assert school.mill.run(running.runs["training 2"]).state == "cancelled"


# -- what readers said -------------------------------------------------------------------------------------------------------


def say(school: School, document: SpaceDocument, rating: Any, correction: str | None = None, number: int = 0) -> str:
    spaces = school.mill.spaces
    with school.mill.db.transaction() as session:
        asked = PublicationCreate(share=True, name=f"p{number}")
        made, _ = spaces.publications.create(session, ANN, "manual", asked)
        published = spaces.publications.live(session, made.id)
        told = Told(
            answer_id=f"chatcmpl_{number}",
            question="How many herbs?",
            answer="Eight [1].",
            status="answered",
            documents=[document.id],
            origin="https://shop.example",
        )
        return spaces.feedback.put(session, published, told, rating, correction).id


def said_to(school: School, begun: Learning) -> list[dict[str, Any]]:
    """The lines that the making of samples is given."""
    given = school.mill.run(begun.runs["samples"]).inputs["corrections"]
    with school.mill.db.reading() as session:
        (file,) = school.mill.catalog.get_version(session, PROJECT, str(given.version_id)).files
    return [json.loads(line) for line in b"".join(school.mill.blobs.iter(file.digest)).splitlines()]


def test_a_correction_is_learned_once_a_person_accepts_it_and_goes_with_its_document(kitchen: Kitchen) -> None:  # noqa: F811
    school = School(kitchen.mill)
    document = by_id(school)[0]
    feedback = school.mill.spaces.feedback
    right = say(school, document, "down", "Nine herbs.", 1)
    wrong = say(school, document, "down", None, 2)
    say(school, document, "up", None, 3)
    with school.mill.db.transaction() as session:
        seen = school.learning.request(session, ANN, "manual", dry_run=True)
        assert isinstance(seen, LearningPreview)
        assert (seen.num_corrections, seen.num_unaccepted, seen.num_rejected) == (0, 1, 1)
        with pytest.raises(InvalidRequest, match="not how it should be"):
            feedback.accept(session, PROJECT, "manual", wrong)
        with pytest.raises(NotFound):
            feedback.accept(session, PROJECT, "manual", "fdbk_nowhere")
        assert feedback.accept(session, PROJECT, "manual", right).accepted
    begun = school.learn()
    lines = said_to(school, begun)
    assert [(line["correction"], line["origin"]["documents"]) for line in lines] == [
        ("Nine herbs.", [document.id]),
        (None, [document.id]),
    ]
    forgetting = kitchen.tick(kitchen.forget(document))
    kitchen.mill.build()
    assert kitchen.tick(forgetting).state == "succeeded"
    assert b"Nine herbs" not in kitchen.contents(), "a reader's words about it go with it"
    with school.mill.db.transaction() as session:
        assert feedback.list(session, PROJECT, "manual").data == []


def test_a_correction_that_is_taken_back_is_only_an_answer_that_was_wrong(school: School) -> None:
    document = by_id(school)[0]
    right = say(school, document, "down", "Nine herbs.", 1)
    with school.mill.db.transaction() as session:
        school.mill.spaces.feedback.accept(session, PROJECT, "manual", right)
        assert not school.mill.spaces.feedback.accept(session, PROJECT, "manual", right, undo=True).accepted
    assert [line["correction"] for line in said_to(school, school.learn())] == [None]
