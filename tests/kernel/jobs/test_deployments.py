"""Runs that ask a deployment: their key, their patience, and what is recorded of it; with real workers and a real server."""

from __future__ import annotations

import base64
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import Request
from sqlalchemy import select
from starlette.responses import JSONResponse
from tests.kernel.jobs.http_server import Server
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.contract.errors import Cancelled, InvalidRequest, ModelworksError, NotFound, PermissionDenied, Unavailable
from modelworks.kernel.access import AccessService
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.access.store import KeyRow, ProjectRow
from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.base.events import Events
from modelworks.kernel.jobs import JobSpec, RunDeployments
from modelworks.kernel.jobs.asking import AskedDeployment


@dataclass(frozen=True)
class _Deployed:
    name: str
    task: str
    version_id: str | None


@dataclass
class Stage:
    """Rooms whose runs may ask `oracle`, which a server answers in the form of the API."""

    rooms: Rooms
    access: AccessService
    server: Server
    version_id: str
    #: What to refuse next, and who asked.
    refusals: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    asked: list[tuple[Principal, dict[str, Any]]] = field(default_factory=list)
    #: What is answered instead of vectors, where it is set.
    vectors: list[Any] | None = None

    def get(self, _session: Any, _project_id: str, name: str) -> _Deployed:
        tasks = {"oracle": "text-generation", "eye": "image-classification", "encoder": "feature-extraction"}
        if name not in tasks:
            raise NotFound(f"There is no deployment {name!r}.", code="deployment_not_found")
        return _Deployed(name, tasks[name], self.version_id)

    def label(self, **known: Any) -> Any:
        inputs = {"data": "corpus", "teacher": "deployment:oracle"}
        return self.rooms.submit("label", **{"inputs": inputs, "output_name": "told"} | known)

    def keys(self) -> list[KeyRow]:
        with self.rooms.db.reading() as session:
            return list(session.scalars(select(KeyRow).order_by(KeyRow.id)))


@pytest.fixture
def stage(rooms: Rooms) -> Iterator[Stage]:
    access = AccessService(rooms.db, SystemClock(), Events())
    with rooms.db.transaction() as session:
        session.add(ProjectRow(id=PROJECT, name="test", created_at=datetime.now(UTC)))
    folder = rooms.settings.home / "made" / "teacher"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with rooms.db.transaction() as session:
        teacher = rooms.catalog.register_folder(session, PROJECT, kind="model", name="big", path=folder, licence="mit")
    server = Server(rooms)
    made = Stage(rooms, access, server, teacher.id)

    def refusal(request: Request, body: dict[str, Any]) -> Any:
        principal = access.authenticate(request.headers["authorization"].partition(" ")[2])
        principal.require("inference")
        principal.require_model(body["model"])
        made.asked.append((principal, body))
        if made.refusals:
            status, error = made.refusals.pop(0)
            return JSONResponse({"error": error}, status)
        return None

    @server.app.post("/v1/embeddings")
    def embed(request: Request, body: dict[str, Any]) -> Any:
        if (refused := refusal(request, body)) is not None:
            return refused
        vectors = made.vectors
        if vectors is None:
            vectors = [base64.b64encode(struct.pack("<2f", len(text), 0.5)).decode() for text in body["input"]]
        rows = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        # The order of the list is not the order of the texts.
        return {"data": rows[::-1], "system_fingerprint": teacher.id}

    @server.app.post("/v1/chat/completions")
    def answer(request: Request, body: dict[str, Any]) -> Any:
        if (refused := refusal(request, body)) is not None:
            return refused
        said = {"role": "assistant", "content": body["messages"][-1]["content"].upper()}
        return {
            "choices": [{"index": 0, "message": said, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            "system_fingerprint": teacher.id,
        }

    rooms.jobs.connect(RunDeployments(access, made, SystemClock(), url=server.url, remote_url=server.url))
    yield made
    server.stop()


def test_a_run_asks_with_a_key_of_its_own_that_ends_with_it(stage: Stage) -> None:
    stage.rooms.dataset(text="one two")
    stage.refusals.append((503, {"message": "It is loading.", "code": "unavailable"}))
    run = stage.label()
    done = stage.rooms.finish(run.id)
    assert done.state == "succeeded", stage.rooms.log(run.id)
    assert [body["messages"][-1]["content"] for _, body in stage.asked] == ["one", "one", "two"]
    assert done.result == {"words": 2}
    (key,) = stage.keys()
    assert (key.name, key.scopes, key.model_allow) == (run.id, ["inference"], ["oracle"])
    assert key.revoked_at is not None
    assert {principal.key_id for principal, _ in stage.asked} == {key.id}


def test_the_version_that_answered_is_in_the_lineage_and_its_licence_is_inherited(stage: Stage) -> None:
    source = stage.rooms.dataset(text="one")
    done = stage.rooms.finish(stage.label().id)
    (made,) = done.outputs
    with stage.rooms.db.reading() as session:
        edges = stage.rooms.catalog.lineage(session, PROJECT, made.version_id, "up").edges
        licences = stage.rooms.catalog.restrictions(session, PROJECT, "told", "dataset")
    found = {(edge.subject_id, edge.relation, edge.object_id, edge.role) for edge in edges}
    assert {(done.id, "used", source, "data"), (done.id, "used", stage.version_id, "teacher")} <= found
    assert "mit" in [each.licence for each in licences.licences]


def test_what_a_deployment_refuses_fails_the_run_with_its_words(stage: Stage) -> None:
    stage.rooms.dataset(text="one")
    stage.refusals.append((400, {"message": "Too long. Shorten it.", "hint": "Shorten it.", "code": "context_length_exceeded"}))
    done = stage.rooms.finish(stage.label().id)
    assert done.state == "failed"
    assert done.error is not None
    assert (done.error["class"], done.error["message"], done.error["hint"]) == (
        "ContextLengthExceeded",
        "Too long.",
        "Shorten it.",
    )


def test_an_attempt_after_a_crash_gets_a_new_key_and_the_old_one_is_refused(stage: Stage) -> None:
    stage.rooms.dataset(text="one two three")
    run = stage.label(params={"die_after": 1})
    done = stage.rooms.finish(run.id)
    assert (done.state, done.attempt) == ("succeeded", 2), stage.rooms.log(run.id)
    first, second = stage.keys()
    assert first.id != second.id
    assert None not in (first.revoked_at, second.revoked_at)
    # What was answered before the crash is not asked again.
    assert [body["messages"][-1]["content"] for _, body in stage.asked] == ["one", "two", "three"]


def test_a_server_that_restarts_meanwhile_is_waited_for(stage: Stage) -> None:
    stage.rooms.dataset(text="one two")
    stage.server.stop()
    run = stage.label()
    stage.rooms.until(run.id, lambda _: "used" in stage.rooms.event_types(run.id))
    time.sleep(0.5)  # the first question has found nobody by now
    stage.server.start()
    done = stage.rooms.finish(run.id)
    assert (done.state, done.attempt) == ("succeeded", 1), stage.rooms.log(run.id)


def test_the_secret_reaches_the_worker_and_nobody_else(stage: Stage) -> None:
    stage.rooms.dataset(text="one")
    run = stage.label()
    record = stage.rooms.finish(run.id).model_dump_json()
    with stage.rooms.db.reading() as session:
        told = [event.model_dump_json() for event in stage.rooms.jobs.events(session, PROJECT, run.id)]
    assert "mw-" not in record + "".join(told) + stage.rooms.log(run.id)
    assert not list(stage.rooms.settings.home.glob("runs/*/*/spec.json"))


@pytest.mark.parametrize(
    ("inputs", "param"),
    [
        ({"data": "corpus"}, "inputs.teacher"),
        ({"data": "corpus", "teacher": "model:big"}, "inputs.teacher"),
        ({"data": "corpus", "teacher": "deployment:eye"}, "inputs.teacher"),
        ({"teacher": "deployment:oracle"}, "inputs.data"),
        ({"data": "corpus", "teacher": "oven:oracle"}, "inputs.teacher"),
    ],
)
def test_a_wrong_wish_is_refused_at_once(stage: Stage, inputs: dict[str, str], param: str) -> None:
    stage.rooms.dataset()
    with pytest.raises(InvalidRequest) as refused:
        stage.label(inputs=inputs)
    assert refused.value.param == param


def test_a_deployment_that_is_not_there_is_named(stage: Stage) -> None:
    stage.rooms.dataset()
    with pytest.raises(NotFound, match="'omen'"):
        stage.label(inputs={"data": "corpus", "teacher": "deployment:omen"})


@pytest.mark.parametrize(("scopes", "allow"), [({"write"}, None), ({"write", "inference"}, ("other",))])
def test_who_may_not_ask_a_model_cannot_have_a_run_ask_it(
    stage: Stage, scopes: set[str], allow: tuple[str, ...] | None
) -> None:
    spec = JobSpec(verb="label", inputs={"data": "corpus", "teacher": "deployment:oracle"})
    caller = Principal(key_id="key_x", project_id=PROJECT, scopes=frozenset(scopes), model_allow=allow)
    with pytest.raises(PermissionDenied):
        stage.rooms.jobs.check_rights(spec, caller)
    stage.rooms.jobs.check_rights(spec, Principal(key_id="key_x", project_id=PROJECT, scopes=frozenset({"write", "inference"})))


def asked(stage: Stage, secret: str, **known: Any) -> AskedDeployment:
    return AskedDeployment("oracle", stage.server.url, secret, *known.pop("calls", (lambda: None, lambda _: None)), **known)


def secret_of(stage: Stage) -> str:
    with stage.rooms.db.transaction() as session:
        return RunDeployments(stage.access, stage, SystemClock(), url="", remote_url="").open(
            session, PROJECT, "run_x", ["oracle"]
        )


@pytest.mark.parametrize(("url", "loads"), [("http://127.0.0.1:1", False), ("https://127.0.0.1:1", True)])
def test_certificates_are_read_where_there_is_tls(monkeypatch: pytest.MonkeyPatch, url: str, loads: bool) -> None:
    read: list[object] = []
    make = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda *given, **known: read.append(given) or make(*given, **known))
    AskedDeployment("oracle", url, "mw-secret", lambda: None, lambda _: None)
    assert bool(read) is loads


def test_patience_ends_with_the_last_reason_and_lets_the_run_be_tried_again(stage: Stage) -> None:
    stage.refusals += [(503, {"message": "No replica is up.", "code": "unavailable"})] * 9
    with pytest.raises(Unavailable, match="No replica is up"):
        asked(stage, secret_of(stage), patience_s=0.1).complete([{"role": "user", "content": "x"}])


def test_a_key_that_is_over_lets_the_run_be_tried_again(stage: Stage) -> None:
    secret = secret_of(stage)
    with stage.rooms.db.transaction() as session:
        stage.access.revoke_keys_named(session, PROJECT, "run_x")
    with pytest.raises(Unavailable, match="not accepted any more"):
        asked(stage, secret).complete([{"role": "user", "content": "x"}])


def test_a_cancelled_run_does_not_go_on_waiting(stage: Stage) -> None:
    stage.refusals += [(503, {"message": "No replica is up.", "code": "unavailable"})] * 9
    looks = iter([None, None, Cancelled("stop")])

    def check() -> None:
        if (error := next(looks)) is not None:
            raise error

    with pytest.raises(Cancelled):
        asked(stage, secret_of(stage), calls=(check, lambda _: None)).complete([{"role": "user", "content": "x"}])


def test_an_answer_that_is_none_is_an_upstream_failure(stage: Stage) -> None:
    stage.refusals.append((200, {}))
    with pytest.raises(ModelworksError) as failed:
        asked(stage, secret_of(stage)).complete([{"role": "user", "content": "x"}])
    assert failed.value.error_code == "bad_upstream_answer"


def test_an_encoder_gives_vectors_and_says_which_version_made_them(stage: Stage) -> None:
    stage.refusals.append((503, {"message": "It is loading.", "code": "unavailable"}))
    versions: list[str] = []
    oracle = asked(stage, secret_of(stage), calls=(lambda: None, versions.append))
    found = oracle.embed(["one", "three"])
    assert found.vectors == [[3.0, 0.5], [5.0, 0.5]]
    assert found.version_id == stage.version_id
    stage.vectors = [[1, 2.5]]
    assert oracle.embed(["x"], kind="query").vectors == [[1.0, 2.5]]
    assert versions == [stage.version_id]
    body = stage.asked[0][1]
    assert (body["input"], body["input_type"], body["truncate"], body["encoding_format"]) == (
        ["one", "three"],
        "document",
        True,
        "base64",
    )
    assert stage.asked[-1][1]["input_type"] == "query"
    assert oracle.embed([]).vectors == []
    assert len(stage.asked) == 3


@pytest.mark.parametrize("vectors", [[[1.0]], [[1.0], [1.0, 2.0]], ["!!", "!!"], [None, None]])
def test_vectors_that_are_none_are_an_upstream_failure(stage: Stage, vectors: list[Any]) -> None:
    stage.vectors = vectors
    with pytest.raises(ModelworksError, match="no vectors") as failed:
        asked(stage, secret_of(stage)).embed(["a", "b"])
    assert failed.value.error_code == "bad_upstream_answer"


def test_a_server_elsewhere_is_asked_in_openais_fields(stage: Stage) -> None:
    oracle = asked(stage, secret_of(stage))
    stage.refusals.append((400, {"message": "Unknown parameter: 'input_type'.", "code": "unknown_parameter"}))
    for _ in range(2):
        assert oracle.embed(["one"]).vectors == [[3.0, 0.5]]
    plain = {"model", "input", "encoding_format"}
    assert [set(body) - plain for _, body in stage.asked] == [{"input_type", "truncate"}, set(), set()]
    stage.refusals += [(400, {"message": "Too long.", "code": "context_length_exceeded"})] * 2
    with pytest.raises(InvalidRequest, match="Too long"):
        asked(stage, secret_of(stage)).embed(["one"])


def test_an_encoder_may_be_an_input(stage: Stage) -> None:
    with stage.rooms.db.reading() as session:
        found = RunDeployments(stage.access, stage, SystemClock(), url="", remote_url="").find(
            session, PROJECT, "encoder", "encoder"
        )
    assert found.task == "feature-extraction"
