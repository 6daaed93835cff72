"""HTTP: secrets of the project. What is stored is never sent back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from modelworks.kernel.access.routes import PrincipalDependency, require
from modelworks.kernel.access.schemas import Principal, Secret, SecretPut
from modelworks.kernel.access.secrets import SecretService

Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


def router(secrets: SecretService, principal: PrincipalDependency) -> APIRouter:
    """Routes under `/api/secrets`."""
    routes = APIRouter(prefix="/api/secrets", tags=["access"])
    reader = require(principal, "read")
    admin = require(principal, "admin")

    @routes.get("")
    def list_secrets(caller: Principal = Depends(reader)) -> dict[str, Any]:
        """Names of the project's secrets."""
        with secrets.db.reading() as session:
            found = secrets.list_secrets(session, caller.project_id)
        return {"object": "list", "data": found, "has_more": False}

    @routes.put("/{name}")
    def put_secret(name: Name, body: SecretPut, caller: Principal = Depends(admin)) -> Secret:
        """Store a secret, or another value under its name."""
        with secrets.db.transaction() as session:
            return secrets.put(session, caller.project_id, name, body.value.get_secret_value())

    @routes.delete("/{name}")
    def remove_secret(name: Name, caller: Principal = Depends(admin)) -> Secret:
        """Forget a secret."""
        with secrets.db.transaction() as session:
            return secrets.remove(session, caller.project_id, name)

    return routes
