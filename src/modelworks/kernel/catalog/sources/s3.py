"""`s3://bucket/prefix`: objects under a prefix, or one object, with the credentials of the server's environment (AWS_…)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from modelworks.contract.errors import InvalidRequest, MissingExtra, NotFound, PermissionDenied, UpstreamFailed
from modelworks.kernel.catalog.schemas import SourceFile, SourceInfo
from modelworks.kernel.catalog.sources.source import (
    CHUNK_BYTES,
    Progress,
    SourcePolicy,
    check_size,
    copy_part,
    licence_of,
    select,
    transfer,
)

_CARD_BYTES = 1 << 20


class S3Source:
    """Objects of a bucket. `AWS_ENDPOINT_URL` names another S3 server."""

    def __init__(self, uri: str, *, kind: str, revision: str | None, policy: SourcePolicy) -> None:
        parts = urlsplit(uri)
        self._key = unquote(parts.path).strip("/")
        self._bucket = parts.netloc
        if not self._bucket or "@" in self._bucket:
            raise InvalidRequest(
                f"{uri!r} names no bucket.", hint="Write s3://bucket/prefix.", param="source", code="invalid_source"
            )
        whole = f"s3://{self._bucket}/{self._key}".rstrip("/") + "/"
        if any(whole.startswith(own + "/") or (own + "/").startswith(whole) for own in policy.forbidden_urls):
            raise PermissionDenied(
                f"{uri} holds the platform's own data and cannot be a source.", hint="Give another prefix.", param="source"
            )
        self._uri = uri
        self._kind = kind
        self._policy = policy

    def describe(self) -> SourceInfo:
        with readable_failures(self._uri):
            return self._look(self._open())[0]

    def fetch(self, target: Path, progress: Progress, cancelled: Callable[[], bool]) -> SourceInfo:
        with readable_failures(self._uri):
            system = self._open()
            info, objects = self._look(system)

            def get(file: SourceFile, parts: Path, report: Callable[[int], None]) -> Path:
                key, etag = objects[file.path]
                # The ETag in the name: a part of an object that was replaced meanwhile is not continued.
                part = parts / f"{PurePosixPath(file.path).name}.{etag}.part"
                offset = part.stat().st_size if part.exists() else 0
                if offset < (file.num_bytes or 0) or not part.exists():
                    with system.open(key, "rb", block_size=8 * CHUNK_BYTES, cache_type="readahead") as source:
                        source.seek(offset)
                        copy_part(source.read, part, offset=offset, report=report)
                return part

            transfer(info.files, target, get, progress, cancelled)
            return info

    def _open(self) -> Any:
        try:
            import s3fs
        except ModuleNotFoundError as error:
            raise MissingExtra.of("s3fs", "s3") from error
        return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)

    def _look(self, system: Any) -> tuple[SourceInfo, dict[str, tuple[str, str]]]:
        root = f"{self._bucket}/{self._key}".rstrip("/")
        found = {key: entry for key, entry in system.find(root, detail=True).items() if entry["type"] == "file"}
        if not found:
            raise NotFound(
                f"{self._uri} has no objects.", hint="Check the bucket, the prefix and the endpoint.", param="source"
            )
        objects: dict[str, tuple[str, str]] = {}
        offered = []
        for key, entry in sorted(found.items()):
            path = PurePosixPath(key).name if key == root else key.removeprefix(root + "/")
            objects[path] = (key, str(entry.get("ETag", "")).strip('"').replace("/", "_"))
            offered.append(SourceFile(path=path, num_bytes=int(entry["size"])))
        files, skipped = select(offered, kind=self._kind, uri=self._uri)
        check_size(files, self._policy, self._uri)
        card = None
        if "README.md" in objects:
            card = system.cat_file(objects["README.md"][0], start=0, end=_CARD_BYTES).decode("utf-8", errors="replace")
        info = SourceInfo(
            uri=self._uri,
            licence=licence_of(card),
            size_bytes=sum(file.num_bytes or 0 for file in files),
            files=files,
            skipped=skipped,
            name=PurePosixPath(self._key).name or self._bucket,
        )
        return info, objects


@contextmanager
def readable_failures(
    uri: str,
    *,
    param: str = "source",
    credentials: str = "Give the server credentials with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
) -> Iterator[None]:
    """Say what went wrong at an S3 server in our words; `credentials` is what to do where it may not be read."""
    try:
        failures = import_module("botocore.exceptions")
    except ModuleNotFoundError as error:
        raise MissingExtra.of("s3fs", "s3") from error
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{uri} does not exist.", hint="Check the bucket and the prefix.", param=param) from error
    except (PermissionError, failures.NoCredentialsError) as error:
        raise PermissionDenied(f"{uri} may not be read: {error}.", hint=credentials, param=param) from error
    except (failures.BotoCoreError, failures.ClientError) as error:
        raise UpstreamFailed(
            f"The S3 server does not answer for {uri}: {error}.", hint="Try again; check AWS_ENDPOINT_URL."
        ) from error
