"""`file:///folder` or `file:///file`: a place on the server's own machine, within the folders that the settings allow."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from modelworks.contract.errors import InvalidData, InvalidRequest, NotFound, PermissionDenied
from modelworks.kernel.catalog.checkpoint import FolderFile, detect_task, list_folder, read_json
from modelworks.kernel.catalog.schemas import SourceFile, SourceInfo
from modelworks.kernel.catalog.sources.source import (
    Progress,
    SourcePolicy,
    check_size,
    copy_part,
    licence_of,
    read_card,
    select,
    transfer,
)


class FolderSource:
    """A local folder or file, copied: what happens to it later does not change the version."""

    def __init__(self, uri: str, *, kind: str, revision: str | None, policy: SourcePolicy) -> None:
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise InvalidRequest(
                f"{uri!r} is not a local path.",
                hint="Write file:///absolute/path, with three slashes.",
                param="source",
                code="invalid_source",
            )
        self._uri = uri
        self._kind = kind
        self._policy = policy
        self._path = Path(os.path.realpath(unquote(parts.path)))
        if any(self._path.is_relative_to(root) or root.is_relative_to(self._path) for root in policy.forbidden_roots):
            raise PermissionDenied(
                f"{self._path} holds the platform's own data and cannot be a source.",
                hint="Give a folder outside the home folder.",
                param="source",
            )
        if policy.pull_roots and not any(self._path.is_relative_to(root) for root in policy.pull_roots):
            raise PermissionDenied(
                f"{self._path} lies outside the folders from which files may be pulled.",
                hint="An administrator can add its folder to MODELWORKS_PULL_ROOTS.",
                param="source",
            )

    def describe(self) -> SourceInfo:
        return self._look()[0]

    def fetch(self, target: Path, progress: Progress, cancelled: Callable[[], bool]) -> SourceInfo:
        info, places = self._look()

        def copy(file: SourceFile, parts: Path, report: Callable[[int], None]) -> Path:
            part = parts / "file.part"
            with places[file.path].place.open("rb") as source:
                copy_part(source.read, part, offset=0, report=report)
            return part

        transfer(info.files, target, copy, progress, cancelled)
        return info

    def _look(self) -> tuple[SourceInfo, dict[str, FolderFile]]:
        if not self._path.exists():
            raise NotFound(f"{self._path} does not exist on the server's machine.", hint="Check the path.", param="source")
        places = {file.path: file for file in list_folder(self._path)}
        offered = [SourceFile(path=file.path, num_bytes=file.num_bytes) for file in places.values()]
        files, skipped = select(offered, kind=self._kind, uri=self._uri)
        check_size(files, self._policy, self._uri)
        licence = task = None
        if self._path.is_dir():
            licence = licence_of(read_card(self._path))
            if "config.json" in places and self._kind == "model":
                try:
                    task = detect_task(read_json(places["config.json"]))
                except InvalidData:
                    task = None  # said with its reason when the files are checked
        info = SourceInfo(
            uri=self._uri,
            licence=licence,
            size_bytes=sum(file.num_bytes or 0 for file in files),
            files=files,
            skipped=skipped,
            task=task,
            name=self._path.stem if self._path.is_file() else self._path.name,
        )
        return info, places
