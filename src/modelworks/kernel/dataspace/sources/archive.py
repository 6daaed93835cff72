"""A .zip or .tar that was uploaded: its members are the documents."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from functools import partial

from modelworks.kernel.catalog.checkpoint import list_folder
from modelworks.kernel.catalog.sources.archive import unpack
from modelworks.kernel.dataspace.sources.forms import ArchiveForm
from modelworks.kernel.dataspace.sources.source import Item, Surroundings, file_chunks, is_wanted


class ArchiveSource:
    """Members of an archive, unpacked as those of a stranger: no links, no paths that lead out, no bombs."""

    lists_all = True

    def __init__(self, form: ArchiveForm, surroundings: Surroundings) -> None:
        self._form = form
        self._around = surroundings

    def scan(self) -> Iterator[Item]:
        archive = self._around.upload(self._form.digest, "archive")
        target = self._around.workdir / "unpacked"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        limits = self._around.limits
        unpack(
            archive,
            target,
            max_bytes=limits.max_bytes,
            max_files=limits.max_documents,
            stop=self._around.stop_if_cancelled,
        )
        for file in list_folder(target):
            if is_wanted(file.path, self._form.include, self._form.exclude):
                with file.place.open("rb") as opened:
                    fingerprint = hashlib.file_digest(opened, "sha256").hexdigest()
                yield Item(
                    key=file.path,
                    name=file.path,
                    fingerprint=fingerprint,
                    num_bytes=file.num_bytes,
                    read=partial(file_chunks, file.place),
                )
