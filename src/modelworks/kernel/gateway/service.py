"""What the gateway stands on, and who is calling."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Scope

from modelworks.contract.errors import InvalidRequest, ModelNotFound, ModelworksError
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.access.sessions import cookie_secret
from modelworks.kernel.base.changes import AUTHOR
from modelworks.kernel.base.clock import Clock
from modelworks.kernel.base.database import Database
from modelworks.kernel.catalog.schemas import Version
from modelworks.kernel.gateway.errors import malformed_json
from modelworks.kernel.gateway.metering import Accounts, Meter, Recorder
from modelworks.kernel.gateway.schemas import ModelObject
from modelworks.kernel.jobs.schemas import JobSpec, RunRecord
from modelworks.kernel.serving import DeployedModel, ReplicaPool

#: In the ASGI scope of a request that the platform asks itself: for whom, checked already. Never of a connection.
PRINCIPAL: Final = "modelworks.principal"
#: Of JSON in a request: the library that writes it for engines and other servers gives up at 254, and some is wrapped.
_MOST_LEVELS: Final = 200


class Authenticator(Protocol):
    """Turns a key's secret into a principal; the access room's service."""

    def cached(self, secret: str | None) -> Principal | None:
        """From memory; None where memory does not know."""
        ...

    def authenticate(self, secret: str | None) -> Principal:
        """From the database where need be, so not in the event loop."""
        ...


class Submitter(Protocol):
    """Accepts runs; the jobs room's service."""

    def check_rights(self, spec: JobSpec, caller: Principal) -> None:
        """Refuse what not everybody who may submit runs may do."""
        ...

    def submit(
        self, session: Session, project_id: str, key_id: str | None, spec: JobSpec, *, dry_run: bool = False
    ) -> RunRecord: ...


class Spaces(Protocol):
    """Data spaces, asked under names that begin with `space:`; `spaces.calls.SpaceDoor`."""

    def is_space(self, model: str) -> bool:
        """Whether a model's name is that of a space."""
        ...

    def call(self, gateway: GatewayService, principal: Principal, meter: Meter, body: Mapping[str, Any]) -> Any:
        """One chat with a space, asked as a `ChatCall` is."""
        ...

    async def models(self, principal: Principal) -> Sequence[ModelObject]:
        """Those that the caller may ask."""
        ...

    async def model(self, gateway: GatewayService, principal: Principal, name: str) -> ModelObject:
        """One of them; raises NotFound."""
        ...


class Versions(Protocol):
    """Looks versions up; the catalog's service."""

    def get_version(self, session: Session, project_id: str, version_id: str) -> Version: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayService:
    """The rooms that the routes use.

    Args:
        access: checks keys.
        usage: records requests.
        accounts: prices and budgets; without them nothing costs and nothing is limited.
        spaces: data spaces that are asked as models; without them there are none.
        pool: finds replicas.
        db: for the two task modes that need the database (job, static).
        jobs: accepts runs for tasks of mode job.
        catalog: lists the files of tasks of mode static.
        clock: time stamps of answers.
        keep_alive_s: silence after which a stream gets a comment.
        problems: what keeps the server from being ready, by part; empty when it is.
        metrics: the page that Prometheus reads.
        version: of the product, for `/healthz`.
    """

    access: Authenticator
    usage: Recorder
    pool: ReplicaPool
    db: Database
    jobs: Submitter
    catalog: Versions
    clock: Clock
    accounts: Accounts | None = None
    spaces: Spaces | None = None
    keep_alive_s: float = 15.0
    problems: Callable[[], Mapping[str, str]] = dict
    metrics: Callable[[], bytes] = bytes
    version: str = ""

    async def caller(self, scope: Scope) -> Principal:
        """The principal of a request, who may ask models.

        `Authorization: Bearer` and `x-api-key` go through the same check.

        Raises:
            AuthenticationFailed: no valid key.
            PermissionDenied: the key lacks the scope "inference".
        """
        return await self.principal(scope, "inference")

    async def principal(self, scope: Scope, needed: str) -> Principal:
        """The principal of a request, whose key must carry the scope `needed`; raises as `caller`."""
        principal = await self.known(scope)
        principal.require(needed)
        return principal

    async def known(self, scope: Scope) -> Principal:
        """The principal of a request, whatever it may do.

        Raises:
            AuthenticationFailed: no valid key.
            PermissionDenied: the key is not taken from this address.
        """
        principal: Principal | None = scope.get(PRINCIPAL)
        if principal is None:
            secret = secret_of(scope)
            principal = self.access.cached(secret)
            if principal is None:
                principal = await run_in_threadpool(self.access.authenticate, secret)
        AUTHOR.set(principal.author)
        principal.require_address(scope.get("client"))
        return principal

    def meter(self, principal: Principal, scope: Scope, endpoint: str) -> Meter:
        """A fresh meter for one request."""
        return Meter(self.usage, principal, scope, endpoint, self.accounts)

    @asynccontextmanager
    async def question(
        self, request: Request, endpoint: str, *, default_model: str | None = None
    ) -> AsyncIterator[tuple[Principal, Meter, dict[str, Any]]]:
        """Who asks a model that the body names, what is noted of it, and the body; a refusal in the block is recorded.

        Args:
            default_model: the model where the body names none.

        Raises:
            InvalidRequest: the body is no JSON object, or names no model.
            PermissionDenied: the caller may not ask this model; and as `caller`.
        """
        principal = await self.caller(request.scope)
        meter = self.meter(principal, request.scope, endpoint)
        try:
            body = json_object(await request.body())
            if default_model is not None and body.get("model") is None:
                body["model"] = default_model
            meter.model = model_name(body)
            principal.require_model(meter.model)
            yield principal, meter, body
        except ModelworksError as error:
            await meter.record(error.status, error)
            raise

    def now_s(self) -> int:
        """Unix seconds."""
        return int(self.clock.now().timestamp())

    def models(self, principal: Principal) -> list[ModelObject]:
        """What the caller may ask, by name; deployments that are stopped are left out."""
        return [
            model_object(model, model.name)
            for model in self.pool.snapshot(principal.project_id)
            if principal.may_use(model.name) and model.state != "stopped"
        ]

    def model(self, principal: Principal, name: str) -> ModelObject:
        """One model under the name that the caller used.

        Raises:
            PermissionDenied: the key's list of models does not contain it.
            ModelNotFound: nothing is deployed under that name.
        """
        principal.require_model(name)
        found = self.pool.peek(principal.project_id, name)
        if found is None:
            names = [model.id for model in self.models(principal)]
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:5]
            hint = f"Deployed are: {', '.join(near)}." if near else "Nothing is deployed yet: see `modelworks deploy`."
            raise ModelNotFound(f"The model {name!r} does not exist or you have no access to it.", hint=hint, param="model")
        return model_object(found, name)


def model_object(model: DeployedModel, name: str) -> ModelObject:
    """OpenAI's model object of a deployment."""
    return ModelObject(
        id=name,
        created=model.created,
        owned_by="modelworks",
        root=model.root,
        parent=model.parent,
        max_model_len=model.max_model_len,
        task=model.task,
        state=model.state,
    )


def secret_of(scope: Scope) -> str | None:
    """The key as the client sent it, from `Authorization: Bearer …`, else `x-api-key`, else the session of a cookie."""
    fallback: str | None = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, secret = value.decode("latin-1").partition(" ")
            if kind.lower() == "bearer" and secret.strip():
                return str(secret.strip())
        elif name == b"x-api-key" and value:
            fallback = value.decode("latin-1").strip()
    return fallback or cookie_secret(scope)


def json_object(body: bytes) -> dict[str, Any]:
    """The request body as a JSON object.

    Raises:
        InvalidRequest: it is empty, not JSON, another kind of value, or nested deeper than can be written again.
    """
    if not body:
        raise InvalidRequest("The request has no body.", hint="Send a JSON object.", code="invalid_json")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed_json(error) from error
    if not isinstance(found, dict):
        raise InvalidRequest("The request body must be a JSON object.", hint="Send {…}.", code="invalid_type")
    # Nothing is deeper than it has brackets, and counting these is quick.
    if body.count(b"[") + body.count(b"{") > _MOST_LEVELS and _is_deep(found):
        raise InvalidRequest(
            f"The request body is nested more than {_MOST_LEVELS} levels deep.", hint="Send flatter JSON.", code="invalid_json"
        )
    return found


def _is_deep(found: Any) -> bool:
    level = [found]
    for _ in range(_MOST_LEVELS):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def model_name(body: dict[str, Any]) -> str:
    """The field `model`.

    Raises:
        InvalidRequest: it is missing or no text.
    """
    name = body.get("model")
    if name is None:
        raise InvalidRequest(
            "The parameter 'model' is missing.",
            hint="GET /v1/models lists the models you may use.",
            param="model",
            code="missing_required_parameter",
        )
    if not isinstance(name, str) or not name:
        raise InvalidRequest("model: must be a text, not empty.", param="model", code="invalid_type")
    return name
