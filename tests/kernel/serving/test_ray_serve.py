"""What is declared to a Ray cluster, against a dashboard that only remembers; the cluster itself is in tests/cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.serving.backends.ray_serve import ERROR_MARK, RayServeBackend
from modelworks.kernel.serving.schemas import ReplicaSpec, ResourcesSpec

OTHERS = {"name": "theirs", "route_prefix": "/theirs", "import_path": "their.module:app"}


class Dashboard:
    """Keeps what is declared; every application has the status that the test says."""

    def __init__(self) -> None:
        self.declared: dict[str, Any] = {"theirs": OTHERS}
        self.status: dict[str, dict[str, Any]] = {}
        self.num_puts = 0
        self.started_with: dict[str, Any] = {}
        self.is_away = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.is_away:
            raise httpx.ConnectError("refused")
        if request.method == "PUT":
            self.num_puts += 1
            body = json.loads(request.content)
            self.declared = {each["name"]: each for each in body.pop("applications")}
            self.started_with |= body
            return httpx.Response(200)
        return httpx.Response(
            200,
            json={
                "applications": {
                    name: {"deployed_app_config": declared, "status": "DEPLOYING"} | self.status.get(name, {})
                    for name, declared in self.declared.items()
                }
            },
        )


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Dashboard:
    monkeypatch.setattr("modelworks.kernel.serving.backends.ray_serve._LOOK_EVERY_S", -1.0)
    return Dashboard()


@pytest.fixture
def backend(dashboard: Dashboard) -> RayServeBackend:
    made = RayServeBackend("http://head:8265", "http://head:8000", "s3://bucket/blobs", {"key": "k"})
    made._http = httpx.Client(base_url="http://head:8265", transport=httpx.MockTransport(dashboard))
    return made


def spec(tmp_path: Path, replica_id: str = "rep_1") -> ReplicaSpec:
    return ReplicaSpec(
        replica_id=replica_id,
        deployment_id="dep_1",
        project_id="prj",
        name="toy",
        kind="predictor",
        engine="plain",
        capability="c",
        task="t",
        import_path="m:C",
        options={},
        model=None,
        files=[],
        num_replicas=3,
        resources=ResourcesSpec(),
        token="secret",
        folder=tmp_path / replica_id,
        log_path=tmp_path / "log",
    )


def test_applications_of_others_are_left_as_they_are(dashboard: Dashboard, backend: RayServeBackend, tmp_path: Path) -> None:
    first, second = backend.start(spec(tmp_path, "rep_1")), backend.start(spec(tmp_path, "rep_2"))
    assert backend.poll(first).state == "starting"
    assert dashboard.declared.keys() == {"theirs", first, second}
    assert dashboard.declared["theirs"] == OTHERS
    assert dashboard.num_puts == 1
    backend.stop(first, 10)
    while backend.poll(first).state != "stopped":
        pass
    assert dashboard.declared.keys() == {"theirs", second}


def test_serve_is_started_with_one_proxy_where_requests_go(
    dashboard: Dashboard, backend: RayServeBackend, tmp_path: Path
) -> None:
    backend.poll(backend.start(spec(tmp_path, "rep_1")))
    assert dashboard.started_with == {}, "it runs already, with what others started it with"
    dashboard.declared = {}
    backend.poll(backend.start(spec(tmp_path, "rep_2")))
    assert dashboard.started_with == {"proxy_location": "HeadOnly", "http_options": {"host": "0.0.0.0", "port": 8000}}


def test_ready_application_stays_ready_while_it_is_repaired(
    dashboard: Dashboard, backend: RayServeBackend, tmp_path: Path
) -> None:
    handle = backend.start(spec(tmp_path))
    dashboard.status[handle] = {"status": "RUNNING"}
    backend.poll(handle)
    assert backend.poll(handle).url == f"http://head:8000/{handle}"
    for status in ("DEPLOYING", "UNHEALTHY"):
        dashboard.status[handle] = {"status": status}
        assert backend.poll(handle).state == "ready"
    dashboard.is_away = True
    assert backend.poll(handle).state == "ready"
    dashboard.is_away = False
    del dashboard.declared[handle]
    assert backend.poll(handle).state == "failed"


def test_replicas_own_error_is_found_in_what_serve_tells(
    dashboard: Dashboard, backend: RayServeBackend, tmp_path: Path
) -> None:
    handle = backend.start(spec(tmp_path))
    error = InvalidRequest("These files are not a model.", hint="Train one.")
    said = f"Traceback …\nRuntimeError: {ERROR_MARK}{json.dumps(error.to_wire())}"
    dashboard.status[handle] = {"status": "DEPLOY_FAILED", "message": "Failed.", "deployments": {"r": {"message": said}}}
    status = backend.poll(handle)
    assert (status.state, status.error, status.permanent) == ("failed", "These files are not a model. Train one.", True)
    assert handle not in dashboard.declared, "a failed application is taken off the cluster"


def test_next_server_takes_over_without_declaring_again(dashboard: Dashboard, backend: RayServeBackend, tmp_path: Path) -> None:
    handle = backend.start(spec(tmp_path))
    backend.poll(handle)
    dashboard.status[handle] = {"status": "RUNNING"}
    following = RayServeBackend("http://head:8265", "http://head:8000", "", {})
    following._http = httpx.Client(base_url="http://head:8265", transport=httpx.MockTransport(dashboard))
    following.adopt(spec(tmp_path), handle)
    puts = dashboard.num_puts
    assert following.poll(handle).state == "ready"
    assert dashboard.num_puts == puts
