"""`ms://org/name[@revision][/path]` through ModelScope's own hub client; `MODELSCOPE_ENDPOINT` is honoured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelworks.contract.errors import MissingExtra, ModelworksError, NotFound, PermissionDenied, UpstreamFailed
from modelworks.kernel.catalog.schemas import SourceFile, SourceInfo
from modelworks.kernel.catalog.sources.hub import local_path, parse_location, within
from modelworks.kernel.catalog.sources.source import Progress, SourcePolicy, check_size, select, transfer


class ModelScopeSource:
    """A repository; the hub tells a sha256 for every file."""

    def __init__(self, uri: str, *, kind: str, revision: str | None, policy: SourcePolicy) -> None:
        self._uri = uri
        self._kind = kind
        self._policy = policy
        self._location = parse_location(uri, kind=kind, revision=revision)

    def describe(self) -> SourceInfo:
        with _readable_failures(self._uri):
            return self._look(_api(_client()))[0]

    def fetch(self, target: Path, progress: Progress, cancelled: Callable[[], bool]) -> SourceInfo:
        with _readable_failures(self._uri):
            hub = _client()
            api = _api(hub)
            info, remote = self._look(api)

            def get(file: SourceFile, parts: Path, report: Callable[[int], None]) -> Path:
                path = remote[file.path]
                stopped: list[ModelworksError] = []
                try:
                    download(api, file, path, parts, _reporting(hub, report, stopped))
                except hub.HubError as error:
                    raise (stopped[0] if stopped else error) from error
                return parts / path

            def download(api: Any, file: SourceFile, path: str, parts: Path, reporting: type[Any]) -> None:
                api.download_repo(
                    self._location.repo,
                    self._location.repo_type,
                    revision=info.revision,
                    local_dir=parts,
                    max_workers=1,
                    file_list=[{"Path": path, "Size": file.num_bytes, "Sha256": file.sha256, "Type": "blob"}],
                    progress_callbacks=[reporting],
                )

            transfer(info.files, target, get, progress, cancelled)
            return info

    def _look(self, api: Any) -> tuple[SourceInfo, dict[str, str]]:
        repo, repo_type = self._location.repo, self._location.repo_type
        revision = self._location.revision or "master"
        found = api.get_repo(repo, repo_type)
        listed = api.list_repo_files(repo, repo_type, revision=revision)
        offered = [
            SourceFile(path=each.path, num_bytes=each.size, sha256=each.sha256 or None) for each in listed if not each.is_dir
        ]
        remote: dict[str, str] = {}
        relative = []
        for file in within(sorted(offered, key=lambda file: file.path), self._location, self._uri):
            path = local_path(file.path, self._location)
            remote[path] = file.path
            relative.append(file.model_copy(update={"path": path}))
        files, skipped = select(relative, kind=self._kind, uri=self._uri)
        check_size(files, self._policy, self._uri)
        info = SourceInfo(
            uri=self._uri,
            licence=found.license or None,
            size_bytes=sum(file.num_bytes or 0 for file in files),
            files=files,
            skipped=skipped,
            revision=revision,
            task=next(iter(found.tasks or []), None),
            name=repo,
        )
        return info, remote


def _client() -> Any:
    try:
        import modelscope_hub
    except ModuleNotFoundError as error:
        raise MissingExtra.of("modelscope_hub", "hub") from error
    return modelscope_hub


def _api(hub: Any) -> Any:
    # A configuration of its own: the library's default one keeps what the environment said when it was first used.
    return hub.HubApi(hub.HubConfig())


def _reporting(hub: Any, report: Callable[[int], None], stopped: list[ModelworksError]) -> type[Any]:
    """Tells how far a file is. The library tries again after anything but an error of its own that says not to."""

    class Reporting(hub.ProgressCallback):  # type: ignore[misc]
        def __init__(self, filename: str, file_size: int) -> None:
            super().__init__(filename, file_size)
            self._num_bytes = 0

        def update(self, size: int) -> None:
            self._num_bytes += size
            try:
                report(self._num_bytes)
            except ModelworksError as error:
                stopped.append(error)
                raise hub.HubError(error.message) from error

    return Reporting


@contextmanager
def _readable_failures(uri: str) -> Iterator[None]:
    hub = _client()
    import requests

    try:
        yield
    except ModelworksError:
        raise
    except hub.FileDownloadError as error:
        # It collects what happened to each file; ours is one.
        raise _no_answer(uri, next(iter(error.failed_files.values()), error)) from error
    except (hub.NotExistError, hub.NotFoundError, hub.InvalidParameter, hub.ValidationError) as error:
        raise NotFound(
            f"{uri} does not exist at the hub, or is private.", hint="Check name and revision.", param="source"
        ) from error
    except (hub.AuthenticationError, hub.PermissionDeniedError) as error:
        raise PermissionDenied(
            f"{uri} may not be read: {error}.", hint="Give the server a token with MODELSCOPE_API_TOKEN.", param="source"
        ) from error
    except (hub.HubError, requests.RequestException) as error:
        raise _no_answer(uri, error) from error


def _no_answer(uri: str, error: BaseException) -> UpstreamFailed:
    return UpstreamFailed(
        f"The hub does not answer for {uri}: {type(error).__name__}: {error}",
        hint="Try again; behind a mirror set MODELSCOPE_ENDPOINT. What was fetched is kept.",
    )
