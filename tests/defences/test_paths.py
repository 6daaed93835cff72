"""No name that somebody gives leads to a file: every route that takes one is given paths, and nothing is shown or written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from tests.defences import tenants

from modelworks.kernel.base.settings import Settings
from modelworks.server import Platform, create_app, create_platform

#: As clients send them: in the path, what a server may take apart only after it has decided what the path is.
TRAVERSALS = (
    "..%2f..%2f..%2fcanary",
    "%2e%2e%2f%2e%2e%2fcanary",
    "..%252f..%252fcanary",
    "canary%00.txt",
)
#: The same in a JSON text or the name of an uploaded file.
NAMES = ("../../canary", "/etc/passwd", "..\\..\\canary\x00")
CANARY = "canary-5b1e"


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    home = tmp_path / "deep" / "home"
    monkeypatch.setenv("MODELWORKS_HOME", str(home))
    (tmp_path / "canary").write_text(CANARY)
    with closing(create_platform(Settings(home=home, log_level="error"))) as made:
        yield made


async def test_names_are_names(platform: Platform, tmp_path: Path) -> None:
    home = platform.settings.home
    admin = (home / "admin.key").read_text().strip()
    secrets = [CANARY, "root:x:0", (home / "secret.key").read_text().strip(), admin]
    before = {place for place in tmp_path.rglob("*") if not place.is_relative_to(home)}
    app = create_app(platform)
    asked = 0
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://platform", headers={"x-api-key": admin}
    ) as http:

        async def ask(method: str, path: str, **more: object) -> None:
            nonlocal asked
            asked += 1
            answer = await http.request(method, path, **more)  # type: ignore[arg-type]
            what = (method, path, more, answer.status_code, answer.text[:300])
            assert answer.status_code < 500 or answer.status_code in (501, 502, 503), what
            assert not any(secret in answer.text for secret in secrets), what

        document = app.openapi()
        for method, path, operation in tenants.operations(document):
            parameters = [each["name"] for each in operation.get("parameters", []) if each["in"] == "path"]
            for traversal in TRAVERSALS if parameters else ():
                named = path
                for parameter in parameters:
                    named = named.replace("{" + parameter + "}", traversal)
                await ask(method, named)
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            # Keys of this project are left alone, for the walk goes on with one.
            for name in NAMES if schema and "password" not in path else ():
                filled = path
                for parameter in parameters:
                    filled = filled.replace("{" + parameter + "}", "name")
                await ask(method, filled, json=tenants.filled(schema, document, name))
        for name in NAMES:
            stored = await http.post("/v1/files", files={"file": (name, b"text")}, data={"purpose": "user_data"})
            assert stored.status_code in (200, 201), stored.text
            assert stored.json()["filename"].startswith(("canary", "passwd")), "a name has no folder in it"
            sent = await http.get(f"/v1/files/{stored.json()['id']}/content")
            assert "/" not in sent.headers["content-disposition"].removeprefix("attachment; filename*=UTF-8")
    assert {place for place in tmp_path.rglob("*") if not place.is_relative_to(home)} == before
    assert (tmp_path / "canary").read_text() == CANARY
    assert asked > 300
