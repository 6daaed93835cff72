"""embed and rerank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import Answer, Asked, FakeServer


@pytest.fixture
def models(server: FakeServer) -> FakeServer:
    def vectors(asked: Asked) -> Answer:
        data = [{"index": index, "embedding": [0.5, -0.25, 0, 1, 2]} for index, _ in enumerate(asked.json["input"])]
        return Answer({"object": "list", "data": data, "usage": {"prompt_tokens": 4}})

    results: list[dict[str, Any]] = [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.5}]
    server.on("POST", "/v1/embeddings", vectors)
    server.on("POST", "/v1/rerank", lambda _: Answer({"results": results}))
    return server


def test_vectors_are_shown_by_their_beginning_or_whole(cli: Cli, models: FakeServer) -> None:
    done = cli("embed", "m", "hello", "你好", "--dimensions", "5", "--kind", "query", "--truncate")
    assert done.code == 0
    assert done.out.splitlines() == [
        "INDEX  DIMENSIONS  VECTOR                             TEXT",
        "0      5           +0.5000 -0.2500 +0.0000 +1.0000 …  hello",
        "1      5           +0.5000 -0.2500 +0.0000 +1.0000 …  你好",
    ]
    assert models.asked[0].json == {
        "model": "m",
        "input": ["hello", "你好"],
        "dimensions": 5,
        "input_type": "query",
        "truncate": True,
    }
    assert len(cli("embed", "m", "a", "-o", "json").json["data"][0]["embedding"]) == 5
    assert models.asked[1].json == {"model": "m", "input": ["a"]}


def test_texts_come_from_lines_of_a_pipe_or_a_file(cli: Cli, models: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    for arguments in (["m"], ["m", "-"], ["m", f"@{tmp_path / 'texts.txt'}"]):
        assert cli("embed", *arguments, piped="one\n\ntwo\n").code == 0
        assert models.asked[-1].json["input"] == ["one", "two"]
    assert cli("embed", "m", piped=" \n").code == 2


def test_documents_come_back_the_best_first(cli: Cli, models: FakeServer) -> None:
    done = cli("rerank", "m", "where", "here", "there", "--top-n", "2")
    assert done.out.splitlines() == ["SCORE   INDEX  DOCUMENT", "0.7500  1      there", "0.5000  0      here"]
    assert models.asked[0].json == {"model": "m", "query": "where", "documents": ["here", "there"], "top_n": 2}
    assert cli("rerank", "m", "where", "here", "there", "-o", "name").out == "1\n0\n"
    assert cli("rerank", "m", "where", "a", "b", "-o", "json").json["results"][0]["index"] == 1
