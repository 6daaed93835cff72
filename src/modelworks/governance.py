"""The client's methods for who may do what and who did what: `client.keys`, `client.audit`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from modelworks.chain import Head
from modelworks.transport import AsyncGroup, Page, Record, Shell, given, segment, waits, yields


class AsyncKeys(AsyncGroup):
    """API keys."""

    async def create(
        self,
        name: str,
        *,
        scopes: Sequence[str] | None = None,
        expires_at: str | None = None,
        model_allow: Sequence[str] | None = None,
        ip_allow: Sequence[str] | None = None,
        project_id: str | None = None,
    ) -> Record:
        """Make a key; its `secret` is in this answer and never shown again."""
        body = given(name=name, scopes=scopes, expires_at=expires_at, model_allow=model_allow)
        body |= given(ip_allow=ip_allow, project_id=project_id)
        return dict(await self._transport.json("POST", "/api/keys", json=body))

    async def list(self, *, after: str | None = None, limit: int = 100) -> Page:
        """The project's keys, without secrets."""
        return await self._transport.page("/api/keys", after=after, limit=limit)

    async def rotate(self, key_id: str, *, overlap_s: int | None = None, expires_at: str | None = None) -> Record:
        """Make a successor with the same rights; the old secret works for `overlap_s` more seconds (a day by default)."""
        body = given(overlap_s=overlap_s, expires_at=expires_at)
        return dict(await self._transport.json("POST", f"/api/keys/{segment(key_id)}/rotate", json=body))

    async def revoke(self, key_id: str) -> Record:
        """End a key at once."""
        return dict(await self._transport.json("DELETE", f"/api/keys/{segment(key_id)}") or {})


class AsyncAudit(AsyncGroup):
    """Who changed what, in a chain that shows any tampering."""

    async def list(self, *, after: int | None = None, limit: int = 100, everything: bool = False) -> Page:
        """Entries of the project, newest first; with `after` (a number) in the order of the chain."""
        return await self._transport.page("/api/audit", **given(after=after, everything=everything or None), limit=limit)

    async def head(self) -> Head:
        """The end of the chain; note it elsewhere to prove later that nothing up to it was changed."""
        found = await self._transport.json("GET", "/api/audit/head")
        return Head(int(found["seq"]), str(found["hash"]))

    async def verify(self, *, known: Head | None = None) -> Record:
        """Have the server follow its stored chain: `holds`, `num_entries`, and where and why it breaks."""
        params = {} if known is None else {"seq": known.seq, "hash": known.hash}
        return dict(await self._transport.json("GET", "/api/audit/verify", params=params))

    async def export(self) -> AsyncGenerator[Record, None]:
        """Every entry of the platform, from the first, in order (administrators of the platform)."""
        after, more = 0, True
        while more:
            page = await self.list(after=after, limit=1000, everything=True)
            for entry in page.data:
                yield entry
                after = int(entry["seq"])
            more = page.has_more and bool(page.data)


class Keys(Shell[AsyncKeys]):
    """`AsyncKeys`, waiting."""

    create = waits(AsyncKeys.create)
    list = waits(AsyncKeys.list)
    rotate = waits(AsyncKeys.rotate)
    revoke = waits(AsyncKeys.revoke)


class Audit(Shell[AsyncAudit]):
    """`AsyncAudit`, waiting."""

    list = waits(AsyncAudit.list)
    head = waits(AsyncAudit.head)
    verify = waits(AsyncAudit.verify)
    export = yields(AsyncAudit.export)
