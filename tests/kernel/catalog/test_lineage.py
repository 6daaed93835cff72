"""Lineage up and down, the family tree, inherited licences; cycles are impossible."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tests.kernel.catalog.samples import ALICE, BOB, Put

from modelworks.contract.errors import Conflict, NotFound
from modelworks.kernel.base.database import Database
from modelworks.kernel.catalog import CatalogService, Version


@pytest.fixture
def family(database: Database, catalog: CatalogService, put: Put) -> dict[str, Version]:
    """corpus -> run_base -> base (L0) -> run_tune (with manuals) -> tuned (L1) -> run_scene -> scene (L2)."""
    with database.transaction() as session:

        def add(kind: str, name: str, **known: Any) -> Version:
            return catalog.register(session, ALICE, kind=kind, name=name, files=put({"x": name.encode()}), **known)

        corpus = add("dataset", "corpus", licence="cc-by-sa-4.0")
        manuals = add("dataset", "manuals")
        base = add("model", "base", level="L0", licence="apache-2.0", created_by_run="run_base", inputs=[(corpus.id, "train")])
        tuned = add(
            "model",
            "tuned",
            level="L1",
            metrics={"loss": 0.5},
            created_by_run="run_tune",
            parents=[base.id],
            inputs=[(base.id, "base"), (manuals.id, "train")],
        )
        scene = add(
            "model",
            "scene",
            level="L2",
            licence="mit",
            created_by_run="run_scene",
            parents=[tuned.id],
            inputs=[(tuned.id, "base")],
        )
        catalog.record_edge(session, ALICE, "dep_1", "deployed", scene.id, role="chat")
    return {"corpus": corpus, "manuals": manuals, "base": base, "tuned": tuned, "scene": scene}


def test_up_and_down(database: Database, catalog: CatalogService, family: dict[str, Version]) -> None:
    with database.reading() as session:
        up = catalog.lineage(session, ALICE, family["tuned"].id, "up")
        down = catalog.lineage(session, ALICE, family["corpus"].id, "down", depth=20)
        near = catalog.lineage(session, ALICE, family["scene"].id, "up", depth=1)
    assert {node.id for node in up.nodes} == {
        family["tuned"].id,
        family["base"].id,
        family["manuals"].id,
        family["corpus"].id,
        "run_tune",
        "run_base",
    }
    assert {node.id for node in down.nodes} == {
        family["corpus"].id,
        "run_base",
        family["base"].id,
        "run_tune",
        family["tuned"].id,
        "run_scene",
        family["scene"].id,
        "dep_1",
    }
    assert not up.truncated
    assert near.truncated
    assert {node.id for node in near.nodes} == {family["scene"].id, family["tuned"].id, "run_scene"}
    edges = {(edge.subject_id, edge.relation, edge.object_id, edge.role) for edge in up.edges}
    assert ("run_base", "used", family["corpus"].id, "train") in edges
    assert ("run_base", "generated", family["base"].id, None) in edges
    assert (family["tuned"].id, "parent", family["base"].id, None) in edges


def test_from_a_run(database: Database, catalog: CatalogService, family: dict[str, Version]) -> None:
    with database.reading() as session:
        graph = catalog.lineage(session, ALICE, "run_tune", "both")
    assert family["scene"].id in {node.id for node in graph.nodes}
    assert family["corpus"].id in {node.id for node in graph.nodes}
    kinds = {node.id: node.kind for node in graph.nodes}
    assert (kinds["run_tune"], kinds["dep_1"], kinds[family["base"].id]) == ("run", "deployment", "model")


def test_no_cycles(database: Database, catalog: CatalogService, family: dict[str, Version]) -> None:
    base, scene = family["base"].id, family["scene"].id
    for subject, relation, target in (
        (base, "parent", scene),
        (base, "parent", base),
        ("run_base", "used", scene),
        ("run_scene", "generated", family["corpus"].id),
    ):
        with pytest.raises(Conflict) as caught, database.transaction() as session:
            catalog.record_edge(session, ALICE, subject, relation, target)
        assert caught.value.error_code == "lineage_cycle"
    with database.transaction() as session:
        # What is known already may be said again, and the same objects may be related in another project.
        catalog.record_edge(session, ALICE, scene, "parent", family["tuned"].id)
        catalog.record_edge(session, BOB, base, "parent", scene)


def test_edges_stay_within_their_project(database: Database, catalog: CatalogService, family: dict[str, Version]) -> None:
    with database.reading() as session, pytest.raises(NotFound):
        catalog.lineage(session, BOB, family["base"].id)


def test_tree(database: Database, catalog: CatalogService, family: dict[str, Version]) -> None:
    with database.reading() as session:
        tree = catalog.tree(session, ALICE, "tuned")
        root = catalog.tree(session, ALICE, "base")
    assert (tree.node.name, tree.node.level, tree.node.metrics) == ("tuned", "L1", {"loss": 0.5})
    assert tree.created_by_run == "run_tune"
    assert [node.name for node in tree.datasets] == ["manuals"]
    assert [(parent.node.name, parent.node.level) for parent in tree.parents] == [("base", "L0")]
    assert [node.name for node in tree.parents[0].datasets] == ["corpus"]
    assert [(child.node.name, child.deployments) for child in tree.children] == [("scene", ["dep_1"])]
    assert tree.parents[0].children == []
    assert root.children[0].children[0].node.name == "scene"


def test_the_tree_says_what_each_level_was_measured_on_and_which_licence_it_inherits(
    database: Database, catalog: CatalogService, family: dict[str, Version], put: Put
) -> None:
    def measure(session: Session, run_id: str, model: Version, data: Version, loss: float) -> None:
        catalog.evaluations.record(
            session,
            ALICE,
            run_id=run_id,
            capability="text",
            task="text-generation",
            version_id=model.id,
            dataset_version_id=data.id,
            params={},
            metrics={"loss": loss},
            report_digest=None,
        )

    with database.transaction() as session:
        exams = [
            catalog.register(session, ALICE, kind="dataset", name=name, files=put({"x": name.encode()}))
            for name in ("novels", "cases")
        ]
        for number, (model, data, loss) in enumerate(
            [("base", 0, 3.0), ("base", 1, 9.0), ("tuned", 0, 4.0), ("tuned", 1, 2.0), ("base", 1, 5.0)]
        ):
            measure(session, f"run_{number}", family[model], exams[data], loss)
    with database.reading() as session:
        tree = catalog.tree(session, ALICE, "tuned")
    base, scene = tree.parents[0], tree.children[0]
    # The newest on each, in the same order below every level.
    assert [(each.data, each.metrics) for each in base.evaluations] == [
        ("cases@v1", {"loss": 5.0}),
        ("novels@v1", {"loss": 3.0}),
    ]
    assert [(each.data, each.metrics) for each in tree.evaluations] == [
        ("cases@v1", {"loss": 2.0}),
        ("novels@v1", {"loss": 4.0}),
    ]
    assert scene.evaluations == []
    # Its own says mit, but it comes from what is to be shared alike.
    assert (scene.node.licence, scene.effective_licence, scene.licences_complete) == ("mit", "cc-by-sa-4.0", False)
    assert (base.effective_licence, base.licences_complete) == ("cc-by-sa-4.0", True)


def test_removed_versions_stay_in_the_lineage(database: Database, catalog: CatalogService, family: dict[str, Version]) -> None:
    with database.transaction() as session:
        catalog.remove(session, ALICE, "tuned", force=True)
    with database.reading() as session:
        tree = catalog.tree(session, ALICE, "base")
    assert (tree.children[0].node.name, tree.children[0].node.state) == ("tuned", "removed")
    assert tree.children[0].children[0].node.state == "ready"


def test_licences_are_inherited(database: Database, catalog: CatalogService, family: dict[str, Version]) -> None:
    with database.reading() as session:
        bound = catalog.restrictions(session, ALICE, "scene")
        base = catalog.describe(session, ALICE, "base").restrictions
    assert (bound.effective, bound.restriction) == ("cc-by-sa-4.0", "share-alike")
    assert [(each.name, each.licence, each.relation) for each in bound.licences] == [
        ("scene", "mit", "self"),
        ("base", "apache-2.0", "parent"),
        ("tuned", None, "parent"),
        ("corpus", "cc-by-sa-4.0", "used"),
        ("manuals", None, "used"),
    ]
    assert set(bound.unstated) == {family["tuned"].id, family["manuals"].id}
    assert [each.name for each in base.licences] == ["base", "corpus"]


def test_runs_that_record_and_register_at_once_do_not_wait_for_each_other(
    database: Database, catalog: CatalogService, put: Put
) -> None:
    manifests = [put({"x": str(number).encode()}) for number in range(4)]
    with database.transaction() as session:
        base = catalog.register(session, ALICE, kind="model", name="same", files=put({"x": b"base"}))
    failures: list[Exception] = []
    ready = threading.Barrier(len(manifests))

    def work(number: int) -> None:
        ready.wait()
        try:
            with database.transaction() as session:
                if number % 2:
                    catalog.record_edge(session, ALICE, f"run_{number}", "used", base.id)
                run = f"run_{number}"
                catalog.register(session, ALICE, kind="model", name="same", files=manifests[number], created_by_run=run)
                catalog.set_alias(session, ALICE, "same", "newest")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(manifests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with database.reading() as session:
        assert catalog.resolve(session, ALICE, "same@newest").number == 5
