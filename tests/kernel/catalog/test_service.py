"""Versions, aliases, removal, search and isolation, on both databases."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tests.kernel.catalog.samples import ALICE, BOB, Put, write_checkpoint

from modelworks.contract.errors import (
    Conflict,
    InvalidData,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    UnsafeArtifact,
)
from modelworks.contract.media import File
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.catalog import CatalogService, Version
from modelworks.kernel.storage import BlobStore


@pytest.fixture
def add(database: Database, catalog: CatalogService, put: Put) -> Any:
    def register(name: str, text: str = "x", project: str = ALICE, kind: str = "model", **known: Any) -> Version:
        with database.transaction() as session:
            return catalog.register(session, project, kind=kind, name=name, files=put({"data.txt": text.encode()}), **known)

    return register


class TestRegister:
    def test_numbers_versions_and_keeps_what_it_was_told(self, database: Database, catalog: CatalogService, add: Any) -> None:
        first = add("org/tiny", "one", task="text-generation", level="L0", licence="mit", metrics={"loss": 1.5}, card="A card")
        second = add("org/tiny", "two")

        assert (first.number, second.number) == (1, 2)
        assert first.id.startswith("mdl_")
        with database.reading() as session:
            stored = catalog.get_version(session, ALICE, first.id)
        assert stored == first
        assert (stored.task, stored.level, stored.licence, stored.metrics, stored.card) == (
            "text-generation",
            "L0",
            "mit",
            {"loss": 1.5},
            "A card",
        )
        assert stored.ref == "org/tiny@v1"
        assert stored.num_bytes == 3

    def test_digest_is_of_the_content_in_any_order(self, database: Database, catalog: CatalogService, put: Put) -> None:
        files = put({"b.txt": b"b", "a.txt": b"a"})
        with database.transaction() as session:
            one = catalog.register(session, ALICE, kind="dataset", name="one", files=files)
            two = catalog.register(session, ALICE, kind="dataset", name="two", files=files[::-1])
        assert one.digest == two.digest
        assert one.id.startswith("ds_")
        assert [file.path for file in one.files] == ["a.txt", "b.txt"]

    def test_the_same_manifest_of_the_same_run_is_the_same_version(self, add: Any) -> None:
        first = add("tiny", "same", created_by_run="run_1")
        assert add("tiny", "same", created_by_run="run_1").id == first.id
        assert add("tiny", "same", created_by_run="run_2").id != first.id
        assert add("tiny", "other", created_by_run="run_1").id != first.id

    def test_the_same_bytes_from_the_same_source_are_the_same_version(self, add: Any) -> None:
        first = add("tiny", "same", created_by_run="run_1", source="hf://org/tiny")
        assert add("tiny", "same", created_by_run="run_2", source="hf://org/tiny").id == first.id
        assert add("tiny", "same", created_by_run="run_3", source="hf://else/tiny").id != first.id

    def test_missing_blob_and_wrong_size_leave_nothing(self, database: Database, catalog: CatalogService, put: Put) -> None:
        stored = put({"a.txt": b"abc"})[0]
        absent = File(path="b.txt", digest="sha256:" + "0" * 64, num_bytes=1)
        wrong = File(path="c.txt", digest=stored.digest, num_bytes=4)
        for files, kind, words in (([absent], NotFound, "b.txt"), ([wrong], InvalidRequest, "4 bytes")):
            with pytest.raises(kind, match=words), database.transaction() as session:
                catalog.register(session, ALICE, kind="model", name="broken", files=files)
        with database.reading() as session:
            assert catalog.list(session, ALICE).data == []

    @pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a//b", "a/../b", "a\\b", "nul\x00", "C:/x", ""])
    def test_paths_that_leave_the_folder_are_refused(
        self, database: Database, catalog: CatalogService, put: Put, path: str
    ) -> None:
        blob = put({"x": b"x"})[0]
        file = File(path=path, digest=blob.digest, num_bytes=1)
        with pytest.raises(UnsafeArtifact), database.transaction() as session:
            catalog.register(session, ALICE, kind="model", name="evil", files=[file])

    def test_pickles_in_the_storage_are_refused(self, database: Database, catalog: CatalogService, put: Put) -> None:
        with pytest.raises(UnsafeArtifact, match=r"weights\.bin"), database.transaction() as session:
            catalog.register(session, ALICE, kind="model", name="evil", files=put({"weights.bin": b"\x80\x04."}))

    @pytest.mark.parametrize("name", ["", "-x", "a b", "a//b", "a@b", "模型", "x" * 129, "mdl_01K00000000000000000000000"])
    def test_bad_names(self, add: Any, name: str) -> None:
        with pytest.raises(InvalidRequest):
            add(name)

    def test_parent_of_another_project_is_not_found(self, add: Any) -> None:
        theirs = add("base", project=BOB)
        with pytest.raises(NotFound):
            add("mine", parents=[theirs.id])

    def test_metrics_must_be_finite(self, database: Database, catalog: CatalogService, add: Any) -> None:
        version = add("tiny", metrics={"loss": 2.0})
        with database.transaction() as session:
            noted = catalog.add_metrics(session, ALICE, version.id, {"perplexity": 7.4, "loss": 1.9})
        assert noted.metrics == {"loss": 1.9, "perplexity": 7.4}
        with pytest.raises(InvalidData, match="loss"), database.transaction() as session:
            catalog.add_metrics(session, ALICE, version.id, {"loss": float("nan")})
        with pytest.raises(NotFound), database.transaction() as session:
            catalog.add_metrics(session, BOB, version.id, {"loss": 0.0})

    def test_concurrent_registrations_get_different_numbers(
        self, database: Database, catalog: CatalogService, put: Put
    ) -> None:
        manifests = [put({"x": str(number).encode()}) for number in range(6)]
        numbers: list[int] = []

        def work(files: list[File]) -> None:
            with database.transaction() as session:
                numbers.append(catalog.register(session, ALICE, kind="model", name="busy", files=files).number)

        threads = [threading.Thread(target=work, args=(files,)) for files in manifests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(numbers) == [1, 2, 3, 4, 5, 6]

    def test_folder_goes_into_the_storage_and_comes_out_again(
        self, database: Database, catalog: CatalogService, tmp_path: Path
    ) -> None:
        folder = write_checkpoint(tmp_path / "checkpoint")
        with database.transaction() as session:
            version = catalog.register_folder(session, ALICE, kind="model", name="tiny", path=folder, licence="mit")
        place = catalog.materialise(version, tmp_path / "cache")
        assert {file.path for file in version.files} == {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
        assert (place / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
        assert catalog.materialise(version, tmp_path / "cache") == place
        model = catalog.local_model(version, place)
        assert (model.ref, model.digest, model.licence) == ("tiny@v1", version.digest, "mit")

    def test_a_damaged_cache_folder_is_made_again(self, database: Database, catalog: CatalogService, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "checkpoint")
        with database.transaction() as session:
            version = catalog.register_folder(session, ALICE, kind="model", name="tiny", path=folder)
        place = catalog.materialise(version, tmp_path / "cache")
        (place / "config.json").chmod(0o644)
        (place / "config.json").write_text("{}")
        assert (catalog.materialise(version, tmp_path / "cache") / "config.json").read_text() != "{}"

    def test_s3(
        self, database: Database, s3_blobs: BlobStore, clock: Any, events: Events, settings: Any, tmp_path: Path
    ) -> None:
        catalog = CatalogService(database, s3_blobs, clock, events, settings)
        with database.transaction() as session:
            version = catalog.register_folder(
                session, ALICE, kind="model", name="tiny", path=write_checkpoint(tmp_path / "checkpoint")
            )
        with database.transaction() as session:
            again = catalog.register(session, ALICE, kind="model", name="tiny", files=version.files)
        assert again.id == version.id
        assert (catalog.materialise(version, tmp_path / "cache") / "tokenizer.json").read_text() == "{}"


class TestResolve:
    def test_every_form(self, database: Database, catalog: CatalogService, add: Any) -> None:
        first, second = add("org/tiny", "one"), add("org/tiny", "two")

        def means(session: Session, ref: str) -> str:
            return catalog.resolve(session, ALICE, ref).id

        with database.transaction() as session:
            catalog.set_alias(session, ALICE, "org/tiny@v1", "stable")
        with database.reading() as session:
            assert means(session, "org/tiny") == second.id
            assert means(session, "org/tiny@latest") == second.id
            assert means(session, "org/tiny@v1") == means(session, "org/tiny@1") == first.id
            assert means(session, "org/tiny@stable") == first.id
            assert means(session, first.id) == first.id
        with database.transaction() as session:
            catalog.set_alias(session, ALICE, "org/tiny@stable", "default")
        with database.reading() as session:
            assert means(session, "org/tiny") == first.id
            assert means(session, "org/tiny@latest") == second.id
            assert catalog.resolve(session, ALICE, "org/tiny").aliases == ["default", "stable"]

    def test_unknown_name_suggests_a_near_one(self, database: Database, catalog: CatalogService, add: Any) -> None:
        add("qwen3-tiny")
        with database.reading() as session:
            with pytest.raises(ModelNotFound) as caught:
                catalog.resolve(session, ALICE, "Qwen3-tiny")
            assert "'qwen3-tiny'" in (caught.value.hint or "")
            with pytest.raises(ModelNotFound) as caught:
                catalog.resolve(session, ALICE, "qwen3-tiny@v7")
            assert "v1" in (caught.value.hint or "")
            with pytest.raises(NotFound) as other:
                catalog.resolve(session, ALICE, "qwen3-tiny", kind="dataset")
            assert not isinstance(other.value, ModelNotFound)

    def test_another_project_sees_nothing(self, database: Database, catalog: CatalogService, add: Any) -> None:
        version = add("secret-model")
        with database.reading() as session:
            for ref in ("secret-model", "secret-model@v1", version.id):
                with pytest.raises(ModelNotFound) as caught:
                    catalog.resolve(session, BOB, ref)
                assert "secret-model'" not in (caught.value.hint or "")
            with pytest.raises(NotFound):
                catalog.get_version(session, BOB, version.id)
            with pytest.raises(NotFound):
                catalog.lineage(session, BOB, version.id)
            assert catalog.list(session, BOB).data == []
        for change in (
            lambda session: catalog.set_alias(session, BOB, version.id, "mine"),
            lambda session: catalog.remove(session, BOB, version.id),
            lambda session: catalog.tree(session, BOB, version.id),
        ):
            with pytest.raises(ModelNotFound), database.transaction() as session:
                change(session)

    def test_same_name_in_two_projects_and_kinds(self, database: Database, catalog: CatalogService, add: Any) -> None:
        mine, theirs, data = add("x"), add("x", project=BOB), add("x", kind="dataset")
        with database.reading() as session:
            assert catalog.resolve(session, ALICE, "x").id == mine.id
            assert catalog.resolve(session, BOB, "x").id == theirs.id
            assert catalog.resolve(session, ALICE, "x", kind="dataset").id == data.id
            with pytest.raises(ModelNotFound):
                catalog.resolve(session, ALICE, data.id)


class TestList:
    def test_pages(self, database: Database, catalog: CatalogService, add: Any) -> None:
        for name in ("b", "a", "d", "c"):
            add(name)
        add("a", "second")
        with database.reading() as session:
            first = catalog.list(session, ALICE, limit=3)
            rest = catalog.list(session, ALICE, limit=3, after=first.last_id)
            with pytest.raises(InvalidRequest):
                catalog.list(session, BOB, after=first.last_id)
        assert [each.name for each in first.data] == ["a", "b", "c"]
        assert first.has_more
        assert (first.data[0].num_versions, first.data[0].latest.number) == (2, 2)
        assert [each.name for each in rest.data] == ["d"]
        assert not rest.has_more

    def test_search_in_name_card_and_task(self, database: Database, catalog: CatalogService, add: Any) -> None:
        add("qwen-small", card="Ein Modell für Verträge", task="text-generation")
        add("sure_thing", card="100 % 合同审查模型")
        add("surexthing")
        add("other", task="object-detection", licence="agpl-3.0")

        def found(words: str) -> list[str]:
            with database.reading() as session:
                return [each.name for each in catalog.list(session, ALICE, search=words).data]

        assert found("QWEN") == ["qwen-small"]
        assert found("modell vertr") == ["qwen-small"]
        assert found("合同") == ["sure_thing"]
        assert found("detection agpl") == ["other"]
        assert found("%") == ["sure_thing"]
        assert found("e_t") == ["sure_thing"]
        assert found("qwen detection") == []


class TestAlias:
    def test_moves_are_recorded_and_rolled_back(
        self, database: Database, catalog: CatalogService, add: Any, events: Events
    ) -> None:
        add("tiny", "one")
        add("tiny", "two")
        heard: list[dict[str, Any]] = []
        events.subscribe("alias.moved", lambda _topic, payload: heard.append(payload))
        for ref in ("tiny@v1", "tiny@v2", "tiny@v2"):
            with database.transaction() as session:
                catalog.set_alias(session, ALICE, ref, "production", moved_by="key_1")
                assert len(heard) < 2 or ref == "tiny@v2"
        with database.transaction() as session:
            back = catalog.roll_back_alias(session, ALICE, "tiny", "production", moved_by="key_2")
        assert back.number == 1
        with database.reading() as session:
            assert catalog.resolve(session, ALICE, "tiny@production").number == 1
            history = catalog.alias_history(session, ALICE, "tiny", "production")
        assert [(move.from_number, move.to_number, move.moved_by) for move in history] == [
            (2, 1, "key_2"),
            (1, 2, "key_1"),
            (None, 1, "key_1"),
        ]
        assert [payload["version_id"] for payload in heard] == [move.to_version_id for move in history[::-1]]

    def test_nothing_is_announced_when_the_transaction_fails(
        self, database: Database, catalog: CatalogService, add: Any, events: Events
    ) -> None:
        add("tiny")
        heard: list[str] = []
        events.subscribe("alias.moved", lambda topic, _payload: heard.append(topic))

        def move_and_fail() -> None:
            with database.transaction() as session:
                catalog.set_alias(session, ALICE, "tiny", "stable")
                raise ValueError("stop")

        with pytest.raises(ValueError, match="stop"):
            move_and_fail()
        assert heard == []
        with database.reading() as session, pytest.raises(ModelNotFound):
            catalog.resolve(session, ALICE, "tiny@stable")

    @pytest.mark.parametrize("alias", ["latest", "v3", "7", "", "a b", "-x", "a/b", "x" * 65])
    def test_reserved_and_malformed(self, database: Database, catalog: CatalogService, add: Any, alias: str) -> None:
        add("tiny")
        with pytest.raises(InvalidRequest), database.transaction() as session:
            catalog.set_alias(session, ALICE, "tiny", alias)

    def test_remove(self, database: Database, catalog: CatalogService, add: Any) -> None:
        add("tiny")
        with database.transaction() as session:
            catalog.set_alias(session, ALICE, "tiny", "stable")
            catalog.remove_alias(session, ALICE, "tiny", "stable")
            with pytest.raises(NotFound):
                catalog.remove_alias(session, ALICE, "tiny", "stable")
            with pytest.raises(Conflict):
                catalog.roll_back_alias(session, ALICE, "tiny", "other")
            # Taking it away was a move too, and can be undone.
            assert catalog.roll_back_alias(session, ALICE, "tiny", "stable").number == 1


class TestRemove:
    def test_dry_run_changes_nothing(self, database: Database, catalog: CatalogService, add: Any) -> None:
        add("tiny", "one")
        add("tiny", "three")
        with database.transaction() as session:
            catalog.set_alias(session, ALICE, "tiny@v1", "old")
            plan = catalog.remove(session, ALICE, "tiny", dry_run=True)
        assert ([each.number for each in plan.versions], plan.aliases, plan.num_bytes) == ([2, 1], ["old"], 8)
        with database.reading() as session:
            assert catalog.resolve(session, ALICE, "tiny@old").number == 1

    def test_one_version_and_numbers_are_never_used_again(self, database: Database, catalog: CatalogService, add: Any) -> None:
        add("tiny", "one")
        second = add("tiny", "two")
        with database.transaction() as session:
            catalog.remove(session, ALICE, "tiny@v2")
        with database.reading() as session:
            assert catalog.resolve(session, ALICE, "tiny").number == 1
            assert catalog.get_version(session, ALICE, second.id).state == "removed"
            with pytest.raises(ModelNotFound):
                catalog.resolve(session, ALICE, second.id)
        assert add("tiny", "two").number == 3

    def test_blobs_stay_referenced_while_another_version_uses_them(
        self, database: Database, catalog: CatalogService, blobs: BlobStore, put: Put
    ) -> None:
        shared, own = put({"shared": b"shared"})[0], put({"own": b"own"})[0]
        with database.transaction() as session:
            catalog.register(session, ALICE, kind="model", name="one", files=[shared, own])
            catalog.register(session, BOB, kind="dataset", name="two", files=[shared])
        digests = {shared.digest, own.digest}
        assert catalog.referenced([*digests, "sha256:" + "f" * 64]) == digests
        with database.transaction() as session:
            catalog.remove(session, ALICE, "one")
        assert catalog.referenced(digests) == {shared.digest}
        report = blobs.collect(catalog.referenced, grace_s=0)
        assert report.deleted == 1
        assert blobs.exists(shared.digest)
        assert not blobs.exists(own.digest)

    def test_refused_while_a_child_or_a_guard_needs_it(self, database: Database, catalog: CatalogService, add: Any) -> None:
        base = add("base")
        add("child", "tuned", parents=[base.id])
        with pytest.raises(Conflict, match="child@v1 was made from it"), database.transaction() as session:
            catalog.remove(session, ALICE, "base")
        catalog.add_guard(lambda _session, _project, ids: [f"deployment chat serves {len(ids)} version"])
        with pytest.raises(Conflict, match="deployment chat serves 1 version"), database.transaction() as session:
            catalog.remove(session, ALICE, "child")
        with database.transaction() as session:
            plan = catalog.remove(session, ALICE, "base", dry_run=True)
            assert len(plan.blocked_by) == 2
            catalog.remove(session, ALICE, "base", force=True)
        with database.reading() as session, pytest.raises(ModelNotFound):
            catalog.resolve(session, ALICE, "base")
