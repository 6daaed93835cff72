"""A Git repository: the files of one branch or tag, read from its objects with the system's `git`.

Nothing is ever checked out, so that no hook, filter, link or submodule of the repository does anything. Git itself is told
to speak https alone, to ask for no password, to read no configuration but this, and to connect to the address that was checked.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from modelworks.contract.errors import (
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    TimedOut,
    Unavailable,
    UpstreamFailed,
)
from modelworks.kernel.base import egress
from modelworks.kernel.dataspace.sources.folder import local_path
from modelworks.kernel.dataspace.sources.forms import GitForm
from modelworks.kernel.dataspace.sources.source import CHUNK_BYTES, Item, Surroundings, is_wanted

_FETCH_S, _LOOK_S = 1800.0, 0.05
#: Of an object that is a file; links (120000) and submodules (160000) are none.
_FILES = ("100644", "100755")


class GitSource:
    """Files of a revision, told apart by the digest of their object."""

    lists_all = True

    def __init__(self, form: GitForm, surroundings: Surroundings) -> None:
        self._form = form
        self._around = surroundings
        self._git = shutil.which("git")
        if self._git is None:
            raise Unavailable(
                "The program git is not installed on the machine that reads the repository.", hint="Install git there."
            )
        # Where a local path leads was looked at; git is given what was looked at.
        self._is_local = form.uri.lower().startswith("file:")
        self._url = f"file://{local_path(form.uri, surroundings.policy)}" if self._is_local else form.uri

    def scan(self) -> Iterator[Item]:
        settings = self._settings()
        name, commit = self._newest(settings)
        if commit == self._around.cursor.get("commit") and self._around.known:
            for path, fingerprint in self._around.known.items():
                yield Item(key=path, name=path, fingerprint=fingerprint)
            return
        with tempfile.TemporaryDirectory(dir=self._around.workdir, prefix="git-") as folder:
            repository = Path(folder, "repository.git")
            self._run(["init", "--quiet", "--bare", "--template=", str(repository)], settings, timeout_s=60)
            wanted = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", self._url, name]
            self._run(wanted, settings, repository=repository, timeout_s=_FETCH_S)
            fetched = ["rev-parse", "--verify", "FETCH_HEAD^{commit}"]
            # Perhaps a newer one than was seen a moment before.
            commit = self._run(fetched, settings, repository=repository, timeout_s=60).decode("ascii").strip()
            yield from self._files(repository, commit, settings)
        self._around.cursor = {"commit": commit}

    def _files(self, repository: Path, commit: str, settings: Sequence[str]) -> Iterator[Item]:
        listing = self._run(
            ["ls-tree", "-r", "-l", "-z", "--full-tree", commit], settings, repository=repository, timeout_s=600
        )
        for line in listing.split(b"\0")[:-1]:
            described, _, raw = line.partition(b"\t")
            mode, _, digest, size = described.decode("ascii").split()
            path = raw.decode("utf-8", errors="replace")
            if not is_wanted(path, self._form.include, self._form.exclude):
                continue
            if mode not in _FILES:
                self._around.note(f"{path} is a link or a submodule, and was left out.")
                continue
            self._around.stop_if_cancelled()
            yield Item(
                key=path,
                name=path,
                fingerprint=digest,
                num_bytes=int(size),
                read=partial(self._read, repository, digest, settings),
                attributes={"commit": commit},
            )

    def _newest(self, settings: Sequence[str]) -> tuple[str, str]:
        """The branch or tag by its full name, and the commit that it stands for at its source."""
        wanted = self._form.revision or "HEAD"
        names = ["HEAD"] if self._form.revision is None else [f"refs/heads/{wanted}", f"refs/tags/{wanted}"]
        asked = [*names, *(f"{name}^{{}}" for name in names)]
        found = self._run(["ls-remote", "--quiet", "--", self._url, *asked], settings, timeout_s=60).decode("utf-8", "replace")
        said: dict[str, str] = {}
        for line in found.splitlines():
            digest, _, name = line.partition("\t")
            said[name] = digest
        for name in names:
            if name in said:
                return name, said.get(f"{name}^{{}}", said[name])  # of a signed tag the commit behind it
        raise NotFound(
            f"{self._form.uri} has no branch or tag {wanted!r}.",
            hint="Check its name, and that the repository is not empty.",
            param="revision",
        )

    def _read(self, repository: Path, digest: str, settings: Sequence[str]) -> Iterator[bytes]:
        command = [str(self._git), *settings, "cat-file", "blob", digest]
        with subprocess.Popen(
            command,
            cwd=repository,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                assert process.stdout is not None  # noqa: S101
                while chunk := process.stdout.read(CHUNK_BYTES):
                    yield chunk
            finally:
                process.kill()
                code = process.wait()
            if code not in (0, -signal.SIGKILL):
                raise UpstreamFailed(f"The object {digest} of the repository cannot be read.", hint="Sync again.")

    def _settings(self) -> list[str]:
        """What git is told on its command line: nothing secret, since others on the machine can read that."""
        told = ["-c", "core.hooksPath=/dev/null", "-c", "credential.helper=", "-c", "http.followRedirects=false"]
        told += ["-c", "protocol.allow=never", "-c", f"protocol.{'file' if self._is_local else 'https'}.allow=always"]
        told += ["-c", "safe.directory=*", "-c", "gc.auto=0", "-c", "maintenance.auto=false"]
        if self._is_local:
            return told
        parts = urlsplit(self._form.uri)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        addresses = egress.check_host(host, port, self._around.policy.egress_allow)
        if parts.scheme == "http":
            self._check_http(host, port)
            told += ["-c", "protocol.http.allow=always"]
        # The checked address and no other, whatever the name leads to a moment later.
        return [*told, "-c", "http.proxy=", "-c", f"http.curloptResolve={host}:{port}:{','.join(addresses)}"]

    def _check_http(self, host: str, port: int) -> None:
        try:
            egress.check_host(host, port)
        except PermissionDenied:
            return  # private, and the settings allow it
        raise PermissionDenied(
            f"{self._form.uri} would be read unencrypted over the public network.", hint="Use https://.", param="uri"
        )

    def _environment(self) -> dict[str, str]:
        told = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._around.workdir),
            "LC_ALL": "C",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_NO_LAZY_FETCH": "1",
        }
        if self._around.credential is not None and not self._is_local:
            user = self._around.credential.strip()
            # A token alone is a password; any name goes with it.
            pair = user if ":" in user else f"x-access-token:{user}"
            if not pair.isascii() or not pair.isprintable():
                raise InvalidRequest("The secret is not one line of ASCII.", hint="Store it anew.", param="secret")
            parts = urlsplit(self._form.uri)
            told |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{parts.scheme}://{parts.netloc}/.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {base64.b64encode(pair.encode()).decode()}",
            }
        return told

    def _run(
        self, command: Sequence[str], settings: Sequence[str], *, timeout_s: float, repository: Path | None = None
    ) -> bytes:
        """What git prints; its folder is watched while it works, since git knows no limit of its own."""
        ends = time.monotonic() + timeout_s
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [str(self._git), *settings, *command],
                cwd=repository or self._around.workdir,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=said,
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    self._around.stop_if_cancelled()
                    self._check_size(repository)
                    if time.monotonic() > ends:
                        raise TimedOut(f"{self._form.uri} was not read within {timeout_s:.0f} s.", hint="Try again later.")
                    time.sleep(_LOOK_S)
                self._check_size(repository)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            out.seek(0)
            said.seek(0)
            if process.returncode != 0:
                raise self._failed(said.read(4000).decode("utf-8", errors="replace"))
            return out.read()

    def _check_size(self, repository: Path | None) -> None:
        limit = self._around.limits.max_bytes
        if repository is None or not repository.exists():
            return
        total = 0
        for parent, _, names in os.walk(repository / "objects"):
            for name in names:
                try:
                    total += Path(parent, name).stat().st_size
                except FileNotFoundError:
                    continue
        if total > limit:
            raise PayloadTooLarge(
                f"{self._form.uri} is larger than the allowed {limit} bytes.", hint="Raise limits.max_bytes, if it is wanted."
            )

    def _failed(self, said: str) -> Exception:
        last = next((line for line in reversed(said.strip().splitlines()) if line.strip()), "it said nothing")
        if any(
            word in said for word in ("Authentication failed", "could not read Username", "terminal prompts disabled", "403")
        ):
            return PermissionDenied(f"{self._form.uri} refuses access.", hint="Name a secret that it accepts.", param="secret")
        if "not found" in said or "does not appear to be a git repository" in said or "does not exist" in said:
            return NotFound(
                f"{self._form.uri} is no Git repository, or may not be seen.", hint="Check the address.", param="uri"
            )
        return UpstreamFailed(
            f"git could not read {self._form.uri}: {last[:300]}.", hint="Try again later, or check the address."
        )
