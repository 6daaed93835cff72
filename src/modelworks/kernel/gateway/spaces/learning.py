"""How a space makes a model of its own: samples of its passages, an adapter, a measurement, the gate, a deployment.

Where each one stands is in the database: after a crash of the server the next one goes on where this one stopped. Until the
gate lets the adapter pass and it answers, the space answers as before; whoever refuses leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import Conflict, InvalidRequest, ModelworksError, NotFound
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.polling import Follower
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.finding import called, named
from modelworks.kernel.catalog.schemas import PromotionCreate, Version
from modelworks.kernel.dataspace import DataspaceService
from modelworks.kernel.dataspace.learning import own_model, settings_of, terms_of
from modelworks.kernel.dataspace.schemas import Learning, LearningPreview, Space
from modelworks.kernel.dataspace.service import TOPIC
from modelworks.kernel.dataspace.store import SpaceLearningRow, SpaceRow
from modelworks.kernel.gateway.generation.language import LANGUAGE_TASK
from modelworks.kernel.gateway.spaces import correcting, prompting, sharding
from modelworks.kernel.gateway.spaces.advancing import advance
from modelworks.kernel.gateway.spaces.sharding import compared
from modelworks.kernel.jobs import JobsService
from modelworks.kernel.jobs.schemas import ACTIVE, JobSpec, RunRecord
from modelworks.kernel.serving.schemas import AdapterCreate, Deployment, DeploymentSpec
from modelworks.kernel.serving.service import ServingService

log = structlog.get_logger(__name__)

SAMPLING: Final = "sample-making"
#: The alias that what a space has deployed follows.
LIVE: Final = "live"
_BUSY_POLL_S, _IDLE_POLL_S = 1.0, 30.0
#: Tokens of instructions, question and answer beside the passages; characters of a token at least; characters shown at most.
_BESIDE_TOKENS, _TOKEN_CHARS, _MOST_CHARS, _LEAST_CHARS = 600, 2, 6000, 400


class SpaceLearning(Follower):
    """One thread; `tick` is one look at everything that has something to do, and may be called by hand instead."""

    def __init__(
        self,
        spaces: DataspaceService,
        jobs: JobsService,
        catalog: CatalogService,
        serving: ServingService,
        events: Events,
    ) -> None:
        super().__init__(events, name="space-learning", topic=TOPIC, busy_s=_BUSY_POLL_S, idle_s=_IDLE_POLL_S)
        self._spaces = spaces
        self._jobs = jobs
        self._catalog = catalog
        self._serving = serving
        self._db = spaces.db

    # -- what people ask for ---------------------------------------------------------------------------------------------

    def request(self, session: Session, caller: Principal, space: str, *, dry_run: bool = False) -> LearningPreview | Learning:
        """Begin to learn from the passages that a space answers from now; with `dry_run` only see from what that would be.

        Raises:
            NotFound: no such space, or no such data set `general`.
            PermissionDenied: the caller may not ask its language model, which writes questions.
            InvalidRequest: it has no passages (`space_empty`), no language model (`no_language_model`), or one that cannot
                be trained here (`model_not_here`).
            Conflict: it is learning already (`learning_running`).
        """
        row = self._spaces.row(session, caller.project_id, space, lock=not dry_run)
        base, version_id = self._base(session, row)
        terms = settings_of(row).learning
        if terms.general is not None:
            self._catalog.resolve(session, caller.project_id, terms.general, "dataset")
        if terms.max_questions:
            caller.require("inference")
            caller.require_model(base)
        running = self._spaces.learnings.latest(session, row.id, "running")
        if running is not None:
            raise Conflict(
                f"The data space {row.name!r} is learning already ({running.id}).",
                hint="Wait for it, or cancel the run that it waits for.",
                code="learning_running",
            )
        if row.passages_version_id is None:
            raise InvalidRequest(
                f"The data space {row.name!r} has no passages to learn from.",
                hint="Add documents, and wait until the space is ready.",
                code="space_empty",
            )
        if dry_run:
            return correcting.preview(session, self._spaces, row, base, version_id)
        begun = self._begin(session, row, caller.key_id, base, version_id, automatic=False)
        return self._spaces.learnings.show(session, begun)

    def roll_back(self, session: Session, project_id: str, space: str) -> Space:
        """Answer as before the last time that was learned: with the model of the time before, else with the base.

        Raises:
            NotFound: no such space. Conflict: it does not answer with a model of its own (`nothing_to_roll_back`).
        """
        row = self._spaces.row(session, project_id, space, lock=True)
        last = self._spaces.learnings.latest(session, row.id, "succeeded")
        if last is None or row.settings["language_model"] != last.model:
            raise Conflict(
                f"The data space {row.name!r} does not answer with a model of its own.",
                hint="Choose a language model: `modelworks space set NAME -s language_model=…`.",
                code="nothing_to_roll_back",
            )
        last.state = "rolled_back"
        session.flush()
        before = self._spaces.learnings.latest(session, row.id, "succeeded", untainted=True)
        if before is None:
            row.settings = {**row.settings, "language_model": last.base}
            self._undeploy(session, row)
            self._forget_alias(session, row)
        else:
            self._catalog.set_alias(session, project_id, str(before.adapter_version_id), LIVE)
        answering = last.base if before is None else f"its model of {before.created_at:%Y-%m-%d %H:%M}"
        self._spaces.tell(session, row, f"Rolled back: the space answers with {answering}.", data={"learning_id": last.id})
        session.flush()
        return self._spaces.show(session, row)

    def clear(self, session: Session, row: SpaceRow, removed: set[str]) -> bool:
        """Take away what was learned in a space that is gone, and tell the digests; whether nothing of it is left."""
        running = self._spaces.learnings.latest(session, row.id, "running")
        if running is not None:
            active = self._stop_runs(session, running)
            if any(self._is_active(session, row.project_id, run_id) for run_id in active):
                return False
        self._undeploy(session, row)
        # What was made of others goes first.
        for kind, nouns in (("model", sharding.MODELS), ("dataset", sharding.SAMPLE_SETS)):
            for _, version in called(session, row.project_id, kind, [f"{row.catalog_name}/{noun}" for noun in nouns]):
                with suppress(Conflict, NotFound):
                    if version.state == "ready":
                        self._catalog.remove(session, row.project_id, version.id, kind, force=True)
                        removed.add(version.digest)
        return True

    # -- where a document is forgotten -----------------------------------------------------------------------------------

    def cease(self, session: Session, row: SpaceRow) -> list[str]:
        """End what is being learned, which may hold a document that goes; returns the runs that still have to end."""
        running = self._spaces.learnings.latest(session, row.id, "running")
        if running is None:
            return []
        active = self._stop_runs(session, running)
        self._spaces.learnings.close(session, row, running, "cancelled", "Learning ends: a document is forgotten.")
        if running.step in ("judging", "deploying"):
            self._restore(session, row)
        return active

    def withdraw(self, session: Session, row: SpaceRow) -> None:
        """Stop answering with a model that knows what is forgotten: with the last one that does not, else with the base."""
        last = self._spaces.learnings.latest(session, row.id, "succeeded")
        tainted = select(SpaceLearningRow).where(SpaceLearningRow.space_id == row.id, SpaceLearningRow.is_tainted.is_(True))
        for each in session.scalars(tainted.where(SpaceLearningRow.state == "succeeded")):
            each.state = "rolled_back"
        session.flush()
        if last is None or not last.is_tainted or row.settings["language_model"] != last.model:
            return
        before = self._restore(session, row)
        if before is None:
            row.settings = {**row.settings, "language_model": last.base}
        said = "The space's model is withdrawn: it was trained on a document that is forgotten."
        self._spaces.tell(session, row, said, level="warn", data={"learning_id": last.id})

    def begin_anew(self, session: Session, row: SpaceRow) -> None:
        """Learn again at once, where the space learns by itself; the row is locked by the caller."""
        is_learning = self._spaces.learnings.latest(session, row.id, "running") is not None
        if not settings_of(row).learning.automatic or row.passages_version_id is None or is_learning:
            return
        try:
            base, version_id = self._base(session, row)
            self._begin(session, row, row.key_id, base, version_id, automatic=True)
        except ModelworksError as error:
            log.warning("a data space cannot learn", space_id=row.id, reason=error.message)

    def _restore(self, session: Session, row: SpaceRow) -> SpaceLearningRow | None:
        """Let the alias mean the last model that may answer; None: there is none, and nothing is deployed."""
        before = self._spaces.learnings.latest(session, row.id, "succeeded", untainted=True)
        if before is None:
            self._undeploy(session, row)
            self._forget_alias(session, row)
        else:
            self._catalog.set_alias(session, row.project_id, str(before.adapter_version_id), LIVE)
        return before

    # -- what happens by itself ------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Look once at every space that learns or is to; returns whether one does."""
        with self._db.reading() as session:
            wanted = self._spaces.learnings.wanted(session)
        for space_id in wanted:
            self._begin_by_itself(space_id)
        with self._db.reading() as session:
            under_way = self._spaces.learnings.open(session)
        for learning_id in under_way:
            try:
                self.advance(learning_id)
            except Exception:
                # One space must not hold up the others.
                log.exception("a data space could not go on learning", learning_id=learning_id)
        return bool(under_way)

    def advance(self, learning_id: str) -> None:
        """Let one go on as far as it can now."""
        follow = {
            "samples": self._follow_samples,
            "training": self._follow_training,
            "combining": self._follow_combining,
            "measuring": self._follow_measuring,
            "judging": self._judge,
            "deploying": self._follow_deployment,
        }
        advance(self._db, SpaceLearningRow, learning_id, follow, lambda row, error: self._fail(row, error.to_wire()))

    def _begin_by_itself(self, space_id: str) -> None:
        with self._db.transaction() as session:
            row = self._spaces.builds.locked(session, space_id)
            if row is None or row.deleted_at is not None or space_id not in self._spaces.learnings.wanted(session):
                return
            try:
                base, version_id = self._base(session, row)
            except ModelworksError as error:
                log.warning("a data space cannot learn", space_id=space_id, reason=error.message)
                return
            self._begin(session, row, row.key_id, base, version_id, automatic=True)

    def _begin(
        self, session: Session, row: SpaceRow, key_id: str | None, base: str, base_version_id: str, *, automatic: bool
    ) -> SpaceLearningRow:
        before = self._spaces.learnings.latest(session, row.id)
        learning = self._spaces.learnings.begin(
            session, row, key_id=key_id, base=base, base_version_id=base_version_id, automatic=automatic
        )
        terms = terms_of(learning)
        num_shards = sharding.number_of(session, self._spaces, row, terms)
        context = self._catalog.get_version(session, row.project_id, base_version_id).metadata.get("context_length")
        room = _MOST_CHARS if context is None else (int(context) - _BESIDE_TOKENS) * _TOKEN_CHARS
        inputs = {"passages": f"dataset:{learning.passages_version_id}"}
        if (said := correcting.written(session, self._spaces, self._catalog, row, terms)) is not None:
            inputs["corrections"] = f"dataset:{said}"
        is_live = terms.go_on and sharding.answering(session, self._spaces, row, learning) is not None
        if terms.max_questions:
            inputs["teacher"] = f"deployment:{base}"
        if terms.max_questions or is_live:
            for role, noun in (("previous", "samples"), ("previous_test", "samples-test")):
                # Not the one of the last time by its id: forgetting a document writes it anew.
                versions = [] if before is None else named(session, row.project_id, "dataset", f"{row.catalog_name}/{noun}")
                if living := [each.id for each in versions if each.state == "ready"]:
                    inputs[role] = f"dataset:{living[-1]}"
        spec = JobSpec(
            verb="batch",
            task=SAMPLING,
            inputs=inputs,
            params={
                "form": prompting.form(),
                "max_samples": terms.max_samples,
                "max_questions": max(1, terms.max_questions),
                "test_share": terms.test_share,
                "max_prompt_chars": max(_LEAST_CHARS, min(_MOST_CHARS, room)),
                "without": self._spaces.learnings.closed_documents(session, row.id),
                "shards": num_shards,
                "fresh": is_live,
                "correction_repeats": terms.correction_repeats,
            },
            output_name=f"{row.catalog_name}/samples",
        )
        self._submit(session, learning, "samples", spec)
        self._spaces.tell(session, row, "Samples are made of the passages.", data={"learning_id": learning.id})
        self._spaces.announce(session, row)
        session.flush()
        return learning

    # -- the steps -------------------------------------------------------------------------------------------------------

    def _follow_samples(self, learning: SpaceLearningRow) -> None:
        run = self._ended(learning, "samples")
        if run is None:
            return
        with self._db.transaction() as session:
            found = self._spaces.learnings.locked(session, learning.id, "samples")
            if found is None:
                return
            row, learning = found
            made = {output.name: output.version_id for output in run.outputs if output.kind == "dataset"}
            learning.samples_version_id = made[f"{row.catalog_name}/samples"]
            learning.test_version_id = made[f"{row.catalog_name}/samples-test"]
            learning.counts = dict(run.result or {})
            shards = sharding.planned(session, self._spaces, self._catalog, row, learning, made)
            news = made.get(f"{row.catalog_name}/samples-new")
            # What goes on is held to what answers now; what begins anew has to be better than that.
            goes_on = news is not None and any(each.way == "continued" for each in shards)
            news = news if goes_on and not any(each.way == "anew" for each in shards) else None
            told = [each.model_dump(mode="json") for each in shards]
            learning.results = {**learning.results, "shards": told, "news": news}
            for name, spec in sharding.trainings(row, learning, shards):
                self._submit(session, learning, name, spec)
            learning.step = "training"
            said = f"{learning.counts.get('num_samples', 0)} samples are learned."
            ids = [run_id for name, run_id in learning.runs.items() if name.startswith("training")]
            self._spaces.tell(session, row, said, data={"learning_id": learning.id, "run_ids": ids})

    def _follow_training(self, learning: SpaceLearningRow) -> None:
        runs: dict[str, RunRecord] = {}
        for name in learning.runs:
            if name.startswith("training"):
                if (run := self._ended(learning, name)) is None:
                    return
                runs[name] = run
        with self._db.transaction() as session:
            found = self._spaces.learnings.locked(session, learning.id, "training")
            if found is None:
                return
            row, learning = found
            shards, num = sharding.shards_of(learning), sharding.number_in(learning)
            for shard in shards:
                if (run := runs.get(sharding.run_of(shard, num))) is not None:
                    shard.adapter_version_id = _model_of(run)
            learning.results = {**learning.results, "shards": [each.model_dump(mode="json") for each in shards]}
            if num == 1:
                self._measure(session, row, learning, str(shards[0].adapter_version_id))
                return
            self._submit(session, learning, "combining", sharding.together(learning, shards))
            learning.step = "combining"
            kept = sum(each.way == "kept" for each in shards)
            said = f"The adapters of {len(shards)} shards are made one; {kept} of them are kept as they were."
            self._spaces.tell(session, row, said, data={"learning_id": learning.id})

    def _follow_combining(self, learning: SpaceLearningRow) -> None:
        run = self._ended(learning, "combining")
        if run is None:
            return
        with self._db.transaction() as session:
            found = self._spaces.learnings.locked(session, learning.id, "combining")
            if found is not None:
                self._measure(session, *found, _model_of(run))

    def _measure(self, session: Session, row: SpaceRow, learning: SpaceLearningRow, adapter: str) -> None:
        """Have the adapter that is to answer measured, beside what there was before."""
        learning.adapter_version_id = adapter
        data = {"test": str(learning.test_version_id)}
        if (general := self._general(session, learning)) is not None:
            data["general"] = general.id
        measured = {"before": learning.base_version_id, "after": adapter}
        # What it has to beat is the model that answers now, which need not be the base.
        if (live := self._live(session, learning)) is not None and live.id not in measured.values():
            measured["live"] = live.id
        wanted = [(who, role) for who in measured for role in data]
        if (news := learning.results.get("news")) is not None:
            data["news"] = news
            wanted += [(who, "news") for who in measured if who != "before" or "live" not in measured]
        for who, role in wanted:
            spec = JobSpec(
                verb="evaluate",
                task=LANGUAGE_TASK,
                inputs={"model": f"model:{measured[who]}", "test": f"dataset:{data[role]}"},
                params={"max_answers": terms_of(learning).max_answers},
            )
            self._submit(session, learning, f"measuring {who} {role}", spec)
        learning.step = "measuring"
        said = "The model is measured on held-out documents, without the adapter and with it."
        self._spaces.tell(session, row, said, data={"learning_id": learning.id})

    def _follow_measuring(self, learning: SpaceLearningRow) -> None:
        for name in learning.runs:
            if name.startswith("measuring") and self._ended(learning, name) is None:
                return
        with self._db.reading() as session:
            rows = compared(session, self._catalog, learning, self._general(session, learning))
        with self._db.transaction() as session:
            found = self._spaces.learnings.locked(session, learning.id, "measuring")
            if found is not None:
                _, learning = found
                learning.results = {**learning.results, "rows": [each.model_dump(mode="json") for each in rows]}
                learning.step = "judging"

    def _judge(self, learning: SpaceLearningRow) -> None:
        with self._db.reading() as session:
            wish = self._wish(session, learning)
        refused: ModelworksError | None = None
        sentences: list[str] = []
        try:
            judged = self._catalog.gate.promote(learning.project_id, wish, moved_by=learning.key_id)
            sentences = [check.sentence for check in judged.checks]
        except (Conflict, NotFound) as error:
            if error.error_code not in ("gate_refused", "evaluation_missing"):
                raise
            refused = error
            sentences = [error.message]
        with self._db.transaction() as session:
            found = self._spaces.learnings.locked(session, learning.id, "judging")
            if found is None:
                return
            row, learning = found
            # Judged again after a crash, it is what the alias means already: nothing is said then.
            learning.results = {**learning.results, "sentences": sentences or learning.results["sentences"]}
            if refused is not None:
                said = f"The gate refuses the model, and the space answers as before. {refused.message}"
                self._spaces.learnings.close(session, row, learning, "refused", said)
                return
            learning.step = "deploying"

    def _follow_deployment(self, learning: SpaceLearningRow) -> None:
        with self._db.transaction() as session:
            found = self._spaces.learnings.locked(session, learning.id, "deploying")
            if found is None:
                return
            row, learning = found
            reason = self._deployed(session, learning)
            if reason is None:
                return
            if reason:
                # The model that answered before goes on answering.
                self._restore(session, row)
                error = {"code": "not_deployed", "message": f"The model does not start: {reason}"}
                self._spaces.learnings.close(session, row, learning, "failed", error["message"], error=error)
                return
            if row.settings["language_model"] in (learning.base, learning.model):
                row.settings = {**row.settings, "language_model": learning.model}
            self._spaces.learnings.close(
                session, row, learning, "succeeded", f"The space answers with a model of its own, {learning.model}."
            )

    # -- deployments -----------------------------------------------------------------------------------------------------

    def _deployed(self, session: Session, learning: SpaceLearningRow) -> str | None:
        """Empty once the adapter answers, None while it is on its way, else why it never will."""
        project_id, name = learning.project_id, learning.model
        ref = f"{name}@{LIVE}"
        host = self._serving.adapters.host_of(session, project_id, str(learning.adapter_version_id))
        adapter = self._serving.adapters.find(session, project_id, name)
        if adapter is not None and host is not None and adapter.deployment != host and adapter.state != "ready":
            # Its base was deployed anew elsewhere.
            self._serving.adapters.remove(session, project_id, name)
            return None
        if adapter is None and host is not None and self._at(session, project_id, name) is None:
            adapter = self._serving.adapters.add(session, project_id, AdapterCreate(deployment=host, model=ref, name=name))
        if adapter is not None:
            if adapter.version_id == learning.adapter_version_id and adapter.state == "ready":
                return ""
            return (adapter.last_error or "It gave no reason.") if adapter.state == "failed" else None
        deployed = self._at(session, project_id, name)
        if deployed is None:
            # No deployment of the base takes adapters: the merged weights answer by themselves.
            self._serving.apply(session, project_id, DeploymentSpec(name=name, model=ref, task=LANGUAGE_TASK))
            return None
        if deployed.version_id == learning.adapter_version_id:
            return ""
        failed = [each for each in deployed.replicas if each.state == "failed"]
        if deployed.state == "failed" or failed:
            return deployed.last_error or next((each.last_error for each in failed if each.last_error), "It gave no reason.")
        return None

    def _at(self, session: Session, project_id: str, name: str) -> Deployment | None:
        with suppress(NotFound):
            found = self._serving.get(session, project_id, name)
            return None if found.desired == "removed" else found
        return None

    def _undeploy(self, session: Session, row: SpaceRow) -> None:
        with suppress(NotFound):
            self._serving.adapters.remove(session, row.project_id, own_model(row))
        with suppress(NotFound):
            self._serving.remove(session, row.project_id, own_model(row))

    def _forget_alias(self, session: Session, row: SpaceRow) -> None:
        """Nothing was promoted any more: the next one has to beat the base."""
        with suppress(NotFound):
            self._catalog.remove_alias(session, row.project_id, own_model(row), LIVE)

    def _base(self, session: Session, row: SpaceRow) -> tuple[str, str]:
        """The deployment whose model learns, and the version that answers there."""
        name = row.settings["language_model"]
        if name == own_model(row):
            last = self._spaces.learnings.latest(session, row.id, "succeeded")
            name = None if last is None else last.base
        if name is None:
            raise InvalidRequest(
                f"The data space {row.name!r} has no language model that could learn.",
                hint="Choose one: `modelworks space set NAME -s language_model=…`.",
                code="no_language_model",
            )
        deployed = self._at(session, row.project_id, name)
        if deployed is None or deployed.version_id is None or deployed.task != LANGUAGE_TASK:
            raise InvalidRequest(
                f"The language model {name!r} cannot learn: it is no deployment of a version of this catalog that answers.",
                hint="Deploy a language model that was pulled or trained here, and let the space use it.",
                param="settings.language_model",
                code="model_not_here",
            )
        return name, deployed.version_id

    # -- what steps look at ----------------------------------------------------------------------------------------------

    def _submit(self, session: Session, learning: SpaceLearningRow, name: str, spec: JobSpec) -> None:
        run = self._jobs.submit(session, learning.project_id, learning.key_id, spec)
        learning.runs = {**learning.runs, name: run.id}

    def _ended(self, learning: SpaceLearningRow, name: str) -> RunRecord | None:
        """A run of a step once it has succeeded; where it has not, the whole ends with it."""
        with self._db.reading() as session:
            run = self._jobs.get(session, learning.project_id, learning.runs[name])
        if run.state in ACTIVE:
            return None
        if run.state == "succeeded":
            return run
        if run.state == "cancelled":
            with self._db.transaction() as session:
                if (found := self._spaces.learnings.locked(session, learning.id, learning.step)) is not None:
                    self._spaces.learnings.close(session, *found, "cancelled", f"Learning ends: {run.id} was cancelled.")
                    self._stop_runs(session, found[1])
            return None
        self._fail(learning, {**(run.error or {"code": "run_failed", "message": "It gave no reason."}), "run_id": run.id})
        return None

    def _fail(self, learning: SpaceLearningRow, error: Mapping[str, Any]) -> None:
        with self._db.transaction() as session:
            if (found := self._spaces.learnings.locked(session, learning.id, learning.step)) is not None:
                said = f"Learning failed at the step {learning.step}: {error.get('message')}"
                self._spaces.learnings.close(session, *found, "failed", said, error=error)
                self._stop_runs(session, found[1])

    def _stop_runs(self, session: Session, learning: SpaceLearningRow) -> list[str]:
        """Cancel what is under way for one; returns the runs that still have to end."""
        active = [run_id for run_id in learning.runs.values() if self._is_active(session, learning.project_id, run_id)]
        for run_id in active:
            self._jobs.cancel(session, learning.project_id, run_id)
        return active

    def _is_active(self, session: Session, project_id: str, run_id: str) -> bool:
        return self._jobs.get(session, project_id, run_id).state in ACTIVE

    def _live(self, session: Session, learning: SpaceLearningRow) -> Version | None:
        with suppress(NotFound):
            return self._catalog.resolve(session, learning.project_id, f"{learning.model}@{LIVE}")
        return None

    def _general(self, session: Session, learning: SpaceLearningRow) -> Version | None:
        ref = terms_of(learning).general or self._catalog.gate.terms(session, learning.project_id).general
        return None if ref is None else self._catalog.resolve(session, learning.project_id, ref, "dataset")

    def _wish(self, session: Session, learning: SpaceLearningRow) -> PromotionCreate:
        general = self._general(session, learning)
        return PromotionCreate(
            ref=str(learning.adapter_version_id),
            alias=LIVE,
            test=learning.test_version_id,
            general=None if general is None else general.id,
            metric=terms_of(learning).metric,
            news=learning.results.get("news"),
            margin=terms_of(learning).margin,
        )


def _model_of(run: RunRecord) -> str:
    models = [output.version_id for output in run.outputs if output.kind == "model"]
    if not models:
        raise NotFound(f"The run {run.id} has saved no model.", hint="Its log says why.", code="no_output")
    return models[-1]
