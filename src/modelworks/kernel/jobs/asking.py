"""A run's questions to deployments, over the platform's own API: access is checked and usage recorded as for anybody."""

from __future__ import annotations

import base64
import sys
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from modelworks.contract.deployment import Answer, Vectors
from modelworks.contract.errors import (
    AuthenticationFailed,
    InvalidRequest,
    ModelworksError,
    PermissionDenied,
    Unavailable,
    UpstreamFailed,
    error_classes,
)

#: How long a deployment may stay away before the attempt is given up, and tried again from its last checkpoint.
PATIENCE_S = 900.0
#: One answer may take so long: a small machine writes a few tokens in a second.
_TIMEOUT_S = 900.0
_PAUSE_S = 0.25
_MAX_PAUSE_S = 10.0
#: What may go away by itself.
_PASSING = frozenset({408, 429, 502, 503, 504})


class AskedDeployment:
    """Implements the contract's `Deployment`.

    Args:
        name: of the deployment.
        url: of the server.
        secret: of the attempt's key.
        check_cancelled: raises `Cancelled`.
        on_version: told each version once, when it answers for the first time.
        patience_s: how long it is waited for.
    """

    def __init__(
        self,
        name: str,
        url: str,
        secret: str,
        check_cancelled: Callable[[], None],
        on_version: Callable[[str], None],
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._name = name
        self._check_cancelled = check_cancelled
        self._on_version = on_version
        self._patience_s = patience_s
        self._seen: set[str] = set()
        #: Whether embeddings are asked for in OpenAI's own fields alone.
        self._is_plain = False
        self._lock = threading.Lock()
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {secret}"},
            timeout=httpx.Timeout(_TIMEOUT_S, connect=10.0),
            limits=httpx.Limits(max_connections=None),
            # A proxy of the environment has no business between a run and its own server.
            trust_env=False,
            # Loading the trusted certificates takes longer than most calls; without TLS there is nothing to verify.
            verify=urlsplit(url).scheme == "https",
        )

    @property
    def name(self) -> str:
        return self._name

    def complete(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None, **sampling: Any
    ) -> Answer:
        """See the contract."""
        body: dict[str, Any] = {"model": self._name, "messages": [dict(each) for each in messages], **sampling}
        if tools:
            body["tools"] = [dict(each) for each in tools]
        answer = _read(self._ask("/v1/chat/completions", body))
        self._note(answer.version_id)
        return answer

    def embed(self, texts: Sequence[str], *, kind: Literal["query", "document"] = "document") -> Vectors:
        """See the contract."""
        if not texts:
            return Vectors(vectors=[])
        body: dict[str, Any] = {"model": self._name, "input": list(texts), "encoding_format": "base64"}
        own = {} if self._is_plain else {"input_type": kind, "truncate": True}
        try:
            response = self._ask("/v1/embeddings", body | own)
        except InvalidRequest:
            if not own:
                raise
            # A server elsewhere may know OpenAI's fields alone; if it is the texts, it says so again.
            response = self._ask("/v1/embeddings", body)
            self._is_plain = True
        found = _read_vectors(response, len(texts))
        self._note(found.version_id)
        return found

    def _note(self, version_id: str | None) -> None:
        """Tell of a version once."""
        if version_id is not None:
            with self._lock:
                if version_id not in self._seen:
                    self._on_version(version_id)
                    self._seen.add(version_id)

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        deadline = time.monotonic() + self._patience_s
        pause_s = _PAUSE_S
        while True:
            self._check_cancelled()
            try:
                response = self._http.post(path, json=body)
            except httpx.TransportError as error:
                # The server restarts, or its machine is not reached.
                passing: ModelworksError = Unavailable(f"The server of this run cannot be reached: {type(error).__name__}.")
            else:
                if response.is_success:
                    return response
                passing = self._refusal(response)
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"The deployment {self._name!r} has not answered for {self._patience_s:g} s. The last reason: "
                    f"{passing.message}",
                    hint="See `modelworks deployments`; the run goes on from its last checkpoint.",
                ) from passing
            wait_s = min(_MAX_PAUSE_S, max(pause_s, passing.retry_after_s or 0.0))
            pause_s = min(_MAX_PAUSE_S, 2 * pause_s)
            resumed = time.monotonic() + wait_s
            while (left_s := resumed - time.monotonic()) > 0:
                self._check_cancelled()
                time.sleep(min(_PAUSE_S, left_s))

    def _refusal(self, response: httpx.Response) -> ModelworksError:
        """What may pass; raises what will not."""
        error = _error_of(response)
        if isinstance(error, AuthenticationFailed):
            # The key ends with the attempt, or after its life: either way this attempt has had its time.
            raise Unavailable(
                f"The key of this attempt is not accepted any more: {error.message}", hint="The next attempt has a new one."
            ) from error
        if isinstance(error, PermissionDenied) or response.status_code not in _PASSING:
            raise error
        return error


def _read(response: httpx.Response) -> Answer:
    try:
        body = response.json()
        choice, usage = body["choices"][0], body.get("usage") or {}
        message = choice["message"]
        return Answer(
            content=message.get("content"),
            reasoning_content=message.get("reasoning_content"),
            tool_calls=message.get("tool_calls") or [],
            finish_reason=choice.get("finish_reason"),
            version_id=_version_in(body),
            prompt_tokens=usage.get("prompt_tokens") or 0,
            completion_tokens=usage.get("completion_tokens") or 0,
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UpstreamFailed(
            f"The deployment answered with what is no chat completion: {response.text[:200]}", code="bad_upstream_answer"
        ) from error


def _read_vectors(response: httpx.Response, count: int) -> Vectors:
    try:
        body = response.json()
        rows = sorted(body["data"], key=lambda row: int(row["index"]))
        vectors = [_numbers(row["embedding"]) for row in rows]
        if len(vectors) != count or len({len(vector) for vector in vectors}) != 1:
            raise ValueError(f"{len(vectors)} vectors for {count} texts, or of different lengths")
        return Vectors(vectors=vectors, version_id=_version_in(body))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UpstreamFailed(
            f"The deployment answered with what are no vectors ({error}): {response.text[:200]}", code="bad_upstream_answer"
        ) from error


def _numbers(told: Any) -> list[float]:
    """A vector as it was asked for, or as a server writes it that knows no base64."""
    if not isinstance(told, str):
        return [float(number) for number in told]
    found = array("f", base64.b64decode(told, validate=True))
    if sys.byteorder == "big":
        found.byteswap()
    return found.tolist()


def _version_in(body: Mapping[str, Any]) -> str | None:
    """The version that answered; a server elsewhere has fingerprints of its own, or none."""
    fingerprint = body.get("system_fingerprint")
    return fingerprint if isinstance(fingerprint, str) and fingerprint.startswith("mdl_") else None


def _error_of(response: httpx.Response) -> ModelworksError:
    """The error behind an answer of the API: of the class that has its status and code, as far as one has."""
    try:
        told = response.json()["error"]
        message, code, param = str(told["message"]), told.get("code"), told.get("param")
        hint = told.get("hint")
    except (ValueError, LookupError, TypeError, AttributeError):
        message, code, param, hint = f"The server answered with status {response.status_code}.", None, None, None
    if hint:
        message = message.removesuffix(str(hint)).rstrip()
    known = [kind for kind in error_classes().values() if kind.status == response.status_code]
    kind = next((kind for kind in known if kind.code == code), known[0] if known else UpstreamFailed)
    retry_after = response.headers.get("retry-after", "")
    return kind(
        message,
        hint=hint,
        param=param,
        code=code,
        retry_after_s=float(retry_after) if retry_after.replace(".", "", 1).isdigit() else None,
    )
