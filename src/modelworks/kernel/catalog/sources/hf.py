"""`hf://org/name[@revision][/path]` through Hugging Face's own client; `HF_ENDPOINT` and `HF_TOKEN` are honoured."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelworks.contract.errors import (
    IntegrityFailed,
    MissingExtra,
    ModelworksError,
    NotFound,
    PermissionDenied,
    UpstreamFailed,
)
from modelworks.kernel.catalog.schemas import SourceFile, SourceInfo
from modelworks.kernel.catalog.sources.hub import local_path, parse_location, within
from modelworks.kernel.catalog.sources.source import Progress, SourcePolicy, check_size, select, transfer


class HuggingFaceSource:
    """A repository, pinned to the commit that its revision means when it is first looked at."""

    def __init__(self, uri: str, *, kind: str, revision: str | None, policy: SourcePolicy) -> None:
        self._uri = uri
        self._kind = kind
        self._policy = policy
        self._location = parse_location(uri, kind=kind, revision=revision)

    def describe(self) -> SourceInfo:
        with _readable_failures(self._uri):
            return self._look()[0]

    def fetch(self, target: Path, progress: Progress, cancelled: Callable[[], bool]) -> SourceInfo:
        with _readable_failures(self._uri):
            hub = _client()
            info, siblings = self._look()

            def get(file: SourceFile, parts: Path, report: Callable[[int], None]) -> Path:
                place = hub.hf_hub_download(
                    self._location.repo,
                    siblings[file.path].rfilename,
                    repo_type=self._location.repo_type,
                    revision=info.revision,
                    local_dir=parts,
                    endpoint=_endpoint(),
                    tqdm_class=_reporting(report),
                )
                _check_git_hash(siblings[file.path], file.path, Path(place))
                return Path(place)

            transfer(info.files, target, get, progress, cancelled)
            return info

    def _look(self) -> tuple[SourceInfo, dict[str, Any]]:
        found = (
            _client()
            .HfApi(endpoint=_endpoint())
            .repo_info(
                self._location.repo,
                repo_type=self._location.repo_type,
                revision=self._location.revision,
                files_metadata=True,
            )
        )
        siblings: dict[str, Any] = {each.rfilename: each for each in found.siblings or []}
        offered = [
            SourceFile(path=path, num_bytes=each.size, sha256=each.lfs.sha256 if each.lfs else None)
            for path, each in sorted(siblings.items())
        ]
        named = {
            local_path(file.path, self._location): siblings[file.path] for file in within(offered, self._location, self._uri)
        }
        relative = [
            SourceFile(path=path, num_bytes=each.size, sha256=each.lfs.sha256 if each.lfs else None)
            for path, each in named.items()
        ]
        files, skipped = select(relative, kind=self._kind, uri=self._uri)
        check_size(files, self._policy, self._uri)
        info = SourceInfo(
            uri=self._uri,
            licence=_licence(found),
            size_bytes=sum(file.num_bytes or 0 for file in files),
            files=files,
            skipped=skipped,
            revision=found.sha,
            task=getattr(found, "pipeline_tag", None),
            name=self._location.repo,
        )
        return info, named


def _client() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise MissingExtra.of("huggingface_hub", "hub") from error
    return huggingface_hub


def _endpoint() -> str | None:
    # The library reads it at import, which may have been long ago in this process.
    return os.environ.get("HF_ENDPOINT") or None


def _reporting(report: Callable[[int], None]) -> type[Any]:
    """A progress bar that shows nothing, tells how far a file is, and stops it when the user has asked to."""
    from huggingface_hub.utils import tqdm

    class Reporting(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._num_bytes = int(options.get("initial") or 0)
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self._num_bytes += int(n or 0)
            report(self._num_bytes)
            return None

    return Reporting


def _licence(found: Any) -> str | None:
    card = found.card_data.to_dict() if getattr(found, "card_data", None) is not None else {}
    stated = card.get("license")
    if stated == "other":
        stated = card.get("license_name") or stated
    if isinstance(stated, list):
        stated = ", ".join(str(each) for each in stated)
    if stated:
        return str(stated)
    return next((str(tag).removeprefix("license:") for tag in found.tags or [] if str(tag).startswith("license:")), None)


def _check_git_hash(sibling: Any, path: str, place: Path) -> None:
    """Small files carry git's own hash instead of a sha256."""
    if sibling.lfs or not sibling.blob_id or len(sibling.blob_id) != 40:
        return
    data = place.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if found != sibling.blob_id:
        place.unlink()
        raise IntegrityFailed(
            f"The fetched file {path!r} is not what the hub announced: git hash {found} instead of {sibling.blob_id}.",
            hint="It changed on the way: pull again.",
        )


@contextmanager
def _readable_failures(uri: str) -> Iterator[None]:
    _client()
    from huggingface_hub import errors

    try:
        yield
    except ModelworksError:
        raise
    except errors.GatedRepoError as error:
        raise PermissionDenied(
            f"{uri} is gated: its licence must be accepted first.",
            hint="Accept it at the hub and give the server a token with HF_TOKEN.",
            param="source",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise _no_answer(uri, error) from error
        raise NotFound(
            f"{uri} does not exist at the hub, or is private.",
            hint="Check name and revision; for a private repository give the server a token with HF_TOKEN.",
            param="source",
        ) from error
    except errors.HFValidationError as error:
        raise NotFound(f"{uri} cannot be a repository: {error}.", param="source") from error
    except errors.HfHubHTTPError as error:
        raise _no_answer(uri, error) from error
    except Exception as error:
        # The hub's client lets its HTTP library's errors through, whichever that is in this release.
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub"):
            raise _no_answer(uri, error) from error
        raise


def _no_answer(uri: str, error: Exception) -> UpstreamFailed:
    return UpstreamFailed(
        f"The hub does not answer for {uri}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        hint="Try again; behind a mirror set HF_ENDPOINT. What was fetched is kept.",
    )
