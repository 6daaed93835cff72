"""`s3://bucket/prefix`: objects under a prefix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from modelworks.contract.errors import InvalidRequest, MissingExtra, PermissionDenied
from modelworks.kernel.catalog.sources.s3 import readable_failures
from modelworks.kernel.dataspace.sources.forms import BucketForm
from modelworks.kernel.dataspace.sources.source import CHUNK_BYTES, Item, Surroundings, is_wanted


class BucketSource:
    """Objects of a bucket, told apart by their ETag. `AWS_ENDPOINT_URL` of the server names another S3 server."""

    lists_all = True

    def __init__(self, form: BucketForm, surroundings: Surroundings) -> None:
        parts = urlsplit(form.uri)
        self._bucket, self._prefix = parts.netloc, unquote(parts.path).lstrip("/")
        whole = f"s3://{self._bucket}/{self._prefix}".rstrip("/") + "/"
        if any(whole.startswith(own + "/") or (own + "/").startswith(whole) for own in surroundings.policy.forbidden_urls):
            raise PermissionDenied(
                f"{form.uri} holds the platform's own data and cannot be a source.", hint="Give another prefix.", param="uri"
            )
        self._form = form
        self._around = surroundings

    def scan(self) -> Iterator[Item]:
        with _readable_failures(self._form.uri):
            system = self._open()
            token: str | None = None
            while True:
                page = system.call_s3(
                    "list_objects_v2",
                    Bucket=self._bucket,
                    Prefix=self._prefix,
                    **({} if token is None else {"ContinuationToken": token}),
                )
                for entry in page.get("Contents", ()):
                    yield from self._item(system, entry)
                token = page.get("NextContinuationToken")
                if token is None:
                    return

    def _item(self, system: Any, entry: dict[str, Any]) -> Iterator[Item]:
        self._around.stop_if_cancelled()
        key = str(entry["Key"])
        path = key.removeprefix(self._prefix).lstrip("/") or key.rpartition("/")[2]
        if key.endswith("/") or not is_wanted(path, self._form.include, self._form.exclude):
            return
        yield Item(
            key=key,
            name=path,
            fingerprint=str(entry.get("ETag", "")).strip('"'),
            num_bytes=int(entry["Size"]),
            read=partial(_read, system, f"{self._bucket}/{key}", self._form.uri),
        )

    def _open(self) -> Any:
        try:
            import s3fs
        except ModuleNotFoundError as error:
            raise MissingExtra.of("s3fs", "s3") from error
        known: dict[str, str] = {}
        if self._around.credential is not None:
            name, colon, secret = self._around.credential.strip().partition(":")
            if not colon:
                raise InvalidRequest(
                    f"The secret {self._form.secret!r} is not of the form ACCESS_KEY_ID:SECRET_ACCESS_KEY.",
                    hint="Store it anew: modelworks secrets set.",
                    param="secret",
                )
            known = {"key": name, "secret": secret}
        return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False, **known)


def _read(system: Any, path: str, uri: str) -> Iterator[bytes]:
    with _readable_failures(uri), system.open(path, "rb", block_size=8 * CHUNK_BYTES, cache_type="readahead") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _readable_failures(uri: str) -> AbstractContextManager[None]:
    return readable_failures(uri, param="uri", credentials="Store a secret with keys that may list and read it.")
