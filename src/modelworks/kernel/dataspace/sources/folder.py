"""`file:///folder`: documents on the server's own machine, within the folders that the settings allow."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from modelworks.contract.errors import InvalidRequest, NotFound, PermissionDenied
from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace.sources.forms import FolderForm
from modelworks.kernel.dataspace.sources.source import CHUNK_BYTES, Item, Surroundings, is_wanted


class FolderSource:
    """Files below a folder. Links are not followed: what they point to may be anybody's."""

    lists_all = True

    def __init__(self, form: FolderForm, surroundings: Surroundings) -> None:
        self._form = form
        self._around = surroundings
        self._root = local_path(form.uri, surroundings.policy)

    def scan(self) -> Iterator[Item]:
        if not self._root.is_dir():
            raise NotFound(
                f"The folder {self._root} does not exist on the server's machine.",
                hint="Check the path, and whether its disk is mounted.",
                param="uri",
            )
        # By descriptors of folders: one that is exchanged for a link meanwhile leads nowhere else.
        for parent, folders, names, descriptor in os.fwalk(self._root, onerror=self._unreadable, follow_symlinks=False):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            above = Path(parent).relative_to(self._root).as_posix()
            for name in sorted(names):
                path = name if above == "." else f"{above}/{name}"
                if is_wanted(path, self._form.include, self._form.exclude):
                    yield from self._item(path, name, descriptor)

    def _item(self, path: str, name: str, folder: int) -> Iterator[Item]:
        self._around.stop_if_cancelled()
        try:
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(info.st_mode):
            self._around.note(f"{path} is a link or no plain file, and was left out.")
            return
        yield Item(
            key=path,
            name=path,
            fingerprint=f"{info.st_size}-{info.st_mtime_ns}",
            num_bytes=info.st_size,
            read=partial(_read, name, path, folder),
        )

    def _unreadable(self, error: OSError) -> None:
        self._around.incomplete(f"The folder {error.filename} cannot be read: {error.strerror}.")


def local_path(uri: str, policy: SourcePolicy) -> Path:
    """The path that a `file://` address names, checked against the settings.

    Raises:
        InvalidRequest: it is none. PermissionDenied: it lies outside the allowed folders, or among the platform's own data.
    """
    parts = urlsplit(uri)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise InvalidRequest(f"{uri!r} is not a local path.", hint="Write file:///absolute/path.", param="uri")
    path = Path(os.path.realpath(unquote(parts.path)))
    if any(path.is_relative_to(root) or root.is_relative_to(path) for root in policy.forbidden_roots):
        raise PermissionDenied(
            f"{path} holds the platform's own data and cannot be a source.",
            hint="Give a folder outside the home folder.",
            param="uri",
        )
    if policy.pull_roots and not any(path.is_relative_to(root) for root in policy.pull_roots):
        raise PermissionDenied(
            f"{path} lies outside the folders from which files may be read.",
            hint="An administrator can add its folder to MODELWORKS_PULL_ROOTS.",
            param="uri",
        )
    return path


def _read(name: str, path: str, folder: int) -> Iterator[bytes]:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise PermissionDenied(
            f"The file {path} cannot be read: {error.strerror}.", hint="Let the server's user read it.", code="file_unreadable"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise PermissionDenied(f"The file {path} is no plain file.", code="file_unreadable")
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
