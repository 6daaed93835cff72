"""Requests of sources that speak HTTP: through the platform's one guarded way out, each redirect looked at, with patience."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from modelworks.contract.errors import InvalidRequest, NotFound, PermissionDenied, TimedOut, UpstreamFailed
from modelworks.kernel.base import egress
from modelworks.kernel.dataspace.sources.source import Surroundings

MAX_REDIRECTS = 5
#: An answer is held in memory.
MAX_ANSWER_BYTES = 128 << 20
_TRIES, _MAX_WAIT_S = 3, 30.0
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """What an address gave: `status` is 200, 304, 404 or 410."""

    url: str
    status: int
    content: bytes
    media_type: str
    charset: str | None
    headers: Mapping[str, str]


@dataclass(slots=True)
class Asker:
    """Asks addresses on behalf of one source.

    Args:
        origin: the address that credentials are for; they go to nowhere else.
        headers: sent to that origin only.
        delay_s: pause between two requests.
    """

    around: Surroundings
    origin: str
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    sleep: Callable[[float], None] = time.sleep
    _last: float | None = None

    def get(
        self,
        url: str,
        *,
        accept: str = "*/*",
        conditions: Mapping[str, str] | None = None,
        may_go: Callable[[str], bool] = lambda _url: True,
    ) -> Found:
        """What an address gives, after at most five redirects to where `may_go` allows.

        Raises:
            PermissionDenied: it leads to a private network (`egress_denied`), asks for credentials, or redirects elsewhere.
            PayloadTooLarge. UpstreamFailed, TimedOut: it failed three times. Cancelled.
        """
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._answer(url, accept, conditions or {})
            if answer.status not in (301, 302, 303, 307, 308):
                return self._found(url, answer)
            following = self._following(url, answer)
            if not may_go(following):
                raise PermissionDenied(
                    f"{_shown(url)} redirects to {_shown(following)}, outside of what is read.", code="redirected_away"
                )
            url = following
        raise UpstreamFailed(f"More than {MAX_REDIRECTS} redirects, the last to {_shown(url)}.", hint="Use the final address.")

    def _answer(self, url: str, accept: str, conditions: Mapping[str, str]) -> egress.Answer:
        sent = {"Accept": accept, **conditions}
        if _origin(url) == _origin(self.origin):
            self._check_scheme(url)
            sent |= self.headers
        limit = min(self.around.limits.max_file_bytes, MAX_ANSWER_BYTES)
        for attempt in range(_TRIES):
            self._pause()
            try:
                answer = egress.ask(
                    url, max_bytes=limit, headers=sent, allow=self.around.policy.egress_allow, timeout_s=_TIMEOUT_S
                )
            except (UpstreamFailed, TimedOut):
                if attempt == _TRIES - 1:
                    raise
                self._wait(2.0**attempt)
                continue
            if answer.status != 429 and answer.status < 500:
                return answer
            if attempt < _TRIES - 1:
                self._wait(_retry_after(answer.headers) or 2.0**attempt)
        return answer

    def _found(self, url: str, answer: egress.Answer) -> Found:
        if answer.status in (401, 403):
            raise PermissionDenied(
                f"{_shown(url)} refuses access (HTTP {answer.status}).", hint="Name a secret that it accepts.", param="secret"
            )
        if answer.status not in (200, 304, 404, 410):
            raise UpstreamFailed(f"{_shown(url)} answered HTTP {answer.status}.", hint="Try again later, or check the address.")
        said = answer.headers.get("content-type", "")
        charset = next(
            (part.strip()[8:].strip("\"'") for part in said.split(";")[1:] if part.strip().lower().startswith("charset=")), None
        )
        return Found(url, answer.status, answer.content, answer.media_type, charset or None, answer.headers)

    def _following(self, url: str, answer: egress.Answer) -> str:
        following = urljoin(url, answer.headers.get("location", ""))
        if urlsplit(url).scheme == "https" and urlsplit(following).scheme != "https":
            raise PermissionDenied(
                f"{_shown(url)} redirects to {_shown(following)}, which is not https.",
                hint="Use the final address.",
                code="egress_denied",
            )
        return following

    def _check_scheme(self, url: str) -> None:
        """A credential goes unencrypted only through networks of one's own."""
        if not self.headers or not url.lower().startswith("http://"):
            return
        try:
            egress.check_url(url)
        except PermissionDenied:
            return  # private: whether it is allowed is checked when it is reached
        raise PermissionDenied(
            f"The secret would go unencrypted over the public network to {_shown(url)}.", hint="Use https://.", param="uri"
        )

    def _pause(self) -> None:
        self.around.stop_if_cancelled()
        if self._last is not None and self.delay_s > 0:
            self._wait(self._last + self.delay_s - time.monotonic())
        self._last = time.monotonic()

    def _wait(self, seconds: float) -> None:
        ends = time.monotonic() + min(seconds, _MAX_WAIT_S)
        while (left := ends - time.monotonic()) > 0:
            self.around.stop_if_cancelled()
            self.sleep(min(left, 0.5))


def bearer(credential: str | None, *, header: str = "Authorization", scheme: str = "Bearer") -> dict[str, str]:
    """The header that carries a credential; raises InvalidRequest where it could not be one."""
    if credential is None:
        return {}
    text = credential.strip()
    if not text.isascii() or not text.isprintable():
        raise InvalidRequest(
            "The secret cannot be sent in a header.", hint="Store it anew, in ASCII and one line.", param="secret"
        )
    return {header: f"{scheme} {text}".strip()}


def existing(found: Found) -> Found:
    """Raises NotFound where there is nothing."""
    if found.status in (404, 410):
        raise NotFound(f"{_shown(found.url)} does not exist (HTTP {found.status}).", hint="Check the address.", param="uri")
    return found


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.hostname, parts.port or (443 if parts.scheme.lower() == "https" else 80)


def _shown(url: str) -> str:
    """Without its query, which may be a credential."""
    return url.partition("?")[0][:300]
