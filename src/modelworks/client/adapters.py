"""The client's methods for adapters of deployments; `client.deployments` has them."""

from __future__ import annotations

from modelworks.client.transport import AsyncGroup, Page, Record, given, segment


class AsyncAdapters(AsyncGroup):
    """What a deployment answers with beside its base."""

    async def add_adapter(self, deployment: str, model: str, *, name: str | None = None, dry_run: bool = False) -> Record:
        """Load an adapter on a deployment of its base, under a name of its own; the same wish again changes nothing.

        Raises:
            InvalidRequest: it is no adapter, or one of another base (`adapter_of_another_base`). Conflict: the name is taken.
        """
        body = {"deployment": deployment, "model": model, **given(name=name)}
        params = {"dry_run": "true"} if dry_run else {}
        return dict(await self._transport.json("POST", "/api/adapters", json=body, params=params, retry=True))

    async def adapters(self, deployment: str | None = None) -> Page:
        """Those of one deployment, or of all, with their state."""
        return await self._transport.page("/api/adapters", deployment=deployment)

    async def remove_adapter(self, name: str) -> Record:
        """Unload it; running requests are finished first."""
        return dict(await self._transport.json("DELETE", f"/api/adapters/{segment(name)}") or {})
