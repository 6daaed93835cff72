"""`/api/deployments`, the logs of replicas, and the files that static deployments publish."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from sqlalchemy.orm import Session

from modelworks.contract.errors import PermissionDenied
from modelworks.contract.media import File
from modelworks.kernel.access.routes import PrincipalDependency
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.database import Database
from modelworks.kernel.catalog import finding
from modelworks.kernel.serving.schemas import (
    Adapter,
    AdapterCreate,
    AdapterList,
    CanaryCreate,
    Deployment,
    DeploymentList,
    DeploymentSpec,
    StaticFile,
    StaticFileList,
)
from modelworks.kernel.serving.service import ServingService
from modelworks.kernel.storage import BlobStore
from modelworks.kernel.storage.routes import parse_range

#: Types that a browser shows without running anything; everything else is offered for download.
_SAFE_TYPES = {
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".obj": "model/obj",
    ".stl": "model/stl",
    ".ply": "application/octet-stream",
    ".splat": "application/octet-stream",
    ".spz": "application/octet-stream",
    ".json": "application/json",
    ".geojson": "application/geo+json",
    ".csv": "text/csv; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".ogg": "audio/ogg",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".pdf": "application/pdf",
}
#: Published files come from whoever may register a version: no page of theirs runs with our origin's rights.
_STATIC_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-site",
    "Accept-Ranges": "bytes",
}
_LOG_BYTES = 256 << 10


def router(service: ServingService, db: Database, blobs: BlobStore, principal: PrincipalDependency) -> APIRouter:
    """The room's routes.

    Args:
        principal: the dependency that authenticates a request.
    """
    routes = APIRouter(tags=["deployments"])
    caller_of = Depends(principal)

    @routes.post("/api/deployments", response_model=Deployment)
    def apply_deployment(spec: DeploymentSpec, caller: Principal = caller_of, dry_run: bool = False) -> Deployment:
        """Deploy a model under a name, or change a deployment. The same wish again changes nothing."""
        caller.require("write")
        if spec.api_key_env is not None and not caller.is_operator:
            # Whoever names the variable also names the server that its key is sent to.
            raise PermissionDenied(
                "Only administrators of the platform may use keys of this server's environment.",
                hint="Store the key as a secret of the project: modelworks secrets set, then api_key_secret.",
                param="api_key_env",
            )
        with db.transaction() as session:
            _require_shown(session, caller, spec.model)
            return service.apply(session, caller.project_id, spec, dry_run)

    @routes.get("/api/deployments", response_model=DeploymentList)
    def list_deployments(
        caller: Principal = caller_of,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> DeploymentList:
        """Deployments with their replicas, oldest first."""
        caller.require("read")
        with db.reading() as session:
            found, more = service.list(session, caller.project_id, after, limit)
        ids = [deployment.id for deployment in found]
        return DeploymentList(
            data=list(found), has_more=more, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None
        )

    @routes.post("/api/deployments/{name:path}/stop", response_model=Deployment)
    def stop_deployment(name: str, caller: Principal = caller_of) -> Deployment:
        """End the replicas but keep the deployment; deploying it again starts them."""
        caller.require("write")
        with db.transaction() as session:
            return service.stop(session, caller.project_id, name)

    @routes.post("/api/deployments/{name:path}/canary", response_model=Deployment)
    def start_canary(name: str, wish: CanaryCreate, caller: Principal = caller_of) -> Deployment:
        """Let a candidate answer a share of a deployment's requests.

        Which one a request goes to follows from its `user`, else from the `x-request-id` that it brings. The
        answer's `system_fingerprint` and the usage say which version answered.
        """
        caller.require("write")
        with db.transaction() as session:
            _require_shown(session, caller, wish.model)
            return service.start_canary(session, caller.project_id, name, wish)

    @routes.delete("/api/deployments/{name:path}/canary", response_model=Deployment)
    def end_canary(name: str, caller: Principal = caller_of) -> Deployment:
        """End a canary: its requests in flight are finished, new ones go to the deployment itself."""
        caller.require("write")
        with db.transaction() as session:
            return service.end_canary(session, caller.project_id, name)

    @routes.get("/api/deployments/{name:path}", response_model=Deployment)
    def get_deployment(name: str, caller: Principal = caller_of) -> Deployment:
        """One deployment, by name or id."""
        caller.require("read")
        with db.reading() as session:
            return service.get(session, caller.project_id, name)

    @routes.delete("/api/deployments/{name:path}", response_model=Deployment)
    def remove_deployment(name: str, caller: Principal = caller_of) -> Deployment:
        """Remove a deployment: requests in flight are finished, new ones are refused."""
        caller.require("write")
        with db.transaction() as session:
            return service.remove(session, caller.project_id, name)

    @routes.post("/api/adapters", response_model=Adapter)
    def add_adapter(wish: AdapterCreate, caller: Principal = caller_of, dry_run: bool = False) -> Adapter:
        """Let a deployment answer with an adapter of its base too, under a name of its own. Nothing is interrupted."""
        caller.require("write")
        with db.transaction() as session:
            return service.adapters.add(session, caller.project_id, wish, dry_run=dry_run)

    @routes.get("/api/adapters", response_model=AdapterList)
    def list_adapters(caller: Principal = caller_of, deployment: str | None = None) -> AdapterList:
        """The adapters of the project, or of one deployment, with their state."""
        caller.require("read")
        with db.reading() as session:
            return AdapterList(data=list(service.adapters.list(session, caller.project_id, deployment)))

    @routes.delete("/api/adapters/{name:path}", response_model=Adapter)
    def remove_adapter(name: str, caller: Principal = caller_of) -> Adapter:
        """Unload an adapter, by name or id: requests under way are finished, new ones are refused."""
        caller.require("write")
        with db.transaction() as session:
            return service.adapters.remove(session, caller.project_id, name)

    @routes.get("/api/replicas/{replica_id}/logs", response_class=PlainTextResponse)
    def replica_logs(replica_id: str, caller: Principal = caller_of) -> Response:
        """The end of a replica's log."""
        caller.require("read")
        with db.reading() as session:
            path = service.log_path(session, caller.project_id, replica_id)
        if not path.exists():
            return PlainTextResponse("")
        with path.open("rb") as log_file:
            log_file.seek(max(0, path.stat().st_size - _LOG_BYTES))
            return PlainTextResponse(log_file.read().decode("utf-8", "replace"))

    @routes.get("/api/static/{path:path}", response_model=StaticFileList)
    def static_file(path: str, request: Request, caller: Principal = caller_of) -> Any:
        """A published file (`{deployment}/{file}`, with ranges), or the list of a deployment's files (`{deployment}`)."""
        caller.require("inference" if caller.has("inference") else "read")
        with db.reading() as session:
            deployment, files, wanted = service.static_files(session, caller.project_id, path)
        if isinstance(wanted, File):
            return _file_response(blobs, wanted, request.headers.get("range"))
        return StaticFileList(data=[_static_file(deployment.name, file) for file in files])

    return routes


def _static_file(deployment: str, file: File) -> StaticFile:
    url = f"/api/static/{quote(deployment)}/{quote(file.path)}"
    return StaticFile(path=file.path, num_bytes=file.num_bytes, digest=file.digest, url=url)


def _file_response(blobs: BlobStore, file: File, range_header: str | None) -> Response:
    span = (0, file.num_bytes) if range_header is None else parse_range(range_header, file.num_bytes)
    if span is None:
        return Response(status_code=416, headers={**_STATIC_HEADERS, "Content-Range": f"bytes */{file.num_bytes}"})
    start, stop = span
    suffix = "." + file.path.rpartition(".")[2].lower()
    headers = {**_STATIC_HEADERS, "ETag": f'"{file.digest}"', "Content-Length": str(stop - start)}
    media_type = _SAFE_TYPES.get(suffix)
    if media_type is None:
        media_type = "application/octet-stream"
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(file.path.rpartition('/')[2])}"
    if range_header is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.num_bytes}"
    content = blobs.iter(file.digest, start=start, stop=stop)
    return StreamingResponse(content, status_code=200 if range_header is None else 206, media_type=media_type, headers=headers)


def _require_shown(session: Session, caller: Principal, model: str | None) -> None:
    """Raise PermissionDenied where a model is the inside of a data space, which knows nothing of who may read what."""
    if model is not None and not caller.has("admin"):
        finding.refuse_inner(session, caller.project_id, {"model": model})
