"""`/spaces`: a page to drop documents on, follow them until they answer, and ask them.

It holds nothing of anybody: its script asks the API with the key that a person enters, or as the person who has signed in.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from modelworks.contract.errors import NotFound
from modelworks.kernel.catalog import pages
from modelworks.kernel.gateway.routes import PlainRoute, in_path

#: What there is, by name.
FILES: Final = {
    "spaces.html": "text/html; charset=utf-8",
    "spaces.js": "text/javascript; charset=utf-8",
    "spaces.css": "text/css; charset=utf-8",
}
_TEXT: Final[dict[str, Any]] = {"schema": {"type": "string"}}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The file.", "content": {kind.split(";")[0]: _TEXT for kind in FILES.values()}}
}


@cache
def text_of(name: str) -> str:
    """A file of `pages/`."""
    return files(__package__).joinpath("pages", name).read_text("utf-8")


def _file(request: Request, name: str) -> Response:
    return pages.given(request, text_of(name).encode(), FILES[name])


def router() -> APIRouter:
    """The page and what it loads."""
    found = APIRouter(route_class=PlainRoute, tags=["spaces"])

    @found.get("/spaces", summary="The way to that page", status_code=307, response_class=RedirectResponse)
    async def documents_page_moved(request: Request) -> Response:
        # Relative, wherever a proxy has put this server: what the page loads lies beside it.
        return RedirectResponse(request.url.path.rsplit("/", 1)[-1] + "/", status_code=307)

    @found.get("/spaces/", summary="A page to put documents into data spaces and ask them", responses=_ANSWERS)
    async def documents_page(request: Request) -> Response:
        return _file(request, "spaces.html")

    @found.get("/spaces/{name}", summary="What that page loads", responses=_ANSWERS, openapi_extra=in_path("name"))
    async def documents_page_file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            raise NotFound(f"There is no {name[:80]!r} here.", hint="The page is /spaces/.")
        return _file(request, name)

    return found
