"""Outgoing HTTP to addresses that a user names, guarded against reaching what only this machine may reach (SSRF).

A name is resolved once, every address it has is checked, and the connection goes to a checked address, with the name in `Host`
and in TLS: a name that resolves differently a moment later (DNS rebinding) changes nothing. Each redirect is checked again.
Proxies of the environment are not used: they would resolve names themselves.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from modelworks.contract.errors import (
    Cancelled,
    IntegrityFailed,
    InvalidRequest,
    ModelworksError,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    StorageFull,
    TimedOut,
    UpstreamFailed,
)

MAX_REDIRECTS = 5
_CHUNK_BYTES = 1 << 20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: Special in ways that `is_global` does not know: site-local (RFC 3879), segment routing (RFC 9602), documentation (RFC 9637),
#: 6to4 relays (RFC 7526), and the address of one cloud's own service to its machines.
_SPECIAL = tuple(
    ipaddress.ip_network(each) for each in ("fec0::/10", "5f00::/16", "3fff::/20", "192.88.99.0/24", "168.63.129.16/32")
)
#: Headers that stay with the origin they were meant for.
_CREDENTIALS = frozenset({"authorization", "cookie", "x-api-key", "proxy-authorization"})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True, slots=True)
class ResolvedTarget:
    """An address that may be reached: connect to one of `addresses`, never to the name again."""

    url: httpx.URL
    host: str
    port: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A finished download; `sha256` is hexadecimal."""

    path: Path
    sha256: str
    num_bytes: int
    final_url: str
    media_type: str | None


def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, by the system's resolver."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def check_url(url: str, allow: Sequence[str] = (), *, resolver: Resolver = resolve) -> ResolvedTarget:
    """Resolve a URL and prove that it leads to the public network, or to what `allow` names.

    Args:
        allow: names (`files.plant.lan`, `.plant.lan` for all below it), addresses and networks (`10.1.0.0/16`).

    Raises:
        InvalidRequest: not an http(s) URL, or with a user name in it.
        PermissionDenied: it leads to a private, loopback, link-local or otherwise special address. Code `egress_denied`.
        UpstreamFailed: the name does not resolve.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise InvalidRequest(f"{url[:200]!r} is not a URL: {error}.", param="url") from error
    host = parsed.raw_host.decode("ascii").rstrip(".").lower()
    if parsed.scheme not in ("http", "https") or not host or not 0 < (parsed.port or 80) < 65536:
        raise InvalidRequest(f"{url[:200]!r} is not an http or https URL.", hint="Example: https://host/path.", param="url")
    if parsed.userinfo:
        raise InvalidRequest("The URL holds a user name or password.", hint="Give credentials apart from it.", param="url")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    return ResolvedTarget(parsed, host, port, check_host(host, port, allow, resolver=resolver))


def check_host(host: str, port: int, allow: Sequence[str] = (), *, resolver: Resolver = resolve) -> tuple[str, ...]:
    """Addresses of a host that may be reached, for protocols other than HTTP; raises as `check_url` does."""
    host = host.rstrip(".").lower()
    try:
        addresses = tuple(dict.fromkeys(address.partition("%")[0] for address in resolver(host, port)))
    except (OSError, UnicodeError) as error:
        raise UpstreamFailed(
            f"The host {host!r} cannot be resolved: {error}.", hint="Check the address and the network."
        ) from error
    names, networks = _parse_allow(allow)
    if not _names_host(names, host):
        for address in addresses:
            _check_address(address, host, networks)
    if not addresses:
        raise UpstreamFailed(f"The host {host!r} has no address.", hint="Check the address and the network.")
    return addresses


def fetch(
    url: str,
    target: Path,
    *,
    allow: Sequence[str] = (),
    max_bytes: int | None = None,
    expected_sha256: str | None = None,
    headers: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    attempts: int = 4,
    wait_s: float = 1.0,
    timeout_s: float = 60.0,
    tls: ssl.SSLContext | None = None,
    resolver: Resolver = resolve,
) -> Fetched:
    """Download into `target`, which appears complete or not at all.

    What has arrived lies in `<target>.part` until then: the next try, also of another process, goes on from there when the
    source still has the same content (`If-Range`), and starts anew when not.

    Args:
        max_bytes: refuse more than this.
        expected_sha256: hexadecimal digest that the content must have.
        headers: sent to the URL's own origin; credentials among them do not follow a redirect elsewhere.
        on_progress: called with bytes done and the total, where known.
        cancelled: asked between chunks.
        attempts: tries after a failure of the network or a 5xx; `wait_s` doubles between them.
        timeout_s: longest silence of the source.
        tls: the trust settings; by default the system's.

    Raises:
        InvalidRequest, PermissionDenied: see `check_url`, also for redirects; or the source refuses access.
        NotFound: the source answers 404 or 410. PayloadTooLarge. StorageFull. Cancelled.
        IntegrityFailed: another digest; the part is removed.
        UpstreamFailed, TimedOut: the source failed; what has arrived is kept.
    """
    part = _Part(target, url)
    failure: ModelworksError | None = None
    with _client(tls, timeout_s) as client:
        for attempt in range(max(attempts, 1)):
            if attempt:
                time.sleep(wait_s * 2 ** (attempt - 1))
            try:
                return _fetch_once(
                    client, part, allow, max_bytes, expected_sha256, headers or {}, on_progress, cancelled, resolver
                )
            except _Retry as retry:
                failure = retry.error
    raise failure or UpstreamFailed(f"{url} could not be fetched.")


def fetch_bytes(
    url: str,
    *,
    max_bytes: int,
    allow: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
    tls: ssl.SSLContext | None = None,
    resolver: Resolver = resolve,
) -> tuple[bytes, str | None]:
    """A small resource in memory, and its media type; raises as `fetch` does."""
    with _client(tls, timeout_s) as client:
        try:
            with _open(client, url, allow, headers or {}, resolver) as response:
                _check_status(response, url)
                _check_size(_length(response), max_bytes, url)
                content = bytearray()
                for chunk in _raw_chunks(response, url):
                    content += chunk
                    _check_size(len(content), max_bytes, url)
                return bytes(content), response.headers.get("content-type")
        except _Retry as retry:
            raise retry.error from retry.error.__cause__


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said to one request, whatever its status."""

    status: int
    content: bytes
    media_type: str
    #: By name in small letters.
    headers: Mapping[str, str] = field(default_factory=dict)


def ask(
    url: str,
    *,
    max_bytes: int,
    form: Mapping[str, str] | None = None,
    allow: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
    tls: ssl.SSLContext | None = None,
    resolver: Resolver = resolve,
) -> Answer:
    """One request that stays at its address: GET, or POST where there is a form. A redirect is an answer, it is not followed.

    Args:
        max_bytes: refuse a longer answer.
        form: fields to send (`application/x-www-form-urlencoded`).
        timeout_s: longest wait for the connection and for each part of the answer; the whole may take three times as long.

    Raises:
        InvalidRequest, PermissionDenied: see `check_url`. PayloadTooLarge.
        UpstreamFailed, TimedOut: the server cannot be reached, breaks off or trickles.
    """
    ends = time.monotonic() + 3 * timeout_s
    sent = {"User-Agent": "modelworks", "Accept": "application/json", **(headers or {}), "Accept-Encoding": "identity"}
    content = None if form is None else urlencode(form).encode()
    if content is not None:
        sent["Content-Type"] = "application/x-www-form-urlencoded"
    with _client(tls, timeout_s) as client:
        try:
            response = _connect(client, check_url(url, allow, resolver=resolver), sent, content)
            try:
                _check_size(_length(response), max_bytes, url)
                got = bytearray()
                for chunk in _raw_chunks(response, url):
                    got += chunk
                    _check_size(len(got), max_bytes, url)
                    if time.monotonic() > ends:
                        raise TimedOut(f"{url} sends its answer too slowly.", hint="Try again.")
            finally:
                response.close()
        except _Retry as retry:
            raise retry.error from retry.error.__cause__
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return Answer(
        response.status_code, bytes(got), media_type, {name.lower(): value for name, value in response.headers.items()}
    )


class _Retry(Exception):
    """The source or the network failed in a way that may pass."""

    def __init__(self, error: ModelworksError) -> None:
        super().__init__(str(error))
        self.error = error


class _Part:
    """What has arrived of a download, and by which mark the source tells whether it still is the same content."""

    def __init__(self, target: Path, url: str) -> None:
        self.target = target
        self.url = url
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")

    def resumable(self) -> tuple[int, str | None]:
        """Bytes there and the source's mark; (0, None) when it has to start anew."""
        try:
            note = json.loads(self._note.read_text("utf-8"))
            if note["url"] == self.url and note["mark"]:
                return self.path.stat().st_size, str(note["mark"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, None

    def begin(self, mark: str | None) -> None:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self._note.write_text(json.dumps({"url": self.url, "mark": mark}), "utf-8")

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self) -> None:
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)


def _fetch_once(
    client: httpx.Client,
    part: _Part,
    allow: Sequence[str],
    max_bytes: int | None,
    expected_sha256: str | None,
    headers: Mapping[str, str],
    on_progress: Callable[[int, int | None], None] | None,
    cancelled: Callable[[], bool] | None,
    resolver: Resolver,
) -> Fetched:
    done, mark = part.resumable()
    asked = dict(headers)
    if done and mark:
        asked |= {"Range": f"bytes={done}-", "If-Range": mark}
    digest = hashlib.sha256()
    with _open(client, part.url, allow, asked, resolver) as response:
        if response.status_code == 416 and done:
            part.drop()  # longer than the source now is: whatever it was, it is not a beginning of this
            raise _Retry(UpstreamFailed(f"{part.url} no longer has the part that was fetched before."))
        _check_status(response, part.url)
        if response.status_code == 206:
            if not done or not response.headers.get("content-range", "").startswith(f"bytes {done}-"):
                part.drop()
                raise _Retry(UpstreamFailed(f"{part.url} sent another part than was asked for."))
            _hash_file(part.path, digest)
        else:
            done = 0
            part.begin(_mark(response))
        length = _length(response)
        total = None if length is None else done + length
        _check_size(total, max_bytes, part.url)
        with _disk(), part.path.open("ab") as file:
            for chunk in _raw_chunks(response, part.url):
                if cancelled is not None and cancelled():
                    raise Cancelled(f"The download of {part.url} was cancelled.", hint="Starting it again goes on from here.")
                done += len(chunk)
                _check_size(done, max_bytes, part.url)
                file.write(chunk)
                digest.update(chunk)
                if on_progress is not None:
                    on_progress(done, total)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and done != total:
            raise _Retry(UpstreamFailed(f"{part.url} ended after {done} of {total} bytes."))
        if expected_sha256 is not None and digest.hexdigest() != expected_sha256.lower():
            part.drop()
            raise IntegrityFailed(
                f"{part.url} has the SHA-256 {digest.hexdigest()}, but {expected_sha256} was expected; it was removed.",
                hint="The file changed at its source, or on the way. Check the source before you fetch it again.",
            )
        part.finish()
        return Fetched(
            part.target, digest.hexdigest(), done, str(response.request.extensions["url"]), response.headers.get("content-type")
        )


@cache
def _trust() -> ssl.SSLContext:
    """The system's trust store: reading it takes longer than a request."""
    return ssl.create_default_context()


@contextmanager
def _client(tls: ssl.SSLContext | None, timeout_s: float) -> Iterator[httpx.Client]:
    # The system's trust store, so that an organisation's own authority counts; no proxy, no .netrc of the environment.
    context = tls or _trust()
    with httpx.Client(
        verify=context, timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0)), trust_env=False, follow_redirects=False
    ) as client:
        yield client


@contextmanager
def _open(
    client: httpx.Client, url: str, allow: Sequence[str], headers: Mapping[str, str], resolver: Resolver
) -> Iterator[httpx.Response]:
    sent = {"User-Agent": "modelworks", "Accept": "*/*", **headers, "Accept-Encoding": "identity"}
    for _ in range(MAX_REDIRECTS + 1):
        target = check_url(url, allow, resolver=resolver)
        client.cookies.clear()  # they would be filed under the address, which other names may share
        response = _connect(client, target, sent)
        try:
            if response.status_code not in _REDIRECTS or "location" not in response.headers:
                yield response
                return
            following = target.url.join(response.headers["location"])
        except (httpx.InvalidURL, ValueError) as error:
            raise UpstreamFailed(f"{url} redirects to an address that is not one: {error}.") from error
        finally:
            response.close()
        if target.url.scheme == "https" and following.scheme == "http":
            raise PermissionDenied(
                f"{url} redirects from https to http.", hint="Use the final address, if you trust it.", code="egress_denied"
            )
        if (following.scheme, following.netloc) != (target.url.scheme, target.url.netloc):
            sent = {name: value for name, value in sent.items() if name.lower() not in _CREDENTIALS}
        url = str(following)
    raise UpstreamFailed(f"More than {MAX_REDIRECTS} redirects, the last to {url}.", hint="Use the final address.")


def _connect(
    client: httpx.Client, target: ResolvedTarget, headers: Mapping[str, str], content: bytes | None = None
) -> httpx.Response:
    """The response of the first address that answers, to a GET or to a POST of `content`; its body is not read yet."""
    extensions: dict[str, Any] = {"url": str(target.url)}
    if not _is_address(target.host):
        extensions["sni_hostname"] = target.host  # the name that the certificate must bear
    failure: Exception | None = None
    for address in target.addresses:
        request = client.build_request(
            "GET" if content is None else "POST",
            target.url.copy_with(host=address, fragment=None),
            headers={**headers, "Host": target.url.netloc.decode("ascii")},
            extensions=extensions,
            content=content,
        )
        try:
            return client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = error
        except httpx.TimeoutException as error:
            raise _Retry(TimedOut(f"{target.url} did not answer in time.", hint="Try again, or check the network.")) from error
        except httpx.TransportError as error:
            raise _Retry(UpstreamFailed(f"{target.url} broke off: {error}.", hint="Try again.")) from error
    raise _Retry(
        UpstreamFailed(f"{target.url} cannot be reached: {failure}.", hint="Check the address and the network.")
    ) from failure


def _check_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status in (404, 410):
        raise NotFound(f"{url} does not exist (HTTP {status}).", hint="Check the address.")
    if status in (401, 403):
        raise PermissionDenied(f"{url} refuses access (HTTP {status}).", hint="Give the credentials that the source asks for.")
    error = UpstreamFailed(f"{url} answered HTTP {status}.", hint="Try again later, or check the address.")
    if status == 429 or status >= 500:
        raise _Retry(error)
    raise error


def _check_size(num_bytes: int | None, max_bytes: int | None, url: str) -> None:
    if num_bytes is not None and max_bytes is not None and num_bytes > max_bytes:
        raise PayloadTooLarge(
            f"{url} has more than the allowed {max_bytes} bytes.", hint="Raise the limit, if the file is wanted."
        )


def _raw_chunks(response: httpx.Response, url: str) -> Iterator[bytes]:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise UpstreamFailed(f"{url} sends its content compressed although it was asked not to.")
    try:
        # As they come: gathered into larger chunks, what a broken connection had delivered would be lost.
        yield from response.iter_raw()
    except httpx.TimeoutException as error:
        raise _Retry(TimedOut(f"{url} stopped sending.", hint="Try again.")) from error
    except httpx.TransportError as error:
        raise _Retry(UpstreamFailed(f"{url} broke off: {error}.", hint="Try again.")) from error


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"There is no space left for {error.filename or 'the download'}.", hint="Free some space and try again."
            ) from error
        raise


def _length(response: httpx.Response) -> int | None:
    value = response.headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() else None


def _mark(response: httpx.Response) -> str | None:
    """What `If-Range` may carry: a strong entity tag, or a date."""
    tag = response.headers.get("etag")
    if tag and not tag.startswith("W/"):
        return str(tag)
    return response.headers.get("last-modified") if not tag else None


def _hash_file(path: Path, digest: Any) -> None:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)


def _parse_allow(allow: Sequence[str]) -> tuple[list[str], list[ipaddress.IPv4Network | ipaddress.IPv6Network]]:
    names: list[str] = []
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for entry in allow:
        try:
            networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
        except ValueError:
            names.append(entry.lower().removeprefix("*"))
    return names, networks


def _names_host(names: Sequence[str], host: str) -> bool:
    return any(host == name or (name.startswith(".") and host.endswith(name)) for name in names)


def _check_address(text: str, host: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> None:
    address = _plain(ipaddress.ip_address(text))
    if any(address in network for network in networks):
        return
    special = any(address in network for network in _SPECIAL)
    if special or not address.is_global or address.is_multicast or address.is_reserved:
        shown = host if host == text else f"{host}, which leads to {text},"
        raise PermissionDenied(
            f"{shown} is not on the public network; the platform does not connect to it.",
            hint="If it is meant, have an administrator add it to MODELWORKS_EGRESS_ALLOW.",
            code="egress_denied",
        )


def _plain(address: Address) -> Address:
    """The IPv4 address inside those IPv6 forms that lead to one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return inner or address


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
