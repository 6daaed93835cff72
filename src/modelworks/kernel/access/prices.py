"""What models cost: prices that hold from a moment on, and the exact arithmetic of a request's cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.access.store import PriceRow
from modelworks.kernel.base.clock import Clock, is_moment
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.ids import new_id

#: Stands for every model that has no price of its own.
ANY_MODEL: Final = "*"
#: The project of prices that hold for all projects.
EVERYWHERE: Final = ""
_MILLION: Final = 1_000_000
_MAX_PRICE: Final = 10**12


@dataclass(frozen=True, slots=True)
class Rate:
    """Micro-units per million tokens; `cached` is for those of the prompt that the engine had kept."""

    id: str
    input: int
    cached: int
    output: int

    def cost(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> int:
        """Micro-units, rounded up once for the whole request."""
        cached = min(max(cached_tokens, 0), prompt_tokens)
        total = (prompt_tokens - cached) * self.input + cached * self.cached + completion_tokens * self.output
        return -(-total // _MILLION)

    def most(self, prompt_tokens: int, completion_tokens: int) -> int:
        """The most that so many tokens can cost, whatever part of the prompt was cached."""
        return -(-(prompt_tokens * max(self.input, self.cached) + completion_tokens * self.output) // _MILLION)


class PriceSet(BaseModel):
    """A new price, in micro-units of the platform's currency per million tokens."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, max_length=256, description="Name of a model without alias; `*`: every other one.")
    input: int = Field(ge=0, le=_MAX_PRICE, description="Micro-units per million tokens of the prompt.")
    cached: int | None = Field(default=None, ge=0, le=_MAX_PRICE, description="For cached ones; default: as `input`.")
    output: int = Field(ge=0, le=_MAX_PRICE, description="Micro-units per million tokens of the answer.")
    valid_from: datetime | None = Field(default=None, description="Not before now; default: at once.")
    project_id: str | None = Field(default=None, description="The project it is for; default: every project.")


class Price(BaseModel):
    """A price as it holds from `valid_from` until the next one of the same model and project."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["price"] = "price"
    id: str
    project_id: str | None
    model: str
    input: int
    cached: int
    output: int
    valid_from: datetime
    created_at: datetime


class PriceList:
    """The prices that a project's requests may meet, newest first for each model.

    Args:
        rows: those of the project and those that hold everywhere.
    """

    __slots__ = ("_rates",)

    def __init__(self, rows: Iterable[PriceRow]) -> None:
        found: dict[tuple[bool, str], list[tuple[datetime, Rate]]] = {}
        for row in rows:
            rate = Rate(row.id, row.input, row.cached, row.output)
            found.setdefault((row.project_id == EVERYWHERE, row.model), []).append((row.valid_from, rate))
        for versions in found.values():
            versions.sort(key=lambda version: (version[0], version[1].id), reverse=True)
        self._rates: Mapping[tuple[bool, str], Sequence[tuple[datetime, Rate]]] = found

    def at(self, model: str, moment: datetime) -> Rate | None:
        """The project's price of the model, else its price of every model, else those that hold everywhere."""
        if not self._rates:
            return None
        for everywhere in (False, True):
            for name in (model, ANY_MODEL):
                for valid_from, rate in self._rates.get((everywhere, name), ()):
                    if valid_from <= moment:
                        return rate
        return None


class Prices:
    """Sets and lists prices."""

    def __init__(self, clock: Clock, events: Events) -> None:
        self._clock = clock
        self._events = events

    def set(self, session: Session, wanted: PriceSet, set_by: str | None = None) -> Price:
        """Let a price hold from now, or from a later moment, on. What was answered before keeps its price.

        Raises:
            InvalidRequest: the moment has passed or has no time zone, or the model is named with an alias.
        """
        now = self._clock.now()
        if "@" in wanted.model:
            raise InvalidRequest(
                f"A price is for all versions of a model: {wanted.model!r} names one of them.",
                hint=f"Give the name {wanted.model.partition('@')[0]!r}.",
                param="model",
            )
        if wanted.valid_from is not None and (not is_moment(wanted.valid_from) or wanted.valid_from < now):
            raise InvalidRequest(
                "A price cannot hold from a moment that has passed, and the moment needs its time zone.",
                hint="Leave valid_from out for now, or write it as 2027-01-31T00:00:00Z.",
                param="valid_from",
            )
        row = PriceRow(
            id=new_id("prc"),
            project_id=wanted.project_id or EVERYWHERE,
            model=wanted.model,
            input=wanted.input,
            cached=wanted.input if wanted.cached is None else wanted.cached,
            output=wanted.output,
            valid_from=wanted.valid_from or now,
            created_at=now,
            set_by=set_by,
        )
        session.add(row)
        session.flush()
        self._events.publish_after_commit(session, "terms.changed", project_id=row.project_id)
        return _shown(row)

    def list(self, session: Session, project_id: str, model: str | None = None) -> list[Price]:
        """Every price that holds, held or will hold for a project, by model, newest first."""
        query = (
            select(PriceRow)
            .where(PriceRow.project_id.in_((project_id, EVERYWHERE)))
            .order_by(PriceRow.model, PriceRow.valid_from.desc(), PriceRow.id.desc())
        )
        if model is not None:
            query = query.where(PriceRow.model == model)
        return [_shown(row) for row in session.scalars(query)]


def price_list(session: Session, project_id: str) -> PriceList:
    """The prices of a project from the database."""
    return PriceList(session.scalars(select(PriceRow).where(PriceRow.project_id.in_((project_id, EVERYWHERE)))))


def _shown(row: PriceRow) -> Price:
    return Price(
        id=row.id,
        project_id=row.project_id or None,
        model=row.model,
        input=row.input,
        cached=row.cached,
        output=row.output,
        valid_from=row.valid_from,
        created_at=row.created_at,
    )
