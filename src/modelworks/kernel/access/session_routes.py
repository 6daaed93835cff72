"""HTTP: signing in with a browser."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from modelworks.contract.errors import AuthenticationFailed
from modelworks.kernel.access.routes import PrincipalDependency
from modelworks.kernel.access.schemas import PasswordPut, Principal, SessionCreate, SessionInfo, SessionMove
from modelworks.kernel.access.sessions import COOKIE, LIFETIME, SessionService, cookie_secret


def set_session_cookie(response: Response, request: Request, secret: str, *, secure: bool) -> None:
    """Hand a session's secret to the browser, out of the reach of scripts and of foreign pages."""
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(LIFETIME.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=secure or request.url.scheme == "https",
        path="/",
    )
    response.headers["cache-control"] = "no-store"


def router(sessions: SessionService, principal: PrincipalDependency, *, secure: bool) -> APIRouter:
    """Routes under `/api/session`.

    Args:
        sessions: the service.
        principal: the dependency that names the caller.
        secure: whether clients reach this server by https, so that the cookie never travels in the clear.
    """
    routes = APIRouter(prefix="/api", tags=["access"])

    def secret_of(request: Request) -> str:
        secret = cookie_secret(request.scope)
        if secret is None:
            raise AuthenticationFailed("You are not signed in.", hint="Sign in: POST /api/session.", code="not_signed_in")
        return secret

    @routes.post("/session", status_code=201)
    def sign_in(body: SessionCreate, request: Request, response: Response) -> SessionInfo:
        """Sign in with address and password; the session lies in a cookie, its token for changes is in this answer."""
        address = request.client.host if request.client else ""
        secret, made = sessions.sign_in(body.email, body.password.get_secret_value(), address, body.project_id)
        set_session_cookie(response, request, secret, secure=secure)
        return made

    @routes.get("/session")
    def session(request: Request, response: Response, _caller: Principal = Depends(principal)) -> SessionInfo:
        """Who is signed in, and the token that changes need (`x-csrf-token`)."""
        response.headers["cache-control"] = "no-store"
        with sessions.db.reading() as found:
            return sessions.describe(found, secret_of(request))

    @routes.put("/session")
    def move(body: SessionMove, request: Request, response: Response, _caller: Principal = Depends(principal)) -> SessionInfo:
        """Go on in another project, with a new secret."""
        with sessions.db.transaction() as found:
            secret, moved = sessions.move(found, secret_of(request), body.project_id)
        set_session_cookie(response, request, secret, secure=secure)
        return moved

    @routes.delete("/session", status_code=204)
    def sign_out(
        request: Request, response: Response, everywhere: bool = False, caller: Principal = Depends(principal)
    ) -> None:
        """End this session, or every session of this person."""
        secret = secret_of(request)
        with sessions.db.transaction() as found:
            if everywhere and caller.user_id is not None:
                sessions.sign_out_everywhere(found, caller.user_id)
            sessions.sign_out(found, secret)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")

    @routes.put("/users/{user_id}/password", status_code=204)
    def set_password(user_id: str, body: PasswordPut, caller: Principal = Depends(principal)) -> None:
        """Set a password: one's own with the `current` one, anybody's as administrator of the platform."""
        current = None if body.current is None else body.current.get_secret_value()
        with sessions.db.transaction() as found:
            sessions.set_password(found, caller, user_id, body.password.get_secret_value(), current)

    return routes
