"""The client's methods for data spaces: `client.spaces`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelworks.client.transport import AsyncGroup, Page, Record, Shell, given, segment, waits

#: States of a space in which its pipeline has nothing to do.
_AT_REST = frozenset({"empty", "ready", "failed", "expired"})


class AsyncSpaces(AsyncGroup):
    """Documents that are searched and answered from together. A space is named by its id or its name."""

    async def create(
        self,
        name: str | None = None,
        *,
        description: str | None = None,
        metadata: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        expires_after_days: int | None = None,
    ) -> Record:
        """Make a space; `settings`: language_model, encoder, reranker (deployments), parsing, index …"""
        body = given(
            name=name, description=description, metadata=metadata, settings=settings, expires_after_days=expires_after_days
        )
        return dict(await self._transport.json("POST", "/api/spaces", json=body))

    async def list(self, *, search: str | None = None, after: str | None = None, limit: int = 100) -> Page:
        """Newest first, with states and counts."""
        return await self._transport.page("/api/spaces", **given(search=search, after=after), limit=limit)

    async def get(self, space: str) -> Record:
        """One space; `build` says how far its pipeline is. Raises NotFound."""
        return dict(await self._transport.json("GET", _path(space)))

    async def update(self, /, space: str, **fields: Any) -> Record:
        """Change what is given: name, description, metadata, settings (as a whole), expires_after_days (0: never)."""
        return dict(await self._transport.json("PATCH", _path(space), json=fields))

    async def remove(self, space: str) -> Record:
        """Delete a space with everything that was made for it."""
        return dict(await self._transport.json("DELETE", _path(space)))

    async def build(self, space: str, *, anew: bool = False, dry_run: bool = False) -> Record:
        """Build now, also what failed before; with `anew` although nothing has changed."""
        params = given(anew=anew or None, dry_run=dry_run or None)
        return dict(await self._transport.json("POST", f"{_path(space)}/build", params=params))

    async def builds(self, space: str, *, after: str | None = None, limit: int = 100) -> Page:
        """Newest first."""
        return await self._transport.page(f"{_path(space)}/builds", **given(after=after), limit=limit)

    async def events(self, space: str, *, after_seq: int = 0, limit: int = 200) -> Page:
        """What happened to a space, in order."""
        return await self._transport.page(f"{_path(space)}/events", after_seq=after_seq, limit=limit)

    async def wait(self, space: str, *, poll_s: float = 0.5, on_change: Callable[[Record], None] | None = None) -> Record:
        """Wait until the index has followed every change, or a build failed: `state` says which.

        Args:
            on_change: hears of the space each time that its state, its step or its progress is another.
        """
        seen: Any = None
        while True:
            found = await self.get(space)
            build = found["build"] or {}
            now = (found["state"], build.get("id"), build.get("step"), build.get("progress"))
            if now != seen and on_change is not None:
                on_change(found)
            seen = now
            if found["state"] in _AT_REST:
                return found
            await asyncio.sleep(poll_s)

    async def digests(self, space: str) -> dict[str, str]:
        """Digest by key of the documents that people put in: what need not be sent again."""
        answer: Record = await self._transport.json("GET", f"{_path(space)}/digests")
        return dict(answer["digests"])

    async def put(self, /, space: str, path: Path | str, *, name: str | None = None, **fields: Any) -> Record:
        """Upload a file as a document: `{"change": "added|updated|unchanged", "document"}`; known bytes are not sent again.

        Args:
            fields: key, media_type, attributes, licence, owner, access (ids of users and keys), expires_at.
        """
        from modelworks.client.modelworks import AsyncBlobs

        path = Path(path)
        sent = await AsyncBlobs(self._transport).upload(path)
        return await self.put_stored(space, digest=sent["digest"], name=name or path.name, **fields)

    async def put_stored(self, /, space: str, **fields: Any) -> Record:
        """Put a document in whose bytes are stored already: by `digest` and `name`, or by `file_id` of /v1/files."""
        # The same wish twice is the same wish: repeating is safe.
        return dict(await self._transport.json("POST", f"{_path(space)}/documents", json=given(**fields), retry=True))

    async def documents(
        self,
        space: str,
        *,
        state: str | None = None,
        search: str | None = None,
        dropped: bool = False,
        after: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Newest first, with what became of each; with `dropped` those of which cleaning took passages, or changed some."""
        params = given(state=state, search=search, dropped=dropped or None, after=after)
        return await self._transport.page(f"{_path(space)}/documents", **params, limit=limit)

    async def document(self, space: str, document_id: str) -> Record:
        """One document; `faults` say why it could not be read."""
        return dict(await self._transport.json("GET", f"{_path(space)}/documents/{segment(document_id)}"))

    async def update_document(self, /, space: str, document_id: str, **fields: Any) -> Record:
        """Change what is known of a document: name, attributes, licence, owner, access, expires_at."""
        path = f"{_path(space)}/documents/{segment(document_id)}"
        return dict(await self._transport.json("PATCH", path, json=fields))

    async def remove_document(self, space: str, document_id: str) -> Record:
        """Remove a document; it answers no search from now on."""
        return dict(await self._transport.json("DELETE", f"{_path(space)}/documents/{segment(document_id)}"))

    async def preview_cleaning(self, space: str, *, cleaning: Mapping[str, Any] | None = None) -> Record:
        """Try rules, by default the space's own, on the passages of the last build: the run that does it; nothing changes."""
        body = given(cleaning=cleaning)
        return dict(await self._transport.json("POST", f"{_path(space)}/cleaning/preview", json=body))

    async def cleaning_report(self, space: str, run_id: str, *, per_rule: int = 5) -> Record:
        """What a preview has found by rule, with examples of what would go."""
        path = f"{_path(space)}/cleaning/preview/{segment(run_id)}"
        return dict(await self._transport.json("GET", path, params={"per_rule": per_rule}))

    async def dropped(self, space: str, document_id: str, *, limit: int = 1000) -> Record:
        """What cleaning took out of a document, and why; its passages are in `data`."""
        path = f"{_path(space)}/documents/{segment(document_id)}/dropped"
        return dict(await self._transport.json("GET", path, params={"limit": limit}))

    async def learn(self, space: str, *, dry_run: bool = False) -> Record:
        """Begin to make a model of the space's own; the learning, for a dry run what it would be made from."""
        path = f"{_path(space)}/learn" + ("?dry_run=true" if dry_run else "")
        return dict(await self._transport.json("POST", path))

    async def tables(self, space: str) -> Page:
        """The tables that questions of the caller are computed from, with columns, types and rows."""
        return await self._transport.page(f"{_path(space)}/tables")

    async def learnings(self, space: str, *, after: str | None = None, limit: int = 20) -> Page:
        """What a space has learned, newest first, with what it was worth."""
        return await self._transport.page(f"{_path(space)}/learnings", **given(after=after), limit=limit)

    async def learning(self, space: str, learning_id: str) -> Record:
        """One, with how far it is."""
        return dict(await self._transport.json("GET", f"{_path(space)}/learnings/{segment(learning_id)}"))

    async def roll_back_learning(self, space: str) -> Record:
        """Answer as before the last time that was learned; the space."""
        return dict(await self._transport.json("POST", f"{_path(space)}/learn/rollback"))

    async def impact(self, space: str, document_id: str) -> Record:
        """Everything that was made of a document: versions, indexes, samples, models, and what answers with them now."""
        return dict(await self._transport.json("GET", f"{_path(space)}/documents/{segment(document_id)}/impact"))

    async def why(self, answer_id: str) -> Record:
        """What an answer rests on, by its id or that of its request: documents, index, model, and what that was trained on."""
        return dict(await self._transport.json("GET", f"/api/spaces/answers/{segment(answer_id)}"))

    async def forget(self, space: str, document_id: str, *, dry_run: bool = False) -> Record:
        """Begin to forget a document, which cannot be taken back; what failed goes on. A dry run is `impact`."""
        path = f"{_path(space)}/documents/{segment(document_id)}/forget" + ("?dry_run=true" if dry_run else "")
        # The same wish twice is the same wish: repeating is safe.
        return dict(await self._transport.json("POST", path, retry=True))

    async def forgettings(self, space: str, *, after: str | None = None, limit: int = 20) -> Page:
        """What a space forgets or has forgotten, newest first, with the reports."""
        return await self._transport.page(f"{_path(space)}/forgettings", **given(after=after), limit=limit)

    async def forgetting(self, forgetting_id: str) -> Record:
        """One, with how far it is; `report` at the end."""
        return dict(await self._transport.json("GET", f"/api/forgettings/{segment(forgetting_id)}"))

    async def report_key(self) -> str:
        """The public key (hexadecimal) that reports are verified with; note it elsewhere."""
        return str((await self._transport.json("GET", "/api/report-key"))["public_key"])

    async def publish(
        self,
        space: str,
        *,
        name: str = "chat",
        origins: Sequence[str] = (),
        share: bool = False,
        title: str | None = None,
        greeting: str | None = None,
        language: str = "auto",
        requests_per_minute: int | None = None,
        requests_per_minute_per_address: int | None = None,
        expires_at: str | None = None,
        dry_run: bool = False,
    ) -> Record:
        """Let readers of other pages ask a space: `{"publication", "token", "snippet", "link"}`; the token is shown once.

        Args:
            origins: of the pages that may hold the chat (https://shop.example). share: also as a page of the server.
            language: auto, en or zh. expires_at: with a time zone, as 2027-01-31T00:00:00Z.
        """
        body = given(
            name=name,
            origins=list(origins),
            share=share,
            title=title,
            greeting=greeting,
            language=language,
            requests_per_minute=requests_per_minute,
            requests_per_minute_per_address=requests_per_minute_per_address,
            expires_at=expires_at,
        )
        params = given(dry_run=dry_run or None)
        return dict(await self._transport.json("POST", f"{_path(space)}/publications", json=body, params=params))

    async def publications(self, space: str, *, after: str | None = None, limit: int = 20) -> Page:
        """Newest first, without their tokens; `is_live` says whether they answer."""
        return await self._transport.page(f"{_path(space)}/publications", **given(after=after), limit=limit)

    async def unpublish(self, space: str, publication: str) -> Record:
        """End a publication, by its id, at once."""
        return dict(await self._transport.json("DELETE", f"{_path(space)}/publications/{segment(publication)}"))

    async def feedback(self, space: str, *, rating: str | None = None, after: str | None = None, limit: int = 20) -> Page:
        """What readers said of published answers, newest first; `rating`: up or down."""
        return await self._transport.page(f"{_path(space)}/feedback", **given(rating=rating, after=after), limit=limit)

    async def accept_feedback(self, space: str, feedback: str, *, undo: bool = False) -> Record:
        """Let the next model of the space learn a reader's correction; with `undo` not any more."""
        path = f"{_path(space)}/feedback/{segment(feedback)}/accept" + ("?undo=true" if undo else "")
        return dict(await self._transport.json("POST", path))

    async def search(self, space: str, query: str, *, limit: int = 10, filters: Mapping[str, Any] | None = None) -> Page:
        """Passages that answer a query, best first, in the form of OpenAI's vector stores."""
        space_id = (await self.get(space))["id"]
        body = given(query=query, max_num_results=limit, filters=filters)
        answer: Record = await self._transport.json("POST", f"/v1/vector_stores/{space_id}/search", json=body, retry=True)
        return Page(data=list(answer["data"]), has_more=bool(answer.get("has_more")))

    async def add_source(
        self,
        space: str,
        source: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any] | None = None,
        schedule: Mapping[str, Any] | None = None,
        dry_run: bool = False,
    ) -> Record:
        """Let documents come from a place by themselves.

        Args:
            source: its `kind` (folder, archive, web, feed, s3, git, mbox, imap, sql, rest) and what that kind asks for.
            defaults: licence, owner, access (ids of users and keys). schedule: every_s or daily_at.
        """
        body = given(source=source, defaults=defaults, schedule=schedule)
        params = given(dry_run=dry_run or None)
        return dict(await self._transport.json("POST", f"{_path(space)}/sources", json=body, params=params))

    async def sources(self, space: str) -> Page:
        """Oldest first, with what the last look at each found."""
        return await self._transport.page(f"{_path(space)}/sources")

    async def source(self, space: str, source_id: str) -> Record:
        """One source; `report` says what the last look found, `error` why it failed."""
        return dict(await self._transport.json("GET", f"{_path(space)}/sources/{segment(source_id)}"))

    async def update_source(
        self,
        space: str,
        source_id: str,
        *,
        schedule: Mapping[str, Any] | None = None,
        is_paused: bool | None = None,
        source: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> Record:
        """Change when a source is looked at; an upload (`source`, of the same kind) may take the place of the former one."""
        path = f"{_path(space)}/sources/{segment(source_id)}"
        body = given(schedule=schedule, is_paused=is_paused, source=source, defaults=defaults)
        return dict(await self._transport.json("PATCH", path, json=body))

    async def sync_source(self, space: str, source_id: str, *, dry_run: bool = False, allow_empty: bool = False) -> Record:
        """Look at a source now: `{"source", "run_id"}`. The result of a dry run says what would change."""
        body = {"dry_run": dry_run, "allow_empty": allow_empty}
        return dict(await self._transport.json("POST", f"{_path(space)}/sources/{segment(source_id)}/sync", json=body))

    async def remove_source(self, space: str, source_id: str, *, keep: bool = False) -> Record:
        """Remove a source with its documents; with `keep` these stay."""
        path = f"{_path(space)}/sources/{segment(source_id)}"
        return dict(await self._transport.json("DELETE", path, params=given(keep=keep or None)))


class Spaces(Shell[AsyncSpaces]):
    """`AsyncSpaces`, waiting."""

    create = waits(AsyncSpaces.create)
    list = waits(AsyncSpaces.list)
    get = waits(AsyncSpaces.get)
    update = waits(AsyncSpaces.update)
    remove = waits(AsyncSpaces.remove)
    build = waits(AsyncSpaces.build)
    builds = waits(AsyncSpaces.builds)
    events = waits(AsyncSpaces.events)
    wait = waits(AsyncSpaces.wait)
    digests = waits(AsyncSpaces.digests)
    put = waits(AsyncSpaces.put)
    put_stored = waits(AsyncSpaces.put_stored)
    documents = waits(AsyncSpaces.documents)
    document = waits(AsyncSpaces.document)
    update_document = waits(AsyncSpaces.update_document)
    remove_document = waits(AsyncSpaces.remove_document)
    preview_cleaning = waits(AsyncSpaces.preview_cleaning)
    cleaning_report = waits(AsyncSpaces.cleaning_report)
    dropped = waits(AsyncSpaces.dropped)
    learn = waits(AsyncSpaces.learn)
    learnings = waits(AsyncSpaces.learnings)
    learning = waits(AsyncSpaces.learning)
    roll_back_learning = waits(AsyncSpaces.roll_back_learning)
    impact = waits(AsyncSpaces.impact)
    tables = waits(AsyncSpaces.tables)
    why = waits(AsyncSpaces.why)
    forget = waits(AsyncSpaces.forget)
    forgettings = waits(AsyncSpaces.forgettings)
    forgetting = waits(AsyncSpaces.forgetting)
    report_key = waits(AsyncSpaces.report_key)
    publish = waits(AsyncSpaces.publish)
    publications = waits(AsyncSpaces.publications)
    unpublish = waits(AsyncSpaces.unpublish)
    accept_feedback = waits(AsyncSpaces.accept_feedback)
    feedback = waits(AsyncSpaces.feedback)
    search = waits(AsyncSpaces.search)
    add_source = waits(AsyncSpaces.add_source)
    sources = waits(AsyncSpaces.sources)
    source = waits(AsyncSpaces.source)
    update_source = waits(AsyncSpaces.update_source)
    sync_source = waits(AsyncSpaces.sync_source)
    remove_source = waits(AsyncSpaces.remove_source)


def _path(space: str) -> str:
    return f"/api/spaces/{segment(space)}"
