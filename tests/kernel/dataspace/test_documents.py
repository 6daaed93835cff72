"""Documents: what putting one means, which of them a search may see, and which bytes are kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from tests.kernel.dataspace.conftest import ANN, BEN, EVE, PROJECT, PutDocument

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.dataspace import DataspaceService, Scope, documents
from modelworks.kernel.dataspace.schemas import Known
from modelworks.kernel.dataspace.store import DocumentRow


def index_everything(spaces: DataspaceService) -> None:
    """As if an index held the documents as they are."""
    with spaces.db.transaction() as session:
        held = update(DocumentRow).values(indexed_digest=DocumentRow.digest, state="indexed")
        session.execute(held.where(DocumentRow.state != "removed"))


def scope(spaces: DataspaceService, caller: Principal = ANN, filters: Any = None) -> Scope:
    with spaces.db.reading() as session:
        return spaces.documents.scope(session, caller, "manual", filters=filters)


def names(spaces: DataspaceService, found: Sequence[str] | None) -> list[str]:
    with spaces.db.reading() as session:
        page = spaces.documents.list(session, PROJECT, "manual", limit=100)
    return sorted(document.name for document in page.data if document.id in (found or ()))


def test_the_same_key_is_the_same_document_and_the_same_bytes_change_nothing(
    spaces: DataspaceService, put: PutDocument
) -> None:
    first = put("guide/a.md", "one", attributes={"year": 2024})
    assert (first.state, first.version, first.key) == ("pending", 1, "guide/a.md")
    index_everything(spaces)
    with spaces.db.reading() as session:
        revision = spaces.row(session, PROJECT, "manual").revision
    again = put("guide/a.md", "one", licence="CC-BY-4.0")
    assert (again.id, again.version, again.state) == (first.id, 1, "indexed")
    assert (again.attributes, again.licence) == ({"year": 2024}, "CC-BY-4.0")
    with spaces.db.reading() as session:
        assert spaces.row(session, PROJECT, "manual").revision == revision
    changed = put("guide/a.md", "two", fingerprint="etag-2")
    assert (changed.id, changed.version, changed.state, changed.answers) == (first.id, 2, "pending", True)
    with spaces.db.reading() as session:
        space = spaces.get(session, PROJECT, "manual")
        assert spaces.documents.known(session, PROJECT, "manual") == {"guide/a.md": Known(changed.id, changed.digest, "etag-2")}
    assert (space.state, space.is_current, space.documents.total) == ("pending", False, 1)


def test_a_removed_document_answers_no_more_at_once_and_its_key_is_free(spaces: DataspaceService, put: PutDocument) -> None:
    one, two = put("one.md"), put("two.md")
    index_everything(spaces)
    assert scope(spaces).documents == (one.id, two.id)
    with spaces.db.transaction() as session:
        gone = spaces.documents.remove(session, PROJECT, "manual", one.id)
        assert (gone.state, gone.answers) == ("removed", False)
        with pytest.raises(NotFound, match="no document"):
            spaces.documents.get(session, PROJECT, "manual", one.id)
    assert scope(spaces).documents == (two.id,)
    with spaces.db.reading() as session:
        assert list(spaces.documents.records(session, ANN, "manual", [one.id, two.id])) == [two.id]
    # The same again is another document: what an old index holds of the first one stays hidden.
    assert put("one.md").id != one.id
    assert scope(spaces).documents == (two.id,)


def test_bytes_are_kept_while_a_document_needs_them(spaces: DataspaceService, put: PutDocument) -> None:
    one, two = put("one.md", "shared"), put("two.md", "shared")
    assert spaces.referenced([one.digest, "sha256:" + "0" * 64]) == {one.digest}
    for document in (one, two):
        assert spaces.referenced([one.digest]) == {one.digest}
        with spaces.db.transaction() as session:
            spaces.documents.remove(session, PROJECT, "manual", document.id)
    assert spaces.referenced([one.digest]) == set()


def test_a_search_sees_what_is_for_its_caller_and_has_not_expired(
    spaces: DataspaceService, put: PutDocument, clock: FixedClock
) -> None:
    put("all.md")
    put("ann.md", access=["usr_ann"])
    put("key.md", access=["key_ben", "usr_other"])
    put("soon over.md", expires_at=clock.now() + timedelta(hours=1))
    index_everything(spaces)
    put("not indexed yet.md")
    assert names(spaces, scope(spaces).documents) == ["all.md", "ann.md", "soon over.md"]
    assert names(spaces, scope(spaces, BEN).documents) == ["all.md", "key.md", "soon over.md"]
    clock.advance(3601)
    assert names(spaces, scope(spaces, BEN).documents) == ["all.md", "key.md"]
    with pytest.raises(NotFound):
        scope(spaces, EVE)
    with spaces.db.transaction() as session:
        assert spaces.documents.expire(session, spaces.row(session, PROJECT, "manual", lock=True)) == 1


def test_a_large_space_names_only_what_must_not_answer(
    spaces: DataspaceService, put: PutDocument, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_NAMED", 2)
    made = [put(f"{number}.md", attributes={"number": number}) for number in range(5)]
    secret = put("secret.md", access=["usr_ann"])
    index_everything(spaces)
    with spaces.db.transaction() as session:
        spaces.documents.remove(session, PROJECT, "manual", made[0].id)
    assert scope(spaces) == Scope(None, (made[0].id,))
    found = scope(spaces, BEN)
    assert (found.documents, set(found.without)) == (None, {made[0].id, secret.id})
    # A filter names what is left, and never what is removed.
    assert scope(spaces, BEN, {"type": "lt", "key": "number", "value": 2}).documents == (made[1].id,)
    ends = put("soon over.md", expires_at=clock.now() + timedelta(hours=1))
    index_everything(spaces)
    assert ends.id not in scope(spaces).without
    clock.advance(3601)
    assert set(scope(spaces).without) == {made[0].id, ends.id}


def test_documents_are_listed_by_state_and_name(spaces: DataspaceService, put: PutDocument) -> None:
    put("alpha.md", file_id="file_1")
    index_everything(spaces)
    put("beta.md", source_id="src_1", key="k")
    with spaces.db.transaction() as session:
        listed = spaces.documents.list(session, PROJECT, "manual", state="indexed").data
        assert [document.name for document in listed] == ["alpha.md"]
        assert spaces.documents.find(session, PROJECT, "manual", "file_1") == listed[0]
        assert [each.name for each in spaces.documents.list(session, PROJECT, "manual", search="BET").data] == ["beta.md"]
        assert list(spaces.documents.known(session, PROJECT, "manual", "src_1")) == ["k"]
        assert spaces.documents.remove_keys(session, PROJECT, "manual", "src_1", ["k", "never there"]) == 1
        assert spaces.documents.known(session, PROJECT, "manual", "src_1") == {}
        updated = spaces.documents.update(session, PROJECT, "manual", listed[0].id, name="Alpha", access=["usr_ben"])
        assert (updated.name, updated.access) == ("Alpha", ["usr_ben"])
        assert spaces.documents.scope(session, ANN, "manual").is_empty


def test_a_key_that_no_index_takes_is_refused(spaces: DataspaceService, put: PutDocument) -> None:
    with pytest.raises(InvalidRequest, match="2001 bytes"):
        put("x", key="文" * 667)
