"""Evals in OpenAI's form: what is asked for, what is shown. `EvalSteps` works their runs off."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, InvalidRequest, ModelworksError, NotFound
from modelworks.contract.grading import Grading, LabelModelGrader, ScoreModelGrader, parse_grader
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.gateway.evals.grading import open_criterion
from modelworks.kernel.gateway.evals.items import DONE, Row, Verdict, add_item, add_usage, fresh_tally, item_object, place_of
from modelworks.kernel.gateway.evals.wire import (
    EvalCreate,
    EvalRunCreate,
    EvalUpdate,
    FileSource,
    asked_model,
    items_source,
    source_config,
)
from modelworks.kernel.gateway.files.service import FileService, Listing, seconds
from modelworks.kernel.gateway.generation import asking
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.store import EvalItemRow, EvalRow, EvalRunRow

Order = Literal["asc", "desc"]
#: States of a run in which the server still has to do something.
OPEN: Final = ("queued", "in_progress")
PURPOSE: Final = "evals"
#: Items are read into memory before they are stored.
MAX_FILE_BYTES: Final = 64 << 20
#: What `{{sample.…}}` may name, for readers of an eval.
_SAMPLE_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object"}},
        "output_text": {"type": "string"},
        "output_json": {"type": "object"},
        "output_tools": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["model", "choices"],
}
_BATCH: Final = 500


class EvalService:
    """Evals of a project; those of others do not exist for it.

    Args:
        gateway: through which models are asked.
        base_url: of this server, for links.
        wake: called after a commit that leaves something to do.
    """

    def __init__(
        self,
        db: Database,
        gateway: GatewayService,
        files: FileService,
        clock: Clock,
        *,
        base_url: str,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.db = db
        self.wake = wake
        self._gateway = gateway
        self._files = files
        self._clock = clock
        self._base_url = base_url

    # -- evals -----------------------------------------------------------------------------------------------------------

    def check(self, caller: Principal, asked: EvalCreate) -> dict[str, Any]:
        """Everything about a new eval that can be wrong; returns how its source is kept.

        Raises:
            InvalidRequest, UnsupportedParameter: `param` names the field.
            PermissionDenied, ModelNotFound: a model that judges cannot be asked.
        """
        # With it comes jsonschema: a server without evals does without.
        from modelworks.kernel.gateway.evals.grading_worker import check_schema

        config = source_config(asked.data_source_config)
        check_schema(config.item_schema, "data_source_config.item_schema")
        for number, criterion in enumerate(asked.testing_criteria):
            place = f"testing_criteria.{number}"
            _check_fields(open_criterion(criterion, place), config.item_schema, place)
            self._check_judges(caller, criterion, place)
        return config.model_dump()

    def _check_judges(self, caller: Principal, criterion: Mapping[str, Any], place: str) -> None:
        """Whether the caller may ask the models that a criterion asks, and they are there."""
        for model in models_of(criterion):
            caller.require("inference")
            try:
                self._gateway.model(caller, model)
            except NotFound as error:
                raise type(error)(error.message, hint=error.hint, param=f"{place}.model", code=error.error_code) from error

    def create(self, session: Session, caller: Principal, asked: EvalCreate, config: dict[str, Any]) -> dict[str, Any]:
        """Keep an eval that was checked; `config` is what `check` returned."""
        now = self._clock.now()
        row = EvalRow(
            id=new_id("eval"),
            project_id=caller.project_id,
            name=asked.name or "",
            source_config=config,
            testing_criteria=asked.testing_criteria,
            labels=dict(asked.metadata or {}),
            created_at=now,
            updated_at=now,
        )
        session.add(row)
        session.flush()
        return _eval_object(row)

    def get(self, session: Session, project_id: str, eval_id: str) -> dict[str, Any]:
        """One eval; raises NotFound."""
        return _eval_object(self._eval(session, project_id, eval_id))

    def update(self, session: Session, project_id: str, asked: EvalUpdate, eval_id: str) -> dict[str, Any]:
        """Change name or metadata; raises NotFound."""
        row = self._eval(session, project_id, eval_id)
        if asked.name is not None:
            row.name = asked.name
        if asked.metadata is not None:
            row.labels = dict(asked.metadata)
        row.updated_at = self._clock.now()
        return _eval_object(row)

    def delete(self, session: Session, project_id: str, eval_id: str) -> dict[str, Any]:
        """Forget an eval with all its runs; those under way stop. Raises NotFound."""
        row = self._eval(session, project_id, eval_id)
        # Spelt out: the rows of a large run are not loaded for it.
        runs = select(EvalRunRow.id).where(EvalRunRow.eval_id == row.id)
        session.execute(delete(EvalItemRow).where(EvalItemRow.run_id.in_(runs)))
        session.execute(delete(EvalRunRow).where(EvalRunRow.eval_id == row.id))
        session.execute(delete(EvalRow).where(EvalRow.id == row.id))
        return {"object": "eval.deleted", "deleted": True, "eval_id": eval_id}

    def list(self, session: Session, project_id: str, *, after: str | None, limit: int, order: Order, order_by: str) -> Listing:
        """Evals by the time of their creation or last change; raises NotFound where `after` is none."""
        column = EvalRow.updated_at if order_by == "updated_at" else EvalRow.created_at
        query = select(EvalRow).where(EvalRow.project_id == project_id)
        if after is not None:
            last = self._eval(session, project_id, after, param="after")
            moment = last.updated_at if order_by == "updated_at" else last.created_at
            later = (column > moment) | ((column == moment) & (EvalRow.id > last.id))
            query = query.where(later if order == "asc" else ~later & (EvalRow.id != last.id))
        keys = (column, EvalRow.id) if order == "asc" else (column.desc(), EvalRow.id.desc())
        rows = [*session.scalars(query.order_by(*keys).limit(limit + 1))]
        return Listing([_eval_object(row) for row in rows[:limit]], len(rows) > limit)

    # -- runs ------------------------------------------------------------------------------------------------------------

    def create_run(self, session: Session, caller: Principal, asked: EvalRunCreate, eval_id: str) -> dict[str, Any]:
        """Note a run whose parameters are right; its items are read and checked afterwards.

        Raises:
            NotFound, ModelNotFound: there is no such eval, file or model.
            PermissionDenied: the key may not ask the model.
            InvalidRequest: a parameter is wrong.
        """
        row = self._eval(session, caller.project_id, eval_id)
        wanted = asked_model(asked.data_source)
        source = items_source(asked.data_source)
        if isinstance(source, FileSource):
            self._files.given(
                session,
                caller.project_id,
                source.id,
                purpose=PURPOSE,
                param="data_source.source.id",
                max_bytes=MAX_FILE_BYTES,
            )
        model = None if wanted is None else wanted[0].model
        if wanted is not None:
            self._check_request(caller, wanted[2])
        for number, criterion in enumerate(row.testing_criteria):
            self._check_judges(caller, criterion, f"testing_criteria.{number}")
        run = EvalRunRow(
            id=new_id("evalrun"),
            eval_id=row.id,
            project_id=caller.project_id,
            key_id=caller.key_id,
            name=asked.name or "",
            model=model,
            data_source=asked.data_source,
            state="queued",
            tally=fresh_tally(len(row.testing_criteria)),
            num_items=0,
            error=None,
            labels=dict(asked.metadata or {}),
            evaluation_id=None,
            created_at=self._clock.now(),
            finished_at=None,
        )
        session.add(run)
        session.flush()
        return self.show(row, run)

    def _check_request(self, caller: Principal, body: Mapping[str, Any]) -> None:
        probe = {**body, "messages": [{"role": "user", "content": "?"}]}
        try:
            asking.check(self._gateway, caller, probe)
        except ModelworksError as error:
            if isinstance(error, InvalidRequest | NotFound):
                place = "data_source" if error.param == "model" else "data_source.sampling_params"
                param = None if error.param is None else f"{place}.{error.param}"
                raise type(error)(error.message, hint=error.hint, param=param, code=error.error_code) from error
            raise

    def get_run(self, session: Session, project_id: str, eval_id: str, run_id: str) -> dict[str, Any]:
        """One run; raises NotFound."""
        return self.show(*self._run(session, project_id, eval_id, run_id))

    def list_runs(
        self,
        session: Session,
        project_id: str,
        eval_id: str,
        *,
        after: str | None,
        limit: int,
        order: Order,
        status: str | None,
    ) -> Listing:
        """Runs of an eval by the time of their creation; raises NotFound where there is no such eval."""
        row = self._eval(session, project_id, eval_id)
        query = select(EvalRunRow).where(EvalRunRow.eval_id == row.id)
        if status is not None:
            query = query.where(EvalRunRow.state == status)
        if after is not None:
            query = query.where(EvalRunRow.id > after if order == "asc" else EvalRunRow.id < after)
        key = EvalRunRow.id if order == "asc" else EvalRunRow.id.desc()
        runs = [*session.scalars(query.order_by(key).limit(limit + 1))]
        return Listing([self.show(row, run) for run in runs[:limit]], len(runs) > limit)

    def cancel_run(self, session: Session, project_id: str, eval_id: str, run_id: str) -> dict[str, Any]:
        """Stop a run; what is done stays.

        Raises:
            NotFound: no such run. Conflict: it is over.
        """
        row, run = self._run(session, project_id, eval_id, run_id, lock=True)
        if run.state not in OPEN:
            raise Conflict(
                f"The run {run_id} is over ({run.state}).",
                hint="Only a run that is not over can be cancelled.",
                param="run_id",
                code="eval_run_over",
            )
        self.close(run, "canceled")
        return self.show(row, run)

    def delete_run(self, session: Session, project_id: str, eval_id: str, run_id: str) -> dict[str, Any]:
        """Forget a run with its items; it stops where it is under way. Raises NotFound."""
        _, run = self._run(session, project_id, eval_id, run_id, lock=True)
        session.execute(delete(EvalItemRow).where(EvalItemRow.run_id == run.id))
        session.execute(delete(EvalRunRow).where(EvalRunRow.id == run.id))
        return {"object": "eval.run.deleted", "deleted": True, "run_id": run_id}

    def show(self, row: EvalRow, run: EvalRunRow) -> dict[str, Any]:
        """OpenAI's run object."""
        tally = run.tally
        return {
            "id": run.id,
            "object": "eval.run",
            "created_at": seconds(run.created_at),
            "eval_id": run.eval_id,
            "name": run.name,
            "status": run.state,
            "model": run.model or "",
            "data_source": run.data_source,
            "error": run.error,
            "metadata": run.labels,
            "report_url": f"{self._base_url}/v1/evals/{run.eval_id}/runs/{run.id}/output_items",
            "result_counts": {
                "total": run.num_items,
                "passed": tally["pass"],
                "failed": tally["fail"],
                "errored": tally["error"],
            },
            "per_testing_criteria_results": [
                {"testing_criteria": criterion["name"], "passed": passed, "failed": failed}
                for criterion, (passed, failed) in zip(row.testing_criteria, tally["criteria"], strict=True)
            ],
            "per_model_usage": [{"model_name": model, **sums} for model, sums in sorted(tally["usage"].items())],
        }

    # -- output items ----------------------------------------------------------------------------------------------------

    def items(
        self,
        session: Session,
        project_id: str,
        eval_id: str,
        run_id: str,
        *,
        after: str | None,
        limit: int,
        order: Order,
        status: str | None,
    ) -> Listing:
        """Items that are done, by their place in the data.

        Raises:
            NotFound: no such run. InvalidRequest: `after` is no item of it.
        """
        _, run = self._run(session, project_id, eval_id, run_id)
        query = select(EvalItemRow).where(
            EvalItemRow.run_id == run.id, EvalItemRow.state == status if status else EvalItemRow.state.in_(DONE)
        )
        if after is not None:
            place = place_of(run.id, after)
            if place is None:
                raise InvalidRequest(f"after: {after[:80]!r} is no item of this run.", param="after", code="invalid_value")
            query = query.where(EvalItemRow.seq > place if order == "asc" else EvalItemRow.seq < place)
        key = EvalItemRow.seq if order == "asc" else EvalItemRow.seq.desc()
        rows = [*session.scalars(query.order_by(key).limit(limit + 1))]
        return Listing([item_object(run, row) for row in rows[:limit]], len(rows) > limit)

    def item(self, session: Session, project_id: str, eval_id: str, run_id: str, wanted: str) -> dict[str, Any]:
        """One item that is done; raises NotFound."""
        _, run = self._run(session, project_id, eval_id, run_id)
        place = place_of(run.id, wanted)
        row = None if place is None else session.get(EvalItemRow, (run.id, place))
        if row is None or row.state not in DONE:
            raise NotFound(
                f"There is no output item {wanted[:80]!r} in the run {run_id}.",
                hint="GET …/output_items lists the items that are done.",
                param="output_item_id",
                code="output_item_not_found",
            )
        return item_object(run, row)

    # -- what the steps need ---------------------------------------------------------------------------------------------

    def store_items(self, run_id: str, rows: Sequence[Row], *, is_asked: bool) -> None:
        """Keep the items of a run that is queued, instead of those of an attempt before; then it is in progress."""
        with self.db.transaction() as session:
            session.execute(delete(EvalItemRow).where(EvalItemRow.run_id == run_id))
        for start in range(0, len(rows), _BATCH):
            # One transaction per batch: other writers wait for milliseconds.
            with self.db.transaction() as session:
                run = self.locked(session, run_id, "queued")
                if run is None:
                    return
                values: builtins.list[dict[str, Any]] = [
                    {
                        "run_id": run_id,
                        "seq": row.seq,
                        "project_id": run.project_id,
                        "state": "pending" if is_asked else "sampled",
                        "item": row.item,
                        "sample": row.sample,
                        "results": [],
                        "version_id": None,
                        "done_at": None,
                    }
                    for row in rows[start : start + _BATCH]
                ]
                session.execute(insert(EvalItemRow), values)
        with self.db.transaction() as session:
            if (run := self.locked(session, run_id, "queued")) is not None:
                run.state, run.num_items = "in_progress", len(rows)

    def store_sample(
        self, run_id: str, seq: int, sample: dict[str, Any], version_id: str | None, usage: Mapping[str, Any] | None
    ) -> None:
        """Keep an answer, and count what it took, at once: it is never asked for again."""
        with self.db.transaction() as session:
            run = self.locked(session, run_id, "in_progress")
            if run is None:
                return
            session.execute(
                update(EvalItemRow)
                .where(EvalItemRow.run_id == run_id, EvalItemRow.seq == seq, EvalItemRow.state == "pending")
                .values(state="sampled", sample=sample, version_id=version_id)
            )
            if usage is not None:
                tally = _copied(run.tally)
                add_usage(tally, run.model or "", usage)
                run.tally = tally

    def store_verdicts(self, run_id: str, verdicts: Sequence[Verdict], usage: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Keep what the criteria say of items, and count them with what the models that judge took."""
        with self.db.transaction() as session:
            run = self.locked(session, run_id, "in_progress")
            if run is None:
                return
            tally = _copied(run.tally)
            query = select(EvalItemRow.seq).where(EvalItemRow.run_id == run_id, EvalItemRow.state.not_in(DONE))
            waiting = {*session.scalars(query.where(EvalItemRow.seq.in_([verdict.seq for verdict in verdicts])))}
            fresh = [verdict for verdict in verdicts if verdict.seq in waiting]
            now = self._clock.now()
            if fresh:
                session.execute(
                    update(EvalItemRow),
                    [
                        {
                            "run_id": run_id,
                            "seq": verdict.seq,
                            "state": verdict.state,
                            "results": list(verdict.results),
                            "done_at": now,
                        }
                        for verdict in fresh
                    ],
                )
            for verdict in fresh:
                add_item(tally, verdict.state, verdict.results)
            for model, took in usage:
                add_usage(tally, model, took)
            run.tally = tally

    def close(
        self, run: EvalRunRow, state: Literal["completed", "canceled", "failed"], error: dict[str, Any] | None = None
    ) -> None:
        """Nothing more happens to this run."""
        run.state, run.error, run.finished_at = state, error, self._clock.now()

    def locked(self, session: Session, run_id: str, *states: str) -> EvalRunRow | None:
        """The row for a change, whoever's it is; None where it has gone or is in another state."""
        run = session.scalar(select(EvalRunRow).where(EvalRunRow.id == run_id).with_for_update())
        return run if run is not None and run.state in states else None

    # -- rows ------------------------------------------------------------------------------------------------------------

    def _eval(self, session: Session, project_id: str, eval_id: str, *, param: str = "eval_id") -> EvalRow:
        row = session.scalar(select(EvalRow).where(EvalRow.id == eval_id, EvalRow.project_id == project_id))
        if row is None:
            raise NotFound(
                f"There is no eval {eval_id[:80]!r}.", hint="GET /v1/evals lists the evals.", param=param, code="eval_not_found"
            )
        return row

    def _run(
        self, session: Session, project_id: str, eval_id: str, run_id: str, *, lock: bool = False
    ) -> tuple[EvalRow, EvalRunRow]:
        row = self._eval(session, project_id, eval_id)
        query = select(EvalRunRow).where(EvalRunRow.id == run_id, EvalRunRow.eval_id == row.id)
        run = session.scalar(query.with_for_update() if lock else query)
        if run is None:
            raise NotFound(
                f"There is no run {run_id[:80]!r} of the eval {eval_id}.",
                hint="GET /v1/evals/{eval_id}/runs lists its runs.",
                param="run_id",
                code="eval_run_not_found",
            )
        return row, run


def models_of(criterion: Mapping[str, Any]) -> list[str]:
    """The models that a criterion asks."""
    spec = parse_grader(criterion)
    graders = [*spec.graders.values()] if spec.type == "multi" else [spec]
    return [each.model for each in graders if isinstance(each, ScoreModelGrader | LabelModelGrader)]


def _check_fields(grading: Grading, schema: Mapping[str, Any], param: str) -> None:
    """Refuse a field that no item can have: the schema names every field, and this one is not among them."""
    known = schema.get("properties")
    if schema.get("additionalProperties") is not False or not isinstance(known, Mapping):
        return
    for variable in (each for template in grading.templates for each in template.variables):
        if variable.namespace == "item" and variable.path and variable.path[0] not in known:
            raise InvalidRequest(
                f"{param}: {{{{{variable}}}}} names a field that the item_schema rules out.",
                hint=f"It has: {', '.join(known) or 'none'}.",
                param=param,
                code="unknown_template_field",
            )


def _copied(tally: Mapping[str, Any]) -> dict[str, Any]:
    """A changed value of a JSON column is only seen where it is another object."""
    return {
        **tally,
        "criteria": [[*sums] for sums in tally["criteria"]],
        "usage": {model: {**sums} for model, sums in tally["usage"].items()},
    }


def _eval_object(row: EvalRow) -> dict[str, Any]:
    properties: dict[str, Any] = {"item": row.source_config["item_schema"]}
    if row.source_config["include_sample_schema"]:
        properties["sample"] = dict(_SAMPLE_SCHEMA)
    return {
        "id": row.id,
        "object": "eval",
        "created_at": seconds(row.created_at),
        "name": row.name,
        "data_source_config": {
            "type": "custom",
            "schema": {"type": "object", "properties": properties, "required": list(properties)},
        },
        "testing_criteria": row.testing_criteria,
        "metadata": row.labels,
    }
