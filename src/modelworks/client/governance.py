"""The client's methods for who may do what and who did what: `client.keys`, `client.members`, `client.audit`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from modelworks.chain import Head
from modelworks.client.transport import AsyncGroup, Page, Record, Shell, given, segment, waits, yields


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
        user_id: str | None = None,
    ) -> Record:
        """Make a key; its `secret` is in this answer and never shown again."""
        body = given(name=name, scopes=scopes, expires_at=expires_at, model_allow=model_allow)
        body |= given(ip_allow=ip_allow, project_id=project_id, user_id=user_id)
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


class AsyncMembers(AsyncGroup):
    """Organisations, projects, accounts, and who has which role where. A place is an organisation or a project."""

    async def organisations(self) -> Page:
        """Those that the key may see."""
        return await self._transport.page("/api/organisations")

    async def create_organisation(self, name: str) -> Record:
        """Raises Conflict where the name is taken."""
        return dict(await self._transport.json("POST", "/api/organisations", json={"name": name}))

    async def projects(self) -> Page:
        """Those that the key may see."""
        return await self._transport.page("/api/projects")

    async def create_project(self, name: str, *, organisation_id: str | None = None) -> Record:
        """A project, by default of the first organisation."""
        body = given(name=name, organisation_id=organisation_id)
        return dict(await self._transport.json("POST", "/api/projects", json=body))

    async def declare_use(self, project_id: str, use: str | None) -> Record:
        """Say what a project does with models: "commercial", "non-commercial", or None for undeclared."""
        return dict(await self._transport.json("PATCH", f"/api/projects/{segment(project_id)}", json={"use": use}))

    async def create_account(self, name: str, *, place_id: str, role: str, email: str | None = None) -> Record:
        """A person where an address is given, else a service account, with a first role."""
        kind = "service_account" if email is None else "person"
        body = given(kind=kind, name=name, place_id=place_id, role=role, email=email)
        return dict(await self._transport.json("POST", "/api/users", json=body))

    async def set_password(self, user_id: str, password: str) -> None:
        """Give a person a password (administrators of the platform); their sessions end."""
        await self._transport.json("PUT", f"/api/users/{segment(user_id)}/password", json={"password": password})

    async def enable(self, user_id: str, enabled: bool = True) -> Record:
        """Let an account work, or refuse it with all of its keys and sessions."""
        verb = "enable" if enabled else "disable"
        return dict(await self._transport.json("POST", f"/api/users/{segment(user_id)}/{verb}"))

    async def list(self, *, place_id: str | None = None) -> Page:
        """Who has which role; by default in the key's project."""
        return await self._transport.page("/api/members", **given(place_id=place_id))

    async def put(self, user: str, role: str, *, place_id: str | None = None) -> Record:
        """Give an account (id or address) a role, instead of the one that it has there."""
        body = given(place_id=place_id, role=role)
        return dict(await self._transport.json("PUT", f"/api/members/{segment(user)}", json=body))

    async def remove(self, user: str, *, place_id: str | None = None) -> Record:
        """Take an account's role away."""
        params = given(place_id=place_id)
        return dict(await self._transport.json("DELETE", f"/api/members/{segment(user)}", params=params))


class AsyncSecrets(AsyncGroup):
    """Secrets of the project, such as keys of servers elsewhere; values go in and never come out."""

    async def put(self, name: str, value: str) -> Record:
        """Store a secret, or another value under its name."""
        return dict(await self._transport.json("PUT", f"/api/secrets/{segment(name)}", json={"value": value}))

    async def list(self) -> Page:
        """Names and times."""
        return await self._transport.page("/api/secrets")

    async def remove(self, name: str) -> Record:
        """Forget a secret; raises NotFound."""
        return dict(await self._transport.json("DELETE", f"/api/secrets/{segment(name)}"))


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


class Members(Shell[AsyncMembers]):
    """`AsyncMembers`, waiting."""

    organisations = waits(AsyncMembers.organisations)
    create_organisation = waits(AsyncMembers.create_organisation)
    projects = waits(AsyncMembers.projects)
    create_project = waits(AsyncMembers.create_project)
    declare_use = waits(AsyncMembers.declare_use)
    create_account = waits(AsyncMembers.create_account)
    set_password = waits(AsyncMembers.set_password)
    enable = waits(AsyncMembers.enable)
    list = waits(AsyncMembers.list)
    put = waits(AsyncMembers.put)
    remove = waits(AsyncMembers.remove)


class Secrets(Shell[AsyncSecrets]):
    """`AsyncSecrets`, waiting."""

    put = waits(AsyncSecrets.put)
    list = waits(AsyncSecrets.list)
    remove = waits(AsyncSecrets.remove)


class Audit(Shell[AsyncAudit]):
    """`AsyncAudit`, waiting."""

    list = waits(AsyncAudit.list)
    head = waits(AsyncAudit.head)
    verify = waits(AsyncAudit.verify)
    export = yields(AsyncAudit.export)
