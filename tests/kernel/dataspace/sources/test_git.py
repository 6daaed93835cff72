"""Repositories of the system's git, on the disk and behind a server."""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.dataspace.sources.surroundings import Site, contents, listed, opened, surroundings

from modelworks.contract.errors import InvalidRequest, ModelworksError, NotFound, PayloadTooLarge, PermissionDenied
from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace.sources.forms import SOURCE_FORM, SourceLimits

_AUTHOR = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com",
}


def git(folder: Path, *command: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", **_AUTHOR}
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *command], cwd=folder, env=environment, check=True, capture_output=True
    )
    return done.stdout.decode()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    place = tmp_path / "repository"
    (place / "docs").mkdir(parents=True)
    git(place, "init", "--quiet")
    (place / "README.md").write_text("# Read me")
    (place / "docs" / "步骤.md").write_text("Steps.")
    (place / "link.md").symlink_to("/etc/passwd")
    git(place, "add", ".")
    git(place, "commit", "--quiet", "-m", "one")
    git(place, "tag", "-a", "v1", "-m", "v1")
    return place


def test_files_of_the_default_branch(tmp_path: Path, repository: Path) -> None:
    around = surroundings(tmp_path)
    source = opened(around, kind="git", uri=repository.as_uri())
    assert contents(source) == {"README.md": b"# Read me", "docs/步骤.md": b"Steps."}
    assert any("link.md" in note for note in around.notes)
    assert around.cursor == {"commit": git(repository, "rev-parse", "HEAD").strip()}
    assert list(around.workdir.iterdir()) == []


def test_what_changes_with_a_commit(tmp_path: Path, repository: Path) -> None:
    around = surroundings(tmp_path)
    known = {key: item.fingerprint for key, item in listed(opened(around, kind="git", uri=repository.as_uri())).items()}
    again = surroundings(tmp_path, cursor=around.cursor, known=known)
    unchanged = listed(opened(again, kind="git", uri=repository.as_uri()))
    assert {key: item.fingerprint for key, item in unchanged.items()} == known
    assert all(item.read is None for item in unchanged.values()), "nothing is fetched where the commit is the known one"
    (repository / "README.md").write_text("# Anew")
    git(repository, "rm", "--quiet", "-r", "docs")
    git(repository, "commit", "--quiet", "-am", "two")
    after = contents(opened(surroundings(tmp_path, cursor=around.cursor, known=known), kind="git", uri=repository.as_uri()))
    assert after == {"README.md": b"# Anew"}
    tagged = contents(opened(surroundings(tmp_path), kind="git", uri=repository.as_uri(), revision="v1"))
    assert tagged["README.md"] == b"# Read me"


def test_a_repository_runs_nothing_here(tmp_path: Path, repository: Path) -> None:
    """Hooks, filters and configuration of the repository itself, which `git clone` of a path would meet."""
    mark = tmp_path / "ran"
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(0o755)
    (repository / ".gitattributes").write_text("*.md filter=evil\n")
    git(repository, "config", "filter.evil.smudge", f"touch {mark}")
    git(repository, "config", "core.fsmonitor", f"touch {mark}")
    git(repository, "config", "uploadpack.packObjectsHook", f"touch {mark}")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "evil")
    mark.unlink(missing_ok=True)
    assert "README.md" in contents(opened(surroundings(tmp_path), kind="git", uri=repository.as_uri()))
    assert not mark.exists()


@pytest.mark.parametrize(
    "uri", ["ext::sh -c touch% /tmp/x", "ssh://git@host/x", "git://host/x", "--upload-pack=touch /tmp/x", "/etc"]
)
def test_other_protocols_are_no_sources(uri: str) -> None:
    with pytest.raises(ValueError, match="address"):
        SOURCE_FORM.validate_python({"kind": "git", "uri": uri})
    with pytest.raises(ValueError, match="revision"):
        SOURCE_FORM.validate_python({"kind": "git", "uri": "https://host/x", "revision": "--upload-pack=x"})


def test_refusals(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(NotFound, match="no branch or tag"):
        listed(opened(surroundings(tmp_path), kind="git", uri=repository.as_uri(), revision="nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="no Git repository"):
        listed(opened(surroundings(tmp_path), kind="git", uri=(tmp_path / "empty").as_uri()))
    (repository / "big.bin").write_bytes(os.urandom(300_000))
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "big")
    with pytest.raises(PayloadTooLarge, match="larger than the allowed"):
        listed(opened(surroundings(tmp_path, limits=SourceLimits(max_bytes=100_000)), kind="git", uri=repository.as_uri()))
    around = surroundings(tmp_path, policy=SourcePolicy())
    with pytest.raises(PermissionDenied) as caught:
        listed(opened(around, kind="git", uri="http://127.0.0.1:9/x.git"))
    assert caught.value.error_code == "egress_denied"


@pytest.fixture
def served(tmp_path: Path, repository: Path) -> Iterator[str]:
    """The repository behind git's own smart protocol."""
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), "served.git")

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._serve(b"")

        def do_POST(self) -> None:
            self._serve(self.rfile.read(int(self.headers["content-length"])))

        def _serve(self, body: bytes) -> None:
            path, _, query = self.path.partition("?")
            if self.headers["authorization"] != "Basic eC1hY2Nlc3MtdG9rZW46dG9rZW4tMQ==":
                self.send_response(401)
                self.send_header("www-authenticate", "Basic")
                self.end_headers()
                return
            environment = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(tmp_path),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("content-type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            }
            done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/served.git"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_repository_behind_a_server_with_its_token(tmp_path: Path, served: str) -> None:
    around = surroundings(tmp_path, credential="token-1")
    found = contents(opened(around, kind="git", uri=served, secret="git"))
    assert found == {"README.md": b"# Read me", "docs/步骤.md": b"Steps."}
    with pytest.raises(PermissionDenied, match="refuses access"):
        listed(opened(surroundings(tmp_path), kind="git", uri=served))
    with pytest.raises(InvalidRequest, match="one line"):
        listed(opened(surroundings(tmp_path, credential="a\nb"), kind="git", uri=served, secret="git"))


def test_git_follows_no_redirects_to_other_places(tmp_path: Path, site: Site) -> None:
    asked = "info/refs?service=git-upload-pack"
    site.put(f"/x.git/{asked}", "", status=302, location=f"{site.url}/other.git/{asked}")
    with pytest.raises(ModelworksError):
        listed(opened(surroundings(tmp_path), kind="git", uri=f"{site.url}/x.git"))
    assert site.paths() == [f"/x.git/{asked}"]
