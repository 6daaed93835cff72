"""What is wished (`DeploymentSpec`), what is seen (`Deployment`, `Replica`) and how a request reaches a model (`Route`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from modelworks.contract.media import File
from modelworks.contract.run import LocalModel
from modelworks.kernel.base.parameters import Parameters

#: predictor: our class in a replica process · openai: something that already speaks the protocol · static: published files.
Kind = Literal["predictor", "openai", "static"]
#: What the owner wants. `removed` is kept until the last replica is drained, then the row goes.
DesiredState = Literal["running", "stopped", "removed"]
ReplicaState = Literal["starting", "ready", "draining", "failed", "stopped"]
#: What a client sees: `degraded` answers, but with fewer replicas or an older version than wished.
DeploymentState = Literal["loading", "ready", "degraded", "failed", "stopped"]

_NAME = re.compile(r"^[A-Za-z0-9][\w.:-]*(/[A-Za-z0-9][\w.:-]*)*$")
#: Only variables that are meant to hold such a key may be named, so that a deployment cannot send other secrets away.
_SECRET_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
#: How a row and a replica's specification name a secret of the project where a variable could stand.
STORED = "secret:"
_KEY_VARIABLE = re.compile(r"^(MODELWORKS_UPSTREAM_[A-Z0-9_]+|[A-Z][A-Z0-9_]*_API_KEY)$")


class ResourcesSpec(BaseModel):
    """What one replica occupies; the task's own figures where not given."""

    model_config = ConfigDict(extra="forbid")

    cpu: float = Field(default=1.0, gt=0)
    memory_bytes: int = Field(default=1 << 30, gt=0)
    gpu: float = Field(default=0.0, ge=0)


class DeploymentSpec(BaseModel):
    """A wish: "this model under this name". Applying the same wish again changes nothing."""

    model_config = ConfigDict(extra="forbid")

    #: The model id that clients use; unique in the project.
    name: str = Field(max_length=128)
    #: A model reference (`name`, `name@alias`, `name@v3`, a version id). A moved alias is followed without an interruption.
    model: str | None = None
    task: str | None = None
    capability: str | None = None
    #: One of the task's engines; `upstream` for a server elsewhere (`base_url`).
    engine: str | None = None
    #: Validated against the task's options.
    options: Parameters = Field(default_factory=dict)
    num_replicas: int = Field(default=1, ge=1, le=64)
    resources: ResourcesSpec | None = None
    #: An OpenAI-compatible server elsewhere, up to and including its `/v1`.
    base_url: str | None = None
    #: The name by which that server knows the model; by default the deployment's.
    upstream_model: str | None = None
    #: The environment variable of this server that holds the key of that server.
    api_key_env: str | None = None
    #: The project's secret that holds it instead.
    api_key_secret: str | None = None

    @field_validator("name")
    @classmethod
    def _valid_name(cls, name: str) -> str:
        if not _NAME.match(name):
            raise ValueError("use letters, digits, '.', '_', '-', ':' and '/' between parts, beginning with a letter or digit")
        return name

    @field_validator("base_url")
    @classmethod
    def _http_url(cls, url: str | None) -> str | None:
        if url is not None and not re.match(r"^https?://[^/\s]", url):
            raise ValueError("give an http:// or https:// URL, such as https://host/v1")
        return None if url is None else url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _key_variable(cls, variable: str | None) -> str | None:
        if variable is not None and not _KEY_VARIABLE.match(variable):
            raise ValueError("name a variable that ends in _API_KEY or begins with MODELWORKS_UPSTREAM_")
        return variable

    @field_validator("api_key_secret")
    @classmethod
    def _secret_name(cls, name: str | None) -> str | None:
        if name is not None and not _SECRET_NAME.match(name):
            raise ValueError("name a secret of the project")
        return name

    @model_validator(mode="after")
    def _upstream_fields(self) -> Self:
        if self.api_key_env is not None and self.api_key_secret is not None:
            raise ValueError("give either api_key_env or api_key_secret, not both")
        if self.base_url is None:
            for name in ("upstream_model", "api_key_env", "api_key_secret"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is only for a server elsewhere: give base_url too")
        elif self.model is not None:
            raise ValueError("give either model or base_url, not both")
        return self


class CanaryCreate(BaseModel):
    """A wish: "let this version answer that share of the requests"."""

    model_config = ConfigDict(extra="forbid")

    #: A reference of the candidate.
    model: str
    #: Of the requests: 0.1 is a tenth.
    share: float = Field(gt=0, lt=1, allow_inf_nan=False)


class Replica(BaseModel):
    """One replica as the reconciler last saw it."""

    id: str
    version_id: str | None
    state: ReplicaState
    url: str | None
    restarts: int
    last_error: str | None
    started_at: datetime | None
    updated_at: datetime


class AdapterCreate(BaseModel):
    """A wish: "this adapter beside that base". Wishing the same again changes nothing."""

    model_config = ConfigDict(extra="forbid")

    #: Name or id of the deployment that serves the base.
    deployment: str = Field(max_length=128)
    #: A version that was trained as an adapter of that base. A moved alias is followed without an interruption.
    model: str
    #: The model id that clients use, unique among the deployments too; by default the model's name.
    name: str | None = Field(default=None, max_length=128)

    @field_validator("name")
    @classmethod
    def _valid_name(cls, name: str | None) -> str | None:
        return None if name is None else DeploymentSpec._valid_name(name)


class Adapter(BaseModel):
    """A wished adapter together with what is seen of it."""

    object: Literal["adapter"] = "adapter"
    id: str
    name: str
    deployment: str
    deployment_id: str
    model: str
    #: The version that answers now; None while the first one loads.
    version_id: str | None
    #: `degraded`: an older version than wished answers, or not every replica has it yet.
    state: DeploymentState
    last_error: str | None
    created_at: datetime
    updated_at: datetime


class AdapterList(BaseModel):
    """Adapters in the order of their names."""

    object: Literal["list"] = "list"
    data: list[Adapter]
    has_more: bool = False


class Deployment(BaseModel):
    """A wish together with what is seen of it."""

    object: Literal["deployment"] = "deployment"
    id: str
    name: str
    capability: str | None
    task: str
    kind: Kind
    engine: str
    model: str | None
    #: The version that answers now; None while the first one loads.
    version_id: str | None
    options: dict[str, Any]
    num_replicas: int
    resources: ResourcesSpec | None
    base_url: str | None
    upstream_model: str | None
    api_key_env: str | None
    api_key_secret: str | None = None
    #: Of a canary: the deployment of whose requests it answers the share.
    canary_of: str | None = None
    share: float | None = None
    desired: DesiredState
    state: DeploymentState
    last_error: str | None
    replicas: list[Replica]
    #: Whether adapters can be added, as its replicas say.
    holds_adapters: bool = False
    generation: int
    created_at: datetime
    updated_at: datetime


class StaticFile(BaseModel):
    """A published file of a static deployment."""

    path: str
    num_bytes: int
    digest: str
    url: str


@dataclass(frozen=True, slots=True)
class Route:
    """Where one request goes. Valid while the `acquire` block that gave it is open.

    `base_url` has no trailing slash. predictor: `POST {base_url}/invoke` and `POST {base_url}/stream`. openai: it ends where
    OpenAI's paths begin (`{base_url}/chat/completions`). static: empty.
    """

    deployment_id: str
    project_id: str
    name: str
    task: str
    capability: str | None
    kind: Kind
    engine: str
    version_id: str | None
    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    #: The name to put into `model` for kind openai.
    upstream_model: str | None = None
    replica_id: str | None = None


@dataclass(frozen=True, slots=True)
class DeployedModel:
    """A row of `/v1/models`."""

    name: str
    project_id: str
    deployment_id: str
    task: str
    capability: str | None
    kind: Kind
    engine: str
    version_id: str | None
    #: Unix seconds.
    created: int
    state: DeploymentState
    #: The reference it was deployed from, and the version's parent (a fine-tuned model's base).
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    last_error: str | None = None


class ReplicaSpec(BaseModel):
    """Everything that starts one replica; written for the replica's process with mode 0600, as it holds its token."""

    replica_id: str
    deployment_id: str
    project_id: str
    name: str
    kind: Kind
    engine: str
    capability: str | None
    task: str
    #: The predictor class, or the function that returns a `ServerCommand`; None for a server elsewhere.
    import_path: str | None
    options: dict[str, Any]
    model: LocalModel | None
    #: The model's manifest, for a replica on another machine.
    files: list[File]
    num_replicas: int
    resources: ResourcesSpec
    #: The replica answers only requests that carry it.
    token: str
    #: The replica's own folder: spec.json, status.json.
    folder: Path
    log_path: Path
    base_url: str | None = None
    upstream_model: str | None = None
    api_key_env: str | None = None


#: Says which adapter answers a request, in the form of ASGI's headers.
ADAPTER_HEADER = b"x-modelworks-adapter"


class AdapterChange(BaseModel):
    """What a replica is asked to load and unload."""

    load: list[LocalModel] = Field(default_factory=list)
    unload: list[str] = Field(default_factory=list)


class ReplicaStatus(BaseModel):
    """What a back end sees of a replica."""

    state: Literal["starting", "ready", "failed", "stopped"]
    #: Where it answers; see `Route.base_url`.
    url: str | None = None
    error: str | None = None
    #: The error will not go away by itself (a missing library, a refused file): do not try again soon.
    permanent: bool = False
    #: It can answer with adapters of its base beside the base.
    holds_adapters: bool = False
    #: Where `POST` loads and unloads them.
    adapters_url: str | None = None
    upstream_model: str | None = None


class DeploymentList(BaseModel):
    """A page of deployments."""

    object: Literal["list"] = "list"
    data: list[Deployment]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class StaticFileList(BaseModel):
    """The files that a static deployment publishes."""

    object: Literal["list"] = "list"
    data: list[StaticFile]
    has_more: bool = False
