"""`https://…`: one file, or an archive that is unpacked, fetched through the guard against reaching private networks."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from modelworks.contract.errors import InvalidRequest, PermissionDenied
from modelworks.kernel.base import egress
from modelworks.kernel.catalog.checkpoint import detect_task, list_folder, read_json
from modelworks.kernel.catalog.schemas import SourceFile, SourceInfo
from modelworks.kernel.catalog.sources.archive import is_archive, stem_of, unpack
from modelworks.kernel.catalog.sources.source import (
    Progress,
    SourcePolicy,
    check_size,
    licence_of,
    read_card,
    select,
    stop_if,
    transfer,
)


class WebSource:
    """A file at a URL. `#sha256=<hex>` at its end names the checksum that it must have."""

    def __init__(self, uri: str, *, kind: str, revision: str | None, policy: SourcePolicy) -> None:
        parts = urlsplit(uri)
        checksum = re.fullmatch(r"sha256[=:]([0-9a-fA-F]{64})", parts.fragment)
        if not parts.hostname or (parts.fragment and checksum is None):
            raise InvalidRequest(
                f"{uri[:200]!r} is not the address of a file.",
                hint="Write https://host/file, with #sha256=… at its end if you know the checksum.",
                param="source",
                code="invalid_source",
            )
        self._url = parts._replace(fragment="").geturl()
        # A query often is a credential (a signed link): it is used, but not written into the catalog.
        self._uri = parts._replace(fragment="", query="").geturl()
        self._sha256 = checksum[1].lower() if checksum else None
        name = PurePosixPath(unquote(parts.path)).name
        self._name = name if name not in ("", ".", "..") and "\\" not in name and name.isprintable() else "download"
        self._kind = kind
        self._policy = policy

    def describe(self) -> SourceInfo:
        self._check_scheme()
        size: list[int | None] = []

        def first(_done: int, total: int | None) -> None:
            size.append(total)
            raise _SeenEnough

        with tempfile.TemporaryDirectory(prefix="modelworks-") as folder:
            try:
                probe = egress.fetch(
                    self._url, Path(folder, "probe"), allow=self._policy.egress_allow, on_progress=first, attempts=1
                )
                size.append(probe.num_bytes)
            except _SeenEnough:
                pass
        return self._info([SourceFile(path=self._name, num_bytes=size[0], sha256=self._sha256)])

    def fetch(self, target: Path, progress: Progress, cancelled: Callable[[], bool]) -> SourceInfo:
        self._check_scheme()
        if is_archive(self._name):
            return self._fetch_archive(target, progress, cancelled)
        info = self._info([SourceFile(path=self._name, sha256=self._sha256)])

        def get(file: SourceFile, parts: Path, report: Callable[[int], None]) -> Path:
            return self._download(parts / "download", lambda done, _total: report(done))

        transfer(info.files, target, get, progress, cancelled)
        place = target / "files" / self._name
        return self._info([SourceFile(path=self._name, num_bytes=place.stat().st_size, sha256=self._sha256)])

    def _fetch_archive(self, target: Path, progress: Progress, cancelled: Callable[[], bool]) -> SourceInfo:
        files = target / "files"
        archive = target / "parts" / self._name
        unpacked = target / "parts" / "unpacked"

        def report(done: int, total: int | None) -> None:
            stop_if(cancelled)
            progress(done, total)

        # A complete archive of an attempt before is not fetched again, half unpacked files are thrown away.
        if not archive.exists():
            self._download(archive, report)
        shutil.rmtree(unpacked, ignore_errors=True)
        shutil.rmtree(files, ignore_errors=True)
        unpack(
            archive,
            unpacked,
            max_bytes=self._policy.max_bytes,
            max_files=self._policy.max_files,
            stop=lambda: stop_if(cancelled),
        )
        found = {file.path: file for file in list_folder(unpacked)}
        info = self._info([SourceFile(path=path, num_bytes=file.num_bytes) for path, file in found.items()])
        for file in info.files:
            place = files / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            found[file.path].place.replace(place)
        shutil.rmtree(target / "parts")
        info.licence = licence_of(read_card(files))
        if self._kind == "model" and "config.json" in {file.path for file in info.files}:
            config = next(file for file in list_folder(files) if file.path == "config.json")
            info.task = detect_task(read_json(config))
        return info

    def _download(self, place: Path, report: Progress) -> Path:
        return egress.fetch(
            self._url,
            place,
            allow=self._policy.egress_allow,
            max_bytes=self._policy.max_bytes,
            expected_sha256=self._sha256,
            on_progress=report,
        ).path

    def _info(self, offered: list[SourceFile]) -> SourceInfo:
        files, skipped = select(offered, kind=self._kind, uri=self._uri)
        check_size(files, self._policy, self._uri)
        known = [file.num_bytes for file in files if file.num_bytes is not None]
        return SourceInfo(
            uri=self._uri,
            size_bytes=sum(known) if len(known) == len(files) else None,
            files=files,
            skipped=skipped,
            revision=None,
            name=stem_of(self._name),
        )

    def _check_scheme(self) -> None:
        """Unencrypted only to places of one's own: on the public network anybody on the way could change the file."""
        if not self._url.lower().startswith("http://") or self._sha256 is not None:
            return
        try:
            egress.check_url(self._url)
        except PermissionDenied:
            return  # a private address: whether it is allowed is checked when it is reached
        raise PermissionDenied(
            f"{self._uri} would be fetched unencrypted over the public network.",
            hint="Use https://, or name its checksum with #sha256=… at the end.",
            param="source",
            code="egress_denied",
        )


class _SeenEnough(Exception):
    """The answer has begun, and with it the size is known."""
