"""Searching a space: what the caller may see, vectors of the index's own encoder, a reranker, and what is recorded."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kernel.gateway.spaces.library import INDEX_VERSION, Library

from modelworks.contract.errors import Unavailable
from modelworks.kernel.dataspace.schemas import SpaceSettings, SpaceUpdate
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.spaces.search import Found, SpaceSearch, Wish

QUERY = "warranty of the X200"


async def search(library: Library, **wish: Any) -> list[Found]:
    """What a search finds for the test's own key, recorded as a request."""
    gateway: GatewayService = library.stage.gateway
    principal = library.stage.access.authenticate(library.stage.secret)
    finder = SpaceSearch(gateway, library.stage.spaces)
    meter = gateway.meter(principal, {}, "/v1/test")
    meter.model = "space:handbooks"
    space = await finder.opened(principal, "handbooks")
    found = await finder.find(principal, space, Wish(**{"queries": (QUERY,), **wish}), meter)
    await meter.record(200)
    return found


def facts(library: Library, **more: Any) -> None:
    library.stage.catalog.metadata[INDEX_VERSION] = {
        "index": {"num_documents": 1, "num_passages": 3, "encoder": "vectors", "encoder_version": "mdl_vec", **more}
    }


async def test_what_was_removed_or_is_not_for_the_caller_is_not_found(library: Library) -> None:
    stage = library.stage
    other = library.add("other.txt", "The warranty of the X200 is told here, too.")
    hidden = library.add("hidden.txt", "The warranty of the X200 is a secret.", access=["key_of_somebody"])
    assert {each.document.name for each in await search(library)} == {"x200.pdf", "other.txt"}
    with stage.db.transaction() as session:
        stage.spaces.documents.remove(session, stage.project_id, library.space_id, other)
    found = await search(library)
    assert {each.document.name for each in found} == {"x200.pdf"}
    assert hidden not in (library.asked[-1].documents or ())


async def test_attributes_filter_and_scores_have_a_threshold(library: Library) -> None:
    library.add("old.txt", "The warranty of the X200 was 12 months.", attributes={"year": 2019})
    library.add("new.txt", "The warranty of the X200 is 24 months.", attributes={"year": 2024})
    found = await search(library, filters={"type": "gte", "key": "year", "value": 2020})
    assert [each.document.name for each in found] == ["new.txt"]
    assert await search(library, filters={"type": "eq", "key": "year", "value": 1900}) == []
    everything = await search(library)
    best = max(each.score for each in everything)
    assert 0 < len(await search(library, threshold=best)) < len(everything)


async def test_several_queries_are_one_order_without_a_passage_twice(library: Library) -> None:
    found = await search(library, queries=("warranty", "sheets of paper", "warranty X200"), limit=10)
    ids = [each.passage.id for each in found]
    assert len(ids) == len(set(ids)) == 3
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


async def test_queries_are_turned_into_vectors_by_the_encoder_that_the_index_names(library: Library) -> None:
    facts(library)
    stage = library.stage
    stage.deploy("vectors", task="feature-extraction", version_id="mdl_vec")
    stage.replica.output = {"embeddings": [[0.5, -0.5]], "prompt_tokens": 4}
    await search(library)
    assert library.asked[0].vectors == [[0.5, -0.5]]
    assert stage.replica.requests[0]["kind"] == "query"
    encoder, space = sorted(stage.used(), key=lambda record: record.model, reverse=True)
    assert (encoder.model, encoder.prompt_tokens, encoder.endpoint) == ("vectors", 4, "/v1/test")
    assert (space.model, space.prompt_tokens) == ("space:handbooks", 0)


async def test_without_that_encoder_words_alone_decide(library: Library) -> None:
    facts(library)
    stage = library.stage
    assert await search(library)
    stage.deploy("vectors", task="feature-extraction", version_id="mdl_newer")
    assert await search(library)
    stage.deploy("vectors", task="feature-extraction", version_id="mdl_vec")
    stage.replica.refusal = (503, Unavailable("It is loading.").to_wire())
    assert await search(library)
    assert [asked.vectors for asked in library.asked] == [None, None, None]


async def test_a_reranker_decides_the_order_and_the_scores(library: Library) -> None:
    stage = library.stage
    with stage.db.transaction() as session:
        settings = SpaceSettings(reranker="judge")
        stage.spaces.update(session, stage.project_id, library.space_id, SpaceUpdate(settings=settings))
    stage.deploy("judge", task="text-ranking", version_id="mdl_judge")
    stage.replica.output = {"scores": [0.1, 0.2, 0.9], "prompt_tokens": 30}
    plain = await search(library, reranked=False)
    found = await search(library, limit=2)
    assert [each.score for each in found] == [0.9, 0.2]
    assert found[0].passage == plain[2].passage
    assert library.asked[-1].limit == 20
    assert {record.model: record.prompt_tokens for record in stage.used()} == {"space:handbooks": 0, "judge": 30}


async def test_an_index_that_is_not_deployed_is_said_in_the_space_s_own_name(library: Library) -> None:
    stage = library.stage
    with stage.db.reading() as session:
        deployment = stage.spaces.get(session, stage.project_id, "handbooks").deployment
    del stage.table[(stage.project_id, deployment)]
    stage.pool.publish(dict(stage.table))
    with pytest.raises(Unavailable) as refused:
        await search(library)
    assert (refused.value.error_code, "handbooks" in refused.value.message) == ("space_unavailable", True)
