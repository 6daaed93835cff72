"""HTTP: signing in through an OpenID provider, with redirects as browsers follow them."""

from __future__ import annotations

from html import escape
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import HTMLResponse, RedirectResponse

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.kernel.access.oidc import CALLBACK_PATH, PATIENCE, START_PATH, OidcSignIn
from modelworks.kernel.access.schemas import SignInWays
from modelworks.kernel.access.session_routes import set_session_cookie

#: Sent back when the provider redirects here, a request from a foreign page: hence not strict.
COOKIE = "modelworks_sign_in"
_NO_STORE = {"cache-control": "no-store"}


def router(oidc: OidcSignIn | None, *, secure: bool) -> APIRouter:
    """Routes under `/api/session/oidc`.

    Args:
        oidc: the service; None where no provider is set.
        secure: whether clients reach this server by https.
    """
    routes = APIRouter(tags=["access"])

    def service() -> OidcSignIn:
        if oidc is None:
            raise NotFound(
                "No provider is set up to sign in with.", hint="Set MODELWORKS_OIDC_ISSUER, or sign in with a password."
            )
        return oidc

    @routes.get("/api/sign-in")
    async def ways() -> SignInWays:
        """How people may sign in here; asked by pages before anybody has."""
        return SignInWays(provider=None if oidc is None else oidc.provider.issuer, start=None if oidc is None else START_PATH)

    @routes.get(START_PATH, status_code=303, response_class=RedirectResponse)
    def begin(
        request: Request,
        next: Annotated[str | None, Query(max_length=2000, description="Page to go on with: a path on this server.")] = None,
        project_id: Annotated[str | None, Query(max_length=40)] = None,
    ) -> Response:
        """Send the browser to the provider to sign in."""
        begun = service().begin(next, project_id)
        answer = RedirectResponse(begun.url, 303, headers=_NO_STORE)
        answer.set_cookie(
            COOKIE,
            begun.cookie,
            max_age=int(PATIENCE.total_seconds()),
            httponly=True,
            samesite="lax",
            secure=secure or request.url.scheme == "https",
            path=service().cookie_path,
        )
        return answer

    @routes.get(CALLBACK_PATH, response_class=HTMLResponse)
    def finish(request: Request) -> Response:
        """Where the provider sends the browser back: opens the session and goes on with the page that was asked for."""
        pairs = request.query_params.multi_items()
        parameters = dict(pairs)
        if len(parameters) != len(pairs):
            raise InvalidRequest("A parameter is there twice.", hint="Sign in again.")
        address = request.client.host if request.client else ""
        found = service().finish(request.cookies.get(COOKIE), parameters, address)
        page = escape(found.next_page)
        # A page, not a redirect: the session's strict cookie goes along only with what a page of this server asks for.
        answer = HTMLResponse(
            f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={page}">'
            f'<title>Modelworks</title><a href="{page}">Go on</a>',
            headers=_NO_STORE,
        )
        answer.delete_cookie(COOKIE, path=service().cookie_path, httponly=True, samesite="lax")
        set_session_cookie(answer, request, found.secret, secure=secure)
        return answer

    @routes.get(f"{START_PATH}/sign-out", status_code=303, response_class=RedirectResponse)
    def sign_out() -> Response:
        """Send the browser to the provider's page to sign out there; DELETE /api/session ends the session here first."""
        return RedirectResponse(service().farewell(), 303, headers=_NO_STORE)

    return routes
