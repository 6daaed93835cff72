"""Every setting of the platform, read once in `server.py` from the environment (`MODELWORKS_…`) and one optional file."""

from __future__ import annotations

import difflib
import errno
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from modelworks.contract.errors import InvalidRequest, StorageFull

#: Written and removed at every start, to see whether the home folder can be written.
_PROBE_BYTES = 64 << 10


def default_home() -> Path:
    """`MODELWORKS_HOME`, or `~/.modelworks`."""
    return Path(os.environ.get("MODELWORKS_HOME") or Path.home() / ".modelworks").expanduser()


class Settings(BaseSettings):
    """The effective settings. `modelworks doctor` prints each with its value and origin."""

    model_config = SettingsConfigDict(env_prefix="MODELWORKS_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=default_home, description="Folder of the database, blobs, logs and work folders.")
    host: str = Field(default="127.0.0.1", description="Address that the server listens on.")
    port: int = Field(default=8400, ge=0, le=65535, description="Port that the server listens on; 0 picks a free one.")
    database_url: str | None = Field(
        default=None, description="SQLAlchemy URL; by default SQLite in the home folder. PostgreSQL: postgresql+psycopg://…"
    )
    storage_url: str | None = Field(
        default=None, description="Where blobs live: a folder or s3://bucket/prefix; by default a folder in the home folder."
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the fsspec file system as JSON (endpoint_url, key, secret …)."
    )
    public_url: str | None = Field(default=None, description="How clients reach this server; used in signed links.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least severe level logged.")
    log_format: Literal["json", "console"] = Field(default="console", description="json for machines, console for people.")
    otlp_endpoint: str | None = Field(default=None, description="OpenTelemetry collector (OTLP over HTTP); off when empty.")
    gateways: int = Field(
        default=1, ge=1, le=64, description="Processes that answer requests, on one port; the first does all else too."
    )
    executor: Literal["local", "ray"] = Field(default="local", description="Where runs are executed.")
    serving_backend: Literal["local", "ray-serve"] = Field(default="local", description="Where replicas run.")
    ray_address: str | None = Field(default=None, description="Ray dashboard address for jobs, e.g. http://127.0.0.1:8265.")
    ray_serve_url: str | None = Field(
        default=None, description="Where Ray Serve's HTTP proxy listens, e.g. http://127.0.0.1:8000."
    )
    slots_cpu: float | None = Field(default=None, gt=0, description="Cores that runs may occupy together; by default all.")
    slots_memory_bytes: int | None = Field(
        default=None, gt=0, description="Memory that runs may occupy; by default 80 % of it."
    )
    slots_gpu: float = Field(default=0.0, ge=0, description="Accelerators that runs may occupy together.")
    max_attempts: int = Field(default=5, ge=1, description="How often a run is started again after a crash before it fails.")
    heartbeat_timeout_s: float = Field(default=60.0, gt=0, description="A run that is silent for so long is taken for dead.")
    max_body_bytes: int = Field(
        default=32 << 20, gt=0, description="Largest JSON request body; uploads of blobs are not counted."
    )
    max_blob_bytes: int = Field(default=1 << 40, gt=0, description="Largest single blob.")
    max_file_bytes: int = Field(
        default=8 << 30, gt=0, description="Largest file that clients may store with /v1/files and /v1/uploads."
    )
    response_days: float = Field(
        default=30.0, gt=0, description="How long responses are kept that clients let the server store."
    )
    batch_questions: int = Field(
        default=4, gt=0, description="Questions of batches that are asked at the same time, over all batches."
    )
    load_wait_s: float = Field(default=600.0, gt=0, description="How long a request waits for a deployment that is loading.")
    max_queue: int = Field(default=256, ge=0, description="Requests that may wait for one deployment; more get 503.")
    queue_wait_s: float = Field(
        default=60.0, gt=0, description="How long a request waits for a free place at a deployment before it gets 503."
    )
    replica_requests: int = Field(
        default=64, gt=0, description="Requests that one replica answers at the same time; the others wait in the queue."
    )
    upstream_requests: int = Field(
        default=256, gt=0, description="The same for one server that speaks OpenAI's protocol (vLLM, a server elsewhere)."
    )
    shutdown_s: float = Field(
        default=30.0, ge=0, description="How long answers under way may go on after the server was told to stop."
    )
    tool_timeout_s: float = Field(
        default=60.0, gt=0, description="How long a tool server elsewhere (tools of the type mcp) has for its answer."
    )
    keep_alive_s: float = Field(default=15.0, gt=0, description="Silence after which a stream gets a keep-alive comment.")
    reservation_lease_s: float = Field(
        default=60.0, gt=0, description="A server silent for so long is taken for dead: what its requests had reserved counts."
    )
    cors_origins: list[str] = Field(
        default_factory=list, description="Origins of web pages that may call the API from a browser; none by default."
    )
    secret_key_file: Path | None = Field(
        default=None,
        description="File of the key that seals stored secrets; by default secret.key in the home folder.",
    )
    trusted_proxies: list[str] = Field(
        default_factory=list,
        description="Addresses or networks (CIDR) of proxies whose X-Forwarded-For names the caller; none by default.",
    )
    egress_allow: list[str] = Field(
        default_factory=list, description="Hosts or networks that outgoing requests may reach although they are private."
    )
    oidc_issuer: str | None = Field(
        default=None, description="OpenID provider whose people may sign in: its issuer URL, exactly as it names itself."
    )
    oidc_client_id: str | None = Field(default=None, description="How the provider knows this platform.")
    oidc_client_secret: SecretStr | None = Field(
        default=None, description="The secret that goes with it; none where the provider takes PKCE alone."
    )
    oidc_scopes: list[str] = Field(
        default=["openid", "email", "profile"], description="What is asked of the provider; some need `groups` among it."
    )
    oidc_groups_claim: str = Field(
        default="groups", description="Claim with the groups of whoever signs in; dots lead inwards (realm_access.roles)."
    )
    oidc_roles: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Groups and the roles that they give, as ROLE@PLACE (id, or name of a project); group * is everybody.",
    )
    oidc_link_email: bool = Field(
        default=False, description="Whether an account that is here already is taken over by the same, verified address."
    )
    pull_roots: list[Path] = Field(
        default_factory=list,
        description="Folders from which file:// sources may be read; empty: any, for administrators of the platform only.",
    )
    vllm_python: str | None = Field(default=None, description="Interpreter of the environment in which vLLM is installed.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, the environment over `modelworks.toml` in the home folder."""
        toml = TomlConfigSettingsSource(settings_cls, toml_file=default_home() / "modelworks.toml")
        return (init_settings, env_settings, toml)

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("trusted_proxies")
    @classmethod
    def _known_networks(cls, networks: list[str]) -> list[str]:
        # A mistyped network would be taken for the name of a socket and trust nobody, in silence.
        try:
            return [str(ipaddress.ip_network(network, strict=False)) for network in networks]
        except ValueError:
            raise ValueError("each must be an address or a network, such as 10.0.0.5 or 10.0.0.0/8") from None

    @field_validator("oidc_issuer")
    @classmethod
    def _safe_issuer(cls, issuer: str | None) -> str | None:
        if issuer is None:
            return None
        parts = urlsplit(issuer)
        # On this machine itself nobody listens in: for trying a provider out.
        local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not (parts.scheme == "https" or local) or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError("it must be an https URL without a query, such as https://id.example.com/realms/plant")
        return issuer

    @field_validator("oidc_roles", mode="before")
    @classmethod
    def _one_or_more(cls, roles: Any) -> Any:
        return (
            {group: [each] if isinstance(each, str) else each for group, each in roles.items()}
            if isinstance(roles, dict)
            else roles
        )

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("sqlite", "postgresql")):
            raise ValueError("it must be an SQLite or a PostgreSQL URL, such as postgresql+psycopg://user:password@host/name")
        return url

    @model_validator(mode="after")
    def _whole_provider(self) -> Self:
        if self.oidc_issuer is not None and not self.oidc_client_id:
            raise ValueError("MODELWORKS_OIDC_ISSUER needs MODELWORKS_OIDC_CLIENT_ID")
        if self.oidc_issuer is not None and "openid" not in self.oidc_scopes:
            raise ValueError("MODELWORKS_OIDC_SCOPES must hold openid")
        return self

    @property
    def effective_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'modelworks.db'}"

    @property
    def effective_storage_url(self) -> str:
        return self.storage_url or str(self.home / "blobs")

    @property
    def effective_secret_key_file(self) -> Path:
        return self.secret_key_file or self.home / "secret.key"

    @property
    def local_url(self) -> str:
        """How processes on this machine reach the server (meaningful once `port` is fixed)."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return f"http://{host}:{self.port}"

    def prepare_home(self) -> None:
        """Create the home folder (mode 0700) and prove that it can be written.

        Raises:
            InvalidRequest: the folder cannot be created or written.
            StorageFull: its disk is full.
        """
        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            probe = self.home / f".probe-{os.getpid()}"
            try:
                # An empty file can be made on a full disk too; a database that opens needs about so much.
                probe.write_bytes(bytes(_PROBE_BYTES))
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(
                    f"The disk that holds the home folder {self.home} is full.", hint="Free some space and try again."
                ) from error
            raise InvalidRequest(
                f"The home folder {self.home} cannot be written: {error.strerror}.",
                hint="Give a writable folder with MODELWORKS_HOME, or change its owner.",
                code="home_not_writable",
            ) from error


def load_settings(**arguments: Any) -> Settings:
    """The effective settings.

    Raises:
        InvalidRequest: a value is not valid, or the file cannot be read; values are not shown. Code `invalid_settings`.
    """
    try:
        return Settings(**arguments)
    except ValidationError as error:
        faults = "; ".join(f"{_named(fault['loc'])}: {fault['msg']}" for fault in error.errors(include_input=False))
        raise InvalidRequest(
            f"The settings are not valid: {faults}.",
            hint="Correct the variable, or its line in modelworks.toml in the home folder.",
            code="invalid_settings",
        ) from error
    except (SettingsError, tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidRequest(
            f"The settings cannot be read: {error}.",
            hint=f"Correct the variable, or the file {default_home() / 'modelworks.toml'}.",
            code="invalid_settings",
        ) from error


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment as workers and replicas get it: without what opens the server's database, storage and secrets."""
    return {name: value for name, value in environment.items() if name not in SECRET_VARIABLES}


def mistyped_variables() -> dict[str, str]:
    """Variables of the environment that are no setting but are written nearly like one, with the one that was probably meant.

    Clients and workers have `MODELWORKS_…` variables of their own, so that an unknown one is not wrong by itself.
    """
    known = [name.upper() for name in Settings.model_fields]
    found: dict[str, str] = {}
    for variable in sorted(os.environ):
        name = variable.removeprefix("MODELWORKS_")
        if name != variable and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if near:
                found[variable] = f"MODELWORKS_{near[0]}"
    return found


def _named(location: tuple[int | str, ...]) -> str:
    name = ".".join(str(part) for part in location)
    return (
        f"{name} (MODELWORKS_{str(location[0]).upper()})"
        if location and location[0] in Settings.model_fields
        else name or "settings"
    )


#: Of the environment: what the server alone needs, and its workers and replicas do not get.
SECRET_VARIABLES = frozenset(
    f"MODELWORKS_{name}" for name in ("DATABASE_URL", "OIDC_CLIENT_SECRET", "SECRET_KEY_FILE", "STORAGE_OPTIONS", "STORAGE_URL")
)
#: Values that are never printed.
SECRET_FIELDS = frozenset({"storage_options", "database_url"})


def describe(settings: Settings) -> list[dict[str, Any]]:
    """Each setting with its effective value and where it came from (argument, environment, file, default)."""
    from_file = TomlConfigSettingsSource(Settings, toml_file=default_home() / "modelworks.toml")()
    rows = []
    for name, info in Settings.model_fields.items():
        variable = f"MODELWORKS_{name.upper()}"
        value = getattr(settings, name)
        if variable in os.environ:
            origin = variable
        elif name in from_file:
            origin = "modelworks.toml"
        elif name in settings.model_fields_set:
            origin = "argument"
        else:
            origin = "default"
        shown: Any = value
        if name in SECRET_FIELDS and value:
            shown = "(set)" if name == "storage_options" else _without_password(str(value))
        elif isinstance(value, SecretStr):
            shown = "(set)"
        elif isinstance(value, Path):
            shown = str(value)
        elif isinstance(value, list):
            shown = [str(item) for item in value]
        rows.append({"name": name, "variable": variable, "value": shown, "origin": origin, "help": info.description})
    return rows


def _without_password(url: str) -> str:
    url = re.sub(r"(password=)[^&]*", r"\1***", url)
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, _, credentials = head.partition("://")
    return f"{scheme}://{credentials.split(':')[0]}:***@{tail}"
