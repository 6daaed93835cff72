"""The one error tree: every failure that a user may see carries a code, an HTTP status and a hint.

    ModelworksError
    ├── InvalidRequest (400)
    │   ├── ContextLengthExceeded
    │   ├── UnsupportedParameter
    │   ├── UnsafeArtifact
    │   ├── UnsupportedArchitecture
    │   └── InvalidData
    ├── AuthenticationFailed (401)
    ├── PermissionDenied (403)
    ├── NotFound (404)
    │   └── ModelNotFound
    ├── MethodNotAllowed (405)
    ├── Conflict (409)
    ├── PayloadTooLarge (413)
    ├── UnprocessableContent (422)
    ├── RateLimited (429)
    │   └── QuotaExceeded
    ├── Cancelled (499)
    ├── IntegrityFailed (500)
    ├── MissingExtra (501)
    ├── UpstreamFailed (502)
    ├── Unavailable (503)
    ├── TimedOut (504)
    └── StorageFull (507)

`/v1/*` renders an error as OpenAI's envelope, the command line prints the message and the hint. Anything that is not a
`ModelworksError` is a bug: its text is logged, never shown.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ModelworksError(Exception):
    """Base of every error that a user may see.

    Args:
        message: what went wrong and where (file, line, field), as one sentence.
        hint: what to do about it.
        param: the request field at fault, in the dotted form OpenAI uses (`messages.0.role`).
        code: overrides the class's code where one class covers several codes.
        retry_after_s: when a retry may succeed; sent as `Retry-After`.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    #: False tells clients not to repeat the request (`x-should-retry: false`).
    retryable: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.error_code = code or self.code
        self.retry_after_s = retry_after_s

    def envelope(self) -> dict[str, Any]:
        """OpenAI's error object; `hint` is our one addition, which clients ignore."""
        body: dict[str, Any] = {
            "message": self.message if self.hint is None else f"{self.message} {self.hint}",
            "type": self.type,
            "param": self.param,
            "code": self.error_code,
        }
        if self.hint is not None:
            body["hint"] = self.hint
        return {"error": body}

    def to_wire(self) -> dict[str, Any]:
        """A loss-free form for crossing a process boundary; `from_wire` is its inverse."""
        return {
            "class": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "param": self.param,
            "code": self.error_code,
            "retry_after_s": self.retry_after_s,
        }


class InvalidRequest(ModelworksError):
    code = "invalid_request"
    status = 400
    type = "invalid_request_error"
    retryable = False


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class UnsafeArtifact(InvalidRequest):
    """A file that could run code when read (a pickle), or that leaves its folder."""

    code = "unsafe_artifact"


class UnsupportedArchitecture(InvalidRequest):
    code = "unsupported_architecture"


class InvalidData(InvalidRequest):
    """A data file with a fault; the message names file, line and field."""

    code = "invalid_data"


class AuthenticationFailed(ModelworksError):
    code = "invalid_api_key"
    status = 401
    type = "authentication_error"
    retryable = False


class PermissionDenied(ModelworksError):
    code = "permission_denied"
    status = 403
    type = "permission_error"
    retryable = False


class NotFound(ModelworksError):
    code = "not_found"
    status = 404
    type = "invalid_request_error"
    retryable = False


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(ModelworksError):
    code = "method_not_allowed"
    status = 405
    type = "invalid_request_error"
    retryable = False


class Conflict(ModelworksError):
    code = "conflict"
    status = 409
    type = "invalid_request_error"
    retryable = False


class PayloadTooLarge(ModelworksError):
    code = "payload_too_large"
    status = 413
    type = "invalid_request_error"
    retryable = False


class UnprocessableContent(ModelworksError):
    code = "unprocessable_content"
    status = 422
    type = "invalid_request_error"
    retryable = False


class RateLimited(ModelworksError):
    code = "rate_limit_exceeded"
    status = 429
    type = "rate_limit_error"


class QuotaExceeded(RateLimited):
    code = "insufficient_quota"
    type = "insufficient_quota"
    retryable = False


class Cancelled(ModelworksError):
    code = "cancelled"
    status = 499
    type = "invalid_request_error"
    retryable = False


class IntegrityFailed(ModelworksError):
    """Stored bytes do not have the digest they are filed under."""

    code = "integrity_failed"
    retryable = False


class MissingExtra(ModelworksError):
    """A heavy library is not installed; the hint names the extra that brings it."""

    code = "missing_extra"
    status = 501
    retryable = False

    @classmethod
    def of(cls, library: str, extra: str) -> MissingExtra:
        return cls(
            f"This needs the library {library!r}, which is not installed.",
            hint=f'Install it with: pip install "modelworks[{extra}]".',
        )


class UpstreamFailed(ModelworksError):
    code = "upstream_failed"
    status = 502


class Unavailable(ModelworksError):
    code = "unavailable"
    status = 503


class TimedOut(ModelworksError):
    code = "timed_out"
    status = 504


class StorageFull(ModelworksError):
    code = "storage_full"
    status = 507
    retryable = False


def _tree(root: type[ModelworksError]) -> dict[str, type[ModelworksError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def error_classes() -> dict[str, type[ModelworksError]]:
    """Every error class by name: the source of the error reference page."""
    return _tree(ModelworksError)


def from_wire(wire: dict[str, Any]) -> ModelworksError:
    """Rebuild an error that another process sent with `to_wire`; an unknown class becomes the base class."""
    kind = error_classes().get(str(wire.get("class")), ModelworksError)
    return kind(
        str(wire.get("message") or "The worker reported an error without a message."),
        hint=wire.get("hint"),
        param=wire.get("param"),
        code=wire.get("code"),
        retry_after_s=wire.get("retry_after_s"),
    )
