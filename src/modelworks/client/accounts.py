"""The client's methods for usage, `client.usage`, and for budgets, limits, prices and invoices, `client.accounts`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from modelworks.client.transport import AsyncGroup, Page, Record, Shell, given, segment, waits, yields


class AsyncUsage(AsyncGroup):
    """Who asked which model for how much."""

    async def summary(self, *, since: str | None = None, until: str | None = None, group_by: str = "model") -> Record:
        """Requests and tokens in `data` by model, key or day, and in `total`; times are ISO 8601, `cost` in micro-units."""
        params = {"since": since, "until": until, "group_by": group_by}
        return dict(await self._transport.json("GET", "/api/usage", params=params))

    async def requests(self, *, after: str | None = None, limit: int = 100) -> Page:
        """Single requests, newest first."""
        return await self._transport.page("/api/usage/requests", after=after, limit=limit)

    async def export(self, *, since: str | None = None, until: str | None = None) -> AsyncGenerator[bytes, None]:
        """Every request of the project as CSV, oldest first, piece by piece."""
        params = {"since": since, "until": until}
        async with self._transport.stream("GET", "/api/usage/export", params=params) as answer:
            async for piece in answer.aiter_bytes():
                yield piece


class AsyncAccounts(AsyncGroup):
    """What may be used, what it costs, and what it came to. Amounts of money are micro-units of the platform's currency."""

    async def budgets(self, *, project_id: str | None = None) -> Page:
        """The project's budgets, with what is used and reserved of them now."""
        return await self._transport.page("/api/budgets", project_id=project_id)

    async def set_budget(
        self,
        metric: str,
        amount: int,
        *,
        period: str = "month",
        scope: str = "project",
        subject: str | None = None,
        project_id: str | None = None,
        dry_run: bool = False,
    ) -> Record:
        """Set how much may be used per day or month (UTC).

        Args:
            metric: tokens, requests or cost.
            scope: project, key or model; for the last two `subject` is the key's id or the model's name.
        """
        body = given(metric=metric, amount=amount, period=period, scope=scope, subject=subject, project_id=project_id)
        return await self._put("/api/budgets", body, dry_run=dry_run)

    async def remove_budget(self, budget_id: str, *, project_id: str | None = None) -> Record:
        """Take a budget away."""
        params = {"project_id": project_id}
        return dict(await self._transport.json("DELETE", f"/api/budgets/{segment(budget_id)}", params=params))

    async def limits(self, *, project_id: str | None = None) -> Page:
        """The project's limits, with what is taken of them now."""
        return await self._transport.page("/api/limits", project_id=project_id)

    async def set_limit(
        self,
        metric: str,
        amount: int,
        *,
        scope: str = "project",
        subject: str | None = None,
        project_id: str | None = None,
        dry_run: bool = False,
    ) -> Record:
        """Set how many requests or tokens per minute, or how many requests at the same time (`concurrency`)."""
        body = given(metric=metric, amount=amount, scope=scope, subject=subject, project_id=project_id)
        return await self._put("/api/limits", body, dry_run=dry_run)

    async def remove_limit(self, limit_id: str, *, project_id: str | None = None) -> Record:
        """Take a limit away."""
        params = {"project_id": project_id}
        return dict(await self._transport.json("DELETE", f"/api/limits/{segment(limit_id)}", params=params))

    async def prices(self, model: str | None = None, *, project_id: str | None = None) -> Page:
        """Prices that hold, held or will hold, newest first for each model."""
        return await self._transport.page("/api/prices", model=model, project_id=project_id)

    async def set_price(
        self,
        model: str,
        *,
        input: int,
        output: int,
        cached: int | None = None,
        valid_from: str | None = None,
        project_id: str | None = None,
        dry_run: bool = False,
    ) -> Record:
        """Let a price per million tokens hold from now or from a later moment on; `*` is every other model."""
        body = given(model=model, input=input, output=output, cached=cached, valid_from=valid_from, project_id=project_id)
        params = {"dry_run": "true"} if dry_run else {}
        return dict(await self._transport.json("POST", "/api/prices", json=body, params=params))

    async def invoices(self, month: str | None = None, *, project_id: str | None = None) -> Page:
        """What the project's months came to, newest first."""
        return await self._transport.page("/api/invoices", month=month, project_id=project_id)

    async def verify(self, *, project_id: str | None = None, everything: bool = False) -> Record:
        """Compute every invoice anew; `first_difference` is None where requests, ledger and invoices agree."""
        params: dict[str, Any] = {"project_id": project_id, "everything": "true" if everything else None}
        return dict(await self._transport.json("GET", "/api/invoices/verify", params=params))

    async def _put(self, path: str, body: Record, *, dry_run: bool) -> Record:
        params = {"dry_run": "true"} if dry_run else {}
        return dict(await self._transport.json("PUT", path, json=body, params=params))


class Usage(Shell[AsyncUsage]):
    """`AsyncUsage`, waiting."""

    summary = waits(AsyncUsage.summary)
    requests = waits(AsyncUsage.requests)
    export = yields(AsyncUsage.export)


class Accounts(Shell[AsyncAccounts]):
    """`AsyncAccounts`, waiting."""

    budgets = waits(AsyncAccounts.budgets)
    set_budget = waits(AsyncAccounts.set_budget)
    remove_budget = waits(AsyncAccounts.remove_budget)
    limits = waits(AsyncAccounts.limits)
    set_limit = waits(AsyncAccounts.set_limit)
    remove_limit = waits(AsyncAccounts.remove_limit)
    prices = waits(AsyncAccounts.prices)
    set_price = waits(AsyncAccounts.set_price)
    invoices = waits(AsyncAccounts.invoices)
    verify = waits(AsyncAccounts.verify)
