"""A document is forgotten: probed, removed, unlearned, its index built anew, its blobs deleted, and that is proved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.kernel.gateway.spaces.mill import ANN, MILL, PROJECT, Mill, make_mill
from tests.kernel.gateway.spaces.test_learning import SCHOOL, School

from modelworks.cli.forgetting import signature_problem
from modelworks.contract.errors import NotFound
from modelworks.contract.media import File
from modelworks.contract.passages import DOCUMENTS_FILE, TABLE_ROWS, Hit, ParsedDocument, Passage, SearchOutput
from modelworks.kernel.access import AuditLog
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import discovery
from modelworks.kernel.dataspace import SpaceDocument
from modelworks.kernel.dataspace.answers import AnswerNote, CitedPassage, ComputedNote, ComputedTable
from modelworks.kernel.dataspace.documents import FORGOTTEN
from modelworks.kernel.dataspace.feedback import Told
from modelworks.kernel.dataspace.proofs import Forgetting
from modelworks.kernel.dataspace.publications import PublicationCreate
from modelworks.kernel.dataspace.schemas import Learning
from modelworks.kernel.dataspace.store import DocumentRow, SourceRow
from modelworks.kernel.gateway import ConversationService, ResponseService
from modelworks.kernel.gateway.responses.calls import head
from modelworks.kernel.gateway.responses.wire import ResponseCreate
from modelworks.kernel.gateway.spaces import probing
from modelworks.kernel.gateway.spaces.forgetting import SpaceForgetting
from modelworks.kernel.gateway.spaces.tracing import Tracing
from modelworks.kernel.gateway.store import IdempotencyRow, ResponseRow
from modelworks.kernel.storage import ReportSigner, referenced_by
from modelworks.proof import check_chain, check_form

SECRET = "The recipe of the house needs nine herbs and a pinch of saffron."
SHARED = "Every page of this folder is for the kitchen alone."


@dataclass
class Kitchen:
    """A space whose parser gives one passage a document, and an index that finds words of them."""

    mill: Mill
    home: Path
    signer: ReportSigner
    held: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    @property
    def forgetting(self) -> SpaceForgetting:
        """What a server that was just restarted has."""
        mill = self.mill
        return SpaceForgetting(
            mill.spaces,
            mill.jobs,
            mill.catalog,
            mill.blobs,
            mill.steps.learning,
            Events(),
            mill.clock,
            signer=self.signer,
            drop_file=lambda _session, _project, file_id: self.dropped.append(file_id),
            referenced=referenced_by(mill.catalog, mill.jobs, mill.spaces),
            cache=mill.cache,
            ask=self.ask,
        )

    def ask(self, _project: str, _deployment: str, queries: Sequence[str]) -> SearchOutput:
        self.asked += queries
        hits = [
            [
                Hit(passage=Passage(id=f"{id_}:0", document_id=id_, ordinal=0, text=text), score=1.0)
                for id_, text in self.held.items()
                if query in text
            ]
            for query in queries
        ]
        return SearchOutput(hits=hits)

    def build(self) -> None:
        """One build from the first change to its end, with passages that lie in files."""
        mill = self.mill
        mill.tick()
        run_id = mill.space().build.parsing_run_id  # type: ignore[union-attr]
        handed = mill.handed_over(run_id)
        texts = {each.id: b"".join(mill.blobs.iter(each.digest)).decode() for each in handed}
        lines = []
        files = []
        for each in handed:
            parsed = ParsedDocument(
                id=each.id, name=each.name, digest=each.digest, parser="mill", state="parsed", num_passages=1
            )
            lines.append(parsed.model_dump_json())
            passage = Passage(id=f"{each.id}:0", document_id=each.id, ordinal=0, text=texts[each.id])
            files.append(self._file(f"passages/{each.id}.jsonl", passage.model_dump_json()))
        self._end(run_id, "dataset", [self._file(DOCUMENTS_FILE, "\n".join(lines)), *files])
        mill.tick()
        run_id = mill.space().build.indexing_run_id  # type: ignore[union-attr]
        self._end(run_id, "model", [self._file("terms.utf8", json.dumps(texts, ensure_ascii=False))])
        mill.tick()
        mill.answer()
        self.held = texts
        assert mill.tick().state == "ready"

    def forget(self, document: SpaceDocument, caller: Principal = ANN) -> Forgetting:
        with self.mill.db.transaction() as session:
            return self.mill.spaces.forgettings.begin(session, caller, "manual", document.id)

    def tick(self, forgetting: Forgetting, caller: Principal = ANN) -> Forgetting:
        self.forgetting.tick()
        with self.mill.db.reading() as session:
            return self.mill.spaces.forgettings.get(session, caller, forgetting.id)

    def contents(self) -> bytes:
        """Every byte that is stored."""
        return b"\n".join(b"".join(self.mill.blobs.iter(each.digest)) for each in self.mill.blobs.list())

    def cite(self, document: SpaceDocument, answer_id: str, cell: str | None = None) -> None:
        """An answer rests on a document; with `cell` it was computed from its table and told that."""
        answers = self.mill.spaces.answers
        space = self.mill.space()
        answers.note(
            AnswerNote(
                id=answer_id,
                space_id=space.id,
                project_id=PROJECT,
                key_id=ANN.key_id,
                user_id=None,
                request_id=f"req_{answer_id}",
                status="quoted",
                index_version_id=space.index_version_id,
                model=None,
                model_version_id=None,
                keep_days=30,
                passages=(CitedPassage(f"{document.id}:0", document.id, document.digest, 1),),
                computed=None if cell is None else _computed(document, cell),
            )
        )
        answers.flush()

    def comment(self, document: SpaceDocument) -> None:
        """A reader of a published answer says what it should have been."""
        spaces = self.mill.spaces
        asked = PublicationCreate(name="shop", share=True)
        told = Told(answer_id="msg_1", question="?", answer=SECRET, status="quoted", documents=[document.id], origin="")
        with self.mill.db.transaction() as session:
            made, _ = spaces.publications.create(session, ANN, "manual", asked)
            spaces.feedback.put(session, spaces.publications.live(session, made.id), told, "down", SECRET)

    def _file(self, path: str, text: str) -> dict[str, Any]:
        blob = self.mill.blobs.put(text.encode())
        return File(path=path, digest=blob.digest, num_bytes=blob.num_bytes).model_dump()

    def _end(self, run_id: str | None, kind: str, files: list[dict[str, Any]]) -> None:
        used = [
            ("used", {"role": role, "kind": given.kind, "version_id": given.version_id})
            for role, given in self.mill.run(run_id).inputs.items()
        ]
        metadata = {"task": "passage-retrieval"} if kind == "model" else {}
        saved = ("saved", {"kind": kind, "files": files, "metadata": metadata})
        self.mill.play(run_id, *used, saved, ("finished", {"result": None}))


def _computed(document: SpaceDocument, cell: str) -> ComputedNote:
    table = ComputedTable("staff", None, 1, document.id, document.digest, document.version)
    return ComputedNote(
        f"SELECT note FROM staff WHERE note = '{cell}'", "rules", (table,), (("note", None),), ((cell,),), False
    )


@pytest.fixture
def kitchen(
    settings: Settings, database: Database, clock: FixedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Kitchen:
    monkeypatch.setattr(discovery, "capabilities", lambda: {"mill": MILL, "school": SCHOOL})
    mill = make_mill(settings, database, clock, tmp_path)
    return Kitchen(mill, tmp_path, ReportSigner(tmp_path / "report.key"))


def test_everything_of_a_document_goes_and_a_signed_report_stays(kitchen: Kitchen) -> None:
    mill = kitchen.mill
    audit = AuditLog(mill.db, mill.clock)
    secret = mill.put("the-secret.md", f"{SHARED} {SECRET}")
    other = mill.put("other.md", f"{SHARED} Bread is baked at dawn, and sold until noon.")
    kitchen.build()
    kitchen.cite(secret, "chatcmpl_1")
    kitchen.cite(other, "chatcmpl_2")
    kitchen.comment(secret)
    folders = [
        mill.catalog.materialise(version, mill.cache) for version in mill.versions("documents") + mill.versions("passages")
    ]
    now = mill.clock.now()
    with mill.db.transaction() as session:
        values: dict[str, Any] = {name: {} for name in ("settings", "cursor", "report")}
        known = {"id": "src_1", "space_id": secret.space_id, "project_id": PROJECT, "kind": "archive", "uri": "upload:all.zip"}
        session.add(SourceRow(**known, **values, is_paused=True, state="idle", created_at=now, updated_at=now))
        session.get_one(DocumentRow, secret.id).source_id = "src_1"
    assert SECRET.encode() in kitchen.contents()
    begun = kitchen.forget(secret)
    assert (begun.state, begun.step) == ("running", "probing")
    waiting = kitchen.tick(begun)
    assert (waiting.state, waiting.step) == ("running", "rebuilding"), waiting.error
    assert kitchen.asked == [SECRET], "what the other document says, too, proves nothing"
    assert mill.scope().documents == (other.id,), "it answers no more"
    kitchen.build()
    done = kitchen.tick(waiting)
    assert (done.state, done.step) == ("succeeded", "done"), done.error
    for words in (SECRET, "the-secret.md"):
        assert words.encode() not in kitchen.contents()
    assert SHARED.encode() in kitchen.contents(), "the other one stays"
    assert not any(folder.exists() for folder in folders)
    report = done.report
    assert report is not None
    assert (report["before"]["search"]["found"], report["after"]["search"]["found"]) == (1, 0)
    assert report["before"]["files"] == 3, "the document, its passages, the index"
    assert [report["after"][name] for name in ("files", "passages", "bytes", "answers", "samples")] == [0] * 5
    assert report["removed"]["answers"] == 1
    assert report["kept_by_source"] == {"id": "src_1", "kind": "archive"}, "its bytes are in there still"
    assert (report["before"]["feedback"], report["removed"]["feedback"], report["after"]["feedback"]) == (1, 1, 0)
    assert SECRET not in json.dumps(report)
    assert check_form(report).problem is None
    assert signature_problem(report, kitchen.signer.public_key, report["signature"]["public_key"]) is None
    changed = {**report, "removed": {**report["removed"], "answers": 0}}
    assert "changed" in str(signature_problem(changed, kitchen.signer.public_key, report["signature"]["public_key"]))
    with mill.db.reading() as session:
        entries = [entry.model_dump() for entry in audit.list_entries(session, limit=1000)[0]]
        (gone,) = mill.spaces.documents.list(session, PROJECT, "manual", state="removed").data
        assert mill.spaces.answers.num_of(session, other.id) == 1
    assert check_chain(report, entries) is None
    assert "no entry" in str(check_chain(changed, entries))
    assert (gone.name, gone.file_id, gone.attributes) == (FORGOTTEN, None, {})
    assert kitchen.forget(secret).id == done.id, "once more is the same"
    assert not kitchen.forgetting.tick(), "nothing is left to do"


def test_a_row_of_a_database_goes_with_the_table_that_holds_it(kitchen: Kitchen) -> None:
    """And with what was computed from that table, which may tell any of its rows."""
    mill = kitchen.mill
    row, table, other = (
        mill.put(name, text) for name, text in (("row", SECRET), ("table", f"[0, {SECRET}]"), ("other", SHARED))
    )
    with mill.db.transaction() as session:
        for document, key, kind in (
            (row, "staff/row/2", None),
            (table, "staff/card", TABLE_ROWS),
            (other, "x/card", TABLE_ROWS),
        ):
            held = session.get_one(DocumentRow, document.id)
            held.key, held.source_id, held.media_type = key, "src_1", kind
    kitchen.build()
    kitchen.cite(table, "chatcmpl_1", "twelve leaves of sorrel")
    kitchen.cite(other, "chatcmpl_2", "nothing to hide")
    # The files of PostgreSQL are its own, and its vacuum's.
    stored = [Path(f"{mill.db.engine.url.database}{each}") for each in ("", "-wal")] if mill.db.is_sqlite else []
    assert not stored or any(b"leaves of sorrel" in each.read_bytes() for each in stored)
    waiting = kitchen.tick(kitchen.forget(row))
    kitchen.cite(table, "chatcmpl_3", "twelve leaves of sorrel")  # told while the row was forgotten
    assert mill.scope().documents == (other.id,)
    kitchen.build()
    done = kitchen.tick(waiting)
    assert (done.state, done.step) == ("succeeded", "done"), done.error
    assert SECRET.encode() not in kitchen.contents()
    assert done.report is not None
    assert done.report["removed"]["answers"] == 1
    for each in stored:
        assert not each.exists() or b"leaves of sorrel" not in each.read_bytes(), f"{each} has the row that was told"
    with mill.db.reading() as session:
        noted = mill.spaces.answers.find(session, ANN, "chatcmpl_3")[0]
        assert noted.computed is None, "what came late says no row"
        kept = mill.spaces.answers.find(session, ANN, "chatcmpl_2")[0]
        assert "nothing to hide" in str(kept.computed)
        assert [mill.spaces.answers.num_of(session, each.id) for each in (table, other)] == [1, 1]


def test_where_the_build_fails_it_stops_and_goes_on_when_it_is_asked_again(kitchen: Kitchen) -> None:
    mill = kitchen.mill
    secret = mill.put("secret.md", SECRET)
    mill.put("other.md", "Bread is baked at dawn, and sold until noon.")
    kitchen.build()
    begun = kitchen.tick(kitchen.forget(secret))
    mill.tick()
    run_id = mill.space().build.parsing_run_id  # type: ignore[union-attr]
    mill.play(run_id, ("failed", {"error": {"code": "broken", "message": "The mill is broken."}, "retry": False}))
    mill.tick()
    stopped = kitchen.tick(begun)
    assert (stopped.state, stopped.error and stopped.error["code"]) == ("failed", "build_failed")
    with mill.db.transaction() as session:
        mill.spaces.rebuild(session, PROJECT, "manual")
    again = kitchen.forget(secret)
    assert (again.id, again.state, again.step) == (begun.id, "running", "rebuilding")
    kitchen.build()
    assert kitchen.tick(again).state == "succeeded"


def test_what_is_found_again_is_no_proof(kitchen: Kitchen) -> None:
    secret = kitchen.mill.put("secret.md", SECRET)
    kitchen.mill.put("other.md", "Bread is baked at dawn, and sold until noon.")
    kitchen.build()
    begun = kitchen.tick(kitchen.forget(secret))
    kitchen.build()
    kitchen.held[secret.id] = SECRET
    failed = kitchen.tick(begun)
    assert (failed.state, failed.report) == ("failed", None)
    assert failed.error is not None
    assert (failed.error["code"], "search" in failed.error["message"]) == ("still_found", True)
    del kitchen.held[secret.id]
    kitchen.forget(secret)
    assert kitchen.tick(begun).state == "succeeded"


def test_the_last_document_can_be_forgotten_and_bytes_of_others_stay_theirs(kitchen: Kitchen) -> None:
    mill = kitchen.mill
    secret = mill.put("secret.md", SECRET)
    kitchen.build()
    twin = mill.put("twin.md", SECRET)
    kitchen.build()
    begun = kitchen.tick(kitchen.forget(secret))
    kitchen.build()
    done = kitchen.tick(begun)
    assert done.report is not None
    assert (done.report["sentences"], done.report["bytes_kept_for_others"]) == ([], True)
    last = kitchen.tick(kitchen.forget(twin))
    mill.tick()
    gone = kitchen.tick(last)
    assert (gone.state, gone.error) == ("succeeded", None)
    assert not [*mill.blobs.list()], "nothing is stored any more"


def test_only_readers_forget_and_what_was_only_removed_can_be_forgotten(kitchen: Kitchen) -> None:
    mill = kitchen.mill
    secret = mill.put("secret.md", SECRET)
    mill.put("other.md", "Bread is baked at dawn, and sold until noon.")
    kitchen.build()
    with mill.db.transaction() as session:
        mill.spaces.documents.update(session, PROJECT, "manual", secret.id, access=["key_ann"])
    ben = Principal(key_id="key_ben", project_id=PROJECT, scopes=frozenset({"write"}))
    with pytest.raises(NotFound):
        kitchen.forget(secret, ben)
    mill.remove(secret)
    kitchen.build()
    done = kitchen.tick(kitchen.forget(secret))
    assert (done.state, done.report is None) == ("succeeded", False)
    assert SECRET.encode() not in kitchen.contents()
    assert kitchen.tick(done, ben).report is None, "its digests would confirm what he guesses"


def test_what_was_kept_of_answers_goes_and_what_comes_late_is_found(kitchen: Kitchen) -> None:
    mill = kitchen.mill
    secret, other = mill.put("secret.md", SECRET), mill.put("other.md", "Bread is baked at dawn, and sold until noon.")
    kitchen.build()
    store = ConversationService(mill.db, mill.clock)
    responses = ResponseService(mill.db, store, mill.clock)
    cite = {"type": "file_citation", "file_id": "file_9", "citation": {"document_id": secret.id}}
    said = {"cited": ("Nine of them.", [cite]), "quoted": (f'He says: "{SECRET}"', []), "other": (f"See {other.id}.", [])}

    def keep(number: str) -> None:
        text, annotations = said[number]
        item = {"id": f"msg_{number}", "type": "message", "content": [{"text": text, "annotations": annotations}]}
        asked = ResponseCreate.model_validate({"model": "space:manual", "input": "?"})
        made = {**head(asked, response_id=f"resp_{number}", created_at=0), "status": "completed", "output": [item]}
        with mill.db.transaction() as session:
            responses.keep(session, ANN, made, [])
            store.add(session, PROJECT, conversation, [item])
            body = {"object": "response", "output": [item]}
            kept = {"claim": "c", "request": "/v1/responses", "digest": "0", "status": 200, "headers": []}
            late = mill.clock.now() + timedelta(days=1)
            session.add(IdempotencyRow(project_id=PROJECT, key=number, body=json.dumps(body).encode(), expires_at=late, **kept))

    def left() -> tuple[set[str], set[str], set[str]]:
        with mill.db.reading() as session:
            items = store.history(session, PROJECT, conversation)
            return (
                {each.removeprefix("resp_") for each in session.scalars(select(ResponseRow.id))},
                {each["id"].removeprefix("msg_") for each in items},
                {*session.scalars(select(IdempotencyRow.key))},
            )

    with mill.db.transaction() as session:
        conversation = store.create(session, PROJECT, None, [])["id"]
    for number in said:
        keep(number)
    begun = kitchen.tick(kitchen.forget(secret))
    assert left() == ({"other"}, {"other"}, {"other"})
    kitchen.build()
    with mill.db.transaction() as session:
        mill.spaces.forgettings.at(session, begun.id, "rebuilding")[1].step = "proving"  # type: ignore[index]
    keep("quoted")
    failed = kitchen.tick(begun)
    assert failed.error is not None
    assert (failed.error["code"], "kept" in failed.error["message"]) == ("still_found", True)
    kitchen.forget(secret)
    done = kitchen.tick(begun)
    assert done.report is not None, done.error
    assert (done.report["before"]["kept"], done.report["removed"]["kept"], done.report["after"]["kept"]) == (6, 9, 0)
    assert left() == ({"other"}, {"other"}, {"other"})


def learned(school: School, documents: Sequence[SpaceDocument]) -> Learning:
    """One learning whose samples say which documents they are of; the second one shows the first document's passage, too."""
    school.learn()
    run = school.latest().runs["samples"]
    saves = []
    for part in (None, "test"):
        files = []
        for place, document in enumerate(documents):
            shown = [f"{each.id}:0" for each in documents[: place + 1][-2:]]
            sample = {"messages": [], "origin": {"document_id": document.id, "documents": [], "shown": shown}}
            own = {"messages": [part], "origin": {"document_id": document.id, "documents": [document.id], "shown": []}}
            blob = school.mill.blobs.put(f"{json.dumps(sample)}\n{json.dumps(own)}\n".encode())
            files.append(File(path=f"{document.id}.jsonl", digest=blob.digest, num_bytes=blob.num_bytes).model_dump())
        metadata = {} if part is None else {"part": part}
        saves.append(("saved", {"kind": "dataset", "files": files, "metadata": metadata}))
    school.mill.play(run, *school._used(run), *saves, ("finished", {"result": {"num_samples": 8}}))
    school.tick()
    school.train()
    school.tick()
    school.measure(before=3.0, after=2.0)
    if school.tick().step == "deploying":
        school.deploy()
    return school.tick()


def test_samples_are_written_anew_and_models_that_were_trained_on_it_are_withdrawn(kitchen: Kitchen) -> None:
    mill = kitchen.mill
    school = School(mill)
    school.set(automatic=True, every_h=8760)
    documents = [*mill.documents().values()]
    documents.sort(key=lambda each: each.id)
    first, second, _ = documents
    model = learned(school, documents)
    assert (model.state, school.answers_with()) == ("succeeded", model.model)
    with mill.db.reading() as session:
        tracing = Tracing(mill.spaces, mill.catalog, mill.serving, mill.blobs)
        impact = tracing.impact(session, ANN, "manual", first.id)
    assert [each.adapter.version_id for each in impact.models] == [model.adapter_version_id]
    assert (len(impact.samples), impact.num_samples) == (2, 6), "its own, and that of the next document which shows it"
    assert {each.by for each in impact.deployments} >= {"model"}
    assert len(impact.evaluations) == 2
    folders = [mill.catalog.materialise(version, mill.cache) for version in mill.versions("samples")]
    begun = kitchen.tick(kitchen.forget(first))
    assert begun.step == "rebuilding", begun.error
    assert school.answers_with() == "base"
    assert school.latest().tainted_by == [first.id]
    (samples,) = mill.versions("samples")
    assert samples.id != model.samples_version_id
    assert [file.path for file in samples.files] == [f"{each.id}.jsonl" for each in documents[1:]]
    left = b"".join(mill.blobs.iter(next(file.digest for file in samples.files if second.id in file.path)))
    assert (len(left.splitlines()), first.id.encode() in left) == (1, False)
    mill.build()
    done = kitchen.tick(begun)
    assert done.report is not None, done.error
    (marked,) = done.report["models"]
    assert (marked["version_id"], marked["withdrawn"]) == (model.adapter_version_id, True)
    assert done.report["removed"]["num_samples"] == 6
    assert first.id.encode() not in kitchen.contents()
    assert not any(folder.exists() for folder in folders)
    anew = school.latest()
    assert (anew.state, anew.id != model.id, anew.is_automatic) == ("running", True, True)
    given = mill.run(anew.runs["samples"])
    assert given.inputs["previous"].version_id == samples.id
    assert first.id in given.params["without"]


def test_a_model_may_answer_on_until_another_one_is_learned(kitchen: Kitchen) -> None:
    school = School(kitchen.mill)
    school.set(tainted="keep")
    documents = sorted(kitchen.mill.documents().values(), key=lambda each: each.id)
    model = learned(school, documents)
    begun = kitchen.tick(kitchen.forget(documents[0]))
    assert (school.answers_with(), school.latest().tainted_by) == (model.model, [documents[0].id])
    kitchen.mill.build()
    done = kitchen.tick(begun)
    assert done.report is not None
    assert done.report["models"][0]["withdrawn"] is False
    assert school.latest().id == model.id, "it learns when it is asked to"


def test_what_is_being_learned_ends(kitchen: Kitchen) -> None:
    school = School(kitchen.mill)
    document = sorted(kitchen.mill.documents().values(), key=lambda each: each.id)[0]
    run_id = school.learn().runs["samples"]
    kitchen.tick(kitchen.forget(document))
    assert (school.latest().state, kitchen.mill.run(run_id).state) == ("cancelled", "cancelled")


# -- what is looked for ------------------------------------------------------------------------------------------------------


def test_sentences_are_found_however_a_file_spells_them_and_across_its_pieces(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "_PIECE_BYTES", 7)
    blobs, sentence = kitchen.mill.blobs, 'He said “no”, and 九 herbs "were" enough.'
    spelled = (sentence, json.dumps({"text": sentence}), json.dumps({"text": sentence}, ensure_ascii=False), "nothing of it")
    files = []
    for number, text in enumerate(spelled):
        blob = blobs.put(text.encode())
        files.append(File(path=str(number), digest=blob.digest, num_bytes=blob.num_bytes))
    assert [file.path for file, _ in probing.holding(blobs, files, [sentence])] == ["0", "1", "2"]


def test_samples_that_show_a_document_go_with_it() -> None:
    origins = (
        {"document_id": "doc_1"},
        {"document_id": "doc_2", "documents": ["doc_1"]},
        {"document_id": "doc_2", "shown": ["doc_1:4"]},
        {"document_id": "doc_2", "passage_id": "doc_11:0"},
    )
    lines = [json.dumps({"origin": origin}).encode() + b"\n" for origin in origins]
    kept, removed = probing.without_document(b"".join(lines), "doc_1")
    assert (kept, removed) == (lines[3], 3)
    assert probing.without_document(b"doc_1 in no JSON\n", "doc_1") == (b"", 1)
